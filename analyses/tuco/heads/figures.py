"""Figures of a heads run. Each function draws numbers the result already holds and returns axes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.judged import figure_of
from analyses.tuco.naming import region_title
from analyses.tuco.views import VIEWS
from workbench import plotting
from workbench.errors import ParameterError

if TYPE_CHECKING:
    from analyses.tuco.heads.result import HeadsResult

_MOST_BARS = 12
Drawn = Callable[["HeadsResult"], Figure]
"""Makes a new figure of a result."""


def head_map(result: "HeadsResult", *, view: str, ax: Axes | None = None) -> Axes:
    """Draw the mean push of every head's fine-tuning, layer by head, heads that pass the test marked.

    Args:
        result: What to draw.
        view: A key of ``VIEWS``.
        ax: Where to draw; a new figure when None.
    """
    values = result.cells(result.head_push, view).value
    ax = plotting.heatmap(
        values,
        rows=range(result.n_layers),
        columns=range(result.n_heads),
        row_label="layer",
        column_label="head",
        value_label=f"{result.unit} {VIEWS[view]}",
        ax=ax,
    )
    passing = result.passing(view)
    with plotting.style():
        for layer, head in np.argwhere(passing):
            ax.plot([head], [layer], marker="o", markersize=5, color="white", markeredgecolor="black")
    return ax


def region_bars(result: "HeadsResult", *, view: str, ax: Axes | None = None) -> Axes:
    """Draw what all heads together took from each region, with intervals; answers by role in the content view.

    Args:
        result: What to draw.
        view: A key of ``VIEWS``.
        ax: Where to draw; a new figure when None.
    """
    names, values, control = regions_in(result, view)
    names = tuple(region_title(name) for name in names)
    cells = result.cells(values, view)
    drawn = [result.cells(draw, view).value for draw in control]
    return plotting.bars(
        dict(zip(names, cells.value.tolist(), strict=True)),
        intervals={name: (cells.low[k], cells.high[k]) for k, name in enumerate(names)},
        controls=dict(zip(names, np.mean(drawn, axis=0).tolist(), strict=True)) if drawn else None,
        control_label="random change of equal norm",
        value_label=f"{result.unit} {VIEWS[view]}, all heads",
        ax=ax,
    )


def regions_in(result: "HeadsResult", view: str) -> tuple[tuple[str, ...], np.ndarray, list[np.ndarray]]:
    """Return region names of a view, the push of all heads by region, and that of each control draw."""
    whole = result.region_push.sum((2, 3))
    names, values = result.in_view(whole, view)
    return names, values, [result.in_view(draw, view)[1] for draw in result.control_region_push]


def part_bars(result: "HeadsResult", *, view: str, ax: Axes | None = None) -> Axes:
    """Draw pattern, value and output parts of the strongest heads, stacked: positive parts right, negative left.

    Args:
        result: What to draw.
        view: A key of ``VIEWS``.
        ax: Where to draw; a new figure when None.
    """
    pushes = result.cells(result.head_push, view).value
    parts = result.cells(result.part_push, view).value
    order = np.argsort(-np.abs(pushes), axis=None)[:_MOST_BARS]
    chosen = [tuple(int(i) for i in np.unravel_index(k, pushes.shape)) for k in order]
    ax = ax or plotting.new_axes(height=1.4 + 0.32 * len(chosen))
    bound = float(result.head_bound[result.views.index(view)])
    with plotting.style():
        if np.isfinite(bound):
            ax.axvspan(
                -bound, bound, color=plotting.CONTROL, alpha=0.3, linewidth=0, label="random changes stay within"
            )
        rows = np.arange(len(chosen))[::-1]
        right, left = np.zeros(len(chosen)), np.zeros(len(chosen))
        for k, part in enumerate(result.parts):
            sizes = np.array([parts[layer, head, k] for layer, head in chosen])
            starts = np.where(sizes >= 0, right, left)
            ax.barh(rows, sizes, left=starts, color=plotting.PALETTE[k], height=0.62, label=part)
            right, left = right + np.maximum(sizes, 0), left + np.minimum(sizes, 0)
        sums = [pushes[layer, head] for layer, head in chosen]
        ax.plot(
            sums,
            rows,
            linestyle="none",
            marker="D",
            markersize=5,
            color="white",
            markeredgecolor="black",
            label="whole head",
        )
        ax.axvline(0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        ax.set_yticks(rows, [f"{layer}.{head}" for layer, head in chosen])
        ax.set_ylabel("layer.head")
        ax.set_xlabel(f"{result.unit} {VIEWS[view]}")
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.0, ncols=5, columnspacing=1.2)
    return ax


def layer_lines(result: "HeadsResult", *, view: str, ax: Axes | None = None) -> Axes:
    """Draw the push of fine-tuning by layer: heads, MLPs, and the MLPs' chosen neurons, with intervals.

    Args:
        result: What to draw.
        view: A key of ``VIEWS``.
        ax: Where to draw; a new figure when None.
    """
    series = {"all heads": result.head_push.sum(-1), "MLP": result.mlp_push}
    if result.neuron_ids.size:
        series[f"{result.neuron_ids.shape[1]} neurons named on other items"] = result.neuron_push.sum(-1)
    cells = {name: result.cells(values, view) for name, values in series.items()}
    lines = {name: found.value for name, found in cells.items()}
    bands = {name: (found.low, found.high) for name, found in cells.items()}
    drawn = result.control_head_push.sum(-1)
    if len(drawn):
        lines["all heads, random change"] = np.mean([result.cells(draw, view).value for draw in drawn], axis=0)
    return plotting.lines(
        lines,
        x=np.arange(result.n_layers),
        bands=bands,
        controls=[name for name in lines if name not in cells],
        x_label="layer",
        y_label=f"{result.unit} {VIEWS[view]}",
        ax=ax,
    )


def replaced(result: "HeadsResult", *, view: str, ax: Axes | None = None) -> Axes:
    """Draw the gap each item lost when the named head really wrote what the base's writes, beside both controls.

    Args:
        result: What to draw; a head was named.
        view: A key of ``VIEWS``.
        ax: Where to draw; a new figure when None.
    """
    if result.named_head is None:
        raise ParameterError("no head was named in this run.", argument="result", got=repr(result))
    layer, head = result.named_head
    groups = {
        f"head {layer}.{head}: direct push": result.head_push[:, :, layer, head],
        f"head {layer}.{head}: replaced in a real forward": result.confirmed_effect,
        "another head, drawn at random": result.confirmed_other,
        "a random change as long": result.confirmed_control,
    }
    tested = np.isfinite(result.confirmed_effect).all(1)
    return plotting.strip(
        {name: result.oriented(values, view)[tested] for name, values in groups.items()},
        muted=("another head, drawn at random", "a random change as long"),
        value_label=f"{result.unit} {VIEWS[view]}",
        ax=ax,
    )


def panels_of(result: "HeadsResult") -> list[tuple[str, str, Drawn]]:
    """Return title, caption and drawing of each panel, in reading order."""
    made = [(title, caption, figure_of(draw, view=view)) for view in result.views for title, caption, draw in _of(view)]
    if result.named_head is None:
        return made
    title = "The strongest head, really replaced"
    caption = (
        "Each dot is one item of the half on which the head was not named. Verdict gap lost when the judge runs with "
        "that head writing what the base's writes at the verdict token, later layers reacting; it should resemble the "
        "direct push above it and exceed the two controls below in grey; the bars are means."
    )
    return [*made, (title, caption, figure_of(replaced, view=result.named_view))]


def _of(view: str) -> list[tuple[str, str, Callable[..., Axes]]]:
    way = VIEWS[view]
    return [
        (
            f"Which heads pushed {way}",
            "Mean push of what fine-tuning changed in each head, layer by head; orange pushes "
            f"{way}, blue away. A white dot marks heads that pass the family-wise sign-flip test over items and "
            f"push harder "
            "than the largest head of a random change of equal norm would.",
            head_map,
        ),
        (
            f"Which text the heads took it from, {way}",
            "The same push, all heads together, by the region of the tokens the heads take from; the bars add up to "
            "the push of all heads. Orange mark: random changes of equal norm, mean of the draws.",
            region_bars,
        ),
        (
            f"Where they look, what they take, how they write it, {way}",
            "The strongest heads, split into change of pattern (queries and keys), of values, and of the output map; "
            "Shapley values over the six orders, which add up to the head (white mark). Grey: where the largest "
            "head of "
            "a random change of equal norm stays.",
            part_bars,
        ),
        (
            f"Heads and MLPs by layer, {way}",
            "Push of fine-tuning by layer with 95% over items; grey: the heads of random changes of equal norm. "
            "Neurons were named on one half of the items and are shown on the other.",
            layer_lines,
        ),
    ]
