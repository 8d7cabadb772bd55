"""How finely the weights of one side are written, whatever type they are held in.

A bfloat16 checkpoint loaded as float32 is still a bfloat16 model. Two checkpoints that differ in this differ by
rounding in every weight, which isn't a finding.
"""

import math

import torch
from torch import Tensor

_SAMPLED = 4096
_COARSE = (torch.bfloat16, torch.float16)


class Precision:
    """The coarsest type that holds every weight seen without loss; told block by block."""

    def __init__(self) -> None:
        self._held: torch.dtype | None = None
        self._fits = dict.fromkeys(_COARSE, True)

    def see(self, block: Tensor) -> None:
        """Look at up to 4096 elements of a block, evenly spread."""
        self._held = block.dtype if self._held is None else torch.promote_types(self._held, block.dtype)
        flat = block.reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLED)]
        for kind, fits in self._fits.items():
            if fits and sample.dtype is not kind:
                self._fits[kind] = bool(torch.equal(sample.to(kind).to(sample.dtype), sample))

    @property
    def name(self) -> str | None:
        """Return the type's name; None when nothing was seen."""
        if self._held is None:
            return None
        fitting = [kind for kind, fits in self._fits.items() if fits]
        return str(fitting[0] if fitting else self._held).removeprefix("torch.")


def coarser(left: str | None, right: str | None) -> str | None:
    """Return the one of two types with the larger steps; None when one isn't known."""
    if left is None or right is None:
        return None
    return max(left, right, key=lambda name: torch.finfo(getattr(torch, name)).eps)


def half_steps(norm: float, *, numel: int, precision: str) -> float:
    """Return the norm that a change of half a step in every weight can have at most.

    Args:
        norm: Frobenius norm of the weights.
        numel: Number of weights.
        precision: Type they are written in.
    """
    steps = torch.finfo(getattr(torch, precision))
    return math.hypot(steps.eps / 2 * norm, steps.smallest_normal * steps.eps / 2 * math.sqrt(numel))
