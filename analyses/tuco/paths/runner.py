"""Which blocks and which text carried the change of the verdict that fine-tuning made, all routes counted?

    V(1) - V(0) = sum_{l,t} int_0^1 <dV/dx_{l+1,t}, FTC_{l,t}> d alpha

V(alpha): verdict logit gap (or another number read) of the judge with fine-tuning's contribution scaled
by alpha in every block (Nuti, Franzmeyer, Henriques, "TuCo", ICML 2025, Definition 5.1); the sum is over
blocks and tokens. Unlike direct writes at the last token, a write is worth what it does through everything
after it.

Steps: 1 the judge against itself gives exactly 0, 2 what is read at both ends, 3 the integral, refined until it is
complete, 4 sums by span, 5 name the strongest block and span on one half of the items, 6 on the other half
really take fine-tuning out: there, at another place of that kind, and in each block and each span, 7 random
changes of equal norm.

What it can't do: say that a place is needed; several may carry the same thing, and taking one out leaves the
others. Falsified if the parts don't add up to the change of the gap, if a block that wasn't tuned carries
anything, or if taking out the named place does no more than another.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from analyses.looping import Prompts, check_least, controlled_items, interruptible, progress_bar, random_judges
from analyses.readout import LabelGap, Readout
from analyses.tuco.paths.measure import Attribution, Cut, Ends, Precision, read_under
from analyses.tuco.paths.result import PathsResult
from analyses.tuco.paths.work import PathWork
from workbench.errors import ExecutorDisagreement, ParameterError
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, Scaling, identical_pair, run_meta

_CONTROL_TOLERANCE = 1e-2
"""Completeness error of a random change: its mean over items is a bound, not a finding."""


def attribute_paths(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    readout: Readout | Literal["verdict"] = "verdict",
    granularity: Cut = "block",
    nodes: int = 8,
    tolerance: float = 1e-5,
    max_nodes: int = 64,
    controls: int = 5,
    control_items: int | None = 16,
    confirm: bool = True,
    examples: int = 4,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> PathsResult:
    """Attribute the change of every verdict to blocks and tokens, completely.

    Args:
        pair: Base and judge.
        items: What to judge; each is shown in every order of ``orders``.
        readout: What is read at the last token: the verdict logit gap (needs labels that differ in their first token),
            or a rating or a head of its own (:mod:`analyses.readout`).
        granularity: ``"block"`` as in the paper, or ``"sublayer"`` for attention and MLP apart.
        nodes: Intervals of the first quadrature rule; each of its points is a forward and a backward of both models.
        tolerance: Completeness error at which a prompt is done; until then its rule is doubled.
        max_nodes: Intervals of the last rule tried; what error remains is in the result.
        controls: Number of random judges of equal norm; with fewer than three no place can be told from chance.
        control_items: On how many items they are measured; None for all.
        confirm: Whether to take fine-tuning out of places in real forwards, on the half of the items that named none.
        examples: How many items keep every token's attribution.
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
        FormatError: The labels of A and B don't differ in their first token.
        ExecutorDisagreement: The judge against itself isn't exactly 0 here.
    """
    started = time.perf_counter()
    check_least(
        batch_size=(batch_size, 1), nodes=(nodes, 1), max_nodes=(max_nodes, nodes), controls=(controls, 0),
        control_items=(control_items, 2), examples=(examples, 0),
    )  # fmt: skip
    if granularity not in ("block", "sublayer") or not tolerance > 0:
        raise ParameterError(
            "no such cut, or no such tolerance.",
            argument="granularity",
            got=(granularity, tolerance),
            allowed="'block' or 'sublayer', above 0",
        )
    prompts = Prompts.of(pair, items, orders=orders)
    half = pair.dtype.itemsize < 4
    precision = Precision(nodes=nodes, max_nodes=max_nodes, tolerance=tolerance, half=half)
    work = PathWork.plan(
        prompts,
        readout=LabelGap(*prompts.verdict_ids) if readout == "verdict" else readout,
        cut=granularity,
        precision=precision,
        confirm=confirm,
        examples=examples,
        seed=seed,
    )
    with interruptible(prompts):
        _numerics(work, size=batch_size)
        _measure_items(work, size=batch_size, progress=progress)
        _measure_controls(work, draws=controls, limit=control_items, size=batch_size, progress=progress)
    parameters = {
        "readout": readout if isinstance(readout, str) else repr(readout),
        "granularity": granularity,
        "nodes": nodes,
        "tolerance": tolerance,
        "max_nodes": max_nodes,
        "controls": controls,
        "control_items": control_items,
        "confirm": confirm,
        "examples": examples,
        "orders": list(orders),
        "batch_size": batch_size,
    }
    return _assemble(work, parameters=parameters, wall_time_s=time.perf_counter() - started)


def _numerics(work: PathWork, *, size: int) -> None:
    """Step 1: the judge against itself is exactly 0; its gap in another batch shape is the noise floor."""
    first = next(iter(work.prompts.batches(max(size, 2))))[:2]
    noise = work.prompts.on_some(first, partial(_against_itself, work))
    work.precision = replace(work.precision, noise=noise)


def _against_itself(work: PathWork, chosen: Sequence[int]) -> float:
    prompts, pair = work.prompts, work.prompts.pair
    trapezoid = Precision(nodes=1, max_nodes=1, tolerance=1.0)
    _, found = work.measure(identical_pair(pair), chosen, precision=trapezoid)
    largest = float(np.abs(found.by_token).max())
    if largest != 0.0:
        raise ExecutorDisagreement(
            "a block of the judge doesn't repeat itself, so a contribution can't be told from noise.",
            argument="pair",
            got=f"an attribution of {largest:.3g} logits where 0 was due",
            fix="Use deterministic kernels (torch.use_deterministic_algorithms) or attention='eager'.",
        )
    batch, own = prompts.batch(chosen), Scaling(1.0)
    together = read_under(pair, batch, scaling=own, readout=work.readout)
    alone = [read_under(pair, batch.row(k), scaling=own, readout=work.readout)[0] for k in range(len(batch))]
    return float(np.abs(together - np.array(alone)).max())


def _measure_items(work: PathWork, *, size: int, progress: bool) -> None:
    """Steps 2 to 6: every item is attributed; what is named on the first half is tested on the second."""
    prompts = work.prompts
    with progress_bar(len(prompts), title="TuCo along the path", shown=progress) as bar:
        for half, items in enumerate(work.halves):
            if half == 1 and items:
                _name(work)
            batches = prompts.batches(size, items=items)
            for chosen, (ends, found) in prompts.each(batches, partial(_attribute, work, half == 1)):
                _keep(work, chosen, ends, found)
                prompts.done[list(chosen)] = True
                bar.update(len(chosen))


def _attribute(work: PathWork, trying: bool, chosen: Sequence[int]) -> tuple[Ends, Attribution]:
    ends, found = work.measure(work.prompts.pair, chosen, precision=work.precision)
    if trying:
        _take_out(work, chosen, ends)
    return ends, found


def _keep(work: PathWork, chosen: Sequence[int], ends: Ends, found: Attribution) -> None:
    for name, values in (
        ("judge_gap", ends.judge_gap),
        ("base_gap", ends.base_gap),
        ("embedding_part", ends.embedding),
        ("head_part", ends.head),
        ("completeness_error", found.completeness_error),
        ("nodes", found.nodes),
    ):
        work.store(name, chosen, values)
    work.arrays["attribution"][list(chosen)] = work.by_region(chosen, found.by_token)
    for row, values in zip(work.prompts.rows_of(chosen), found.by_token, strict=True):
        item = row // len(work.prompts.orders)
        if item < work.n_examples:
            work.maps.setdefault(item, []).append(values[:, -len(work.prompts.encoded.rows[row]) :])


def _name(work: PathWork) -> None:
    """Step 5: name the unit and region whose attribution, in any view, is largest on the items done so far."""
    done, sign = work.prompts.done, work.prompts.slot_sign
    values = work.arrays["attribution"][done]
    means = []
    for view in work.views:
        own = sign[done] if view == "content" else np.ones_like(sign[done])
        means.append(np.abs(np.nanmean(values * own[..., None, None], axis=(0, 1))))
    sizes = np.stack(means)
    if not sizes.max() > 0:
        work.prompts.notes.append("taking fine-tuning out of places in real forwards (it changed nothing anywhere).")
        return
    view, unit, region = (int(i) for i in np.unravel_index(int(np.argmax(sizes)), sizes.shape))
    work.named, work.named_view = (unit, region), work.views[view]
    others = [cell for cell in np.argwhere(sizes.max(0) > 0).tolist() if cell != [unit, region]]
    if others:
        chosen = others[int(np.random.default_rng(work.seed).integers(len(others)))]
        work.other = (chosen[0], chosen[1])


def _take_out(work: PathWork, chosen: Sequence[int], ends: Ends) -> None:
    """Step 6: the judge with alpha 0 in places, everything after them reacting."""
    if work.named is None:
        return
    batch, pair = work.prompts.batch(chosen), work.prompts.pair

    def lost(**place: int) -> np.ndarray:
        return ends.judge_gap - read_under(pair, batch, scaling=work.scaling(**place), readout=work.readout)

    work.store("removed_unit", chosen, np.stack([lost(unit=k) for k in range(len(work.parts))], axis=1))
    work.store("removed_region", chosen, np.stack([lost(region=k) for k in range(len(work.regions))], axis=1))
    for name, cell in (("confirmed_effect", work.named), ("confirmed_other", work.other)):
        if cell is not None:
            work.store(name, chosen, lost(unit=cell[0], region=cell[1]))


def _measure_controls(work: PathWork, *, draws: int, limit: int | None, size: int, progress: bool) -> None:
    """Step 7: judges moved as far in random directions, on the same items."""
    prompts = work.prompts
    chosen = controlled_items(prompts, draws=draws, limit=limit, seed=work.seed)
    if not chosen:
        return
    precision = replace(work.precision, tolerance=max(_CONTROL_TOLERANCE, work.precision.tolerance))
    work.arrays["control_attribution"] = np.full((draws, *work.arrays["attribution"].shape), np.nan)
    work.arrays["control_outside"] = np.full((draws, *work.arrays["judge_gap"].shape), np.nan)
    with progress_bar(draws * len(chosen), title="TuCo along the path, random changes", shown=progress) as bar:
        for draw, (control, _) in enumerate(random_judges(prompts.pair, draws=draws, seed=work.seed)):
            batches = prompts.batches(size, items=chosen)
            for some, (ends, found) in prompts.each(batches, partial(work.measure, control, precision=precision)):
                work.arrays["control_attribution"][draw, list(some)] = work.by_region(some, found.by_token)
                work.arrays["control_outside"][draw, list(some)] = prompts.by_item(ends.embedding + ends.head)
                bar.update(len(some))
            work.draws = draw + 1


def _assemble(work: PathWork, *, parameters: dict[str, object], wall_time_s: float) -> PathsResult:
    prompts = work.prompts
    kept = {
        name: prompts.kept(array[: work.draws], axis=1) if name.startswith("control_") else prompts.kept(array)
        for name, array in work.arrays.items()
    }
    fields: dict[str, Any] = {**prompts.axes(), **kept, **_examples(work)}
    return PathsResult(
        **fields,
        choices=prompts.choices if isinstance(work.readout, LabelGap) else (),
        readout=type(work.readout).__name__,
        unit=work.readout.unit,
        units=tuple(unit.label for unit in work.parts),
        unit_layers=tuple(unit.layer for unit in work.parts),
        unit_components=tuple(str(unit.component) for unit in work.parts),
        granularity=work.cut,
        regions=work.regions,
        views=work.views,
        named_place=_place(work, work.named),
        other_place=_place(work, work.other),
        named_view=work.named_view,
        meta=run_meta(
            prompts.pair,
            prompts.kept_items(),
            analysis="tuco.paths",
            parameters=parameters,
            seed=work.seed,
            wall_time_s=wall_time_s,
            noise_floor=work.precision.noise,
            warnings=prompts.warnings,
            not_measured=prompts.notes,
        ),
    )


def _place(work: PathWork, cell: tuple[int, int] | None) -> tuple[str, str] | None:
    return None if cell is None else (work.parts[cell[0]].label, work.regions[cell[1]])


def _examples(work: PathWork) -> dict[str, Any]:
    """Return the fields of the items kept token by token, padded with NaN on the right."""
    prompts, decode = work.prompts, work.prompts.pair.tokenizer.decode
    chosen = sorted(item for item in work.maps if prompts.done[item])
    rows = [[prompts.encoded.rows[row] for row in prompts.rows_of([item])] for item in chosen]
    names = [[prompts.encoded.span_names(row) for row in prompts.rows_of([item])] for item in chosen]
    width = max((len(row) for both in rows for row in both), default=0)
    maps = np.full((len(chosen), len(prompts.orders), len(work.parts), width), np.nan)
    for e, item in enumerate(chosen):
        for k, values in enumerate(work.maps[item]):
            maps[e, k, :, : values.shape[1]] = values
    return {
        "example_items": tuple(prompts.items[item].item_id for item in chosen),
        "example_tokens": tuple(tuple(tuple(str(decode([i])) for i in row) for row in both) for both in rows),
        "example_regions": tuple(tuple(both) for both in names),
        "example_attribution": maps,
    }
