"""Numbers read off a patching run: effects, recoveries, controls and tests of every cell, both directions together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from analyses.cells import CellIntervals, by_pattern, cell_intervals, cell_ratios, family_p, known_means
from analyses.cross_model_patching.advantage import Advantage, advantage, against_largest, means_on_same_items
from analyses.metrics import FLOORS, LEVEL, Interval, mean_interval, ratio_interval

if TYPE_CHECKING:
    from analyses.cross_model_patching.activations.result import ActivationPatchingResult


class Sweep(NamedTuple):
    """One direction's cells; every array is [cell]."""

    effect: CellIntervals
    """Mean change of the margin toward the label."""
    recovery: CellIntervals
    """Effect over the gap between donor and target, as a ratio of means; NaN where the gap is too small."""
    position: CellIntervals
    """Mean change of the margin toward the first slot, which an order swap doesn't turn round."""
    flips: Float[np.ndarray, " cell"]
    """Share of prompts whose verdict changes sign."""
    mass: Float[np.ndarray, " cell"]
    """Mean probability of all labels with the patch."""
    size: Float[np.ndarray, " cell"]
    """Mean length of the change over the length of what was there."""
    mismatched: CellIntervals
    """Mean effect of another item's activations; NaN for spans, and where not measured."""
    noise: CellIntervals
    """Mean effect of a random change of the same length."""
    p_items: Float[np.ndarray, " cell"]
    """Sign-flip p over items, adjusted over all cells of both directions."""
    p_chance: Float[np.ndarray, " cell"]
    """p against the largest cell of random judges; 1 where there are too few."""
    bound: float
    """What one more random judge's largest cell stays within; NaN where there are too few."""
    found: Bool[np.ndarray, " cell"]
    """Cells that pass: the pair has an advantage to locate, both p below .05, and rounding is far below."""

    @property
    def p(self) -> Float[np.ndarray, " cell"]:
        """Return the larger of the two p-values: both have to be small."""
        return np.fmax(self.p_items, self.p_chance)


def gate(result: "ActivationPatchingResult") -> Advantage:
    """Return whether there is an advantage of the judge to locate."""
    return advantage(
        toward(result, result.judge_margin - result.base_margin),
        (result.random_gap * result.slot_sign()).mean(2),
        clusters=result.clusters,
        seed=result.meta.seed,
    )


def toward(result: "ActivationPatchingResult", gap: Float[np.ndarray, "item order *cell"]) -> np.ndarray:
    """Return a slot-oriented quantity toward the label, averaged over orders: [item, *cell]."""
    sign = result.slot_sign().reshape(*gap.shape[:2], *([1] * (gap.ndim - 2)))
    return (gap * sign).mean(1)


def sweeps(result: "ActivationPatchingResult") -> dict[str, Sweep]:
    """Return every direction's numbers, by direction."""
    told = gate(result)
    count = len(result.directions)
    effects = [toward(result, result.effect[at]) for at in range(count)]
    labelled = result.labels >= 0
    p_items = _family(np.concatenate([e[labelled] for e in effects], axis=1), result)
    draws = np.concatenate(
        [(result.random_effect[:, at] * result.slot_sign()[..., None]).mean(2) for at in range(count)], axis=2
    )
    means, same = means_on_same_items(draws, np.concatenate(effects, axis=1))
    p_chance, bound = against_largest(same, means)
    cells = len(result.components)
    return {
        direction: _sweep(
            result, at, effects[at], told,
            p_items=p_items[at * cells : (at + 1) * cells], p_chance=p_chance[at * cells : (at + 1) * cells],
            bound=bound,
        )
        for at, direction in enumerate(result.directions)
    }  # fmt: skip


def _sweep(
    result: "ActivationPatchingResult", at: int, effect: np.ndarray, told: Advantage, *, p_items: np.ndarray,
    p_chance: np.ndarray, bound: float,
) -> Sweep:  # fmt: skip
    gap = toward(result, donor_gap(result, result.directions[at]))
    own = result.target_margin(result.directions[at])
    raw = result.effect[at]

    def intervals(values: np.ndarray) -> CellIntervals:
        return by_pattern(values, lambda part: cell_intervals(part, clusters=result.clusters, seed=result.meta.seed))

    means = intervals(effect)
    recovery = by_pattern(effect, lambda part: cell_ratios(part, gap, clusters=result.clusters, seed=result.meta.seed))
    if not told.defined:
        blank = np.full(effect.shape[1], np.nan)
        recovery = CellIntervals(blank, blank.copy(), blank.copy(), recovery.n)
    flipped = np.where(np.isnan(raw), np.nan, np.sign(own[..., None] + raw) != np.sign(own[..., None]))
    found = (p_items < LEVEL) & (p_chance < LEVEL) & (np.abs(means.value) > FLOORS * result.noise) & told.found
    return Sweep(
        effect=means,
        recovery=recovery,
        position=intervals(raw.mean(1)),
        flips=mean_known(flipped),
        mass=mean_known(result.patched_mass[at]),
        size=mean_known(result.size[at]),
        mismatched=intervals(toward(result, result.mismatched_effect[at])),
        noise=intervals(toward(result, result.noise_effect[at])),
        p_items=p_items,
        p_chance=p_chance,
        bound=bound,
        found=found,
    )


def same_below(result: "ActivationPatchingResult") -> int | None:
    """Return the lowest block in which any cell differs between the models, if the sweep saw that nothing below does.

    It did where the stream that enters the block was patched, or every block below it.

    Returns:
        The block; None where it is the first, where no cell differs, or where blocks below were left out.
    """
    same = np.all((result.zero == 1) | np.isnan(result.zero), axis=(0, 1, 2))
    layers = np.array(result.layers)
    if same.all():
        return None
    first = int(layers[~same].min())
    at_entry = np.array([name == "resid_pre" for name in result.components]) & (layers == first)
    seen = (at_entry & same).any() or set(range(first)) <= set(result.layers)
    return first if first and seen and not (at_entry & ~same).any() else None


def earliest_write(result: "ActivationPatchingResult", sweep: Sweep) -> int | None:
    """Return the strongest write found in the lowest block where any was; None where only the stream, or nothing."""
    kept = sweep.found & np.array([not name.startswith("resid") for name in result.components])
    layers = np.array(result.layers)
    if not kept.any():
        return None
    return strongest(np.where(kept & (layers == layers[kept].min()), sweep.effect.value, np.nan), count=1)[0]


def donor_gap(result: "ActivationPatchingResult", direction: str) -> Float[np.ndarray, "item order"]:
    """Return the donor's own margin minus the target's: what a full recovery would be."""
    gap = result.judge_margin - result.base_margin
    return gap if direction == "judge_to_base" else -gap


def set_recovery(result: "ActivationPatchingResult", at: int, which: int) -> Interval:
    """Return what one set of sites recovers on the items it wasn't named on; 0 is the named set, others are random."""
    effect = toward(result, result.set_effect[at, which])
    gap = np.where(np.isnan(effect), np.nan, toward(result, donor_gap(result, result.directions[at])))
    return ratio_interval(effect, gap, seed=result.meta.seed, clusters=result.clusters)


def set_effect(result: "ActivationPatchingResult", at: int, which: int) -> Interval:
    """Return what one set of sites does to the margin toward the label, on the items it wasn't named on."""
    return mean_interval(toward(result, result.set_effect[at, which]), seed=result.meta.seed, clusters=result.clusters)


def mean_known(values: Float[np.ndarray, "item order cell"]) -> Float[np.ndarray, " cell"]:
    """Return means over items and orders; NaN where nothing is known."""
    return known_means(values.reshape(-1, values.shape[-1]))


def _family(effects: Float[np.ndarray, "item cell"], result: "ActivationPatchingResult") -> np.ndarray:
    labelled = result.labels >= 0
    clusters = [cluster for cluster, kept in zip(result.clusters, labelled, strict=True) if kept]
    if not clusters:
        return np.full(effects.shape[1], np.nan)
    # An item without a span says nothing of it, whichever way its sign is flipped.
    return family_p(np.nan_to_num(effects), clusters=clusters, seed=result.meta.seed)


def strongest(values: Float[np.ndarray, " cell"], *, count: int) -> Sequence[int]:
    """Return the cells largest in size, the largest first; unknown ones are left out."""
    known = np.flatnonzero(~np.isnan(values))
    return [int(i) for i in known[np.argsort(-np.abs(values[known]), kind="stable")][:count]]
