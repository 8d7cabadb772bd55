"""Statistics that several analyses need: intervals, rates, rankings and tests over independent items.

Items are the unit. Both answer orders of an item belong together, and so do items of one cluster
(variants of one question): the bootstrap draws clusters, never rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from workbench.errors import ParameterError

RESAMPLES = 4000
LEVEL = 0.05
"""Error of a headline: over everything that it was chosen from together."""
FLOORS = 3.0
"""What is under so many noise floors may be rounding."""
FEWEST_DRAWS = 3
"""With fewer random changes nothing can be told from chance."""
_EXACT_UP_TO = 16
_ROUNDING = 1e-12


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


def slot_sign(labels: Int[np.ndarray, " item"], orders: Sequence[str]) -> Float[np.ndarray, "item order"]:
    """Return +1 where the labelled answer stands in the first slot, -1 in the second, NaN without a label.

    Args:
        labels: Index of the better answer in each item's own order; -1 where nobody said.
        orders: Answer orders shown.
    """
    sign = np.where(labels < 0, np.nan, 1.0 - 2.0 * labels)
    shown = np.array([1.0 if order == "original" else -1.0 for order in orders])
    return sign[:, None] * shown[None, :]


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
    _, index = np.unique(_labels(top, clusters)[known], return_inverse=True)
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


def share_interval(
    hits: Float[np.ndarray, "item *order"], *, clusters: Sequence[object] | None = None, level: float = 0.95
) -> Interval:
    """Return a rate with its Wilson interval, counting each cluster as one trial.

    Within a cluster hits may be correlated at will, so that its mean varies at most as one trial does: the
    interval is never too narrow.

    Args:
        hits: 0 or 1 per item, or per item and answer order; items with a NaN are left out.
        clusters: What each item is independent by; every item on its own when None.
        level: Coverage of the interval.
    """
    flat = _per_item(hits)
    known = ~np.isnan(flat)
    n = len(set(_labels(flat, clusters)[known].tolist()))
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    rate = float(flat[known].mean())
    return Interval(rate, *_wilson(rate, n, level=level), n)


def sign_flip_test(
    values: Float[np.ndarray, "item *order"],
    *,
    seed: int,
    clusters: Sequence[object] | None = None,
    permutations: int = 2000,
) -> float:
    """Return the two-sided p of "these paired differences are as often below zero as above", by flipping signs.

    The sum over a cluster keeps or changes its sign as one. All ``2^n`` patterns are gone through when they are no
    more than ``permutations`` (and n is at most 16); otherwise random ones are drawn and the observed one counts as
    drawn, so that p is never 0.

    Args:
        values: One difference per item, or per item and answer order; items with a NaN are left out.
        seed: Seed of the patterns drawn.
        clusters: What each item is independent by; every item on its own when None.
        permutations: Number of patterns drawn.

    Returns:
        The p-value; NaN without any item.

    Raises:
        ParameterError: ``clusters`` has another length than ``values``, or there is no permutation to draw.
    """
    if permutations < 1:
        raise ParameterError("too small.", argument="permutations", got=permutations, allowed="1 or more")
    sums = _cluster_sums(_per_item(values), clusters)
    n = len(sums)
    if n == 0:
        return float("nan")
    observed = abs(sums.sum()) - _ROUNDING * np.abs(sums).sum()
    if n <= _EXACT_UP_TO and 2**n <= permutations:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ sums) >= observed).mean())
    rng = np.random.default_rng(seed)
    reached = 1
    for start in range(0, permutations, 512):
        signs = rng.choice(np.array([-1.0, 1.0]), size=(min(512, permutations - start), n))
        reached += int((np.abs(signs @ sums) >= observed).sum())
    return reached / (permutations + 1)


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Return Holm's step-down adjusted p-values; NaN entries were not tested and don't count.

    Args:
        p: Raw p-values of one family.
    """
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    raised = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted


def further_draw(draws: Float[np.ndarray, " draw"], *, level: float = 0.95) -> tuple[float, float]:
    """Return where one more draw of a control falls (Student's prediction interval); NaN with fewer than two.

    Args:
        draws: The same number under several independent controls.
        level: Coverage of the interval.
    """
    n = len(draws)
    if n < 2:
        return float("nan"), float("nan")
    reach = stats.t.ppf(0.5 + level / 2, n - 1) * draws.std(ddof=1) * np.sqrt(1 + 1 / n)
    return float(draws.mean() - reach), float(draws.mean() + reach)


class Chance(NamedTuple):
    """Where one more random change would fall, and how unlikely it is to fall as far out as the effect."""

    value: float
    """Mean of the draws."""
    low: float
    """Lower end of the 95% prediction interval."""
    high: float
    """Upper end."""
    p: float
    """Two-sided p-value of the effect as a further draw; 1 with too few draws."""


def against_draws(effect: float, draws: Float[np.ndarray, " draw"]) -> Chance:
    """Hold an effect against random draws: Student's prediction of one more draw.

    One random change moves every item the same way, so that items alone can't tell an effect from
    chance; only several changes show how far chance goes.

    Args:
        effect: Value of the real change.
        draws: Values of the random ones.
    """
    mean = float(draws.mean()) if len(draws) else np.nan
    if len(draws) < FEWEST_DRAWS:
        return Chance(mean, np.nan, np.nan, 1.0)
    low, high = further_draw(draws)
    spread = float(draws.std(ddof=1) * np.sqrt(1 + 1 / len(draws)))
    if spread == 0.0:
        return Chance(mean, low, high, float(effect == mean))
    return Chance(mean, low, high, float(2 * stats.t.sf(abs(effect - mean) / spread, len(draws) - 1)))


def among_draws(effect: float, draws: Float[np.ndarray, " draw"], *, level: float = 0.95) -> Chance:
    """Hold an effect against random choices of the same kind: how many of them reach it?

    Where draws are few things of unlike worth (sets of heads, say) they aren't normal, and :func:`against_draws` would
    mislead. The effect counts as one of the draws, so that p is at least ``1 / (draws + 1)``.

    Args:
        effect: Value of the real choice.
        draws: Values of the random ones.
        level: Share of the draws between the ends.

    Returns:
        Mean and central share of the draws, with a one-sided p; 1 with too few draws or without an effect.
    """
    if len(draws) < FEWEST_DRAWS or np.isnan(effect):
        return Chance(float(draws.mean()) if len(draws) else np.nan, np.nan, np.nan, 1.0)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    reached = int((draws >= effect - _ROUNDING).sum())
    return Chance(float(draws.mean()), float(low), float(high), (1 + reached) / (1 + len(draws)))


def auc_interval(
    positive: Float[np.ndarray, "item *order"],
    negative: Float[np.ndarray, "item *order"],
    *,
    seed: int,
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
) -> Interval:
    """Return the area under the ROC curve of telling two versions of the same items apart by one number.

    The share of (positive, negative) pairs of prompts in which the positive one is higher, ties counting half, with a
    bootstrap interval over clusters. Where every pair agrees, resampling sees no spread; the end is Wilson's for as
    many agreeing trials as there are clusters.

    Args:
        positive: The number for each item (and answer order) of the version to be told.
        negative: The same items of the other version; items with a NaN in either are left out.
        seed: Seed of the resampling.
        clusters: What each item is independent by; every item on its own when None.
        level: Coverage of the interval.

    Raises:
        ParameterError: Shapes or lengths differ.
    """
    if positive.shape != negative.shape:
        raise ParameterError(
            "both versions must be of the same items.",
            argument="negative",
            got=negative.shape,
            allowed=f"{positive.shape}",
        )
    wins, counts = _cluster_wins(positive, negative, clusters)
    n = len(counts)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    value = float(wins.sum() / np.outer(counts, counts).sum())
    if n == 1:
        return Interval(value, np.nan, np.nan, 1)
    if value in (0.0, 1.0):
        return Interval(value, *_wilson(value, n, level=level), n)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
    areas = ((drawn @ wins) * drawn).sum(1) / np.square(drawn @ counts)
    low, high = np.quantile(areas, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n)


def _cluster_wins(
    positive: np.ndarray, negative: np.ndarray, clusters: Sequence[object] | None
) -> tuple[Float[np.ndarray, "cluster cluster"], Float[np.ndarray, " cluster"]]:
    """Return the wins of each cluster's positive prompts over each cluster's negative ones, and prompts per cluster."""
    above, below = (np.asarray(x, dtype=float).reshape(len(x), -1) for x in (positive, negative))
    known = ~(np.isnan(above) | np.isnan(below)).any(1)
    _, index = np.unique(_labels(above, clusters)[known], return_inverse=True)
    index = np.repeat(index, above.shape[1])
    above, below = above[known].ravel(), below[known].ravel()
    n = int(index.max()) + 1 if len(index) else 0
    by_cluster = np.zeros((n, len(below)))
    for mine, value in zip(index, above, strict=True):
        by_cluster[mine] += (value > below) + 0.5 * (value == below)
    wins = np.stack([np.bincount(index, weights=row, minlength=n) for row in by_cluster]) if n else np.zeros((0, 0))
    return wins, np.bincount(index, minlength=n).astype(float)


def _labels(values: np.ndarray, clusters: Sequence[object] | None) -> np.ndarray:
    if clusters is None:
        return np.arange(len(values))
    if len(clusters) != len(values):
        raise ParameterError(
            "values and clusters must describe the same items.",
            argument="clusters",
            got=f"{len(clusters)} clusters",
            allowed=f"{len(values)}",
        )
    return np.unique([str(c) for c in clusters], return_inverse=True)[1]


def _cluster_sums(flat: np.ndarray, clusters: Sequence[object] | None) -> np.ndarray:
    known = ~np.isnan(flat)
    _, index = np.unique(_labels(flat, clusters)[known], return_inverse=True)
    return np.bincount(index, weights=flat[known])


def _wilson(rate: float, n: int, *, level: float) -> tuple[float, float]:
    z2 = float(stats.norm.ppf(0.5 + level / 2)) ** 2
    centre = (rate * n + z2 / 2) / (n + z2)
    half = np.sqrt(z2) / (n + z2) * np.sqrt(n * rate * (1 - rate) + z2 / 4)
    # At 0 and 1 rounding would leave the end on the wrong side of the rate.
    return max(0.0, min(rate, float(centre - half))), min(1.0, max(rate, float(centre + half)))
