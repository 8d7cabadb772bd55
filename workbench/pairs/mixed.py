"""Both sides of an adapter pair in one batch: the first rows with the adapter, the rest without.

The base's weights are then read once for both sides, which is what a small batch on a GPU waits for.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from peft.tuners.lora import LoraLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from workbench.errors import ParameterError
from workbench.hooks import module_lock
from workbench.pairs.adapters import is_plain_lora, tuner_layers

_BASE_ROW = "__base__"
"""peft's name for a row that no adapter acts on."""


def can_mix(base: nn.Module, judge: nn.Module) -> bool:
    """Return whether ``judge`` is ``base`` with one plain LoRA adapter on top, so that its batch can hold rows of both.

    Other kinds of adapters can't: peft leaves rows out for plain LoRA only, and what merges into other tensors
    than the base's own (trained biases, PiSSA) acts on every row.

    Args:
        base: Module without adapter layers.
        judge: Module that may share its weights.
    """
    layers = [cast(nn.Module, layer) for _, layer in tuner_layers(judge)]
    if not layers or any(True for _ in tuner_layers(base)):
        return False
    plain = all(_is_plain(layer) for layer in layers)
    wrapped = any(isinstance(module, AuxiliaryTrainingWrapper) for module in judge.modules())
    shared = {id(p) for p in judge.parameters()}
    return plain and not wrapped and all(id(p) in shared for p in base.parameters())


@contextmanager
def adapter_on_first_rows(judge: nn.Module, *, rows: int) -> Iterator[None]:
    """While open, the adapter acts on the first ``rows`` rows of every batch and on no other.

    Args:
        judge: Module with a plain LoRA adapter; see :func:`can_mix`.
        rows: Number of rows it acts on.

    Raises:
        ParameterError: The module has no adapter, so that every row would be the judge's.
    """
    layers = [cast(nn.Module, layer) for _, layer in tuner_layers(judge)]
    if not layers:
        raise ParameterError(
            "this model has no adapter that could be left out of rows.", argument="judge", got=type(judge).__name__
        )

    def choose(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(layer, LoraLayer):
            raise ParameterError("only LoRA rows can be mixed.", argument="judge", got=type(layer).__name__)
        (adapter,) = layer.active_adapters
        count = len(args[0])
        return args, {**kwargs, "adapter_names": [adapter] * rows + [_BASE_ROW] * (count - rows)}

    with ExitStack() as stack:
        stack.enter_context(module_lock(judge))
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(choose, with_kwargs=True).remove)
        yield


def _is_plain(layer: nn.Module) -> bool:
    return (
        isinstance(layer, LoraLayer)
        and is_plain_lora(layer)
        and len(layer.active_adapters) == 1
        and not layer.merged
        and not layer.disable_adapters
    )
