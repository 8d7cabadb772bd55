"""Weight interpolation, the other way to have half a fine-tuning: ``base + alpha (judge - base)`` in every block.

Scaling contributions and interpolating weights agree only for what is linear in the weights, so that the
two stand beside each other as independent checks. Embedding, final norm and head are those of one side.
"""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.hooks import weight_sharing_shadow
from workbench.pairs import Pair, Side
from workbench.pairs.adapters import (
    is_plain_lora,
    merged_tensors,
    replace_layers,
    tuner_layers,
    untuned_name,
)
from workbench.pairs.memory.offloaded import require_numbers, same_place


def interpolated_judge(pair: Pair, *, alpha: float, ends: Side = "judge") -> PreTrainedModel:
    """Return the judge with the weights of its blocks moved to ``base + alpha (judge - base)``.

    Everything that doesn't move is shared with the judge. Plain LoRA is scaled, never merged; a layer of any
    other kind of adapter becomes the plain module it wraps, with weights between the base's and the merged ones.

    Args:
        pair: Base and judge; neither is changed.
        alpha: 1 is the judge's blocks and 0 the base's, both to the bit.
        ends: Whose embedding, final norm and head are used.

    Raises:
        PairMismatch: The adapter can't be merged, so that its weights have no line to move along.
    """
    shadow = weight_sharing_shadow(pair.judge, replace=dict(_moved(pair, alpha=alpha, ends=ends)))
    base = dict(pair.base.named_parameters(remove_duplicate=False))
    merged = dict(tuner_layers(pair.judge))  # before anything moved

    def between(name: str, layer: BaseTunerLayer) -> nn.Module:
        scale = _local_alpha(pair, name, alpha=alpha, ends=ends)
        if is_plain_lora(layer):
            plain = cast(LoraLayer, layer)
            for adapter in plain.active_adapters:
                if adapter in plain.scaling:
                    plain.scaling[adapter] *= scale
        elif scale != 1.0:
            return _line(merged[name], layer.get_base_layer(), base, name=untuned_name(name), scale=scale)
        return cast(nn.Module, layer)

    replace_layers(shadow, between, saved=lambda wrapper: wrapper)
    return shadow


def _line(tuned: BaseTunerLayer, plain: nn.Module, base: Mapping[str, Tensor], *, name: str, scale: float) -> nn.Module:
    """Give the module under an adapter layer the weights at ``scale`` on the line from the base to the merged layer."""
    held = dict(tuned.get_base_layer().named_parameters())
    merged = merged_tensors(tuned) if scale != 0.0 else {}
    for leaf, own in {**held, **merged}.items():
        original = base[f"{name}.{leaf}"]
        if own is original:
            continue
        start = original.detach().to(own.device)
        mixed = start if scale == 0.0 else torch.lerp(start.float(), own.detach().float(), scale).to(original.dtype)
        setattr(plain, leaf, nn.Parameter(mixed, requires_grad=original.requires_grad))
    return plain


def _moved(pair: Pair, *, alpha: float, ends: Side) -> Iterator[tuple[Tensor, nn.Parameter]]:
    base = dict(pair.base.named_parameters(remove_duplicate=False))
    for name, parameter in pair.judge.named_parameters():
        original = base.get(untuned_name(name))
        scale = _local_alpha(pair, name, alpha=alpha, ends=ends)
        if original is None or original is parameter or scale == 1.0 or same_place(pair.base, pair.judge, name):
            continue
        require_numbers(parameter, name=name)
        start, end = original.detach().to(parameter.device), parameter.detach()
        # float32 between the ends, the base's own tensor at 0: casting back and forth would be exact there anyway
        mixed = start if scale == 0.0 else torch.lerp(start.float(), end.float(), scale).to(end.dtype)
        yield parameter, nn.Parameter(mixed, requires_grad=parameter.requires_grad)


def _local_alpha(pair: Pair, name: str, *, alpha: float, ends: Side) -> float:
    """Return how much of a tensor's change is kept: alpha inside the blocks, all or nothing outside."""
    if untuned_name(name).startswith(f"{pair.anatomy('base').blocks_path}."):
        return alpha
    return 1.0 if ends == "judge" else 0.0
