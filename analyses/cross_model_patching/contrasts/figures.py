"""Figures of a contrast. Each function draws numbers the result already holds."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.cross_model_patching.contrasts import views
from analyses.cross_model_patching.contrasts.views import MODELS, View
from analyses.judged import figure_of
from workbench import plotting
from workbench.results import Panel

if TYPE_CHECKING:
    from analyses.cross_model_patching.contrasts.result import ContrastResult

_MOST_CELLS = 6
_NAMES = {"base": "base", "judge": "judge", "judge - base": "added by fine-tuning"}


def maps(result: "ContrastResult", *, component: str, view: View) -> Figure:
    """Draw a component's cells in the base, in the judge and the interaction, side by side on one scale.

    Args:
        result: What to draw.
        component: Which component.
        view: Which part.
    """
    chosen = [i for i, name in enumerate(result.components) if name == component]
    rows = sorted({result.layers[i] for i in chosen})
    columns = list(dict.fromkeys(_column(result, i) for i in chosen))
    grids = [np.full((len(rows), len(columns)), np.nan) for _ in MODELS]
    for grid, model in zip(grids, MODELS, strict=True):
        values = views.cells(result, model, view).effect.value
        for i in chosen:
            grid[rows.index(result.layers[i]), columns.index(_column(result, i))] = values[i]
    # Means of empty cells are NaN; a map of nothing but these has no scale.
    reach = max((float(np.nanmax(np.abs(grid))) for grid in grids if not np.isnan(grid).all()), default=0.0) or 1.0
    with plotting.style():
        figure = plotting.DisplayFigure(
            figsize=(min(14.0, 4.2 + 1.0 * len(columns)), min(12.0, 1.9 + 0.3 * len(rows))), layout="constrained"
        )
        axes = figure.subplots(1, len(MODELS), sharey=True)
    for ax, grid, model in zip(axes, grids, MODELS, strict=True):
        plotting.heatmap(
            grid,
            rows=rows,
            columns=columns,
            title=_NAMES[model],
            row_label="layer" if ax is axes[0] else "",
            column_label="head, token" if result.heads[chosen[0]] is not None else "token from the end",
            value_label=result.unit if ax is axes[-1] else "",
            limits=(-reach, reach),
            ax=ax,
        )
    return figure


def _column(result: "ContrastResult", index: int) -> str:
    place = result.spans[index] or str(result.positions[index])
    return place if result.heads[index] is None else f"h{result.heads[index]} {place}"


def split_bars(result: "ContrastResult", ax: Axes | None = None) -> Axes:
    """Draw content and position part of the contrast in base and judge, and of what fine-tuning added.

    Args:
        result: What to draw.
        ax: Where to draw; a new figure when None.
    """
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    controls: dict[str, float] = {}
    for total in result.totals():
        for model in MODELS:
            found = total.of(model)
            if found.n == 0 or np.isnan(found.value):
                continue
            name = f"{total.part}: {_NAMES[model]}"
            values[name], intervals[name] = found.value, (found.low, found.high)
            if model == "judge - base" and not np.isnan(total.chance.value):
                controls[name] = total.chance.value
    return plotting.bars(
        values,
        intervals=intervals,
        controls=controls or None,
        control_label="judges moved as far at random, mean",
        value_label=f"clean minus other, {result.unit}",
        ax=ax,
    )


def cell_bars(result: "ContrastResult", ax: Axes | None = None) -> Axes:
    """Draw content and position part of the interaction at the cells where either is largest, with intervals.

    Args:
        result: What to draw.
        ax: Where to draw; a new figure when None.
    """
    parts = {view: views.cells(result, "judge - base", view).effect for view in views.VIEWS}
    sizes = np.nanmax([np.nan_to_num(np.abs(found.value)) for found in parts.values()], axis=0)
    chosen = [int(i) for i in np.argsort(-sizes, kind="stable")[:_MOST_CELLS]]
    ax = ax or plotting.new_axes(height=1.2 + 0.5 * len(chosen))
    rows = np.arange(len(chosen))[::-1]
    with plotting.style():
        for at, (view, found) in enumerate(parts.items()):
            value, low, high = (np.nan_to_num(part[chosen]) for part in (found.value, found.low, found.high))
            place = rows + (0.2, -0.2)[at]
            ax.barh(place, value, height=0.36, color=plotting.PALETTE[at], label=f"{view} part")
            ax.hlines(place, low, high, color=plotting.INK, linewidth=1.0)
        ax.axvline(0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        ax.set_yticks(rows, [plotting.label_text(result.cell_name(i)) for i in chosen])
        ax.set_xlabel(f"effect in the judge minus in the base, {result.unit}")
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.0, ncols=2)
    return ax


def panels(result: "ContrastResult") -> tuple[Panel, ...]:
    """Return the figures a contrast has the data for."""
    taken = "takes away" if result.direction == "other_to_clean" else "brings back"
    found = [
        Panel(
            f"Sensitivity to {result.title}",
            f"Clean minus other. The content part turns with the answers (toward {result.speaks_for}), the position "
            "part doesn't (toward the first slot). Lines are 95% intervals over independent items.",
            partial(figure_of(split_bars), result),
        ),
        Panel(
            "Where fine-tuning added to it",
            "Cells with the largest difference of their effects between judge and base, content and position part, "
            "with 95% intervals over independent items.",
            partial(figure_of(cell_bars), result),
        ),
    ]
    shown: list[View] = [v for v in views.VIEWS if (np.abs(views.in_view(result, result.effect[1], v)) > 0).any()]
    for view in shown:
        for component in dict.fromkeys(result.components):
            found.append(
                Panel(
                    f"{component}, {view} part",
                    f"How much of clean minus other the other version's activation {taken}, by layer and place: base, "
                    "judge, and the judge's minus the base's, on one scale. Empty cells couldn't be aligned.",
                    partial(maps, result, component=component, view=view),
                )
            )
    return tuple(found)
