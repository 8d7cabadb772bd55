"""TokenBatch: token ids with their mask, position ids and named spans.

Batches are padded on the left, so that the last column is the last real token of every prompt and
one KV-cache position serves all rows. Position ids are always explicit: with left padding and no
``position_ids`` plain Hugging Face models with learned positions are silently wrong.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.errors import ParameterError

TEMPLATE = "template"
"""Name of the real tokens that lie in no named span."""


class Span(NamedTuple):
    """A half-open range of token columns, in the padded batch's own coordinates."""

    start: int
    """First column of the span."""
    stop: int
    """One past its last column."""


def innermost_names(spans: Mapping[str, Span], *, length: int) -> tuple[str, ...]:
    """Return the name of the innermost span each of ``length`` columns lies in; ``"template"`` for none."""
    names = [TEMPLATE] * length
    for name, span in sorted(spans.items(), key=lambda entry: entry[1].start - entry[1].stop):
        names[span.start : span.stop] = [name] * (span.stop - span.start)
    return tuple(names)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenBatch:
    """Prompts as one left-padded block of token ids."""

    ids: Int[Tensor, "prompt pos"]
    """Token ids; padding columns hold the pad id and are never read."""
    mask: Bool[Tensor, "prompt pos"]
    """True where a column is a real token."""
    prompt_ids: tuple[str, ...]
    """One label per row; what results are keyed by."""
    spans: tuple[Mapping[str, Span], ...] = field(default=())
    """Named spans of each row (question, answer A, ...); empty when nobody named any."""

    def __post_init__(self) -> None:
        """Check that ids, mask, labels and spans describe the same rows.

        Raises:
            ParameterError: Shapes differ, a row is empty, or a row isn't left-padded.
        """
        if self.ids.shape != self.mask.shape:
            raise ParameterError(
                "ids and mask differ in shape.",
                argument="mask",
                got=tuple(self.mask.shape),
                allowed=str(tuple(self.ids.shape)),
            )
        rows = self.ids.shape[0]
        if len(self.prompt_ids) != rows or len(self.spans) not in (0, rows):
            raise ParameterError(
                f"{rows} rows of ids need as many labels and spans.",
                argument="prompt_ids",
                got=f"{len(self.prompt_ids)} labels, {len(self.spans)} span tables",
            )
        if not bool(self.mask[:, -1].all()):
            raise ParameterError(
                "the last column of every row must be a real token.",
                argument="mask",
                got="right padding, or an empty row",
                fix="Build batches with TokenBatch.from_rows, which pads on the left.",
            )

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Sequence[int]],
        *,
        pad_id: int,
        prompt_ids: Sequence[str] | None = None,
        spans: Sequence[Mapping[str, Span]] | None = None,
        device: torch.device | str | None = None,
    ) -> "TokenBatch":
        """Pad rows of token ids on the left.

        Args:
            rows: Token ids of each prompt, without padding.
            pad_id: Id written into padding columns; it is masked out and never read.
            prompt_ids: One label per row; numbered when left out.
            spans: Named spans of each row, in the *unpadded* row's coordinates.
            device: Where the tensors live.

        Raises:
            ParameterError: There is no row, or a row has no token.
        """
        if not rows or min(map(len, rows)) == 0:
            raise ParameterError(
                "a batch needs at least one token in every row.", argument="rows", got=[len(row) for row in rows]
            )
        width = max(map(len, rows))
        shifts = [width - len(row) for row in rows]
        ids = torch.tensor(
            [[pad_id] * shift + list(row) for row, shift in zip(rows, shifts, strict=True)], device=device
        )
        mask = torch.arange(width, device=device)[None, :] >= torch.tensor(shifts, device=device)[:, None]
        moved = tuple(
            {name: Span(span.start + shift, span.stop + shift) for name, span in table.items()}
            for table, shift in zip(spans or (), shifts, strict=bool(spans))
        )
        labels = tuple(prompt_ids) if prompt_ids is not None else tuple(str(i) for i in range(len(rows)))
        return cls(ids=ids, mask=mask, prompt_ids=labels, spans=moved)

    @property
    def position_ids(self) -> Int[Tensor, "prompt pos"]:
        """Position of each real token counted from 0; padding columns say 0."""
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)

    @property
    def lengths(self) -> Int[Tensor, " prompt"]:
        """Number of real tokens in each row."""
        return self.mask.sum(-1)

    @property
    def device(self) -> torch.device:
        """Where the ids live."""
        return self.ids.device

    def span_mask(self, names: Collection[str]) -> Bool[Tensor, "prompt pos"]:
        """Return which tokens have one of these names as their innermost span; padding lies in none.

        Args:
            names: Span names; ``"template"`` is every real token in no named span. A name a row doesn't have selects
                nothing there.

        Raises:
            ParameterError: Nobody named any span of this batch.
        """
        if not self.spans:
            raise ParameterError(
                "this batch has no named spans.",
                argument="batch",
                got="no span tables",
                fix="Build it from encoded prompts, or hand spans to TokenBatch.from_rows.",
            )
        width = self.ids.shape[1]
        chosen = [[name in names for name in innermost_names(table, length=width)] for table in self.spans]
        return torch.tensor(chosen, device=self.device) & self.mask

    def __len__(self) -> int:
        """Return the number of prompts."""
        return self.ids.shape[0]

    def to(self, device: torch.device | str) -> "TokenBatch":
        """Return the batch on another device."""
        return TokenBatch(
            ids=self.ids.to(device), mask=self.mask.to(device), prompt_ids=self.prompt_ids, spans=self.spans
        )

    def row(self, index: int) -> "TokenBatch":
        """Return one prompt as a batch of its own, without padding."""
        return self.select([index])

    def select(self, indices: Sequence[int]) -> "TokenBatch":
        """Return some prompts, in the order asked for, without the columns that pad all of them.

        Raises:
            ParameterError: No index is given.
        """
        if not indices:
            raise ParameterError("choose at least one prompt.", argument="indices", got=list(indices))
        rows = list(indices)
        shift = int((~self.mask[rows]).sum(-1).min())
        tables = [self.spans[index] for index in rows] if self.spans else []
        return TokenBatch(
            ids=self.ids[rows, shift:],
            mask=self.mask[rows, shift:],
            prompt_ids=tuple(self.prompt_ids[index] for index in rows),
            spans=tuple({n: Span(s.start - shift, s.stop - shift) for n, s in table.items()} for table in tables),
        )

    def forward_kwargs(self) -> dict[str, Tensor]:
        """Return the keyword arguments every Hugging Face decoder takes: ids, mask and position ids."""
        return {"input_ids": self.ids, "attention_mask": self.mask.long(), "position_ids": self.position_ids}
