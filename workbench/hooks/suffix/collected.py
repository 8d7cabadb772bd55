"""Rows' answers as their forwards come, put together in the order the rows came in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.hooks.sites import Site

_SLICE = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """What the rows gave, in the order they came in."""

    logits: Float[Tensor, "prompt row option"]
    """Logits at the prompts' last token; exactly the null row's where a row writes what is already there."""
    null: Float[Tensor, "prompt row option"]
    """Logits of the null row of the same birth block: the clean prompts through the same kernels."""
    logsumexp: Float[Tensor, "prompt row"] | None
    """Log of the summed exponentials over the whole vocabulary; None unless asked for."""
    null_logsumexp: Float[Tensor, "prompt row"] | None
    """The same of the null rows."""
    same: Bool[Tensor, "prompt row"]
    """Where a row writes, bit for bit, what is already there: structural zeros. They are not computed."""
    read: Mapping[Site, Float[Tensor, "prompt row *feature"]]
    """Sites that were asked for, at the last token of every row."""


class Collected:
    """Answers so far.

    Args:
        count: Rows in all.
        ids: Token ids whose logits are wanted; None for the vocabulary.
        mass: Whether the log-sum-exp over the vocabulary is wanted.
    """

    def __init__(self, count: int, *, ids: Sequence[int] | None, mass: bool) -> None:
        self.count, self.mass, self.ids = count, mass, None if ids is None else list(ids)
        self._indices: list[int] = []
        self._parts: list[tuple[Tensor, ...]] = []
        self._read: dict[Site, list[Tensor]] = {}

    @property
    def computed(self) -> list[int] | None:
        """Return which rows of the unembedding a forward has to compute; None for all."""
        return None if self.mass else self.ids

    def select(self, logits: Float[Tensor, "*some vocab"]) -> Float[Tensor, "*some option"]:
        """Return the logits a forward would have computed."""
        return logits if self.computed is None else logits[..., self.computed]

    def put(
        self,
        indices: Sequence[int],
        logits: Float[Tensor, "prompt row option"],
        null: Float[Tensor, "prompt row option"],
        read: Mapping[Site, Float[Tensor, "prompt row *feature"]],
    ) -> None:
        """Take in rows with their null rows.

        Args:
            indices: Which rows.
            logits: What a forward computed, see :attr:`computed`.
            null: The same of each row's null row.
            read: Sites at the rows' last tokens.
        """
        self._indices += indices
        self._parts.append(self._wanted(logits, null))
        for site, value in read.items():
            self._read.setdefault(site, []).append(value)

    def _wanted(self, logits: Tensor, null: Tensor) -> tuple[Tensor, ...]:
        if not self.mass:
            return logits, null
        mass = _mass(logits), _mass(null)
        if self.ids is not None:
            logits, null = logits[..., self.ids], null[..., self.ids]
        return logits, null, *mass

    def finish(self, own: Float[Tensor, "prompt vocab"], same: Bool[Tensor, "prompt row"]) -> Rows:
        """Return everything, structural zeros put exactly where their null row is.

        Args:
            own: The prompts' own logits, which rows that weren't computed have.
            same: Structural zeros.
        """
        come = frozenset(self._indices)
        missing = [index for index in range(self.count) if index not in come]
        if missing:
            clean = self.select(own)[:, None]
            self._indices += missing
            self._parts.append(
                tuple(part.expand(-1, len(missing), *part.shape[2:]) for part in self._wanted(clean, clean))
            )
        back = torch.argsort(torch.tensor(self._indices))
        logits, null, *mass = (_ordered(parts, back) for parts in zip(*self._parts, strict=True))
        zero = same.to(logits.device)
        return Rows(
            logits=torch.where(zero[..., None], null, logits),
            null=null,
            logsumexp=torch.where(zero, mass[1], mass[0]) if mass else None,
            null_logsumexp=mass[1] if mass else None,
            same=same,
            read={site: _ordered(parts, back) for site, parts in self._read.items()},
        )


def _mass(logits: Float[Tensor, "prompt row vocab"]) -> Float[Tensor, "prompt row"]:
    # A few rows at a time: in float32 they take twice the room.
    return torch.cat([torch.logsumexp(_wide(part), dim=-1) for part in logits.split(_SLICE, dim=1)], dim=1)


def _wide(part: Tensor) -> Tensor:
    return part if part.dtype == torch.float64 else part.float()


def _ordered(parts: Sequence[Tensor], back: Tensor) -> Tensor:
    whole = torch.cat([part.to(parts[0].device) for part in parts], dim=1)
    return whole[:, back.to(whole.device)]
