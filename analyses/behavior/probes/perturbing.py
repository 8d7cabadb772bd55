"""Probes made of a perturbation: the verdict before and after, beside the same with the placebo."""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float

from analyses.behavior.probes.plans import (
    CLEAN,
    PERTURBED,
    PLACEBO,
    Ask,
    Plan,
    Probe,
    Rate,
    Read,
    Score,
    label_sign,
    nothing_left,
    toward_sign,
)
from workbench.judges.perturb import Perturbation

_HALVED = (
    " The placebo changes both answers. A change that only blurs a verdict blurs it twice there, so that half of its "
    "shift is taken off."
)
_BEFORE = 0
_AFTER = 1
_CONTROL = 2


def probe_of(perturbation: Perturbation) -> Probe:
    """Return the probe of a perturbation: how far the verdict moves toward what it favours.

    Args:
        perturbation: A shipped one, or one of your own.
    """
    scores: dict[str, Callable[[Plan, Read], Score]] = {
        "answer": partial(shift, keeps_label=perturbation.keeps_label, share=placebo_share(perturbation)),
        "first slot": slot_shift,
        "none": size_of_shift,
    }
    return Probe(
        name=perturbation.name,
        title=perturbation.title,
        description=perturbation.description + _HALVED * perturbation.placebo_in_both,
        prepare=partial(perturbed, perturbation),
        score=scores[perturbation.target],
        target=perturbation.target,
        expected=perturbation.expected,
    )


def placebo_share(perturbation: Perturbation) -> float:
    """Return how much of the placebo's shift compares with the perturbation's."""
    return 0.5 if perturbation.placebo_in_both else 1.0


def perturbed(perturbation: Perturbation, ask: Ask) -> Plan:
    """Return the items unchanged, perturbed, and with the placebo where there is one and it is wanted.

    Raises:
        ParameterError: The perturbation fits no item.
    """
    made = perturbation.apply(ask.items, ask.seed, ask.pair.tokenizer)
    if not len(made):
        raise nothing_left(perturbation.name, made.notes)
    sets, names = [made.items, made.perturbed], [CLEAN, PERTURBED]
    notes = made.notes
    if made.placebo is not None and ask.placebo:
        sets.append(made.placebo)
        names.append(PLACEBO)
    elif made.placebo is not None:
        notes = (*notes, "the placebo was not wanted (placebo=False)")
    return Plan(conditions=tuple(names), sets=tuple(sets), toward=np.array(made.toward), notes=notes)


def shift(plan: Plan, read: Read, *, keeps_label: bool, share: float = 1.0) -> Score:
    """Return how far content moves toward the answer a bias favours.

    Args:
        plan: What was asked.
        read: What was said.
        keeps_label: Whether the better answer stays the better one.
        share: How much of the placebo's shift counts: half, where it holds the change twice.
    """
    sign = toward_sign(plan)
    moved = [sign * (read.content[k] - read.content[_BEFORE]) for k in range(1, len(plan.conditions))]
    rates = {
        "verdicts for the favoured answer": _paired(plan, lambda k: _won(plan, read, k)),
        "verdicts for it before": Rate(_won(plan, read, _BEFORE)),
        "verdicts that turn toward it": _paired(plan, lambda k: _turned(plan, read, k)),
    }
    control = None if len(moved) < 2 else share * moved[1]
    return Score(moved[0], control, rates={**rates, **_further(plan, read, keeps_label=keeps_label)})


def slot_shift(plan: Plan, read: Read) -> Score:
    """Return how far the position part moves toward the first slot."""
    moved = [read.position[k] - read.position[_BEFORE] for k in range(1, len(plan.conditions))]
    return Score(moved[0], _second(moved), rates=_further(plan, read, keeps_label=True))


def size_of_shift(plan: Plan, read: Read) -> Score:
    """Return how far margins move, whichever way: where no side is favoured, moving at all is the bias."""
    moved = [read.moved(k) for k in range(1, len(plan.conditions))]
    return Score(moved[0], _second(moved), rates=_further(plan, read, keeps_label=True))


def right(plan: Plan, read: Read, condition: int) -> Float[np.ndarray, "model item"]:
    """Return the share of an item's verdicts for the better answer; a tie isn't one. NaN without a label."""
    sign = _shown(label_sign(plan, condition=condition), read)
    said = read.verdict[condition]
    return np.where(np.isnan(said) | np.isnan(sign), np.nan, said == sign).mean(-1)


def same(read: Read, condition: int, *, against: int = _BEFORE) -> Float[np.ndarray, "model item"]:
    """Return the share of an item's verdicts that are those of another condition."""
    one, other = read.verdict[condition], read.verdict[against]
    return np.where(np.isnan(one) | np.isnan(other), np.nan, one == other).mean(-1)


def _further(plan: Plan, read: Read, *, keeps_label: bool) -> dict[str, Rate]:
    rates = {"same verdict (robustness rate)": _paired(plan, lambda k: same(read, k))}
    before = right(plan, read, _BEFORE)
    if keeps_label and not np.isnan(before).all():
        rates["right before"] = Rate(before)
        rates["right after"] = _paired(plan, lambda k: right(plan, read, k))
        rates["right before and after"] = _paired(plan, lambda k: _both_right(plan, read, k))
    return rates


def _both_right(plan: Plan, read: Read, condition: int) -> Float[np.ndarray, "model item"]:
    sign = _shown(label_sign(plan), read)
    hits = [np.where(np.isnan(read.verdict[k]), np.nan, read.verdict[k] == sign) for k in (_BEFORE, condition)]
    return np.where(np.isnan(sign), np.nan, hits[0] * hits[1]).mean(-1)


def _won(plan: Plan, read: Read, condition: int) -> Float[np.ndarray, "model item"]:
    sign, said = _shown(toward_sign(plan), read), read.verdict[condition]
    return np.where(np.isnan(sign) | np.isnan(said), np.nan, said == sign).mean(-1)


def _turned(plan: Plan, read: Read, condition: int) -> Float[np.ndarray, "model item"]:
    sign = _shown(toward_sign(plan), read)
    before, after = (read.verdict[k] for k in (_BEFORE, condition))
    unknown = np.isnan(sign) | np.isnan(before) | np.isnan(after)
    return np.where(unknown, np.nan, (after == sign) & (before != sign)).mean(-1)


def _shown(sign: Float[np.ndarray, " item"], read: Read) -> Float[np.ndarray, "item order"]:
    """Turn a sign of answers into one of slots as shown."""
    return sign[:, None] * np.array([1.0, -1.0])[: read.verdict.shape[-1]]


def _paired(plan: Plan, of: Callable[[int], np.ndarray]) -> Rate:
    return Rate(of(_AFTER), of(_CONTROL) if len(plan.conditions) > _CONTROL else None)


def _second(moved: list[np.ndarray]) -> np.ndarray | None:
    return moved[1] if len(moved) > 1 else None
