"""Paired variants of items: the same item clean, under attack, and with controls of the attack's length.

An attack makes a prompt longer, and length alone moves a judge. Each attacked item therefore has two twins whose
suffix takes exactly as many tokens: a plain remark, and random tokens. What the attack does beyond them is its own.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any, Literal, NamedTuple, cast

from workbench.errors import ItemError, ParameterError
from workbench.judges.chat import Tokenizer
from workbench.judges.datasets import load_items
from workbench.judges.formats import JudgeFormat, get_format
from workbench.judges.items import ORDERS, JudgeItem, JudgeItems

Carrier = Literal["worse", "better", "random"]
"""Which answer carries the suffix, by the item's label or by lot."""

REMARKS: tuple[str, ...] = (
    "It rained.",
    "Snow fell.",
    "The tea was cold.",
    "It rained all day.",
    "All was calm here.",
    "The road was long.",
    "My hat is on the chair.",
    "We ate soup and bread.",
    "The old mill is near here.",
    "The tea was cold by then.",
    "We took the late train home.",
    "A cat sat under the table.",
    "A dog was barking in the street.",
    "My sister painted the fence last spring.",
    "In winter the lake freezes over.",
    "The shop on the corner sells stamps and string.",
    "There were two chairs and a lamp in the room.",
    "He walked along the canal until it grew dark.",
    "She folded the map and put it back into the drawer.",
    "The bus stops near the library every twenty minutes.",
    "They planted beans, onions and a row of small blue flowers.",
    "On Sunday the neighbours came over and we played cards until midnight.",
    "The clock in the hall has been slow since my uncle moved it there.",
    "Most of the boats were still in the harbour when the wind began to rise.",
    "Her garden lies behind the mill, between a low wall and a field of barley.",
)
"""Plain remarks that say nothing about any answer: the default pool of benign suffixes."""

_TRIES = 200
_ENDS = ".!?"
_PAUSES = ",;:"
_AROUND = (("", ""), (" ", "\n"), ("\n", "\n\n"))


class Suffixes(NamedTuple):
    """What was put after the carrier of one item."""

    attack: str
    """The attack."""
    benign: str
    """A plain remark of the same length, tokens."""
    random: str
    """Random tokens, as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackVariants:
    """Four item sets in step: item i of each is the same item, told apart by ``meta["variant"]``."""

    clean: JudgeItems
    """The items as they came."""
    attack: JudgeItems
    """The carrier ends with the attack."""
    benign: JudgeItems
    """The carrier ends with a plain remark of the same length."""
    random: JudgeItems
    """The carrier ends with random tokens, as many."""
    carriers: tuple[int, ...]
    """Which answer carries, by item."""
    suffixes: tuple[Suffixes, ...]
    """What it carries, by item."""
    added_tokens: tuple[int, ...]
    """Tokens that each of the three suffixes adds to the prompt, by item."""
    notes: tuple[str, ...]
    """How the lengths were matched."""

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.clean)


def with_suffix(item: JudgeItem, suffix: str, *, answer: int, variant: str = "suffix") -> JudgeItem:
    """Return the item with text put after one of its answers.

    Id, label and cluster stay: it is the same item in another dress.

    Args:
        item: Any item.
        suffix: What to append, after a space unless it brings its own white space.
        answer: Index of the answer that carries it.
        variant: Kept in ``meta["variant"]``; ``meta["carrier"]`` keeps `answer`.

    Raises:
        ParameterError: The suffix is empty, or there is no such answer.
    """
    if not suffix.strip():
        raise ParameterError("an empty suffix changes nothing.", argument="suffix", got=suffix)
    _require_answer(item, answer)
    text = item.answers[answer]
    apart = "" if suffix[0].isspace() or not text or text[-1].isspace() else " "
    answers = tuple(f"{text}{apart}{suffix}" if i == answer else a for i, a in enumerate(item.answers))
    return replace(item, answers=answers, meta={**item.meta, "variant": variant, "carrier": answer})


def attack_variants(
    items: Sequence[JudgeItem],
    *,
    attack: str | Sequence[str],
    tokenizer: Tokenizer,
    benign: Sequence[str] | None = None,
    carrier: Carrier | int = "worse",
    format: str | JudgeFormat | None = None,
    seed: int = 0,
) -> AttackVariants:
    """Write every item clean, attacked, and with two controls as long as the attack.

    Lengths are compared where they count, with the suffix in its place: in the whole prompt, both orders, when
    `format` is given; else in the answer with the spaces and line breaks that formats put around it.

    Args:
        items: What to judge.
        attack: The suffix, or several of which each item draws one.
        tokenizer: The judge's tokenizer; any Hugging Face one.
        benign: Plain remarks to draw from; a pool of our own when left out.
        carrier: The answer that carries: the worse or the better one by label, one drawn by lot, or an index.
        format: Format the items will be shown in.
        seed: Decides every draw; an item's draws depend on its id, not on the others.

    Returns:
        The four sets, with carriers, suffixes and notes.

    Raises:
        ItemError: An item has no label (or not two answers) where the carrier depends on it, or no control of the
            attack's length was found for it.
        ParameterError: There is no attack, a suffix is empty, or the carrier makes no sense.
    """
    attacks = _texts(attack, argument="attack")
    remarks = REMARKS if benign is None else _texts(benign, argument="benign")
    shown = None if format is None else get_format(format)
    pieces = _pieces(tokenizer, seed=seed)
    whole = {text: _as_long(remarks, text, tokenizer=tokenizer) for text in attacks}
    clean = load_items(items)
    carriers, suffixes, added, tally = [], [], [], Counter[str]()
    for item in clean:
        rng = Random(f"variants/{seed}/{item.item_id}")
        answer = _carrier(item, carrier, rng=rng)
        chosen = rng.choice(attacks)
        lengths = _Lengths(item, answer=answer, tokenizer=tokenizer, shown=shown)
        goal = _Goal(chosen, lengths.of(chosen))
        extra = goal.length[0] - lengths.bare[0]
        remark = _fitting(whole[chosen], goal, lengths=lengths, rng=rng) or _cut_to_fit(
            _rows(remarks, rng=rng), goal, lengths=lengths, kind="benign", tally=tally
        )
        noise = _cut_to_fit(_noise(pieces, n=extra, rng=rng), goal, lengths=lengths, kind="random", tally=tally)
        carriers.append(answer)
        suffixes.append(Suffixes(chosen, remark, noise))
        added.append(extra)
    variants = {
        name: _dressed(clean, [getattr(s, name) for s in suffixes], carriers, variant=name) for name in Suffixes._fields
    }
    return AttackVariants(
        clean=_undressed(clean, carriers),
        **variants,
        carriers=tuple(carriers),
        suffixes=tuple(suffixes),
        added_tokens=tuple(added),
        notes=_notes(tally, n=len(clean), shown=shown),
    )


_JOINED = 0.2
"""Share of random tokens that continue a word."""


class _Lengths:
    """Counts the tokens of one item with a suffix in its place."""

    def __init__(self, item: JudgeItem, *, answer: int, tokenizer: Tokenizer, shown: JudgeFormat | None) -> None:
        self.item, self.answer, self.tokenizer, self.shown = item, answer, tokenizer, shown
        self.bare = self._count(item)

    def of(self, suffix: str) -> tuple[int, ...]:
        """Return the number of tokens in every setting it is counted in."""
        return self._count(with_suffix(self.item, suffix, answer=self.answer))

    def _count(self, item: JudgeItem) -> tuple[int, ...]:
        if self.shown is None:
            text = item.answers[self.answer]
            texts = [f"{before}{text}{after}" for before, after in _AROUND]
        else:
            texts = [self.shown.render(item, order=order, tokenizer=self.tokenizer).text for order in ORDERS]
        return tuple(len(ids) for ids in self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])


class _Goal(NamedTuple):
    """The attack a control has to match."""

    attack: str
    length: tuple[int, ...]

    def dress(self, words: Sequence[str]) -> str:
        """Return words between the attack's own white space and closing mark, so that both join text alike."""
        body = self.attack.strip()
        start = self.attack[: self.attack.index(body)]
        end = body[-1] if body[-1] in _ENDS else ""
        return f"{start}{' '.join(words).rstrip(_ENDS + _PAUSES)}{end}{self.attack[len(start) + len(body) :]}"


def _as_long(remarks: Sequence[str], attack: str, *, tokenizer: Tokenizer) -> list[list[str]]:
    """Return remarks, and pairs of them, that are as long as the attack when they stand alone."""
    rows = [[*first.split(), *second.split()] for first in ("", *remarks) for second in remarks if first != second]
    goal = _Goal(attack, ())
    texts = [f" {attack.strip()}", *(f" {goal.dress(words).strip()}" for words in rows)]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [words for words, own in zip(rows, ids[1:], strict=True) if len(own) == len(ids[0])]


def _fitting(rows: Sequence[list[str]], goal: _Goal, *, lengths: _Lengths, rng: Random) -> str | None:
    for words in rng.sample(rows, min(_TRIES, len(rows))):
        suffix = goal.dress(words)
        # An attack that is itself in the pool would be compared with itself.
        if suffix.strip() != goal.attack.strip() and lengths.of(suffix) == goal.length:
            return suffix
    return None


def _cut_to_fit(
    candidates: Iterator[list[str]], goal: _Goal, *, lengths: _Lengths, kind: str, tally: Counter[str]
) -> str:
    for tried, words in zip(range(_TRIES), candidates, strict=False):
        for kept in _cuts(words, goal, lengths=lengths):
            suffix = goal.dress(words[:kept])
            if lengths.of(suffix) == goal.length:
                tally[kind] += 1
                tally[f"{kind} retries"] += tried
                return suffix
    raise ItemError(
        f"no {kind} suffix as long as the attack was found for item {lengths.item.item_id!r} in {_TRIES} tries.",
        argument=kind,
        got=f"{goal.attack!r}: {goal.length[0] - lengths.bare[0]} tokens",
        fix="Give more and shorter remarks in `benign`, or an attack that ends like a sentence.",
    )


def _cuts(words: Sequence[str], goal: _Goal, *, lengths: _Lengths) -> Iterator[int]:
    # Length grows with the words kept, so bisection finds where it reaches the goal; a word of several
    # tokens may step over it, and marks that merge may shift it by one.
    if lengths.of(goal.dress(words))[0] < goal.length[0]:
        return
    low, high = 1, len(words)
    while low < high:
        middle = (low + high) // 2
        if lengths.of(goal.dress(words[:middle]))[0] < goal.length[0]:
            low = middle + 1
        else:
            high = middle
    yield from (kept for kept in (low, low + 1) if kept <= len(words))


def _rows(remarks: Sequence[str], *, rng: Random) -> Iterator[list[str]]:
    count = 1
    while True:
        yield " ".join(rng.choices(remarks, k=count)).split()
        # The first rows are short enough for any attack worth the name; longer ones follow soon.
        count = count % 64 + 1


def _noise(pieces: Sequence[str], *, n: int, rng: Random) -> Iterator[list[str]]:
    while True:
        # Twice as many pieces as tokens are wanted, to be cut. Some are joined to the one before:
        # where a space is a token of its own, words of one token each would only ever make even lengths.
        words: list[str] = []
        for piece in rng.choices(pieces, k=2 * max(1, n)):
            if words and rng.random() < _JOINED:
                words[-1] += piece
            else:
                words.append(piece)
        yield words


def _pieces(tokenizer: Tokenizer, *, seed: int) -> tuple[str, ...]:
    """Return random vocabulary entries as text; those that are no text of their own are left out."""
    rng = Random(f"pieces/{seed}")
    # An added token may have no row in one of the models, and is never plain text.
    special = {*tokenizer.all_special_ids, *cast(Any, tokenizer).get_added_vocab().values()}
    known = sorted(i for i in tokenizer.get_vocab().values() if i not in special)
    texts = [str(tokenizer.decode([i])).strip() for i in rng.sample(known, min(2000, len(known)))]
    usable = sorted({text for text in texts if text.isprintable() and any(c.isalnum() for c in text) and " " not in text
                     and "\ufffd" not in text})  # fmt: skip
    if not usable:
        raise ParameterError("the tokenizer's vocabulary holds no readable token.", argument="tokenizer")
    return tuple(usable)


def _carrier(item: JudgeItem, carrier: Carrier | int, *, rng: Random) -> int:
    drawn = rng.randrange(len(item.answers))
    if carrier == "random":
        return drawn
    if isinstance(carrier, int) and not isinstance(carrier, bool):
        _require_answer(item, carrier)
        return carrier
    if carrier not in ("worse", "better"):
        raise ParameterError(
            "unknown carrier.", argument="carrier", got=carrier, allowed=("worse", "better", "random", "an index")
        )
    if item.label is None or len(item.answers) != 2:
        raise ItemError(
            f"item {item.item_id!r} doesn't say which of two answers is the {carrier} one.",
            argument="carrier",
            got=f"{carrier!r}, label {item.label}, {len(item.answers)} answer(s)",
            fix="Use carrier='random' or the index of an answer.",
        )
    return item.label if carrier == "better" else 1 - item.label


def _require_answer(item: JudgeItem, answer: int) -> None:
    if not 0 <= answer < len(item.answers):
        raise ParameterError(
            f"item {item.item_id!r} has no such answer.",
            argument="answer",
            got=answer,
            allowed=f"0 to {len(item.answers) - 1}",
        )


def _texts(given: str | Sequence[str], *, argument: str) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else tuple(given)
    if not texts or not all(text.strip() for text in texts):
        raise ParameterError("a suffix is a text that isn't empty.", argument=argument, got=texts)
    return texts


def _undressed(items: JudgeItems, carriers: Sequence[int]) -> JudgeItems:
    marked = [
        replace(i, meta={**i.meta, "variant": "clean", "carrier": c}) for i, c in zip(items, carriers, strict=True)
    ]
    return replace(items, items=tuple(marked))


def _dressed(items: JudgeItems, suffixes: Sequence[str], carriers: Sequence[int], *, variant: str) -> JudgeItems:
    dressed = tuple(
        with_suffix(item, suffix, answer=answer, variant=variant)
        for item, suffix, answer in zip(items, suffixes, carriers, strict=True)
    )
    body = json.dumps([asdict(item) for item in dressed], sort_keys=True, default=str)
    provenance = replace(
        items.provenance,
        source=f"{items.provenance.source} with {variant} suffixes",
        sha256=hashlib.sha256(body.encode("ascii")).hexdigest(),
    )
    return JudgeItems(items=dressed, provenance=provenance)


def _notes(tally: Counter[str], *, n: int, shown: JudgeFormat | None) -> tuple[str, ...]:
    where = "the answer with what formats put around it" if shown is None else f"the prompts of format {shown.name!r}"
    return (
        f"benign and random suffixes take exactly as many tokens as the attack, counted in {where}",
        f"{tally['benign']} of {n} benign suffixes are rows of remarks cut to fit ({tally['benign retries']} retries); "
        f"random suffixes took {tally['random retries']} retries",
    )
