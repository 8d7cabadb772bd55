"""Plain Hugging Face modules from a judge with adapter layers: its base, and itself merged."""

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

import torch
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.errors import PairMismatch
from workbench.hooks import weight_sharing_shadow
from workbench.pairs.adapters.changes import merged_tensors
from workbench.pairs.adapters.layers import untuned_name

M = TypeVar("M", bound=nn.Module)


def without_adapters(judge: M) -> M:
    """Return a weight-sharing clone with every adapter layer replaced by the module it wraps.

    Raises:
        PairMismatch: A module is wrapped in a way that can't be undone.
    """
    clone = weight_sharing_shadow(judge)
    replace_layers(clone, lambda _, layer: layer.get_base_layer(), saved=lambda wrapper: wrapper.original_module)
    return _forget_peft(clone)


def merged_copy(judge: PreTrainedModel) -> PreTrainedModel:
    """Return the judge as a plain module of its class: merged tensors where the adapter acts, the rest shared.

    Merging is done in float32 and rounded once, to the dtype of the tensor it replaces. Where only one
    of two tied tensors changes, they are no longer tied, and the copy's config says so.

    Args:
        judge: Judge with adapter layers; a plain model gives a plain weight-sharing clone.

    Raises:
        PairMismatch: This kind of adapter can't be merged exactly.
    """
    clone = weight_sharing_shadow(judge)
    known: dict[int, list[nn.Parameter]] = {}

    def merged(_: str, layer: BaseTunerLayer) -> nn.Module:
        plain = layer.get_base_layer()
        for leaf, value in merged_tensors(layer).items():
            _put(plain, leaf, value, known)
        return plain

    replace_layers(clone, merged, saved=_active_copy)
    if clone.get_output_embeddings() is not None and not head_is_tied(clone):
        clone.config.tie_word_embeddings = False
        clone.all_tied_weights_keys = {}
    return _forget_peft(clone)


def unwrap_norms(judge: PreTrainedModel) -> None:
    """Put trained norms in the place of the wrappers that choose them, in place.

    What LN tuning trains is a norm like the one it replaces; TransformerLens reads a norm's weight and
    would read the wrapped one.
    """

    def trained(_: str, layer: BaseTunerLayer) -> nn.Module:
        norms = layer.ln_tuning_layers if isinstance(layer, LNTuningLayer) else {}
        return next((norms[name] for name in layer.active_adapters if name in norms), cast(nn.Module, layer))

    replace_layers(judge, trained, saved=lambda wrapper: wrapper)


def refuse_to_save(judge: nn.Module) -> None:
    """Make ``save_pretrained`` of a judge raise where it would write names that load as random matrices, in place.

    Args:
        judge: Clone with adapter layers; not the user's own.
    """
    if any(untuned_name(name) != name for name, _ in judge.named_parameters()):
        judge.__dict__[_SAVE] = _refused_to_save


_SAVE = "save_pretrained"


def _refused_to_save(*_: Any, **__: Any) -> NoReturn:
    raise PairMismatch(
        "this judge holds adapter layers, whose names no plain model loads: it would come back with random matrices.",
        argument="judge",
        fix="Save it merged: workbench.pairs.adapters.merged_copy(pair.judge).save_pretrained(folder); "
        "or copy the adapter's own folder.",
    )


def replace_layers(
    root: nn.Module,
    layers: Callable[[str, BaseTunerLayer], nn.Module],
    *,
    saved: Callable[[ModulesToSaveWrapper], nn.Module],
    path: str = "",
) -> None:
    """Put other modules in the place of adapter layers, in place.

    Args:
        root: Module to change; not the user's own.
        layers: Given the name and the layer, what takes its place; the layer itself keeps it.
        saved: What takes the place of a module that peft keeps twice; the wrapper itself keeps it.
        path: Name of ``root``, with a dot behind it.

    Raises:
        PairMismatch: A module is wrapped in a way that can't be undone.
    """
    for name, child in list(root.named_children()):
        new = _replacement(f"{path}{name}", child, layers, saved)
        if new is not child:
            setattr(root, name, new)
        if not isinstance(new, BaseTunerLayer | TrainableTokensWrapper):
            replace_layers(new, layers, saved=saved, path=f"{path}{name}.")


def _replacement(
    name: str,
    child: nn.Module,
    layers: Callable[[str, BaseTunerLayer], nn.Module],
    saved: Callable[[ModulesToSaveWrapper], nn.Module],
) -> nn.Module:
    if isinstance(child, BaseTunerLayer):
        return layers(name, child)
    if isinstance(child, TrainableTokensWrapper):
        new = layers(f"{name}.token_adapter", child.token_adapter)
        return child if new is child.token_adapter else new
    if isinstance(child, ModulesToSaveWrapper):
        new = saved(child)
        return layers(name, new) if isinstance(new, BaseTunerLayer) else new
    if isinstance(child, AuxiliaryTrainingWrapper):
        raise PairMismatch(
            "this adapter wraps modules in a way that can't be undone.", argument="judge", got=type(child).__name__
        )
    return child


def _active_copy(wrapper: ModulesToSaveWrapper) -> nn.Module:
    active = not wrapper.disable_adapters and wrapper.active_adapters
    return wrapper.modules_to_save[wrapper.active_adapters[0]] if active else wrapper.original_module


def _put(plain: nn.Module, leaf: str, value: Tensor, merged: dict[int, list[nn.Parameter]]) -> None:
    held = plain.get_parameter(leaf)
    rounded = value.to(held.dtype)
    ties = merged.setdefault(id(held), [])
    known = next((p for p in ties if torch.equal(p.detach(), rounded)), None)  # both ends of a tie, changed alike
    if known is None:
        known = nn.Parameter(rounded, requires_grad=held.requires_grad)
        ties.append(known)
    owner, _, last = leaf.rpartition(".")
    setattr(plain.get_submodule(owner), last, known)


def head_is_tied(model: PreTrainedModel) -> bool:
    """Return whether embedding and output head run on one tensor."""
    embedding, head = end_weights(model)
    return embedding is not None and embedding is head


def end_weights(model: PreTrainedModel) -> tuple[Tensor | None, Tensor | None]:
    """Return the parameters that act in embedding and output head, seen through what peft wraps around them."""
    ends = [cast(nn.Module | None, end) for end in (model.get_input_embeddings(), model.get_output_embeddings())]
    embedding, head = (None if end is None else _held_weight(end) for end in ends)
    return embedding, head


def _held_weight(module: nn.Module) -> Tensor | None:
    """Return the parameter that acts in a module; a wrapper's own ``weight`` may be computed anew each time."""
    if isinstance(module, ModulesToSaveWrapper):
        return _held_weight(_active_copy(module))
    if isinstance(module, TrainableTokensWrapper):
        return _held_weight(module.token_adapter)
    plain = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    return dict(plain.named_parameters(recurse=False)).get("weight")


def _forget_peft(clone: M) -> M:
    if hasattr(clone, "peft_config"):
        del clone.peft_config  # or transformers takes the plain module for one that carries an adapter
    clone.__dict__.pop(_SAVE, None)
    return clone
