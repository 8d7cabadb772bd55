"""Path attribution of one batch: gate gradients integrated over alpha, and what lies outside the path.

    V(1) - V(0) = sum_{l,t} int_0^1 <dV/dx_{l+1,t}, FTC_{l,t}> d alpha

with V(alpha) the number read (the verdict logit gap) of the alpha-scaled model under the judge's embedding, norm
and head.
The rule is doubled, prompt by prompt, until the sum is the change to within the tolerance; points
already evaluated are kept. V(0) still isn't the base's gap: the judge's embedding and its norm and
head make up the rest, split between the two over both orders of exchanging them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.readout import Readout, read
from analyses.tuco.clamp import to_numpy
from analyses.tuco.paths.quadrature import position, rule
from analyses.tuco.prompts import readout_modules
from workbench.pairs import Pair, Scaling, Side, gated_stream, scaled_stream
from workbench.tokens import TokenBatch

Cut = Literal["block", "sublayer"]
"""What fine-tuning is scaled on along the path: whole blocks, or attention and MLP apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """When a prompt's integral is good enough."""

    nodes: int
    """Intervals of the first rule."""
    max_nodes: int
    """Intervals of the last one tried."""
    tolerance: float
    """Largest completeness error, of the change or of one unit (logit), whichever is larger."""
    noise: float = 0.0
    """What rounding alone changes the number by: no integral can be closer to it."""
    half: bool = False
    """Whether the models run in half precision, where an error that doubling doesn't halve is rounding's."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ends:
    """What is read at both ends of the path, and the two parts of its change that lie outside it."""

    judge_gap: Float[np.ndarray, " prompt"]
    """V(1): what is read from the judge, before any logit cap."""
    base_gap: Float[np.ndarray, " prompt"]
    """What is read from the base."""
    embedding: Float[np.ndarray, " prompt"]
    """What exchanging the base's embedding for the judge's changes, in a model of the base's blocks."""
    head: Float[np.ndarray, " prompt"]
    """What exchanging the final norm and head changes there."""

    @property
    def change(self) -> Float[np.ndarray, " prompt"]:
        """Return V(1) - V(0)."""
        return self.judge_gap - self.base_gap - self.embedding - self.head


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attribution:
    """The integrals of one batch."""

    by_token: Float[np.ndarray, "prompt unit pos"]
    """Attribution of every write and token; 0 on padding."""
    completeness_error: Float[np.ndarray, " prompt"]
    """Sum minus change, over the change's size or one unit, whichever is larger."""
    nodes: Int[np.ndarray, " prompt"]
    """Intervals of the rule each prompt ended with."""


def measure_ends(pair: Pair, batch: TokenBatch, *, readout: Readout) -> Ends:
    """Return what is read at both ends, and the parts of embedding, norm and head.

    Args:
        pair: Base and judge.
        batch: Prompts, left-padded.
        readout: What is read.
    """

    def last(alpha: float, side: Side) -> Tensor:
        return scaled_stream(pair, batch, scaling=Scaling(alpha), ends=side)[:, -1]

    def gap(side: Side, stream: Tensor) -> np.ndarray:
        return to_numpy(read(*readout_modules(pair.executor(side)), stream, readout=readout))

    neither, embedded = last(0.0, "base"), last(0.0, "judge")
    base, headed = gap("base", neither), gap("judge", neither)
    moved, both = gap("base", embedded), gap("judge", embedded)
    return Ends(
        judge_gap=gap("judge", last(1.0, "judge")),
        base_gap=base,
        embedding=((moved - base) + (both - headed)) / 2,
        head=((headed - base) + (both - moved)) / 2,
    )


def read_under(pair: Pair, batch: TokenBatch, *, scaling: Scaling, readout: Readout) -> Float[np.ndarray, " prompt"]:
    """Return what is read under a scaling, with the judge's embedding, norm and head.

    Args:
        pair: Base and judge.
        batch: Prompts, left-padded.
        scaling: What is scaled where.
        readout: What is read.
    """
    stream = scaled_stream(pair, batch, scaling=scaling)[:, -1]
    return to_numpy(read(*readout_modules(pair.executor("judge")), stream, readout=readout))


def attribute(
    pair: Pair,
    batch: TokenBatch,
    *,
    change: Float[np.ndarray, " prompt"],
    readout: Readout,
    cut: Cut,
    precision: Precision,
) -> Attribution:
    """Integrate the gate gradients of every write and token of a batch.

    Args:
        pair: Base and judge.
        batch: Prompts, left-padded.
        change: V(1) - V(0) of each prompt, measured apart.
        readout: What is read.
        cut: What the gates sit on.
        precision: When a prompt is done.
    """
    n, width = batch.ids.shape
    units = pair.n_layers * (1 if cut == "block" else 2)
    found = np.zeros((n, units, width))
    errors, nodes = np.zeros(n), np.zeros(n, dtype=int)
    path, rows, intervals = _Path(pair, batch, readout=readout, cut=cut), np.arange(n), precision.nodes
    while True:
        sums = path.integral(intervals)
        found[rows, :, width - sums.shape[-1] :] = sums
        size, before = np.maximum(1.0, np.abs(change[rows])), errors[rows]
        errors[rows] = (sums.sum((1, 2)) - change[rows]) / size
        nodes[rows] = intervals
        open_ = np.abs(errors[rows]) * size > np.maximum(precision.tolerance * size, precision.noise)
        if precision.half and intervals > precision.nodes:
            open_ &= np.abs(errors[rows]) < np.abs(before) / 2
        left = np.flatnonzero(open_)
        intervals *= 2
        if not len(left) or intervals > precision.max_nodes:
            return Attribution(by_token=found, completeness_error=errors, nodes=nodes)
        path, rows = path.only(left.tolist()), rows[left]


class _Path:
    """Gate gradients of some prompts at the points of the path looked at so far."""

    def __init__(self, pair: Pair, batch: TokenBatch, *, readout: Readout, cut: Cut) -> None:
        self.pair, self.batch, self.readout = pair, batch, readout
        self.cut: Cut = cut
        self.seen: dict[Fraction, Float[np.ndarray, "prompt unit pos"]] = {}

    def integral(self, intervals: int) -> Float[np.ndarray, "prompt unit pos"]:
        """Return the rule's weighted sum, evaluating only points not seen before."""
        weights = rule(intervals)
        for point in weights:
            if point not in self.seen:
                self.seen[point] = self._gradient(position(point))
        first, *rest = weights
        total = weights[first] * self.seen[first].astype(np.float64)
        for point in rest:
            total += weights[point] * self.seen[point]
        return total

    def only(self, indices: Sequence[int]) -> "_Path":
        """Return the same path for some of the prompts."""
        fewer = _Path(self.pair, self.batch.select(indices), readout=self.readout, cut=self.cut)
        width = fewer.batch.ids.shape[1]
        fewer.seen = {point: values[list(indices)][..., -width:] for point, values in self.seen.items()}
        return fewer

    def _gradient(self, alpha: float) -> np.ndarray:
        units = self.pair.n_layers * (1 if self.cut == "block" else 2)
        gates = torch.full(
            (units, *self.batch.ids.shape), alpha, dtype=torch.float32, device=self.batch.device, requires_grad=True
        )
        stream = gated_stream(self.pair, self.batch, gates, granularity=self.cut)
        with torch.enable_grad():
            norm, head = readout_modules(self.pair.executor("judge"))
            value = self.readout.of_normed(head, norm(stream[:, -1]))
            (slope,) = torch.autograd.grad(value.sum(), gates)
        return slope.transpose(0, 1).cpu().numpy()
