"""What a comparison of merged and unmerged says in words: one verdict-first sentence, estimates, limits."""

from typing import TYPE_CHECKING

import numpy as np

from analyses.judged import estimate
from analyses.merge_equivalence.forms import AGAIN, FLOAT32, MERGED, ROUNDED
from analyses.metrics import share_interval
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.merge_equivalence.result import MergeEquivalenceResult

_NO_MERGE = (
    "Merged in float32 the judge isn't the same either: this adapter can't be merged, or the tolerance is below "
    "float32's own rounding."
)
_NAMES = {
    MERGED: "merged",
    AGAIN: "rounding alone",
    ROUNDED: "the merged weights, computed in float32",
    FLOAT32: "merged and computed in float32",
}


def finding(result: "MergeEquivalenceResult") -> Finding:
    """Say whether the merged judge is the same judge.

    It is when no verdict flips and no margin moves by more than the tolerance. Otherwise the difference is a finding
    where it is more than rounding alone makes: more flips, or a change of margins whose difference to that of another
    batch shape has an interval above 0; or where the merged weights themselves fail in float32.
    """
    same = bool(result.equivalent[result.forms.index(MERGED)])
    found = not same and _beyond_rounding(result)
    estimates = (
        _change(result, MERGED, control=_change(result, AGAIN)),
        _flipped(result, MERGED, control=_flipped(result, AGAIN)),
        *_in_float32(result),
        _last_drift(result, MERGED, control=_last_drift(result, AGAIN)),
        _mass(result),
    )
    headline = _headline(result, same=same, found=found)
    return Finding(headline=headline, found=found, estimates=estimates, limits=_limits(result))


def _headline(result: "MergeEquivalenceResult", *, same: bool, found: bool) -> str:
    index = result.forms.index(MERGED)
    moved, flips = np.abs(result.change[index]), int(result.flips[index].sum())
    if same:
        return (
            f"Nothing found: merged in {result.dtype}, this judge is equivalent within {result.tolerance:g} nats "
            f"(largest change of a margin {moved.max():.2g}; no verdict of {moved.size} flips)."
        )
    noise = result.forms.index(AGAIN)
    rounding = f"rounding alone: {np.abs(result.change[noise]).mean():.2g} nats, {int(result.flips[noise].sum())} flips"
    told = (
        f"{_verdicts(flips)} of {moved.size}, and margins move by {moved.mean():.2g} nats on average, "
        f"{moved.max():.2g} at most ({rounding})."
    )
    if found:
        return f"Not equivalent: merged in {result.dtype}, {told}"
    return (
        f"Nothing found beyond rounding, though not within {result.tolerance:g} nats: merged in {result.dtype}, {told}"
    )


def _verdicts(flips: int) -> str:
    return {0: "no verdict flips", 1: "1 verdict flips"}.get(flips, f"{flips} verdicts flip")


def _beyond_rounding(result: "MergeEquivalenceResult") -> bool:
    merged, again = (result.forms.index(name) for name in (MERGED, AGAIN))
    more = np.abs(result.change[merged]) - np.abs(result.change[again])
    flipped = result.flips[merged].astype(float) - result.flips[again]
    if ROUNDED in result.forms and not result.equivalent[result.forms.index(ROUNDED)]:
        return True
    return result.mean(more).low > 0 or result.mean(flipped).low > 0


def _change(result: "MergeEquivalenceResult", form: str, *, control: Estimate | None = None) -> Estimate:
    moved = np.abs(result.change[result.forms.index(form)])
    name = f"change of a verdict margin, {_NAMES[form]}"
    return estimate(name, result.mean(moved), unit="nats", control=control)


def _flipped(result: "MergeEquivalenceResult", form: str, *, control: Estimate | None = None) -> Estimate:
    flips = result.flips[result.forms.index(form)].astype(float)
    return estimate(
        f"share of verdicts that flip, {_NAMES[form]}", share_interval(flips, clusters=result.clusters), control=control
    )


def _in_float32(result: "MergeEquivalenceResult") -> tuple[Estimate, ...]:
    if ROUNDED not in result.forms:
        return ()
    return (_change(result, ROUNDED, control=_change(result, FLOAT32)),)


def _last_drift(result: "MergeEquivalenceResult", form: str, *, control: Estimate | None = None) -> Estimate:
    drift = result.stream_drift[result.forms.index(form), ..., -1]
    return estimate(
        f"drift of the final stream, share of its norm, {_NAMES[form]}", result.mean(drift), control=control
    )


def _mass(result: "MergeEquivalenceResult") -> Estimate:
    index = result.forms.index(MERGED)
    before = estimate("unmerged", result.mean(result.reference_mass[index]))
    return estimate("probability of all labels together, merged", result.mean(result.mass[index]), control=before)


def _limits(result: "MergeEquivalenceResult") -> tuple[str, ...]:
    failed = FLOAT32 in result.forms and not result.equivalent[result.forms.index(FLOAT32)]
    return (
        *([_NO_MERGE] if failed else []),
        "Equivalence is shown on these prompts and at their last token; other prompts, and text the judge writes, "
        "may differ by more.",
        f"No rate of flips below {share_interval(np.zeros(len(result.item_ids)), clusters=result.clusters).high:.2g} "
        "can be told from none with so many independent items.",
        *(f"Not measured: {what}" for what in result.meta.not_measured),
        *result.meta.warnings,
    )
