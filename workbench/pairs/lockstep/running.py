"""One forward of both models in lockstep: fine-tuning's contribution scaled by alpha.

Nuti et al. 2025, Definition 5.1, and its local forms: per block, sub-layer, head or span of tokens.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from workbench.errors import ParameterError
from workbench.hooks.executor import entered, forward_kwargs, kept_logits
from workbench.hooks.observe import at_input
from workbench.pairs.lockstep.mixing import Blend, Half, Lockstep, exact_blend
from workbench.pairs.lockstep.scaling import Ends, Scaling, block_shares, check_scale
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
    with in_lockstep(pair, ends=ends, blend=exact_blend) as lockstep:
        outer, inner = lockstep.outer.module, lockstep.inner.module
        batch = at_input(outer, batch)
        lockstep.shares = block_shares(wanted, batch, pair=pair, ends=ends, step="prompt")
        if lockstep.needs_inner:
            lockstep.arguments = lockstep.inner.block_arguments(forward_kwargs(inner, batch, logits="last"))
        out = kept_logits(outer(**forward_kwargs(outer, batch, logits=logits)).logits, logits)
    if out is None:
        raise ParameterError("this model returns no logits.", argument="pair", got=type(outer).__name__)
    return out


@contextmanager
def in_lockstep(pair: Pair, *, ends: Ends, blend: Blend, grad: bool = False) -> Iterator[Lockstep]:
    """Enter both models, base first so that two callers can't wait for each other, and open their lockstep.

    Args:
        pair: Base and judge.
        ends: Which of them is the outer model.
        blend: How two writes are mixed.
        grad: Whether gradients are taken.

    Raises:
        ParameterError: ``ends`` is neither side.
    """
    other: Ends = "base" if ends == "judge" else "judge"
    outer, inner = Half(pair.module(ends), pair.anatomy(ends)), Half(pair.module(other), pair.anatomy(other))
    lockstep = Lockstep(outer, inner, blend=blend)
    with ExitStack() as stack:
        for module in (pair.base, pair.judge):
            stack.enter_context(entered(module, grad=grad))
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
