"""What a contrast says in words: what fine-tuning added to it, which cells carry that, limits."""

from typing import TYPE_CHECKING

import numpy as np

from analyses.cross_model_patching.advantage import LEAST_GAP
from analyses.cross_model_patching.contrasts import views
from analyses.cross_model_patching.contrasts.views import Named, Part, Total
from analyses.judged import estimate
from analyses.metrics import FLOORS
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.cross_model_patching.contrasts.result import ContrastResult

_OFF_FORMAT = 0.5
_MOST_NAMED = 3


def finding(result: "ContrastResult") -> Finding:
    """Decide whether fine-tuning changed what the contrast does to the verdict, and say so first.

    Something is found in a part (content, position) when the interaction's interval over items excludes 0, it lies
    outside where judges moved as far at random fall (p below .05, Holm over the parts), and rounding is far below. A
    cell is named on one half of the items; it holds where the other half agrees over items and beyond the largest
    cell of random judges.
    """
    totals = result.totals()
    found = [total for total in totals if total.found]
    cells: dict[Part, tuple[Named, ...]] = {
        total.part: views.named(result, total.part) for total in found if total.part != "bias"
    }
    headline = " ".join(_found(result, total, cells.get(total.part)) for total in found) or _nothing(result, totals)
    shown = [total for total in totals if _told(result, total)] or [total for total in totals if total.added.n][:1]
    estimates = [
        *(_added(result, total) for total in shown),
        *(_own(result, total, side) for total in shown for side in ("judge", "base")),
        *(_cell(result, cell) for total in found for cell in cells.get(total.part, ())),
    ]
    return Finding(
        headline=headline,
        found=bool(found),
        estimates=tuple(entry for entry in estimates if entry is not None),
        limits=_limits(result, totals, cells),
    )


def _toward(result: "ContrastResult", total: Total) -> str:
    return f"toward {result.speaks_for}" if total.part == "content" else "toward the first slot"


def _told(result: "ContrastResult", total: Total) -> bool:
    """Return whether a part is more than rounding in any model; the position part of an order swap never is."""
    least = FLOORS * result.noise
    return any(total.of(model).n and abs(total.of(model).value) > least for model in views.MODELS)


def _found(result: "ContrastResult", total: Total, cells: tuple[Named, ...] | None) -> str:
    if cells is None:
        return (
            f"Fine-tuning changed the position bias: over both orders the judge's margin is {total.judge.value:+.3g} "
            f"{result.unit} toward the first slot, the base's {total.base.value:+.3g}, further apart than in judges "
            "moved as far at random. What carries it needn't change with the order: ask for its components by ablation."
        )
    said = (
        f"Fine-tuning {_way(total)} what {result.title} does to the verdict: {total.judge.value:+.3g} {result.unit} "
        f"{_toward(result, total)} in the judge, {total.base.value:+.3g} in the base, further apart than in judges "
        "moved as far at random"
    )
    held = [cell for cell in cells if cell.found][:_MOST_NAMED]
    if not held:
        return f"{said}; no single cell holds as carrying it."
    names = ", ".join(f"{result.cell_name(cell.cell)} ({cell.added.value:+.3g})" for cell in held)
    return f"{said}; seen at {names}, on items that weren't used to name them."


def _way(total: Total) -> str:
    """Say what fine-tuning did to an effect of the base's."""
    judge, base = total.judge, total.base
    if judge.value * base.value < 0 and judge.excludes(0.0) and base.excludes(0.0):
        return "turned round"
    return "added to" if abs(judge.value) > abs(base.value) else "took from"


def _nothing(result: "ContrastResult", totals: tuple[Total, ...]) -> str:
    if not (result.margin[1] - result.margin[0]).any():
        return f"Nothing found: {result.title} does to base and judge exactly the same: they decide alike."
    if not any(total.added.n > 1 for total in totals):
        return "Nothing found: nobody says which answer the versions speak for, so that no direction can be told."
    if not views.drawn_enough(result):
        return (
            f"Nothing found: what {result.title} does differs between judge and base, but too few random judges were "
            "measured to tell that from chance."
        )
    total = max(totals, key=lambda t: -1.0 if np.isnan(t.added.value) else abs(t.added.value))
    if total.part == "bias":
        return (
            f"Nothing found: the position bias of judge and base differs by {total.added.value:+.3g} {result.unit}, "
            "and what the order itself does by less; neither is told from scatter or from judges moved at random."
        )
    return (
        f"Nothing found: {result.title} moves the judge by {total.added.value:+.3g} {result.unit} "
        f"{_toward(result, total)} more than the base, which isn't told from items' scatter or from what judges "
        "moved as far at random do."
    )


def _added(result: "ContrastResult", total: Total) -> Estimate:
    """Return the interaction beside where 95% of further random judges fall."""
    chance = total.chance
    control = Estimate(
        name="95% of further judges moved as far at random", value=chance.value, low=chance.low, high=chance.high,
        n=total.added.n, unit=result.unit,
    )  # fmt: skip
    p = "" if np.isnan(total.p) else f" (p = {total.p:.2g}, Holm)"
    kind = "position bias, judge minus base" if total.part == "bias" else f"interaction, {total.part} part"
    return estimate(f"{kind}, {_toward(result, total)}{p}", total.added, unit=result.unit, control=control)


def _own(result: "ContrastResult", total: Total, side: str) -> Estimate | None:
    interval = total.judge if side == "judge" else total.base
    if interval.n == 0:
        return None
    kind = f"clean minus other in the {side}, {total.part} part"
    if total.part == "bias":
        kind = f"position bias of the {side}"
    return estimate(kind, interval, unit=result.unit)


def _cell(result: "ContrastResult", cell: Named) -> Estimate:
    word = "holds" if cell.found else "doesn't hold"
    control = None
    if not np.isnan(cell.bound):
        control = Estimate(
            name="largest cell of a further random judge", value=cell.bound, low=0.0, high=cell.bound, n=cell.added.n,
            unit=result.unit,
        )  # fmt: skip
    share = "" if np.isnan(cell.share.value) else f", {cell.share.value:.0%} of the whole"
    p = max(cell.p_items, cell.p_chance)
    return estimate(
        f"interaction at {result.cell_name(cell.cell)}, {cell.view} part{share} ({word}, p = {p:.2g})",
        cell.added,
        unit=result.unit,
        control=control,
    )


def _limits(
    result: "ContrastResult", totals: tuple[Total, ...], cells: dict[Part, tuple[Named, ...]]
) -> tuple[str, ...]:
    side = [("base", 0), ("judge", 1)]
    off = [
        f"The {name} puts only {mass:.2g} of its probability on the labels: its margins say little."
        for name, at in side
        if (mass := float(np.nanmean(result.mass[at]))) < _OFF_FORMAT
    ] if not np.isnan(result.mass).all() else []  # fmt: skip
    return (
        *off,
        *_undefined(result, totals),
        *(["Only one order was shown: content and position can't be told apart."] if len(result.orders) < 2 else []),
        *_untested(result, cells),
        *result.meta.warnings,
        "Cells behind the one that changed light up too, and effects of cells don't add up to the whole.",
        *(f"Not measured: {what}" for what in result.meta.not_measured),
    )


def _undefined(result: "ContrastResult", totals: tuple[Total, ...]) -> tuple[str, ...]:
    """Say where margins barely differ between the versions."""
    small = [
        f"{model} ({total.part} part: {total.of(model).value:+.2g} {result.unit})"
        for total in totals
        for model in views.MODELS
        if total.part != "bias" and _told(result, total) and not views.defined(total.of(model))
    ]
    if not small:
        return ()
    return (
        f"Clean and other differ by less than {LEAST_GAP} {result.unit}, or not surely, in {', '.join(small)}: "
        "recovery isn't defined there, raw effects are shown.",
    )


def _untested(result: "ContrastResult", cells: dict[Part, tuple[Named, ...]]) -> tuple[str, ...]:
    if any(cells.values()):
        half = int(np.nansum(result.confirming))
        over = dict.fromkeys(views.against_random(result, one.view).note for named in cells.values() for one in named)
        return (
            f"Cells were named on {len(result.item_ids) - half} items and estimated on {half} others.",
            *(note for note in over if note),
        )
    if cells and np.isnan(result.confirming).all():
        return ("No cell was named: too few independent items to name them on one half and test on the other.",)
    return ()
