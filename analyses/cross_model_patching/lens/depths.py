"""Where along the depth of a model a verdict is read, settles, and agrees with the labels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from analyses.metrics import Interval, mean_interval

_RESAMPLES = 2000


class Settling(NamedTuple):
    """How deep prompts' verdicts settle."""

    depth: Interval
    """Mean depth over items all of whose prompts settle, in blocks; see ``depths`` of the result."""
    unsettled: float
    """Share of prompts whose verdict can't be read at the end either, or is exactly undecided."""


def settled_at(
    margin: Float[np.ndarray, "item order point"], mass: Float[np.ndarray, "item order point"], *, least_mass: float
) -> Int[np.ndarray, "item order"]:
    """Return the first point from which on the margin has its final sign and the labels have mass; -1 where none is.

    Args:
        margin: Verdict margins by point, the last one the model's own.
        mass: Label mass by point; NaN where the readout has none, which always counts as readable.
        least_mass: From which mass on a margin counts as read.
    """
    final = np.sign(margin[..., -1:])
    agrees = (np.sign(margin) == final) & (final != 0) & ~(mass < least_mass)
    # Points from the end until the first that disagrees.
    kept = np.cumprod(agrees[..., ::-1], axis=-1).sum(-1)
    return np.where(kept > 0, margin.shape[-1] - kept, -1)


def settling(
    points: Int[np.ndarray, "item order"], depths: Float[np.ndarray, " point"], *, clusters: Sequence[str], seed: int
) -> Settling:
    """Return the mean depth at which verdicts settle.

    Args:
        points: Of :func:`settled_at`.
        depths: Depth of every point.
        clusters: What each item is independent by.
        seed: Seed of the interval.
    """
    values = np.where(points < 0, np.nan, depths[points])
    share = float((points < 0).mean()) if points.size else float("nan")
    return Settling(mean_interval(values, seed=seed, clusters=clusters), share)


def readable_from(mass: Float[np.ndarray, "item order point"], *, least_mass: float) -> Bool[np.ndarray, " point"]:
    """Return at which points the labels' mean mass is enough to speak of a verdict."""
    return ~(mass.mean((0, 1)) < least_mass)


def agreement_reached(
    correct: Float[np.ndarray, "item point"],
    readable: Bool[np.ndarray, " point"],
    depths: Float[np.ndarray, " point"],
    *,
    epsilon: float,
    clusters: Sequence[str],
    seed: int,
) -> Interval:
    """Return the first depth at which agreement with the labels is within ``epsilon`` of the final one.

    Args:
        correct: Share of an item's prompts in which the labelled answer is preferred; NaN without a label.
        readable: Points that count.
        depths: Depth of every point.
        epsilon: How much less agreement is as good.
        clusters: What each item is independent by.
        seed: Seed of the resampling of clusters; the ends are percentiles of the depth over resamples.
    """
    known = ~np.isnan(correct).any(-1)
    names, index = np.unique(np.asarray(clusters, dtype=object)[known].astype(str), return_inverse=True)
    n = len(names)
    if n == 0 or not readable.any():
        return Interval(np.nan, np.nan, np.nan, n)
    sums = np.zeros((n, correct.shape[1]))
    np.add.at(sums, index, correct[known])
    counts = np.bincount(index, minlength=n).astype(float)

    def first(rates: np.ndarray) -> np.ndarray:
        enough = (rates >= rates[:, -1:] - epsilon) & readable
        return np.where(enough.any(-1), depths[enough.argmax(-1)], np.nan)

    value = float(first((sums.sum(0) / counts.sum())[None])[0])
    if n == 1:
        return Interval(value, np.nan, np.nan, 1)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(float)
    found = first(drawn @ sums / (drawn @ counts)[:, None])
    low, high = (float(end) for end in np.nanquantile(found, [0.025, 0.975]))
    return Interval(value, low, high, n)
