"""Figures of a patching run. Each function draws numbers the result already holds."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.cross_model_patching.activations import views
from analyses.cross_model_patching.directions import ARROWS
from analyses.judged import Drawing, figure_of
from workbench import plotting
from workbench.results import Panel

if TYPE_CHECKING:
    from analyses.cross_model_patching.activations.result import ActivationPatchingResult

_MOST_BARS = 8
_SHORT = {"judge_to_base": "judge into base (sufficient?)", "base_to_judge": "base into judge (necessary?)"}


def short_name(result: "ActivationPatchingResult", index: int) -> str:
    """Return a cell's name for an axis: ``z 2.h1 @ -1``."""
    head = "" if result.heads[index] is None else f".h{result.heads[index]}"
    place = result.spans[index] if result.spans[index] is not None else result.positions[index]
    return f"{result.components[index]} {result.layers[index]}{head} @ {place}"


def strongest_bars(result: "ActivationPatchingResult", *, ax: Axes | None = None) -> Axes:
    """Draw the strongest single writes of both directions, with intervals and the control of each."""
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    controls: dict[str, float] = {}
    found = views.sweeps(result)
    writes = np.array([not name.startswith("resid") for name in result.components])
    for direction, sweep in found.items():
        shown = views.strongest(np.where(writes, sweep.effect.value, np.nan), count=_MOST_BARS)
        shown = shown or views.strongest(sweep.effect.value, count=_MOST_BARS)
        for index in shown:
            name = f"{ARROWS[direction]}  {short_name(result, index)}{' *' if sweep.found[index] else ''}"
            values[name] = float(sweep.effect.value[index])
            intervals[name] = float(sweep.effect.low[index]), float(sweep.effect.high[index])
            control = (sweep.mismatched if direction == "judge_to_base" else sweep.noise).value[index]
            if np.isfinite(control):
                controls[name] = float(control)
    bound = next(iter(found.values())).bound
    ax = ax or plotting.new_axes(width=7.5, height=1.3 + 0.32 * max(1, len(values)))
    if np.isfinite(bound):
        ax.axvspan(-bound, bound, color=plotting.CONTROL, alpha=0.25, linewidth=0)
    return plotting.bars(
        values,
        intervals=intervals,
        controls=controls or None,
        control_label="J>B: another item's activation; B>J: a random change",
        value_label=f"change of the margin toward the labelled answer, {result.unit}",
        ax=ax,
    )


def set_bars(result: "ActivationPatchingResult", *, ax: Axes | None = None) -> Axes:
    """Draw what named sets of sites recover on held-out items, beside random sets matched on layer."""
    groups: dict[str, list[float]] = {}
    controls: dict[str, list[float]] = {}
    for at, direction in enumerate(result.directions):
        if result.sets[at]:
            groups[_SHORT[direction]] = [views.set_recovery(result, at, 0).value]
            controls[_SHORT[direction]] = [
                views.set_recovery(result, at, k).value for k in range(1, result.set_effect.shape[1])
            ]
    return plotting.strip(
        groups,
        controls=controls,
        control_label="random sets matched on layer",
        value_label="share of the gap recovered, held-out items",
        ax=ax,
    )


def position_map(result: "ActivationPatchingResult", *, component: str) -> Figure:
    """Draw a whole component's effect by layer and position or span, both directions side by side on one scale."""
    chosen = [i for i, name in enumerate(result.components) if name == component]
    layers = sorted({result.layers[i] for i in chosen})
    places = list(dict.fromkeys(_place(result, i) for i in chosen))
    return _grids(
        result,
        chosen,
        rows=[layers.index(result.layers[i]) for i in chosen],
        columns=[places.index(_place(result, i)) for i in chosen],
        row_names=layers,
        column_names=places,
        labels=("layer", "token from the end, or span"),
    )


def head_map(result: "ActivationPatchingResult", *, component: str, place: str) -> Figure:
    """Draw every head's effect by layer at one place, both directions side by side on one scale."""
    chosen = [i for i, name in enumerate(result.components) if name == component and _place(result, i) == place]
    layers, heads = sorted({result.layers[i] for i in chosen}), sorted({result.heads[i] or 0 for i in chosen})
    return _grids(
        result,
        chosen,
        rows=[layers.index(result.layers[i]) for i in chosen],
        columns=[heads.index(result.heads[i] or 0) for i in chosen],
        row_names=layers,
        column_names=heads,
        labels=("layer", "key-value head" if component in ("k", "v") else "head"),
    )


def _place(result: "ActivationPatchingResult", index: int) -> str:
    span = result.spans[index]
    return str(result.positions[index]) if span is None else span


def _grids(
    result: "ActivationPatchingResult", chosen: Sequence[int], *, rows: Sequence[int], columns: Sequence[int],
    row_names: Sequence[object], column_names: Sequence[object], labels: tuple[str, str],
) -> Figure:  # fmt: skip
    found = views.sweeps(result)
    known = [np.nanmax(np.abs(sweep.effect.value[list(chosen)]), initial=0.0) for sweep in found.values()]
    limit = float(max(known)) or 1.0
    count = len(result.directions)
    with plotting.style():
        width = min(13.0, count * max(3.6, 1.9 + 0.42 * len(column_names)))
        figure = plotting.DisplayFigure(figsize=(width, min(12.0, 1.9 + 0.26 * len(row_names))), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, count))
    for ax, (direction, sweep) in zip(axes, found.items(), strict=True):
        grid = np.full((len(row_names), len(column_names)), np.nan)
        grid[list(rows), list(columns)] = sweep.effect.value[list(chosen)]
        plotting.heatmap(
            grid,
            rows=row_names,
            columns=column_names,
            title=_SHORT[direction],
            row_label=labels[0],
            column_label=labels[1],
            value_label=f"{result.unit} toward the label",
            limits=(-limit, limit),
            ax=ax,
        )
        with plotting.style():
            for index, row, column in zip(chosen, rows, columns, strict=True):
                if sweep.found[index]:
                    ax.plot([column], [row], marker="o", markersize=5, color="white", markeredgecolor="black")
    return figure


def maps(result: "ActivationPatchingResult") -> tuple[Panel, ...]:
    """Return one panel per component: layer by position, or layer by head at every place heads were patched at."""
    panels = []
    legend = (
        "Blue lowers, orange raises the labelled answer's margin; the scale is the same on both sides. A white dot is "
        "a cell beyond random judges and over items. Dark cells behind a change needn't have changed themselves."
    )
    for component in dict.fromkeys(result.components):
        cells = [i for i, name in enumerate(result.components) if name == component]
        if result.heads[cells[0]] is None:
            panels.append(
                Panel(
                    f"Patching {component}, by layer and place",
                    f"Change of the verdict margin when {component} takes the other model's value. {legend}",
                    partial(position_map, result, component=component),
                )
            )
            continue
        for place in dict.fromkeys(_place(result, i) for i in cells):
            panels.append(
                Panel(
                    f"Patching {component}, head by head, at {place}",
                    f"Change of the verdict margin when one head's {component} takes the other model's value. {legend}",
                    partial(head_map, result, component=component, place=place),
                )
            )
    return tuple(panels)


PANELS = (
    Drawing(
        "Single sites that move the verdict most",
        lambda _result: (
            "Change of the verdict margin when one write takes the other model's value: J>B puts the "
            "judge's into the base, B>J the base's into the judge. Bars with 95% intervals over items; marks are "
            "controls: another item's activation (J>B), a random change of the same length (B>J). One more random "
            "judge's largest site would fall into the grey band. * passes all tests."
        ),
        figure_of(strongest_bars),
    ),
    Drawing(
        "Sites named on one half, patched together on the other",
        lambda _result: (
            "Share of the gap between the models that the named sites recover together on items they "
            "weren't named on; grey dots are random sets with as many sites in the same layers."
        ),
        figure_of(set_bars),
        lambda result: any(result.sets),
    ),
)
"""Figures every run has; :func:`maps` adds those of its components."""
