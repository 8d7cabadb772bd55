"""Run a half-precision model's blocks in float32 on the streams it is given, one block at a time.

Rounding a block's output to bfloat16 costs up to 1/256 of the *stream*, which can be far more than
what fine-tuning wrote. Computed in float32 from the same weights and the same half-precision
stream, the output of a block is right to about 1e-7, and only one block is ever held in float32.

Falsified if a clamped run inside doesn't agree with the same run of a float64 copy of the model.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import ParameterError
from workbench.hooks.anatomy import module_lock
from workbench.hooks.torch_backend import HooksBackend


@contextmanager
def float32_blocks(executor: HooksBackend) -> Iterator[None]:
    """While open, every block of the model computes in float32 and hands float32 on.

    Only sites inside blocks are meaningful: norm and unembedding keep their own type. Weights are
    put back bit for bit after each block, whatever happens.

    Args:
        executor: Whose model is entered; it must be the only one running it.

    Raises:
        ParameterError: The blocks hold quantised weights, which have no float32 copy.
    """
    module, anatomy = executor.module, executor.anatomy
    blocks = list(module.get_submodule(anatomy.blocks_path).children())
    _check_float(blocks)
    with ExitStack() as stack:
        stack.enter_context(module_lock(module))
        widened = _Widened()
        stack.callback(widened.restore)
        for child in module.modules():
            if "Rotary" in type(child).__name__:
                _attach(stack, child.register_forward_pre_hook(_widen_inputs, with_kwargs=True))
        for block in blocks:
            # First in, so that edits of the stream that enters the block are made in float32 too.
            _attach(stack, block.register_forward_pre_hook(widened.enter, with_kwargs=True, prepend=True))
            _attach(stack, block.register_forward_hook(widened.leave))
        yield


class _Widened:
    """Holds the half-precision tensors of the block that runs."""

    def __init__(self) -> None:
        self._own: list[tuple[Tensor, Tensor]] = []

    def enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.restore()
        for tensor in (*block.parameters(), *block.buffers()):
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                self._own.append((tensor, tensor.data))
                tensor.data = tensor.data.float()
        return _widen_inputs(block, args, kwargs)

    def leave(self, _block: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        self.restore()

    def restore(self) -> None:
        for tensor, data in self._own:
            tensor.data = data
        self._own.clear()


def _widen_inputs(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return tuple(_wide(value) for value in args), {name: _wide(value) for name, value in kwargs.items()}


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_wide(entry) for entry in value)
    if isinstance(value, Mapping):
        return {name: _wide(entry) for name, entry in value.items()}
    return value


def _attach(stack: ExitStack, handle: torch.utils.hooks.RemovableHandle) -> None:
    stack.callback(handle.remove)


def _check_float(blocks: list[nn.Module]) -> None:
    for block in blocks:
        for name, parameter in block.named_parameters():
            coded = not parameter.is_floating_point() or hasattr(parameter, "__tensor_flatten__")
            if coded or parameter.is_meta or parameter.dtype.itemsize < 2:
                raise ParameterError(
                    "quantised and offloaded weights have no float32 copy.",
                    argument="precision",
                    got=f"{name}: {parameter.dtype}",
                    allowed="'model'",
                    fix="Pass precision='model', or load the pair without quantisation.",
                )
