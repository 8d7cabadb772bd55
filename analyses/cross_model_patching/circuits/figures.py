"""Figures of a circuit run. Each draws numbers the result already holds and returns axes."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from analyses.cross_model_patching.circuits.ablation import SIDES
from analyses.judged import Drawing, figure_of
from workbench import plotting

if TYPE_CHECKING:
    from analyses.cross_model_patching.circuits.result import CircuitResult

_MOST_BARS = 40


def faithful_bars(result: "CircuitResult", *, ax: Axes | None = None) -> Axes:
    """Draw how faithful each circuit is in each model, beside random ones."""
    found, random = {}, {}
    for at, name in enumerate(result.circuit_names):
        for side, model in enumerate(SIDES):
            label = f"{name} circuit in the {model}"
            found[label] = result.faithfulness(result.alive[at, side], side)
            random[label] = result.chance(at, side).value
    return plotting.bars(
        {name: interval.value for name, interval in found.items()},
        intervals={name: (interval.low, interval.high) for name, interval in found.items()},
        controls=random,
        control_label="random circuits of the same blocks",
        value_label="faithfulness on held-out items",
        ax=ax,
    )


def cross_table(result: "CircuitResult", *, ax: Axes | None = None) -> Axes:
    """Draw the margin toward the label of each model, whole, with each circuit alone, and with nothing."""
    rows = ["whole model", *(f"{name} circuit" for name in result.circuit_names), "nothing"]
    margins = [result.margins, *result.alive, result.empty]
    way = result.way()
    values = np.array([[result.mean(margin[side] * way).value for side in range(2)] for margin in margins])
    ax = plotting.heatmap(
        values, rows=rows, columns=[f"in the {side}" for side in SIDES],
        value_label=f"{result.unit} toward the label", ax=ax,
    )  # fmt: skip
    with plotting.style():
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.5}
                ax.text(column, row, f"{value:.3g}", ha="center", va="center", color="black", bbox=box)
    return ax


def completeness(result: "CircuitResult", *, ax: Axes | None = None) -> Axes:
    """Draw faithfulness of the model against that of the circuit, both without the same part."""
    points = [
        (name, result.faithfulness(circuit, result.side).value, result.faithfulness(whole, result.side).value)
        for name, circuit, whole in zip(result.subset_names, result.circuit_without, result.whole_without, strict=True)
    ]
    ax = ax or plotting.new_axes(width=5.0, height=4.4)
    with plotting.style():
        for kind, colour in (("random", plotting.PALETTE[0]), ("whole", plotting.PALETTE[5])):
            chosen = [p for p in points if p[0].startswith("random") == (kind == "random")]
            label = "random parts" if kind == "random" else "all of one component"
            ax.plot([p[1] for p in chosen], [p[2] for p in chosen], linestyle="none", marker="o", color=colour,
                    label=label)  # fmt: skip
            for name, x, y in chosen if kind == "whole" else ():
                ax.annotate(name, (x, y), textcoords="offset points", xytext=(6, -3))
        known = [value for point in points for value in point[1:] if np.isfinite(value)] or [0.0, 1.0]
        ends = [min(known), max(known)]
        ax.plot(ends, ends, color=plotting.INK, linewidth=0.8, linestyle="--")
        ax.set_xlabel("circuit without the part, faithfulness")
        ax.set_ylabel("model without the part")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return ax


def members(result: "CircuitResult", *, ax: Axes | None = None) -> Axes:
    """Draw what each member of the main circuit is worth in its company."""
    worth, _ = result.minimality()
    names = [str(cell) for cell in result.circuit()]
    order = np.argsort(-worth.value, kind="stable")[:_MOST_BARS]
    return plotting.bars(
        {names[i]: float(worth.value[i]) for i in order},
        intervals={names[i]: (float(worth.low[i]), float(worth.high[i])) for i in order},
        value_label="faithfulness lost when it is left out of the circuit",
        ax=ax,
    )


def _sample(result: "CircuitResult") -> str:
    held = ~result.training
    groups = len({cluster for cluster, out in zip(result.clusters, held, strict=True) if out})
    return f"n = {int(held.sum())} held-out items in {groups} independent groups."


def _any(result: "CircuitResult") -> bool:
    return bool(result.members.any()) and not bool(np.isnan(result.alive).all())


def _main(result: "CircuitResult") -> bool:
    return bool(result.members[result.main].any()) and result.minimality()[0].n > 0


PANELS = (
    Drawing(
        "How much of the verdict does each circuit keep?",
        lambda r: (
            "Share of the margin that is kept with everything outside the circuit ablated at the last positions, with "
            f"95% intervals over items; orange: random circuits of as many cells of the same blocks. {_sample(r)}"
        ),
        figure_of(faithful_bars),
        _any,
    ),
    Drawing(
        "Each circuit in each model",
        lambda r: (
            "Mean margin toward the label (toward the judge's verdict without labels). The base's circuit enhanced "
            f"reads higher in the judge's column than in the base's. {_sample(r)}"
        ),
        figure_of(cross_table),
        _any,
    ),
    Drawing(
        "Is the circuit complete?",
        lambda r: (
            f"Parts of the circuit left out of the {r.model} and of the circuit; off the dashed line something outside "
            f"the circuit makes up for the part. {_sample(r)}"
        ),
        figure_of(completeness),
        lambda r: _main(r) and bool(r.subset_names),
    ),
    Drawing(
        "Is every member needed?",
        lambda r: (
            "What leaving one member out of the circuit costs, with 95% intervals over items; bars at 0 belong to "
            f"members that others stand in for. {_sample(r)}"
        ),
        figure_of(members),
        _main,
    ),
)
"""Figures of a report, in order."""
