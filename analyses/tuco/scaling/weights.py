"""Weight interpolation, the other way to have half a fine-tuning: ``base + alpha (judge - base)`` in every block.

Scaling contributions and interpolating weights agree only for what is linear in the weights, so that the
two stand beside each other as independent checks. Embedding, final norm and head are those of one side.
"""

from collections.abc import Iterator
from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.hooks import weight_sharing_shadow
from workbench.pairs import Pair, Side
from workbench.pairs.adapters import lora_factors, tuner_layers, untuned_name


def interpolated_judge(pair: Pair, *, alpha: float, ends: Side = "judge") -> PreTrainedModel:
    """Return the judge with the weights of its blocks moved to ``base + alpha (judge - base)``.

    Everything that doesn't move is shared with the judge; an adapter is scaled, never merged.

    Args:
        pair: Base and judge; neither is changed.
        alpha: 1 is the judge's blocks and 0 the base's, both to the bit.
        ends: Whose embedding, final norm and head are used.

    Raises:
        PairMismatch: An adapter isn't plain LoRA, so that its weights have no line to move along.
    """
    shadow = weight_sharing_shadow(pair.judge, replace=dict(_moved(pair, alpha=alpha, ends=ends)))
    for name, layer in tuner_layers(shadow):
        lora_factors(layer)  # refuses what isn't plain LoRA
        scale = _local_alpha(pair, name, alpha=alpha, ends=ends)
        plain = cast(LoraLayer, layer)
        for adapter in plain.active_adapters:
            plain.scaling[adapter] *= scale
    return shadow


def _moved(pair: Pair, *, alpha: float, ends: Side) -> Iterator[tuple[Tensor, nn.Parameter]]:
    base = dict(pair.base.named_parameters(remove_duplicate=False))
    for name, parameter in pair.judge.named_parameters():
        original = base.get(untuned_name(name))
        scale = _local_alpha(pair, name, alpha=alpha, ends=ends)
        if original is None or original is parameter or scale == 1.0:
            continue
        start, end = original.detach().to(parameter.device), parameter.detach()
        # float32 between the ends, the base's own tensor at 0: casting back and forth would be exact there anyway
        mixed = start if scale == 0.0 else torch.lerp(start.float(), end.float(), scale).to(end.dtype)
        yield parameter, nn.Parameter(mixed, requires_grad=parameter.requires_grad)


def _local_alpha(pair: Pair, name: str, *, alpha: float, ends: Side) -> float:
    """Return how much of a tensor's change is kept: alpha inside the blocks, all or nothing outside."""
    if untuned_name(name).startswith(f"{pair.anatomy('base').blocks_path}."):
        return alpha
    return 1.0 if ends == "judge" else 0.0
