"""Weights that accelerate keeps outside a module and lends to it for each forward: where they are, what they hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import PairMismatch, ParameterError
from workbench.hooks import running_device
from workbench.pairs.loading.quantised import is_quantised

_DEVICE_MAP = "hf_device_map"


def is_offloaded(module: nn.Module) -> bool:
    """Return whether any parameter of a model is kept elsewhere between forwards."""
    return any(parameter.is_meta for parameter in module.parameters())


def value_of(module: nn.Module, name: str) -> Tensor:
    """Return a parameter by its dotted name, read from where it is kept when the module itself doesn't hold it.

    Args:
        module: The model; it isn't changed.
        name: Name of a parameter, as ``named_parameters`` gives it.

    Raises:
        ParameterError: Nothing holds it.
    """
    owner, leaf = _split(name)
    held = module.get_submodule(owner)
    parameter = held.get_parameter(leaf)
    if not parameter.is_meta:
        return parameter.detach()
    kept = getattr(_hook(held), "weights_map", None)
    if kept is None:
        raise ParameterError(
            "this parameter has no value: its module was never given one.",
            argument="module",
            got=name,
            fix="Load the model with its weights.",
        )
    return kept[leaf]


def place_of(module: nn.Module, leaf: str) -> tuple[int, str] | None:
    """Return where an offloaded parameter is kept, the same for clones that share it; None when nothing lends it.

    The parameter object itself can't tell: accelerate makes a new one after every forward.

    Args:
        module: The layer it belongs to.
        leaf: Its name there.
    """
    kept = getattr(_hook(module), "weights_map", None)
    return None if kept is None else (id(kept), leaf)


def same_place(left: nn.Module, right: nn.Module, name: str) -> bool:
    """Return whether an offloaded parameter of one model is lent from the same place as that of another.

    Args:
        left: One model, without adapters.
        right: Another; adapter layers in it are looked through.
        name: Name of the parameter in ``right``.
    """
    (owner, leaf), plain = _split(name), _split(name.replace(".base_layer", ""))
    place = place_of(right.get_submodule(owner), leaf)
    return place is not None and place == place_of(left.get_submodule(plain[0]), plain[1])


def _split(name: str) -> tuple[str, str]:
    owner, _, leaf = name.rpartition(".")
    return owner, leaf


def require_numbers(parameter: Tensor, *, name: str) -> None:
    """Refuse to compute another weight from one that holds codes, or that is kept outside its module.

    Args:
        parameter: A parameter of either model.
        name: Its name.

    Raises:
        PairMismatch: With what to load instead.
    """
    if parameter.is_meta:
        raise PairMismatch(
            "weights kept outside the model can't be replaced by others.",
            argument="device_map",
            got=name,
            fix='Load the pair with device="cpu", offload="disk" instead, or leave out what needs other weights.',
        )
    if is_quantised(parameter):
        raise PairMismatch(
            "quantised weights are codes, from which no other weights can be computed.",
            argument="quantization",
            got=f"{name}: {type(parameter).__name__}",
            fix="Load the pair without quantisation, or leave out what needs other weights.",
        )


def stand_in(parameter: Tensor) -> Tensor:
    """Return a tensor of the same shape and type that takes no memory, for code that only asks for those.

    Args:
        parameter: A parameter; one that isn't offloaded comes back as it is.
    """
    return torch.zeros(1, dtype=parameter.dtype).expand(parameter.shape) if parameter.is_meta else parameter.detach()


def join(layer: nn.Module, beside: nn.Module) -> None:
    """Put a layer's parameters where its offloaded neighbour runs; nothing when that one isn't offloaded.

    Args:
        layer: A layer that wraps ``beside``, whose own parameters are moved.
        beside: The layer whose weights are lent to it.
    """
    if not is_offloaded(beside):
        return
    kept = {id(parameter) for parameter in beside.parameters()}
    device = running_device(beside)
    for parameter in layer.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(device)


@contextmanager
def not_dispatched_again(module: nn.Module) -> Iterator[None]:
    """Hide that a model is spread over devices, for libraries that would spread it a second time.

    peft does so when it loads an adapter, and can't where weights are on disk; the layers keep their own hooks.
    """
    state: dict[str, Any] = module.__dict__
    known = state.pop(_DEVICE_MAP, None)
    try:
        yield
    finally:
        if known is not None:
            state[_DEVICE_MAP] = known


def _hook(module: nn.Module) -> Any:
    return getattr(module, "_hf_hook", None)
