"""Everything TuCo reads off one batch of prompts: shares, profile, and the signed split of the verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analyses.readout import (
    FrozenReadout,
    Readout,
    frozen_readout,
    read,
)
from analyses.tuco import shares
from analyses.tuco.clamp import (
    Contributions,
    FreeEnds,
    JudgeSide,
    clamp,
    contributions,
    free_ends,
    judge_side,
    last_column,
    to_numpy,
)
from analyses.tuco.cuts import Unit
from analyses.tuco.evaluation import PLAIN, Evaluation
from analyses.tuco.gauge import Gauge
from analyses.tuco.shares import NORMS, Norm
from workbench.hooks import Component, HooksBackend, Patch, Site
from workbench.tokens import TokenBatch

Row = dict[str, Float[np.ndarray, "prompt *unit"]]
"""Measured quantities by field name of ``TucoResult``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What is measured on every batch, and how."""

    parts: tuple[Unit, ...]
    """How the network is cut."""
    norm: Norm
    """Norm of the shares."""
    readout: Readout | None = None
    """What is split into signed parts; None for no split."""
    free_base: bool
    """Whether the base also runs freely, for OutputCo, its own number and the embedding change."""
    how: Evaluation = PLAIN
    """How outputs on the recorded stream are computed."""


class Measured(NamedTuple):
    """One batch's quantities, and the writes a following intervention needs."""

    row: Row
    """Quantities by field name."""
    found: Contributions
    """Writes of the batch."""


def measure_prompts(
    judge: HooksBackend, base: HooksBackend, batch: TokenBatch, *, choices: Choices, side: JudgeSide | None = None
) -> Measured:
    """Measure one batch: shares (step 4), free base run (step 5) and signed split (step 6).

    Args:
        judge: Executor of the fine-tuned model.
        base: Executor of the model before fine-tuning.
        batch: Prompts, left-padded.
        choices: What to measure.
        side: The judge's part, when it was run before; then only its final norm and head are used.
    """
    side = judge_side(judge, batch, parts=choices.parts, how=choices.how) if side is None else side
    found = contributions(side, base, batch, parts=choices.parts, how=choices.how)
    row = share_quantities(found, norm=choices.norm, weigh=as_logits_see(judge))
    change = torch.zeros_like(found.embedded)
    if choices.free_base:
        free = free_ends(base, batch, how=choices.how)
        change = found.embedded - free.embedded.to(found.embedded.device)
        row |= _output_quantities(side.own_final, free, norm=choices.norm, weigh=as_logits_see(judge))
        row["embedding_norm"] = _norm(change, choices.norm, as_logits_see(judge))
        if choices.readout is not None:
            row["base_gap"] = to_numpy(read(*readout_modules(base), free.final, readout=choices.readout))
    if choices.readout is not None:
        row |= _split(judge, base, found, change, readout=choices.readout)
    return Measured(row, found)


Weigh = Callable[[Float[Tensor, "*lead d_model"]], Float[Tensor, "*lead d_model"]]
"""Turns a write into what logits see of it."""


def as_logits_see(executor: HooksBackend) -> Weigh:
    """Return the linear part of a model's final norm, up to its scale: centring where it centres, then the gain."""
    gauge = Gauge.of("final_norm", executor)
    return lambda write: gauge.weigh(write.double())


def share_quantities(found: Contributions, *, norm: Norm, weigh: Weigh) -> Row:
    """Return norms of P and F (every kind), their additive parts by unit, the depth profile and the alignment.

    Args:
        found: Writes of the batch.
        norm: Which norm parts, profile and alignment are in.
        weigh: What logits see of a write; see :func:`as_logits_see`.
    """
    plain = to_numpy(found.pretrained), to_numpy(found.finetuned)
    seen = to_numpy(weigh(found.pretrained)), to_numpy(weigh(found.finetuned))
    by_norm = {name: seen if name == "final_norm" else plain for name in NORMS}
    pretrained, finetuned = by_norm[norm]
    return {
        "finetuned_norms": np.stack([shares.vector_norm(by_norm[n][1].sum(1), norm=n) for n in NORMS], axis=-1),
        "pretrained_norms": np.stack([shares.vector_norm(by_norm[n][0].sum(1), norm=n) for n in NORMS], axis=-1),
        "finetuned_norm": shares.vector_norm(finetuned.sum(1), norm=norm),
        "pretrained_norm": shares.vector_norm(pretrained.sum(1), norm=norm),
        "alignment": shares.cosine(pretrained.sum(1), finetuned.sum(1)),
        "finetuned_parts": shares.additive_parts(finetuned, norm=norm),
        "pretrained_parts": shares.additive_parts(pretrained, norm=norm),
        "profile": shares.depth_profile(pretrained, finetuned, norm=norm),
    }


def patched_gap(
    judge: HooksBackend,
    batch: TokenBatch,
    *,
    unit: Unit,
    values: Float[Tensor, "prompt d_model"],
    readout: Readout,
) -> Float[np.ndarray, " prompt"]:
    """Return the judge's number when one unit's output at the last token is replaced, the rest reacting.

    Args:
        judge: Executor of the fine-tuned model.
        batch: Prompts, left-padded.
        unit: Whose output is replaced.
        values: What it is replaced with.
        readout: What is read.
    """
    column = last_column(batch)
    last = Site(Component.RESID_POST, judge.anatomy.n_layers - 1)
    edit = Patch(site=unit.end, values=values[:, None], positions=column)
    run = judge.run(
        batch, edits=[edit], capture=[last], positions=column, logits="none", stop_after=last, check_edits=False
    )
    return to_numpy(read(*readout_modules(judge), run.activations[last][:, 0], readout=readout))


def noise_share(
    judge: HooksBackend, batch: TokenBatch, *, parts: Sequence[Unit], norm: Norm, how: Evaluation = PLAIN
) -> float:
    """Return the TuCo that rounding alone produces: the judge against itself, on one stream, computed in two ways.

    The other way is another batch shape; for half-precision outputs also float32.

    Args:
        judge: Executor of the fine-tuned model.
        batch: A few prompts.
        parts: How the network is cut.
        norm: Norm of the share.
        how: How outputs are computed.
    """
    side = judge_side(judge, batch, parts=parts, how=how)
    ends = list(dict.fromkeys(unit.end for unit in parts))
    weigh = as_logits_see(judge)

    def largest(rows: slice, outputs: Mapping[Site, Tensor]) -> float:
        first = torch.stack([side.outputs[unit.end][rows].float() for unit in parts], dim=1)
        second = torch.stack([outputs[unit.end].float() for unit in parts], dim=1)
        inputs = torch.stack([_input(side, unit)[rows] for unit in parts], dim=1)
        sizes = (_norm((first - second).sum(1), norm, weigh), _norm((second - inputs).sum(1), norm, weigh))
        return float(shares.share(*sizes).max())

    found = []
    for index in range(len(batch)):
        again, width = _reshaped(batch, index), int(batch.lengths[index])
        rows = slice(index, index + 1)
        streams = {site: x[rows, -width:].expand(len(again), -1, -1) for site, x in side.record.items()}
        outputs = clamp(judge, again, record=streams, read=ends, how=how)
        found.append(largest(rows, {site: value[:1] for site, value in outputs.items()}))
    if not how.float32 and side.outputs[ends[-1]].dtype.itemsize < 4:
        fine = clamp(judge, batch, record=side.record, read=ends, how=replace(how, float32=True))
        found.append(largest(slice(None), fine))
    return max(found)


def readout_modules(executor: HooksBackend) -> tuple[nn.Module, nn.Module]:
    """Return a model's final norm and unembedding."""
    anatomy = executor.anatomy
    return executor.module.get_submodule(anatomy.final_norm), executor.module.get_submodule(anatomy.unembed)


def _norm(vectors: Tensor, norm: Norm, weigh: Weigh) -> np.ndarray:
    return shares.vector_norm(to_numpy(weigh(vectors) if norm == "final_norm" else vectors), norm=norm)


def _output_quantities(own: Tensor, free: FreeEnds, *, norm: Norm, weigh: Weigh) -> Row:
    final = free.final.to(own.device)
    return {
        "output_change_norm": _norm(own - final, norm, weigh),
        "base_output_norm": _norm(final, norm, weigh),
    }


def _split(judge: HooksBackend, base: HooksBackend, found: Contributions, change: Tensor, *, readout: Readout) -> Row:
    norm, head = readout_modules(judge)
    frozen = frozen_readout(norm, head, found.final, readout=readout)
    other = read(*readout_modules(base), found.final, readout=readout)
    return {
        "judge_gap": to_numpy(frozen.gap),
        "embedding_push": to_numpy(((found.embedded - change).double() * frozen.direction).sum(-1)),
        "embedding_change_push": to_numpy((change.double() * frozen.direction).sum(-1)),
        "bias_push": to_numpy(frozen.bias),
        "head_change_effect": to_numpy(frozen.gap) - to_numpy(other),
        "pretrained_push": to_numpy(torch.einsum("pud,pd->pu", found.pretrained.double(), frozen.direction)),
        "finetuned_push": to_numpy(torch.einsum("pud,pd->pu", found.finetuned.double(), frozen.direction)),
        "removal_effect": to_numpy(_removal(norm, head, found, frozen, readout=readout)),
    }


def _removal(
    norm: nn.Module, head: nn.Module, found: Contributions, frozen: FrozenReadout, *, readout: Readout
) -> Float[Tensor, "prompt unit"]:
    """Take each unit's F out of the final stream and let the model's own norm and head read what is left."""
    lost = [
        frozen.gap - read(norm, head, found.final - found.finetuned[:, index], readout=readout)
        for index in range(found.finetuned.shape[1])
    ]
    return torch.stack(lost, dim=1)


def _reshaped(batch: TokenBatch, index: int) -> TokenBatch:
    """Return one prompt in a batch of another shape: alone, or doubled when it was alone already."""
    row = batch.row(index)
    if len(batch) > 1:
        return row
    return TokenBatch(ids=row.ids.repeat(2, 1), mask=row.mask.repeat(2, 1), prompt_ids=row.prompt_ids * 2)


def _input(side: JudgeSide, unit: Unit) -> Float[Tensor, "prompt d_model"]:
    stream = side.record[unit.start][:, -1].float()
    return stream if unit.component is Component.RESID_POST else torch.zeros_like(stream)
