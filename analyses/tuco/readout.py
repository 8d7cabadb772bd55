"""The verdict logit gap as an exact sum over writes to the stream.

With the final norm's scale frozen at its actual value the gap ``logit_A - logit_B`` is linear in the
final stream: ``gap = <x_L, w> + bias``. Nothing is approximated; the scale is the one the model used.
The norm's gain, offset and kind are read off the module's own outputs and the head's rows off its
own gradient, so that no architecture is treated specially, and the result is checked on every prompt.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import ParameterError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenReadout:
    """Direction and offset that turn a final stream into the verdict logit gap of one prompt."""

    direction: Float[Tensor, "prompt d_model"]
    """w: what the gap gains per unit of stream, logits; float64."""
    bias: Float[Tensor, " prompt"]
    """Part of the gap no stream decides (norm offset and head bias), logits."""
    gap: Float[Tensor, " prompt"]
    """The model's own gap before any logit cap, logits."""


def frozen_readout(
    norm: nn.Module, head: nn.Module, final: Float[Tensor, "prompt d_model"], *, ids: tuple[int, int]
) -> FrozenReadout:
    """Freeze the final norm at each prompt's own scale and return the linear map to the gap.

    Args:
        norm: The model's final norm.
        head: The model's unembedding.
        final: Residual stream after the last block, at the position read.
        ids: Token ids of A and of B; the gap is ``logit[A] - logit[B]``.

    Raises:
        ParameterError: The norm isn't a gain times a normalised stream, so no exact split exists.
    """
    stream = final.to(_dtype(norm, head))
    kind = _NormProbe.of(norm, stream)
    row = _head_row(head, norm(stream), ids)
    scaled = kind.gain * kind.centre(final.double())
    normed = norm(stream).detach().double() - kind.offset
    scale = (scaled * scaled).sum(-1) / (scaled * normed).sum(-1)
    _check_linear(scaled / scale[:, None], normed)
    direction = kind.centre(kind.gain * row.slope) / scale[:, None]
    gap = verdict_gap(norm, head, final, ids=ids)
    return FrozenReadout(direction=direction, bias=(kind.offset * row.slope).sum(-1) + row.bias, gap=gap)


@torch.no_grad()
def verdict_gap(
    norm: nn.Module, head: nn.Module, final: Float[Tensor, "*lead d_model"], *, ids: tuple[int, int]
) -> Float[Tensor, "*lead"]:
    """Return ``logit[A] - logit[B]`` of the model's own norm and head on any final streams; float64."""
    logits = head(norm(final.to(_dtype(norm, head))))
    return logits[..., ids[0]].double() - logits[..., ids[1]].double()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _NormProbe:
    """What a final norm does besides dividing by a scale, read off its own outputs."""

    gain: Tensor
    """Gain per dimension, up to one common factor that the scale absorbs."""
    offset: Tensor
    """Offset per dimension."""
    centred: bool
    """Whether the mean is taken out first (LayerNorm) or not (RMSNorm)."""

    @classmethod
    @torch.no_grad()
    def of(cls, norm: nn.Module, stream: Tensor) -> "_NormProbe":
        """Probe with zeros (only the offset is left) and with alternating signs (mean 0, known magnitude)."""
        width = stream.shape[-1]
        signs = torch.where(torch.arange(width, device=stream.device) % 2 == 0, 1.0, -1.0).double()
        signs = signs - signs.mean()
        offset = norm(torch.zeros_like(stream[:1])).double()[0]
        gain = (norm(signs.to(stream.dtype)[None]).double()[0] - offset) / signs
        shifted = norm((signs + 1.0).to(stream.dtype)[None]).double()[0]
        centred = torch.allclose(shifted - offset, gain * signs, rtol=1e-2, atol=1e-3 * float(gain.abs().max()))
        return cls(gain=gain, offset=offset, centred=centred)

    def centre(self, x: Tensor) -> Tensor:
        """Take out the mean of the last axis where the norm does; its own transpose."""
        return x - x.mean(-1, keepdim=True) if self.centred else x


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _HeadRow:
    slope: Tensor
    """Gradient of the gap in the normed stream, ``[prompt, d_model]``."""
    bias: Tensor
    """Gap of the zero vector, ``[]``."""


def _head_row(head: nn.Module, normed: Tensor, ids: tuple[int, int]) -> _HeadRow:
    """Differentiate the head, which is linear, so adapters and quantised rows on it are seen as they act."""
    with torch.enable_grad():
        leaf = normed.detach().clone().requires_grad_(True)
        logits = head(leaf)
        (slope,) = torch.autograd.grad((logits[..., ids[0]] - logits[..., ids[1]]).sum(), leaf)
    with torch.no_grad():
        zero = head(torch.zeros_like(normed[:1]))[0]
    return _HeadRow(slope=slope.double(), bias=zero[ids[0]].double() - zero[ids[1]].double())


def _check_linear(predicted: Tensor, normed: Tensor) -> None:
    error = (predicted - normed).abs().amax() / normed.abs().amax().clamp(min=1e-12)
    if error > 2e-2:
        raise ParameterError(
            "the final norm isn't a gain on a normalised stream, so the verdict gap has no exact split.",
            argument="verdict",
            got=f"relative error {float(error):.3g}",
            fix="Pass verdict=False; shares don't need it.",
        )


def _dtype(norm: nn.Module, head: nn.Module) -> torch.dtype:
    tensors = [*norm.parameters(), *head.parameters()]
    return tensors[0].dtype if tensors else torch.float32
