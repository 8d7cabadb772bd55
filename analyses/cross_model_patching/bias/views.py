"""Numbers read off a located bias: the bias itself, what every cell takes away, whether the named set is confirmed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from analyses.cells import CellIntervals, by_pattern, cell_ratios, family_p, known_means
from analyses.cross_model_patching.advantage import LEAST_GAP, against_largest, means_on_same_items
from analyses.cross_model_patching.bias.plan import PERTURBED, PLACEBO, UNPERTURBED
from analyses.metrics import (
    FLOORS,
    LEVEL,
    Chance,
    Interval,
    against_draws,
    mean_interval,
    ratio_interval,
    share_interval,
    sign_flip_test,
)

if TYPE_CHECKING:
    from analyses.cross_model_patching.bias.result import BiasSitesResult

_NO_CHANCE = Chance(np.nan, np.nan, np.nan, 1.0)


class Bias(NamedTuple):
    """How far a verdict moves toward the biased side, beyond the placebo; logits (or score)."""

    own: Interval
    """Of the model looked at."""
    other: Interval
    """Of the other model, toward the same side."""
    placebo: Interval
    """What was taken off the model's own shift for its placebo; NaN without one."""
    shift: Interval
    """Margin toward the side, shown less held against: what a patch could take away in all."""
    made: Interval
    """Judge minus base."""
    p: float
    """Two-sided sign-flip p of ``own`` over items."""
    chance: Chance
    """What judges moved as far at random add to the base's bias, and whether ``own`` is further out."""
    made_chance: Chance
    """The same, held against ``made``."""
    floor: float
    """What may be rounding."""

    @property
    def defined(self) -> bool:
        """Whether shares of the shift mean anything."""
        return self.shift.value >= LEAST_GAP and self.shift.excludes(0.0)

    @property
    def over_items(self) -> bool:
        """Whether items tell it from 0."""
        return self.own.low > 0 and self.p < LEVEL and self.own.value > max(LEAST_GAP, FLOORS * self.floor)

    @property
    def present(self) -> bool:
        """Whether there is a bias to locate: over items, and further than random changes move the verdicts."""
        return self.defined and self.over_items and self.chance.p < LEVEL and self.own.value > self.chance.value

    @property
    def from_tuning(self) -> bool:
        """Whether judge and base differ in it by more than random changes make."""
        return self.made.excludes(0.0) and self.made_chance.p < LEVEL


class CellMap(NamedTuple):
    """One intervention in every cell; every array is [cell]."""

    share: CellIntervals
    """Share of the shift it takes away; NaN where that isn't defined."""
    removed: Float[np.ndarray, " cell"]
    """The same in logits (or score)."""
    p_items: Float[np.ndarray, " cell"]
    """Sign-flip p over items, adjusted over the cells."""
    p_chance: Float[np.ndarray, " cell"]
    """p against the largest cell of random judges; 1 with too few."""
    bound: float
    """What one more random judge's largest cell stays within; NaN with too few."""
    found: Bool[np.ndarray, " cell"]
    """Cells that pass: something to take away, it does so, and both p are below .05."""


class Check(NamedTuple):
    """One intervention on the named set, on the half it wasn't named on."""

    share: Interval
    """Share of the shift it takes away."""
    random: Chance
    """The same of random sets: where one more of them falls, and whether the named set lies above."""

    @property
    def holds(self) -> bool:
        """Whether it takes some of the bias away, and more than random sets do."""
        return self.share.low > 0 and self.random.p < LEVEL and self.share.value > self.random.value


class SideEffect(NamedTuple):
    """What the ablation does to judging items nothing was done to."""

    before: Interval
    """Margin toward the label (or toward the model's own verdict, where nothing is labelled)."""
    lost: Interval
    """How much of it the ablation takes."""
    share: Interval
    """The same as a share; NaN where the margin before is too small."""
    random: float
    """Mean share random sets take."""
    right: Interval
    """Share of verdicts for the labelled answer before (or of equal verdicts)."""
    right_after: Interval
    """The same under the ablation."""
    mass: tuple[float, float]
    """Mean probability of all labels before and under the ablation."""
    labelled: bool
    """Whether labels say what is right."""


class Confirmation(NamedTuple):
    """What the other half of the items says of the named set."""

    patched: Check
    """Given what the run without the bias holds."""
    ablated: Check
    """Held at a value that knows nothing of the item."""
    induced: Check
    """Put into the run without the bias: share of the shift that appears; NaN for position."""
    given: Check
    """Given the other model's activations; the control is random judges instead of random sets."""
    side: SideEffect
    """What the ablation does besides."""

    @property
    def spared(self) -> bool | None:
        """Whether judging loses a smaller share than the bias does; None where it can't be said."""
        if np.isnan(self.side.share.value):
            return None
        return self.side.share.high < self.ablated.share.value or self.side.share.value < 0.5 * self.ablated.share.value

    @property
    def holds(self) -> bool:
        """Whether two interventions confirm the set; an ablation that breaks the judge is none."""
        selective = self.ablated.holds and self.spared is not False
        return self.patched.holds and (selective or self.induced.holds)


def oriented(
    sign: Float[np.ndarray, "item order"],
    margins: Float[np.ndarray, "condition item order"],
    conditions: Sequence[str],
    *,
    target: str,
    naming: Bool[np.ndarray, " item"],
) -> Float[np.ndarray, "item order"]:
    """Return +1 where the biased side is the first slot, -1 where it is the second; NaN where there is none.

    Where nothing is favoured, each prompt's own shift says which way it moved. The slot a model prefers is read on
    the half sites are named on.

    Args:
        sign: The plan's.
        margins: Of the model looked at.
        conditions: Names of the first axis.
        target: What a biased judge moves toward.
        naming: Items sites are named on.
    """
    if target == "none":
        return np.sign(margins[conditions.index(PERTURBED)] - margins[conditions.index(UNPERTURBED)])
    if PERTURBED in conditions:
        return sign
    chosen = margins[0][naming] if naming.any() else margins[0]
    known = chosen[~np.isnan(chosen)]
    return sign * (-1.0 if known.size and known.mean() < 0 else 1.0)


def toward(result: "BiasSitesResult") -> Float[np.ndarray, "item order"]:
    """Return the orientation of a result, by the model it looks at."""
    return oriented(
        result.sign, result.margins(result.side), result.conditions, target=result.target, naming=result.naming > 0
    )


def bias_of(
    result: "BiasSitesResult", margins: Float[np.ndarray, "condition item order"]
) -> Float[np.ndarray, " item"]:
    """Return the bias of any model on every item, toward the side of the model looked at."""
    own = _shift_from_unperturbed(result, margins, 0)
    share = _placebo_share(result)
    return own if share == 0 else own - share * _shift_from_unperturbed(result, margins, _at(result, PLACEBO))


def bias(result: "BiasSitesResult") -> Bias:
    """Return the bias of both models beside its controls."""
    own, other = (bias_of(result, result.margins(side)) for side in (result.side, result.other_side))
    judge, base = (own, other) if result.side == "judge" else (other, own)
    margins = result.margins(result.side)
    share = _placebo_share(result)
    placebo = (
        share * _shift_from_unperturbed(result, margins, _at(result, PLACEBO)) if share else np.full(len(own), np.nan)
    )
    drawn = np.array([bias_of(result, margin) - base for margin in result.random_margin])
    # Two columns over the same items: what is held against the changes, and the same changes for both.
    changes, (mine, added) = means_on_same_items(
        np.repeat(drawn.reshape(-1, len(own), 1), 2, axis=2), np.stack([own, judge - base], axis=1)
    )
    chance, made_chance = (
        (against_draws(float(value), changes[:, 0]) for value in (mine, added))
        if len(changes)
        else (_NO_CHANCE, _NO_CHANCE)
    )
    return Bias(
        own=_mean(result, own),
        other=_mean(result, other),
        placebo=_mean(result, placebo),
        shift=_mean(result, shift(result)),
        made=_mean(result, judge - base),
        p=sign_flip_test(own, seed=result.meta.seed, clusters=result.clusters),
        chance=chance,
        made_chance=made_chance,
        floor=result.meta.noise_floor or 0.0,
    )


def shift(result: "BiasSitesResult") -> Float[np.ndarray, " item"]:
    """Return how far the verdict of the model looked at lies toward its side of where a patch could bring it."""
    margins = result.margins(result.side)
    held = 0.0 if result.reference is None else margins[_at(result, result.reference)]
    return (toward(result) * (margins[0] - held)).mean(-1)


def patched_map(result: "BiasSitesResult") -> CellMap:
    """Return what the run without the bias takes away, cell by cell."""
    return _map(result, result.effect, result.random_effect)


def given_map(result: "BiasSitesResult") -> CellMap:
    """Return what the other model's activations take away, cell by cell."""
    return _map(result, result.other_effect, result.random_other_effect)


def naming_map(result: "BiasSitesResult") -> CellMap:
    """Return the map sites were named on: the patch, or for position the other model's activations."""
    return patched_map(result) if result.reference is not None else given_map(result)


def confirmation(result: "BiasSitesResult") -> Confirmation | None:
    """Return what the other half says of the named set; None where nothing was named."""
    if not result.sets:
        return None
    sign, whole = toward(result), shift(result)
    patched = [-(effect * sign).mean(-1) for effect in result.set_effect]
    ablated = [whole - (after * sign).mean(-1) for after in result.set_shift]
    given = -(result.set_other_effect[0] * sign).mean(-1)
    drawn = -(result.random_set_other_effect[:, 0] * sign).mean(-1)
    draws, same = means_on_same_items(drawn[..., None], given[:, None])
    size = _known_mean(np.where(np.isnan(given), np.nan, whole))
    random, mine = (draws[:, 0] / size, float(same[0]) / size) if size else (np.zeros(0), np.nan)
    return Confirmation(
        patched=_check(result, patched, whole),
        ablated=_check(result, ablated, whole),
        induced=_check(result, [(effect * sign).mean(-1) for effect in result.set_induced], whole),
        given=Check(_ratio(result, given, whole), against_draws(mine, random)),
        side=_side_effect(result),
    )


def _map(result: "BiasSitesResult", effect: np.ndarray, random: np.ndarray) -> CellMap:
    told, sign, whole = bias(result), toward(result), shift(result)
    removed = -(effect * sign[..., None]).mean(1)
    share = by_pattern(removed, lambda part: cell_ratios(part, whole, clusters=result.clusters, seed=result.meta.seed))
    means = known_means(removed)
    if not told.defined:
        blank = np.full(len(means), np.nan)
        share = CellIntervals(blank, blank.copy(), blank.copy(), share.n)
    known = ~np.isnan(whole)
    clusters = [c for c, k in zip(result.clusters, known, strict=True) if k]
    p_items = family_p(np.nan_to_num(removed[known]), clusters=clusters, seed=result.meta.seed)
    draws, same = means_on_same_items(-(random * sign[..., None]).mean(2), removed)
    p_chance, bound = against_largest(same, draws)
    passed = (means > FLOORS * told.floor) & (p_items < LEVEL) & (p_chance < LEVEL)
    return CellMap(share, means, p_items, p_chance, bound, passed & told.present)


def shared_clusters(result: "BiasSitesResult") -> int:
    """Return on how many independent items of the other half random judges were asked."""
    own, drawn = np.isnan(result.set_other_effect[0]).any(-1), np.isnan(result.random_set_other_effect[:, 0]).any(-1)
    both = np.flatnonzero(~own & ~drawn.all(0))
    return len({result.clusters[int(i)] for i in both})


def _check(result: "BiasSitesResult", removed: Sequence[np.ndarray], whole: np.ndarray) -> Check:
    own = _ratio(result, removed[0], whole)
    others = np.array([_ratio_value(part, whole) for part in removed[1:]])
    return Check(own, against_draws(own.value, others[~np.isnan(others)]))


def _side_effect(result: "BiasSitesResult") -> SideEffect:
    labelled = bool((result.labels >= 0).any())
    margin = result.margins(result.side)[_at(result, result.plain)]
    sign = result.slot_sign() if labelled else np.sign(margin)
    own = np.where(np.isnan(result.set_plain[0]), np.nan, margin) * sign
    after = [plain * sign for plain in result.set_plain]
    before = _mean(result, own.mean(-1))
    lost = [(own - part).mean(-1) for part in after]
    share = _ratio(result, lost[0], own.mean(-1))
    defined = before.value >= LEAST_GAP and before.excludes(0.0)
    random = [_ratio_value(part, own.mean(-1)) for part in lost[1:]]
    right, right_after = (
        share_interval(np.where(np.isnan(part), np.nan, part > 0), clusters=result.clusters) for part in (own, after[0])
    )
    held = ~np.isnan(result.ablated_mass)
    masses = [float(m[held].mean()) if held.any() else np.nan for m in (result.plain_mass, result.ablated_mass)]
    return SideEffect(
        before=before,
        lost=_mean(result, lost[0]),
        share=share if defined else Interval(np.nan, np.nan, np.nan, share.n),
        random=float(np.mean(random)) if random and defined else np.nan,
        right=right,
        right_after=right_after,
        mass=(masses[0], masses[1]),
        labelled=labelled,
    )


def _shift_from_unperturbed(result: "BiasSitesResult", margins: np.ndarray, at: int) -> Float[np.ndarray, " item"]:
    if result.reference is None:
        return (toward(result) * margins[at]).mean(-1)
    moved = margins[at] - margins[_at(result, UNPERTURBED)]
    return (np.abs(moved) if result.target == "none" else toward(result) * moved).mean(-1)


def _placebo_share(result: "BiasSitesResult") -> float:
    return -result.weights[_at(result, PLACEBO)] if PLACEBO in result.conditions else 0.0


def _at(result: "BiasSitesResult", condition: str) -> int:
    return result.conditions.index(condition)


def _mean(result: "BiasSitesResult", values: np.ndarray) -> Interval:
    return mean_interval(values, seed=result.meta.seed, clusters=result.clusters)


def _ratio(result: "BiasSitesResult", top: np.ndarray, bottom: np.ndarray) -> Interval:
    held = np.where(np.isnan(top), np.nan, bottom)
    return ratio_interval(top, held, seed=result.meta.seed, clusters=result.clusters)


def _ratio_value(top: np.ndarray, bottom: np.ndarray) -> float:
    known = ~(np.isnan(top) | np.isnan(bottom))
    if not known.any():
        return np.nan
    whole = float(bottom[known].sum())
    return float(top[known].sum()) / whole if whole else 0.0


def _known_mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0
