"""The adapter layers of a model: where they are, what their parameters are called in the base, LoRA factors."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from peft.tuners.adalora import AdaLoraLayer
from peft.tuners.beft.layer import BeftLayer
from peft.tuners.lora import Embedding, LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from workbench.errors import PairMismatch

_WRAPPERS = frozenset({"base_layer", "original_module", "token_adapter"})
"""Attributes under which peft keeps the module it wraps."""


class Factors(NamedTuple):
    """One LoRA product ``scale * b @ a`` of a layer."""

    a: Tensor
    """Down projection, ``[rank, d_in]``."""
    b: Tensor
    """Up projection, ``[d_out, rank]``."""
    scale: float
    """Scaling the adapter applies to the product."""


def tuner_layers(module: nn.Module) -> Iterator[tuple[str, BaseTunerLayer]]:
    """Yield every adapter layer with its dotted name."""
    for name, child in module.named_modules():
        if isinstance(child, BaseTunerLayer):
            yield name, child


def is_plain_lora(layer: BaseTunerLayer) -> bool:
    """Return whether a layer adds exactly its products ``scale * b @ a``: LoRA without DoRA or other variants."""
    if not isinstance(layer, LoraLayer) or isinstance(layer, AdaLoraLayer | ParamWrapper):
        return False
    active = set(layer.active_adapters)
    marked = {name for flags in (layer.use_dora, layer.lora_bias) for name, used in flags.items() if used}
    convolved = any(bank.weight.ndim != 2 for name, bank in layer.lora_A.items() if name in active)
    return not active & (marked | set(layer.lora_variant)) and not convolved


def bare_bias(layer: BaseTunerLayer) -> bool:
    """Return whether a layer adds a bias to a module that has none, so that merging has no place for it."""
    biased = isinstance(layer, BeftLayer) or any(getattr(layer, "lora_bias", {}).values())
    return biased and getattr(layer.get_base_layer(), "bias", None) is None


def is_transposed(layer: BaseTunerLayer) -> bool:
    """Return whether the wrapped weight is stored ``[d_in, d_out]``: embeddings, and GPT-2's Conv1D."""
    return isinstance(layer, Embedding) or bool(getattr(layer, "fan_in_fan_out", False))


def lora_factors(layer: BaseTunerLayer) -> list[Factors]:
    """Return the active LoRA products of a layer, each as ``(a [rank, d_in], b [d_out, rank], scale)``.

    Raises:
        PairMismatch: The layer isn't a plain LoRA layer.
    """
    if not is_plain_lora(layer) or not isinstance(layer, LoraLayer):
        raise PairMismatch(
            "only plain LoRA layers can be read as factors.",
            argument="judge",
            got=type(layer).__name__,
            allowed=["LoRA without DoRA or other variants"],
        )
    found = []
    for adapter in layer.active_adapters:
        if adapter not in layer.lora_A and adapter not in layer.lora_embedding_A:
            continue  # an active adapter that leaves this layer alone
        banks: tuple[Any, Any] = (
            (layer.lora_A, layer.lora_B)
            if adapter in layer.lora_A
            else (layer.lora_embedding_A, layer.lora_embedding_B)
        )
        a, b = (bank[adapter].weight if isinstance(bank[adapter], nn.Module) else bank[adapter] for bank in banks)
        found.append(Factors(a.detach(), b.detach(), float(layer.scaling[adapter])))
    return found


def untuned_name(name: str) -> str:
    """Return a parameter or module name as it reads in the base model, before an adapter was injected."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    if "modules_to_save" in parts:
        cut = parts.index("modules_to_save")
        parts = parts[:cut] + parts[cut + 2 :]
    return ".".join(parts)
