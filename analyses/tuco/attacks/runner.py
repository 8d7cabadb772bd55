"""What does an attack do to a judge beyond what any suffix of its length does, and does fine-tuning write it?

    effect = [attack - clean] - [benign - clean],   per item, on TuCo, on F's push toward the carrier, on the gap

Paired attack and clean prompts were compared by TuCo in Nuti et al. 2025, section 5.3, without controls of length or
template; here every attacked prompt has a plain and a random twin that differ in the suffix alone and are as long.

Steps: 1 make the variants, 2 measure TuCo and the signed split on all of them, 3 put the clean run's F into the
attacked run (unit named on one half of the items, tested on the other), 4 the same effects in judges moved as far in
random directions, 5 TuCo at every token the variants share.

What it can't do: tell an attack nobody has paired with its clean prompt.
Falsified if base and judge are the same model and any effect on F isn't exactly 0, or a token before the suffix moves.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from analyses.looping import (
    FEWEST_TO_CONFIRM,
    Prompts,
    check_least,
    controlled_items,
    interruptible,
    progress_bar,
    random_judges,
)
from analyses.readout import LabelGap
from analyses.tuco import shares
from analyses.tuco.attacks.contrasts import VARIANTS, Variant
from analyses.tuco.attacks.patching import CONTROLS, AttackedRun, null_error, patched_gaps
from analyses.tuco.attacks.result import AttackResult
from analyses.tuco.attacks.token_map import TokenMap, spread_items
from analyses.tuco.checks import settle
from analyses.tuco.clamp import Contributions, measure
from analyses.tuco.cuts import Granularity, units
from analyses.tuco.evaluation import Evaluation
from analyses.tuco.prompts import Choices, Measured, Row, measure_prompts, noise_share
from analyses.tuco.shares import Norm
from workbench.hooks import HooksBackend
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.judges.variants import AttackVariants, Carrier, attack_variants
from workbench.pairs import Pair, run_meta

_STORED = ("finetuned_norm", "pretrained_norm", "finetuned_parts", "judge_gap", "base_gap", "finetuned_push",
           "pretrained_push")  # fmt: skip


def compare_attacks(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    attack: str | Sequence[str],
    benign: Sequence[str] | None = None,
    carrier: Carrier | int = "worse",
    granularity: Granularity = "block",
    norm: Norm = "l1",
    orders: Sequence[Order] = ORDERS,
    controls: int = 3,
    control_items: int | None = 32,
    patch: bool = True,
    token_items: int | None = 32,
    permutations: int = 2000,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> AttackResult:
    """Compare every item clean, attacked, and with a plain and a random suffix as long as the attack.

    Args:
        pair: Base and judge.
        items: What to judge, clean; each is shown in every order of ``orders`` and in all four variants.
        attack: The suffix, or several of which each item draws one.
        benign: Plain remarks to draw the benign suffix from; a pool of the workbench's own when None.
        carrier: The answer the suffix is put on: ``"worse"``, ``"better"``, ``"random"`` or an index.
        granularity: ``"block"``, ``"sublayer"``, a number of blocks, or ``"model"``.
        norm: ``"l1"``, ``"l2"``, or ``"final_norm"`` (L2 of what the logits see of a write).
        orders: Answer orders to show.
        controls: Number of random judges of equal norm; with fewer than three nothing can be told from chance.
        control_items: On how many items they are measured; None for all.
        patch: Whether to put the clean run's fine-tuned component into attacked runs; about one more forward per unit
            for half of the items.
        token_items: On how many items the tokens shared by the variants are compared; 0 for none, None for all.
        permutations: Sign patterns drawn in a test, where there are too many to go through.
        batch_size: Prompts per forward.
        seed: Seed of suffixes, splits, controls, tests and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ParameterError: A choice isn't allowed.
        ItemError: There are no items, a carrier can't be named, or no control suffix of the attack's length was found.
        FormatError: The verdict labels don't differ in their first token.
        ContextWindowError: A prompt is longer than the models' window.
    """
    started = time.perf_counter()
    check_least(
        controls=(controls, 0),
        control_items=(control_items, 2),
        token_items=(token_items, 0),
        permutations=(permutations, 1),
        batch_size=(batch_size, 1),
    )
    parts = units(granularity, n_layers=pair.n_layers, parallel=pair.anatomy("judge").parallel)
    variants = attack_variants(
        items, attack=attack, benign=benign, tokenizer=pair.tokenizer, carrier=carrier, format=pair.format, seed=seed
    )
    work = _Work.plan(
        pair, variants, parts=parts, norm=norm, orders=orders, draws=controls, batch_size=batch_size, seed=seed
    )
    with interruptible(work.clean):
        how, _ = settle(work.clean, work.first[0][:1], parts=parts, how=work.choices.how)
        work.choices = replace(work.choices, how=how)
        work.noise = work.clean.on_some(
            work.first[0][:2],
            lambda some: noise_share(
                pair.executor("judge"), work.clean.batch(some), parts=parts, norm=norm, how=how.alone
            ),
        )
        _measure_items(work, patch=patch, progress=progress)
        _measure_controls(work, limit=control_items, progress=progress)
        _measure_tokens(work, limit=token_items, progress=progress)
    parameters = {
        "attack": [attack] if isinstance(attack, str) else list(attack),
        "benign": None if benign is None else list(benign),
        "carrier": carrier,
        "granularity": granularity,
        "norm": norm,
        "orders": list(work.clean.orders),
        "controls": controls,
        "control_items": control_items,
        "patch": patch,
        "token_items": token_items,
        "permutations": permutations,
        "batch_size": batch_size,
    }
    return _assemble(work, parameters=parameters, wall_time_s=time.perf_counter() - started)


@dataclass(slots=True, kw_only=True)
class _Work:
    """State of one run: what is planned, what is measured so far."""

    pair: Pair
    variants: AttackVariants
    prompts: dict[Variant, Prompts]
    choices: Choices
    batch_size: int
    seed: int
    first: tuple[tuple[int, ...], ...]
    """Batches of items on which the unit to patch is named."""
    second: tuple[tuple[int, ...], ...]
    """Batches of items it is patched on."""
    arrays: dict[str, np.ndarray]
    tokens: TokenMap
    noise: float = float("nan")
    null: float = float("nan")
    chosen: int | None = None

    @classmethod
    def plan(
        cls,
        pair: Pair,
        variants: AttackVariants,
        *,
        parts: tuple[Any, ...],
        norm: Norm,
        orders: Sequence[Order],
        draws: int,
        batch_size: int,
        seed: int,
    ) -> "_Work":
        prompts: dict[Variant, Prompts] = {
            name: Prompts.of(pair, getattr(variants, name), orders=orders) for name in VARIANTS
        }
        clean = prompts["clean"]
        halves = clean.halves(seed=seed) if clean.n_clusters >= FEWEST_TO_CONFIRM else (range(len(clean)), ())
        sizes = {"variant": len(VARIANTS), "item": len(clean), "order": len(clean.orders), "unit": len(parts)}
        sizes |= {"draw": draws, "control": len(CONTROLS)}
        arrays = {
            name: np.full([sizes[axis] for axis in axes], np.nan)
            for name, axes in AttackResult.AXES.items()
            if set(axes) <= set(sizes) and axes != ("item",)
        }
        return cls(
            pair=pair,
            variants=variants,
            prompts=prompts,
            choices=Choices(
                parts=parts,
                norm=norm,
                readout=LabelGap(*clean.verdict_ids),
                free_base=True,
                how=Evaluation.best(clean, parts),
            ),
            batch_size=batch_size,
            seed=seed,
            first=tuple(clean.batches(batch_size, items=halves[0])),
            second=tuple(clean.batches(batch_size, items=halves[1])),
            arrays=arrays,
            tokens=TokenMap.plan(prompts, items=(), carrier_first=np.zeros((0, 0), dtype=bool), n_units=len(parts)),
        )

    @property
    def clean(self) -> Prompts:
        """Return the clean prompts, which keep track of what is done."""
        return self.prompts["clean"]

    @property
    def carrier_sign(self) -> np.ndarray:
        """Return +1 where the carrier stands in the first slot, by item and order."""
        slots = np.array([1.0 if order == "original" else -1.0 for order in self.clean.orders])
        return (1.0 - 2.0 * np.array(self.variants.carriers))[:, None] * slots

    def store(self, name: str, values: np.ndarray, *, items: Sequence[int], at: int) -> None:
        """Write a batch's values, ``[prompt, ...]``, to their items of one variant, draw or control."""
        self.arrays[name][at, list(items)] = self.clean.by_item(values)


def _measure_items(work: _Work, *, patch: bool, progress: bool) -> None:
    """Step 2 on every item, step 3 on the second half."""
    if not patch or not work.second:
        why = "patch=False" if not patch else f"fewer than {FEWEST_TO_CONFIRM} independent items"
        work.clean.notes.append(f"attacked runs with the clean run's fine-tuned component ({why}).")
    with progress_bar(len(work.clean), title="attack and clean", shown=progress) as bar:
        for batches, patching in ((work.first, False), (work.second, patch)):
            if patching and batches:
                work.chosen = _choose_unit(work)
            for chosen, _ in work.clean.each(batches, partial(_measure_variants, work, patching)):
                work.clean.done[list(chosen)] = True
                bar.update(len(chosen))


def _measure_variants(work: _Work, patching: bool, chosen: Sequence[int]) -> None:
    judge, base = work.pair.executor("judge"), work.pair.executor("base")
    found: dict[Variant, Measured] = {name: _measure_variant(work, judge, base, name, chosen) for name in VARIANTS}
    if patching:
        _patch(work, judge, base, chosen, found)


def _measure_variant(
    work: _Work, judge: HooksBackend, base: HooksBackend, name: Variant, chosen: Sequence[int]
) -> Measured:
    measured = measure_prompts(judge, base, work.prompts[name].batch(chosen), choices=work.choices)
    for quantity in _STORED:
        work.store(quantity, measured.row[quantity], items=chosen, at=VARIANTS.index(name))
    return measured


def _choose_unit(work: _Work) -> int:
    """Name the unit whose F the attack pushed furthest from the clean run's, over the items done so far."""
    pushes = work.arrays["finetuned_push"]
    change = pushes[VARIANTS.index("attack")] - pushes[VARIANTS.index("clean")]
    moved = np.nanmean((change * work.carrier_sign[..., None])[work.clean.done], axis=(0, 1))
    return int(np.argmax(np.abs(moved)))


def _patch(
    work: _Work, judge: HooksBackend, base: HooksBackend, chosen: Sequence[int], found: Mapping[Variant, Measured]
) -> None:
    """Step 3: the clean component, and the controls, in the attacked runs of one batch."""
    if work.chosen is None:
        return
    batch = work.prompts["attack"].batch(chosen)
    run = AttackedRun.of(
        judge,
        base,
        batch,
        parts=work.choices.parts,
        found=found["attack"].found,
        readout=LabelGap(*work.clean.verdict_ids),
    )
    if np.isnan(work.null):
        work.null = null_error(run, gap=found["attack"].row["judge_gap"])
    gaps = patched_gaps(
        run,
        clean=found["clean"].found,
        other=_other_items(work, judge, base, chosen),
        chosen=work.chosen,
        noise=work.clean.noise(chosen, *found["attack"].found.finetuned.shape[1:], seed=work.seed),
    )
    for name, values in (("patched_gap", gaps.one), ("rebuilt_gap", gaps.first)):
        work.arrays[name][list(chosen)] = work.clean.by_item(values)
    for k in range(len(CONTROLS)):
        work.store("patched_control", gaps.one_control[k], items=chosen, at=k)
        work.store("rebuilt_control", gaps.all_control[k], items=chosen, at=k)


def _other_items(work: _Work, judge: HooksBackend, base: HooksBackend, chosen: Sequence[int]) -> Contributions:
    """Measure a clean item of the first half, which shares no cluster with the second, for each of these."""
    pool = [i for batch in work.first for i in batch]
    # Drawn for each item by itself, so that it is the same one in whatever batch the item is.
    drawn = [pool[int(np.random.default_rng([work.seed, 1, item]).integers(len(pool)))] for item in chosen]
    return measure(judge, base, work.clean.batch(drawn), parts=work.choices.parts, how=work.choices.how)


def _measure_controls(work: _Work, *, limit: int | None, progress: bool) -> None:
    """Step 4: attack and plain remark before judges moved as far in random directions."""
    draws = len(work.arrays["control_push"])
    chosen = [i for i in controlled_items(work.clean, draws=draws, limit=limit, seed=work.seed) if work.clean.done[i]]
    if not chosen:
        return
    base = work.pair.executor("base")
    choices = replace(work.choices, free_base=False)
    with progress_bar(draws * len(chosen), title="random judges", shown=progress) as bar:
        for draw, (_, judge) in enumerate(random_judges(work.pair, draws=draws, seed=work.seed)):
            batches = work.clean.batches(work.batch_size, items=chosen)
            for some, rows in work.clean.each(batches, partial(_control_rows, work, judge, base, choices)):
                for name, row in rows.items():
                    _store_control(work, row, items=some, draw=draw, variant=VARIANTS.index(name))
                bar.update(len(some))


def _control_rows(
    work: _Work, judge: HooksBackend, base: HooksBackend, choices: Choices, some: Sequence[int]
) -> dict[Variant, Row]:
    names: tuple[Variant, ...] = ("attack", "benign")
    return {name: measure_prompts(judge, base, work.prompts[name].batch(some), choices=choices).row for name in names}


def _store_control(
    work: _Work, row: Mapping[str, np.ndarray], *, items: Sequence[int], draw: int, variant: int
) -> None:
    quantities = {
        "control_tuco": shares.share(row["finetuned_norm"], row["pretrained_norm"]),
        "control_push": row["finetuned_push"].sum(-1),
        "control_gap": row["judge_gap"],
    }
    for name, values in quantities.items():
        work.arrays[name][draw, variant, list(items)] = work.clean.by_item(values)


def _measure_tokens(work: _Work, *, limit: int | None, progress: bool) -> None:
    """Step 5: the tokens all variants share."""
    if limit == 0:
        work.clean.notes.append("the tokens the variants share (token_items=0).")
        return
    chosen = [i for i in work.clean.sample(limit, seed=work.seed) if work.clean.done[i]]
    if len(chosen) < len(work.clean):
        work.clean.notes.append(
            f"shared tokens of {len(work.clean) - len(chosen)} of {len(work.clean)} items (token_items)."
        )
    work.tokens = TokenMap.plan(
        work.prompts, items=chosen, carrier_first=work.carrier_sign > 0, n_units=len(work.choices.parts)
    )
    work.tokens.fill(items=chosen, choices=work.choices, batch_size=work.batch_size, progress=progress)
    gap = work.arrays["judge_gap"] * work.carrier_sign
    moved = (gap[VARIANTS.index("attack")] - gap[VARIANTS.index("benign")]).mean(-1)
    work.tokens.show(spread_items(chosen, moved=moved), choices=work.choices)


def _assemble(work: _Work, *, parameters: Mapping[str, object], wall_time_s: float) -> AttackResult:
    clean, tokens = work.clean, work.tokens
    arrays = {
        name: clean.kept(values, axis=AttackResult.AXES[name].index("item")) for name, values in work.arrays.items()
    }
    kept = np.flatnonzero(clean.done)
    parts = work.choices.parts
    notes = [note for prompts in work.prompts.values() for note in prompts.warnings]
    return AttackResult(
        **clean.axes(),
        units=tuple(unit.label for unit in parts),
        unit_layers=tuple(unit.layer for unit in parts),
        unit_components=tuple(str(unit.component) for unit in parts),
        granularity=str(parameters["granularity"]),
        norm=work.choices.norm,
        choices=clean.choices,
        carrier=str(parameters["carrier"]),
        suffixes=tuple(tuple(work.variants.suffixes[int(i)]) for i in kept),
        permutations=int(str(parameters["permutations"])),
        chosen_unit=None if work.chosen is None else parts[work.chosen].label,
        carriers=np.array(work.variants.carriers)[kept],
        added_tokens=np.array(work.variants.added_tokens)[kept],
        patch_null=work.null,
        **arrays,
        **tokens.fields(clean.kept),
        meta=run_meta(
            work.pair,
            clean.kept_items(),
            analysis="tuco.attacks",
            parameters=parameters,
            seed=work.seed,
            wall_time_s=wall_time_s,
            noise_floor=work.noise,
            warnings=[*work.variants.notes, *dict.fromkeys(notes)],
            not_measured=clean.notes,
        ),
    )
