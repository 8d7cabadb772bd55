"""Figures of a located bias. Each draws numbers the result already holds."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from analyses.cross_model_patching.bias import views
from analyses.cross_model_patching.bias.views import CellMap
from analyses.judged import figure_of
from workbench import plotting
from workbench.results import Panel

if TYPE_CHECKING:
    from analyses.cross_model_patching.bias.result import BiasSitesResult


def confirmation_bars(result: "BiasSitesResult", *, ax: Axes | None = None) -> Axes:
    """Draw what interventions on the named set take away on the other half, with random sets, and the side effect."""
    held = result.confirmation()
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    controls: dict[str, float] = {}
    if held is not None:
        shown = {
            f"bias: patched from {result.donor if result.reference else result.other_side}": (
                held.patched.share, held.patched.random.value),
            f"bias: brought into {result.donor} prompts": (held.induced.share, held.induced.random.value),
            f"bias: ablated ({result.ablation})": (held.ablated.share, held.ablated.random.value),
            f"bias: given the {result.other_side}'s": (held.given.share, held.given.random.value),
            f"side effect: judging, ablated ({result.ablation})": (held.side.share, held.side.random),
        }  # fmt: skip
        for name, (share, control) in shown.items():
            if np.isnan(share.value):
                continue
            values[name], intervals[name] = share.value, (share.low, share.high)
            if np.isfinite(control):
                controls[name] = control
    return plotting.bars(
        values,
        intervals=intervals,
        controls=controls or None,
        control_label="random sets, or random judges",
        value_label="share taken away by the named set, held-out items",
        ax=ax,
    )


def cell_grid(result: "BiasSitesResult", *, other: bool = False, ax: Axes | None = None) -> Axes:
    """Draw the share of the bias every cell takes away: layers by component and place; found cells are marked.

    Args:
        result: The run.
        other: The map of the other model's activations instead of the donor run's.
        ax: Where to draw; a new figure when None.
    """
    found = result.given_map() if other else result.patched_map()
    columns = list(dict.fromkeys(column_of(result, i) for i in range(len(result.components))))
    layers = sorted(set(result.layers))
    grid = np.full((len(layers), len(columns)), np.nan)
    values, label = _values(result, found)
    for index in range(len(result.components)):
        grid[layers.index(result.layers[index]), columns.index(column_of(result, index))] = values[index]
    ax = ax or plotting.new_axes(width=min(12.0, 4.0 + 0.35 * len(columns)), height=min(12.0, 2.8 + 0.3 * len(layers)))
    ax = plotting.heatmap(
        grid, rows=layers, columns=columns, row_label="layer", column_label="component and place", value_label=label,
        ax=ax,
    )  # fmt: skip
    named = set(result.named)
    for index in range(len(result.components)):
        mark = "●" if index in named and found.found[index] else "○" if found.found[index] else ""
        ax.text(
            columns.index(column_of(result, index)), layers.index(result.layers[index]), mark, ha="center", va="center",
            color="black", fontsize=7,
        )  # fmt: skip
    ax.tick_params(axis="x", labelrotation=90)
    return ax


def biases_bars(result: "BiasSitesResult", *, ax: Axes | None = None) -> Axes:
    """Draw the bias of both models with the placebo as control."""
    told = result.bias()
    shown = {result.side: told.own, result.other_side: told.other, "judge - base": told.made}
    placebo = {} if np.isnan(told.placebo.value) else {result.side: told.placebo.value}
    return plotting.bars(
        {name: interval.value for name, interval in shown.items()},
        intervals={name: (interval.low, interval.high) for name, interval in shown.items()},
        controls=placebo or None,
        control_label="taken off for the placebo",
        value_label=f"bias, {result.unit}",
        ax=ax,
    )


def column_of(result: "BiasSitesResult", index: int) -> str:
    """Return the column of a cell: component, head and place."""
    head = "" if result.heads[index] is None else f".h{result.heads[index]}"
    return f"{result.components[index]}{head} @ {result.place(index)}"


def panels(result: "BiasSitesResult") -> tuple[Panel, ...]:
    """Return the figures of a report."""
    sample = f"n = {len(result.item_ids)} items in {len(set(result.clusters))} independent groups."
    marks = "Filled circles: named and told from chance; open ones: told from chance."
    made = [
        ("How large is the bias?", f"Mean shift beyond the placebo with 95% intervals over items. {sample}",
         figure_of(biases_bars)),
        (f"What the {result.donor} run takes away of it",
         f"One cell is patched at a time, in the {result.side}, exactly. {marks} {sample}", figure_of(cell_grid)),
        (f"What the {result.other_side}'s activations take away of it",
         f"The same cells hold what the {result.other_side} has there, on all prompts compared. {marks} {sample}",
         figure_of(cell_grid, other=True)),
    ]  # fmt: skip
    if views.confirmation(result) is not None:
        made.append(
            ("Is the named set confirmed on other items?",
             f"Named: {', '.join(result.cell_name(i) for i in result.named)}. Shares with 95% intervals over the items "
             "of the half they were not named on; marks are the mean of random sets of the same components and layers.",
             figure_of(confirmation_bars))
        )  # fmt: skip
    return tuple(Panel(title, caption, partial(draw, result)) for title, caption, draw in made)


def _values(result: "BiasSitesResult", found: CellMap) -> tuple[np.ndarray, str]:
    if np.isnan(found.share.value).all():
        return found.removed, f"bias taken away, {result.unit}"
    return found.share.value, "share of the bias taken away"
