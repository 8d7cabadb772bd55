"""How much of each verdict did fine-tuning contribute, where, and in which direction?

    TuCo = |F| / (|P| + |F|),   F = sum_l [judge_l(x_l) - base_l(x_l)],   P = sum_l [base_l(x_l)]

at the last prompt token, both models reading the judge's own residual stream x_l.
Paper: Nuti, Franzmeyer, Henriques, "TuCo", ICML 2025 (arXiv 2506.23423), Definition 4.3, Algorithm 1.

Steps: 1 record the judge's stream, 2 clamp the base to it, 3 subtract, 4 shares, 5 free base run
(OutputCo, section 5.5), 6 signed split of the verdict gap, 7 controls (the judge against itself; a
random change of equal norm), 8 confirmation: take out the unit named on one half of the items in a
real forward on the other half.

What it can't do: count what fine-tuned blocks cause in later blocks (those writes are booked as P;
:func:`analyses.tuco.attribute_paths` counts them); say that a change is meaningful because it is
large: a random change of the same size has a TuCo too.
Falsified if the judge against itself gives anything but 0, or the parts don't add up to the gap.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from analyses.looping import (
    FEWEST_TO_CONFIRM,
    Prompts,
    check_least,
    controlled_items,
    interruptible,
    progress_bar,
    random_judges,
)
from analyses.readout import LabelGap, Readout
from analyses.tuco.checks import check_null, settle
from analyses.tuco.clamp import measure
from analyses.tuco.cuts import Granularity, Unit, units
from analyses.tuco.evaluation import Evaluation
from analyses.tuco.prompts import (
    Choices,
    Measured,
    as_logits_see,
    noise_share,
    patched_gap,
    share_quantities,
)
from analyses.tuco.result import TucoResult, empty_arrays
from analyses.tuco.shares import NORMS, Norm
from analyses.tuco.turns import Turns, taking_turns
from workbench.errors import ParameterError
from workbench.hooks import HooksBackend
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, Switch, run_meta
from workbench.pairs.loading.placement import usable_device


def run(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    granularity: Granularity = "block",
    norm: Norm = "l1",
    readout: Readout | Literal["verdict"] | None = "verdict",
    output_share: bool = True,
    controls: int = 5,
    control_items: int | None = 32,
    confirm: bool = True,
    numerics: bool = True,
    precision: Literal["auto", "model", "float32"] = "auto",
    shortcut: bool = True,
    resident: str = "both",
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> TucoResult:
    """Decompose every judgement into what pretraining and what fine-tuning contributed.

    Args:
        pair: Base and judge.
        items: What to judge; each is shown in every order of ``orders``.
        granularity: ``"block"`` (the paper's), ``"sublayer"``, a number of blocks, or ``"model"``; said in the result.
        norm: ``"l1"`` (Definition 4.3), ``"l2"``, or ``"final_norm"`` (L2 of what the logits see of a write).
        readout: What is split into signed parts: the verdict logit gap (needs labels that differ in their first
            token), an ``ExpectedScore``, a ``ScalarHead``, or None for no split.
        output_share: Whether the base also runs freely, for OutputCo and its own verdicts (one more forward).
        controls: Number of random judges of equal norm to measure beside the real one, two forwards an item each;
            with fewer than three no push can be told from chance.
        control_items: On how many items they are measured; None for all.
        confirm: Whether to take out the named unit in a real forward (two more on half the items).
        numerics: Whether to run the judge against itself on the first items (exactly 0) and measure the noise floor.
        precision: ``"float32"`` computes the blocks of a half-precision pair in float32 on the stream as it is;
            ``"model"`` leaves the models' own type; ``"auto"`` is float32 for half precision.
        shortcut: Whether to compute only what the last token needs, and the common beginning of both orders once;
            checked against full forwards in the same run, and given up, which is said, where it differs.
        resident: ``"both"`` models where they are; a device such as ``"cuda"`` on which they take turns, for a pair
            that was loaded in host memory and doesn't fit together; ``"one"`` keeps the other in files meanwhile.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of splits, controls and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ParameterError: A choice isn't allowed.
        ItemError: There are no items.
        ContextWindowError: A prompt is longer than the models' window.
        ExecutorDisagreement: The judge against itself isn't exactly 0 here.
    """
    started = time.perf_counter()
    parameters = {
        "granularity": granularity,
        "norm": norm,
        "readout": readout if isinstance(readout, str) or readout is None else repr(readout),
        "output_share": output_share,
        "controls": controls,
        "control_items": control_items,
        "confirm": confirm,
        "numerics": numerics,
        "precision": precision,
        "shortcut": shortcut,
        "resident": resident,
        "orders": list(orders),
        "batch_size": batch_size,
    }
    _check(norm, resident)
    check_least(batch_size=(batch_size, 1), controls=(controls, 0), control_items=(control_items, 2))
    prompts = Prompts.of(pair, items, orders=orders)
    parts = units(granularity, n_layers=pair.n_layers, parallel=pair.anatomy("judge").parallel)
    choices = Choices(
        parts=parts,
        norm=norm,
        readout=LabelGap(*prompts.verdict_ids) if readout == "verdict" else readout,
        free_base=output_share,
        how=Evaluation.best(prompts, parts, precision=precision, shortcut=shortcut),
    )
    work = _Work.plan(prompts, choices=choices, batch_size=batch_size, seed=seed, confirm=confirm, resident=resident)
    with interruptible(prompts):
        with taking_turns(pair, resident) as switch:
            if numerics:
                _numerics(work)
            else:
                prompts.notes.append("the judge against itself, and the noise floor (numerics=False).")
            how, work.shortcut = settle(prompts, work.first_half[0][:1], parts=parts, how=choices.how, switch=switch)
            work.choices = replace(choices, how=how)
            _measure_items(work, switch=switch, progress=progress)
        _measure_controls(work, draws=controls, limit=control_items, progress=progress)
    return _assemble(work, parameters=parameters, wall_time_s=time.perf_counter() - started)


@dataclass(slots=True, kw_only=True)
class _Work:
    """State of one run: what is planned, what is measured so far."""

    prompts: Prompts
    choices: Choices
    batch_size: int
    seed: int
    resident: str
    first_half: tuple[tuple[int, ...], ...]
    """Batches of item indices on which the unit to confirm is chosen."""
    second_half: tuple[tuple[int, ...], ...]
    """Batches of the items it is tested on; empty when nothing is confirmed."""
    arrays: dict[str, np.ndarray]
    noise: float = float("nan")
    identical: float = float("nan")
    shortcut: float = float("nan")
    confirmed: Unit | None = None

    @classmethod
    def plan(
        cls,
        prompts: Prompts,
        *,
        choices: Choices,
        batch_size: int,
        seed: int,
        confirm: bool,
        resident: str,
    ) -> "_Work":
        wanted = confirm and choices.readout is not None and prompts.n_clusters >= FEWEST_TO_CONFIRM
        parts = prompts.halves(seed=seed) if wanted else (range(len(prompts)), ())
        halves = [tuple(prompts.batches(batch_size, items=part)) for part in parts]
        work = cls(
            prompts=prompts,
            choices=choices,
            batch_size=batch_size,
            seed=seed,
            resident=resident,
            first_half=halves[0],
            second_half=halves[1],
            arrays=empty_arrays(n_items=len(prompts), n_orders=len(prompts.orders), n_units=len(choices.parts)),
        )
        if not wanted:
            why = f"fewer than {FEWEST_TO_CONFIRM} independent items"
            why = "confirm=False" if not confirm else "no readout was asked for" if choices.readout is None else why
            prompts.notes.append(f"taking a unit out in a real forward ({why}).")
        if choices.readout is None:
            prompts.notes.append("the signed split of what is read (readout=None).")
        if not choices.free_base:
            prompts.notes.append("OutputCo, the base's own verdicts and the embedding change (output_share=False).")
        return work

    def store(self, name: str, items: Sequence[int], values: np.ndarray) -> None:
        """Write a batch's values, ``[prompt, ...]``, to their items."""
        self.arrays[name][list(items)] = self.prompts.by_item(values)


def _numerics(work: _Work) -> None:
    """Step 7a: the judge against itself is exactly 0 in the same shape; in another shape it is the noise floor."""
    judge, choices = work.prompts.pair.executor("judge"), work.choices
    how = choices.how.alone

    def against_itself(items: Sequence[int]) -> tuple[float, float]:
        batch = work.prompts.batch(items)
        found = measure(judge, judge, batch, parts=choices.parts, how=how)
        row = share_quantities(found, norm=choices.norm, weigh=as_logits_see(judge))
        identical = float(row["finetuned_norm"].max())
        check_null(identical)
        return identical, noise_share(judge, batch, parts=choices.parts, norm=choices.norm, how=how)

    work.identical, work.noise = work.prompts.on_some(work.first_half[0][:2], against_itself)


def _measure_items(work: _Work, *, switch: Switch, progress: bool) -> None:
    """Steps 1 to 6 on every item, and step 8 on the second half."""
    prompts, pair = work.prompts, work.prompts.pair
    judge, base = pair.executor("judge"), pair.executor("base")
    with progress_bar(len(prompts), title="TuCo", shown=progress) as bar:
        for batches, confirming in ((work.first_half, False), (work.second_half, True)):
            if confirming and batches:
                work.confirmed = _choose_unit(work)
            turns = Turns(prompts, judge, base, choices=work.choices, switch=switch, apart=work.resident != "both")
            for chosen, measured in turns.measured(batches):
                for name, values in measured.row.items():
                    work.store(name, chosen, values)
                if confirming:
                    switch("judge")
                    _confirm(work, judge, chosen, measured)
                prompts.done[list(chosen)] = True
                bar.update(len(chosen))


def _choose_unit(work: _Work) -> Unit:
    """Name the unit whose F pushed hardest toward the label (toward the judge's own verdict without labels)."""
    sign = work.prompts.slot_sign
    orientation = np.where(np.isnan(sign), np.sign(work.arrays["judge_gap"]), sign)
    pushes = work.arrays["finetuned_push"] * orientation[..., None]
    return work.choices.parts[int(np.argmax(np.abs(np.nanmean(pushes[work.prompts.done], axis=(0, 1)))))]


def _confirm(work: _Work, judge: HooksBackend, chosen: Sequence[int], measured: Measured) -> None:
    """Step 8: run the judge with that unit's write replaced by the base's, and by a random change of equal length."""
    unit, reads = work.confirmed, work.choices.readout
    if unit is None or reads is None:
        return
    index = work.choices.parts.index(unit)
    removed = measured.found.finetuned[:, index]
    random = torch.from_numpy(work.prompts.noise(chosen, removed.shape[-1], seed=work.seed)).to(removed)
    random *= removed.norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True)
    output = measured.found.judge_outputs[:, index].float()
    for name, change in (("confirmed_effect", removed), ("confirmed_control", random)):
        values = (output - change).to(work.prompts.pair.dtype)
        for some, gap in work.prompts.each([chosen], partial(_patched, work, judge, chosen, unit, values, reads)):
            own = measured.row["judge_gap"][work.prompts.within(chosen, some)]
            work.store(name, some, own - gap)


def _patched(
    work: _Work,
    judge: HooksBackend,
    items: Sequence[int],
    unit: Unit,
    values: Tensor,
    reads: Readout,
    chosen: Sequence[int],
) -> np.ndarray:
    """Return the judge's number on some of a batch's items with a unit's output replaced."""
    own = values[work.prompts.within(items, chosen)]
    return patched_gap(judge, work.prompts.batch(chosen), unit=unit, values=own, readout=reads)


def _measure_controls(work: _Work, *, draws: int, limit: int | None, progress: bool) -> None:
    """Step 7b: a judge moved as far in random directions, on the same items."""
    prompts, pair = work.prompts, work.prompts.pair
    chosen = controlled_items(prompts, draws=draws, limit=limit, seed=work.seed)
    if not chosen:
        return
    base = pair.executor("base")
    choices = replace(work.choices, free_base=False)
    blank = np.full((draws, len(prompts), len(prompts.orders)), np.nan)
    for name in ("control_finetuned_norm", "control_pretrained_norm", "control_push"):
        work.arrays[name] = blank.copy()
    title = "TuCo of a random change"
    with progress_bar(draws * len(chosen), title=title, shown=progress) as bar:
        for draw, (control, judge) in enumerate(random_judges(pair, draws=draws, seed=work.seed)):
            batches = prompts.batches(work.batch_size, items=chosen)
            with taking_turns(control, work.resident) as switch:
                turns = Turns(prompts, judge, base, choices=choices, switch=switch, apart=work.resident != "both")
                for some, found in turns.measured(batches):
                    for name in ("finetuned_norm", "pretrained_norm"):
                        work.arrays[f"control_{name}"][draw, list(some)] = prompts.by_item(found.row[name])
                    if "finetuned_push" in found.row:
                        pushed = found.row["finetuned_push"].sum(-1)
                        work.arrays["control_push"][draw, list(some)] = prompts.by_item(pushed)
                    bar.update(len(some))


def _assemble(work: _Work, *, parameters: dict[str, object], wall_time_s: float) -> TucoResult:
    prompts, parts, reads = work.prompts, work.choices.parts, work.choices.readout
    arrays = {
        name: prompts.kept(array, axis=1 if name.startswith("control_") else 0) for name, array in work.arrays.items()
    }
    return TucoResult(
        **prompts.axes(),  # type: ignore[arg-type]
        **arrays,
        units=tuple(unit.label for unit in parts),
        unit_layers=tuple(unit.layer for unit in parts),
        unit_components=tuple(str(unit.component) for unit in parts),
        granularity=str(parameters["granularity"]),
        norm=work.choices.norm,
        norms=NORMS,
        readout=type(reads).__name__ if reads is not None else "",
        unit=reads.unit if reads is not None else "",
        exact=reads is None or reads.exact,
        choices=prompts.choices,
        merged=prompts.pair.kind == "full",
        confirmed_unit=work.confirmed.label if work.confirmed else None,
        identical_share=work.identical,
        shortcut_error=work.shortcut,
        meta=run_meta(
            prompts.pair,
            prompts.kept_items(),
            analysis="tuco",
            parameters=parameters,
            seed=work.seed,
            wall_time_s=wall_time_s,
            noise_floor=None if np.isnan(work.noise) else work.noise,
            warnings=prompts.warnings,
            not_measured=prompts.notes,
        ),
    )


def _check(norm: str, resident: str) -> None:
    if norm not in NORMS:
        raise ParameterError("unknown choice.", argument="norm", got=norm, allowed=NORMS)
    if resident not in ("both", "one"):
        usable_device(resident, argument="resident", besides=("both", "one"))
