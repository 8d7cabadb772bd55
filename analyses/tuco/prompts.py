"""Everything TuCo reads off one batch of prompts: shares, profile, and the signed split of the gap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.tuco import shares
from analyses.tuco.clamp import Contributions, Unit, clamp, last_column, measure, to_numpy
from analyses.tuco.readout import FrozenReadout, frozen_readout, verdict_gap
from analyses.tuco.shares import Norm
from workbench.hooks import Component, HooksBackend, Patch, Site
from workbench.tokens import TokenBatch

Row = dict[str, Float[np.ndarray, "prompt *unit"]]
"""Measured quantities by field name of ``TucoResult``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What is measured on every batch."""

    parts: tuple[Unit, ...]
    """How the network is cut."""
    norm: Norm
    """Norm of the shares."""
    ids: tuple[int, int] | None
    """Token ids of the two verdicts; None leaves the signed split out."""
    free_base: bool
    """Whether the base also runs freely, for OutputCo, its own gap and the embedding change."""


class Measured(NamedTuple):
    """One batch's quantities, and the writes a following intervention needs."""

    row: Row
    """Quantities by field name."""
    found: Contributions
    """Writes of the batch."""


def measure_prompts(judge: HooksBackend, base: HooksBackend, batch: TokenBatch, *, choices: Choices) -> Measured:
    """Measure one batch: shares (step 4), free base run (step 5) and signed split (step 6).

    Args:
        judge: Executor of the fine-tuned model.
        base: Executor of the model before fine-tuning.
        batch: Prompts, left-padded.
        choices: What to measure.
    """
    found = measure(judge, base, batch, parts=choices.parts)
    row = share_quantities(found, norm=choices.norm)
    change = torch.zeros_like(found.embedded)
    if choices.free_base:
        free = _free_run(base, batch)
        change = found.embedded - free.embedded.to(found.embedded.device)
        row |= _output_quantities(found, free, norm=choices.norm)
        row["embedding_norm"] = shares.vector_norm(to_numpy(change), norm=choices.norm)
        if choices.ids is not None:
            row["base_gap"] = to_numpy(verdict_gap(*_readout_modules(base), free.final, ids=choices.ids))
    if choices.ids is not None:
        row |= _split(judge, found, change, ids=choices.ids)
    return Measured(row, found)


def share_quantities(found: Contributions, *, norm: Norm) -> Row:
    """Return norms of P and F, their additive parts by unit, the depth profile and the alignment."""
    pretrained, finetuned = to_numpy(found.pretrained), to_numpy(found.finetuned)
    return {
        "finetuned_norm": shares.vector_norm(finetuned.sum(1), norm=norm),
        "pretrained_norm": shares.vector_norm(pretrained.sum(1), norm=norm),
        "alignment": shares.cosine(pretrained.sum(1), finetuned.sum(1)),
        "finetuned_parts": shares.additive_parts(finetuned, norm=norm),
        "pretrained_parts": shares.additive_parts(pretrained, norm=norm),
        "profile": shares.depth_profile(pretrained, finetuned, norm=norm),
    }


def patched_gap(
    judge: HooksBackend, batch: TokenBatch, *, unit: Unit, values: Float[Tensor, "prompt d_model"], ids: tuple[int, int]
) -> Float[np.ndarray, " prompt"]:
    """Return the judge's gap when one unit's output at the last token is replaced, the rest reacting.

    Args:
        judge: Executor of the fine-tuned model.
        batch: Prompts, left-padded.
        unit: Whose output is replaced.
        values: What it is replaced with.
        ids: Token ids of the two verdicts.
    """
    column = last_column(batch)
    last = Site(Component.RESID_POST, judge.anatomy.n_layers - 1)
    edit = Patch(site=unit.end, values=values[:, None], positions=column)
    run = judge.run(
        batch, edits=[edit], capture=[last], positions=column, logits="none", stop_after=last, check_edits=False
    )
    return to_numpy(verdict_gap(*_readout_modules(judge), run.activations[last][:, 0], ids=ids))


def noise_share(judge: HooksBackend, batch: TokenBatch, *, parts: Sequence[Unit], norm: Norm) -> float:
    """Return the TuCo that rounding alone produces: the judge against itself, re-run in another batch shape.

    Args:
        judge: Executor of the fine-tuned model.
        batch: A few prompts.
        parts: How the network is cut.
        norm: Norm of the share.
    """
    starts = list(dict.fromkeys([Site(Component.RESID_PRE, 0), *(unit.start for unit in parts)]))
    ends = list(dict.fromkeys(unit.end for unit in parts))
    record = judge.run(batch, capture=list(dict.fromkeys([*starts, *ends])), logits="none").activations
    largest = 0.0
    for index in range(len(batch)):
        width = int(batch.lengths[index])
        again = _reshaped(batch, index)
        copies = len(again)
        streams = {site: record[site][index : index + 1, -width:].expand(copies, -1, -1) for site in starts}
        outputs = clamp(judge, again, record=streams, read=ends)
        first = torch.stack([record[unit.end][index, -1].float() for unit in parts])
        second = torch.stack([outputs[unit.end][0].float() for unit in parts])
        inputs = torch.stack([_input(record, unit, index) for unit in parts])
        finetuned, pretrained = to_numpy((first - second).sum(0)), to_numpy((second - inputs).sum(0))
        share = shares.share(shares.vector_norm(finetuned, norm=norm), shares.vector_norm(pretrained, norm=norm))
        largest = max(largest, float(share))
    return largest


class _FreeRun(NamedTuple):
    embedded: Tensor
    final: Tensor


def _free_run(base: HooksBackend, batch: TokenBatch) -> _FreeRun:
    first, last = Site(Component.RESID_PRE, 0), Site(Component.RESID_POST, base.anatomy.n_layers - 1)
    column = last_column(batch)
    run = base.run(batch, capture=[first, last], positions=column, logits="none", stop_after=last)
    return _FreeRun(run.activations[first][:, 0].float(), run.activations[last][:, 0].float())


def _output_quantities(found: Contributions, free: _FreeRun, *, norm: Norm) -> Row:
    final = free.final.to(found.final.device)
    return {
        "output_change_norm": shares.vector_norm(to_numpy(found.final - final), norm=norm),
        "base_output_norm": shares.vector_norm(to_numpy(final), norm=norm),
    }


def _split(judge: HooksBackend, found: Contributions, change: Tensor, *, ids: tuple[int, int]) -> Row:
    norm, head = _readout_modules(judge)
    readout = frozen_readout(norm, head, found.final, ids=ids)
    finetuned = found.finetuned.double()
    return {
        "judge_gap": to_numpy(readout.gap),
        "embedding_push": to_numpy(((found.embedded - change).double() * readout.direction).sum(-1)),
        "embedding_change_push": to_numpy((change.double() * readout.direction).sum(-1)),
        "bias_push": to_numpy(readout.bias),
        "pretrained_push": to_numpy(torch.einsum("pud,pd->pu", found.pretrained.double(), readout.direction)),
        "finetuned_push": to_numpy(torch.einsum("pud,pd->pu", finetuned, readout.direction)),
        "removal_effect": to_numpy(_removal(norm, head, found, readout, ids=ids)),
    }


def _removal(
    norm: torch.nn.Module, head: torch.nn.Module, found: Contributions, readout: FrozenReadout, *, ids: tuple[int, int]
) -> Float[Tensor, "prompt unit"]:
    """Take each unit's F out of the final stream and let the model's own norm and head read what is left."""
    lost = [
        readout.gap - verdict_gap(norm, head, found.final - found.finetuned[:, index], ids=ids)
        for index in range(found.finetuned.shape[1])
    ]
    return torch.stack(lost, dim=1)


def _readout_modules(executor: HooksBackend) -> tuple[torch.nn.Module, torch.nn.Module]:
    anatomy = executor.anatomy
    return executor.module.get_submodule(anatomy.final_norm), executor.module.get_submodule(anatomy.unembed)


def _reshaped(batch: TokenBatch, index: int) -> TokenBatch:
    """Return one prompt in a batch of another shape: alone, or doubled when it was alone already."""
    row = batch.row(index)
    if len(batch) > 1:
        return row
    return TokenBatch(ids=row.ids.repeat(2, 1), mask=row.mask.repeat(2, 1), prompt_ids=row.prompt_ids * 2)


def _input(record: Mapping[Site, Tensor], unit: Unit, index: int) -> Tensor:
    stream = record[unit.start][index, -1].float()
    return stream if unit.component is Component.RESID_POST else torch.zeros_like(stream)
