"""An adapter on a shared base: two modules, one set of base weights.

The judge is a structural clone of the base that shares every parameter tensor, with the adapter
injected into the clone. The base therefore stays an untouched Hugging Face module, nothing has to
be toggled, and no run can see the wrong adapter state.
"""

import json
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from workbench.errors import CheckpointError, PairMismatch
from workbench.hooks import weight_sharing_shadow
from workbench.pairs.adapters.layers import tuner_layers

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


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
