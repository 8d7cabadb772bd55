"""Judge beside base over many cells, direct beside whole effects, one readout beside another: with what chance does."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from analyses.cells import CellIntervals, cell_intervals, family_p
from analyses.cross_model_patching.advantage import against_largest, means_on_same_items
from analyses.cross_model_patching.lens import aggregate
from analyses.cross_model_patching.lens.aggregate import Compared
from analyses.metrics import FLOORS, LEVEL, Interval

if TYPE_CHECKING:
    from analyses.cross_model_patching.lens.result import Side, VerdictLensResult

_RESAMPLES = 1000


class Changed(NamedTuple):
    """Judge minus base, cell by cell."""

    cells: CellIntervals
    """Oriented means with intervals over clusters."""
    p: Float[np.ndarray, " cell"]
    """Sign-flip p over clusters, family-wise over the cells."""
    chance_p: Float[np.ndarray, " cell"]
    """Against the largest cell of judges moved as far at random; 1 with too few."""
    bound: float
    """What the largest cell of one more of these stays within; NaN with too few."""
    random: Float[np.ndarray, " cell"]
    """Mean of the random judges' cells; NaN without any."""
    floor: float
    """What rounding alone may make of a cell."""

    @property
    def passing(self) -> Bool[np.ndarray, " cell"]:
        """Where a change is told from 0 over items, from random changes, and from rounding."""
        size = np.abs(self.cells.value)
        return (self.p < LEVEL) & (self.chance_p < LEVEL) & (size > FLOORS * self.floor)


class Ranked(NamedTuple):
    """Rank correlation of direct contributions and whole effects over cells."""

    rho: Interval
    """Spearman's, of means over items; resampled by cluster."""
    opposed: float
    """Share of cells whose direct contribution and whole effect point in opposite directions, among those where the
    intervals of both exclude 0; NaN without any."""


class Readouts(NamedTuple):
    """Other readouts of one model beside its own, on items nothing was fitted on."""

    fitted: Compared
    """All layers, weights fitted on the other half."""
    uniform: Compared
    """Mean over the last third of the layers."""
    shuffled: Interval
    """Balanced accuracy of fits to shuffled labels: mean, and where 95% of them lie; n counts fits."""


def changed(
    result: "VerdictLensResult",
    change: Float[np.ndarray, "item order cell"],
    draws: Float[np.ndarray, "draw item order cell"],
    *,
    floor: float,
) -> Changed:
    """Hold a change of cells against 0 and against random changes.

    Args:
        result: Orients, and knows the clusters.
        change: Judge minus base, slots as shown.
        draws: The same of random judges.
        floor: What rounding alone may make of a cell.
    """
    cells = result.cells(change)
    p = family_p(result.oriented(change), clusters=result.clusters, seed=result.meta.seed)
    means, same = means_on_same_items(result.oriented(draws), result.oriented(change))
    chance_p, bound = against_largest(same, means)
    random = means.mean(0) if len(means) else np.full(change.shape[-1], np.nan)
    return Changed(cells, p, chance_p, bound, random, floor)


def ranked(result: "VerdictLensResult", direction: int) -> Ranked:
    """Return how direct contributions rank against whole effects.

    Args:
        result: With both.
        direction: Of the patches; see the result.
    """
    direct, total = paired(result, direction)
    known = ~(np.isnan(direct).any(1) | np.isnan(total).any(1))
    direct, total = direct[known], total[known]
    if not len(direct) or direct.shape[1] < 3:
        return Ranked(Interval(np.nan, np.nan, np.nan, 0), float("nan"))
    kept = [result.clusters[int(i)] for i in np.flatnonzero(known)]
    names, index = np.unique(np.asarray(kept, dtype=object).astype(str), return_inverse=True)
    sums = np.zeros((2, len(names), direct.shape[1]))
    for at, values in enumerate((direct, total)):
        np.add.at(sums[at], index, values)
    whole = sums.sum(1)
    opposed = _opposed(direct, total, clusters=kept, seed=result.meta.seed)
    value = float(_spearman(whole[0], whole[1]))
    if len(names) < 2 or np.isnan(value):
        return Ranked(Interval(value, np.nan, np.nan, len(names)), opposed)
    rng = np.random.default_rng(result.meta.seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES).astype(float)
    found = _spearman(drawn @ sums[0], drawn @ sums[1])
    low, high = (float(end) for end in np.nanquantile(found, [0.025, 0.975]))
    return Ranked(Interval(value, low, high, len(names)), opposed)


def paired(
    result: "VerdictLensResult", direction: int
) -> tuple[Float[np.ndarray, "item cell"], Float[np.ndarray, "item cell"]]:
    """Return direct and whole effects of the parts that were patched, both as judge minus base.

    Args:
        result: With both.
        direction: Of the patches; effects of the base's values in the judge are turned round.
    """
    at = [index for index, part in enumerate(result.named_parts) if part.patched]
    sign = 1.0 if direction == 0 else -1.0
    direct = result.oriented((result.direct[1] - result.direct[0])[..., at])
    return direct, sign * result.oriented(result.total[direction][..., at])


def _opposed(direct: np.ndarray, total: np.ndarray, *, clusters: list[str], seed: int) -> float:
    cells = [cell_intervals(values, clusters=clusters, seed=seed) for values in (direct, total)]
    signs = [np.where(one.low > 0, 1, np.where(one.high < 0, -1, 0)) for one in cells]
    told = signs[0] * signs[1] != 0
    return float((signs[0] != signs[1])[told].mean()) if told.any() else float("nan")


def _spearman(first: Float[np.ndarray, "*lead cell"], second: Float[np.ndarray, "*lead cell"]) -> np.ndarray:
    """Return the rank correlation over the last axis; NaN where one side is constant."""
    ranks = [stats.rankdata(values, axis=-1) for values in (first, second)]
    centred = [rank - rank.mean(-1, keepdims=True) for rank in ranks]
    product, size = (centred[0] * centred[1]).sum(-1), np.sqrt(np.prod([np.square(c).sum(-1) for c in centred], axis=0))
    return np.asarray(np.divide(product, size, out=np.full(np.shape(size), np.nan), where=size > 0))


def readouts(result: "VerdictLensResult", side: "Side") -> Readouts:
    """Return how other readouts of a model agree with the labels, on held-out items.

    Args:
        result: With fitted weights.
        side: Which model.
    """
    index, held = (0 if side == "base" else 1), result.held_out
    margin, sign = result.own(side)[held], result.slot_sign()[held]
    kept = [result.clusters[int(i)] for i in np.flatnonzero(held)]

    def beside(weights: np.ndarray) -> Compared:
        return aggregate.compared(margin @ weights, margin[..., -1], sign, clusters=kept, seed=result.meta.seed)

    drawn = np.array([aggregate.balanced_accuracy(margin @ w, sign) for w in result.shuffled_weights[index]])
    ends = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else np.full(2, np.nan)
    mean = float(drawn.mean()) if len(drawn) else float("nan")
    return Readouts(
        fitted=beside(result.weights[index]),
        uniform=beside(aggregate.uniform(len(result.points))),
        shuffled=Interval(mean, float(ends[0]), float(ends[1]), len(drawn)),
    )
