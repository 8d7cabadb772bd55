"""Numbers read off a paths run: effects, shares of the gap, controls and tests of every path."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from analyses.cells import CellIntervals, cell_intervals, cell_ratios, family_p
from analyses.cross_model_patching.advantage import Advantage, HeldOut, advantage, against_largest, means_held_out
from analyses.metrics import FLOORS, LEVEL

if TYPE_CHECKING:
    from analyses.cross_model_patching.paths.result import PathPatchingResult


class Edges(NamedTuple):
    """Every path's numbers toward the label; those of chosen paths are of the items they weren't chosen on."""

    effect: CellIntervals
    """Mean change of the margin toward the label."""
    recovery: CellIntervals
    """Effect over the gap between donor and target, as a ratio of means; NaN where the gap is too small."""
    mismatched: CellIntervals
    """Mean effect of another item's write along the same path."""
    p_items: Float[np.ndarray, " edge"]
    """Sign-flip p over items, adjusted over all chosen paths together; NaN for the others."""
    p_chance: Float[np.ndarray, " edge"]
    """p against the largest path of random judges, within hop and direction; 1 where there are too few."""
    bound: Float[np.ndarray, " edge"]
    """What one more random judge's largest path stays within, by hop and direction."""
    found: Bool[np.ndarray, " edge"]
    """Chosen paths that pass on the other half."""

    @property
    def p(self) -> Float[np.ndarray, " edge"]:
        """Return the larger of the two p-values; NaN for paths that weren't chosen."""
        return np.maximum(self.p_items, self.p_chance)


def gate(result: "PathPatchingResult") -> Advantage:
    """Return whether there is an advantage of the judge to follow."""
    return advantage(
        result.toward_label(result.judge_margin - result.base_margin),
        result.random_gap * result.slot_sign(),
        clusters=result.clusters,
        seed=result.meta.seed,
    )


def toward(result: "PathPatchingResult", values: Float[np.ndarray, "item order *cell"]) -> np.ndarray:
    """Return a slot-oriented quantity toward the label, averaged over orders: [item, *cell]."""
    sign = result.slot_sign().reshape(*values.shape[:2], *([1] * (values.ndim - 2)))
    return (values * sign).mean(1)


def gap_of(result: "PathPatchingResult", direction: str) -> Float[np.ndarray, " item"]:
    """Return the donor's margin minus the target's toward the label: what a full recovery would be."""
    gap = toward(result, result.judge_margin - result.base_margin)
    return gap if direction == "judge_to_base" else -gap


def edges(result: "PathPatchingResult") -> Edges:
    """Return the numbers of every path."""
    told, chosen = gate(result), result.selected == 1
    effect, mismatched = toward(result, result.effect), toward(result, result.mismatched_effect)
    own = np.where(chosen & (result.confirming == 0)[:, None], np.nan, effect)
    means = _intervals(result, own, chosen)
    p_items, (p_chance, bound) = _family(result, own, chosen), _chance(result, effect)
    found = chosen & told.found & (p_items < LEVEL) & (p_chance < LEVEL) & (np.abs(means.value) > FLOORS * result.noise)
    return Edges(
        effect=means,
        recovery=_recovery(result, own, chosen, defined=told.defined),
        mismatched=_intervals(result, mismatched, chosen),
        p_items=p_items,
        p_chance=p_chance,
        bound=bound,
        found=found,
    )


def mean_toward(
    result: "PathPatchingResult", values: Float[np.ndarray, "item order sender"]
) -> Float[np.ndarray, " sender"]:
    """Return means over labelled items, toward the label; toward the first slot where nobody labelled anything."""
    if not (result.labels >= 0).any():
        return values.mean((0, 1))
    return np.nanmean(toward(result, values), axis=0)


def at_edges(result: "PathPatchingResult", *, direction: str, hop: int) -> list[int]:
    """Return the indices of one hop's paths."""
    named = zip(result.edge_directions, result.edge_hops, strict=True)
    return [i for i, (way, number) in enumerate(named) if (way, number) == (direction, hop)]


def _parts(chosen: Bool[np.ndarray, " edge"]) -> list[np.ndarray]:
    """Return edges that are known for the same items."""
    return [part for part in (np.flatnonzero(chosen), np.flatnonzero(~chosen)) if part.size]


def _merged(values: np.ndarray, parts: list[np.ndarray], made: list[CellIntervals]) -> CellIntervals:
    value, low, high = (np.full(values.shape[1], np.nan) for _ in range(3))
    for part, found in zip(parts, made, strict=True):
        value[part], low[part], high[part] = found.value, found.low, found.high
    return CellIntervals(value, low, high, min((found.n for found in made), default=0))


def _intervals(result: "PathPatchingResult", values: np.ndarray, chosen: np.ndarray) -> CellIntervals:
    parts, seed = _parts(chosen), result.meta.seed
    made = [cell_intervals(values[:, part], clusters=result.clusters, seed=seed) for part in parts]
    return _merged(values, parts, made)


def _recovery(result: "PathPatchingResult", values: np.ndarray, chosen: np.ndarray, *, defined: bool) -> CellIntervals:
    found = _merged(values, [], [])
    for direction in result.directions if defined else ():
        gap, here = gap_of(result, direction), np.array(result.edge_directions) == direction
        for part in _parts(chosen):
            some = part[here[part]]
            if some.size:
                made = cell_ratios(values[:, some], gap, clusters=result.clusters, seed=result.meta.seed)
                found.value[some], found.low[some], found.high[some] = made.value, made.low, made.high
    return found


def _family(result: "PathPatchingResult", own: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    p = np.full(len(chosen), np.nan)
    if chosen.any():
        p[chosen] = family_p(own[:, chosen], clusters=result.clusters, seed=result.meta.seed)
    return p


def against_random(result: "PathPatchingResult", effect: Float[np.ndarray, "item edge"], here: list[int]) -> HeldOut:
    """Return some paths' effects and those of random judges, over the same items nothing was chosen on.

    Args:
        result: The run.
        effect: Of every path, toward the label.
        here: Which paths.
    """
    draws = np.full((len(result.random_effect), len(effect), len(here)), np.nan)
    draws[:, result.random_items] = result.random_effect[..., here]
    held_out = result.confirming == 1
    return means_held_out(draws, effect[:, here], held_out=held_out, clusters=result.clusters)


def random_notes(result: "PathPatchingResult") -> tuple[str, ...]:
    """Return over what chosen paths are held against random judges, where that isn't the half for confirmation."""
    effect, chosen = toward(result, result.effect), np.flatnonzero(result.selected == 1)
    note = against_random(result, effect, chosen.tolist()).note if chosen.size else ""
    return (note,) if note else ()


def _chance(result: "PathPatchingResult", effect: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, bound = np.ones(effect.shape[1]), np.full(effect.shape[1], np.nan)
    for key in dict.fromkeys(zip(result.edge_directions, result.edge_hops, strict=True)):
        here = at_edges(result, direction=key[0], hop=key[1])
        drawn = against_random(result, effect, here)
        p[here], bound[here] = against_largest(drawn.own, drawn.draws)
    return p, bound
