"""What a heads run says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from analyses.cells import CellIntervals
from analyses.judged import estimate
from analyses.metrics import FLOORS, Interval
from analyses.tuco.heads import figures
from analyses.tuco.naming import region_phrase
from analyses.tuco.views import VIEWS
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.tuco.heads.result import HeadsResult


_PARTS = {"pattern": "attention pattern", "value": "values", "output": "output map"}


def finding(result: "HeadsResult") -> Finding:
    """Decide whether the change of any head pushed the verdict, and say so first.

    A head is found when its push, in the content or the position view, passes a sign-flip test over clusters of items
    (family-wise over all heads, both views together at 5%) *and* is larger than the largest head of one more random
    change of equal norm would be.
    """
    strongest = {view: _strongest(result, view) for view in result.views}
    found = {view: cell for view, cell in strongest.items() if cell.passes}
    estimates = [
        *(_head_estimate(result, view, cell) for view, cell in strongest.items()),
        *(_sum_estimate(result, view, what) for view in result.views for what in ("heads", "MLPs")),
        *_confirmed(result),
    ]
    said = " and ".join(_sentence(result, view, cell) for view, cell in found.items())
    headline = f"Fine-tuning pushed the verdict {said}." if found else _nothing(result)
    return Finding(headline=headline, found=bool(found), estimates=tuple(estimates), limits=_limits(result))


class _Cell(NamedTuple):
    layer: int
    head: int
    value: float
    passes: bool


def _strongest(result: "HeadsResult", view: str) -> _Cell:
    """Return the strongest head of a view, among those that pass the test where any does."""
    values = result.cells(result.head_push, view).value
    passing = result.passing(view)
    sizes = np.where(passing if passing.any() else True, np.abs(np.nan_to_num(values)), -1.0)
    layer, head = (int(i) for i in np.unravel_index(int(np.argmax(sizes)), values.shape))
    return _Cell(layer, head, float(values[layer, head]), bool(passing.any()))


def _sentence(result: "HeadsResult", view: str, cell: _Cell) -> str:
    count = int(result.passing(view).sum())
    names, _, _ = figures.regions_in(result, view)
    regions = result.in_view(result.region_push, view)[1]
    taken = result.cells(regions[:, :, cell.layer, cell.head], view).value
    parts = result.cells(result.part_push[:, :, cell.layer, cell.head], view).value
    sign = np.sign(cell.value)
    heads = "head" if count == 1 else "heads"
    region, part = names[int(np.argmax(taken * sign))], _PARTS[result.parts[int(np.argmax(parts * sign))]]
    return (
        f"{VIEWS[view]} through {count} {heads}, most of all head {cell.layer}.{cell.head} ({cell.value:+.3g} "
        f"{result.unit}; the largest parts: read from {region_phrase(region)}, and its changed {part})"
    )


def _nothing(result: "HeadsResult") -> str:
    if not result.head_push.any():
        if not result.mlp_push.any() and not result.attention_bias_push.any():
            return "Nothing found: fine-tuning wrote exactly nothing at the verdict in any head or MLP."
        return "Nothing found in the heads: fine-tuning changed what MLPs write, and no head's write at all."
    if not any(np.isfinite(result.head_bound)):
        return "Nothing found: it takes three random changes or more to tell a head's push from chance (controls)."
    return (
        "Nothing found: no head's fine-tuning pushed the verdict the same way on the items and further than the "
        "largest head of a random change of equal norm does."
    )


def _head_estimate(result: "HeadsResult", view: str, cell: _Cell) -> Estimate:
    cells = result.cells(result.head_push[:, :, cell.layer, cell.head], view)
    largest = largest_heads(result, view)
    control = None
    if len(largest):
        bound = float(result.head_bound[result.views.index(view)])
        control = Estimate(
            name=f"largest head of a random change of equal norm, by size ({len(largest)} drawn, one more within)",
            value=float(largest.mean()),
            low=0.0,
            high=bound,
            n=cells.n,
            unit=result.unit,
        )
    p = float(result.head_p[result.views.index(view), cell.layer, cell.head])
    name = f"push of head {cell.layer}.{cell.head}'s fine-tuning {VIEWS[view]} (strongest; family-wise p {p:.2g})"
    return estimate(name, _interval(cells), unit=result.unit, control=control)


def largest_heads(result: "HeadsResult", view: str) -> np.ndarray:
    """Return the size of the largest head's mean push of each random change."""
    return np.array([np.abs(result.cells(draw, view).value).max() for draw in result.control_head_push])


def _sum_estimate(result: "HeadsResult", view: str, what: str) -> Estimate:
    heads = what == "heads"
    values = result.head_push.sum((2, 3)) if heads else result.mlp_push.sum(2)
    drawn = result.control_head_push.sum((3, 4)) if heads else result.control_mlp_push.sum(3)
    control = None
    if len(drawn):
        mean = _interval(result.cells(drawn.mean(0), view))
        control = estimate("mean of random changes of equal norm", mean, unit=result.unit)
    name = f"push of all {what}' fine-tuning {VIEWS[view]}"
    return estimate(name, _interval(result.cells(values, view)), unit=result.unit, control=control)


def _confirmed(result: "HeadsResult") -> list[Estimate]:
    if result.named_head is None:
        return []
    layer, head = result.named_head
    view = result.named_view
    made = []
    for name, values in (
        (f"gap {VIEWS[view]} lost when head {layer}.{head} really writes what the base's writes", "confirmed_effect"),
        (f"the same for head {_name(result.other_head)}, drawn at random", "confirmed_other"),
    ):
        effect = getattr(result, values)
        if np.isnan(effect).all():
            continue
        random = _interval(result.cells(result.confirmed_control, view))
        control = estimate("a random change as long as the named head's there", random, unit=result.unit)
        made.append(estimate(name, _interval(result.cells(effect, view)), unit=result.unit, control=control))
    return made


def _name(head: tuple[int, int] | None) -> str:
    return "none" if head is None else f"{head[0]}.{head[1]}"


def _read(result: "HeadsResult") -> str:
    if not result.choices:
        return f"a number in {result.unit}"
    return f"the logit gap between the first tokens of {result.choices[0]!r} and {result.choices[1]!r}"


def _interval(cells: CellIntervals) -> Interval:
    return Interval(float(cells.value), float(cells.low), float(cells.high), cells.n)


def _limits(result: "HeadsResult") -> tuple[str, ...]:
    inner = max(result.closing_error, result.region_error)
    own = [
        "Direct writes only, at sub-layer granularity (both models read the judge's stream before attention and before "
        "the MLP): what a tuned head causes in later layers is booked as pretraining.",
        f"At the last prompt token only, of {_read(result)}, with the final norm (and post-norms) frozen at their "
        "actual scale.",
        "A region is where a head takes its values from at that layer; earlier layers have already moved text about. "
        "Pattern, value and output parts are Shapley values of one head's own change.",
        f"Heads, regions and neurons add up to their sub-layer within {inner:.2g}, sub-layers to the number read "
        f"within {result.gap_error:.2g} {result.unit}.",
        "p-values: signs of whole clusters flipped, held against the largest head of each flip (Westfall and Young).",
    ]
    floor = result.meta.noise_floor
    if floor is not None:
        under = int((np.abs(result.head_push) < FLOORS * floor).mean() * 100)
        own.append(
            f"Noise floor of a head's push {floor:.2g} {result.unit}; {under}% of pushes lie under {FLOORS:g} floors."
        )
    return (*own, *(f"Not measured: {what}" for what in result.meta.not_measured))
