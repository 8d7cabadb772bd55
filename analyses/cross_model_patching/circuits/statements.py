"""What a circuit run says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING

from analyses.cross_model_patching.circuits.ablation import SIDES
from analyses.judged import estimate
from analyses.metrics import LEVEL, Chance, Interval
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.cross_model_patching.circuits.result import CircuitResult

_OUTSIDE = {"mean": "at their mean over other items", "other_model": "holding the other model's values"}


def finding(result: "CircuitResult") -> Finding:
    """Decide whether a circuit of this pair is told from chance, and say so first.

    Found when the judge has an advantage that random changes of its norm don't have, the main circuit leaves something
    out, its faithfulness on held-out items is above 0 and no fewer than 95% of random circuits, matched on kind and
    block, are less faithful.
    """
    own, chance = _of_main(result)
    holds = own.low > 0 and chance.p < LEVEL and not result.members[result.main].all()
    gate = result.advantage()
    if gate.found and holds:
        headline = _found(result, own, chance)
    elif not gate.found:
        headline = f"Nothing found: {gate.why_not()}{_anyway(result, own)}."
    else:
        headline = f"Nothing found: {_failed(result, own, chance)}."
    return Finding(headline=headline, found=gate.found and holds, estimates=_estimates(result), limits=_limits(result))


def _of_main(result: "CircuitResult") -> tuple[Interval, Chance]:
    at, side = result.main, result.side
    return result.faithfulness(result.alive[at, side], side), result.chance(at, side)


def _whose(result: "CircuitResult", at: int) -> str:
    name = result.circuit_names[at]
    return "the given circuit" if name == "given" else f"the {name}'s circuit"


def _found(result: "CircuitResult", own: Interval, chance: Chance) -> str:
    size = int(result.members[result.main].sum())
    said = (
        f"the {result.model}'s verdict runs through {size} of {len(result.cell_labels)} cells: with all others "
        f"{_OUTSIDE[result.ablation]} it keeps {own.value:.3g} [{own.low:.3g}, {own.high:.3g}] of its margin on "
        f"held-out items (random circuits: {chance.value:.3g})"
    )
    return f"{said[0].upper()}{said[1:]}. {_across(result)}"


def _across(result: "CircuitResult") -> str:
    """Say whether the base's circuit runs in the judge."""
    if result.circuit_names == ("given",):
        gain, whole = result.gain(0)
        return f"With it alone alive the judge is {gain.value:+.3g} {result.unit} ahead, of {whole.value:+.3g}."
    if not result.members.any(1).all():
        return "There is no circuit of the other model to hold against it."
    inside, chance = result.faithfulness(result.alive[0, 1], 1), result.chance(0, 1)
    gain, whole = result.gain(0)
    overlap = result.overlap()
    shared = "" if overlap is None else f" (overlap {overlap[0]:.2g}, random {overlap[1].value:.2g})"
    runs = inside.value >= result.threshold and chance.p < LEVEL
    verdict = "runs in the judge as it is" if runs else "does not do in the judge"
    enhanced = f", enhanced: alone it is {gain.value:+.3g} {result.unit} ahead there, of {whole.value:+.3g}"
    return (
        f"The base's own circuit{shared} {verdict}: it keeps {inside.value:.3g} [{inside.low:.3g}, {inside.high:.3g}] "
        f"(random: {chance.value:.3g}){enhanced if runs and gain.low > 0 else ''}."
    )


def _anyway(result: "CircuitResult", own: Interval) -> str:
    if own.n == 0:
        return ""
    size, same = int(result.members[result.main].sum()), " (which are one model)" if result.identical else ""
    return f"; the circuit of {size} cells below belongs to the models as they are{same}"


def _failed(result: "CircuitResult", own: Interval, chance: Chance) -> str:
    if not result.members[result.main].any():
        return f"ablating all cells at the last positions costs the {result.model} no margin there is to keep"
    if result.members[result.main].all():
        return f"only all {len(result.cell_labels)} cells together are faithful enough"
    if not own.low > 0:
        return "the circuit keeps nothing of the margin on items it wasn't found on"
    return (
        f"the share of random circuits of the same blocks that are as faithful is {chance.p:.2g}: blocks of few heads "
        "hold too few others, or too few were drawn (draws)"
    )


def _random(name: str, chance: Chance, n: int) -> Estimate:
    return Estimate(name=f"{name} (middle 95%; p = {chance.p:.2g})", value=chance.value, low=chance.low,
                    high=chance.high, n=n)  # fmt: skip


def _estimates(result: "CircuitResult") -> tuple[Estimate, ...]:
    gate = result.advantage()
    control = Estimate(
        name=f"random judges of equal norm (95% of further ones; p = {gate.chance.p:.2g})",
        value=gate.chance.value, low=gate.chance.low, high=gate.chance.high, n=gate.gap.n, unit=result.unit,
    )  # fmt: skip
    made = [
        estimate("margin of judge minus base toward the label, all items", gate.gap, unit=result.unit, control=control)
    ]
    for at, name in enumerate(result.circuit_names):
        if result.members[at].any():
            made += _of_circuit(result, at, name)
    return (*made, *_overlap(result), *_apart(result))


def _of_circuit(result: "CircuitResult", at: int, name: str) -> list[Estimate]:
    made, whose = [], _whose(result, at)
    for side, model in enumerate(SIDES):
        own = result.faithfulness(result.alive[at, side], side)
        if own.n:
            made.append(
                estimate(f"faithfulness of {whose} ({int(result.members[at].sum())} cells) in the {model}", own,
                         control=_random("random circuits", result.chance(at, side), own.n))
            )  # fmt: skip
        right = result.accuracy(result.alive[at, side])
        if right.n:
            made.append(
                estimate(f"agreement of {whose} in the {model} with the labels", right,
                         control=estimate("the whole model", result.accuracy(result.margins[side])))
            )  # fmt: skip
    gain, whole = result.gain(at)
    if gain.n:
        made.append(
            estimate(f"judge minus base with only {whose} alive", gain, unit=result.unit,
                     control=estimate("in the whole models", whole, unit=result.unit))
        )  # fmt: skip
    return made


def _overlap(result: "CircuitResult") -> list[Estimate]:
    found = result.overlap()
    if found is None:
        return []
    own, chance = found
    n = len(set(result.clusters))
    return [
        Estimate(name="overlap of the two circuits (Jaccard)", value=own, low=float("nan"), high=float("nan"), n=n,
                 control=_random("random circuits of the same blocks", chance, n))
    ]  # fmt: skip


def _apart(result: "CircuitResult") -> list[Estimate]:
    made = []
    found = result.completeness()
    if found.mean_size.n:
        control = Estimate(name="random circuits", value=found.random, low=float("nan"), high=float("nan"),
                           n=found.mean_size.n)  # fmt: skip
        made.append(
            estimate("difference between model and circuit when random parts are left out, mean size",
                     found.mean_size, control=control)
        )  # fmt: skip
    for k, name in enumerate(result.subset_names):
        if not name.startswith("random") and found.difference.n:
            each = found.difference
            made.append(
                estimate(f"the same, all of its {name} left out (signed)",
                         Interval(float(each.value[k]), float(each.low[k]), float(each.high[k]), each.n))
            )  # fmt: skip
    return made


def _limits(result: "CircuitResult") -> tuple[str, ...]:
    last = max((-position for *_, position in result.cell_labels), default=1)
    where = "the last position" if last == 1 else f"the last {last} positions"
    worth, adjusted = result.minimality()
    means = "; means are of the first half, and no item is in its own" if result.ablation == "mean" else ""
    needed = (
        [f"{int(((worth.low > 0) & (adjusted < LEVEL)).sum())} of the main circuit's {worth.value.size} members are "
         "needed in its company (interval above 0, family-wise p below 0.05)."]
        if worth.n and worth.value.size else []
    )  # fmt: skip
    return (
        f"Ablated at {where} only: what earlier tokens computed is all there, in the circuit too.",
        f"Found on {int(result.training.sum())} items, told by {int((~result.training).sum())} others of other "
        f"clusters{means}.",
        "Cells are ranked one at a time: those that back each other up look unneeded, which completeness shows.",
        *needed,
        f"Random rows were within {result.checked:.2g} {result.unit} of full forwards.",
        *result.remarks,
        *(f"Not measured: {what}" for what in result.meta.not_measured),
    )
