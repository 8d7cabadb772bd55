"""Where a site lives in one Hugging Face module tree, and how its tensor is laid out there."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Side = Literal["in", "out"]
"""Which end of a module: its first input or its (first) output."""


class FusedSlice(NamedTuple):
    """A part of a fused projection: the last axis is ``groups`` equal blocks, of each the columns start:stop."""

    groups: int
    """1 when q, k and v follow each other; the number of heads or key-value heads when they are interleaved."""
    start: int
    """First column of the part inside a block."""
    stop: int
    """One past its last column."""

    def read(self, raw: Tensor) -> Tensor:
        """Return the part, its blocks joined in order."""
        return raw.unflatten(-1, (self.groups, -1))[..., self.start : self.stop].flatten(-2)

    def write(self, raw: Tensor, part: Tensor) -> Tensor:
        """Return ``raw`` with the part replaced."""
        blocks = raw.unflatten(-1, (self.groups, -1))
        inner = part.unflatten(-1, (self.groups, -1))
        return torch.cat([blocks[..., : self.start], inner, blocks[..., self.stop :]], dim=-1).flatten(-2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One end of one module, seen as [prompt pos *feature]."""

    path: str
    """Dotted path of the module."""
    side: Side
    """Which end of it."""
    feature: tuple[int, ...]
    """Axes after prompt and pos: (d_model,), or (head, d_head) for q, k, v and z."""
    fused: FusedSlice | None = None
    """Part of the tensor this site is; None when it is all of it."""

    def read(self, raw: Float[Tensor, "prompt pos width"]) -> Float[Tensor, "prompt pos *feature"]:
        """Return the site's view of the module's tensor."""
        part = raw if self.fused is None else self.fused.read(raw)
        return part if len(self.feature) == 1 else part.unflatten(-1, self.feature)

    def write(
        self, raw: Float[Tensor, "prompt pos width"], value: Float[Tensor, "prompt pos *feature"]
    ) -> Float[Tensor, "prompt pos width"]:
        """Return the module's tensor with the site's part replaced by ``value``."""
        part = value if len(self.feature) == 1 else value.flatten(-2)
        return part if self.fused is None else self.fused.write(raw, part)


def first(output: Tensor | tuple[object, ...]) -> Tensor:
    """Return the hidden state of a module's output, which is a tensor or a tuple that starts with one."""
    return output if isinstance(output, Tensor) else output[0]  # type: ignore[return-value]


def put_first(output: Tensor | tuple[object, ...], value: Tensor) -> Tensor | tuple[object, ...]:
    """Return the module's output with its hidden state replaced."""
    return value if isinstance(output, Tensor) else (value, *output[1:])
