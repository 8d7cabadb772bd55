"""Which stage of training pushed the verdict: base -> SFT -> RL, on the last judge's own stream.

    f_last = f_base + sum_k (f_k - f_{k-1}),   F_k = sum over units of (f_k - f_{k-1}),   f_0 = base

every model clamped to the stream of the *last* judge. Shares |F_k| / (|P| + sum_k |F_k|) add up to 1
with |P|'s; with the final norm's scale frozen the signed pushes of base and stages add up to the
last judge's verdict gap. N stages take N + 1 passes. Paper: Nuti et al. 2025 with one stage; the
telescoped form is ours.

Steps: 1 record the last judge, 2 clamp the base and every earlier judge to it, 3 subtract neighbours,
4 controls: for each stage, random changes of its own norm from where it began, on the same stream.

What it can't do: say what a stage did to the stream that the last judge no longer shows; count what
a stage's writes cause in later blocks. Falsified if two equal neighbours give anything but 0, or the
pushes don't add up to the gap.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.looping import Prompts, check_least, interruptible, progress_bar
from analyses.readout import FrozenReadout, LabelGap, frozen_readout
from analyses.tuco import shares
from analyses.tuco.checks import settle
from analyses.tuco.clamp import JudgeSide, contributions, judge_side, to_numpy
from analyses.tuco.cuts import Granularity, Unit, units
from analyses.tuco.evaluation import Evaluation
from analyses.tuco.levels.stages_result import StagesResult
from analyses.tuco.prompts import as_logits_see, readout_modules
from analyses.tuco.shares import Norm
from workbench.errors import PairMismatch, ParameterError
from workbench.hooks import HooksBackend
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, random_delta_pair, run_meta, weight_delta
from workbench.tokens import TokenBatch


def compare_stages(
    stages: Mapping[str, Pair] | Sequence[Pair],
    items: Sequence[JudgeItem],
    *,
    granularity: Granularity = "block",
    norm: Norm = "l1",
    controls: int = 5,
    control_items: int | None = 16,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> StagesResult:
    """Split the last judge's writes and verdicts among the base and the stages of training.

    Args:
        stages: One pair per stage in the order they were trained, each with the *same base*: the judge of stage k is
            the model after k stages. By name, or numbered.
        items: What to judge; each is shown in every order of ``orders``.
        granularity: See :func:`analyses.tuco.run`.
        norm: Norm of the shares.
        controls: Number of random changes of each stage's norm; with fewer than three nothing is told from chance.
        control_items: On how many items they are measured; None for all.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of controls and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        PairMismatch: The stages don't share base, tokenizer, format or data type.
        ParameterError: There is no stage, or a choice isn't allowed.
        ItemError: There are no items.
        FormatError: The labels don't differ in their first token.
    """
    started = time.perf_counter()
    check_least(batch_size=(batch_size, 1), controls=(controls, 0), control_items=(control_items, 2))
    named = dict(stages) if isinstance(stages, Mapping) else {f"stage {k + 1}": pair for k, pair in enumerate(stages)}
    _check_stages(named)
    last = list(named.values())[-1]
    prompts = Prompts.of(last, items, orders=orders)
    parts = units(granularity, n_layers=last.n_layers, parallel=last.anatomy("judge").parallel)
    how = Evaluation.best(prompts, parts).alone
    work = _Work(prompts=prompts, stages=named, parts=parts, norm=norm, how=how, arrays=_blank(prompts, named, parts))
    with interruptible(prompts):
        work.how, _ = settle(prompts, next(prompts.batches(batch_size))[:1], parts=parts, how=how)
        _measure(work, batch_size=batch_size, progress=progress)
        _measure_controls(
            work, draws=controls, limit=control_items, batch_size=batch_size, seed=seed, progress=progress
        )
    lead = {**dict.fromkeys(StagesResult.AXES, 0), **dict.fromkeys(_BY_STAGE, 1), **dict.fromkeys(_BY_DRAW, 2)}
    return StagesResult(
        **prompts.axes(),  # type: ignore[arg-type]
        **{name: prompts.kept(values, axis=lead[name]) for name, values in work.arrays.items()},
        stages=tuple(named),
        units=tuple(unit.label for unit in parts),
        unit_layers=tuple(unit.layer for unit in parts),
        unit_components=tuple(str(unit.component) for unit in parts),
        granularity=str(granularity),
        norm=norm,
        choices=prompts.choices,
        meta=run_meta(
            last,
            prompts.kept_items(),
            analysis="tuco.stages",
            parameters={
                "stages": list(named),
                "granularity": granularity,
                "norm": norm,
                "controls": controls,
                "control_items": control_items,
                "orders": list(orders),
                "batch_size": batch_size,
            },
            seed=seed,
            wall_time_s=time.perf_counter() - started,
            edits=[f"{name}: {pair.identity()['judge']['fingerprint']}" for name, pair in named.items()],
            warnings=prompts.warnings,
            not_measured=prompts.notes,
        ),
    )


_BY_STAGE = ("stage_norm", "stage_parts", "stage_push", "stage_alignment")
_BY_DRAW = ("control_norm", "control_push")


@dataclass(slots=True, kw_only=True, eq=False)
class _Work:
    prompts: Prompts
    stages: Mapping[str, Pair]
    parts: tuple[Unit, ...]
    norm: Norm
    how: Evaluation
    arrays: dict[str, np.ndarray]

    @property
    def last(self) -> HooksBackend:
        return self.prompts.pair.executor("judge")

    def models(self) -> list[HooksBackend]:
        """Return the base and every judge before the last."""
        earlier = list(self.stages.values())[:-1]
        return [self.prompts.pair.executor("base"), *(pair.executor("judge") for pair in earlier)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Clamped:
    """One batch: the last judge's record, and every model's outputs on it."""

    side: JudgeSide
    embedded: Float[Tensor, "prompt d_model"]
    final: Float[Tensor, "prompt d_model"]
    pretrained: Float[Tensor, "prompt unit d_model"]
    outputs: tuple[Float[Tensor, "prompt unit d_model"], ...]
    """Of the base, each stage, and the last judge itself; as the models computed them."""
    readout: FrozenReadout


def _clamped(work: _Work, batch: TokenBatch) -> _Clamped:
    """Steps 1 and 2."""
    side = judge_side(work.last, batch, parts=work.parts, how=work.how)
    found = [contributions(side, model, batch, parts=work.parts, how=work.how) for model in work.models()]
    first = found[0]
    ids = work.prompts.verdict_ids
    return _Clamped(
        side=side,
        embedded=first.embedded,
        final=first.final,
        pretrained=first.pretrained,
        outputs=(*(one.base_outputs for one in found), first.judge_outputs),
        readout=frozen_readout(*readout_modules(work.last), first.final, readout=LabelGap(*ids)),
    )


def _measure(work: _Work, *, batch_size: int, progress: bool) -> None:
    prompts = work.prompts
    with progress_bar(len(prompts), title="TuCo by stage", shown=progress) as bar:
        batches = prompts.batches(batch_size)
        for chosen, row in prompts.each(batches, lambda chosen: _row(work, _clamped(work, prompts.batch(chosen)))):
            for name, values in row.items():
                item_axis = 1 if name in _BY_STAGE else 0
                np.moveaxis(work.arrays[name], item_axis, 0)[list(chosen)] = np.moveaxis(values, item_axis, 0)
            prompts.done[list(chosen)] = True
            bar.update(len(chosen))


def _row(work: _Work, found: _Clamped) -> dict[str, np.ndarray]:
    """Step 3: subtract neighbours; upcast before subtracting."""
    by_item = work.prompts.by_item
    direction = found.readout.direction
    writes = [_step(found, k) for k in range(len(work.stages))]
    seen = [_seen(work, found, write) for write in (found.pretrained, *writes)]
    earlier = np.cumsum([np.zeros_like(seen[0].sum(1)), *(write.sum(1) for write in seen[1:])], axis=0)
    pairs = list(zip(seen[1:], earlier, strict=False))
    return {
        "gap": by_item(to_numpy(found.readout.gap)),
        "bias_push": by_item(to_numpy(found.readout.bias)),
        "embedding_push": by_item(to_numpy((found.embedded.double() * direction).sum(-1))),
        "pretrained_norm": by_item(shares.vector_norm(seen[0].sum(1), norm=work.norm)),
        "pretrained_push": by_item(_pushes(found.pretrained, direction)),
        "stage_norm": np.stack([by_item(shares.vector_norm(write.sum(1), norm=work.norm)) for write in seen[1:]]),
        "stage_parts": np.stack([by_item(shares.additive_parts(write, norm=work.norm)) for write in seen[1:]]),
        "stage_push": np.stack([by_item(_pushes(write, direction)) for write in writes]),
        "stage_alignment": np.stack([by_item(shares.cosine(write.sum(1), before)) for write, before in pairs]),
    }


def _step(found: _Clamped, k: int) -> Float[Tensor, "prompt unit d_model"]:
    return found.outputs[k + 1].float() - found.outputs[k].float()


def _seen(work: _Work, found: _Clamped, write: Tensor) -> Float[np.ndarray, "prompt unit d_model"]:
    """Return what the norm sees of a write, float64."""
    return to_numpy(as_logits_see(work.last)(write) if work.norm == "final_norm" else write)


def _pushes(write: Tensor, direction: Tensor) -> Float[np.ndarray, "prompt unit"]:
    return to_numpy(torch.einsum("pud,pd->pu", write.double(), direction))


def _measure_controls(
    work: _Work, *, draws: int, limit: int | None, batch_size: int, seed: int, progress: bool
) -> None:
    """Step 4: in place of each stage, random changes of its norm from where it began, on the last judge's stream."""
    prompts = work.prompts
    if draws == 0:
        prompts.notes.append("random changes of each stage's norm (controls=0).")
        return
    chosen = prompts.sample(limit, seed=seed)
    if len(chosen) < len(prompts):
        prompts.notes.append(f"random changes on {len(prompts) - len(chosen)} of {len(prompts)} items (control_items).")
    shape = (len(work.stages), draws, len(prompts), len(prompts.orders))
    work.arrays |= {name: np.full(shape, np.nan) for name in _BY_DRAW}
    steps = list(_random_steps(work))
    anatomies = [pair.anatomy("judge") for pair in work.stages.values()]
    with progress_bar(draws * len(chosen), title="TuCo by stage, random changes", shown=progress) as bar:
        for draw in range(draws):
            random = [(k, random_delta_pair(step, seed=seed + draw + 1000 * k)) for k, step in steps]
            judges = [(k, HooksBackend(pair.judge, anatomies[k])) for k, pair in random]
            batches = prompts.batches(batch_size, items=chosen)
            for some, _ in prompts.each(batches, partial(_control, work, draw, judges)):
                bar.update(len(some))


def _control(work: _Work, draw: int, judges: Sequence[tuple[int, HooksBackend]], some: Sequence[int]) -> None:
    """Measure one batch under the random changes of one draw, stage by stage."""
    batch = work.prompts.batch(some)
    found = _clamped(work, batch)
    for k, judge in judges:
        output = contributions(found.side, judge, batch, parts=work.parts, how=work.how).base_outputs
        write = output.float() - found.outputs[k].float()
        norm = shares.vector_norm(_seen(work, found, write).sum(1), norm=work.norm)
        push = _pushes(write, found.readout.direction).sum(-1)
        work.arrays["control_norm"][k, draw, list(some)] = work.prompts.by_item(norm)
        work.arrays["control_push"][k, draw, list(some)] = work.prompts.by_item(push)


def _random_steps(work: _Work) -> Iterator[tuple[int, Pair]]:
    """Yield (stage, a pair from the model before it to the model after it) where a random change can match it."""
    pairs = list(work.stages.values())
    for k, (name, pair) in enumerate(work.stages.items()):
        before = pair.base if k == 0 else pairs[k - 1].judge
        if k and (pair.kind, pairs[k - 1].kind) != ("full", "full"):
            work.prompts.notes.append(f"random changes of the norm of {name}: adapters have no common start.")
            continue
        if not any(change.change for change in weight_delta(before, pair.judge, spectrum=False).changes):
            work.prompts.notes.append(f"random changes of the norm of {name}: it changed nothing.")
            continue
        yield k, pair if k == 0 else _between(pairs[k - 1], pair)


def _between(before: Pair, after: Pair) -> Pair:
    """Return the pair of two neighbouring judges; both passed the guards with the base they share."""
    return Pair(
        name=f"{before.name} to {after.name}",
        base=before.judge,
        judge=after.judge,
        tokenizer=after.tokenizer,
        format=after.format,
        report=after.report,
        kind=after.kind,
        sources={"base": before.sources["judge"], "judge": after.sources["judge"]},
    )


def _blank(prompts: Prompts, stages: Mapping[str, Pair], parts: Sequence[Unit]) -> dict[str, np.ndarray]:
    sizes = {"item": len(prompts), "order": len(prompts.orders), "unit": len(parts), "stage": len(stages), "draw": 0}
    return {name: np.full(tuple(sizes[axis] for axis in axes), np.nan) for name, axes in StagesResult.AXES.items()}


def _check_stages(stages: Mapping[str, Pair]) -> None:
    if not stages:
        raise ParameterError("name at least one stage.", argument="stages", got="no stages")
    pairs = list(stages.values())
    first = pairs[0].identity()
    for name, pair in stages.items():
        own = pair.identity()
        different = [
            what
            for what, one, other in (
                ("base weights", first["base"]["fingerprint"], own["base"]["fingerprint"]),
                ("tokenizer", first["tokenizer"], own["tokenizer"]),
                ("format", first["format"], own["format"]),
                ("data type", pairs[0].dtype, pair.dtype),
            )
            if one != other
        ]
        if different:
            raise PairMismatch(
                f"{name!r} isn't a stage after the others: {' and '.join(different)} differ.",
                argument="stages",
                got=pair.name,
                fix="Load every stage as a pair with the same base, tokenizer, format and dtype.",
            )
