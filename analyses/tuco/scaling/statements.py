"""What scaling says in words: one verdict-first sentence, changes with their random controls, limits."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from analyses.judged import estimate
from analyses.metrics import FEWEST_DRAWS, FLOORS, LEVEL, Interval, further_draw
from analyses.tuco.naming import region_title
from analyses.tuco.scaling import measures
from analyses.tuco.scaling.measures import Measure
from analyses.tuco.scaling.regions import WEIGHTS
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.tuco.scaling.result import ScalingResult

WAYS = (measures.MARGIN, measures.POSITION, measures.LENGTH_SLOPE)
"""What scaling fine-tuning may move; the first that differ from random changes make the finding."""
DECISION_LEVEL = 1 - LEVEL / len(WAYS)
"""Coverage of each of the intervals that decide: 95% together (Bonferroni)."""


class Change(NamedTuple):
    """What a measure loses between alpha 1 and the far end of the grid, beside random changes."""

    measure: Measure
    """What changes."""
    own: Interval
    """Change of the real judge, over all items."""
    draws: np.ndarray
    """Change of each random judge on the control items, ``[draw]``."""
    decides: bool
    """Whether it lies outside of where a further random change would fall, and differs over items from their mean."""


def finding(result: "ScalingResult") -> Finding:
    """Decide whether scaling fine-tuning moved the judge, and say so first.

    Something is found when the change of the margin toward the labelled answer, of the push toward the
    first slot or of the pull of length, from alpha 1 to the far end of the first curve, differs from that
    of scaling a random change of equal norm: over items, and over draws of such changes (all three together at 95%).
    """
    if flat := _flat(result):
        said = f"Nothing found: every curve is flat {flat}; the judge says the same at every alpha."
        return Finding(headline=said, found=False, estimates=(flipped(result),), limits=_limits(result))
    changes = [change(result, measure) for measure in WAYS if measure in result.applicable()]
    changes = [c for c in changes if c.own.n]
    found = [c for c in changes if c.decides]
    headline = _headline(result, found) if found else _nothing(result, changes)
    told = (*(_told(result, c) for c in changes), *_others(result))
    return Finding(headline=headline, found=bool(found), estimates=told, limits=_limits(result))


def _flat(result: "ScalingResult") -> str:
    """Return how flat all curves are, in words; nothing when one isn't."""
    largest = float(np.nan_to_num(np.abs(result.gap - result.judge_gap)).max())
    if largest == 0.0:
        return "to the bit"
    return "within rounding" if largest <= FLOORS * (result.meta.noise_floor or 0.0) else ""


def change(result: "ScalingResult", measure: Measure, *, curve: int = 0) -> Change:
    """Return what a measure loses from alpha 1 to the far end of one curve.

    Args:
        result: The run.
        measure: What is read off both points.
        curve: Which curve.
    """
    one, far = result.at_one, result.far
    parts = measure.parts(result.readings())
    value, weight = parts.value[curve, one] - parts.value[curve, far], parts.weight[curve, one]
    own = result.ratio(value, weight) if not np.isnan(value * weight).all() else Interval(np.nan, np.nan, np.nan, 0)
    if not len(result.control_gap):
        return Change(measure, own, np.zeros(0), False)
    null = measure.parts(result.control_readings())
    lost = null.value[:, curve, one] - null.value[:, curve, far]
    draws = measures.pooled(lost, null.weight[:, curve, one])
    same_items = measures.pooled(np.where(np.isnan(lost.mean(0)), np.nan, value), weight)
    decides = False
    if len(draws) >= FEWEST_DRAWS and not np.isnan(draws).any():
        low, high = further_draw(draws, level=DECISION_LEVEL)
        paired = result.ratio(value - lost.mean(0), weight, level=DECISION_LEVEL)
        decides = bool(not low <= same_items <= high and paired.excludes(0.0))
    return Change(measure, own, draws, decides)


def flipped(result: "ScalingResult", *, curve: int = 0) -> Estimate:
    """Return the share of items whose verdict at the far end isn't that at alpha 1, random changes beside it."""
    name = f"verdicts (mean of both orders) that flip from alpha 1 to {_far(result)}"
    own = result.share(_flipped(result, result.content()[curve]))
    control = None
    if len(result.control_gap):
        draws = _flipped(result, result.control_readings().content[:, curve])
        control = _spread("random changes of equal norm", np.nanmean(draws, axis=-1), n=_n_control(result))
    return estimate(name, own, control=control)


def _flipped(result: "ScalingResult", content: np.ndarray) -> np.ndarray:
    one, far = content[..., result.at_one, :], content[..., result.far, :]
    return np.where(np.isnan(one * far), np.nan, (np.sign(one) != np.sign(far)).astype(float))


def _headline(result: "ScalingResult", found: list[Change]) -> str:
    moved = [
        f"{c.measure.title} by {-c.own.value:+.3g} {c.measure.unit} (random changes of equal norm: "
        f"{-c.draws.mean():+.2g})"
        for c in found
    ]
    return (
        f"Scaling fine-tuning from 1 to {_far(result)} ({result.curves[0]}) changes the {' and the '.join(moved)}"
        f"{_agreement_words(result)}; it {_flip_share(result)}."
    )


def _flip_share(result: "ScalingResult") -> str:
    flips = flipped(result)
    beside = f" (random changes: {flips.control.value:.0%})" if flips.control else ""
    return f"flips {flips.value:.0%} of verdicts{beside}"


def _agreement_words(result: "ScalingResult") -> str:
    if measures.AGREEMENT not in result.applicable():
        return ""
    curve = result.curve(measures.AGREEMENT)
    return f", and agreement with the labels from {curve[result.at_one].value:.0%} to {curve[result.far].value:.0%}"


def _nothing(result: "ScalingResult", changes: list[Change]) -> str:
    if len(result.control_gap) < FEWEST_DRAWS:
        return (
            f"Nothing found: it takes {FEWEST_DRAWS} random changes or more to tell an effect from chance (controls)."
        )
    if not changes:
        return (
            "Nothing found: without labels, a second order or answers of different lengths nothing can be told apart."
        )
    moved = " nor the ".join(c.measure.title for c in changes)
    verb = f"moves neither the {moved}" if len(changes) > 1 else f"doesn't move the {moved}"
    return (
        f"Nothing found: scaling fine-tuning from 1 to {_far(result)} {verb} more than scaling a random change of "
        f"equal norm does; it {_flip_share(result)}."
    )


def _told(result: "ScalingResult", found: Change, *, where: str = "") -> Estimate:
    name = f"{found.measure.title}, lost from alpha 1 to {_far(result)}{where}"
    return estimate(name, found.own, unit=found.measure.unit, control=_null(result, found))


def _null(result: "ScalingResult", found: Change) -> Estimate | None:
    draws, unit = found.draws, found.measure.unit
    if not len(draws) or np.isnan(draws).any():
        return None
    if len(draws) < FEWEST_DRAWS or found.measure.rate:
        return _spread("random changes of equal norm", draws, n=_n_control(result), unit=unit)
    low, high = further_draw(draws, level=0.95)
    name = f"where 95% of random changes of equal norm fall ({len(draws)} drawn)"
    return Estimate(name=name, value=float(draws.mean()), low=low, high=high, n=_n_control(result), unit=unit)


def _spread(name: str, draws: np.ndarray, *, n: int, unit: str = "") -> Estimate:
    """Return a mean over draws with the lowest and the highest of them."""
    ends = (float(draws.min()), float(draws.max()))
    full = f"{name} (mean, lowest and highest of {len(draws)})"
    return Estimate(name=full, value=float(draws.mean()), low=ends[0], high=ends[1], n=n, unit=unit)


def _others(result: "ScalingResult") -> tuple[Estimate, ...]:
    made = [flipped(result)]
    if measures.AGREEMENT in result.applicable():
        made += [_told(result, change(result, measures.AGREEMENT)), *_best(result)]
    made += _mean_flip(result)
    measure = measures.MARGIN if measures.MARGIN in result.applicable() else measures.POSITION
    if measure not in result.applicable():
        return tuple(made)
    for index, name in enumerate(result.curves[1:], start=1):
        if name == WEIGHTS:
            made += _along_weights(result, measure)
            continue
        found = change(result, measure, curve=index)
        made += [_told(result, found, where=f", scaling {region_title(name)} only")] if found.own.n else []
    return tuple(made)


def _along_weights(result: "ScalingResult", measure: Measure) -> list[Estimate]:
    """Return a measure halfway along the interpolated weights beside halfway along the curve.

    At 1 and 0 the two are the same model, so that only what lies between is a check of its own.
    """
    middle = (1.0 + result.alphas[result.far]) / 2
    at = int(np.argmin(np.abs(result.alphas - middle)))
    own = result.curve(measure, curve=result.curves.index(WEIGHTS))[at]
    if at in (result.at_one, result.far) or not own.n:
        return []
    name = f"{measure.title} at alpha {result.alphas[at]:g}, weights interpolated"
    scaled = estimate("contributions scaled", result.curve(measure)[at], unit=measure.unit)
    return [estimate(name, own, unit=measure.unit, control=scaled)]


def _mean_flip(result: "ScalingResult") -> list[Estimate]:
    """Return the mean flip alpha below 1 of the items that flip there."""
    own = result.mean(result.flips()[0])
    if not own.n:
        return []
    null = result.control_flips()[:, 0] if len(result.control_gap) else np.zeros((0, 1))
    means = np.array([np.nanmean(draw) for draw in null if not np.isnan(draw).all()])
    control = _spread("random changes of equal norm", means, n=_n_control(result)) if len(means) else None
    return [estimate("mean flip alpha of the items that flip below 1", own, control=control)]


def _best(result: "ScalingResult") -> list[Estimate]:
    chosen = result.best_alpha()
    if chosen is None or result.alphas[chosen.place] == 1.0:
        return []
    gains = result.control_gains()
    gains = gains[~np.isnan(gains)]
    control = _spread("the same choice on random changes", gains, n=_n_control(result)) if len(gains) else None
    name = f"agreement gained over alpha 1 by alpha {result.alphas[chosen.place]:g}, chosen on other items"
    return [estimate(name, result.mean(chosen.gain), control=control)]


def _limits(result: "ScalingResult") -> tuple[str, ...]:
    return (
        "Scaling contributions isn't interpolating weights, and a judge at another alpha was never trained: its "
        "verdicts are an intervention's, not a weaker judge's.",
        _ends_words(result),
        *_curve_words(result),
        *_flip_words(result),
        *_best_words(result),
        *_length_words(result),
        f"At the last prompt token only; the gap compares the first tokens of {result.choices[0]!r} and "
        f"{result.choices[1]!r}.",
        *_noise_words(result),
        *(f"Not measured: {what}" for what in result.meta.not_measured),
    )


def _ends_words(result: "ScalingResult") -> str:
    if result.ends == "judge":
        return (
            "Embedding, final norm and head stay the judge's at every alpha, so that alpha 0 is not the base; the "
            "base's own point stands beside the curves."
        )
    return "Embedding, final norm and head are the base's at every alpha, so that alpha 1 is not the judge."


def _curve_words(result: "ScalingResult") -> tuple[str, ...]:
    if len(result.curves) == 1:
        return ()
    told = "; ".join(
        f"{region_title(name)}: {what}" for name, what in zip(result.curves, result.described, strict=True)
    )
    return (f"The curves where their alpha is 0 - {told}.",)


def _flip_words(result: "ScalingResult") -> tuple[str, ...]:
    below, above = result.flips()[0], result.flips(upward=True)[0]
    never = int((np.isnan(below) & np.isnan(above)).sum())
    low, high = result.alphas[[0, -1]]
    said = (
        f"Flip alphas are linear between grid points. Between {low:g} and {high:g} {never} of {len(below)} items never "
        f"flip; {int((~np.isnan(below)).sum())} flip below 1 and {int((~np.isnan(above)).sum())} above."
    )
    return (said,)


def _best_words(result: "ScalingResult") -> tuple[str, ...]:
    chosen = result.best_alpha()
    if chosen is None:
        return ()
    gain, alpha = result.mean(chosen.gain), result.alphas[chosen.place]
    if alpha == 1.0:
        return ("No alpha agreed more often with the labels than 1 on the half it was chosen on.",)
    if gain.low > 0:
        return (f"Alpha {alpha:g} agrees more often than 1, on items it was not chosen on.",)
    return (f"No better alpha found: the gain of {alpha:g}, chosen on one half, is not above 0 on the other.",)


def _length_words(result: "ScalingResult") -> tuple[str, ...]:
    differing = int((np.nan_to_num(result.readings().log_ratio) != 0).sum())
    longer = measures.label_longer(result.labels, result.readings().log_ratio)
    if not differing:
        return (f"The answers of no item differ in {result.length_name}, so that nothing is said about length.",)
    if np.isnan(longer).all():
        return (f"Length is {result.length_name}; {differing} items have answers of different lengths.",)
    share = result.share(longer)
    return (
        f"Length is {result.length_name}; on {differing} items the answers differ, and the labelled one is the longer "
        f"in {share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of them.",
    )


def _noise_words(result: "ScalingResult") -> tuple[str, ...]:
    floor = result.meta.noise_floor
    if floor is None:
        return ()
    low = int((np.abs(result.content()[0, result.at_one]) < FLOORS * floor).sum())
    return (
        f"Rounding moves a gap by up to {floor:.2g} logits here; {low} of {len(result.item_ids)} items have a margin "
        f"below {FLOORS:g} times that at alpha 1.",
    )


def _far(result: "ScalingResult") -> str:
    return f"{result.alphas[result.far]:g}"


def _n_control(result: "ScalingResult") -> int:
    if not len(result.control_gap):
        return 0
    known = ~np.isnan(result.control_gap[0, 0, result.at_one]).any(-1)
    return len({c for c, k in zip(result.clusters, known, strict=True) if k})
