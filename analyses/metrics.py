"""Statistics that several analyses need: intervals over independent items, seeded and clustered.

Items are the unit. Both answer orders of an item belong together, and so do items of one cluster
(variants of one question): the bootstrap draws clusters, never rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from workbench.errors import ParameterError

RESAMPLES = 4000


class Interval(NamedTuple):
    """A point estimate with its percentile-bootstrap interval over clusters of items."""

    value: float
    """Point estimate."""
    low: float
    """Lower end; NaN with fewer than two clusters."""
    high: float
    """Upper end; NaN with fewer than two clusters."""
    n: int
    """Number of clusters (independent items) that had a value."""

    def excludes(self, null: float) -> bool:
        """Return whether the interval lies wholly to one side of ``null``; False when it isn't defined."""
        return self.low > null or self.high < null


def mean_interval(
    values: Float[np.ndarray, "item *order"],
    *,
    seed: int,
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
) -> Interval:
    """Return the mean over items with a cluster-bootstrap interval.

    Args:
        values: One value per item, or per item and answer order; items with a NaN are left out.
        seed: Seed of the resampling.
        clusters: What each item is independent by; every item on its own when None.
        level: Coverage of the interval.

    Raises:
        ParameterError: ``clusters`` has another length than ``values``.
    """
    flat = _per_item(values)
    return ratio_interval(flat, np.ones_like(flat), seed=seed, clusters=clusters, level=level)


def ratio_interval(
    numerator: Float[np.ndarray, "item *order"],
    denominator: Float[np.ndarray, "item *order"],
    *,
    seed: int,
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
) -> Interval:
    """Return the ratio of the two means (never the mean of ratios) with a cluster-bootstrap interval.

    A ratio of zero to zero is 0, the value TuCo has when nothing moved.

    Args:
        numerator: One value per item, or per item and answer order.
        denominator: The same shape; items with a NaN in either are left out.
        seed: Seed of the resampling.
        clusters: What each item is independent by; every item on its own when None.
        level: Coverage of the interval.

    Raises:
        ParameterError: Shapes or lengths differ.
    """
    if numerator.shape != denominator.shape or (clusters is not None and len(clusters) != len(numerator)):
        raise ParameterError(
            "numerator, denominator and clusters must describe the same items.",
            argument="denominator",
            got=f"{numerator.shape}, {denominator.shape}, {len(clusters or ())} clusters",
        )
    top, bottom = _per_item(numerator), _per_item(denominator)
    known = ~(np.isnan(top) | np.isnan(bottom))
    labels = np.arange(len(top)) if clusters is None else np.unique([str(c) for c in clusters], return_inverse=True)[1]
    _, index = np.unique(labels[known], return_inverse=True)
    sums = [np.bincount(index, weights=part[known]) for part in (top, bottom)]
    return _bootstrap(sums[0], sums[1], seed=seed, level=level)


def _per_item(values: np.ndarray) -> np.ndarray:
    flat = np.asarray(values, dtype=float)
    return flat.mean(tuple(range(1, flat.ndim))) if flat.ndim > 1 else flat


def _ratio(top: np.ndarray, bottom: np.ndarray, axis: int) -> np.ndarray:
    sums = np.sum(top, axis=axis), np.asarray(np.sum(bottom, axis=axis))
    return np.divide(*sums, out=np.zeros_like(sums[1], dtype=float), where=sums[1] != 0)


def _bootstrap(top: np.ndarray, bottom: np.ndarray, *, seed: int, level: float) -> Interval:
    n = len(top)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    value = float(_ratio(top, bottom, axis=-1))
    if n == 1:
        return Interval(value, np.nan, np.nan, 1)
    result = stats.bootstrap(
        (top, bottom),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=256,
    )
    return Interval(value, float(result.confidence_interval.low), float(result.confidence_interval.high), n)
