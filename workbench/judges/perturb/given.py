"""Perturbations that somebody else made: perturbed items from a file, matched to the unchanged ones by id."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Literal

from workbench.errors import ItemError, ParameterError
from workbench.judges.chat import Tokenizer
from workbench.judges.items import JudgeItem
from workbench.judges.perturb.building import NOBODY, same_texts
from workbench.judges.perturb.contract import Perturbation, PerturbedItems, Target
from workbench.judges.perturb.edits import Skipped, marked, sides
from workbench.judges.perturb.lengths import Ruler

Toward = Literal["worse", "better", "first slot", "none"]
"""What a biased judge would move toward: an answer by the unchanged item's label, the first slot, or nothing known."""

_TOWARD: tuple[Toward, ...] = ("worse", "better", "first slot", "none")


def from_items(
    name: str,
    perturbed_items: Sequence[JudgeItem],
    placebo_items: Sequence[JudgeItem] | None = None,
    *,
    toward: Toward | Mapping[str, int] = "worse",
    title: str | None = None,
    description: str = "Perturbed items given by the user.",
    keeps_label: bool = True,
    expected: Literal["still", "moves"] = "still",
    placebo_in_both: bool = False,
) -> Perturbation:
    """Return a perturbation made of items perturbed elsewhere.

    It applies to exactly the items it was made from: the sets have to hold the same ids.

    Args:
        name: Name in results.
        perturbed_items: The perturbed items, with the ids of the unchanged ones, in any order.
        placebo_items: The same items with a placebo; without them, effects have nothing to be compared with.
        toward: What a biased judge would move toward, or the index of that answer by item id.
        title: What is probed, in words; the name when left out.
        description: What was changed, and by whom.
        keeps_label: Whether the better answer stays the better one; labels then have to agree.
        expected: What a good judge does.
        placebo_in_both: Whether the placebo makes the change in both answers; half of its shift is then taken off.

    Returns:
        The perturbation. Items whose placebo is their perturbation are left out and counted. Its ``apply`` raises
        :class:`~workbench.errors.ItemError` where the sets aren't in step, or no item is left.

    Raises:
        ParameterError: There is no item, an id is repeated, or `toward` makes no sense.
    """
    given = _by_id(perturbed_items, argument="perturbed_items")
    controls = None if placebo_items is None else _by_id(placebo_items, argument="placebo_items")
    if isinstance(toward, str) and toward not in _TOWARD:
        raise ParameterError("unknown target.", argument="toward", got=toward, allowed=[*_TOWARD, "an index by id"])
    if not isinstance(toward, str) and set(toward) != set(given):
        raise ParameterError(
            "one index per perturbed item.", argument="toward", got=len(toward), allowed=str(len(given))
        )

    def apply(items: Sequence[JudgeItem], seed: int, tokenizer: Tokenizer | None) -> PerturbedItems:
        changed = _in_step(items, given, argument="perturbed_items", keeps_label=keeps_label)
        placebo = None if controls is None else _in_step(items, controls, argument="placebo_items", keeps_label=True)
        if all(_unchanged(item, other) for item, other in zip(items, changed, strict=True)):
            raise ItemError("no item differs from its unchanged one.", argument="perturbed_items", got=name)
        kept = _telling(changed, placebo, name=name)
        shown, changed = [items[k] for k in kept], [changed[k] for k in kept]
        placebo = None if placebo is None else [placebo[k] for k in kept]
        same = sum(_unchanged(item, other) for item, other in zip(shown, changed, strict=True))
        return PerturbedItems(
            items=tuple(shown),
            perturbed=_marked(changed, variant=name),
            placebo=None if placebo is None else _marked(placebo, variant=f"{name} placebo"),
            toward=tuple(_index(item, toward) for item in shown),
            notes=(_counted(len(items), len(items) - len(kept), same), _lengths(changed, placebo, Ruler(tokenizer))),
        )

    target: Target = "answer" if not isinstance(toward, str) or toward in ("worse", "better") else toward
    return Perturbation(
        name=name,
        title=title or name,
        description=description,
        apply=apply,
        target=target,
        keeps_label=keeps_label,
        expected=expected,
        placebo_in_both=placebo_in_both,
    )


def _by_id(items: Sequence[JudgeItem], *, argument: str) -> dict[str, JudgeItem]:
    found = {item.item_id: item for item in items}
    if not found or len(found) != len(items):
        raise ParameterError(
            "items are needed, each with an id of its own.",
            argument=argument,
            got=f"{len(items)} items, {len(found)} ids",
        )
    return found


def _in_step(
    items: Sequence[JudgeItem], others: Mapping[str, JudgeItem], *, argument: str, keeps_label: bool
) -> list[JudgeItem]:
    ids = {item.item_id for item in items}
    if ids != set(others):
        only = [*sorted(ids - set(others))[:3], *sorted(set(others) - ids)[:3]]
        raise ItemError(
            "not in step with the items: some ids are in one set only.",
            argument=argument,
            got=f"{len(items)} items and {len(others)} perturbed ones; in one set only: {only}",
            fix="Give both sets with the same ids, or keep only the items that are in both.",
        )
    matched = [others[item.item_id] for item in items]
    for item, other in zip(items, matched, strict=True):
        if len(other.answers) != len(item.answers) or (keeps_label and other.label != item.label):
            raise ItemError(
                f"item {item.item_id!r} has other answers or another label than its unchanged one.",
                argument=argument,
                got=f"{len(other.answers)} answers, label {other.label}",
                allowed=f"{len(item.answers)} answers" + (f", label {item.label}" if keeps_label else ""),
                fix="Keep the answers in their order; pass keeps_label=False where the better answer changes.",
            )
    return [replace(other, meta={**item.meta, **other.meta}) for item, other in zip(items, matched, strict=True)]


def _marked(items: Sequence[JudgeItem], *, variant: str) -> tuple[JudgeItem, ...]:
    return tuple(marked(item, variant=variant, carrier=None) for item in items)


def _index(item: JudgeItem, toward: Toward | Mapping[str, int]) -> int:
    if not isinstance(toward, str):
        if not 0 <= toward[item.item_id] < len(item.answers):
            raise ItemError(
                f"item {item.item_id!r} has no such answer.", argument="toward", got=toward[item.item_id],
                allowed=f"0 to {len(item.answers) - 1}",
            )  # fmt: skip
        return toward[item.item_id]
    if toward in ("first slot", "none"):
        return NOBODY
    # With more than two answers the lot decides among the worse ones, as it does everywhere else.
    found = sides(item, rng=Random(f"given/{item.item_id}"))
    if isinstance(found, Skipped):
        raise ItemError(
            f"item {item.item_id!r} doesn't say which answer is the {toward} one: {found.reason}.",
            argument="toward",
            got=toward,
            fix="Give the index of the answer by item id, or toward='none'.",
        )
    return found.worse if toward == "worse" else found.better


def _unchanged(item: JudgeItem, other: JudgeItem) -> bool:
    return replace(other, meta=item.meta) == item


def _telling(changed: Sequence[JudgeItem], placebo: Sequence[JudgeItem] | None, *, name: str) -> list[int]:
    """Return the positions of the items whose placebo isn't the perturbation itself."""
    if placebo is None:
        return list(range(len(changed)))
    kept = [k for k, (one, other) in enumerate(zip(changed, placebo, strict=True)) if not same_texts(one, other)]
    if not kept:
        raise ItemError(
            "every placebo is the perturbation itself, so that no effect could show.",
            argument="placebo_items",
            got=name,
            fix="Give a placebo without what is probed, or none.",
        )
    return kept


def _counted(total: int, left_out: int, same: int) -> str:
    left = f"; left out: {left_out} with a placebo that is the perturbation itself" if left_out else ""
    unchanged = f"; {same} of them unchanged" if same else ""
    return f"{total} perturbed items given by the user{left}{unchanged}"


def _lengths(changed: Sequence[JudgeItem], placebo: Sequence[JudgeItem] | None, ruler: Ruler) -> str:
    if placebo is None:
        return "no placebo given: what moves may be due to length or oddness alone"
    gaps = [ruler.of_item(two) - ruler.of_item(one) for one, two in zip(changed, placebo, strict=True)]
    exact = sum(gap == 0 for gap in gaps)
    return f"placebo: given by the user; as long as the perturbation in {ruler.unit} for {exact} of {len(gaps)} items"
