"""The clamp: what each model's blocks write when both read the judge's own residual stream.

1. Run the judge and record the input of every segment at all positions.
2. Run the base's *own* forward with each segment input overwritten by that record, so that masks,
   rotary tables and windows are the base's own and nothing is re-implemented.
3. At the last prompt token, a segment wrote ``judge output - input``; of it the base would have
   written ``base output - input`` (P) and the difference of the two outputs is F.

Paper: Nuti et al. 2025, Algorithm 1 and Proposition D.3, there with one block per segment.
Falsified if clamping a model to its own stream changes one bit of any block's output.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.tuco.cuts import Unit
from analyses.tuco.evaluation import PLAIN, Evaluation, shortcut_applies
from workbench.errors import ParameterError
from workbench.hooks import Component, HooksBackend, Patch, Site, TailPlan, shared_prefix_run
from workbench.pairs import Switch, adapter_on_first_rows
from workbench.tokens import TokenBatch


def no_turns(_side: Literal["base", "judge"]) -> None:
    """Leave both models where they are."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contributions:
    """Writes at the last prompt token, in float32 or better, and the runs they came from."""

    pretrained: Float[Tensor, "prompt unit d_model"]
    """P: what the base's weights write when reading the judge's stream."""
    finetuned: Float[Tensor, "prompt unit d_model"]
    """F: what the judge writes beyond that."""
    embedded: Float[Tensor, "prompt d_model"]
    """The judge's stream before block 0."""
    final: Float[Tensor, "prompt d_model"]
    """The judge's stream after the last block, before the final norm."""
    base_outputs: Float[Tensor, "prompt unit d_model"]
    """The clamped base's output at each unit's end site, as the model computed it."""
    judge_outputs: Float[Tensor, "prompt unit d_model"]
    """The judge's output at each unit's end site, as the model computed it."""


def measure(
    judge: HooksBackend,
    base: HooksBackend,
    batch: TokenBatch,
    *,
    parts: Sequence[Unit],
    column: int = -1,
    how: Evaluation = PLAIN,
) -> Contributions:
    """Record the judge's stream and clamp the base to it (steps 1 to 3).

    Args:
        judge: Executor of the fine-tuned model.
        base: Executor of the model before fine-tuning.
        batch: Prompts, left-padded.
        parts: Units from :func:`analyses.tuco.cuts.units`.
        column: Column of the batch where writes are read; the last prompt token by default.
        how: How outputs on the recorded stream are computed.

    Raises:
        ParameterError: The sub-layer writes don't add up to the stream, so that granularity would be wrong here; or
            the shortcut is asked for where it doesn't apply.
    """
    side = judge_side(judge, batch, parts=parts, column=column, how=how)
    return contributions(side, base, batch, parts=parts, column=column, how=how)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JudgeSide:
    """What of the judge a clamped base needs, and what the judge itself wrote: step 1."""

    record: dict[Site, Float[Tensor, "prompt pos d_model"]]
    """Stream entering every unit, at all positions."""
    outputs: dict[Site, Float[Tensor, "prompt d_model"]]
    """The judge's outputs at the column that is read, the final stream among them."""
    own_final: Float[Tensor, "prompt d_model"]
    """The judge's final stream, computed as :func:`free_ends` computes the base's: equal models agree to the bit."""

    base_outputs: dict[Site, Float[Tensor, "prompt d_model"]] | None = None
    """The clamped base's outputs, where both sides ran in one batch."""

    def to(self, device: torch.device | str) -> "JudgeSide":
        """Return it on another device, e.g. while the other model needs the room."""
        return self._each(lambda value: value.to(device))

    def rows(self, rows: slice, *, width: int) -> "JudgeSide":
        """Return the part of some prompts, whose own batch has ``width`` columns."""
        return self._each(lambda value: value[rows, -width:] if value.ndim == 3 else value[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "JudgeSide":
        return JudgeSide(
            record={site: change(value) for site, value in self.record.items()},
            outputs={site: change(value) for site, value in self.outputs.items()},
            own_final=change(self.own_final),
            base_outputs=None
            if self.base_outputs is None
            else {site: change(value) for site, value in self.base_outputs.items()},
        )


def judge_side(
    judge: HooksBackend, batch: TokenBatch, *, parts: Sequence[Unit], column: int = -1, how: Evaluation = PLAIN
) -> JudgeSide:
    """Run the judge and record what enters every unit; see :func:`measure`."""
    first, last = _ends_of_stream(judge)
    deepest = Site(Component.RESID_PRE, last.layer)
    starts = list(dict.fromkeys([first, *(unit.start for unit in parts)]))
    ends = list(dict.fromkeys([*(unit.end for unit in parts), last]))
    if how.last_only and not shortcut_applies(parts, n_layers=judge.anatomy.n_layers, column=column):
        raise ParameterError(
            "the last-token shortcut needs every block clamped and the last token read.",
            argument="shortcut",
            got=f"{len(parts)} units, column {column}",
            fix="Pass shortcut=False.",
        )
    reads = list(dict.fromkeys([*starts, deepest]))
    base_outputs = None
    if how == PLAIN:
        run = judge.run(batch, capture=list(dict.fromkeys([*reads, *ends])), logits="none").activations
        outputs = {site: run[site][:, column] for site in ends}
        own = outputs[last].float()
    else:
        run = _stream(judge, batch, capture=reads, how=how)
        record = {site: run[site] for site in starts}
        if how.doubled:
            outputs, base_outputs = _clamp_both(judge, batch, record=record, read=ends, column=column, how=how)
        else:
            outputs = clamp(judge, batch, record=record, read=ends, column=column, how=how)
        own = _last_block(judge, batch, run[deepest], how=how)
    record = {site: run[site] for site in starts}
    return JudgeSide(record=record, outputs=outputs, own_final=own, base_outputs=base_outputs)


Outputs = dict[Site, Float[Tensor, "prompt d_model"]]
"""Outputs by site, at the column that is read."""


def _clamp_both(
    judge: HooksBackend,
    batch: TokenBatch,
    *,
    record: Mapping[Site, Tensor],
    read: Sequence[Site],
    column: int,
    how: Evaluation,
) -> tuple[Outputs, Outputs]:
    """Clamp an adapter's judge and its base to one record in one batch: rows with the adapter, then rows without."""
    rows = len(batch)
    twice = TokenBatch(
        ids=batch.ids.repeat(2, 1), mask=batch.mask.repeat(2, 1), prompt_ids=tuple(str(i) for i in range(2 * rows))
    )
    streams = {site: value.repeat(2, 1, 1) for site, value in record.items()}
    if how.last_only:
        TailPlan.of(judge.anatomy)  # its probe is one row, so it has to be made before rows are told apart
    with adapter_on_first_rows(judge.module, rows=rows):
        both = clamp(judge, twice, record=streams, read=read, column=column, how=how)
    return {s: x[:rows] for s, x in both.items()}, {s: x[rows:] for s, x in both.items()}


class FreeEnds(NamedTuple):
    """The two ends of a model's own stream at the last token."""

    embedded: Float[Tensor, "prompt d_model"]
    """Before block 0."""
    final: Float[Tensor, "prompt d_model"]
    """After the last block."""


def free_ends(executor: HooksBackend, batch: TokenBatch, *, how: Evaluation = PLAIN) -> FreeEnds:
    """Run a model on its own stream and return its two ends, the last block computed as ``how`` says.

    Args:
        executor: Executor of the model.
        batch: Prompts, left-padded.
        how: How the last block is computed.
    """
    first, last = _ends_of_stream(executor)
    deepest = Site(Component.RESID_PRE, last.layer)
    if how == PLAIN:
        sites = [first, last]
        run = executor.run(batch, capture=sites, positions=last_column(batch), logits="none", stop_after=last)
        return FreeEnds(run.activations[first][:, 0].float(), run.activations[last][:, 0].float())
    found = _stream(executor, batch, capture=list(dict.fromkeys([first, deepest])), how=how)
    final = _last_block(executor, batch, found[deepest], how=how)
    return FreeEnds(found[first][:, -1].float(), final)


def _last_block(
    executor: HooksBackend, batch: TokenBatch, entering: Float[Tensor, "prompt pos d_model"], *, how: Evaluation
) -> Float[Tensor, "prompt d_model"]:
    """Return what leaves a model's last block at the last token, given what enters it; float32."""
    last = Site(Component.RESID_POST, executor.anatomy.n_layers - 1)
    with how.entered(executor):
        run = executor.suffix(last.layer, entering, batch, capture=[last], positions=last_column(batch), logits="none")
    return run.activations[last][:, 0].float()


def _stream(
    executor: HooksBackend, batch: TokenBatch, *, capture: Sequence[Site], how: Evaluation
) -> Mapping[Site, Float[Tensor, "prompt pos d_model"]]:
    if how.group > 1:
        return shared_prefix_run(executor, batch, group=how.group, capture=capture)
    return executor.run(batch, capture=capture, logits="none").activations


def contributions(
    side: JudgeSide,
    base: HooksBackend,
    batch: TokenBatch,
    *,
    parts: Sequence[Unit],
    column: int = -1,
    how: Evaluation = PLAIN,
) -> Contributions:
    """Clamp the base to the judge's recorded stream and subtract; see :func:`measure`."""
    first, last = _ends_of_stream(base)
    ends = list(dict.fromkeys(unit.end for unit in parts))
    clamped = side.base_outputs or clamp(base, batch, record=side.record, read=ends, column=column, how=how)
    inputs = torch.stack([side.record[unit.start][:, column].float() for unit in parts], dim=1)
    judge_outputs = torch.stack([side.outputs[unit.end] for unit in parts], dim=1)
    base_outputs = torch.stack([clamped[unit.end] for unit in parts], dim=1)
    whole = torch.tensor([unit.component is Component.RESID_POST for unit in parts], device=inputs.device)
    found = Contributions(
        pretrained=base_outputs.float() - torch.where(whole[:, None], inputs, 0.0),
        finetuned=judge_outputs.float() - base_outputs.float(),
        embedded=side.record[first][:, column].float(),
        final=side.outputs[last].float(),
        base_outputs=base_outputs,
        judge_outputs=judge_outputs,
    )
    _check_sum(found, stream=side.record[first].dtype)
    return found


def clamp(
    base: HooksBackend,
    batch: TokenBatch,
    *,
    record: Mapping[Site, Float[Tensor, "prompt pos d_model"]],
    read: Sequence[Site],
    column: int | None = -1,
    how: Evaluation = PLAIN,
) -> dict[Site, Float[Tensor, "prompt *pos d_model"]]:
    """Run a model's own forward with each recorded site overwritten, and read outputs.

    Args:
        base: Executor of the model to clamp.
        batch: The prompts the record was made on.
        record: Streams to overwrite with, at all positions.
        read: Sites whose output is returned.
        column: Where it is read; the last prompt token by default, None for all tokens.
        how: How outputs are computed.
    """
    edits = [Patch(site=site, values=values) for site, values in record.items()]
    end = max(read, key=lambda site: base.anatomy.order[site])
    with how.entered(base):
        run = base.run(
            batch,
            edits=edits,
            capture=list(read),
            positions=None if column is None else torch.full((len(batch), 1), column, device=batch.device),
            logits="none",
            stop_after=end,
            check_edits=False,
        )
    return {site: run.activations[site] if column is None else run.activations[site][:, 0] for site in read}


def shortcut_error(
    judge: HooksBackend,
    base: HooksBackend,
    batch: TokenBatch,
    *,
    parts: Sequence[Unit],
    how: Evaluation,
    switch: Switch = no_turns,
) -> float:
    """Return the largest difference between shortcut and full clamp, relative to the largest write of the base.

    Args:
        judge: Executor of the fine-tuned model.
        base: Executor of the model before fine-tuning.
        batch: A few prompts.
        parts: How the network is cut.
        how: The evaluation to check.
        switch: Told which model is needed next, where they take turns.
    """
    ways = (how, replace(how, last_only=False, group=1, doubled=False))
    switch("judge")
    sides = [judge_side(judge, batch, parts=parts, how=way) for way in ways]
    switch("base")
    fast, full = (contributions(s, base, batch, parts=parts, how=w) for s, w in zip(sides, ways, strict=True))
    scale = full.pretrained.abs().max().clamp(min=1e-12)
    errors = [(fast.pretrained - full.pretrained).abs().max(), (fast.finetuned - full.finetuned).abs().max()]
    return float(max(errors) / scale)


class DoublePass(NamedTuple):
    """One batch at all tokens, padding included, in the type it was computed in."""

    inputs: Mapping[Site, Float[Tensor, "prompt pos d_model"]]
    """The judge's stream entering every unit."""
    judge: Mapping[Site, Float[Tensor, "prompt pos d_model"]]
    """The judge's outputs, the final stream among them."""
    base: Mapping[Site, Float[Tensor, "prompt pos d_model"]]
    """The clamped base's outputs."""


def double_pass(
    judge: HooksBackend, base: HooksBackend, batch: TokenBatch, *, parts: Sequence[Unit], how: Evaluation = PLAIN
) -> DoublePass:
    """Run steps 1 and 2 and keep all tokens; of ``how`` only the precision matters.

    Args:
        judge: Executor of the fine-tuned model.
        base: Executor of the model before fine-tuning.
        batch: Prompts, left-padded.
        parts: How the network is cut.
        how: How outputs on the recorded stream are computed.
    """
    how = Evaluation(float32=how.float32)
    first, last = _ends_of_stream(judge)
    starts = list(dict.fromkeys([first, *(unit.start for unit in parts)]))
    read = list(dict.fromkeys(unit.end for unit in parts))
    ends = list(dict.fromkeys([*read, last]))
    plain = how == PLAIN
    run = judge.run(batch, capture=list(dict.fromkeys([*starts, *(ends if plain else [])])), logits="none").activations
    inputs = {site: run[site] for site in starts}
    outputs = run if plain else clamp(judge, batch, record=inputs, read=ends, column=None, how=how)
    clamped = clamp(base, batch, record=inputs, read=read, column=None, how=how)
    return DoublePass(inputs, {site: outputs[site] for site in ends}, clamped)


def last_column(batch: TokenBatch) -> Int[Tensor, "prompt 1"]:
    """Return the column of every prompt's last token."""
    return torch.full((len(batch), 1), -1, device=batch.device)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return a float64 numpy copy on the CPU."""
    return tensor.detach().to("cpu", torch.float64).numpy()


def _ends_of_stream(executor: HooksBackend) -> tuple[Site, Site]:
    return Site(Component.RESID_PRE, 0), Site(Component.RESID_POST, executor.anatomy.n_layers - 1)


def _check_sum(found: Contributions, *, stream: torch.dtype) -> None:
    """Refuse when embedding plus all writes isn't the final stream; only sub-layer outputs can fail this."""
    total = found.embedded + found.pretrained.sum(1) + found.finetuned.sum(1)
    error = (total - found.final).abs().max()
    tolerance = (1e-4 if stream == torch.float32 else 5e-2) * found.final.abs().max().clamp(min=1.0)
    if error > tolerance:
        raise ParameterError(
            "the sub-layer outputs of this architecture don't add up to its residual stream.",
            argument="granularity",
            got=f"largest error {float(error):.3g}, tolerance {float(tolerance):.3g}",
            allowed="'block', 'model', or a number of blocks",
            fix="Use granularity='block'.",
        )
