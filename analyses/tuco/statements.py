"""What a TuCo run says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING

import numpy as np

from analyses.judged import estimate
from analyses.metrics import FEWEST_DRAWS, FLOORS, LEVEL, Interval, further_draw
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.tuco.result import TucoResult

DECISION_LEVEL = 1 - LEVEL / 2
"""Coverage of the two intervals that decide whether anything was found: 95% together (Bonferroni)."""


def finding(result: "TucoResult") -> Finding:
    """Decide whether fine-tuning pushed the verdicts, and say so first.

    Something is found when TuCo is above three noise floors *and* the push of fine-tuning toward the
    labelled answer, or toward the first slot, differs from that of a random change of equal norm
    (over items, and over draws of such changes; both pushes together at 95%). Without labels only the position push
    decides.
    """
    if not result.finetuned_norm.any():
        return Finding(
            headline="Nothing found: fine-tuning wrote exactly nothing at the last prompt token of any item.",
            found=False,
            estimates=(_share(result),),
            limits=_limits(result),
        )
    pushes = _decisive(result)
    found = [name for name, _, decides in pushes if decides]
    loud = _above_noise(result)
    headline = _headline(result, found) if found and loud else _nothing(result, loud=loud)
    estimates = (_share(result), *(push for _, push, _ in pushes), *_others(result))
    return Finding(headline=headline, found=bool(found) and loud, estimates=estimates, limits=_limits(result))


def _decisive(result: "TucoResult") -> list[tuple[str, Estimate, bool]]:
    """Return (what, estimate with control, whether it beats the control) for the pushes that were measured."""
    push, control = result.finetuned_push.sum(-1), result.control_push
    if np.isnan(push).all():
        return []
    ways = []
    if (result.labels >= 0).any():
        ways.append(("toward the labelled answer", result.toward_label(push), result.toward_label(control)))
    if len(result.orders) == 2:
        ways.append(("toward the first slot", result.toward_first_slot(push), result.toward_first_slot(control)))
    return [_compare(result, name, own, other) for name, own, other in ways]


def _compare(result: "TucoResult", name: str, own: np.ndarray, control: np.ndarray) -> tuple[str, Estimate, bool]:
    """Hold a push against the random changes: over items, and over draws.

    A single random change pushes too, the same way on every item; only several of them show how far. The push
    decides when it lies outside where a further random change would fall, and differs over items from their mean.
    """
    null, decides = None, False
    if len(control):
        mean = control.mean(0)
        null = estimate("a random change of equal norm", result.mean(mean), unit=result.unit)
        draws = np.array([result.mean(draw).value for draw in control])
        same_items = result.mean(np.where(np.isnan(mean), np.nan, own)).value
        if len(draws) >= FEWEST_DRAWS:
            low, high = further_draw(draws, level=0.95)
            null = Estimate(
                name=f"where 95% of random changes of equal norm fall ({len(draws)} drawn)",
                value=float(draws.mean()),
                low=low,
                high=high,
                n=null.n,
                unit=result.unit,
            )
            low, high = further_draw(draws, level=DECISION_LEVEL)
            outside = not low <= same_items <= high
            decides = outside and result.mean(own - mean, level=DECISION_LEVEL).excludes(0.0)
    return name, estimate(f"push of fine-tuning {name}", result.mean(own), unit=result.unit, control=null), decides


def _headline(result: "TucoResult", found: list[str]) -> str:
    share = _pooled(result)
    named = result.units[_strongest(result)]
    pushes = {name: push for name, push, _ in _decisive(result)}
    parts = [f"by {pushes[name].value:+.3g} {result.unit} {name}" for name in found]
    control = _share(result).control
    beside = "" if control is None else f" (a random change of the same size: {control.value:.1%})"
    return (
        f"Fine-tuning wrote {share.value:.1%} of what moves the stream at the verdict{beside} and pushed the verdict "
        f"{' and '.join(parts)}, most of all in {named}."
    )


def _nothing(result: "TucoResult", *, loud: bool) -> str:
    if not loud:
        return f"Nothing found: TuCo is within {FLOORS:g} noise floors of rounding on these prompts."
    if len(result.control_push) < FEWEST_DRAWS:
        return f"Nothing found: it takes {FEWEST_DRAWS} random changes or more to tell a push from chance (controls)."
    return (
        "Nothing found: fine-tuning changed the stream, but pushed the verdict neither toward the labelled answer nor "
        "toward a slot "
        "more than a random change of equal norm does."
    )


def _share(result: "TucoResult") -> Estimate:
    control = None
    if len(result.control_push):
        pooled = result.ratio(
            result.control_finetuned_norm.mean(0),
            (result.control_finetuned_norm + result.control_pretrained_norm).mean(0),
        )
        control = estimate("a random change of equal norm", pooled)
    return estimate(
        f"TuCo ({result.granularity}, {result.norm}, |F| / (|P| + |F|) over items)", _pooled(result), control=control
    )


def _pooled(result: "TucoResult") -> Interval:
    return result.ratio(result.finetuned_norm, result.finetuned_norm + result.pretrained_norm)


def _others(result: "TucoResult") -> tuple[Estimate, ...]:
    made = []
    if not np.isnan(result.output_change_norm).all():
        pooled = result.ratio(result.output_change_norm, result.output_change_norm + result.base_output_norm)
        floor = Estimate(name="judge against itself", value=0.0, low=0.0, high=0.0, n=pooled.n)
        made.append(estimate("OutputCo (two free runs)", pooled, control=floor))
    if result.confirmed_unit is not None:
        oriented = _oriented(result, result.confirmed_effect)
        null = estimate(
            "a random change of equal length there",
            result.mean(_oriented(result, result.confirmed_control)),
            unit=result.unit,
        )
        name = f"verdict margin lost when {result.confirmed_unit} runs without its fine-tuning (named on other items)"
        made.append(estimate(name, result.mean(oriented), unit=result.unit, control=null))
    for side, gap, other in (("judge", result.judge_gap, result.base_gap),):
        if (result.labels >= 0).any() and not np.isnan(gap).all():
            base = None if np.isnan(other).all() else estimate("base", result.mean(_right(result, other)))
            made.append(estimate(f"share of verdicts right, {side}", result.mean(_right(result, gap)), control=base))
    return tuple(made)


def _oriented(result: "TucoResult", values: np.ndarray) -> np.ndarray:
    """Orient to the label, or to the judge's own verdict where there is none."""
    labelled = result.toward_label(values)
    return np.where(np.isnan(labelled), values * np.sign(result.judge_gap), labelled)


def _right(result: "TucoResult", gap: np.ndarray) -> np.ndarray:
    oriented = result.toward_label(gap)
    return np.where(np.isnan(oriented), np.nan, (oriented > 0).astype(float))


def _strongest(result: "TucoResult") -> int:
    return int(np.argmax(np.abs(np.nanmean(_oriented(result, np.moveaxis(result.finetuned_push, -1, 0)), axis=(1, 2)))))


def _above_noise(result: "TucoResult") -> bool:
    floor = result.meta.noise_floor
    return floor is None or bool(_pooled(result).value > FLOORS * floor)


def _limits(result: "TucoResult") -> tuple[str, ...]:
    own = [
        "Direct writes only: what tuned blocks cause in later blocks is booked as pretraining; OutputCo and the "
        "removal effect stand beside it, and path attribution counts it.",
        f"Depends on the cut ({result.granularity}) and the norm ({result.norm}); not comparable across base models.",
        _what_is_read(result),
        "The judge is a checkpoint of its own; had it been merged from an adapter in half precision, the merge's "
        "rounding would be booked as fine-tuning."
        if result.merged
        else "The judge is an unmerged adapter on the base's own weights.",
        *_numbers(result),
    ]
    return (*own, *(f"Not measured: {what}" for what in result.meta.not_measured))


def _what_is_read(result: "TucoResult") -> str:
    if result.readout == "LabelGap":
        first, second = result.choices
        return f"At the last prompt token only; the gap compares the first tokens of {first!r} and {second!r}."
    if result.exact:
        return f"At the last prompt token only; what is split is a {result.readout or 'norm'}, in its own units."
    return (
        f"At the last prompt token only; {result.readout} is not linear in the stream: its parts are first-order, and "
        "what they leave over is booked with the offset."
    )


def _numbers(result: "TucoResult") -> list[str]:
    said = []
    floor = result.meta.noise_floor
    if floor is not None:
        low = int(result.under_floor.sum())
        said.append(
            f"Noise floor of TuCo here {floor:.2g}; {low} of {result.tuco.size} prompts lie under {FLOORS:g} floors."
        )
    if not np.isnan(result.shortcut_error):
        said.append(
            f"Computed at the last token only; on the first item this differs from full forwards by "
            f"{result.shortcut_error:.1g} of the largest write."
        )
    if result.meta.parameters.get("precision") == "model" and result.meta.dtype in ("bfloat16", "float16"):
        said.append(
            f"Blocks were computed in {result.meta.dtype}: rounding adds to small shares (see precision='float32')."
        )
    return said
