"""Both models in lockstep: the judge's forward with the base's blocks reading the same stream.

``x_{l+1} = (1 - alpha) base_l(x_l) + alpha judge_l(x_l)``: fine-tuning's contribution scaled by alpha
(Nuti et al. 2025, Definition 5.1), in the convex form that is exact to the bit at 0 and at 1. The
base's blocks get the base's own rotary tables, masks and windows, which its own forward makes.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import ParameterError
from workbench.hooks import Anatomy, forwards_replaced, module_lock
from workbench.pairs.pair import Pair
from workbench.tokens import TokenBatch

Ends = Literal["judge", "base"]


def scaled_logits(
    pair: Pair, batch: TokenBatch, *, alpha: float, ends: Ends = "judge"
) -> Float[Tensor, "prompt pos vocab"]:
    """Return the logits of the judge with fine-tuning's contribution scaled by ``alpha`` in every block.

    Args:
        pair: Base and judge; both are left as they were.
        batch: Left-padded prompts.
        alpha: 1 is the judge, 0 takes fine-tuning out of every block, above 1 amplifies it.
        ends: Whose embedding, final norm and head are used. With ``"base"`` and alpha 0 this is the base, bit for bit.

    Raises:
        ParameterError: ``alpha`` is negative or not finite, or ``ends`` is neither side.
    """
    if not 0 <= alpha < float("inf"):
        raise ParameterError("not a scale.", argument="alpha", got=alpha, allowed="0 or more")
    outer, inner = pair.module(ends), pair.module("base" if ends == "judge" else "judge")
    blocks = {"outer": _blocks(outer, pair.anatomy(ends)), "inner": _blocks(inner, _other(pair, ends))}
    weight = 1.0 - alpha if ends == "judge" else alpha
    batch = batch.to(pair.device)
    with torch.no_grad(), module_lock(outer), module_lock(inner):
        inputs = _block_inputs(inner, blocks["inner"], batch)
        with _mixed(blocks["outer"], blocks["inner"], inputs, weight=weight):
            return outer(**batch.forward_kwargs(), use_cache=False).logits


def _other(pair: Pair, ends: Ends) -> Anatomy:
    return pair.anatomy("base" if ends == "judge" else "judge")


def _blocks(module: nn.Module, anatomy: Anatomy) -> list[nn.Module]:
    return list(module.get_submodule(anatomy.blocks_path).children())


Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a model hands a block besides the stream: positional and keyword arguments."""


class _Inputs:
    """Remembers what a model hands each of its blocks."""

    def __init__(self) -> None:
        self.rest: list[Arguments] = []

    def note(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Stand in for a block: remember what came and pass the stream on."""
        self.rest.append((args, kwargs))
        return hidden_states


def _block_inputs(module: nn.Module, blocks: list[nn.Module], batch: TokenBatch) -> list[Arguments]:
    """Run the model with stand-ins for its blocks, which see the masks and rotary tables it makes."""
    seen = _Inputs()
    with forwards_replaced(blocks, seen.note):
        module(**batch.forward_kwargs(), use_cache=False)
    return seen.rest


@contextmanager
def _mixed(outer: list[nn.Module], inner: list[nn.Module], inputs: list[Arguments], *, weight: float) -> Iterator[None]:
    """While open, every outer block returns the mix of its own output and the inner block's on the same stream."""

    def mix(index: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            stream = args[0] if args else kwargs["hidden_states"]
            positional, named = inputs[index]
            other, own = _stream(inner[index](stream, *positional, **named)), _stream(output)
            mixed = _convex(own, other, weight=weight)
            return mixed if isinstance(output, Tensor) else (mixed, *output[1:])

        return hook

    with ExitStack() as stack:
        for index, block in enumerate(outer):
            handle = block.register_forward_hook(mix(index), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _convex(own: Tensor, other: Tensor, *, weight: float) -> Tensor:
    """Return ``(1 - weight) own + weight other``; in float32 between the ends, untouched at them."""
    if weight in (0.0, 1.0):
        return own if weight == 0.0 else other
    return ((1.0 - weight) * own.float() + weight * other.float()).to(own.dtype)


def _stream(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
