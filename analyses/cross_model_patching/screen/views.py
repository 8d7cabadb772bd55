"""Numbers of a screen over items: maps with their tests, exact checks beside scores, and how far scores agree."""

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from analyses.cells import CellIntervals, cell_intervals, cell_ratios, family_p, known_means
from analyses.cross_model_patching.advantage import Advantage, advantage, against_largest
from analyses.cross_model_patching.screen.regions import BEFORE
from analyses.metrics import FLOORS, LEVEL, RESAMPLES, Interval

if TYPE_CHECKING:
    from analyses.cross_model_patching.screen.result import ScreenResult

STREAM = "stream"
"""Unit of an exact patch that holds a part's residual stream to the donor's in every block."""


class Check(NamedTuple):
    """One exact patch, on items it wasn't named on."""

    direction: str
    """Whose activations go where."""
    region: str
    """Part of the prompt."""
    unit: str
    """Component or head; ``stream`` for the residual stream of every block together."""
    screened: Interval
    """What the screen says of the same items; NaN for a stream."""
    exact: Interval
    """What the patch does to the margin, toward the label where there is one."""
    recovery: Interval
    """Share of the gap of the two models; NaN where that isn't defined."""
    mismatched: Interval
    """Share that another item's change recovers in the same place."""
    p: float
    """Sign-flip p over clusters, family-wise over all exact patches of the run."""
    chance: float
    """p against the largest exact patch of random judges."""
    found: bool
    """Whether it passes both, its interval excludes 0, and there is an advantage to look for."""

    @property
    def place(self) -> str:
        """Return e.g. ``attn_out.3 @ answer_b``."""
        return f"{self.unit} @ {self.region}"


class Agreement(NamedTuple):
    """How far scores agree with exact effects, cell by cell and prompt by prompt."""

    correlation: Interval
    """Pearson's."""
    slope: Interval
    """Exact effect per unit of score, by least squares through 0."""
    miss: float
    """Largest distance of a cell's mean score from its mean effect."""
    where: str
    """The cell it is at."""
    n_cells: int
    """How many cells."""


class ScreenMap(NamedTuple):
    """Scores of one direction over items."""

    cells: CellIntervals
    """Mean of each ``[region unit]``, toward the label where there is one."""
    p: Float[np.ndarray, "region unit"]
    """Sign-flip p, family-wise over the map."""
    bound: float
    """What the largest cell of one more random judge stays within."""
    standing_out: Bool[np.ndarray, "region unit"]
    """Which cells pass both. Screened cells: none of them is found."""


@lru_cache(maxsize=8)
def gate(result: "ScreenResult") -> Advantage:
    """Return what there is to recover."""
    draws = result.random_gap * result.slot_sign()
    gap = result.toward_label(result.judge_margin - result.base_margin)
    return advantage(gap, draws, clusters=result.clusters, seed=result.meta.seed)


def oriented(result: "ScreenResult", values: Float[np.ndarray, "item order *cell"]) -> np.ndarray:
    """Return effects toward the label; slots as shown where no item has one."""
    sign = result.slot_sign()
    sign = np.ones_like(sign) if np.isnan(sign).all() else sign
    return values * sign.reshape(*sign.shape, *([1] * (values.ndim - 2)))


def gap_of(result: "ScreenResult", direction: str) -> Float[np.ndarray, "item order"]:
    """Return the donor's margin minus the target's."""
    gap = result.judge_margin - result.base_margin
    return oriented(result, gap if direction == "judge_to_base" else -gap)


@lru_cache(maxsize=8)
def screen_map(result: "ScreenResult", direction: str) -> ScreenMap:
    """Return the map of a direction."""
    at = result.directions.index(direction)
    values = oriented(result, result.screened[at]).mean(1)
    cells = cell_intervals(values, clusters=result.clusters, seed=result.meta.seed)
    p = family_p(values, clusters=result.clusters, seed=result.meta.seed)
    draws = result.random_screened[:, at].reshape(-1, cells.value.size)
    same = known_means(values[result.random_items].reshape(-1, cells.value.size))
    chance, bound = against_largest(same, draws)
    apart = (cells.low > 0) | (cells.high < 0)
    return ScreenMap(cells, p, bound, (p < LEVEL) & (chance.reshape(p.shape) < LEVEL) & apart)


@lru_cache(maxsize=8)
def checks(result: "ScreenResult") -> tuple[Check, ...]:
    """Return every exact patch in front of the last token, by direction; streams of parts first."""
    seed, clusters, passed = result.meta.seed, result.clusters, gate(result)
    labels = [(at, k) for at, places in enumerate(result.places) for k in range(len(places))]
    values = np.stack([oriented(result, result.exact[at])[..., k].mean(-1) for at, k in labels], axis=-1)
    cells = cell_intervals(values, clusters=clusters, seed=seed)
    p = family_p(values, clusters=clusters, seed=seed)
    draws = np.stack([result.random_exact[:, at, k] for at, k in labels], axis=-1)
    chance, _ = against_largest(known_means(values[result.random_items]), draws)
    found = []
    for index, (at, k) in enumerate(labels):
        direction, (region, unit) = result.directions[at], result.places[at][k]
        exact = _picked(cells, index)
        holds = passed.found and exact.excludes(0.0) and bool(p[index] < LEVEL) and bool(chance[index] < LEVEL)
        found.append(Check(
            direction, region, unit,
            screened=_screened(result, at, region, unit),
            exact=exact,
            recovery=_recovery(result, result.exact[at][..., k], direction),
            mismatched=_recovery(result, result.mismatched[at][..., k], direction),
            p=float(p[index]),
            chance=float(chance[index]),
            found=holds and abs(exact.value) > FLOORS * (result.meta.noise_floor or 0.0),
        ))  # fmt: skip
    return tuple(found)


def shared_clusters(result: "ScreenResult") -> int:
    """Return on how many independent items exact patches are held against those of random judges."""
    both = result.random_items & ~result.ranked
    return len({cluster for cluster, kept in zip(result.clusters, both, strict=True) if kept})


def carried(result: "ScreenResult", direction: str, region: str = BEFORE) -> Check:
    """Return the exact patch of a part's whole stream."""
    return next(c for c in checks(result) if (c.direction, c.region, c.unit) == (direction, region, STREAM))


@lru_cache(maxsize=16)
def agreement(result: "ScreenResult", direction: str, where: str = "last") -> Agreement:
    """Return how far scores agree with exact effects.

    Args:
        result: The screen.
        direction: Whose activations go where.
        where: ``"last"`` for every unit at the last tokens, ``"mid"`` for the re-checked cells.
    """
    scores, exact, names = pairs(result, direction, where)
    known = np.asarray(~(np.isnan(scores) | np.isnan(exact)).any((1, 2)))
    _, index = np.unique(np.asarray(result.clusters, dtype=object)[known].astype(str), return_inverse=True)
    x, y = scores[known], exact[known]
    n_clusters = int(index.max()) + 1 if len(index) else 0
    parts = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y]).sum((2, 3))
    sums = np.zeros((n_clusters, 6))
    np.add.at(sums, index, parts.T)
    drawn = np.random.default_rng(result.meta.seed).multinomial(
        n_clusters, np.full(n_clusters, 1 / max(n_clusters, 1)), size=RESAMPLES if n_clusters > 1 else 0
    )
    whole, resampled = sums.sum(0), drawn.astype(float) @ sums
    means = np.abs(_mean_pairs(result, x, known) - _mean_pairs(result, y, known))
    worst = int(np.argmax(means)) if means.size else 0
    return Agreement(
        correlation=_spread(_pearson(whole), _pearson(resampled), n_clusters),
        slope=_spread(_slope(whole), _slope(resampled), n_clusters),
        miss=float(means[worst]) if means.size else float("nan"),
        where=names[worst] if names else "",
        n_cells=len(names),
    )


def pairs(
    result: "ScreenResult", direction: str, where: str
) -> tuple[Float[np.ndarray, "item order cell"], Float[np.ndarray, "item order cell"], tuple[str, ...]]:
    """Return scores, exact effects (slots as shown) and names of the cells that have both."""
    at = result.directions.index(direction)
    if where == "last":
        exact = result.exact_back[at]
        scores = result.back[at][:, :, : exact.shape[2]]
        names = tuple(f"{unit} @ {-k - 1}" for k in range(exact.shape[2]) for unit in result.units)
        return scores.reshape(*scores.shape[:2], -1), exact.reshape(*exact.shape[:2], -1), names
    chosen = [(k, *place) for k, place in enumerate(result.places[at]) if place[1] != STREAM]
    shape = (len(result.item_ids), len(result.orders), len(chosen))
    scores, exact = np.zeros(shape), np.zeros(shape)
    for column, (k, region, unit) in enumerate(chosen):
        scores[..., column] = scores_at(result, at, region, unit)
        exact[..., column] = result.exact[at][..., k]
    return scores, exact, tuple(f"{unit} @ {region}" for _, region, unit in chosen)


def scores_at(result: "ScreenResult", at: int, region: str, unit: str) -> Float[np.ndarray, "item order"]:
    """Return the scores of a cell: of a part, or of a token from the end."""
    column = result.units.index(unit)
    if region in result.regions:
        return result.screened[at][:, :, result.regions.index(region), column]
    return result.back[at][:, :, -int(region) - 1, column]


def _screened(result: "ScreenResult", at: int, region: str, unit: str) -> Interval:
    if unit == STREAM:
        return Interval(np.nan, np.nan, np.nan, 0)
    tested = ~result.ranked
    values = oriented(result, scores_at(result, at, region, unit)).mean(1)
    return result.mean(np.where(tested, values, np.nan))


def _recovery(result: "ScreenResult", effect: Float[np.ndarray, "item order"], direction: str) -> Interval:
    if not gate(result).defined:
        return Interval(np.nan, np.nan, np.nan, 0)
    top = oriented(result, effect).mean(1)[:, None]
    bottom = gap_of(result, direction).mean(1)
    return _picked(cell_ratios(top, bottom, clusters=result.clusters, seed=result.meta.seed), 0)


def _picked(cells: CellIntervals, index: int) -> Interval:
    return Interval(float(cells.value[index]), float(cells.low[index]), float(cells.high[index]), cells.n)


def _mean_pairs(result: "ScreenResult", values: np.ndarray, known: np.ndarray) -> np.ndarray:
    sign = np.nan_to_num(result.slot_sign()[known])
    sign = np.ones_like(sign) if not sign.any() else sign
    return (values * sign[..., None]).mean((0, 1)) if len(values) else np.zeros(0)


def _pearson(sums: Float[np.ndarray, "*draw six"]) -> np.ndarray:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y)))


def _slope(sums: Float[np.ndarray, "*draw six"]) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 5] / sums[..., 3])


def _spread(value: np.ndarray, draws: np.ndarray, n: int) -> Interval:
    known = draws[np.isfinite(draws)]
    if not len(known) or not np.isfinite(value):
        return Interval(float(value), np.nan, np.nan, n)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(float(value), float(low), float(high), n)
