"""Is what fine-tuning wrote more than what any change of this base would write?

A TuCo value means nothing by itself. Beside the pair's share and its pushes on the verdict stand
those of reference judges of the *same base* on the same prompts: the judge against itself (exactly
0), random changes of equal norm, and whatever judges the caller names (a sham, another tune).

Paper: Nuti et al. 2025 (TuCo); reference levels are ours. Steps: 1 check that bases are the same,
2 measure every level on the same prompts, 3 compare pushes, paired by item.

What it can't do: compare across bases; say that a change is meaningful because it is large.
Falsified if the judge against itself gives anything but 0, or a random judge is found more often than said.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from analyses.looping import Prompts, check_least, controlled_items, interruptible, progress_bar, random_judges
from analyses.readout import LabelGap
from analyses.tuco.checks import check_null, settle
from analyses.tuco.cuts import Granularity, units
from analyses.tuco.evaluation import Evaluation
from analyses.tuco.levels.result import ITSELF, OTHER, PAIR, RANDOM, LevelsResult
from analyses.tuco.prompts import Choices, measure_prompts
from analyses.tuco.shares import Norm
from workbench.errors import PairMismatch, ParameterError
from workbench.hooks import HooksBackend
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, run_meta
from workbench.tokens import TokenBatch

_NAMES = ("finetuned_norm", "pretrained_norm", "push", "gap")


def compare_levels(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    others: Mapping[str, Pair] | None = None,
    draws: int = 5,
    granularity: Granularity = "block",
    norm: Norm = "l1",
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> LevelsResult:
    """Measure share and pushes of a pair beside reference levels of the same base.

    Args:
        pair: The pair in question.
        items: What to judge; each is shown in every order of ``orders``.
        others: Further judges of the same base by name, e.g. a sham or another tune.
        draws: Number of random judges of equal norm; with fewer than three no push can be told from chance.
        granularity: See :func:`analyses.tuco.run`.
        norm: Norm of the shares.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of random judges and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        PairMismatch: Another judge has another base, tokenizer, format or data type.
        ParameterError: A choice isn't allowed.
        ItemError: There are no items.
        FormatError: The labels don't differ in their first token.
        ExecutorDisagreement: The judge against itself isn't exactly 0 here.
    """
    started = time.perf_counter()
    check_least(batch_size=(batch_size, 1), draws=(draws, 0))
    others = dict(others or {})
    _check_others(pair, others)
    prompts = Prompts.of(pair, items, orders=orders)
    parts = units(granularity, n_layers=pair.n_layers, parallel=pair.anatomy("judge").parallel)
    choices = Choices(
        parts=parts,
        norm=norm,
        readout=LabelGap(*prompts.verdict_ids),
        free_base=False,
        how=Evaluation.best(prompts, parts).alone,
    )
    levels = _levels(prompts, others, draws=draws, seed=seed)
    arrays = {name: np.full((len(levels), len(prompts), len(prompts.orders)), np.nan) for name in _NAMES}
    with interruptible(prompts):
        how, _ = settle(prompts, next(prompts.batches(batch_size))[:1], parts=parts, how=choices.how)
        choices = replace(choices, how=how)
        _measure(prompts, levels, arrays, choices=choices, batch_size=batch_size, progress=progress)
    parameters = {
        "others": list(others),
        "draws": draws,
        "granularity": granularity,
        "norm": norm,
        "orders": list(orders),
        "batch_size": batch_size,
    }
    meta = run_meta(
        pair,
        prompts.kept_items(),
        analysis="tuco.levels",
        parameters=parameters,
        seed=seed,
        wall_time_s=time.perf_counter() - started,
        edits=[f"{name}: {other.identity()['judge']['fingerprint']}" for name, other in others.items()],
        warnings=prompts.warnings,
        not_measured=prompts.notes,
    )
    return LevelsResult(
        **prompts.axes(),  # type: ignore[arg-type]
        **{name: prompts.kept(values, axis=1) for name, values in arrays.items()},
        levels=tuple(level.name for level in levels),
        kinds=tuple(level.kind for level in levels),
        granularity=str(granularity),
        norm=norm,
        choices=prompts.choices,
        meta=meta,
    )


class _Level(NamedTuple):
    name: str
    kind: str
    judge: HooksBackend
    base: HooksBackend


def _levels(prompts: Prompts, others: Mapping[str, Pair], *, draws: int, seed: int) -> list[_Level]:
    pair = prompts.pair
    judge, base = pair.executor("judge"), pair.executor("base")
    found = [_Level(PAIR, PAIR, judge, base), _Level(ITSELF, ITSELF, judge, judge)]
    found += [_Level(name, OTHER, other.executor("judge"), base) for name, other in others.items()]
    if controlled_items(prompts, draws=draws, limit=None, seed=seed, name="draws"):
        drawn = enumerate(random_judges(pair, draws=draws, seed=seed))
        found += [_Level(f"{RANDOM} {draw}", RANDOM, executor, base) for draw, (_, executor) in drawn]
    return found


def _measure(
    prompts: Prompts,
    levels: Sequence[_Level],
    arrays: dict[str, np.ndarray],
    *,
    choices: Choices,
    batch_size: int,
    progress: bool,
) -> None:
    """Step 2: every level on a batch before the next batch, so that an interrupted run stays paired."""
    with progress_bar(len(prompts), title="TuCo beside reference levels", shown=progress) as bar:
        for chosen, rows in prompts.each(
            prompts.batches(batch_size), lambda chosen: _rows(levels, prompts.batch(chosen), choices=choices)
        ):
            for index, found in enumerate(rows):
                for name, values in found.items():
                    arrays[name][index, list(chosen)] = prompts.by_item(values)
            prompts.done[list(chosen)] = True
            bar.update(len(chosen))


def _rows(levels: Sequence[_Level], batch: TokenBatch, *, choices: Choices) -> list[dict[str, np.ndarray]]:
    """Measure one batch on every level."""
    rows = []
    for level in levels:
        row = measure_prompts(level.judge, level.base, batch, choices=choices).row
        if level.kind == ITSELF:
            check_null(float(row["finetuned_norm"].max()))
        rows.append(
            {
                "finetuned_norm": row["finetuned_norm"],
                "pretrained_norm": row["pretrained_norm"],
                "push": row["finetuned_push"].sum(-1),
                "gap": row["judge_gap"],
            }
        )
    return rows


def _check_others(pair: Pair, others: Mapping[str, Pair]) -> None:
    """Step 1: refuse judges whose values couldn't be compared with the pair's."""
    own = pair.identity()
    for name, other in others.items():
        if name in (PAIR, ITSELF) or name.startswith(RANDOM):
            raise ParameterError("this name is taken by a level.", argument="others", got=name)
        theirs = other.identity()
        different = [
            what
            for what, mine, its in (
                ("base weights", own["base"]["fingerprint"], theirs["base"]["fingerprint"]),
                ("tokenizer", own["tokenizer"], theirs["tokenizer"]),
                ("format", own["format"], theirs["format"]),
                ("data type", pair.dtype, other.dtype),
            )
            if mine != its
        ]
        if different:
            raise PairMismatch(
                f"{name!r} can't be a reference level: {' and '.join(different)} differ, and TuCo can't be compared "
                "across them.",
                argument="others",
                got=other.name,
                fix="Load it with the same base, tokenizer, format and dtype.",
            )
