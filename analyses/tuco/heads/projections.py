"""The last linear map of a sub-layer, as the model's own modules act: from heads or neurons to the stream.

Attention writes ``o_proj(z)``, an MLP ``down_proj(neurons)``, some architectures through a post-norm.
With that norm's scale frozen at its actual value the write is linear in its input, so it splits
exactly among heads and neurons. Slopes come from the modules' own gradients and writes from their
own forward; weights are never looked at, so adapters, transposed and quantised layers act as they act.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analyses.readout import FrozenReadout, frozen_readout
from workbench.errors import ParameterError
from workbench.hooks import Component, HooksBackend, Site
from workbench.hooks.executor import entered

_OUTPUT = {Component.Z: Component.ATTN_OUT, Component.NEURONS: Component.MLP_OUT}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slope:
    """What a number read off the stream gains per unit of a sub-layer's hidden activations, prompt by prompt."""

    slope: Float[Tensor, "prompt width"]
    """Gain per hidden activation; float64."""
    constant: Float[Tensor, " prompt"]
    """What is written whatever they are (bias of the projection, offset of a post-norm); float64."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Projection:
    """How one sub-layer of one model writes its heads or neurons to the stream."""

    executor: HooksBackend
    """Executor of the model."""
    linear: nn.Module
    """Output or down projection."""
    norm: nn.Module | None
    """Norm between it and the stream; None where there is none."""

    @classmethod
    def of(cls, executor: HooksBackend, site: Site, *, dtype: torch.dtype) -> "Projection":
        """Find the projection of the heads (a Z site) or neurons (a NEURONS site) of a layer.

        Args:
            executor: Executor of the model.
            site: What is projected.
            dtype: Type of the activations it will be given; where the modules have another, copies of them are used.

        Raises:
            UnknownSite: The model has no such site.
            ParameterError: The site isn't the input of a module of its own, or the write isn't a module's output.
        """
        anatomy = executor.anatomy
        inner, outer = anatomy.port(site), anatomy.port(Site(_OUTPUT[site.component], site.layer))
        if inner.side != "in" or inner.fused is not None or outer.side != "out":
            raise ParameterError(
                f"{site} isn't the input of one projection whose output is written to the stream.",
                argument="pair",
                got=f"{inner.path} ({inner.side}), {outer.path} ({outer.side})",
                fix="Use tuco.run(granularity='sublayer'), which needs no split into heads.",
            )
        linear, norm = executor.module.get_submodule(inner.path), None
        if not f"{inner.path}.".startswith(f"{outer.path}."):
            norm = _in_dtype(executor.module.get_submodule(outer.path), dtype)
        return cls(executor=executor, linear=_in_dtype(linear, dtype), norm=norm)

    def along(self, inputs: Float[Tensor, "prompt width"], direction: Float[Tensor, "prompt d_model"]) -> Slope:
        """Return the slope of ``<write, direction>`` in the hidden activations, norms frozen at these.

        Args:
            inputs: Hidden activations at the position read.
            direction: What is read off the stream.

        Raises:
            ParameterError: The post-norm isn't a gain on a normalised vector.
        """
        with entered(self.executor.module, around=self.executor.around, grad=True):
            leaf = inputs.detach()[:, None].clone().requires_grad_(True)
            raw = self.linear(leaf)
            direction = direction.to(raw.device)
            offset = torch.zeros_like(direction[:, 0])
            if self.norm is not None:
                frozen = self._frozen(raw[:, 0].detach(), direction)
                direction, offset = frozen.direction, frozen.bias
            (slope,) = torch.autograd.grad(raw, leaf, direction[:, None].to(raw.dtype))
            with torch.no_grad():
                bias = self.linear(torch.zeros_like(leaf))[:, 0].double()
        return Slope(slope=slope[:, 0].double(), constant=(bias * direction).sum(-1) + offset)

    def write(
        self, inputs: Float[Tensor, "prompt width"], part: Float[Tensor, "prompt width"]
    ) -> Float[Tensor, "prompt d_model"]:
        """Return what a part of the hidden activations (zero elsewhere) writes to the stream; float32 or better.

        Args:
            inputs: All hidden activations at the position read; a post-norm is frozen at these.
            part: The part, of the same shape.
        """
        with entered(self.executor.module, around=self.executor.around):
            empty = self.linear(torch.zeros_like(part)[:, None])[:, 0]
            raw = self.linear(part[:, None])[:, 0].float() - empty.float()
            if self.norm is None:
                return raw
            # A norm keeps the direction of what a part writes; its length follows from the frozen map along it.
            normed = self.norm(raw.to(empty.dtype)).double() - self.norm(torch.zeros_like(empty)).double()
            whole = self.linear(inputs[:, None])[:, 0]
        frozen = self._frozen(whole, normed)
        length = (raw.double() * frozen.direction).sum(-1, keepdim=True) / normed.square().sum(-1, keepdim=True)
        return torch.where(normed.abs().sum(-1, keepdim=True) > 0, normed * length, 0.0).float()

    def _frozen(self, raw: Tensor, direction: Tensor) -> FrozenReadout:
        if self.norm is None:
            raise RuntimeError("nothing to freeze")
        try:
            return frozen_readout(self.norm, nn.Identity(), raw, readout=_Along(direction))
        except ParameterError as err:
            raise ParameterError(
                "a norm between heads or neurons and the stream isn't a gain on a normalised vector, so a write has no "
                "exact split among them.",
                argument="pair",
                got=type(self.norm).__name__,
                fix="Use tuco.run(granularity='sublayer'), which needs no such split.",
            ) from err


def _in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return the module, or a float32 copy where half-precision weights are given float32 activations."""
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in module.parameters())
    return copy.deepcopy(module).float() if half and dtype == torch.float32 else module


@dataclass(frozen=True, slots=True, eq=False)
class _Along:
    """Reads the projection of a normed vector on one direction per prompt."""

    direction: Float[Tensor, "prompt d_model"]

    @property
    def exact(self) -> bool:
        """Whether the number is linear in the vector: yes."""
        return True

    @property
    def unit(self) -> str:
        """That of the direction."""
        return ""

    def of_normed(self, head: nn.Module, normed: Float[Tensor, "*lead d_model"]) -> Float[Tensor, " prompt"]:  # noqa: ARG002
        """Return ``<normed, direction>`` of each prompt."""
        return (normed.double() * self.direction.to(normed.device)).sum(-1)
