"""Building a perturbation from what it does to one item: the rest is the same for all of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from random import Random
from typing import Literal, NamedTuple

from workbench.judges.chat import Tokenizer
from workbench.judges.items import JudgeItem
from workbench.judges.perturb.contract import Perturbation, PerturbedItems, Target
from workbench.judges.perturb.edits import Skipped, marked
from workbench.judges.perturb.lengths import Fitted, Ruler

NOBODY = -1
"""What ``toward`` says where a bias would favour no answer."""


class Change(NamedTuple):
    """What became of one item."""

    perturbed: JudgeItem
    """The item perturbed."""
    placebo: Fitted | None = None
    """The item with the placebo, and how much longer than wanted that is."""
    toward: int = NOBODY
    """The answer a biased judge would move to."""
    carrier: int | None = None
    """The answer that carries the change, where one does."""


class Bench(NamedTuple):
    """What a change may use."""

    ruler: Ruler
    """Counts and matches lengths."""
    rng: Random
    """Draws for this item alone: they depend on the seed, the perturbation's name and the item's id."""


Edit = Callable[[JudgeItem, Bench], Change | Skipped]
"""What a perturbation does to one item; a :class:`Skipped` where it can't be done."""


def perturbation(
    name: str,
    edit: Edit,
    *,
    title: str,
    description: str,
    placebo: str | None,
    target: Target = "answer",
    keeps_label: bool = True,
    expected: Literal["still", "moves"] = "still",
    unmatched: str | None = None,
    placebo_in_both: bool = False,
) -> Perturbation:
    """Return a perturbation that makes one change to every item it fits.

    Args:
        name: Name in the registry.
        edit: The change.
        title: What is probed, in words.
        description: What is changed, and where the definition comes from.
        placebo: What the placebo is; None where there is none, and the description says why.
        target: What a biased judge would move toward.
        keeps_label: Whether the better answer stays the better one.
        expected: What a good judge does.
        unmatched: What the placebo's length is compared with, where that isn't the perturbed item.
        placebo_in_both: Whether the placebo makes the change in both answers.
    """

    def apply(items: Sequence[JudgeItem], seed: int, tokenizer: Tokenizer | None) -> PerturbedItems:
        ruler, left_out = Ruler(tokenizer), Counter[str]()
        kept: list[JudgeItem] = []
        changes: list[Change] = []
        for item in items:
            ruler.forget()
            change = edit(item, Bench(ruler, Random(f"perturb/{name}/{seed}/{item.item_id}")))
            change = _checked(item, change)
            if isinstance(change, Skipped):
                left_out[change.reason] += 1
                continue
            kept.append(item)
            changes.append(change)
        notes = [_counted(len(kept), len(items), left_out)]
        notes.append(_matched(changes, placebo=placebo, unit=ruler.unit, unmatched=unmatched))
        return PerturbedItems(
            items=tuple(kept),
            perturbed=tuple(marked(c.perturbed, variant=name, carrier=c.carrier) for c in changes),
            placebo=None if placebo is None else _placebos(changes, name=name),
            toward=tuple(c.toward for c in changes),
            notes=tuple(notes),
        )

    described = f"{description} Placebo: {placebo}." if placebo is not None else f"{description} No placebo."
    return Perturbation(
        name=name,
        title=title,
        description=described,
        apply=apply,
        target=target,
        keeps_label=keeps_label,
        expected=expected,
        placebo_in_both=placebo_in_both,
    )


def same_texts(item: JudgeItem, other: JudgeItem) -> bool:
    """Return whether two items show a judge the same."""
    shown = attrgetter("question", "answers", "reference", "rubric", "context")
    return shown(item) == shown(other)


def _checked(item: JudgeItem, change: Change | Skipped) -> Change | Skipped:
    if isinstance(change, Skipped):
        return change
    if same_texts(item, change.perturbed):
        return Skipped("nothing to change: it is like this already")
    if change.placebo is not None and same_texts(change.perturbed, change.placebo.item):
        return Skipped("a placebo that is the perturbation itself, so that no effect could show")
    return change


def _placebos(changes: Sequence[Change], *, name: str) -> tuple[JudgeItem, ...]:
    fitted = [(change.placebo, change.carrier) for change in changes if change.placebo is not None]
    return tuple(marked(found.item, variant=f"{name} placebo", carrier=carrier) for found, carrier in fitted)


def _counted(kept: int, total: int, left_out: Counter[str]) -> str:
    reasons = ", ".join(f"{count} with {reason}" for reason, count in sorted(left_out.items()))
    return f"applied to {kept} of {total} items" + (f"; left out: {reasons}" if reasons else "")


def _matched(changes: Sequence[Change], *, placebo: str | None, unit: str, unmatched: str | None) -> str:
    if placebo is None:
        return "no placebo: see the description"
    if not changes:
        return f"placebo: {placebo}"
    gaps = [abs(change.placebo.gap) for change in changes if change.placebo is not None]
    exact = sum(gap == 0 for gap in gaps)
    like = "the perturbation" if unmatched is None else unmatched
    off = f", the others off by at most {max(gaps)}" if exact < len(gaps) else ""
    return f"placebo: {placebo}; as long as {like} in {unit} for {exact} of {len(gaps)} items{off}"
