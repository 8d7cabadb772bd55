"""One point of a curve: the verdict a batch of prompts gets at one alpha."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.readout import LabelGap, read
from analyses.tuco.clamp import last_column, to_numpy
from analyses.tuco.prompts import readout_modules
from workbench.errors import ExecutorDisagreement
from workbench.hooks import Component, HooksBackend, Site, float32_blocks, weight_sharing_shadow
from workbench.pairs import Pair, Scaling, Side, identical_pair, scaled_logits
from workbench.tokens import TokenBatch


class Point(NamedTuple):
    """Verdict logits of a batch of prompts."""

    gap: Float[np.ndarray, "*curve prompt"]
    """Logit of A minus logit of B."""
    mass: Float[np.ndarray, "*curve prompt"]
    """Probability of A and B together."""


def read_point(logits: Float[Tensor, "prompt vocab"], *, ids: tuple[int, int]) -> Point:
    """Read verdicts off the logits at the last prompt token, in float64.

    Args:
        logits: Logits as the model gave them.
        ids: Token ids of A and B.
    """
    both = logits[:, list(ids)].double()
    mass = torch.log_softmax(logits.double(), dim=-1)[:, list(ids)].exp().sum(-1)
    return Point((both[:, 0] - both[:, 1]).cpu().numpy(), mass.cpu().numpy())


def own_point(executor: HooksBackend, batch: TokenBatch, *, ids: tuple[int, int]) -> Point:
    """Return the point of a model on its own.

    Args:
        executor: The model.
        batch: Left-padded prompts.
        ids: Token ids of A and B.
    """
    logits = executor.run(batch, logits="last").logits
    if logits is None:
        raise RuntimeError("the executor returned no logits")
    return read_point(logits, ids=ids)


def scaled_points(
    pair: Pair,
    batch: TokenBatch,
    *,
    scalings: Mapping[str, Scaling],
    alphas: Sequence[float],
    ends: Side,
    ids: tuple[int, int],
    own: Point,
) -> Float[np.ndarray, "number curve alpha prompt"]:
    """Return gap and mass (the first axis) of every curve at every alpha.

    Points that are one model, such as all curves' at alpha 1 with the judge elsewhere, are run once.

    Args:
        pair: Base and judge.
        batch: Left-padded prompts.
        scalings: What each curve scales; its own alpha is replaced by each value of the grid.
        alphas: The grid.
        ends: Whose embedding, final norm and head are used.
        ids: Token ids of A and B.
        own: Point of the model that ``ends`` names, which isn't run again where the curve reaches it.
    """
    seen = {Scaling(1.0 if ends == "judge" else 0.0): own}

    def point(scaling: Scaling) -> Point:
        if scaling not in seen:
            logits = scaled_logits(pair, batch, scaling=scaling, ends=ends, logits="last")
            seen[scaling] = read_point(logits, ids=ids)
        return seen[scaling]

    rows = [[point(at_alpha(scaling, alpha)) for alpha in alphas] for scaling in scalings.values()]
    return np.array([[[p.gap for p in row] for row in rows], [[p.mass for p in row] for row in rows]])


def at_alpha(scaling: Scaling, alpha: float) -> Scaling:
    """Return a curve's scaling at one alpha, in its simplest form, so that equal models are equal scalings.

    Cut at sub-layers, one scale everywhere is the block's scale only where it is 0 or 1: between, the base's MLP
    reads another stream.
    """
    moved = dataclasses.replace(scaling, alpha=float(alpha))
    blocks = moved.component is Component.RESID_POST
    everywhere = blocks and moved.layers is None and moved.spans is None
    same = moved.alpha == moved.elsewhere and (blocks or moved.alpha in (0.0, 1.0))
    return Scaling(float(alpha)) if everywhere or same else moved


def check_ends(pair: Pair, batch: TokenBatch, *, ids: tuple[int, int]) -> None:
    """Refuse a lockstep whose ends aren't the two models to the bit.

    Args:
        pair: Base and judge.
        batch: A few prompts.
        ids: Token ids of A and B.

    Raises:
        ExecutorDisagreement: Alpha 1 isn't the judge, or alpha 0 with the base's ends isn't the base.
    """
    ends: tuple[tuple[float, Side], ...] = ((1.0, "judge"), (0.0, "base"))
    for alpha, side in ends:
        own = own_point(pair.executor(side), batch, ids=ids).gap
        scaled = read_point(scaled_logits(pair, batch, alpha=alpha, ends=side, logits="last"), ids=ids).gap
        if not np.array_equal(own, scaled):
            raise ExecutorDisagreement(
                f"alpha {alpha:g} isn't the {side}, so that a curve between the two can't be trusted.",
                argument="pair",
                got=f"gaps differ by up to {np.abs(own - scaled).max():.3g} logits where 0 was due",
                fix="Use deterministic kernels (torch.use_deterministic_algorithms) or attention='eager'.",
            )


def noise_gap(pair: Pair, batch: TokenBatch, *, alphas: Sequence[float], ids: tuple[int, int]) -> float:
    """Return how far rounding alone moves a gap, logits.

    The judge is scaled against a copy of itself, where every alpha is due to change nothing; each prompt is run on
    its own, in another batch shape; and half-precision blocks are run in float32.

    Args:
        pair: The real pair.
        batch: A few prompts.
        alphas: The grid.
        ids: Token ids of A and B.

    Raises:
        ParameterError: Half-precision blocks hold quantised weights, which have no float32 copy.
    """
    executor = pair.executor("judge")
    own = own_point(executor, batch, ids=ids)
    twin = identical_pair(pair).with_judge(weight_sharing_shadow(pair.judge), name="a copy of the judge")
    mixed = scaled_points(twin, batch, scalings={"": Scaling()}, alphas=alphas, ends="judge", ids=ids, own=own)[0, 0]
    alone = [own_point(executor, batch.row(row), ids=ids).gap[0] for row in range(len(batch))]
    others = [mixed, np.array([alone])]
    if pair.dtype.itemsize < torch.float32.itemsize:
        others.append(_float32_gap(executor, batch, ids=ids)[None])
    return float(np.abs(np.concatenate(others) - own.gap).max())


def _float32_gap(executor: HooksBackend, batch: TokenBatch, *, ids: tuple[int, int]) -> Float[np.ndarray, " prompt"]:
    last = Site(Component.RESID_POST, executor.anatomy.n_layers - 1)
    with float32_blocks(executor):
        run = executor.run(batch, capture=[last], positions=last_column(batch), logits="none", stop_after=last)
    return to_numpy(read(*readout_modules(executor), run.activations[last][:, 0], readout=LabelGap(*ids)))
