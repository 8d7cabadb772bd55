"""Intervals and tests for many cells at once: every head of every layer over the same clusters of items."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000
FLIPS = 4000
_EXACT_UP_TO = 11
_CELLS_AT_ONCE = 4096
_ROUNDING = 1e-12


class CellIntervals(NamedTuple):
    """Means over items with percentile-bootstrap intervals over clusters, cell by cell."""

    value: Float[np.ndarray, "*cell"]
    """Point estimates; NaN without an item."""
    low: Float[np.ndarray, "*cell"]
    """Lower ends; NaN with fewer than two clusters."""
    high: Float[np.ndarray, "*cell"]
    """Upper ends; NaN with fewer than two clusters."""
    n: int
    """Number of clusters."""


def cell_intervals(
    values: Float[np.ndarray, "item *cell"], *, clusters: Sequence[str], seed: int, level: float = 0.95
) -> CellIntervals:
    """Return the mean of every cell with its interval; all cells see the same resamples.

    Args:
        values: One value per item and cell; items with a NaN in any cell are left out.
        clusters: What each item is independent by.
        seed: Seed of the resampling.
        level: Coverage of each interval.
    """
    cells = values.shape[1:]
    sums, counts = _cluster_sums(values, clusters)
    n = len(counts)
    if n == 0:
        blank = np.full(cells, np.nan)
        return CellIntervals(blank, blank.copy(), blank.copy(), 0)
    value = sums.sum(0) / counts.sum()
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    if n > 1:
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
        sizes = (drawn @ counts)[:, None]
        for start in range(0, len(value), _CELLS_AT_ONCE):
            part = slice(start, start + _CELLS_AT_ONCE)
            means = drawn @ sums[:, part] / sizes
            low[part], high[part] = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return CellIntervals(value.reshape(cells), low.reshape(cells), high.reshape(cells), n)


def cell_ratios(
    numerator: Float[np.ndarray, "item *cell"],
    denominator: Float[np.ndarray, " item"],
    *,
    clusters: Sequence[str],
    seed: int,
    level: float = 0.95,
) -> CellIntervals:
    """Return the ratio of two means for every cell (never the mean of ratios); all cells see the same resamples.

    Args:
        numerator: One value per item and cell; items with a NaN in any cell, or in ``denominator``, are left out.
        denominator: One value per item.
        clusters: What each item is independent by.
        seed: Seed of the resampling.
        level: Coverage of each interval.
    """
    cells = numerator.shape[1:]
    both = np.concatenate(
        [np.asarray(denominator, dtype=float)[:, None], numerator.reshape(len(numerator), -1)], axis=1
    )
    sums, counts = _cluster_sums(both, clusters)
    n, whole = len(counts), sums.sum(0)
    value = np.full(whole.size - 1, np.nan)
    if n == 0 or whole[0] == 0:
        return CellIntervals(value.reshape(cells), value.reshape(cells).copy(), value.reshape(cells).copy(), n)
    value = whole[1:] / whole[0]
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    if n > 1:
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
        bottom = (drawn @ sums[:, 0])[:, None]
        bottom[bottom == 0] = np.nan
        for start in range(0, len(value), _CELLS_AT_ONCE):
            part = slice(start, start + _CELLS_AT_ONCE)
            ratios = (drawn @ sums[:, 1:][:, part]) / bottom
            low[part], high[part] = np.nanquantile(ratios, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return CellIntervals(value.reshape(cells), low.reshape(cells), high.reshape(cells), n)


def family_p(
    values: Float[np.ndarray, "item *cell"], *, clusters: Sequence[str], seed: int
) -> Float[np.ndarray, "*cell"]:
    """Return p-values of "as often below zero as above", adjusted over all cells together.

    The signs of whole clusters are flipped; each cell is held against the *largest* cell of every flip (Westfall and
    Young's single step), which keeps the family-wise error and, unlike Holm on drawn p-values, isn't bounded below by
    cells / flips. All patterns are gone through when there are at most eleven clusters. Two-sided.

    Args:
        values: One value per item and cell; items with a NaN in any cell are left out.
        clusters: What each item is independent by.
        seed: Seed of the flips drawn.
    """
    sums, counts = _cluster_sums(values, clusters)
    n, cells = len(counts), values.shape[1:]
    if n == 0:
        return np.full(cells, np.nan)
    # Flips leave a cell's own scale as it is, so that loud and quiet heads compete on equal terms.
    scale = np.sqrt(np.square(sums).sum(0))
    shares = np.divide(sums, scale, out=np.zeros_like(sums), where=scale > 0)
    observed = np.abs(shares.sum(0)) - _ROUNDING
    reached = np.zeros(len(scale))
    total = 0
    for signs in _sign_patterns(n, seed=seed):
        largest = np.abs(signs @ shares).max(-1)
        reached += (largest[:, None] >= observed).sum(0)
        total += len(signs)
    exact = n <= _EXACT_UP_TO
    return ((reached if exact else reached + 1) / (total if exact else total + 1)).reshape(cells)


def by_pattern(values: Float[np.ndarray, "item cell"], make: Callable[[np.ndarray], CellIntervals]) -> CellIntervals:
    """Return intervals of cells that aren't known for the same items: a prompt may lack a span, or its alignment.

    Args:
        values: One value per item and cell.
        make: Gives the intervals of cells that are.

    Returns:
        The intervals; ``n`` is that of the cells known for most clusters.
    """
    value, low, high = (np.full(values.shape[1], np.nan) for _ in range(3))
    patterns, member = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    n = 0
    for index in range(patterns.shape[1]):
        chosen = np.flatnonzero(member.ravel() == index)
        found = make(values[:, chosen])
        value[chosen], low[chosen], high[chosen] = found.value, found.low, found.high
        n = max(n, found.n)
    return CellIntervals(value, low, high, n)


def known_means(values: Float[np.ndarray, "*lead item cell"]) -> Float[np.ndarray, "*lead cell"]:
    """Return means over the items that are known, cell by cell; NaN where none is.

    Args:
        values: Any values whose last axes are item and cell.
    """
    counts = (~np.isnan(values)).sum(-2)
    sums = np.nansum(values, axis=-2)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _sign_patterns(n: int, *, seed: int) -> list[Float[np.ndarray, "flip cluster"]]:
    if n <= _EXACT_UP_TO:
        return [1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)]
    rng = np.random.default_rng(seed)
    return [rng.choice(np.array([-1.0, 1.0]), size=(500, n)) for _ in range(FLIPS // 500)]


def _cluster_sums(
    values: np.ndarray, clusters: Sequence[str]
) -> tuple[Float[np.ndarray, "cluster cell"], Float[np.ndarray, " cluster"]]:
    flat = np.asarray(values, dtype=float).reshape(len(values), -1)
    known = ~np.isnan(flat).any(1)
    _, index = np.unique(np.asarray(clusters, dtype=object)[known].astype(str), return_inverse=True)
    n = int(index.max()) + 1 if len(index) else 0
    sums = np.zeros((n, flat.shape[1]))
    np.add.at(sums, index, flat[known])
    return sums, np.bincount(index, minlength=n).astype(float)
