"""What a screen says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING

from analyses.cross_model_patching.advantage import FEWEST_SHARED
from analyses.cross_model_patching.directions import SHORT
from analyses.cross_model_patching.screen import views
from analyses.cross_model_patching.screen.regions import BEFORE, region_title
from analyses.cross_model_patching.screen.views import STREAM, Check
from analyses.judged import estimate
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.cross_model_patching.screen.result import ScreenResult

_LOOSE = 0.8
"""Below this correlation with exact effects a screen is said to rank poorly."""


def finding(result: "ScreenResult") -> Finding:
    """Decide whether text in front of the last token carries the judge's advantage, and say so first.

    Something is found where there is an advantage that random judges don't have, and an exact patch in front of the
    last token has a family-wise p below 0.05 over items it wasn't named on, is larger than the largest of random
    judges, has an interval without 0 and is far above rounding. Scores alone find nothing.
    """
    held = [check for check in result.checks() if check.found]
    return Finding(
        headline=_found(result, held) if held else f"Nothing found: {_why_not(result)}.",
        found=bool(held),
        estimates=tuple(_estimates(result)),
        limits=tuple(_limits(result)),
    )


def _found(result: "ScreenResult", held: list[Check]) -> str:
    wholes = [views.carried(result, direction) for direction in result.directions]
    parts = [check for check in held if check.unit == STREAM and check.region != BEFORE]
    cells = [check for check in held if check.unit != STREAM]
    said = []
    if any(check.found for check in wholes):
        shares = " and ".join(f"{_percent(check.recovery.value)} ({SHORT[check.direction]})" for check in wholes)
        said.append(f"the text in front of the last token carries {shares} of the judge's advantage")
    if parts:
        best = max(parts, key=lambda check: abs(check.recovery.value))
        said.append(f"most of it in the {region_title(best.region)} ({_percent(best.recovery.value)}, "
                    f"{SHORT[best.direction]})")  # fmt: skip
    if cells:
        best = max(cells, key=lambda check: abs(check.exact.value))
        said.append(f"the strongest single site that was re-checked is {best.unit} at {_place(best.region)} "
                    f"({best.exact.value:+.3g} {result.unit}, {SHORT[best.direction]})")  # fmt: skip
    return _sentence("; ".join(said))


def _percent(share: float) -> str:
    return f"{round(100 * share) + 0:d}%"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _place(region: str) -> str:
    return f"token {region}" if region.startswith("-") else f"the {region_title(region)}"


def _why_not(result: "ScreenResult") -> str:
    if not (result.judge_margin - result.base_margin).any() and not result.screened.any():
        return "judge and base hold the same activations everywhere; every score is exactly 0"
    passed = views.gate(result)
    if not passed.found:
        return passed.why_not()
    return "no exact patch in front of the last token is told from chance, over items and against random judges"


def _estimates(result: "ScreenResult") -> list[Estimate]:
    passed = views.gate(result)
    chance = Estimate(
        name=f"random judges (95% of further ones; p = {passed.chance.p:.2g})", value=passed.chance.value,
        low=passed.chance.low, high=passed.chance.high, n=passed.gap.n, unit=result.unit,
    )  # fmt: skip
    found = [estimate("judge's margin minus the base's, toward the label", passed.gap, unit=result.unit,
                      control=chance)]  # fmt: skip
    for direction in result.directions:
        found += _of_direction(result, direction)
    return found


def _of_direction(result: "ScreenResult", direction: str) -> list[Estimate]:
    way, found = SHORT[direction], []
    streams = [check for check in result.checks() if check.direction == direction and check.unit == STREAM]
    for check in streams[-1:] + sorted(streams[:-1], key=lambda c: -abs(c.exact.value)):
        name = check.region if check.region == BEFORE else f"the {region_title(check.region)}"
        found.append(
            estimate(
                f"share of the gap that {name} carries, exact, {way} (p = {check.p:.2g})",
                check.recovery,
                control=estimate("another item's change there", check.mismatched),
            )
        )
    cells = [check for check in result.checks() if check.direction == direction and check.unit != STREAM]
    if cells:
        best = max(cells, key=lambda check: abs(check.exact.value))
        found.append(
            estimate(
                f"strongest re-checked cell, {best.place}, exact, {way} (p = {best.p:.2g})",
                best.exact,
                unit=result.unit,
                control=estimate("its score", best.screened, unit=result.unit),
            )
        )
    last, mid = (result.agreement(direction, where) for where in ("last", "mid"))
    found.append(
        estimate(f"correlation of scores with exact effects at the last token, {last.n_cells} units, {way}",
                 last.correlation)
    )  # fmt: skip
    found.append(estimate(f"exact effect per unit of score there, {way}", last.slope))
    if mid.n_cells > 1:
        found.append(estimate(f"correlation at {mid.n_cells} re-checked cells, {way}", mid.correlation))
    return found


def _limits(result: "ScreenResult") -> list[str]:
    line = (
        "Scores are of first order: they miss a saturated softmax, and sites that only work together."
        if result.method == "atp"
        else f"Scores are mean gradients at {result.steps} points of the line between both models' activations of one "
        "site at all tokens: exact for the whole site, shared out among its tokens and heads."
    )
    said = [line, *(_agreement_limit(result, direction) for direction in result.directions)]
    if not views.gate(result).labelled:
        said.append("No item is labelled: effects are those toward the first slot, and nothing can be called found.")
    shared = views.shared_clusters(result)
    if len(result.random_screened) and shared < FEWEST_SHARED:
        said.append(
            f"Random judges were asked on {shared} independent items of the half for exact patches: what these are "
            "held against is that little (control_items)."
        )
    said += [
        "Only cells that were patched exactly can be found; what the screen puts low was never looked at.",
        "Effects of single sites don't add up: later sites carry on what earlier ones wrote.",
        "That a part's stream carries the advantage doesn't say where it was written: compare the weight swap.",
        *(f"Not measured: {what}" for what in result.meta.not_measured),
    ]
    return [text for text in said if text]


def _agreement_limit(result: "ScreenResult", direction: str) -> str:
    last, way = result.agreement(direction), SHORT[direction]
    if last.miss != last.miss or not last.n_cells:
        return ""
    loose = last.correlation.value < _LOOSE
    return (
        f"{way.capitalize()}: at the last token scores miss exact effects by {last.miss:.2g} {result.unit} at most "
        f"({last.where})" + ("; they rank poorly here, take more of them to the exact check." if loose else ".")
    )
