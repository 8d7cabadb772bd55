"""What fine-tuning changed in weight space: per-tensor norms, one tensor at a time.

For an adapter the change of a matrix is the product of its factors; its norm is computed from the
small Gram matrices, so that no product is ever materialised.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from workbench.pairs.adapters import lora_factors, tuner_layers, untuned_name


class TensorChange(NamedTuple):
    """How far one tensor moved."""

    name: str
    """Parameter name in the base model."""
    change: float
    """Frobenius norm of judge minus base."""
    base_norm: float
    """Frobenius norm of the base tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDelta:
    """Norms of the weight difference, tensor by tensor."""

    changes: tuple[TensorChange, ...]
    """One row per tensor both models share, in the base model's order."""

    @property
    def relative(self) -> float:
        """Return the Frobenius norm of the whole change over that of the base; about 1.4 for unrelated models."""
        change = math.sqrt(sum(c.change**2 for c in self.changes))
        base = math.sqrt(sum(c.base_norm**2 for c in self.changes))
        return change / base if base else math.nan

    @property
    def moved(self) -> tuple[TensorChange, ...]:
        """Return the tensors that differ at all."""
        return tuple(c for c in self.changes if c.change > 0)


def weight_delta(base: nn.Module, judge: nn.Module) -> WeightDelta:
    """Compare two models of one shape, parameter by parameter, or a base with its adapter-carrying twin.

    Args:
        base: Model without adapters.
        judge: Model of the same shape, plain or with LoRA layers injected.
    """
    return WeightDelta(changes=tuple(_changes(base, judge)))


def _changes(base: nn.Module, judge: nn.Module) -> Iterator[TensorChange]:
    adapted = {f"{untuned_name(name)}.weight": layer for name, layer in tuner_layers(judge)}
    judge_parameters = {untuned_name(name): p for name, p in judge.named_parameters(remove_duplicate=False)}
    for name, parameter in base.named_parameters():
        base_norm = float(torch.linalg.vector_norm(parameter.detach().float()))
        if name in adapted:
            yield TensorChange(name, adapter_norm(adapted[name]), base_norm)
            continue
        other = judge_parameters.get(name)
        if other is None or other is parameter:
            yield TensorChange(name, 0.0, base_norm)
            continue
        difference = other.detach().float() - parameter.detach().float().to(other.device)
        yield TensorChange(name, float(torch.linalg.vector_norm(difference)), base_norm)


def adapter_norm(layer: BaseTunerLayer) -> float:
    """Return the Frobenius norm of a LoRA layer's weight change without forming the product.

    ``|s B A|^2 = s^2 tr(B^T B A A^T)``; several active adapters are summed by their cross terms.
    """
    factors = lora_factors(layer)
    total = 0.0
    for left in factors:
        for right in factors:
            gram_b = left.b.double().T @ right.b.double()
            gram_a = left.a.double() @ right.a.double().T
            total += left.scale * right.scale * float((gram_b * gram_a).sum())
    return math.sqrt(max(total, 0.0))
