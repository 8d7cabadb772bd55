"""Figures of a mask run. Each draws numbers the result already holds and returns axes."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from analyses.cross_model_patching.directions import Direction
from analyses.cross_model_patching.masks.statements import MODELS
from analyses.judged import Drawing, figure_of
from workbench import plotting

if TYPE_CHECKING:
    from analyses.cross_model_patching.masks.result import MaskResult

_RANDOM = "random cells of the same blocks"


def curve(result: "MaskResult", direction: Direction, *, ax: Axes | None = None) -> Axes:
    """Draw what masks recover on held-out items by their size, beside random and greedy ones."""
    at = result.directions.index(direction)
    sizes = result.set_sizes.tolist()
    best = {size: _best(result, at, size) for size in sizes}
    learned = [result.recovery(_effect(result, at, best[size]), direction) for size in sizes]
    greedy = [result.recovery(effect, direction) for effect in result.greedy_effect[at]]
    random = [result.random_recoveries(direction, size) for size in sizes]
    spread = [np.quantile(draws, [0.025, 0.975]) if len(draws) else np.full(2, np.nan) for draws in random]
    low, high = (np.array([ends[k] for ends in spread]) for k in (0, 1))
    ax = plotting.lines(
        {
            "learned mask": [found.value for found in learned],
            "strongest single cells": [found.value for found in greedy],
            _RANDOM: [float(draws.mean()) if len(draws) else np.nan for draws in random],
        },
        x=sizes,
        bands={
            "learned mask": ([found.low for found in learned], [found.high for found in learned]),
            _RANDOM: (low, high),
        },
        controls=[_RANDOM],
        x_label=f"cells with {MODELS[direction][0]} values, of {len(result.cell_labels)}",
        y_label="recovery on held-out items",
        ax=ax,
    )
    ax.axhline(result.share, color=plotting.INK, linewidth=0.8, linestyle=":")
    return ax


def accuracy(result: "MaskResult", direction: Direction, *, ax: Axes | None = None) -> Axes:
    """Draw how often the patched target agrees with the labels, by mask size."""
    at = result.directions.index(direction)
    sizes = result.set_sizes.tolist()
    learned = [result.accuracy(_effect(result, at, _best(result, at, size)), direction) for size in sizes]
    greedy = [result.accuracy(effect, direction).value for effect in result.greedy_effect[at]]
    none = np.zeros_like(result.margins[0])
    return plotting.lines(
        {
            "learned mask": [found.value for found in learned],
            "strongest single cells": greedy,
            "untouched": [result.accuracy(none, direction).value] * len(sizes),
            "donor": [result.accuracy(result.gap(direction), direction).value] * len(sizes),
        },
        x=sizes,
        bands={"learned mask": ([found.low for found in learned], [found.high for found in learned])},
        controls=["untouched"],
        reference=None,
        x_label=f"cells with {MODELS[direction][0]} values, of {len(result.cell_labels)}",
        y_label="agreement with the labels",
        ax=ax,
    )


def gate_map(result: "MaskResult", direction: Direction, *, ax: Axes | None = None) -> Axes:
    """Draw the gates of the named mask (else of the lowest lambda), layer by head and MLP; cells it keeps marked."""
    at = result.directions.index(direction)
    found = result.chosen(direction)
    price = 0 if found is None else found.price
    layers = sorted({cell.layer for cell in result.cells})
    columns = list(dict.fromkeys(_column(result, cell) for cell in result.cells))
    grid = np.full((len(layers), len(columns)), np.nan)
    places = [(layers.index(cell.layer), columns.index(_column(result, cell))) for cell in result.cells]
    for place, gate in zip(places, result.gates[at, price], strict=True):
        grid[place] = gate
    ax = plotting.heatmap(
        grid, rows=layers, columns=columns, row_label="layer", column_label="cell", value_label="gate", center=None,
        limits=(0.0, 1.0), title=f"lambda {result.lambdas[price]:g}", ax=ax,
    )  # fmt: skip
    with plotting.style():
        for (row, column), keep in zip(places, result.kept[at, price], strict=True):
            if keep:
                ax.plot([column], [row], marker="o", markersize=5, color="white", markeredgecolor="black")
    return ax


def _column(result: "MaskResult", cell: object) -> str:
    component, head, position = (getattr(cell, name) for name in ("component", "head", "position"))
    name = component.value if head is None else f"h{head}"
    several = any(place != -1 for *_, place in result.cell_labels)
    return f"{name} @ {position}" if several else name


def _best(result: "MaskResult", at: int, size: int) -> int | None:
    """Return the mask of a size with the lowest training loss."""
    sizes = result.kept[at].sum(-1)
    found = np.flatnonzero(result.trained[at] & (sizes == size))
    return None if not len(found) else int(found[np.argmin(result.left[at, found])])


def _effect(result: "MaskResult", at: int, price: int | None) -> np.ndarray:
    return np.full_like(result.margins[0], np.nan) if price is None else result.mask_effect[at, price]


def _sample(result: "MaskResult") -> str:
    held = ~result.training
    groups = len({cluster for cluster, out in zip(result.clusters, held, strict=True) if out})
    return f"n = {int(held.sum())} held-out items in {groups} independent groups."


def drawings(result: "MaskResult") -> tuple[Drawing, ...]:
    """Return the figures of a report, in order."""
    if not len(result.set_sizes):
        return ()
    return tuple(drawing for direction in result.directions for drawing in _of(direction))


def _of(direction: Direction) -> tuple[Drawing, ...]:
    values, target = MODELS[direction]

    def draw(figure):  # noqa: ANN001, ANN202 - a drawing of this module, for one direction
        made = figure_of(figure)
        return lambda result: made(result, direction)

    return (
        Drawing(
            f"How many cells does it take? {values} values in {target}".replace("? t", "? T"),
            lambda r: (
                "Share of the gap closed by size of the mask, on items it wasn't learned on, with 95% intervals over "
                "items; several masks of one size: the one with the lowest training loss. Grey: middle 95% of random "
                f"cells of the same kinds and blocks. Dotted: what counts as enough. {_sample(r)}"
            ),
            draw(curve),
        ),
        Drawing(
            f"Agreement with the labels: {values} values in {target}",
            lambda r: f"The same masks: how often {target} prefers the labelled answer. {_sample(r)}",
            draw(accuracy),
            lambda r: bool((r.labels >= 0).any()),
        ),
        Drawing(
            f"Which cells: {values} values in {target}",
            lambda _r: (
                "Learned gates, one per head and MLP at the last positions; a dot marks what the rounded mask keeps. "
                "The mask shown is the smallest that is good enough, or the largest where none is."
            ),
            draw(gate_map),
        ),
    )
