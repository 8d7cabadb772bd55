"""Two versions of the same items as prompts in step, and which token of one stands for which token of the other.

Two prompts that differ in more than the words of equal places can't be patched column by column. What may be moved is
decided for every pair of prompts, and said:

    design  equal length, every named span in the same columns: a column plays the same part in both
    right   otherwise: the last tokens that are the same, counted from the end, in the same spans
    spans   no such token: only named spans, first token to first token

and a named span is moved only where both prompts give it the same number of tokens. Attention patterns and rotated
keys are never moved; see :data:`MOVED_KEYS`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from analyses.cross_model_patching.cells import Cell
from analyses.cross_model_patching.sweeping import Donor
from analyses.cross_model_patching.verdicts import MODES
from analyses.looping import Prompts
from workbench.errors import FormatError, ItemError, ParameterError
from workbench.hooks import Site
from workbench.hooks.suffix import Suffix
from workbench.judges import ORDERS, EncodedPrompts, JudgeItem, JudgeItems, Order
from workbench.judges.formats import Mode
from workbench.pairs import Pair
from workbench.tokens import Span, TokenBatch

Alignment = Literal["design", "right", "spans"]
Align = Literal["auto", "design", "right", "spans"]
ALIGN: tuple[Align, ...] = ("auto", "design", "right", "spans")

MOVED_KEYS = (
    "Queries and keys are moved before rotation: the model rotates what it is given at the place where it is put, so "
    "that a moved key says what the other token says, from here."
)
"""What a patch of q or k means where the two tokens stand at different positions."""
LEARNED_POSITIONS = (
    "A model that adds learned positions to its stream carries a token's old position along when it is moved."
)


class _Aligned(NamedTuple):
    """What may be moved between two prompts."""

    kind: Alignment | None
    """None where nothing may be moved."""
    tail: int
    """Last tokens that stand for each other."""
    spans: frozenset[str]
    """Named spans that stand for each other."""
    head: int
    """First tokens that are the same."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptPairs:
    """The same items in the same orders, in two versions; row r of one goes with row r of the other."""

    clean: Prompts
    """The version that is told apart; it keeps track of what is done."""
    other: Prompts
    """The version that is held against it."""
    kinds: tuple[Alignment, ...]
    """How each pair of prompts is aligned."""
    tails: Int[np.ndarray, " prompt"]
    """How many last tokens of each pair stand for each other."""
    heads: Int[np.ndarray, " prompt"]
    """How many first tokens of each pair are the same: in one model no site there can differ."""
    matched: tuple[frozenset[str], ...]
    """Named spans of each pair that stand for each other."""
    chosen: tuple[int, ...]
    """Indices, among the items that came in, of those that are left."""
    left_out: Mapping[str, int]
    """Number of items that were left out, by reason."""

    @classmethod
    def of(
        cls,
        pair: Pair,
        clean_items: Sequence[JudgeItem],
        other_items: Sequence[JudgeItem],
        *,
        orders: Sequence[Order] = ORDERS,
        modes: Sequence[Mode] = MODES,
        align: Align = "auto",
        other_pair: Pair | None = None,
        other_orders: Sequence[Order] | None = None,
    ) -> "PromptPairs":
        """Render both versions and align them.

        Args:
            pair: The pair.
            clean_items: One version of each item.
            other_items: The other version, in step.
            orders: Answer orders shown.
            modes: Which formats the caller can read.
            align: How prompts may be aligned; ``"auto"`` takes for each pair of prompts the strongest way there is.
            other_pair: Writes the other version (another template); ``pair`` by default.
            other_orders: Orders of the other version; ``orders`` by default.

        Raises:
            ItemError: There are no items, or the versions aren't in step.
            ParameterError: ``align`` is unknown, or an order is.
            FormatError: No pair of prompts can be aligned, or the two read different verdicts.
        """
        if align not in ALIGN:
            raise ParameterError("no such alignment.", argument="align", got=align, allowed=ALIGN)
        if len(clean_items) != len(other_items):
            raise ItemError(
                "versions in step have the same number of items.",
                argument="other_items",
                got=len(other_items),
                allowed=f"{len(clean_items)}",
            )
        clean = Prompts.of(pair, clean_items, orders=orders, modes=modes)
        other = Prompts.of(other_pair or pair, other_items, orders=other_orders or orders, modes=modes)
        _check_verdicts(clean.encoded, other.encoded)
        return _aligned_pairs(clean, other, align)

    @classmethod
    def swapped(
        cls,
        pair: Pair,
        items: Sequence[JudgeItem],
        *,
        orders: Sequence[Order] = ORDERS,
        modes: Sequence[Mode] = ("pair",),
        align: Align = "auto",
    ) -> "PromptPairs":
        """Hold every prompt against the same item in the other answer order.

        Args:
            pair: The pair.
            items: Items with two answers.
            orders: Orders of the clean prompts.
            modes: Which formats the caller can read.
            align: How prompts may be aligned.

        Raises:
            ItemError: There are no items.
            FormatError: No pair of prompts can be aligned.
        """
        turned: list[Order] = ["swapped" if order == "original" else "original" for order in orders]
        return cls.of(pair, items, items, orders=orders, modes=modes, align=align, other_orders=turned)

    def flipped(self) -> "PromptPairs":
        """Return the pairs with clean and other exchanged."""
        return PromptPairs(
            clean=self.other, other=self.clean, kinds=self.kinds, tails=self.tails, heads=self.heads,
            matched=self.matched, chosen=self.chosen, left_out=self.left_out,
        )  # fmt: skip

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what was left out, and why."""
        total = len(self.chosen) + sum(self.left_out.values())
        return tuple(f"{count} of {total} items: {why}." for why, count in self.left_out.items())

    @property
    def shifted(self) -> int:
        """Return in how many pairs the two prompts differ in length."""
        rows = zip(self.clean.encoded.rows, self.other.encoded.rows, strict=True)
        return sum(len(mine) != len(its) for mine, its in rows)

    def said(self) -> tuple[str, ...]:
        """Return in words how the prompts are aligned, and what that means for what is moved."""
        words: dict[Alignment, str] = {
            "design": "column by column (equal length, equal spans)",
            "right": "by their common last tokens only",
            "spans": "by named spans only",
        }
        counts = Counter(self.kinds)
        parts = []
        for kind, how in words.items():
            tails = [int(tail) for tail, own in zip(self.tails, self.kinds, strict=True) if own == kind]
            reach = f" ({min(tails)} to {max(tails)} of them)" if tails and kind == "right" else ""
            parts += [f"{counts[kind]} {how}{reach}"] if tails else []
        said = f"Of {len(self.kinds)} pairs of prompts are aligned: {'; '.join(parts)}."
        return (said, MOVED_KEYS, LEARNED_POSITIONS) if self.shifted else (said,)

    def batch(self, items: Iterable[int]) -> tuple[TokenBatch, TokenBatch]:
        """Return the token batches of some items in both versions; they may differ in width."""
        chosen = list(items)
        return self.clean.batch(chosen), self.other.batch(chosen)

    def aligned(self, cells: Sequence[Cell], items: Iterable[int] | None = None) -> Bool[np.ndarray, "prompt cell"]:
        """Return which cells may be patched in which prompts.

        Args:
            cells: Cells of a sweep.
            items: Whose prompts; all by default.
        """
        rows = self.clean.rows_of(range(len(self.clean)) if items is None else items)
        table = [
            [cell.span in self.matched[r] if cell.span else -(cell.position or -1) <= self.tails[r] for cell in cells]
            for r in rows
        ]
        return np.array(table, dtype=bool).reshape(len(rows), len(cells))

    def check(self, cells: Sequence[Cell]) -> None:
        """Refuse cells that no pair of prompts has.

        Raises:
            ParameterError: No prompt has a span, no pair has it in equal length, or no common tail reaches a position.
        """
        tables = [*self.clean.encoded.spans, *self.other.encoded.spans]
        known, matched = {name for table in tables for name in table}, frozenset[str]().union(*self.matched)
        for name in dict.fromkeys(cell.span for cell in cells if cell.span is not None):
            if name not in known:
                raise ParameterError("no prompt has this span.", argument="spans", got=name, allowed=sorted(known))
            if name not in matched:
                raise ParameterError(
                    "no pair of prompts has this span in the same number of tokens.",
                    argument="spans",
                    got=name,
                    allowed=sorted(matched),
                    fix="Match the lengths of the two versions, or leave this span out.",
                )
        reach = max((-cell.position for cell in cells if cell.position is not None), default=0)
        if reach > int(self.tails.max()):
            raise ParameterError(
                "no pair of prompts has so many last tokens in common.",
                argument="last_k",
                got=reach,
                allowed=f"at most {int(self.tails.max())}",
                fix="Lower last_k, or give spans.",
            )

    def donor(self, items: Sequence[int], *, target: Suffix, donor: Suffix) -> Donor:
        """Return the donor that gives the clean prompts what the model holds on the other ones.

        Tokens that stand for no token of the other prompt are given what they have.

        Args:
            items: Whose prompts the batches hold.
            target: Entered with the clean batch of :meth:`batch`.
            donor: Entered with the other batch; any model.
        """
        table = self._table(self.clean.rows_of(items), target.batch, donor.batch)
        first = donor.batch.ids.shape[1] - donor.tokens

        def give(site: Site, columns: Tensor) -> Tensor:
            mapped = table.gather(1, columns.cpu())
            known = mapped >= 0
            early = known & (mapped < first)
            if bool(early.any()):
                raise ParameterError(
                    "the donor doesn't keep these tokens.",
                    argument="donor",
                    got=f"column {int(mapped[early].min())}",
                    allowed=f"{first} or later",
                    fix="Enter the donor with the cells that will be patched.",
                )
            own = target.clean(site, columns)
            given = donor.clean(site, torch.where(known, mapped, donor.batch.ids.shape[1] - 1)).to(own)
            return torch.where(known.to(own.device).view(*known.shape, *[1] * (own.ndim - 2)), given, own)

        return give

    def _table(self, rows: Sequence[int], batch: TokenBatch, other: TokenBatch) -> Int[Tensor, "prompt column"]:
        """Return for each column of the clean batch the column of the other one, -1 for none."""
        found = torch.full(tuple(batch.ids.shape), -1)
        for at, row in enumerate(rows):
            mine, its = self.clean.encoded, self.other.encoded
            columns = _columns(
                len(mine.rows[row]), len(its.rows[row]), mine.spans[row], its.spans[row],
                tail=int(self.tails[row]), spans=self.matched[row],
            )  # fmt: skip
            shift = other.ids.shape[1] - len(its.rows[row])
            found[at, batch.ids.shape[1] - len(columns) :] = torch.from_numpy(
                np.where(columns < 0, -1, columns + shift)
            )
        return found


def _aligned_pairs(clean: Prompts, other: Prompts, align: Align) -> PromptPairs:
    rows = [_align(clean.encoded, other.encoded, row, align) for row in range(len(clean.encoded))]
    kept: list[int] = []
    reasons: Counter[str] = Counter()
    for item in range(len(clean)):
        mine = clean.rows_of([item])
        if any(clean.encoded.rows[row] == other.encoded.rows[row] for row in mine):
            reasons["both versions are the same prompt"] += 1
        elif any(rows[row].kind is None for row in mine):
            reasons[f"nothing of the two prompts can be aligned (align={align!r})"] += 1
        else:
            kept.append(item)
    if not kept:
        raise FormatError(
            "no item has two versions that can be held against each other.",
            argument="align",
            got=", ".join(f"{count} items: {why}" for why, count in reasons.items()),
            allowed="versions that differ, of equal length, with common last tokens, or with spans of equal length",
            fix="Match the versions in length (`align='design'` needs that), or pass align='auto'.",
        )
    chosen = clean.rows_of(kept)
    return PromptPairs(
        clean=_some(clean, kept),
        other=_some(other, kept),
        kinds=tuple(kind for row in chosen if (kind := rows[row].kind) is not None),
        tails=np.array([rows[row].tail for row in chosen]),
        heads=np.array([rows[row].head for row in chosen]),
        matched=tuple(rows[row].spans for row in chosen),
        chosen=tuple(kept),
        left_out=dict(reasons),
    )


def _some(prompts: Prompts, kept: Sequence[int]) -> Prompts:
    if len(kept) == len(prompts):
        return prompts
    items = [prompts.items[i] for i in kept]
    return Prompts(
        pair=prompts.pair,
        items=prompts.items.with_items(items) if isinstance(prompts.items, JudgeItems) else items,
        orders=prompts.orders,
        encoded=prompts.encoded.select(prompts.rows_of(kept)),
        done=np.zeros(len(kept), dtype=bool),
    )


def _align(clean: EncodedPrompts, other: EncodedPrompts, row: int, align: Align) -> _Aligned:
    mine, its = clean.rows[row], other.rows[row]
    names = clean.span_names(row), other.span_names(row)
    tables = clean.spans[row], other.spans[row]
    head = _same(zip(mine, its, strict=False))
    if len(mine) == len(its) and dict(tables[0]) == dict(tables[1]) and align in ("auto", "design"):
        return _Aligned("design", len(mine), frozenset(tables[0]), head)
    if align == "design":
        return _Aligned(None, 0, frozenset(), head)
    ends = zip(reversed(list(zip(mine, names[0], strict=True))), reversed(list(zip(its, names[1], strict=True))),
               strict=False)  # fmt: skip
    tail = _same(ends) if align != "spans" else 0
    equal = {n for n in tables[0].keys() & tables[1].keys() if _size(tables[0][n]) == _size(tables[1][n])}
    if align == "right":
        equal = {n for n in equal if len(mine) - tables[0][n].start <= tail}
    columns = _columns(len(mine), len(its), *tables, tail=tail, spans=frozenset(equal))
    # Spans may overlap each other or the tail: one that isn't mapped token by token is none.
    spans = frozenset(n for n in equal if _mapped(columns, tables[0][n], tables[1][n]))
    kind: Alignment | None = "right" if tail else "spans" if spans else None
    return _Aligned(kind, tail, spans, head)


def _columns(
    length: int, other: int, mine: Mapping[str, Span], its: Mapping[str, Span], *, tail: int, spans: frozenset[str]
) -> Int[np.ndarray, " token"]:
    """Return for every token of one prompt the token of the other that stands for it, -1 for none."""
    found = np.full(length, -1)
    for name in sorted(spans, key=lambda n: (-_size(mine[n]), n)):
        found[mine[name].start : mine[name].stop] = np.arange(its[name].start, its[name].stop)
    if tail:
        found[length - tail :] = np.arange(other - tail, other)
    return found


def _mapped(columns: np.ndarray, mine: Span, its: Span) -> bool:
    return bool((columns[mine.start : mine.stop] == np.arange(its.start, its.stop)).all())


def _size(span: Span) -> int:
    return span.stop - span.start


def _same(entries: Iterable[tuple[object, object]]) -> int:
    """Return how many entries from the first on are equal pairs."""
    count = 0
    for one, two in entries:
        if one != two:
            break
        count += 1
    return count


def _check_verdicts(clean: EncodedPrompts, other: EncodedPrompts) -> None:
    read = [(p.prompts[0].contrast, p.labels, p.tails[0]) for p in (clean, other)]
    if read[0] != read[1]:
        raise FormatError(
            "the two versions don't read their verdict from the same tokens.",
            argument="other_pair",
            got=f"{read[1][1]} after {read[0][1]}",
            fix="Hold versions of one format against each other.",
        )
