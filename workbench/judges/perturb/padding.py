"""Longer, shorter and differently laid out answers that say what they said before.

The placebo of a change in length does the same to both answers, so that neither is longer by it than the other.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence

from workbench.judges.items import JudgeItem
from workbench.judges.perturb.building import Bench, Change, perturbation
from workbench.judges.perturb.contract import Perturbation
from workbench.judges.perturb.edits import Sides, Skipped, sides, with_answers
from workbench.judges.perturb.lengths import Fitted

_AGAIN = "To say it once more:"
_FILLER = (
    "This has to be said with some care.",
    "There is more to be said about it, and it can be said in more than one way.",
    "As with all things of this kind, it is good to look at it from every side.",
    "It is a question that many people have asked before.",
    "Having said that, it is worth saying again that this is so.",
    "All of this should be kept in mind.",
    "In the end it comes down to what was said above.",
)
_PADDED = "the padding of the other answer"
_CHUNK = re.compile(r"\S+\s*")
_SENTENCE = re.compile(r"(?<=[.!?])[ \t]+(?=\S)")
_FENCES = ("```", "~~~", "    ", "\t", "|")
_MARK = "-"
_FEWEST_WORDS = 4


def restated() -> Perturbation:
    """Return the perturbation that makes the worse answer say everything twice."""

    def edit(item: JudgeItem, bench: Bench) -> Change | Skipped:
        found = _full_sides(item, bench)
        if isinstance(found, Skipped):
            return found
        pads = [f" {_AGAIN} {text}" for text in item.answers]
        return _padded(item, found, pads[found.worse], f" {_AGAIN}", item.answers[found.better].split(), bench)

    return perturbation(
        "verbosity",
        edit,
        title="prefers the longer answer (it says everything twice)",
        description="The worse answer is followed by itself, so that it is longer and says nothing more "
        "(verbosity: CALM, arXiv 2410.02736, no. 2; padding at fixed content).",
        placebo="both answers padded in this way and by as much, so that the difference in length stays",
        unmatched=_PADDED,
        placebo_in_both=True,
    )


def filled() -> Perturbation:
    """Return the perturbation that pads the worse answer with sentences that say nothing."""

    def edit(item: JudgeItem, bench: Bench) -> Change | Skipped:
        found = _full_sides(item, bench)
        if isinstance(found, Skipped):
            return found
        lines = bench.rng.sample(_FILLER, len(_FILLER))
        words = len(item.answers[found.worse].split())
        count = next((k for k in range(1, len(lines)) if len(" ".join(lines[:k]).split()) >= words), len(lines))
        pad = " ".join(lines[:count])
        return _padded(item, found, f" {pad}", "", pad.split(), bench)

    return perturbation(
        "verbosity-filler",
        edit,
        title="prefers the longer answer (padded with filler)",
        description="Sentences that say nothing are put after the worse answer, about as many words as it has "
        "(verbosity: CALM, arXiv 2410.02736, no. 2).",
        placebo="both answers padded with the same sentences, so that the difference in length stays",
        unmatched=_PADDED,
        placebo_in_both=True,
    )


def truncated() -> Perturbation:
    """Return the perturbation that cuts the better answer short."""

    def edit(item: JudgeItem, bench: Bench) -> Change | Skipped:
        found = sides(item, rng=bench.rng)
        if isinstance(found, Skipped):
            return found
        chunks = {index: _CHUNK.findall(item.answers[index]) for index in found}
        fewest = min(len(own) for own in chunks.values())
        if fewest < _FEWEST_WORDS:
            return Skipped(f"an answer of fewer than {_FEWEST_WORDS} words")
        cut = {index: _without_last(item.answers[index], own, n=fewest // 2) for index, own in chunks.items()}
        perturbed = with_answers(item, {found.better: cut[found.better]})
        lost = bench.ruler.of_item(item) - bench.ruler.of_item(perturbed)
        own, like = chunks[found.worse], bench.ruler.of_item(item) - 2 * lost

        def also(n: int) -> JudgeItem:
            return with_answers(perturbed, {found.worse: _without_last(item.answers[found.worse], own, n=n)})

        at = bisect_left(range(len(own)), -like, key=lambda n: -bench.ruler.of_item(also(n)))
        placebo = bench.ruler.closest((also(n) for n in (at, at - 1) if 0 < n < len(own)), like=like)
        return Change(perturbed, placebo, found.worse, found.better)

    return perturbation(
        "verbosity-truncated",
        edit,
        title="prefers the longer answer (the better one is cut short)",
        description="The better answer loses its last words, half as many as the shorter answer has. It may lose "
        "what made it right, so that the label isn't claimed any more: read it beside its placebo only.",
        placebo="both answers cut by as much, so that the difference in length stays",
        keeps_label=False,
        unmatched="the cut of the other answer",
        placebo_in_both=True,
    )


def listed() -> Perturbation:
    """Return the perturbation that lays the worse answer out as a list, with its words unchanged."""

    def edit(item: JudgeItem, bench: Bench) -> Change | Skipped:
        found = _full_sides(item, bench)
        if isinstance(found, Skipped):
            return found
        text = item.answers[found.worse]
        shown = as_list(text)
        if shown is None:
            return Skipped("an answer that is laid out already")
        perturbed = with_answers(item, {found.worse: shown})
        loose = "\n".join(f"{part} {_MARK}" for part in _sentences(text))
        placebo = with_answers(item, {found.worse: loose})
        gap = bench.ruler.of_item(placebo) - bench.ruler.of_item(perturbed)
        return Change(perturbed, Fitted(placebo, gap), found.worse, found.worse)

    return perturbation(
        "markdown",
        edit,
        title="prefers an answer laid out as a list",
        description="Each sentence of the worse answer becomes an item of a Markdown list; its words stay.",
        placebo="the same lines with the same marks at their ends, which make no list",
    )


def as_list(text: str) -> str | None:
    """Return a text as a Markdown list of its sentences, or None where it has a layout of its own to lose.

    Words stay as they are, in their order: only list marks are added, and spaces between sentences become line breaks.
    """
    lines = text.splitlines()
    if not text.strip() or any(line.startswith(_FENCES) for line in lines):
        return None
    if any(re.match(r"\s*(?:[-*+#>]|\d+[.)])\s", line) for line in lines):
        return None
    return "\n".join(f"{_MARK} {part}" for part in _sentences(text))


def _sentences(text: str) -> list[str]:
    return [part for line in text.splitlines() if line.strip() for part in _SENTENCE.split(line)]


def _full_sides(item: JudgeItem, bench: Bench) -> Sides | Skipped:
    found = sides(item, rng=bench.rng)
    if isinstance(found, Skipped) or all(item.answers[index].strip() for index in found):
        return found
    return Skipped("an empty answer")


def _padded(item: JudgeItem, found: Sides, pad: str, lead: str, words: Sequence[str], bench: Bench) -> Change:
    perturbed = with_answers(item, {found.worse: item.answers[found.worse] + pad})
    added = bench.ruler.of_item(perturbed) - bench.ruler.of_item(item)

    def also(text: str) -> JudgeItem:
        return with_answers(perturbed, {found.better: f"{item.answers[found.better]}{lead} {text}"})

    whole = with_answers(perturbed, {found.better: item.answers[found.better] + pad})
    like = bench.ruler.of_item(item) + 2 * added
    same = bench.ruler.of_item(whole) == like and not lead
    placebo = Fitted(whole, 0) if same else bench.ruler.cut(words, also, like=like)
    return Change(perturbed, placebo, found.worse, found.worse)


def _without_last(text: str, chunks: list[str], *, n: int) -> str:
    start = text[: text.index(chunks[0])]
    return start + "".join(chunks[: len(chunks) - n]).rstrip()
