"""Is the adapter, merged into the weights, still the same function?"""

import math
from typing import Any, NamedTuple, cast

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from workbench.pairs.adapters.layers import tuner_layers
from workbench.pairs.quantised import is_quantised


class MergeError(NamedTuple):
    """How far merged layers are from unmerged ones."""

    largest: float
    """Largest relative difference over layers; NaN when no layer could be compared."""
    compared: int
    """Adapter layers compared."""
    skipped: int
    """Adapter layers whose merged form isn't one matrix (embeddings, convolutions)."""


def merge_error(judge: nn.Module, *, seed: int) -> MergeError:
    """Compare every adapter layer run as it is with the same layer merged, on 8 random inputs each.

    The merged weight of one layer exists at a time. This is the layer-wise form of "merged equals
    unmerged", in the model's own dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = [layer for _, layer in tuner_layers(judge)]
    errors = [_layer_merge_error(layer, generator) for layer in layers if _is_matrix(layer)]
    return MergeError(max(errors, default=math.nan), len(errors), len(layers) - len(errors))


@torch.no_grad()
def _layer_merge_error(layer: BaseTunerLayer, generator: torch.Generator) -> float:
    plain = layer.get_base_layer()
    weight = cast(Tensor, plain.weight)
    transposed = isinstance(plain, Conv1D)  # GPT-2 stores [d_in, d_out]
    merged = weight + sum(cast(Any, layer).get_delta_weight(name).to(weight.dtype) for name in layer.active_adapters)
    x = torch.randn(8, weight.shape[0 if transposed else 1], generator=generator).to(weight.device, weight.dtype)
    bias = 0 if plain.bias is None else plain.bias
    unmerged = (cast(nn.Module, layer)(x) - bias).float()
    error = (unmerged - (x @ (merged if transposed else merged.T)).float()).abs().max()
    return float(error / unmerged.abs().max().clamp(min=1e-12))


def _is_matrix(layer: BaseTunerLayer) -> bool:
    plain = layer.get_base_layer()
    matrix = isinstance(layer, LoraLayer) and isinstance(plain, nn.Linear | Conv1D)
    return matrix and not is_quantised(cast(Tensor, plain.weight))  # codes can't be added to
