"""An adapter on a shared base: two modules, one set of base weights.

The judge is a structural clone of the base that shares every parameter tensor, with the adapter
injected into the clone. The base therefore stays an untouched Hugging Face module, nothing has to
be toggled, and no run can see the wrong adapter state.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from workbench.errors import CheckpointError, PairMismatch
from workbench.hooks import weight_sharing_shadow

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


class Factors(NamedTuple):
    """One LoRA product ``scale * b @ a`` of a layer."""

    a: Tensor
    """Down projection, ``[rank, d_in]``."""
    b: Tensor
    """Up projection, ``[d_out, rank]``."""
    scale: float
    """Scaling the adapter applies to the product."""


def attach_adapter(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return the judge: a clone of ``base`` sharing its weights, with the adapter of ``folder`` injected.

    Args:
        base: Untouched Hugging Face model; it stays untouched.
        folder: Local adapter folder with ``adapter_config.json`` and safetensors weights.

    Raises:
        CheckpointError: The adapter's weights are a pickle or are missing.
        PairMismatch: The adapter doesn't fit this base, or its weights didn't land.
    """
    _require_safetensors(folder)
    kind = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            "this kind of adapter isn't supported yet.",
            argument="judge",
            got=kind,
            allowed=["LORA"],
            fix="Merge it into a full checkpoint.",
        )
    clone = weight_sharing_shadow(base)
    trainable = [
        (parameter, parameter.requires_grad) for parameter in base.parameters()
    ]  # peft freezes what the clone shares
    try:
        wrapped = PeftModel.from_pretrained(clone, str(folder), is_trainable=False)
    except (ValueError, RuntimeError) as err:
        raise PairMismatch(
            "this adapter doesn't fit the base model.",
            argument="judge",
            got=f"{folder} ({_first_line(err)})",
            fix="Load it on the base named in its adapter_config.json.",
        ) from err
    finally:
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)
    _require_landed(wrapped, folder)
    return cast(PreTrainedModel, wrapped.get_base_model()).eval()


def split_peft(model: PeftModel) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return (base, judge) of a live PEFT model; both share its weights and the model itself isn't changed.

    Raises:
        PairMismatch: No adapter is active, or the model carries something other than LoRA.
    """
    judge = cast(PreTrainedModel, model.get_base_model())
    layers = list(tuner_layers(judge))
    if not layers or any(layer.disable_adapters or not layer.active_adapters for _, layer in layers):
        raise PairMismatch(
            "the PEFT model has no active adapter, so it is its own base.",
            argument="judge",
            got=str(getattr(model, "active_adapters", None)),
            fix="Enable one adapter before loading the pair.",
        )
    if any(layer.merged for _, layer in layers):
        raise PairMismatch(
            "the PEFT model's adapter is merged into its weights, so the base is gone.",
            argument="judge",
            fix="Call `unmerge_adapter()` first.",
        )
    return _without_adapters(judge), judge


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
    return isinstance(layer, LoraLayer) and isinstance(layer.get_base_layer(), nn.Linear | Conv1D)


def _without_adapters(judge: PreTrainedModel) -> PreTrainedModel:
    """Return a weight-sharing clone with every adapter layer replaced by the layer it wraps."""
    clone = weight_sharing_shadow(judge)
    for name, child in list(clone.named_modules()):
        if isinstance(child, BaseTunerLayer):
            _replace(clone, name, child.get_base_layer())
        elif isinstance(child, ModulesToSaveWrapper):
            _replace(clone, name, child.original_module)
        elif isinstance(child, AuxiliaryTrainingWrapper):
            raise PairMismatch(
                "this adapter wraps modules in a way that can't be undone yet.",
                argument="judge",
                got=type(child).__name__,
            )
    return clone


def _replace(root: nn.Module, name: str, child: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, child)


def _require_safetensors(folder: Path) -> None:
    if (folder / ADAPTER_WEIGHTS).is_file():
        return
    pickles = [p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    raise CheckpointError(
        "the adapter's weights are a pickle file, which can run code when loaded."
        if pickles
        else "the adapter folder has no weights.",
        argument="judge",
        got=f"{folder}: {pickles or sorted(p.name for p in folder.iterdir())}",
        allowed=[ADAPTER_WEIGHTS],
        fix="Save the adapter again with safetensors.",
    )


def _require_landed(wrapped: PeftModel, folder: Path) -> None:
    """Compare every tensor of the adapter file with what the model now holds; peft only warns."""
    stored = load_file(folder / ADAPTER_WEIGHTS)
    name = str(wrapped.active_adapter)
    held = {_stored_key(key, name): p for key, p in wrapped.named_parameters(remove_duplicate=False)}
    missing = sorted(key for key in stored if key not in held)
    wrong = sorted(
        key
        for key, value in stored.items()
        if key in held and not torch.equal(held[key].detach().cpu(), value.to(held[key].dtype).cpu())
    )
    expected = {key for key in held if ".lora_" in key}
    untouched = sorted(expected - set(stored))
    if missing or wrong or untouched:
        raise PairMismatch(
            "the adapter's weights did not land in the base model.",
            argument="judge",
            got=f"{len(missing)} without a place {missing[:3]}, {len(wrong)} different {wrong[:3]}, "
            f"{len(untouched)} left at their initial value {untouched[:3]}",
            fix="Load the adapter on the base it was trained on, with the peft version that saved it.",
        )


def _stored_key(key: str, adapter: str) -> str:
    """Return the name under which peft stores the parameter that a wrapped model calls ``key``."""
    key = key.replace(f".modules_to_save.{adapter}.", ".")
    return key.replace(f".{adapter}.", ".").removesuffix(f".{adapter}")


def _first_line(err: Exception) -> str:
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)
