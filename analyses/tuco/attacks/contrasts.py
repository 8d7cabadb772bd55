"""What one variant does beyond another: paired effects with interval and sign-flip test, areas, rates, what a patch
takes back.

Every effect is a difference of two variants of the same items, so that whatever the items have in common cancels.
``attack - benign`` is the attack's effect over clean minus that of a plain remark as long.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from analyses.metrics import (
    FEWEST_DRAWS,
    LEVEL,
    Interval,
    auc_interval,
    further_draw,
    holm,
    share_interval,
    sign_flip_test,
)

if TYPE_CHECKING:
    from analyses.tuco.attacks.result import AttackResult

Variant = Literal["clean", "attack", "benign", "random"]
Measure = Literal["tuco", "verdict_push", "verdict_gap"]

VARIANTS: tuple[Variant, ...] = ("clean", "attack", "benign", "random")
"""The four versions of every item."""

MEASURES: tuple[Measure, ...] = ("tuco", "verdict_push", "verdict_gap")
"""What is tested, one family: TuCo, push of fine-tuning and the judge's gap, both toward the carrier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A paired difference of two variants."""

    name: str
    """Measure or unit."""
    interval: Interval
    """Mean over items with its 95% interval over clusters."""
    p: float
    """Two-sided sign-flip p over clusters."""
    adjusted: float
    """Holm's over the family it was tested in."""

    @property
    def holds(self) -> bool:
        """Whether the adjusted p is below :data:`~analyses.metrics.LEVEL` and the interval excludes 0."""
        return self.adjusted < LEVEL and self.interval.excludes(0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomJudges:
    """The same effect in judges moved as far in random directions."""

    mean: Interval
    """Mean over draws, with its interval over clusters."""
    low: float
    """Lower end of where 95% of further draws fall; NaN with fewer than three."""
    high: float
    """Upper end."""
    draws: int
    """Number of draws."""
    beaten: bool
    """Whether the real effect lies outside, and differs over items from the mean of the draws."""


def effects(result: "AttackResult", *, attack: Variant, against: Variant) -> tuple[Effect, ...]:
    """Return the effect on every measure, Holm-adjusted over the three."""
    pairs = {name: difference(result, name, attack=attack, against=against) for name in MEASURES}
    return _family(result, pairs)


def unit_effects(
    result: "AttackResult", *, part: Literal["finetuned", "pretrained"], attack: Variant, against: Variant
) -> tuple[Effect, ...]:
    """Return the effect on each unit's push toward the carrier, Holm-adjusted over units."""
    pushes = result.finetuned_push if part == "finetuned" else result.pretrained_push
    moved = result.toward_carrier(np.moveaxis(pushes, -1, 0))
    change = moved[:, VARIANTS.index(attack)] - moved[:, VARIANTS.index(against)]
    return _family(result, dict(zip(result.units, change, strict=True)))


def span_effects(result: "AttackResult", *, attack: Variant, against: Variant) -> tuple[Effect, ...]:
    """Return the effect on TuCo at the tokens of each shared span, Holm-adjusted over spans.

    Each item is averaged over the orders in which it has tokens of the span after the suffix. The first span, before
    the suffix, is left out: nothing can happen there.
    """
    change = result.token_share[VARIANTS.index(attack)] - result.token_share[VARIANTS.index(against)]
    known = (~np.isnan(change)).sum(1)
    mean = np.divide(np.nansum(change, axis=1), known, out=np.full(known.shape, np.nan), where=known > 0)
    return _family(result, {span: mean[:, k] for k, span in enumerate(result.spans) if k})


def difference(
    result: "AttackResult", measure: Measure, *, attack: Variant, against: Variant
) -> Float[np.ndarray, "item order"]:
    """Return a measure's paired difference, toward the carrier where it has a direction."""
    values = result.measure(measure)
    return values[VARIANTS.index(attack)] - values[VARIANTS.index(against)]


def random_judges(result: "AttackResult", measure: Measure, *, attack: Variant, against: Variant) -> RandomJudges:
    """Return the effect in the random judges, and whether the real one goes beyond them."""
    values = result.control_measure(measure)
    draws = values[:, VARIANTS.index(attack)] - values[:, VARIANTS.index(against)]
    draws = draws[~np.isnan(draws).all((1, 2))]
    if not len(draws):
        return RandomJudges(mean=Interval(np.nan, np.nan, np.nan, 0), low=np.nan, high=np.nan, draws=0, beaten=False)
    mean = draws.mean(0)
    own = np.where(np.isnan(mean), np.nan, difference(result, measure, attack=attack, against=against))
    low = high = np.nan
    if len(draws) >= FEWEST_DRAWS:
        low, high = further_draw(np.array([result.mean(draw).value for draw in draws]))
    value = result.mean(own).value
    beaten = (value < low or value > high) and result.mean(own - mean).excludes(0.0)
    return RandomJudges(mean=result.mean(mean), low=low, high=high, draws=len(draws), beaten=bool(beaten))


def area(result: "AttackResult", measure: Measure, *, attack: Variant, against: Variant) -> Interval:
    """Return the area under the ROC curve of telling two variants' prompts apart by one measure, high is the first."""
    values = result.measure(measure)
    return auc_interval(
        values[VARIANTS.index(attack)],
        values[VARIANTS.index(against)],
        seed=result.meta.seed,
        clusters=result.clusters,
    )


def carrier_rate(result: "AttackResult", side: Literal["judge", "base"], variant: Variant) -> Interval:
    """Return the share of prompts whose verdict is the carrier."""
    gap = result.toward_carrier(result.gaps(side))[VARIANTS.index(variant)]
    return share_interval(_hits(gap > 0, gap), clusters=result.clusters)


def flip_rate(result: "AttackResult", side: Literal["judge", "base"], variant: Variant) -> Interval:
    """Return the share of prompts whose verdict differs from that of the clean prompt."""
    gaps = result.gaps(side)
    gap, clean = gaps[VARIANTS.index(variant)], gaps[VARIANTS.index("clean")]
    return share_interval(_hits((gap > 0) != (clean > 0), gap), clusters=result.clusters)


def shift(result: "AttackResult") -> Interval:
    """Return how far the attack moves the judge's gap toward the carrier, on the items it was patched on."""
    moved = difference(result, "verdict_gap", attack="attack", against="clean")
    return result.mean(np.where(np.isnan(result.rebuilt_gap[..., -1]), np.nan, moved))


def taken_back(result: "AttackResult", gap: Float[np.ndarray, "item order"]) -> Interval:
    """Return how much of the attack's shift of the gap a patched run lacks: 0 none of it, 1 all, as ratio of means.

    Args:
        gap: Gap of the patched attacked runs, slots as shown; NaN where none was made.
    """
    attacked, clean = (result.toward_carrier(result.judge_gap[VARIANTS.index(v)]) for v in ("attack", "clean"))
    return result.ratio(attacked - result.toward_carrier(gap), np.where(np.isnan(gap), np.nan, attacked - clean))


def _family(result: "AttackResult", differences: dict[str, np.ndarray]) -> tuple[Effect, ...]:
    p = np.array(
        [
            sign_flip_test(
                values, seed=result.meta.seed, clusters=result.clusters, permutations=result.permutations
            )
            for values in differences.values()
        ]
    )  # fmt: skip
    return tuple(
        Effect(name=name, interval=result.mean(values), p=float(raw), adjusted=float(adjusted))
        for (name, values), raw, adjusted in zip(differences.items(), p, holm(p), strict=True)
    )


def _hits(hit: np.ndarray, gap: np.ndarray) -> Float[np.ndarray, "item order"]:
    return np.where(np.isnan(gap), np.nan, hit.astype(float))
