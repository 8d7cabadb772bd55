"""What a verdict is read from, as an exact sum over writes to the stream.

With the final norm's scale frozen at its actual value a logit gap, or a scalar head's score, is linear
in the final stream: ``value = <x_L, w> + bias``. Nothing is approximated; the scale is the one the
model used. The norm's gain, offset and kind are read off the module's own outputs and the head's rows
off its own gradient, so that no architecture is treated specially, and the result is checked on every
prompt. An expected score over rating labels is not linear in the logits: its direction is a first-order
gradient, and the offset holds what is left.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import ParameterError
from workbench.hooks import running_device


@runtime_checkable
class Readout(Protocol):
    """A number read from the normed final stream of one prompt."""

    @property
    def exact(self) -> bool:
        """Whether the number is linear in the normed stream, so that writes add up to it exactly."""
        ...

    @property
    def unit(self) -> str:
        """Unit of the number, e.g. logits."""
        ...

    def of_normed(self, head: nn.Module, normed: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead"]:
        """Return the number, differentiable in ``normed``; ``head`` is the model's unembedding."""
        ...


class LabelGap(NamedTuple):
    """The verdict logit gap: logit of A's label minus logit of B's."""

    a: int
    """Token id of A's label."""
    b: int
    """Token id of B's label."""

    @property
    def exact(self) -> bool:
        """Whether writes add up to it: yes."""
        return True

    @property
    def unit(self) -> str:
        """Logits."""
        return "logits"

    def of_normed(self, head: nn.Module, normed: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead"]:
        """Return ``logit[a] - logit[b]``."""
        logits = head(normed)
        return logits[..., self.a].double() - logits[..., self.b].double()


@dataclass(frozen=True, slots=True)
class ExpectedScore:
    """The mean rating under the label distribution: ``sum_k value_k softmax(logits[ids])_k``."""

    ids: tuple[int, ...]
    """First token of each rating's label."""
    values: tuple[float, ...]
    """The rating each stands for."""

    def __post_init__(self) -> None:
        """Refuse scores that couldn't be told apart.

        Raises:
            ParameterError: Fewer than two ratings, repeated tokens, or as many values as tokens are missing.
        """
        if len(self.ids) < 2 or len(set(self.ids)) < len(self.ids) or len(self.ids) != len(self.values):
            raise ParameterError(
                "a score needs at least two ratings, each with a token of its own.",
                argument="readout",
                got=f"tokens {self.ids}, values {self.values}",
            )

    @property
    def exact(self) -> bool:
        """Whether writes add up to it: no, a softmax stands between."""
        return False

    @property
    def unit(self) -> str:
        """Points of the rating scale."""
        return "points"

    def of_normed(self, head: nn.Module, normed: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead"]:
        """Return the expected rating."""
        chosen = head(normed)[..., list(self.ids)].double()
        values = torch.tensor(self.values, dtype=torch.float64, device=chosen.device)
        return (torch.softmax(chosen, dim=-1) * values).sum(-1)


@dataclass(frozen=True, slots=True, eq=False)
class ScalarHead:
    """One output of a head of its own on the normed final stream: a reward or classification head."""

    module: nn.Module
    """Maps ``[... d_model]`` to ``[... output]``, linearly; it reads both models (on the base as a probe)."""
    index: int = 0
    """Which output."""

    @property
    def exact(self) -> bool:
        """Whether writes add up to it: yes, the head is linear."""
        return True

    @property
    def unit(self) -> str:
        """Units of the head's own scale."""
        return "reward"

    def of_normed(self, head: nn.Module, normed: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead"]:  # noqa: ARG002
        """Return the head's output."""
        return self.module(normed)[..., self.index].double()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenReadout:
    """Direction and offset that turn a final stream into the number read from one prompt."""

    direction: Float[Tensor, "prompt d_model"]
    """w: what the number gains per unit of stream; float64."""
    bias: Float[Tensor, " prompt"]
    """Part of the number no stream decides: norm offset, head bias, and what a first-order direction leaves over."""
    gap: Float[Tensor, " prompt"]
    """The model's own number, before any logit cap."""


def frozen_readout(
    norm: nn.Module,
    head: nn.Module,
    final: Float[Tensor, "prompt d_model"],
    *,
    readout: Readout,
) -> FrozenReadout:
    """Freeze the final norm at each prompt's own scale and return the linear map to the number read.

    Args:
        norm: The model's final norm.
        head: The model's unembedding.
        final: Residual stream after the last block, at the position read.
        readout: What is read.

    Raises:
        ParameterError: The norm isn't a gain times a normalised stream, so no exact split exists.
    """
    stream = final.to(_placed(norm, head, final))
    kind = NormProbe.of(norm, stream)
    row = _head_row(head, norm(stream), readout)
    scaled = kind.gain * kind.centre(final.double())
    normed = norm(stream).detach().double() - kind.offset
    scale = (scaled * scaled).sum(-1) / (scaled * normed).sum(-1)
    _check_linear(scaled / scale[:, None], normed)
    direction = kind.centre(kind.gain * row.slope) / scale[:, None]
    gap = read(norm, head, final, readout=readout)
    return FrozenReadout(direction=direction, bias=(kind.offset * row.slope).sum(-1) + row.bias, gap=gap)


@torch.no_grad()
def read(
    norm: nn.Module, head: nn.Module, final: Float[Tensor, "*lead d_model"], *, readout: Readout
) -> Float[Tensor, "*lead"]:
    """Return the number read from any final streams by the model's own norm and head; float64."""
    return readout.of_normed(head, norm(final.to(_placed(norm, head, final)))).double()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NormProbe:
    """What a norm does besides dividing by a scale, read off its own outputs."""

    gain: Tensor
    """Gain per dimension, up to one common factor that the scale absorbs."""
    offset: Tensor
    """Offset per dimension."""
    centred: bool
    """Whether the mean is taken out first (LayerNorm) or not (RMSNorm)."""

    @classmethod
    @torch.no_grad()
    def of(cls, norm: nn.Module, stream: Tensor) -> "NormProbe":
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
    """Gradient of the number in the normed stream, ``[prompt, d_model]``."""
    bias: Tensor
    """What the slope leaves over, ``[prompt]``; the number of the zero vector where the readout is linear."""


def _head_row(head: nn.Module, normed: Tensor, readout: Readout) -> _HeadRow:
    """Differentiate the head, so adapters and quantised rows on it are seen as they act."""
    with torch.enable_grad():
        leaf = normed.detach().clone().requires_grad_(True)
        value = readout.of_normed(head, leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    slope = slope.double()
    if not readout.exact:
        return _HeadRow(slope=slope, bias=value.detach().double() - (slope * normed.double()).sum(-1))
    with torch.no_grad():
        zero = readout.of_normed(head, torch.zeros_like(normed[:1]))
    return _HeadRow(slope=slope, bias=zero.double().expand(len(slope)))


def _check_linear(predicted: Tensor, normed: Tensor) -> None:
    error = (predicted - normed).abs().amax() / normed.abs().amax().clamp(min=1e-12)
    if error > 2e-2:
        raise ParameterError(
            "the final norm isn't a gain on a normalised stream, so the verdict gap has no exact split.",
            argument="verdict",
            got=f"relative error {float(error):.3g}",
            fix="Pass verdict=False; shares don't need it.",
        )


def _placed(norm: nn.Module, head: nn.Module, stream: Tensor) -> Tensor:
    """Return a tensor of the type, and on the device, that norm and head work with."""
    like = next(((module, tensor) for module in (norm, head) for tensor in module.parameters()), None)
    return stream if like is None else torch.empty(0, dtype=like[1].dtype, device=running_device(like[0]))
