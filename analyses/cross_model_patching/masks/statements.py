"""What a mask run says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING

from analyses.cross_model_patching.directions import Direction
from analyses.cross_model_patching.masks.gates import Chosen
from analyses.judged import estimate
from analyses.metrics import LEVEL
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.cross_model_patching.masks.result import MaskResult

MODELS: dict[Direction, tuple[str, str]] = {
    "judge_to_base": ("the judge's", "the base"),
    "base_to_judge": ("the base's", "the judge"),
}
"""Whose values, in whom."""

_NAMED = 6


def finding(result: "MaskResult") -> Finding:
    """Decide whether few cells carry the other model's verdict, and say so first.

    Found when the judge has an advantage that random changes of its norm don't have, and the smallest mask that is
    good enough on the training half also is on the held-out half, and recovers more there than random masks of its
    size (5% over the directions together).
    """
    chosen: dict[Direction, Chosen | None] = {direction: result.chosen(direction) for direction in result.directions}
    good: dict[Direction, Chosen] = {
        d: found for d, found in chosen.items() if found is not None and _holds(result, found)
    }
    gate = result.advantage()
    if not gate.found:
        headline = f"Nothing found: {gate.why_not()}{_anyway(result, chosen)}."
    elif good:
        said = "; ".join(_sentence(result, direction, found) for direction, found in good.items())
        headline = f"{said[0].upper()}{said[1:]}."
    else:
        headline = f"Nothing found: {_failed(result, chosen)}."
    return Finding(
        headline=headline,
        found=gate.found and bool(good),
        estimates=(_gap(result), *(e for d, found in chosen.items() for e in _estimates(result, d, found))),
        limits=_limits(result),
    )


def _holds(result: "MaskResult", found: Chosen) -> bool:
    p = found.chance.p * len(result.directions)
    return found.recovery.value >= max(result.share, found.chance.value) and p < LEVEL


def _anyway(result: "MaskResult", chosen: dict[Direction, Chosen | None]) -> str:
    """Say what masks do to a difference that isn't told from chance."""
    if result.identical:
        return "; no mask was learned"
    sizes = [found.size for found in chosen.values() if found is not None]
    if not sizes:
        return ""
    return f" (masks of {' and '.join(map(str, sizes))} of {len(result.cell_labels)} cells carry what there is)"


def _sentence(result: "MaskResult", direction: Direction, found: Chosen) -> str:
    values, target = MODELS[direction]
    names = [str(cell) for cell in result.mask(direction, found.price)]
    shown = f" ({', '.join(names)})" if len(names) <= _NAMED else ""
    return (
        f"with {values} values in {found.size} of {len(result.cell_labels)} cells{shown} {target} closes "
        f"{found.recovery.value:.3g} [{found.recovery.low:.3g}, {found.recovery.high:.3g}] of the gap on items they "
        f"weren't learned on (random cells of the same blocks: {found.chance.value:.3g})"
    )


def _failed(result: "MaskResult", chosen: dict[Direction, Chosen | None]) -> str:
    if not result.trained.any():
        return "no mask was learned"
    if not len(result.set_sizes):
        return "the masks that were learned were not put in"
    told = [found for found in chosen.values() if found is not None]
    if not told:
        most = max(_whole(result, direction).value for direction in result.directions)
        return (
            f"no mask recovers {result.share:.0%} of the gap, not even on the items it was learned on; all "
            f"{len(result.cell_labels)} cells together recover {most:.3g}"
        )
    if all(found.size == len(result.cell_labels) for found in told):
        return f"only all {len(result.cell_labels)} cells together recover {result.share:.0%} of the gap"
    if all(found.recovery.value < result.share for found in told):
        return f"no mask that recovers {result.share:.0%} of the gap where it was learned does on other items"
    as_good = " and ".join(f"{found.chance.p:.2g} (mask of {found.size})" for found in told)
    return (
        f"the share of random draws from the same blocks that recover as much as the learned cells is {as_good}: "
        "blocks of few heads hold too few others, or too few were drawn (draws)"
    )


def _gap(result: "MaskResult") -> Estimate:
    gate = result.advantage()
    control = Estimate(
        name=f"random judges of equal norm (95% of further ones; p = {gate.chance.p:.2g})",
        value=gate.chance.value, low=gate.chance.low, high=gate.chance.high, n=gate.gap.n, unit=result.unit,
    )  # fmt: skip
    return estimate("margin of judge minus base toward the label, all items", gate.gap, unit=result.unit,
                    control=control)  # fmt: skip


def _estimates(result: "MaskResult", direction: Direction, found: Chosen | None) -> list[Estimate]:
    at = result.directions.index(direction)
    whole = [] if not len(result.set_sizes) else [_whole(result, direction)]
    if found is None:
        return whole
    effect, size = result.mask_effect[at, found.price], found.size
    random = Estimate(
        name=f"random masks of {size} (middle 95%; p = {found.chance.p:.2g})",
        value=found.chance.value, low=found.chance.low, high=found.chance.high, n=found.recovery.n,
    )  # fmt: skip
    greedy = result.greedy_effect[at, result.set_sizes.tolist().index(size)]
    own = result.accuracy(effect * 0, direction)
    name = f"{direction}, mask of {size}"
    made = [
        *whole,
        estimate(f"{name}: recovery on held-out items", found.recovery, control=random),
        estimate(
            f"{name}: share of the squared gap explained", result.explained(effect, direction),
            control=estimate(f"the {size} strongest single cells", result.explained(greedy, direction)),
        ),
        estimate(
            f"recovery of the {size} strongest single cells ({direction})", result.recovery(greedy, direction),
            control=random,
        ),
        estimate(f"{name}: verdicts of {MODELS[direction][1]} turned", result.flips(effect, direction)),
    ]  # fmt: skip
    if own.n:
        accuracy = result.accuracy(effect, direction)
        made.append(estimate(f"{name}: agreement with the labels", accuracy, control=estimate("untouched", own)))
    return made


def _whole(result: "MaskResult", direction: Direction) -> Estimate:
    """Return what all cells together recover: no mask is expected to do more."""
    effect = result.greedy_effect[result.directions.index(direction), -1]
    name = f"{direction}, all {len(result.cell_labels)} cells: recovery on held-out items"
    return estimate(name, result.recovery(effect, direction))


def _limits(result: "MaskResult") -> tuple[str, ...]:
    held = int((~result.training).sum())
    last = max((-position for *_, position in result.cell_labels), default=1)
    where = "the last position" if last == 1 else f"the last {last} positions"
    left = [
        f"{direction}: the mask still holds {int(result.kept[at][result.trained[at]][-1].sum())} cells at the highest "
        "lambda; raise it to see the curve's end."
        for at, direction in enumerate(result.directions)
        if result.trained[at].any() and result.kept[at][result.trained[at]][-1].any()
    ]
    return (
        f"Values are put in at {where} only; earlier tokens keep the target's own.",
        f"Learned on {int(result.training.sum())} items, told by {held} others of other clusters; the mask that is "
        "named is chosen on the first of the two.",
        "A mask says which cells are enough together, not where something was tuned: cells behind a tuned block pass "
        "it on, and another set of the same size may do as well.",
        "Recovery is a ratio of means and may leave 0 to 1; the share of the squared gap also counts overshooting.",
        f"Random rows were within {result.checked:.2g} {result.unit} of full forwards.",
        *left,
        *result.remarks,
        *(f"Not measured: {what}" for what in result.meta.not_measured),
    )
