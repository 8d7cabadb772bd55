"""The same lockstep with one gate per write and token: derivatives in the gates attribute a verdict to places.

With every gate at alpha this is the alpha-scaled model, and the derivative of any reading V in gate
(l, t) is <dV/dx_{l+1,t}, FTC_{l,t}>: what fine-tuning's write at that place is worth there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import ParameterError
from workbench.hooks.observe import at_input
from workbench.pairs.lockstep.running import final_stream, in_lockstep, prepare
from workbench.pairs.lockstep.scaling import BlockShares, Ends
from workbench.pairs.pair import Pair
from workbench.tokens import TokenBatch


def gated_stream(
    pair: Pair,
    batch: TokenBatch,
    gates: Float[Tensor, "unit prompt pos"],
    *,
    ends: Ends = "judge",
    granularity: Literal["block", "sublayer"] = "block",
) -> Float[Tensor, "prompt pos d_model"]:
    """Return the stream after the last block, before the final norm, as a differentiable function of the gates.

    Args:
        pair: Base and judge; their parameters get no gradient, whether they ask for one or not.
        batch: Left-padded prompts.
        gates: Scale of fine-tuning's contribution at each write and token: one write per block, or with
            ``"sublayer"`` attention and MLP of each block in turn.
        ends: Whose embedding is used.
        granularity: What the gates sit on.

    Raises:
        ParameterError: There isn't one gate for every write, prompt and token, or the granularity is unknown.
    """
    if granularity not in ("block", "sublayer"):
        raise ParameterError("no such cut.", argument="granularity", got=granularity, allowed=("block", "sublayer"))
    per_block = 1 if granularity == "block" else 2
    expected = (per_block * pair.n_layers, *batch.ids.shape)
    if tuple(gates.shape) != expected:
        raise ParameterError("gates and batch differ.", argument="gates", got=tuple(gates.shape), allowed=str(expected))
    inner = 1.0 - gates if ends == "judge" else gates
    shares = tuple(
        BlockShares(whole=per_block == 1, attention=inner[start], mlp=inner[start + per_block - 1])
        for start in range(0, len(inner), per_block)
    )
    with in_lockstep(pair, ends=ends, differentiable=True) as lockstep, _frozen(pair.base, pair.judge):
        batch = at_input(lockstep.outer.module, batch)
        prepare(lockstep, batch, shares)
        return final_stream(lockstep.outer, batch)


@contextmanager
def _frozen(*modules: nn.Module) -> Iterator[None]:
    """Keep parameters out of the graph; what asked for a gradient asks for it again afterwards."""
    asking = list({id(p): p for module in modules for p in module.parameters() if p.requires_grad}.values())
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
