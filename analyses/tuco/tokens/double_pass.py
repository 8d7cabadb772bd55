"""P and F at every token at once: one judge forward, one clamped base forward, then arithmetic unit by unit.

Causality makes this exact: the contributions at a token are those of the prompt cut off after it,
so one double pass over prompt and completion gives what a double pass per prefix would. Writes are
formed at real tokens only, a few tokens at a time; only the models' own activations are ever held whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analyses.tuco.clamp import DoublePass, clamp, double_pass, to_numpy
from analyses.tuco.cuts import Unit
from analyses.tuco.evaluation import PLAIN, Evaluation
from analyses.tuco.gauge import Gauge
from analyses.tuco.shares import share
from workbench.errors import ParameterError
from workbench.hooks import Component, HooksBackend, Site
from workbench.tokens import TokenBatch

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_TOLERANCE_HALF = 5e-2
_CHUNK, _CHUNK_CPU = 512, 32
"""Tokens worked on at a time, so that P and F are never held whole; on a CPU, as many as stay in its cache."""

Where = tuple[int, slice | Tensor]
"""A row and some of its columns."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenShares:
    """What was measured at each chosen token of a batch: prompt by prompt, each from left to right."""

    alignment: Float[np.ndarray, " token"]
    """Cosine of P and F; NaN where one of them is zero."""
    finetuned_parts: Float[np.ndarray, "token unit"]
    """Signed parts of |F| by unit; they add up to it."""
    pretrained_parts: Float[np.ndarray, "token unit"]
    """Signed parts of |P| by unit; they add up to it."""
    finetuned_depth: Float[np.ndarray, "token unit"]
    """Norm of everything fine-tuning wrote up to and with each unit; the last is |F|."""
    pretrained_depth: Float[np.ndarray, "token unit"]
    """Norm of everything the base's weights wrote up to there; the last is |P|."""


def measure_tokens(
    judge: HooksBackend,
    base: HooksBackend,
    batch: TokenBatch,
    *,
    parts: Sequence[Unit],
    gauge: Gauge,
    chosen: Bool[Tensor, "prompt pos"] | None = None,
    how: Evaluation = PLAIN,
) -> TokenShares:
    """Measure shares, parts, alignment and profile at every chosen token of a batch.

    Args:
        judge: Executor of the fine-tuned model.
        base: Executor of the model before fine-tuning.
        batch: Prompts with their completions, left-padded.
        parts: Units from :func:`analyses.tuco.cuts.units`.
        gauge: Norm of the shares.
        chosen: Columns to measure; all real tokens by default. Padding is never measured.
        how: How outputs on the recorded stream are computed; of this the precision.

    Raises:
        ParameterError: The sub-layer writes don't add up to the stream, so that granularity would be wrong here.
    """
    streams = double_pass(judge, base, batch, parts=parts, how=how)
    wanted = batch.mask if chosen is None else batch.mask & chosen.to(batch.device)
    return _shares(streams, parts=parts, gauge=gauge, chosen=wanted, n_layers=judge.anatomy.n_layers)


def noise_of_tokens(
    judge: HooksBackend, batch: TokenBatch, *, parts: Sequence[Unit], gauge: Gauge, how: Evaluation = PLAIN
) -> float:
    """Return the TuCo that rounding alone produces over a prompt's tokens.

    The first prompt of the batch is run again on its own judge in another batch shape (alone; twice
    when it was alone) and clamped to the first run.
    """
    width = int(batch.lengths[0])
    row = batch.row(0)
    again = row
    if len(batch) == 1:
        again = TokenBatch(ids=row.ids.repeat(2, 1), mask=row.mask.repeat(2, 1), prompt_ids=row.prompt_ids * 2)
    run = double_pass(judge, judge, batch, parts=parts, how=how)
    inputs, own = ({site: value[:1, -width:] for site, value in side.items()} for side in (run.inputs, run.judge))
    copies = {site: value.expand(len(again), -1, -1) for site, value in inputs.items()}
    precise = Evaluation(float32=how.float32)
    outputs = clamp(judge, again, record=copies, read=list(own), column=None, how=precise)
    streams = DoublePass(inputs, own, {site: value[:1] for site, value in outputs.items()})
    found = _shares(streams, parts=parts, gauge=gauge, chosen=row.mask, n_layers=judge.anatomy.n_layers)
    sizes = (depth[:, -1:].sum(0) for depth in (found.finetuned_depth, found.pretrained_depth))
    return float(share(*sizes)[0])


def _shares(
    streams: DoublePass, *, parts: Sequence[Unit], gauge: Gauge, chosen: Bool[Tensor, "prompt pos"], n_layers: int
) -> TokenShares:
    summed = any(unit.component is not Component.RESID_POST for unit in parts)
    pieces: list[list[Tensor]] = []
    for where in _chunks(chosen):
        finetuned, pretrained = _writes(streams, where, parts=parts, gauge=gauge)
        totals = [writes.sum(0) for writes in (finetuned, pretrained)]
        if summed:
            _check_sum(streams, where, totals[0] + totals[1], gauge=gauge, n_layers=n_layers)
        found = [_cosine(*totals)]
        for writes, total in zip((finetuned, pretrained), totals, strict=True):
            found.append(torch.einsum("utd,td->tu", writes, gauge.direction(total)))
            found.append(gauge.norm(writes.cumsum_(0)).T)  # in place: the writes themselves aren't needed any more
        pieces.append(found)
    alignment, *by_unit = (to_numpy(torch.cat(column)) for column in zip(*pieces, strict=True))
    return TokenShares(
        alignment=alignment,
        finetuned_parts=by_unit[0],
        finetuned_depth=by_unit[1],
        pretrained_parts=by_unit[2],
        pretrained_depth=by_unit[3],
    )


def _chunks(chosen: Bool[Tensor, "prompt pos"]) -> Iterator[Where]:
    """Yield (row, columns) of a few chosen tokens at a time; neighbours as a slice, which copies nothing."""
    size = _CHUNK_CPU if chosen.device.type == "cpu" else _CHUNK
    if not bool(chosen.any()):
        yield 0, slice(0, 0)
    for row, mask in enumerate(chosen.cpu()):
        for part in mask.nonzero()[:, 0].split(size):
            if not len(part):
                continue
            first, last = int(part[0]), int(part[-1])
            yield (row, slice(first, last + 1)) if last - first + 1 == len(part) else (row, part)


def _writes(
    streams: DoublePass, where: Where, *, parts: Sequence[Unit], gauge: Gauge
) -> tuple[Float[Tensor, "unit token d_model"], Float[Tensor, "unit token d_model"]]:
    """Return every unit's F and P at some tokens, weighted as the gauge says, upcast before subtracting."""
    example = streams.judge[parts[0].end][where]
    finetuned, pretrained = (example.new_empty(len(parts), *example.shape, dtype=torch.float32) for _ in range(2))
    for k, unit in enumerate(parts):
        output = streams.base[unit.end][where].float()
        torch.sub(streams.judge[unit.end][where].float(), output, out=finetuned[k])
        if unit.component is Component.RESID_POST:
            torch.sub(output, streams.inputs[unit.start][where].float(), out=pretrained[k])
        else:
            pretrained[k] = output
    return gauge.weigh(finetuned), gauge.weigh(pretrained)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    sizes = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return torch.where(sizes > 0, torch.einsum("td,td->t", a, b) / sizes, torch.nan)


def _check_sum(streams: DoublePass, where: Where, total: Tensor, *, gauge: Gauge, n_layers: int) -> None:
    """Refuse when the writes don't lead from the embedding to the final stream; only sub-layer outputs can fail."""
    first, last = Site(Component.RESID_PRE, 0), Site(Component.RESID_POST, n_layers - 1)
    final = streams.judge[last][where].float()
    if not len(final):
        return
    error = (total - gauge.weigh(final - streams.inputs[first][where].float())).abs().max()
    relative = _TOLERANCE.get(streams.inputs[first].dtype, _TOLERANCE_HALF)
    tolerance = relative * gauge.weigh(final).abs().max().clamp(min=1.0)
    if error > tolerance:
        raise ParameterError(
            "the sub-layer outputs of this architecture don't add up to its residual stream.",
            argument="granularity",
            got=f"largest error {float(error):.3g}, tolerance {float(tolerance):.3g}",
            allowed="'block', 'model', or a number of blocks",
            fix="Use granularity='block'.",
        )
