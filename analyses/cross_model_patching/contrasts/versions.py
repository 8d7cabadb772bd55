"""The two versions of an item that a contrast holds against each other, as like in length as they can be.

    order         the answers exchanged
    better_worse  the better answer against a minimally worse one (one word changed)
    reference     the item's own reference against another item's of as many tokens
    verbosity     the same padding behind one answer, or behind the other
    cue           the same cue in one answer, or in the other
    rubric        a word of the rubric changed, or the same case under the other rubric
    template      the judge's chat template against the base's

Zhang and Nanda (arXiv 2309.16042): replacing tokens symmetrically keeps both runs in distribution, noise doesn't.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from types import MappingProxyType
from typing import NamedTuple

from analyses.cross_model_patching.prompt_pairs import Align
from workbench.errors import ItemError, ParameterError
from workbench.judges import JudgeItem
from workbench.judges.chat import Tokenizer
from workbench.judges.perturb import get_perturbation

NOBODY = -1
_PADDING = "verbosity-filler"

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "order": "the order of the answers",
        "better_worse": "making the better answer minimally worse",
        "reference": "another item's reference",
        "verbosity": "padding one answer or the other",
        "cue": "the same cue in one answer or the other",
        "rubric": "another word in the rubric",
        "template": "the chat template",
    }
)
"""Contrasts that are built here, and what they change, in words."""
_MATCHED = ("better_worse", "reference", "rubric")


class Versions(NamedTuple):
    """Two item sets in step."""

    clean: tuple[JudgeItem, ...]
    """One version of each item."""
    other: tuple[JudgeItem, ...]
    """What it is held against."""
    toward: tuple[int, ...]
    """Index of the answer the clean version speaks for, in the item's own order; -1 where nobody knows."""
    speaks_for: str
    """Which answer that is, in words."""
    align: Align
    """How prompts should be aligned unless the caller says otherwise."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""


class Skipped(NamedTuple):
    """Why an item has no other version."""

    reason: str


def versions(
    items: Sequence[JudgeItem],
    contrast: str,
    *,
    other: Sequence[JudgeItem] | None,
    toward: Sequence[int] | None,
    cue: str,
    words: tuple[str, str] | None,
    tokenizer: Tokenizer,
    seed: int,
) -> Versions:
    """Return both versions of the items.

    Args:
        items: What to judge.
        contrast: A key of :data:`TITLES`, or any name for versions of the caller's own.
        other: The other version of each item, by the caller.
        toward: Index of the answer each clean version speaks for; by default what the contrast says.
        cue: Perturbation whose cue is put into one answer or the other.
        words: A word of the rubric and the one that replaces it.
        tokenizer: Matches lengths.
        seed: Seed of draws.

    Raises:
        ParameterError: The contrast is unknown and there are no items of the caller's, or choices don't fit.
        ItemError: No item has another version.
    """
    if other is not None:
        found = _given(items, other)
    elif contrast in ("order", "template"):
        found = Versions(tuple(items), tuple(items), _labels(items), "the labelled answer", "auto")
    elif contrast in ("verbosity", "cue"):
        found = _carried(items, _PADDING if contrast == "verbosity" else cue, tokenizer=tokenizer, seed=seed)
    elif contrast in _MATCHED:
        found = _each(items, _maker(items, contrast, words=words, tokenizer=tokenizer, seed=seed), contrast)
    else:
        raise ParameterError(
            "no such contrast.",
            argument="contrast",
            got=contrast,
            allowed=tuple(TITLES),
            fix="For versions of your own pass them as other=.",
        )
    if toward is None:
        return found
    if len(toward) != len(items) or len(found.clean) != len(items):
        raise ParameterError(
            "one entry per item, of a contrast that leaves none out.",
            argument="toward",
            got=len(toward),
            allowed=str(len(found.clean)),
        )
    return found._replace(toward=tuple(int(index) for index in toward), speaks_for="the answer named")


Maker = Callable[[JudgeItem], JudgeItem | Skipped]


def _maker(
    items: Sequence[JudgeItem], contrast: str, *, words: tuple[str, str] | None, tokenizer: Tokenizer, seed: int
) -> Maker:
    if contrast == "better_worse":
        return _worse
    if contrast == "reference":
        return _References(items, tokenizer, seed)
    return _Rubrics(items, words)


def _each(items: Sequence[JudgeItem], make: Maker, contrast: str) -> Versions:
    kept: list[tuple[JudgeItem, JudgeItem]] = []
    reasons: Counter[str] = Counter()
    for item in items:
        made = make(item)
        if isinstance(made, Skipped):
            reasons[made.reason] += 1
        else:
            kept.append((item, made))
    if not kept:
        raise ItemError(
            f"no item has another version for {contrast!r}.",
            argument="contrast",
            got=", ".join(f"{count} items: {why}" for why, count in reasons.items()),
            fix="Give the other version of each item as other=.",
        )
    clean = [item for item, _ in kept]
    return Versions(
        tuple(clean),
        tuple(made for _, made in kept),
        _labels(clean),
        "the labelled answer",
        "design",
        tuple(f"{count} of {len(items)} items: {why}." for why, count in reasons.items()),
    )


def _labels(items: Sequence[JudgeItem]) -> tuple[int, ...]:
    return tuple(NOBODY if item.label is None else item.label for item in items)


def _given(items: Sequence[JudgeItem], other: Sequence[JudgeItem]) -> Versions:
    odd = [
        one.item_id
        for one, two in zip(items, other, strict=False)
        if isinstance(two, JudgeItem) and len(one.answers) != len(two.answers)
    ]
    if len(items) != len(other) or odd:
        raise ItemError(
            "the other version needs the same items, each with as many answers.",
            argument="other",
            got=f"{len(other)} items; other numbers of answers in {odd[:3]}",
            allowed=f"{len(items)} items in the same order",
        )
    return Versions(tuple(items), tuple(other), _labels(items), "the labelled answer", "auto")


def _worse(item: JudgeItem) -> JudgeItem | Skipped:
    """Return the item with its better answer made worse by one word, or by the text it brings."""
    if item.label is None:
        return Skipped("nobody said which answer is better")
    better, given = item.answers[item.label], item.meta.get("worse_answer")
    if not isinstance(given, str):
        values = [item.meta.get("true_value"), item.meta.get("wrong_value")]
        told = [v for v in values if isinstance(v, str) and len(_whole(v).findall(better)) == 1]
        if len(told) != 1 or not all(isinstance(v, str) for v in values):
            return Skipped("no worse version of the better answer (meta worse_answer, or true_value and wrong_value)")
        instead = str(values[1 - values.index(told[0])])
        given = _whole(told[0]).sub(lambda _: instead, better)
    answers = tuple(given if index == item.label else text for index, text in enumerate(item.answers))
    return replace(item, answers=answers, label=None, grades=None)


class _References:
    """Finds each item another item's reference of as many tokens."""

    def __init__(self, items: Sequence[JudgeItem], tokenizer: Tokenizer, seed: int) -> None:
        self._seed, self._tokenizer = seed, tokenizer
        self._known = [(item.cluster, item.reference, self._length(item.reference)) for item in items if item.reference]

    def __call__(self, item: JudgeItem) -> JudgeItem | Skipped:
        if not item.reference:
            return Skipped("no reference")
        length = self._length(item.reference)
        matched = sorted(
            {text for cluster, text, size in self._known
             if size == length and cluster != item.cluster and text != item.reference}
        )  # fmt: skip
        if not matched:
            return Skipped("no other item's reference has as many tokens")
        return replace(item, reference=Random(f"reference/{self._seed}/{item.item_id}").choice(matched), label=None)

    def _length(self, text: str) -> int:
        return len(self._tokenizer(f" {text}\n", add_special_tokens=False, verbose=False)["input_ids"])


class _Rubrics:
    """Finds each item its other rubric: a word changed, or the same case judged by the other one."""

    def __init__(self, items: Sequence[JudgeItem], words: tuple[str, str] | None) -> None:
        self._words = words
        self._cases: dict[str, list[JudgeItem]] = {}
        for item in items:
            if item.meta.get("conflict_id") is not None:
                self._cases.setdefault(str(item.meta["conflict_id"]), []).append(item)

    def __call__(self, item: JudgeItem) -> JudgeItem | Skipped:
        if not item.rubric:
            return Skipped("no rubric")
        if self._words is not None:
            changed = _whole(self._words[0]).sub(lambda _: self._words[1] if self._words else "", item.rubric)
            if changed == item.rubric:
                return Skipped(f"no word {self._words[0]!r} in the rubric")
            return replace(item, rubric=changed, label=None)
        case = self._cases.get(str(item.meta.get("conflict_id")), [])
        partner = next((o for o in case if o.rubric != item.rubric and replace(
            o, item_id=item.item_id, rubric=item.rubric, label=item.label, meta=item.meta) == item), None)  # fmt: skip
        if partner is None:
            return Skipped("no words= to change, and no item that is the same case under another rubric")
        if case[0] is not item:
            return Skipped("the other half of a case that is there already")
        return partner


def _whole(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")


def _carried(items: Sequence[JudgeItem], cue: str, *, tokenizer: Tokenizer, seed: int) -> Versions:
    """Return items whose one answer carries a cue, and the same with the cue in the other answer.

    Which answer carries it first is the worse one by the label, the second where there is none.
    """
    two = [item for item in items if len(item.answers) == 2]
    own = {item.item_id: item for item in two}
    labelled = [item if item.label is not None else replace(item, label=0, tie=False) for item in two]
    if not labelled:
        raise ItemError("a cue needs two answers.", argument="items", got=f"{len(items)} items of other numbers")
    made = get_perturbation(cue).apply(labelled, seed, tokenizer)
    clean: list[JudgeItem] = []
    other: list[JudgeItem] = []
    toward: list[int] = []
    for item, perturbed, index in zip(made.items, made.perturbed, made.toward, strict=True):
        frames = _frames(item, perturbed)
        if frames is None or index not in (0, 1):
            continue
        bare = own[item.item_id]
        shown = [tuple(f"{a}{text}{b}" for (a, b), text in zip(f, bare.answers, strict=True))
                 for f in (frames, frames[::-1])]  # fmt: skip
        clean.append(replace(bare, answers=shown[0]))
        other.append(replace(bare, answers=shown[1]))
        toward.append(index)
    if not clean:
        raise ItemError(
            "this cue can't be moved from one answer to the other.",
            argument="cue",
            got=cue,
            allowed="perturbations that put something around answers, such as 'authority', 'sentiment', "
            "'self-preference', 'compassion-fade'",
        )
    lost = len(items) - len(clean)
    notes = [f"{lost} of {len(items)} items: the cue can't be moved between two answers there."] if lost else []
    return Versions(
        tuple(clean), tuple(other), tuple(toward), "the answer that carries it first", "auto",
        (*notes, *(made.notes[:1] if len(made.items) < len(labelled) else ())),
    )  # fmt: skip


def _frames(item: JudgeItem, perturbed: JudgeItem) -> tuple[tuple[str, str], ...] | None:
    """Return what stands before and behind each answer; None where anything else was changed."""
    if replace(perturbed, answers=item.answers, meta=item.meta) != item:
        return None
    frames = []
    for bare, text in zip(item.answers, perturbed.answers, strict=True):
        at = text.find(bare)
        if at < 0:
            return None
        frames.append((text[:at], text[at + len(bare) :]))
    return tuple(frames) if frames[0] != frames[1] else None
