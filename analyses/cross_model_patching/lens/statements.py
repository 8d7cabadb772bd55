"""What a verdict lens says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING

import numpy as np

from analyses.cross_model_patching.lens.comparing import Changed, Ranked, Readouts, readouts
from analyses.judged import estimate
from analyses.metrics import FEWEST_DRAWS, Interval
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.cross_model_patching.lens.result import Side, VerdictLensResult

_SIDES: "tuple[Side, ...]" = ("judge", "base")
_MOST_PARTS = 3


def finding(result: "VerdictLensResult") -> Finding:
    """Decide whether judge and base come apart at some depth, and say so first.

    Something is found when the judge's change at the last layer passes the gate (over items, and against random
    changes) and so does its change at one layer at least, corrected over all layers, where the judge's labels have the
    mass to speak of a verdict.
    """
    gate, changes = result.advantage, result.changes()
    told = changes.passing & result.readable("judge")
    found = gate.found and bool(told.any())
    headline = _found(result, changes, int(told.argmax())) if found else _nothing(result, changes)
    return Finding(headline=headline, found=found, estimates=_estimates(result, changes), limits=_limits(result))


def _found(result: "VerdictLensResult", changes: Changed, first: int) -> str:
    value = changes.cells.value
    stream, readout = (
        float(result.cells(part).value[-1]) for part in (result.stream_change(), result.readout_change())
    )
    settles = result.settling("judge")
    there = "" if first == len(value) - 1 else f"{value[first]:+.3g} {result.unit} {result.way} there, "
    text = (
        f"Judge and base come apart at {place(result, first)}: judge minus base is {there}{value[-1]:+.3g} "
        f"{result.unit} {result.way} at the end ({stream:+.3g} from what the stream holds, {readout:+.3g} from how it "
        "is read)"
    )
    if not np.isfinite(settles.depth.value):
        return f"{text}."
    return f"{text}. The judge's verdicts settle at depth {settles.depth.value:.3g} of {result.depths[-1]:.0f}."


def _nothing(result: "VerdictLensResult", changes: Changed) -> str:
    change = result.own("judge") - result.own("base")
    if not change.any():
        return "Nothing found: judge and base read exactly the same at every depth."
    if why := result.advantage.why_not():
        return f"Nothing found: {why}{_settles(result)}."
    if changes.passing.any():
        return (
            "Nothing found: judge and base differ, but where they do, the judge's labels have too little probability "
            f"to speak of a verdict{_settles(result)}."
        )
    return (
        "Nothing found: at no depth is the judge's change told from what random changes of its size make"
        f"{_settles(result)}."
    )


def _settles(result: "VerdictLensResult") -> str:
    said = [
        f"{side} {found.depth.value:.3g}"
        for side in _SIDES
        if np.isfinite((found := result.settling(side)).depth.value)
    ]
    return f". Verdicts settle at depth {', '.join(said)} (of {result.depths[-1]:.0f})" if said else ""


def place(result: "VerdictLensResult", point: int) -> str:
    """Return a point in words."""
    depth = result.depths[point]
    if depth < 0:
        return "the embeddings"
    return f"layer {depth:.0f}" if depth.is_integer() else f"the attention of layer {depth + 0.5:.0f}"


def _estimates(result: "VerdictLensResult", changes: Changed) -> tuple[Estimate, ...]:
    gate = result.advantage
    chance = Estimate(
        name=f"judges moved as far at random (95% of further ones; p = {gate.chance.p:.2g})",
        value=gate.chance.value, low=gate.chance.low, high=gate.chance.high, n=len(result.random_change),
        unit=result.unit,
    )  # fmt: skip
    change = result.own("judge") - result.own("base")
    parts = {
        "judge minus base": change,
        "of it, the stream": result.stream_change(),
        "of it, norm and head": result.readout_change(),
    }
    last = [
        estimate(f"{name}, last layer, {result.way}", _at(result, values, -1), unit=result.unit, control=control)
        for (name, values), control in zip(
            parts.items(), (chance if result.labelled else None, None, None), strict=True
        )
    ]
    return (
        *last,
        *_depths(result),
        *_agreements(result),
        *_aggregates(result),
        *_direct(result),
        *_most(result, changes),
    )


def _most(result: "VerdictLensResult", changes: Changed) -> tuple[Estimate, ...]:
    """Return the change at the depth where it is largest."""
    if not changes.cells.value.any() or np.isnan(changes.cells.value).any():
        return ()
    at = int(np.argmax(np.abs(changes.cells.value)))
    bound = Estimate(
        name="largest of any depth under a random change (mean there; 97.5% stay within the end)",
        value=float(changes.random[at]), low=-changes.bound, high=changes.bound, n=len(result.random_change),
        unit=result.unit,
    )  # fmt: skip
    name = f"judge minus base at {place(result, at)}, its largest {result.way} (p = {_p(changes, at):.2g}, family-wise)"
    return (estimate(name, _cell(changes, at), unit=result.unit, control=bound),)


def _depths(result: "VerdictLensResult") -> tuple[Estimate, ...]:
    base, judge = (result.settling(side) for side in ("base", "judge"))
    own = estimate("depth at which verdicts of the base settle", base.depth, unit="layers")
    return (
        estimate("depth at which verdicts of the judge settle", judge.depth, unit="layers", control=own),
        estimate("judge settles deeper than the base by", result.settling_change(), unit="layers"),
    )


def _agreements(result: "VerdictLensResult") -> tuple[Estimate, ...]:
    if not result.labelled:
        return ()
    base, judge = (result.agreement_reached(side) for side in ("base", "judge"))
    own = estimate("of the base", base, unit="layers") if np.isfinite(base.value) else None
    if np.isnan(judge.value):
        return ()
    name = f"depth from which the judge's agreement with the labels is within {result.epsilon:.2g} of its final one"
    return (estimate(name, judge, unit="layers", control=own),)


def _aggregates(result: "VerdictLensResult") -> tuple[Estimate, ...]:
    if np.isnan(result.weights).all():
        return ()
    found: list[Estimate] = []
    for side in _SIDES:
        read: Readouts = readouts(result, side)
        own = estimate("its own readout", read.fitted.final)
        shuffled = estimate("fitted to shuffled labels, as often reversed as right", read.shuffled)
        found += [
            estimate(f"balanced accuracy of the {side} read from all layers, weights fitted on other items",
                     read.fitted.other, control=shuffled),
            estimate(f"the {side}'s mean over its last layers, nothing fitted", read.uniform.other, control=own),
            estimate(f"gain of the fitted readout over the {side}'s own", read.fitted.gain),
        ]  # fmt: skip
    return tuple(found)


def _direct(result: "VerdictLensResult") -> tuple[Estimate, ...]:
    if not result.parts:
        return ()
    changes = result.direct_changes()
    order = [int(i) for i in np.argsort(-np.abs(changes.cells.value), kind="stable")[:_MOST_PARTS]]
    bound = "largest part of a random change (mean of this one; 97.5% stay within the end)"
    top = [
        estimate(
            f"direct contribution of {result.named_parts[at]}, judge minus base {result.way} "
            f"(p = {_p(changes, at):.2g}, family-wise)",
            _cell(changes, at),
            unit=result.unit,
            control=Estimate(name=bound, value=float(changes.random[at]), low=-changes.bound, high=changes.bound,
                             n=len(result.random_direct), unit=result.unit),
        )
        for at in order
        if changes.cells.value[at] != 0
    ]  # fmt: skip
    ways = ("judge's values put into the base", "base's values put into the judge")
    ranks: list[Ranked] = [result.direct_and_total(direction) for direction in (0, 1)]
    return (
        *top,
        *(
            estimate(f"rank correlation of direct contributions with whole effects, {way}", rank.rho)
            for way, rank in zip(ways, ranks, strict=True)
            if np.isfinite(rank.rho.value)
        ),
    )


def _limits(result: "VerdictLensResult") -> tuple[str, ...]:
    said = [
        "A lens reads the stream in the words of the last layer; a verdict it doesn't read at some depth may be there "
        "in another form. Where it first reads a difference needn't be where weights were changed.",
    ]
    for side in _SIDES:
        readable, settled = result.readable(side), result.settling(side)
        if not readable[-1]:
            said.append(f"The {side}'s labels have less than {result.least_mass:.2g} of the probability even at the "
                        "end: its margins are no verdicts, and none of them is called settled.")  # fmt: skip
        elif not readable.all():
            first = int(readable.argmax())
            said.append(f"The {side}'s labels have {result.least_mass:.2g} of the probability from "
                        f"{place(result, first)} on; margins before that aren't called settled.")  # fmt: skip
        if settled.unsettled > 0:
            said.append(f"{settled.unsettled:.0%} of the {side}'s prompts settle nowhere: their labels lack mass at "
                        "the end, or the margin is exactly 0.")  # fmt: skip
    said += _agreement_limits(result)
    if result.parts:
        opposed = [result.direct_and_total(direction).opposed for direction in (0, 1)]
        told = " and ".join(f"{share:.0%}" for share in opposed if np.isfinite(share)) or "none"
        said.append(
            "A direct contribution is a projection on the verdict with the norm's scale frozen; the whole effect "
            "includes what later layers make of the change, and heads that are patched keep the target's output "
            f"projection. The two can disagree: where both are told from 0 over items, {told} of the parts point in "
            "opposite directions."
        )
    if not result.labelled:
        said.append("No item says which answer is better, so that nothing can be called found.")
    elif len(result.random_change) < FEWEST_DRAWS:
        said.append("With fewer than three random judges nothing can be told from chance.")
    return (*said, *(f"Not measured: {what}" for what in result.meta.not_measured))


def _agreement_limits(result: "VerdictLensResult") -> list[str]:
    sides = [side for side in _SIDES if result.labelled and np.isnan(result.agreement_reached(side).value)]
    return [
        f"The {side}'s agreement with the labels isn't above one half at the end (or its labels lack mass), so that "
        "there is no depth at which it is reached."
        for side in sides
    ]


def _at(result: "VerdictLensResult", values: np.ndarray, point: int) -> Interval:
    cells = result.cells(values[..., [point]])
    return Interval(float(cells.value[0]), float(cells.low[0]), float(cells.high[0]), cells.n)


def _cell(changes: Changed, at: int) -> Interval:
    cells = changes.cells
    return Interval(float(cells.value[at]), float(cells.low[at]), float(cells.high[at]), cells.n)


def _p(changes: Changed, at: int) -> float:
    return float(max(changes.p[at], changes.chance_p[at]))
