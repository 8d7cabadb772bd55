"""How much of each verdict did fine-tuning contribute, where, and in which direction?

    TuCo = |F| / (|P| + |F|),   F = sum_l [judge_l(x_l) - base_l(x_l)],   P = sum_l [base_l(x_l)]

at the last prompt token, both models reading the judge's own residual stream x_l.
Paper: Nuti, Franzmeyer, Henriques, "TuCo", ICML 2025 (arXiv 2506.23423), Definition 4.3, Algorithm 1.

Steps: 1 record the judge's stream, 2 clamp the base to it, 3 subtract, 4 shares, 5 free base run
(OutputCo, section 5.5), 6 signed split of the verdict gap, 7 controls (the judge against itself; a
random change of equal norm), 8 confirmation: take out the unit named on one half of the items in a
real forward on the other half.

What it can't do: count what fine-tuned blocks cause in later blocks (those writes are booked as P);
say that a change is meaningful because it is large: a random change of the same size has a TuCo too.
Falsified if the judge against itself gives anything but 0, or the parts don't add up to the gap.
"""

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm.auto import tqdm

from analyses.tuco.clamp import Granularity, Unit, measure, units
from analyses.tuco.prompts import Choices, Measured, measure_prompts, noise_share, patched_gap, share_quantities
from analyses.tuco.result import TucoResult, empty_arrays
from analyses.tuco.shares import Norm
from workbench.errors import ExecutorDisagreement, ItemError, ParameterError
from workbench.hooks import HooksBackend
from workbench.judges import ORDERS, EncodedPrompts, JudgeItem, Order
from workbench.pairs import Pair, random_delta_pair, run_meta
from workbench.tokens import TokenBatch

_FEWEST_TO_CONFIRM = 8


def run(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    granularity: Granularity = "block",
    norm: Norm = "l1",
    verdict: bool = True,
    output_share: bool = True,
    controls: int = 5,
    control_items: int | None = 32,
    confirm: bool = True,
    numerics: bool = True,
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
        norm: ``"l1"`` (Definition 4.3) or ``"l2"``.
        verdict: Whether to split the verdict logit gap; needs labels that differ in their first token.
        output_share: Whether the base also runs freely, for OutputCo and its own verdicts (one more forward).
        controls: Number of random judges of equal norm to measure beside the real one, two forwards an item each;
            with fewer than three no push can be told from chance.
        control_items: On how many items they are measured; None for all.
        confirm: Whether to take out the named unit in a real forward (two more on half the items).
        numerics: Whether to run the judge against itself on the first items (exactly 0) and measure the noise floor.
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
    _check(items, orders=orders, batch_size=batch_size, controls=controls, control_items=control_items)
    encoded = pair.encode(items, orders=orders)
    parts = units(granularity, n_layers=pair.n_layers, parallel=pair.anatomy("judge").parallel)
    choices = Choices(
        parts=parts,
        norm=norm,
        ids=(encoded.first_token_ids.a, encoded.first_token_ids.b) if verdict else None,
        free_base=output_share,
    )
    work = _Work.plan(
        pair, items, encoded, choices=choices, orders=tuple(orders), batch_size=batch_size, seed=seed, confirm=confirm
    )
    try:
        if numerics:
            _numerics(work)
        else:
            work.notes.append("the judge against itself, and the noise floor (numerics=False).")
        _measure_items(work, progress=progress)
        _measure_controls(work, draws=controls, limit=control_items, progress=progress)
    except KeyboardInterrupt:
        if not work.done.any():
            raise
        work.notes.append(f"{len(items) - int(work.done.sum())} of {len(items)} items: the run was interrupted.")
        warnings.warn(work.notes[-1], RuntimeWarning, stacklevel=2)
    parameters = {
        "granularity": granularity,
        "norm": norm,
        "verdict": verdict,
        "output_share": output_share,
        "controls": controls,
        "control_items": control_items,
        "confirm": confirm,
        "numerics": numerics,
        "orders": list(orders),
        "batch_size": batch_size,
    }
    return _assemble(work, parameters=parameters, wall_time_s=time.perf_counter() - started)


@dataclass(slots=True, kw_only=True)
class _Work:
    """State of one run: what is planned, what is measured so far."""

    pair: Pair
    items: Sequence[JudgeItem]
    encoded: EncodedPrompts
    choices: Choices
    orders: tuple[Order, ...]
    seed: int
    first_half: tuple[tuple[int, ...], ...]
    """Batches of item indices on which the unit to confirm is chosen."""
    second_half: tuple[tuple[int, ...], ...]
    """Batches of the items it is tested on; empty when nothing is confirmed."""
    arrays: dict[str, np.ndarray]
    done: np.ndarray
    notes: list[str] = field(default_factory=list)
    noise: float = float("nan")
    identical: float = float("nan")
    confirmed: Unit | None = None

    @classmethod
    def plan(
        cls,
        pair: Pair,
        items: Sequence[JudgeItem],
        encoded: EncodedPrompts,
        *,
        choices: Choices,
        orders: tuple[Order, ...],
        batch_size: int,
        seed: int,
        confirm: bool,
    ) -> "_Work":
        n = len(items)
        lengths = [max(len(encoded.rows[i * len(orders) + k]) for k in range(len(orders))) for i in range(n)]
        wanted = confirm and choices.ids is not None and len({item.cluster for item in items}) >= _FEWEST_TO_CONFIRM
        per_batch = max(1, batch_size // len(orders))
        parts = _halves(items, seed=seed) if wanted else (range(n), ())
        halves = [tuple(_batches(part, lengths, per_batch)) for part in parts]
        work = cls(
            pair=pair,
            items=items,
            encoded=encoded,
            choices=choices,
            orders=orders,
            seed=seed,
            first_half=halves[0],
            second_half=halves[1],
            arrays=empty_arrays(n_items=n, n_orders=len(orders), n_units=len(choices.parts)),
            done=np.zeros(n, dtype=bool),
        )
        if confirm and not wanted:
            why = (
                "no verdict split was asked for"
                if choices.ids is None
                else f"fewer than {_FEWEST_TO_CONFIRM} independent items"
            )
            work.notes.append(f"taking a unit out in a real forward ({why}).")
        elif not confirm:
            work.notes.append("taking a unit out in a real forward (confirm=False).")
        if choices.ids is None:
            work.notes.append("the split of the verdict gap (verdict=False).")
        if not choices.free_base:
            work.notes.append("OutputCo, the base's own verdicts and the embedding change (output_share=False).")
        return work

    def rows_of(self, items: Sequence[int]) -> list[int]:
        """Return the prompt rows of some items, item by item and order by order."""
        return [i * len(self.orders) + k for i in items for k in range(len(self.orders))]

    def batch(self, items: Sequence[int]) -> TokenBatch:
        """Return the token batch of some items on the pair's device."""
        return self.encoded.batch(self.rows_of(items), device=self.pair.device)

    def store(self, name: str, items: Sequence[int], values: np.ndarray) -> None:
        """Write a batch's values, ``[prompt, ...]``, to their items."""
        self.arrays[name][list(items)] = values.reshape(len(items), len(self.orders), *values.shape[1:])


def _numerics(work: _Work) -> None:
    """Step 7a: the judge against itself is exactly 0 in the same shape; in another shape it is the noise floor."""
    judge = work.pair.executor("judge")
    batch = work.batch(work.first_half[0][:2])
    row = share_quantities(measure(judge, judge, batch, parts=work.choices.parts), norm=work.choices.norm)
    work.identical = float(row["finetuned_norm"].max())
    if work.identical != 0.0:
        raise ExecutorDisagreement(
            "the judge clamped to its own stream doesn't repeat itself, so a contribution can't be told from noise.",
            argument="pair",
            got=f"|F| = {work.identical:.3g} where 0 was due",
            fix="Use deterministic kernels (torch.use_deterministic_algorithms) or attention='eager'.",
        )
    work.noise = noise_share(judge, batch, parts=work.choices.parts, norm=work.choices.norm)


def _measure_items(work: _Work, *, progress: bool) -> None:
    """Steps 1 to 6 on every item, and step 8 on the second half."""
    judge, base = work.pair.executor("judge"), work.pair.executor("base")
    with tqdm(total=len(work.items), desc="TuCo", unit="item", disable=not progress) as bar:
        for batches, confirming in ((work.first_half, False), (work.second_half, True)):
            if confirming and batches:
                work.confirmed = _choose_unit(work)
            for chosen in batches:
                batch = work.batch(chosen)
                measured = measure_prompts(judge, base, batch, choices=work.choices)
                for name, values in measured.row.items():
                    work.store(name, chosen, values)
                if confirming:
                    _confirm(work, judge, batch, chosen, measured)
                work.done[list(chosen)] = True
                bar.update(len(chosen))


def _choose_unit(work: _Work) -> Unit:
    """Name the unit whose F pushed hardest toward the label (toward the judge's own verdict without labels)."""
    orientation = np.where(np.isnan(label := _label_sign(work)), np.sign(work.arrays["judge_gap"]), label)
    pushes = np.nanmean((work.arrays["finetuned_push"] * orientation[..., None])[work.done], axis=(0, 1))
    return work.choices.parts[int(np.argmax(np.abs(pushes)))]


def _confirm(work: _Work, judge: HooksBackend, batch: TokenBatch, chosen: Sequence[int], measured: Measured) -> None:
    """Step 8: run the judge with that unit's write replaced by the base's, and by a random change of equal length."""
    unit = work.confirmed
    ids = work.choices.ids
    if unit is None or ids is None:
        return
    index = work.choices.parts.index(unit)
    removed = measured.found.finetuned[:, index]
    noise = np.random.default_rng([work.seed, *chosen]).standard_normal(tuple(removed.shape))
    random = torch.from_numpy(noise).to(removed)
    random *= removed.norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True)
    output = measured.found.judge_outputs[:, index].float()
    for name, change in (("confirmed_effect", removed), ("confirmed_control", random)):
        values = (output - change).to(measured.found.judge_outputs.dtype)
        gap = patched_gap(judge, batch, unit=unit, values=values, ids=ids)
        work.store(name, chosen, measured.row["judge_gap"] - gap)


def _measure_controls(work: _Work, *, draws: int, limit: int | None, progress: bool) -> None:
    """Step 7b: a judge moved as far in random directions, on the same items."""
    if draws == 0:
        work.notes.append("a random change of equal norm (controls=0).")
        return
    if not any(change.change for change in work.pair.delta().changes):
        work.notes.append("a random change of equal norm: base and judge are the same model.")
        return
    chosen = sorted(int(i) for i in np.random.default_rng(work.seed).permutation(len(work.items))[:limit])
    if len(chosen) < len(work.items):
        work.notes.append(
            f"the random change on {len(work.items) - len(chosen)} of {len(work.items)} items (control_items)."
        )
    base = work.pair.executor("base")
    choices = Choices(parts=work.choices.parts, norm=work.choices.norm, ids=work.choices.ids, free_base=False)
    blank = np.full((draws, *work.done.shape, len(work.orders)), np.nan)
    for name in ("control_finetuned_norm", "control_pretrained_norm", "control_push"):
        work.arrays[name] = blank.copy()
    lengths = [len(work.encoded.rows[i * len(work.orders)]) for i in range(len(work.items))]
    per_batch = len(work.first_half[0])
    with tqdm(total=draws * len(chosen), desc="TuCo of a random change", unit="item", disable=not progress) as bar:
        for draw in range(draws):
            control = random_delta_pair(work.pair, seed=work.seed + draw)
            judge = HooksBackend(control.judge, work.pair.anatomy("judge"))
            for some in _batches(chosen, lengths, per_batch):
                row = measure_prompts(judge, base, work.batch(some), choices=choices).row
                shape = (len(some), len(work.orders))
                work.arrays["control_finetuned_norm"][draw, list(some)] = row["finetuned_norm"].reshape(shape)
                work.arrays["control_pretrained_norm"][draw, list(some)] = row["pretrained_norm"].reshape(shape)
                if "finetuned_push" in row:
                    work.arrays["control_push"][draw, list(some)] = row["finetuned_push"].sum(-1).reshape(shape)
                bar.update(len(some))


def _assemble(work: _Work, *, parameters: dict[str, object], wall_time_s: float) -> TucoResult:
    keep = np.flatnonzero(work.done)
    items = [work.items[int(i)] for i in keep] if len(keep) < len(work.items) else work.items
    arrays = {name: np.take(a, keep, axis=1 if name.startswith("control_") else 0) for name, a in work.arrays.items()}
    for array in arrays.values():
        array.setflags(write=False)
    labels = np.array([-1 if item.label is None else item.label for item in items])
    groups = work.encoded.groups
    parts = work.choices.parts
    return TucoResult(
        item_ids=tuple(item.item_id for item in items),
        clusters=tuple(item.cluster for item in items),
        orders=work.orders,
        units=tuple(unit.label for unit in parts),
        unit_layers=tuple(unit.layer for unit in parts),
        unit_components=tuple(str(unit.component) for unit in parts),
        granularity=str(parameters["granularity"]),
        norm=work.choices.norm,
        choices=tuple(work.encoded.labels[groups[name][0]] for name in ("A", "B")),
        questions=tuple(item.question for item in items),
        confirmed_unit=work.confirmed.label if work.confirmed else None,
        labels=labels,
        identical_share=work.identical,
        meta=run_meta(
            work.pair,
            items,
            analysis="tuco",
            parameters=parameters,
            seed=work.seed,
            wall_time_s=wall_time_s,
            noise_floor=None if np.isnan(work.noise) else work.noise,
            warnings=work.encoded.notes,
            not_measured=work.notes,
        ),
        **arrays,
    )


def _batches(chosen: Iterable[int], lengths: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """Yield item indices in batches of similar length, longest first, so that memory runs out early or not at all."""
    ordered = sorted((int(i) for i in chosen), key=lambda i: (-lengths[i], i))
    for start in range(0, len(ordered), size):
        yield tuple(ordered[start : start + size])


def _halves(items: Sequence[JudgeItem], *, seed: int) -> tuple[list[int], list[int]]:
    """Split items at random so that no cluster has items in both halves."""
    clusters = sorted({item.cluster for item in items})
    order = np.random.default_rng(seed).permutation(len(clusters))
    first = {clusters[int(i)] for i in order[: len(clusters) // 2]}
    halves: tuple[list[int], list[int]] = ([], [])
    for index, item in enumerate(items):
        halves[item.cluster not in first].append(index)
    return halves


def _label_sign(work: _Work) -> np.ndarray:
    labels = np.array([np.nan if item.label is None else 1.0 - 2.0 * item.label for item in work.items])
    slots = np.array([1.0 if order == "original" else -1.0 for order in work.orders])
    return labels[:, None] * slots[None, :]


def _check(
    items: Sequence[JudgeItem], *, orders: Sequence[Order], batch_size: int, controls: int, control_items: int | None
) -> None:
    if not len(items):
        raise ItemError(
            "there is nothing to judge.", argument="items", got="no items", fix="Check the item source and its limit."
        )
    if not orders or set(orders) - set(ORDERS) or len(set(orders)) < len(orders):
        raise ParameterError("unknown or repeated answer order.", argument="orders", got=list(orders), allowed=ORDERS)
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("controls", controls, 0),
        ("control_items", control_items, 2),
    ):
        if value is not None and value < least:
            raise ParameterError("too small.", argument=name, got=value, allowed=f"{least} or more")
