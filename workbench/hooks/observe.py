"""Watch one short forward pass of a module: what fired in which order, with which tensors."""

import functools
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import ParameterError
from workbench.hooks.ports import Side, first
from workbench.tokens import TokenBatch

PROBE_LENGTH = 6
_NO_FLOAT64 = "got Double"


def forward_accepts(module: nn.Module, name: str) -> bool:
    """Whether the module's ``forward`` names this keyword (the class is asked: wrappers replace the bound method)."""
    return name in _forward_names(type(module))


@functools.lru_cache(maxsize=64)
def _forward_names(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def input_device(module: nn.Module) -> torch.device:
    """Return the device token ids have to be on, also when the model is spread over several."""
    return running_device(module.get_input_embeddings())  # type: ignore[operator]


def running_device(layer: nn.Module) -> torch.device:
    """Return the device a layer with weights runs on, also when accelerate keeps them elsewhere or peft wraps it."""
    holder = next(part for part in layer.modules() if next(part.parameters(recurse=False), None) is not None)
    held = next(holder.parameters(recurse=False)).device
    lent = getattr(getattr(holder, "_hf_hook", None), "execution_device", None)
    return torch.device(lent) if held.type == "meta" and lent is not None else held


def at_input(module: nn.Module, batch: TokenBatch) -> TokenBatch:
    """Return the batch where the model takes its token ids."""
    device = input_device(module)
    return batch if batch.device == device else batch.to(device)


def probe_kwargs(module: nn.Module) -> dict[str, Any]:
    """Return the inputs of the probe forward: one row of a few distinct ids, no padding."""
    device = input_device(module)
    vocab = module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    ids = (torch.arange(PROBE_LENGTH, device=device)[None] * 7 + 3) % vocab
    kwargs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if forward_accepts(module, "position_ids"):
        kwargs["position_ids"] = torch.arange(PROBE_LENGTH, device=device)[None]
    return kwargs


def mask_overflows(module: nn.Module, *, eager: bool = False) -> bool:
    """Whether padding becomes not-a-number here, and spreads: float64 under eager attention.

    Its softmax is taken in float32, where float64's most negative number, which the mask writes, is minus infinity; a
    row that sees nothing but padding then has no softmax.

    Args:
        module: The model.
        eager: Whether attention is eager whatever the model's own setting says.
    """
    eager = eager or getattr(getattr(module, "config", None), "_attn_implementation", None) == "eager"
    return eager and next(module.parameters()).dtype == torch.float64


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the first tensor a module was called with.

    Raises:
        ParameterError: It was called without one.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            return value
    raise ParameterError(
        "a module of the architecture map takes no tensor.", argument="module", fix="Report this architecture."
    )


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off and put every submodule's own mode back."""
    training = [child for child in module.modules() if child.training]
    for child in training:
        child.training = False
    try:
        yield
    finally:
        for child in training:
            child.training = True


class Observation:
    """What one forward pass showed."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[str, Side], Tensor] = {}
        self.order: dict[tuple[str, Side], int] = {}
        self.tuples: set[str] = set()

    def see(self, key: tuple[str, Side], tensor: Tensor) -> None:
        """Note a tensor and its turn; a module that runs twice keeps its first turn."""
        if key not in self.order:
            self.order[key] = len(self.order)
            self.tensors[key] = tensor


def observe(module: nn.Module, points: Iterable[tuple[str, Side]]) -> Observation:
    """Run the probe and record the tensors at the given ends of modules.

    Args:
        module: The model; its mode, hooks and weights are as found afterwards.
        points: (path, side) pairs.

    Raises:
        ParameterError: The model has no kernel for its own data type.
    """
    seen = Observation()
    handles = []
    try:
        for path, side in points:
            handles.append(_watch(module.get_submodule(path), (path, side), seen))
        with torch.no_grad(), evaluation_mode(module):
            module(**probe_kwargs(module), use_cache=False)
    except RuntimeError as err:
        if _NO_FLOAT64 not in str(err):
            raise
        raise ParameterError(
            "a kernel of this architecture (grouped matrix products, in a mixture of experts) has no float64.",
            argument="dtype",
            got=f"{type(module).__name__} in {next(module.parameters()).dtype}",
            allowed="float32, bfloat16, float16",
            fix="Load it in float32.",
        ) from err
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _watch(child: nn.Module, key: tuple[str, Side], seen: Observation) -> torch.utils.hooks.RemovableHandle:
    def entering(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.see(key, input_of(args, kwargs))

    def leaving(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor):
            seen.tuples.add(key[0])
        seen.see(key, first(output))

    if key[1] == "in":
        return child.register_forward_pre_hook(entering, with_kwargs=True)
    return child.register_forward_hook(leaving)
