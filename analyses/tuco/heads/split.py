"""One batch: what fine-tuning's change of each head, source token and neuron pushed the verdict by.

Both models read the judge's own stream (the clamp of :mod:`analyses.tuco.clamp` at sub-layer
granularity); ``w`` is the frozen verdict direction at the last prompt token. With ``u_h`` the slope of
the verdict gap in the head's values through a model's own output projection,

    push_h = <z_h^judge, u_h^judge> - <z_h^base, u_h^base>,   z_h = sum_s pattern_h[s] value_h[s].

Heads, biases and MLPs add up to the push of fine-tuning; with P, the embedding and the bias to the gap.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from analyses.readout import FrozenReadout, Readout, frozen_readout
from analyses.tuco.heads.glimpse import Glimpse, look, record_judge
from analyses.tuco.heads.projections import Projection, Slope
from workbench.errors import ParameterError
from workbench.hooks import Component, HooksBackend, Site
from workbench.tokens import TokenBatch

PARTS = ("pattern", "value", "output")
"""What a head's change is split into: where it looks (queries and keys), what it takes, and how that is written."""

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
_HALF_TOLERANCE = 5e-2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadSplit:
    """Pushes on the verdict gap (or whatever number is read) of one batch, in its unit, float64."""

    judge_gap: Float[Tensor, " prompt"]
    """The judge's own gap."""
    embedding_push: Float[Tensor, " prompt"]
    """Part of the gap the token embedding wrote."""
    bias_push: Float[Tensor, " prompt"]
    """Part no stream decides."""
    pretrained_push: Float[Tensor, "prompt layer sublayer"]
    """P of attention and MLP."""
    head_push: Float[Tensor, "prompt layer head"]
    """F of each head."""
    pretrained_head_push: Float[Tensor, "prompt layer head"]
    """What the base's head would have pushed on the same stream."""
    region_push: Float[Tensor, "prompt layer head region"]
    """F of each head by the region of the tokens it takes from."""
    part_push: Float[Tensor, "prompt layer head part"]
    """F of each head by what changed; Shapley values over ``PARTS``."""
    attention_bias_push: Float[Tensor, "prompt layer"]
    """F of the output projection's bias (and a post-norm's offset)."""
    mlp_push: Float[Tensor, "prompt layer"]
    """F of the MLP, its bias included."""
    mlp_bias_push: Float[Tensor, "prompt layer"]
    """F of the down projection's bias; NaN where neurons weren't split."""
    neurons: tuple[Float[Tensor, "prompt d_mlp"], ...]
    """F of each neuron, layer by layer; empty when not asked for."""
    closing_error: float
    """Largest distance between a sub-layer's own write and the sum of its parts, along w."""
    region_error: float
    """Largest distance between a head's push and the sum over its regions."""


def split_batch(
    judge: HooksBackend,
    base: HooksBackend,
    batch: TokenBatch,
    *,
    readout: Readout,
    regions: Int[Tensor, "prompt pos"],
    n_regions: int,
    neurons: bool,
    float32: bool = False,
) -> tuple[HeadSplit, Glimpse, Glimpse]:
    """Run both models on the judge's stream and split what fine-tuning pushed.

    Args:
        judge: Executor of the fine-tuned model.
        base: Executor of the model before fine-tuning.
        batch: Prompts, left-padded.
        readout: What is read at the last token.
        regions: Region of every column; -1 on padding.
        n_regions: Number of regions.
        neurons: Whether to split MLPs among their neurons.
        float32: Whether the blocks of half-precision models compute in float32 on the judge's stream as it is.

    Returns:
        The split, and what the judge and the clamped base showed.

    Raises:
        ParameterError: The parts don't add up to the gap in this architecture, or its attention can't be seen.
    """
    side = record_judge(judge, batch, neurons=neurons, float32=float32)
    other = look(base, batch, neurons=neurons, record=side.record, float32=float32)
    frozen = _frozen(judge, side.final, readout)
    work = _Layers(side.seen, other, frozen.direction, one_hot(regions + 1, n_regions + 1)[..., 1:])
    for layer in range(judge.anatomy.n_layers):
        work.attention(layer, judge, base)
        work.mlp(layer, judge, base, neurons=neurons)
    embedded = side.record[Site(Component.RESID_PRE, 0)][:, -1]
    found = HeadSplit(
        judge_gap=frozen.gap,
        embedding_push=_along(embedded, frozen.direction),
        bias_push=frozen.bias,
        neurons=tuple(work.neurons),
        closing_error=work.closing_error,
        region_error=work.region_error,
        **{name: torch.stack(rows, dim=1) for name, rows in work.rows.items()},
    )
    _check_sum(found, scale=_size(side.final, frozen.direction), dtype=side.final.dtype)
    return found, side.seen, other


def rounding_push(judge: HooksBackend, batch: TokenBatch, *, readout: Readout, float32: bool = False) -> float:
    """Return the largest push of a head that rounding alone makes: the judge against itself in another batch shape.

    Args:
        judge: Executor of the fine-tuned model.
        batch: Two prompts or more; the shortest is run again alone, on the same stream.
        readout: What is read at the last token.
        float32: See :func:`split_batch`.
    """
    side = record_judge(judge, batch, neurons=False, float32=float32)
    index = int(batch.lengths.argmin())
    width = int(batch.lengths[index])
    record = {site: value[index : index + 1, -width:] for site, value in side.record.items()}
    alone = look(judge, batch.row(index), neurons=False, record=record, float32=float32)
    direction = _frozen(judge, side.final, readout).direction[index : index + 1]
    work = _Layers(side.seen.row(index, width=width), alone, direction, torch.ones(1, width, 1, device=batch.device))
    for layer in range(judge.anatomy.n_layers):
        work.attention(layer, judge, judge)
    return float(torch.stack(work.rows["head_push"]).abs().max())


def _frozen(judge: HooksBackend, final: Tensor, readout: Readout) -> FrozenReadout:
    anatomy = judge.anatomy
    norm, head = (judge.module.get_submodule(path) for path in (anatomy.final_norm, anatomy.unembed))
    with torch.no_grad():
        return frozen_readout(norm, head, final.float(), readout=readout)


class _Layers:
    """Collects rows of the split layer by layer."""

    def __init__(self, own: Glimpse, other: Glimpse, direction: Tensor, regions: Tensor) -> None:
        self.own, self.other = own, other
        self.direction, self.regions = direction, regions.double()
        self.rows: dict[str, list[Tensor]] = {}
        self.neurons: list[Tensor] = []
        self.closing_error = self.region_error = 0.0

    def attention(self, layer: int, judge: HooksBackend, base: HooksBackend) -> None:
        """Split attention of a layer by head, source region and kind of change."""
        site = Site(Component.Z, layer)
        slopes = [self._slope(side, model, site) for side, model in ((self.own, judge), (self.other, base))]
        z = [side.attention.z[layer][:, 0].double().to(self.direction.device) for side in (self.own, self.other)]
        u = [slope.slope.unflatten(-1, z[0].shape[1:]) for slope in slopes]
        pushes = [(a * b).sum(-1) for a, b in zip(z, u, strict=True)]
        corners, by_region = self._corners(layer, u)
        pushed = pushes[0] - pushes[1]
        self._add("head_push", pushed)
        self._add("pretrained_head_push", pushes[1])
        self._add("part_push", _shapley(corners))
        self._add("region_push", by_region)
        self._add("attention_bias_push", slopes[0].constant - slopes[1].constant)
        self.region_error = max(self.region_error, float((by_region.sum(-1) - pushed).abs().max()))

    def mlp(self, layer: int, judge: HooksBackend, base: HooksBackend, *, neurons: bool) -> None:
        """Read what the MLP of a layer pushed, and split it among its neurons where asked."""
        site, hidden = Site(Component.MLP_OUT, layer), Site(Component.NEURONS, layer)
        writes = [_along(side.last[site], self.direction) for side in (self.own, self.other)]
        attention = _along(self.other.last[Site(Component.ATTN_OUT, layer)], self.direction)
        self._add("pretrained_push", torch.stack([attention, writes[1]], dim=-1))
        self._add("mlp_push", writes[0] - writes[1])
        bias = torch.full_like(writes[0], float("nan"))
        if neurons:
            sides = ((self.own, judge), (self.other, base))
            slopes = [self._slope(side, model, hidden) for side, model in sides]
            values = [side.last[hidden].double().to(self.direction.device) for side, _ in sides]
            self.neurons.append(values[0] * slopes[0].slope - values[1] * slopes[1].slope)
            bias = slopes[0].constant - slopes[1].constant
        self._add("mlp_bias_push", bias)

    def _slope(self, side: Glimpse, model: HooksBackend, site: Site) -> Slope:
        """Return the slope of the gap in a layer's heads or neurons, checked against the sub-layer's own write."""
        heads = site.component is Component.Z
        inputs = side.attention.z[site.layer][:, 0].flatten(1) if heads else side.last[site]
        found = Projection.of(model, site, dtype=inputs.dtype).along(inputs, self.direction)
        found = Slope(slope=found.slope.to(self.direction.device), constant=found.constant.to(self.direction.device))
        write = side.last[Site(Component.ATTN_OUT if heads else Component.MLP_OUT, site.layer)]
        whole = (inputs.double().to(found.slope.device) * found.slope).sum(-1) + found.constant
        error = float((whole - _along(write, self.direction)).abs().max())
        if not error <= _tolerance(write.dtype) * _size(write, self.direction):
            raise ParameterError(
                f"what {site} hands to its projection isn't all this sub-layer writes, so it can't be split.",
                argument="pair",
                got=f"{error:.3g} logits are missing",
                fix="Use tuco.run(granularity='sublayer'), which needs no such split.",
            )
        self.closing_error = max(self.closing_error, error)
        return found

    def _corners(self, layer: int, u: list[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the push with pattern, values and output from judge (1) or base (0), and F by source region."""
        sides = [side.attention for side in (self.other, self.own)]
        device = self.direction.device
        patterns = [side.patterns[layer][:, :, 0].double().to(device) for side in sides]
        values = [side.values[layer].double().to(device) for side in sides]
        slopes = [u[1], u[0]]
        taken = {
            f"{v}{o}": torch.einsum(
                "bskd,bkgd->bkgs", values[v], slopes[o].unflatten(1, (values[v].shape[2], -1))
            ).flatten(1, 2)
            for v in (0, 1)
            for o in (0, 1)
        }
        corners = {f"{p}{key}": (patterns[p] * t).sum(-1) for p in (0, 1) for key, t in taken.items()}
        tokens = patterns[1] * taken["11"] - patterns[0] * taken["00"]
        return corners, torch.einsum("bhs,bsr->bhr", tokens, self.regions.to(device))

    def _add(self, name: str, row: Tensor) -> None:
        self.rows.setdefault(name, []).append(row)


def _shapley(corners: Mapping[str, Float[Tensor, "prompt head"]]) -> Float[Tensor, "prompt head part"]:
    """Average each change's effect over the six orders in which the three can happen; they add up to 111 - 000."""

    def effect(player: int) -> Tensor:
        total = torch.zeros_like(corners["000"])
        first, second = (i for i in range(3) if i != player)
        for a in "01":
            for b in "01":
                key = {first: a, second: b}
                with_it, without = ("".join(key.get(i, state) for i in range(3)) for state in ("1", "0"))
                total = total + (corners[with_it] - corners[without]) / (3.0 if a == b else 6.0)
        return total

    return torch.stack([effect(player) for player in range(3)], dim=-1)


def _along(write: Tensor, direction: Tensor) -> Tensor:
    return (write.double().to(direction.device) * direction).sum(-1)


def _size(write: Tensor, direction: Tensor) -> float:
    sizes = write.double().norm(dim=-1).to(direction.device) * direction.norm(dim=-1)
    return float(sizes.max().clamp(min=1e-12))


def _tolerance(dtype: torch.dtype) -> float:
    return _TOLERANCE.get(dtype, _HALF_TOLERANCE)


def _check_sum(found: HeadSplit, *, scale: float, dtype: torch.dtype) -> None:
    """Refuse when embedding, P, F and bias aren't the gap; a multiplier between write and stream makes it so."""
    finetuned = found.head_push.sum((1, 2)) + (found.attention_bias_push + found.mlp_push).sum(1)
    total = found.embedding_push + found.bias_push + found.pretrained_push.sum((1, 2)) + finetuned
    error = float((total - found.judge_gap).abs().max())
    if not error <= _tolerance(dtype) * scale:
        raise ParameterError(
            "the sub-layer outputs of this architecture don't add up to its residual stream.",
            argument="pair",
            got=f"largest error {error:.3g} logits",
            fix="Use tuco.run(granularity='block').",
        )
