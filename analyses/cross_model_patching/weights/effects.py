"""Effects of swaps and patches over items: means, recoveries, tests over the sweep and against random judges."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from analyses.cells import CellIntervals, cell_intervals, cell_ratios, family_p
from analyses.cross_model_patching.advantage import Advantage, advantage, against_largest, means_on_same_items
from analyses.metrics import LEVEL

if TYPE_CHECKING:
    from analyses.cross_model_patching.weights.result import WeightSwapResult

BLIND = 0.1
"""From this share of the effect of attn_out on, a z patch that misses it is called blind."""


class Tested(NamedTuple):
    """Every part of every direction, corrected over all of them together."""

    p_items: Float[np.ndarray, "direction part"]
    """Family-wise p over clusters of items; NaN without labels."""
    p_random: Float[np.ndarray, "direction part"]
    """p against the largest part of random judges; 1 with fewer than three of them."""
    bound: float
    """The largest part of one more random judge stays within this; margin units, NaN with too few."""
    passes: Bool[np.ndarray, "direction part"]
    """Whether the part is told from chance both ways, where there is an advantage to locate."""


def signs(result: "WeightSwapResult") -> Float[np.ndarray, " direction"]:
    """Return +1 where the base is given something, -1 where the judge loses it."""
    return np.array([1.0 if way == "judge_to_base" else -1.0 for way in result.directions])


def labelled(result: "WeightSwapResult") -> bool:
    """Return whether any item says which answer is better."""
    return bool((result.labels >= 0).any())


def per_item(result: "WeightSwapResult", values: np.ndarray) -> np.ndarray:
    """Return effects as shares of the advantage: toward the label (first slot without labels), orders averaged.

    Args:
        result: The run.
        values: ``[*draw direction item order cell]``.

    Returns:
        ``[*draw item direction cell]``; positive where the base is given, or the judge loses, margin toward the label.
    """
    turn = result.slot_sign() if labelled(result) else np.ones((len(result.item_ids), len(result.orders)))
    moved = (values * turn[:, :, None]).mean(-2) * signs(result)[:, None, None]
    return np.moveaxis(moved, -3, -2)


def gap(result: "WeightSwapResult") -> Float[np.ndarray, "item order"]:
    """Return the judge's margin minus the base's, toward the label; slots as shown without labels."""
    change = result.judge_margin - result.base_margin
    return result.toward_label(change) if labelled(result) else change


def gate(result: "WeightSwapResult") -> Advantage:
    """Return what there is to locate."""
    change = result.toward_label(result.judge_margin - result.base_margin)
    draws = result.toward_label(result.random_gap)
    return advantage(change, draws, clusters=result.clusters, seed=result.meta.seed)


def effect(result: "WeightSwapResult", values: np.ndarray, direction: int) -> CellIntervals:
    """Return mean effects with intervals, margin units; NaN for parts that weren't measured.

    Args:
        result: The run.
        values: ``[direction item order part]``.
        direction: Index of the direction.
    """
    cells = per_item(result, values)[:, direction]
    return _measured(cells, lambda some: cell_intervals(some, clusters=result.clusters, seed=result.meta.seed))


def recovery(result: "WeightSwapResult", values: np.ndarray, direction: int) -> CellIntervals:
    """Return recoveries with intervals: mean effect over mean advantage; NaN where that is too small to divide by.

    Args:
        result: The run.
        values: ``[direction item order part]``.
        direction: Index of the direction.
    """
    cells, whole = per_item(result, values)[:, direction], gap(result).mean(-1)
    found = _measured(cells, lambda some: cell_ratios(some, whole, clusters=result.clusters, seed=result.meta.seed))
    if gate(result).defined:
        return found
    blank = np.full(cells.shape[1], np.nan)
    return CellIntervals(blank, blank.copy(), blank.copy(), found.n)


def _measured(cells: np.ndarray, run: Callable[[np.ndarray], CellIntervals]) -> CellIntervals:
    """Cells that were measured on no item don't take the others with them."""
    known = ~np.isnan(cells).all(0)
    found = run(cells[:, known])
    blank = np.full((3, cells.shape[1]), np.nan)
    blank[:, known] = found.value, found.low, found.high
    return CellIntervals(blank[0], blank[1], blank[2], found.n)


def tested(result: "WeightSwapResult") -> Tested:
    """Test every swap over items and against random judges; both directions are one family."""
    cells = per_item(result, result.written)
    shape = cells.shape[1:]
    means, same = _same_items(result, result.random_written, cells)
    p_random, bound = against_largest(same, means)
    p_items = family_p(cells, clusters=result.clusters, seed=result.meta.seed)
    passes = (p_items < LEVEL) & (p_random.reshape(shape) < LEVEL) & ~result.unchanged & gate(result).found
    return Tested(p_items, p_random.reshape(shape), bound, passes)


def _same_items(
    result: "WeightSwapResult", random: np.ndarray, cells: Float[np.ndarray, "item direction part"]
) -> tuple[Float[np.ndarray, "draw cell"], Float[np.ndarray, " cell"]]:
    """Return means of random judges and of the judge over the items the former were asked on."""
    draws = per_item(result, random)
    return means_on_same_items(draws.reshape(*draws.shape[:2], cells[0].size), cells.reshape(len(cells), cells[0].size))


def seen_bound(result: "WeightSwapResult") -> float:
    """Return what the largest patch of one more random judge stays within; margin units, NaN with too few.

    The largest of blocks and modules; of heads where nothing else was patched.
    """
    means, same = _same_items(result, result.random_seen, per_item(result, result.seen))
    return against_largest(same, means)[1]


def blind(result: "WeightSwapResult") -> Float[np.ndarray, "direction layer"]:
    """Return how much of a block's attn_out patch the patch of all its heads' z misses, as a share of its size.

    The mean absolute difference over the mean absolute effect. It is exactly 0 where both models have one output
    projection (all z are attn_out then), NaN where it wasn't measured.
    """
    shares = np.full((len(result.directions), result.n_layers), np.nan)
    parts = result.parts
    for index, part in enumerate(parts):
        if part.kind != "attn" or part.layer is None or np.isnan(result.seen[..., index]).all():
            continue
        whole, heads = result.seen[..., index], result.all_z[..., part.layer]
        tuned = ~np.isnan(heads).all()
        missed = np.abs(whole - heads).mean((1, 2)) if tuned else np.zeros(len(shares))
        size = np.abs(whole).mean((1, 2))
        shares[:, part.layer] = np.divide(missed, size, out=np.where(missed > 0, np.inf, 0.0), where=size > 0)
    return shares


def mediators(result: "WeightSwapResult", direction: int) -> list[int]:
    """Return unchanged parts whose activations nevertheless move the margin, strongest first."""
    values = effect(result, result.seen, direction).value
    moved = np.flatnonzero(result.unchanged & (np.nan_to_num(np.abs(values)) > 0))
    return sorted((int(i) for i in moved), key=lambda i: -abs(values[i]))


def grafted(result: "WeightSwapResult") -> CellIntervals:
    """Return how far the judge's embedding and first blocks under the base's rest move the base's margin, by depth."""
    turn = result.slot_sign() if labelled(result) else np.ones((len(result.item_ids), len(result.orders)))
    change = ((result.graft - result.base_margin[..., None]) * turn[..., None]).mean(1)
    return cell_intervals(change, clusters=result.clusters, seed=result.meta.seed)
