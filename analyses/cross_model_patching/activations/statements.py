"""What a patching run says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING

import numpy as np

from analyses.cross_model_patching.activations import views
from analyses.cross_model_patching.advantage import LEAST_GAP, Advantage
from analyses.judged import estimate
from analyses.metrics import FEWEST_DRAWS, Interval, further_draw
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.cross_model_patching.activations.result import ActivationPatchingResult

WAYS = {
    "judge_to_base": "the judge's activations put into the base",
    "base_to_judge": "the base's activations put into the judge",
}
"""Directions in words."""

_MOVES = {"judge_to_base": "brings", "base_to_judge": "takes away"}
_RANDOM = "a random change of the same length there"
_SHOWN = 3


def finding(result: "ActivationPatchingResult") -> Finding:
    """Decide whether the judge's advantage is seen anywhere, and say so first.

    A cell is found when the pair has an advantage that random judges don't have, its sign-flip p over items is below
    .05 over all cells of both directions, it is larger than the largest cell of further random judges would be, and
    rounding is far below it.
    """
    told, found = views.gate(result), views.sweeps(result)
    cells = sum(int(sweep.found.sum()) for sweep in found.values())
    estimates = (
        _gap(result, told),
        *(one for direction in result.directions for one in _cells(result, direction, found[direction], told)),
        *(one for at in range(len(result.directions)) for one in _sets(result, at)),
    )
    headline = _found(result, found) if cells else _nothing(told, found)
    return Finding(headline=headline, found=cells > 0, estimates=estimates, limits=_limits(result, told, found))


def _found(result: "ActivationPatchingResult", found: dict[str, views.Sweep]) -> str:
    said = []
    for direction, sweep in found.items():
        best = _best(result, sweep)
        if best is None:
            said.append(f"with {WAYS[direction]} no site moves the verdicts beyond chance")
            continue
        share = f"{_MOVES[direction]} {sweep.recovery.value[best]:.0%} of the gap"
        said.append(
            f"with {WAYS[direction]}, {result.cell_name(best)} alone {share} "
            f"[{sweep.recovery.low[best]:.0%}, {sweep.recovery.high[best]:.0%}]{_earliest(result, sweep, best)}"
        )
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}.{_below(result, found)}"


def _earliest(result: "ActivationPatchingResult", sweep: views.Sweep, best: int) -> str:
    """Name the strongest write of the lowest block where one passed, if that isn't the strongest one's own block."""
    first = views.earliest_write(result, sweep)
    if first is None or result.layers[first] >= result.layers[best]:
        return ""
    return f", and {result.cell_name(first)}, the first block with such a site, {sweep.recovery.value[first]:.0%}"


def _below(result: "ActivationPatchingResult", found: dict[str, views.Sweep]) -> str:
    """Say below which block the models hold the same bits, where they do, and what that means for sites behind it."""
    first = views.same_below(result)
    if first is None:
        return ""
    behind = any(
        result.layers[index] > first for sweep in found.values() if (index := _best(result, sweep)) is not None
    )
    passed_on = f"; sites behind block {first} may only pass on what it does (swap_weights tells)" if behind else ""
    return f" Below block {first} both models hold the same bits at the tokens patched{passed_on}."


def _best(result: "ActivationPatchingResult", sweep: views.Sweep) -> int | None:
    """Return the strongest cell that passed; a write of one component before the stream that holds all of them."""
    writes = np.array([not name.startswith("resid") for name in result.components])
    for kept in (sweep.found & writes, sweep.found):
        ranked = views.strongest(np.where(kept, sweep.effect.value, np.nan), count=1)
        if ranked:
            return ranked[0]
    return None


def _nothing(told: Advantage, found: dict[str, views.Sweep]) -> str:
    if told.why_not():
        return f"Nothing found: {told.why_not()}."
    largest = max(float(np.nanmax(np.abs(sweep.effect.value))) for sweep in found.values())
    return (
        f"Nothing found: the judge has an advantage of {told.gap.value:.3g}, but no single site moves the verdicts "
        f"beyond chance (the largest by {largest:.3g})."
    )


def _gap(result: "ActivationPatchingResult", told: Advantage) -> Estimate:
    control = Estimate(
        name=f"random judges of equal norm (95% of further ones; p = {told.chance.p:.2g})",
        value=told.chance.value, low=told.chance.low, high=told.chance.high, n=told.gap.n, unit=result.unit,
    )  # fmt: skip
    measured = control if len(result.random_gap) else None
    return estimate(
        "judge's margin minus the base's, toward the labelled answer", told.gap, unit=result.unit, control=measured
    )


def _cells(result: "ActivationPatchingResult", direction: str, sweep: views.Sweep, told: Advantage) -> list[Estimate]:
    """Return the strongest single writes, with what they are held against.

    What goes into the base is held against the same from another item: the content of *this* item has to matter. What
    goes into the judge breaks something, and is held against breaking it by a random change of the same length.
    """
    writes = np.array([not name.startswith("resid") for name in result.components])
    given = direction == "judge_to_base"
    against = sweep.mismatched if given else sweep.noise
    name = "another item's activation there" if given else _RANDOM
    said = []
    for index in views.strongest(np.where(writes, sweep.effect.value, np.nan), count=_SHOWN):
        # Spans differ in length from item to item: there's no other item's activation to put there.
        kept, called = (against, name) if np.isfinite(against.value[index]) else (sweep.noise, _RANDOM)
        control = Interval(float(kept.value[index]), float(kept.low[index]), float(kept.high[index]), kept.n)
        share = f", {_MOVES[direction]} {_share(sweep.recovery.value[index])}" if told.found else ""
        said.append(
            Estimate(
                name=f"{WAYS[direction]}: {result.cell_name(index)}{share} (p = {sweep.p[index]:.2g})",
                value=float(sweep.effect.value[index]),
                low=float(sweep.effect.low[index]),
                high=float(sweep.effect.high[index]),
                n=sweep.effect.n,
                unit=result.unit,
                control=estimate(called, control, unit=result.unit) if kept.n else None,
            )
        )
    return said


def _sets(result: "ActivationPatchingResult", at: int) -> list[Estimate]:
    if not result.sets[at]:
        return []
    own = views.set_recovery(result, at, 0)
    others = np.array([views.set_recovery(result, at, k).value for k in range(1, result.set_effect.shape[1])])
    control = None
    if len(others):
        low, high = further_draw(others)
        control = Estimate(
            name=f"{len(others)} random sets matched on layer (95% of further ones)",
            value=float(others.mean()), low=low, high=high, n=own.n,
        )  # fmt: skip
    names = ", ".join(result.cell_name(index) for index in result.sets[at])
    title = (
        f"{WAYS[result.directions[at]]}: share of the gap recovered by {len(result.sets[at])} sites together, named "
    )
    return [estimate(f"{title}on other items ({names})", own, control=control)]


def _share(value: float) -> str:
    return "an undefined share" if np.isnan(value) else f"{value:.0%}"


def _limits(result: "ActivationPatchingResult", told: Advantage, found: dict[str, views.Sweep]) -> tuple[str, ...]:
    said = []
    if not told.defined:
        said.append(
            f"Recovery is not defined: the margins of base and judge differ by less than {LEAST_GAP} toward the label, "
            "or not reliably; raw effects stand in the table."
        )
    if told.defined and len(result.random_gap) < FEWEST_DRAWS:
        said.append("Without three random judges no cell can be told from chance, so that nothing is called found.")
    off = [
        f"the {side} puts {float(np.nanmean(mass)):.2g} of its probability on the labels"
        for side, mass in (("base", result.base_mass), ("judge", result.judge_mass))
        if np.nanmean(mass) < 0.5
    ]
    if off:
        said.append(f"A margin between labels that are hardly ever said means little: {' and '.join(off)}.")
    if result.readout_differs:
        said.append(
            "Final norm or unembedding differ between the models: the readout is a component of its own, which no "
            "activation carries; even the whole last stream then recovers less, or more, than all."
        )
    beyond = any(np.nanmax(np.abs(sweep.recovery.value), initial=0.0) > 1 for sweep in found.values())
    said += [
        "A site lights up where the difference is seen, also behind the place it was written at; the shares of sites "
        "don't add up" + (", and some are above 1 here." if beyond else "."),
        "The residual stream at the last token holds everything read so far: its profile rises by construction.",
        "Patching heads (z) keeps the target's own output projection; where tuning changed that, see attn_out.",
        f"Patches ran as {', '.join(result.modes) or 'nothing'}; random rows differ from full forwards by "
        f"{result.self_test:.2g}, null rows by {result.noise:.2g} {result.unit}.",
        *(f"Not measured: {what}" for what in result.meta.not_measured),
    ]
    return tuple(said)
