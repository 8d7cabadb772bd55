"""TuCo at every token that clean and attacked prompts share: by span, and token by token for a few examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from analyses.looping import Prompts, progress_bar
from analyses.tuco.attacks.contrasts import VARIANTS, Variant
from analyses.tuco.attacks.sharing import BEFORE, Shared, TokenShares, shared, span_means, span_names, token_shares
from analyses.tuco.prompts import Choices

_EXAMPLES = 3


@dataclass(slots=True, kw_only=True)
class TokenMap:
    """What the shared tokens showed so far."""

    prompts: Mapping[Variant, Prompts]
    """All four variants of the items."""
    common: dict[int, Shared]
    """Shared tokens of each prompt row that is looked at."""
    names: dict[int, list[str]]
    """Span of each of them."""
    spans: tuple[str, ...]
    """All spans, the tokens before the suffix first."""
    share: Float[np.ndarray, "variant item order span"]
    """Mean TuCo of each span."""
    unit_share: Float[np.ndarray, "variant item order span unit"]
    """Mean share of each unit's own write."""
    examples: tuple[int, ...] = ()
    """Items kept token by token."""
    example_tokens: tuple[tuple[str, ...], ...] = ()
    """Their clean prompts' tokens, first order."""
    example_heads: tuple[int, ...] = ()
    """How many of them stand before the suffix."""
    example_share: Float[np.ndarray, "variant example token"] | None = None
    """TuCo at each token of them."""
    example_unit_share: Float[np.ndarray, "variant example token unit"] | None = None
    """Share of each unit's own write."""

    @classmethod
    def plan(
        cls,
        prompts: Mapping[Variant, Prompts],
        *,
        items: Sequence[int],
        carrier_first: Bool[np.ndarray, "item order"],
        n_units: int,
    ) -> "TokenMap":
        """Align the variants of some items.

        Args:
            prompts: All four variants of all items.
            items: Items to look at; none for an empty map.
            carrier_first: Whether the carrier stands in the first slot.
            n_units: Number of units.
        """
        clean = prompts["clean"]
        common: dict[int, Shared] = {}
        names: dict[int, list[str]] = {}
        for row in clean.rows_of(items):
            slot = "answer_a" if carrier_first.ravel()[row] else "answer_b"
            common[row] = shared([prompts[name].encoded.rows[row] for name in VARIANTS])
            names[row] = span_names(clean.encoded.span_names(row), common[row], carrier=slot)
        spans = tuple(dict.fromkeys([BEFORE, *(name for row in names.values() for name in row)])) if names else ()
        shape = (len(VARIANTS), len(clean), len(clean.orders), len(spans))
        return cls(
            prompts=prompts,
            common=common,
            names=names,
            spans=spans,
            share=np.full(shape, np.nan),
            unit_share=np.full((*shape, n_units), np.nan),
        )

    def fill(self, *, items: Sequence[int], choices: Choices, batch_size: int, progress: bool) -> None:
        """Measure the items, all variants and orders."""
        clean = self.prompts["clean"]
        with progress_bar(len(items), title="shared tokens", shown=progress) as bar:

            def run(chosen: Sequence[int]) -> None:
                rows = clean.rows_of(chosen)
                for name in VARIANTS:
                    found = self._measure(name, rows, choices=choices)
                    self._store(VARIANTS.index(name), rows, found)

            for chosen, _ in clean.each(clean.batches(batch_size, items=items), run):
                bar.update(len(chosen))

    def show(self, items: Sequence[int], *, choices: Choices) -> None:
        """Keep these items token by token, in the first order."""
        clean = self.prompts["clean"]
        rows = [i * len(clean.orders) for i in items]
        texts = [tuple(str(clean.pair.tokenizer.decode([token])) for token in clean.encoded.rows[row]) for row in rows]
        width = max(map(len, texts), default=0)
        share = np.full((len(VARIANTS), len(rows), width), np.nan)
        unit_share = np.full((*share.shape, self.unit_share.shape[-1]), np.nan)

        def run(chosen: Sequence[int]) -> list[list[TokenShares]]:
            first_orders = [i * len(clean.orders) for i in chosen]
            return [self._measure(name, first_orders, choices=choices) for name in VARIANTS]

        for chosen, found in clean.each([items] if items else [], run):
            for v, of_variant in enumerate(found):
                for item, own in zip(chosen, of_variant, strict=True):
                    k = list(items).index(item)
                    columns = _columns(self.common[rows[k]], length=len(texts[k]), width=len(texts[k]))
                    share[v, k, columns], unit_share[v, k, columns] = own.whole, own.unit
        self.examples, self.example_tokens = tuple(items), tuple(texts)
        self.example_heads = tuple(self.common[row].head for row in rows)
        self.example_share, self.example_unit_share = share, unit_share

    def fields(self, kept: Callable[..., np.ndarray]) -> dict[str, Any]:
        """Return the fields of the result, of the finished items.

        Args:
            kept: Returns the finished items' part of an array along ``axis``.
        """
        n_units = self.unit_share.shape[-1]
        blank = np.full((len(VARIANTS), 0, 0, n_units), np.nan)
        return {
            "spans": self.spans,
            "token_share": kept(self.share, axis=1),
            "token_unit_share": kept(self.unit_share, axis=1),
            "examples": tuple(self.prompts["clean"].items[i].item_id for i in self.examples),
            "example_tokens": self.example_tokens,
            "example_heads": self.example_heads,
            "example_share": blank[..., 0] if self.example_share is None else self.example_share,
            "example_unit_share": blank if self.example_unit_share is None else self.example_unit_share,
        }

    def _measure(self, name: Variant, rows: Sequence[int], *, choices: Choices) -> list[TokenShares]:
        """Return the shares at the shared tokens of each row, in order."""
        prompts = self.prompts[name]
        batch = prompts.encoded.batch(rows, device=prompts.pair.device)
        judge, base = prompts.pair.executor("judge"), prompts.pair.executor("base")
        found = token_shares(judge, base, batch, parts=choices.parts, norm=choices.norm, how=choices.how)
        shared_columns = [
            _columns(self.common[row], length=len(prompts.encoded.rows[row]), width=batch.ids.shape[1]) for row in rows
        ]
        return [
            TokenShares(found.whole[k, columns], found.unit[k, columns]) for k, columns in enumerate(shared_columns)
        ]

    def _store(self, variant: int, rows: Sequence[int], found: Sequence[TokenShares]) -> None:
        orders = len(self.prompts["clean"].orders)
        for row, own in zip(rows, found, strict=True):
            cell = (variant, *divmod(row, orders))
            self.share[cell] = span_means(own.whole, self.names[row], spans=self.spans)
            self.unit_share[cell] = span_means(own.unit, self.names[row], spans=self.spans)


def spread_items(items: Sequence[int], *, moved: Float[np.ndarray, " item"], most: int = _EXAMPLES) -> tuple[int, ...]:
    """Return the items that moved most, in the middle and least, without repeats.

    Args:
        items: Items to choose from.
        moved: How far every item moved.
        most: Number of items.
    """
    ranked = sorted(items, key=lambda i: (-float(moved[i]), i))
    picks = np.linspace(0, len(ranked) - 1, min(most, len(ranked))).round().astype(int)
    return tuple(dict.fromkeys(ranked[int(k)] for k in picks))


def _columns(common: Shared, *, length: int, width: int) -> np.ndarray:
    """Return the columns of the shared tokens of a row of this length, padded on the left to this width."""
    start = width - length
    return np.r_[start : start + common.head, width - common.tail : width]
