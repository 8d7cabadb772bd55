"""Statistics that several analyses need: intervals over items, seeded and clustered.

Items are the unit. Both answer orders of an item are one cluster: they are averaged first, and the
bootstrap draws items.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from workbench.errors import ParameterError

RESAMPLES = 4000


class Interval(NamedTuple):
    """A point estimate with its percentile-bootstrap interval over items."""

    value: float
    """Point estimate."""
    low: float
    """Lower end; NaN with fewer than two items."""
    high: float
    """Upper end; NaN with fewer than two items."""
    n: int
    """Number of items that had a value."""

    def excludes(self, null: float) -> bool:
        """Return whether the interval lies wholly to one side of ``null``; False when it isn't defined."""
        return self.low > null or self.high < null


def mean_interval(values: Float[np.ndarray, "item *order"], *, seed: int, level: float = 0.95) -> Interval:
    """Return the mean over items with a cluster-bootstrap interval.

    Args:
        values: One value per item, or per item and answer order; items with a NaN are left out.
        seed: Seed of the resampling.
        level: Coverage of the interval.
    """
    per_item = _per_item(values)
    return _bootstrap((per_item,), lambda x, axis: np.mean(x, axis=axis), seed=seed, level=level)


def ratio_interval(
    numerator: Float[np.ndarray, "item *order"],
    denominator: Float[np.ndarray, "item *order"],
    *,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Return the ratio of the two means (never the mean of ratios) with a cluster-bootstrap interval.

    A ratio of zero to zero is 0, the value TuCo has when nothing moved.

    Raises:
        ParameterError: The two arrays differ in shape.
    """
    if numerator.shape != denominator.shape:
        raise ParameterError(
            "numerator and denominator differ in shape.",
            argument="denominator",
            got=denominator.shape,
            allowed=str(numerator.shape),
        )
    top, bottom = numerator.reshape(len(numerator), -1).mean(1), denominator.reshape(len(denominator), -1).mean(1)
    known = ~(np.isnan(top) | np.isnan(bottom))

    def ratio(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        means = np.mean(x, axis=axis), np.mean(y, axis=axis)
        return np.divide(*means, out=np.zeros_like(means[0], dtype=float), where=np.asarray(means[1] != 0))

    return _bootstrap((top[known], bottom[known]), ratio, seed=seed, level=level)


def _per_item(values: np.ndarray) -> np.ndarray:
    means = np.asarray(values, dtype=float).reshape(len(values), -1).mean(1)
    return means[~np.isnan(means)]


def _bootstrap(samples: tuple[np.ndarray, ...], statistic: object, *, seed: int, level: float) -> Interval:
    n = len(samples[0])
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    value = float(np.asarray(statistic(*samples, axis=-1)))  # type: ignore[operator]
    if n == 1:
        return Interval(value, np.nan, np.nan, 1)
    result = stats.bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=256,
    )
    return Interval(value, float(result.confidence_interval.low), float(result.confidence_interval.high), n)
