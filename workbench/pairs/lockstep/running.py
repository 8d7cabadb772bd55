"""One forward of both models in lockstep: fine-tuning's contribution scaled by alpha.

Nuti et al. 2025, Definition 5.1, and its local forms: per block, sub-layer, head or span of tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import ParameterError
from workbench.hooks.executor import entered, forward_kwargs, kept_logits
from workbench.hooks.heads import StopForward, forward_logits
from workbench.hooks.observe import at_input
from workbench.hooks.ports import first
from workbench.pairs.lockstep.mixing import Half, Lockstep
from workbench.pairs.lockstep.scaling import BlockShares, Ends, Scaling, block_shares, check_scale
from workbench.pairs.pair import Pair
from workbench.tokens import TokenBatch


def scaled_logits(
    pair: Pair,
    batch: TokenBatch,
    *,
    alpha: float | None = None,
    scaling: Scaling | None = None,
    ends: Ends = "judge",
    logits: Literal["all", "last"] = "all",
) -> Float[Tensor, "prompt *pos vocab"]:
    """Return the logits of the judge with fine-tuning's contribution scaled.

    Args:
        pair: Base and judge; both are left as they were.
        batch: Left-padded prompts.
        alpha: Scale in every block: 1 is the judge, 0 takes fine-tuning out, above 1 amplifies it.
        scaling: In place of ``alpha``: what is scaled where. Where the local scale is exactly 0 or 1 the base's or
            the judge's own write is taken, bit for bit.
        ends: Whose embedding, final norm and head are used. With ``"base"`` and alpha 0 this is the base, bit for bit.
        logits: ``"all"`` for every column, ``"last"`` for ``[prompt vocab]`` of the last one.

    Raises:
        ParameterError: Not exactly one of ``alpha`` and ``scaling`` is given, a scale or ``ends`` isn't allowed, or
            the pair has no such block, sub-layer, head or span.
    """
    if logits not in ("all", "last"):
        raise ParameterError("unknown choice.", argument="logits", got=logits, allowed=("all", "last"))
    wanted = _wanted(alpha, scaling)
    with in_lockstep(pair, ends=ends) as lockstep:
        outer = lockstep.outer.module
        batch = at_input(outer, batch)
        prepare(lockstep, batch, block_shares(wanted, batch, pair=pair, ends=ends, step="prompt"))
        out = kept_logits(forward_logits(outer, forward_kwargs(outer, batch, logits=logits)), logits)
    if out is None:
        raise ParameterError("this model returns no logits.", argument="pair", got=type(outer).__name__)
    return out


def scaled_stream(
    pair: Pair, batch: TokenBatch, *, scaling: Scaling, ends: Ends = "judge"
) -> Float[Tensor, "prompt pos d_model"]:
    """Return the stream after the last block, before the final norm, with fine-tuning's contribution scaled.

    Args:
        pair: Base and judge; both are left as they were.
        batch: Left-padded prompts.
        scaling: What is scaled where.
        ends: Whose embedding is used.

    Raises:
        ParameterError: ``ends`` isn't allowed, or the pair has no such block, sub-layer, head or span.
    """
    with in_lockstep(pair, ends=ends) as lockstep:
        batch = at_input(lockstep.outer.module, batch)
        prepare(lockstep, batch, block_shares(scaling, batch, pair=pair, ends=ends, step="prompt"))
        return final_stream(lockstep.outer, batch)


def prepare(lockstep: Lockstep, batch: TokenBatch, shares: Sequence[BlockShares]) -> None:
    """Set the shares of the forward that comes next, and ask the inner model for its masks and tables.

    Args:
        lockstep: Open lockstep.
        batch: Prompts of that forward.
        shares: The inner model's share in every block.
    """
    lockstep.shares = shares
    if lockstep.needs_inner:
        kwargs = forward_kwargs(lockstep.inner.module, batch, logits="last")
        lockstep.arguments = lockstep.inner.block_arguments(kwargs)


def final_stream(half: Half, batch: TokenBatch) -> Float[Tensor, "prompt pos d_model"]:
    """Run a model up to the end of its last block and return its stream there.

    Args:
        half: The outer model of an open lockstep.
        batch: Left-padded prompts, where the model takes its ids.
    """
    caught: list[Tensor] = []

    def catch(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        caught.append(first(output))
        raise StopForward

    handle = half.blocks[-1].register_forward_hook(catch)
    try:
        half.module(**forward_kwargs(half.module, batch, logits="last"))
    except StopForward:
        pass
    finally:
        handle.remove()
    return caught[0]


@contextmanager
def in_lockstep(pair: Pair, *, ends: Ends, differentiable: bool = False) -> Iterator[Lockstep]:
    """Enter both models, base first so that two callers can't wait for each other, and open their lockstep.

    Args:
        pair: Base and judge.
        ends: Which of them is the outer model.
        differentiable: Whether gradients in the shares are taken.

    Raises:
        ParameterError: ``ends`` is neither side.
    """
    other: Ends = "base" if ends == "judge" else "judge"
    outer, inner = Half(pair.module(ends), pair.anatomy(ends)), Half(pair.module(other), pair.anatomy(other))
    lockstep = Lockstep(outer, inner, differentiable=differentiable)
    with ExitStack() as stack:
        for module in (pair.base, pair.judge):
            stack.enter_context(entered(module, grad=differentiable))
        stack.enter_context(lockstep.open())
        yield lockstep


def _wanted(alpha: float | None, scaling: Scaling | None) -> Scaling:
    if (alpha is None) == (scaling is None):
        raise ParameterError(
            "give one of `alpha` and `scaling`.", argument="alpha", got={"alpha": alpha, "scaling": scaling}
        )
    if scaling is not None:
        return scaling
    check_scale(alpha or 0.0, argument="alpha")
    return Scaling(alpha or 0.0)
