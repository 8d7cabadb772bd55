"""Which heads, reading which text, did fine-tuning change so that the verdict moved, and which way?

    push_h = <z_h^judge, u_h^judge> - <z_h^base, u_h^base>,   gap = <x_0, w> + sum P + sum F + bias

both models reading the judge's own stream before every attention and every MLP (signed verdict TuCo at
sub-layer granularity, method page 5.2 and 5.3); ``u_h`` carries a head's values to the verdict gap.

Steps: 1 the judge against itself gives exactly 0; 2 record the judge and clamp the base; 3 split F by
head, source region, kind of change and neuron; 4 name the strongest head and neurons on one half of
the items; 5 on the other half let the named head write what the base's writes, in a real forward of the
judge, beside another head and a random change as long; 6 random changes of equal norm; 7 tests.

Falsified if the parts don't add up to the gap, if a head none of whose tensors moved has a push, or if
really replacing the named head does nothing that a random change of its length wouldn't.
"""

import time
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Any, Literal

import numpy as np

from analyses.cells import cell_intervals, family_p
from analyses.looping import Prompts, check_least, controlled_items, interruptible, progress_bar, random_judges
from analyses.metrics import FEWEST_DRAWS, further_draw
from analyses.readout import LabelGap, Readout
from analyses.tuco.checks import check_null
from analyses.tuco.clamp import to_numpy
from analyses.tuco.heads.naming import name_strongest, sum_neurons, try_named
from analyses.tuco.heads.result import HeadsResult
from analyses.tuco.heads.split import PARTS, HeadSplit, rounding_push
from analyses.tuco.heads.work import HeadWork
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, run_meta


def split_heads(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    orders: Sequence[Order] = ORDERS,
    readout: Readout | Literal["verdict"] = "verdict",
    controls: int = 5,
    control_items: int | None = 32,
    confirm: bool = True,
    neurons: int = 20,
    precision: Literal["auto", "model", "float32"] = "auto",
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> HeadsResult:
    """Split what fine-tuning pushed the verdict by among heads, the text they take from, and neurons.

    Args:
        pair: Base and judge; their attention must run as "sdpa" or "eager".
        items: What to judge; each is shown in every order of ``orders``.
        orders: Answer orders to show.
        readout: What is split: the verdict logit gap (labels must differ in their first token), an ``ExpectedScore``
            or a ``ScalarHead``.
        controls: Number of random judges of equal norm, two forwards an item each; with fewer than three no head can
            be told from chance.
        control_items: On how many items they are measured; None for all.
        confirm: Whether to replace the named head in real forwards (three more on half the items).
        neurons: How many neurons to name in each layer on one half of the items; 0 for none.
        precision: ``"float32"`` computes the blocks of a half-precision pair in float32 on the stream as it is;
            ``"model"`` leaves the models' own type; ``"auto"`` is float32 for half precision that isn't quantised.
        batch_size: Prompts per forward.
        seed: Seed of splits, controls and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ItemError: There are no items.
        ParameterError: A choice isn't allowed, or this architecture's writes can't be split.
        ContextWindowError: A prompt is longer than the models' window.
        FormatError: The verdict labels don't differ in one first token.
        UnknownSite: The architecture has no place where heads can be read.
        ExecutorDisagreement: The judge against itself isn't exactly 0, or its attention isn't pattern times values.
    """
    started = time.perf_counter()
    check_least(
        batch_size=(batch_size, 1), controls=(controls, 0), control_items=(control_items, 2), neurons=(neurons, 0)
    )
    work = HeadWork.plan(
        Prompts.of(pair, items, orders=orders),
        readout=None if isinstance(readout, str) else readout,
        precision=precision,
        neurons=neurons,
        seed=seed,
        confirm=confirm,
    )
    _check_itself(work, size=batch_size)
    with interruptible(work.prompts):
        _measure_items(work, size=batch_size, progress=progress)
        _measure_controls(work, draws=controls, limit=control_items, size=batch_size, progress=progress)
    parameters = {
        "granularity": "sublayer",
        "orders": list(orders),
        "readout": readout if isinstance(readout, str) else repr(readout),
        "precision": precision,
        "controls": controls,
        "control_items": control_items,
        "confirm": confirm,
        "neurons": neurons,
        "batch_size": batch_size,
    }
    return _assemble(work, parameters=parameters, started=started)


def _check_itself(work: HeadWork, *, size: int) -> None:
    """Step 1: the judge against itself is exactly 0; in another batch shape it is the noise floor of a head."""

    def against_itself(chosen: Sequence[int]) -> tuple[float, float | None]:
        found, _, _ = work.split(work.judge, work.judge, chosen, neurons=work.neurons > 0)
        parts = [found.head_push, found.region_push, found.part_push, found.attention_bias_push, found.mlp_push]
        identical = max(float(part.abs().max()) for part in (*parts, *found.neurons))
        check_null(identical, name="a push")
        batch = work.prompts.batch(chosen)
        if len(batch) == 1:
            return identical, None
        return identical, rounding_push(work.judge, batch, readout=work.readout, float32=work.float32)

    first = next(iter(work.prompts.batches(max(size, 2))))[:2]
    work.identical, work.noise = work.prompts.on_some(first, against_itself)


def _measure_items(work: HeadWork, *, size: int, progress: bool) -> None:
    """Steps 2 to 5: every item is split; what is named on the first half is tested on the second."""
    with progress_bar(len(work.prompts), title="TuCo by head", shown=progress) as bar:
        for half, items in enumerate(work.halves):
            if half == 1 and items:
                name_strongest(work)
            batches = work.prompts.batches(size, items=items)
            for chosen, found in work.prompts.each(batches, partial(_split_and_try, work, half == 1)):
                _keep(work, chosen, found)
                if half == 0 and work.neurons:
                    sum_neurons(work, chosen, found)
                work.prompts.done[list(chosen)] = True
                bar.update(len(chosen))


def _split_and_try(work: HeadWork, trying: bool, chosen: Sequence[int]) -> HeadSplit:
    found, own, other = work.split(work.judge, work.base, chosen, neurons=work.neurons > 0)
    if trying:
        try_named(work, chosen, found, own=own, other=other)
    return found


_KEPT = tuple(f.name for f in fields(HeadSplit) if f.name not in ("neurons", "closing_error", "region_error"))


def _keep(work: HeadWork, chosen: Sequence[int], found: HeadSplit) -> None:
    for name in _KEPT:
        work.store(name, chosen, to_numpy(getattr(found, name)))
    work.closing_error = max(work.closing_error, found.closing_error)
    work.region_error = max(work.region_error, found.region_error)


def _measure_controls(work: HeadWork, *, draws: int, limit: int | None, size: int, progress: bool) -> None:
    """Step 6: judges moved as far in random directions, on the same items."""
    prompts = work.prompts
    chosen = controlled_items(prompts, draws=draws, limit=limit, seed=work.seed)
    if not chosen:
        return
    with progress_bar(draws * len(chosen), title="TuCo by head of a random change", shown=progress) as bar:
        for draw, (_, judge) in enumerate(random_judges(prompts.pair, draws=draws, seed=work.seed)):
            batches = prompts.batches(size, items=chosen)
            for some, (found, _, _) in prompts.each(batches, partial(work.split, judge, work.base)):
                for name, values in (
                    ("control_head_push", found.head_push),
                    ("control_region_push", found.region_push.sum((1, 2))),
                    ("control_part_push", found.part_push.sum((1, 2))),
                    ("control_mlp_push", found.mlp_push),
                ):
                    shaped = prompts.by_item(to_numpy(values))
                    blank = (draws, len(prompts), *shaped.shape[1:])
                    work.arrays.setdefault(name, np.full(blank, np.nan))[draw, list(some)] = shaped
                bar.update(len(some))
            work.draws = draw + 1


def _assemble(work: HeadWork, *, parameters: dict[str, object], started: float) -> HeadsResult:
    prompts, anatomy = work.prompts, work.prompts.pair.anatomy("judge")
    measured = {
        name: prompts.kept(array[: work.draws], axis=1) if name.startswith("control_") else prompts.kept(array)
        for name, array in work.arrays.items()
    }
    axes: dict[str, Any] = prompts.axes()
    clusters = tuple(item.cluster for item in prompts.kept_items())
    arrays: dict[str, Any] = _blank(work, n_items=len(clusters)) | measured
    arrays |= _tests(work, arrays, clusters)
    fixed: dict[str, Any] = {
        "choices": prompts.choices if isinstance(work.readout, LabelGap) else (),
        "unit": work.readout.unit,
        "n_layers": anatomy.n_layers,
        "n_heads": anatomy.n_heads,
        "regions": work.regions,
        "parts": PARTS,
        "views": work.views,
        "named_head": work.named,
        "named_view": work.named_view,
        "other_head": work.other,
        "neuron_ids": work.neuron_ids if work.neuron_ids.size else np.zeros((anatomy.n_layers, 0), dtype=int),
        "closing_error": work.closing_error,
        "region_error": work.region_error,
        "identical_push": work.identical,
    }
    meta = run_meta(
        prompts.pair,
        prompts.kept_items(),
        analysis="tuco.heads",
        parameters=parameters,
        seed=work.seed,
        wall_time_s=time.perf_counter() - started,
        noise_floor=work.noise,
        warnings=prompts.warnings,
        not_measured=prompts.notes,
    )
    return HeadsResult(**axes, **fixed, **arrays, meta=meta)


def _blank(work: HeadWork, *, n_items: int) -> dict[str, np.ndarray]:
    """Return empty arrays for what a run may leave out."""
    anatomy, orders = work.prompts.pair.anatomy("judge"), len(work.prompts.orders)
    shape, neurons = (n_items, orders), work.neuron_ids.shape[1]
    drawn = (0, *shape)
    return {
        **{name: np.full(shape, np.nan) for name in ("confirmed_effect", "confirmed_other", "confirmed_control")},
        **{
            name: np.full((*shape, anatomy.n_layers, neurons), np.nan)
            for name in ("neuron_push", "neuron_control_push")
        },
        "control_head_push": np.zeros((*drawn, anatomy.n_layers, anatomy.n_heads)),
        "control_mlp_push": np.zeros((*drawn, anatomy.n_layers)),
        "control_region_push": np.zeros((*drawn, len(work.regions))),
        "control_part_push": np.zeros((*drawn, len(PARTS))),
    }


def _tests(work: HeadWork, arrays: dict[str, np.ndarray], clusters: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Step 7: intervals and family-wise p of every head, and how far the largest head of a random change goes."""
    done = [int(i) for i in np.flatnonzero(work.prompts.done)]
    low, high, p, bounds = [], [], [], []
    for view in work.views:
        pushes = work.oriented(arrays["head_push"], view, done)
        cells = cell_intervals(pushes, clusters=clusters, seed=work.seed)
        low.append(cells.low)
        high.append(cells.high)
        p.append(family_p(pushes, clusters=clusters, seed=work.seed))
        bounds.append(_bound([work.oriented(draw, view, done) for draw in arrays["control_head_push"]], clusters))
    return {
        "head_low": np.stack(low),
        "head_high": np.stack(high),
        "head_p": np.stack(p),
        "head_bound": np.array(bounds),
    }


def _bound(draws: Sequence[np.ndarray], clusters: tuple[str, ...]) -> float:
    means = [cell_intervals(draw, clusters=clusters, seed=0).value for draw in draws]
    largest = np.array([np.abs(mean).max() for mean in means if not np.isnan(mean).any()])
    # The upper end of a two-sided 95% interval: by chance exceeded in 2.5%, and it alone decides.
    return further_draw(largest, level=0.95)[1] if len(largest) >= FEWEST_DRAWS else float("nan")
