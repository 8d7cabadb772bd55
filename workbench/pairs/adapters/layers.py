"""The adapter layers of a model: where they are, what their parameters are called in the base, LoRA factors."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from workbench.errors import PairMismatch


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


def lora_factors(layer: BaseTunerLayer) -> list[Factors]:
    """Return the active LoRA products of a layer, each as ``(a [rank, d_in], b [d_out, rank], scale)``.

    Raises:
        PairMismatch: The layer isn't a plain LoRA layer.
    """
    if not isinstance(layer, LoraLayer) or any(getattr(layer, "use_dora", {}).values()):
        raise PairMismatch(
            "only plain LoRA layers can be read as factors.",
            argument="judge",
            got=type(layer).__name__,
            allowed=["LoRA without DoRA"],
        )
    found = []
    for adapter in layer.active_adapters:
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
    parts = [part for part in name.split(".") if part != "base_layer"]
    if "modules_to_save" in parts:
        cut = parts.index("modules_to_save")
        parts = parts[:cut] + parts[cut + 2 :]
    return ".".join(part for part in parts if part != "original_module")
