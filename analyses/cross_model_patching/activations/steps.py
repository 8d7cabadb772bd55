"""Controls of a patching run, and the sites named on one half of the items and patched together on the other."""

from collections.abc import Sequence

import numpy as np

from analyses.cross_model_patching.activations.sets import chosen_set, matched_set
from analyses.cross_model_patching.activations.work import Work
from analyses.cross_model_patching.advantage import random_gaps
from analyses.cross_model_patching.directions import ends, others
from analyses.cross_model_patching.sweeping import entered, of_model, of_noise, of_others, sweep
from analyses.looping import FEWEST_TO_CONFIRM, progress_bar
from workbench.hooks import HooksBackend


def run_controls(work: Work, *, progress: bool) -> None:
    """Step 3, on the control items."""
    prompts = work.prompts
    chosen = [i for i in work.control_items if prompts.done[i]]
    if left := int(prompts.done.sum()) - len(chosen):
        prompts.notes.append(f"other items' activations and random directions on {left} items (control_items).")
    with progress_bar(len(chosen), title="controls", shown=progress) as bar:
        for items, _ in prompts.each(prompts.batches(work.batch_size, items=chosen), lambda some: _mislead(work, some)):
            bar.update(len(items))
    _random_judges(work)


def _mislead(work: Work, items: tuple[int, ...]) -> None:
    """Put in what another item has there, and a random change of the same length."""
    models, rows = work.models(items), list(items)
    other = others([work.prompts.clusters[i] for i in rows])
    apart = np.array([j != i for i, j in enumerate(other)])
    n_orders = len(work.prompts.orders)
    order = [j * n_orders + k for j in other for k in range(n_orders)]
    spans = np.array([cell.span is not None for cell in work.cells])
    groups = [[cell] for cell in work.cells]
    for at, direction in enumerate(work.directions):
        donor_side, target_side = ends(direction)
        target, given = models[target_side], models[donor_side]
        noise = sweep(target, groups, of_noise(of_model(given), target, seed=work.seed), work.verdict)
        work.put("noise_effect", at, rows, noise.effect)
        placed = [i for i, is_span in enumerate(spans) if not is_span]
        if placed and apart.any():
            found = sweep(target, [groups[i] for i in placed], of_others(given, order), work.verdict)
            values = work.prompts.by_item(found.effect)
            values[~apart] = np.nan
            for k, index in enumerate(placed):
                work.cell_arrays["mismatched_effect"][at, rows, :, index] = values[..., k]


def _random_judges(work: Work) -> None:
    prompts = work.prompts
    shape = work.cell_arrays["effect"].shape
    work.random_effect = np.full((work.draws, *shape), np.nan)

    def measure(draw: int, executor: HooksBackend, items: Sequence[int]) -> None:
        batch, rows = prompts.batch(items), list(items)
        models = {
            "base": entered(prompts.pair.executor("base"), batch, work.cells, mode=work.mode),
            "judge": entered(executor, batch, work.cells, mode=work.mode),
        }
        for at, direction in enumerate(work.directions):
            donor_side, target_side = ends(direction)
            found = sweep(models[target_side], [[c] for c in work.cells], of_model(models[donor_side]), work.verdict)
            work.random_effect[draw, at, rows] = prompts.by_item(found.effect)

    done = [i for i in work.control_items if prompts.done[i]]
    work.random_gap = random_gaps(
        prompts, work.verdict, work.margins[0], draws=work.draws, limit=work.limit, batch_size=work.batch_size,
        seed=work.seed, measure=measure, items=done,
    )  # fmt: skip
    work.random_effect = work.random_effect[: len(work.random_gap)]


def run_sets(work: Work, *, named: int, random_sets: int, progress: bool) -> None:
    """Step 4: name sites on one half, patch them together on the other."""
    prompts = work.prompts
    count = 1 + random_sets
    work.set_effect = np.full((len(work.directions), count, len(prompts), len(prompts.orders)), np.nan)
    if named == 0 or prompts.n_clusters < FEWEST_TO_CONFIRM:
        why = "named=0" if named == 0 else f"fewer than {FEWEST_TO_CONFIRM} independent items"
        prompts.notes.append(f"sites named on one half and patched together on the other ({why}).")
        return
    work.first_half, second = (sorted(part) for part in prompts.halves(seed=work.seed))
    first = [i for i in work.first_half if prompts.done[i]]
    sign = prompts.slot_sign
    sets, controls = [], []
    for at in range(len(work.directions)):
        toward = (work.cell_arrays["effect"][at, first] * sign[first][..., None]).mean(1)
        own = chosen_set(work.cells, toward, count=named)
        sets.append(own)
        controls.append(tuple(matched_set(work.cells, own, seed=[work.seed, at, k]) for k in range(random_sets)))
    work.sets, work.random_sets = tuple(sets), tuple(controls)
    if not any(sets):
        prompts.notes.append("sites patched together: no write of one component moves the labelled items' verdicts.")
        return

    def together(items: tuple[int, ...]) -> None:
        models = work.models(items)
        for at, direction in enumerate(work.directions):
            donor_side, target_side = ends(direction)
            groups = [[work.cells[i] for i in chosen] for chosen in (work.sets[at], *work.random_sets[at])]
            filled = [k for k, group in enumerate(groups) if group]
            if not filled:
                continue
            target, donor = models[target_side], of_model(models[donor_side])
            found = sweep(target, [groups[k] for k in filled], donor, work.verdict)
            values = prompts.by_item(found.effect)
            for column, k in enumerate(filled):
                work.set_effect[at, k, list(items)] = values[..., column]

    chosen = [i for i in second if prompts.done[i]]
    with progress_bar(len(chosen), title="sets of sites", shown=progress) as bar:
        for items, _ in prompts.each(prompts.batches(work.batch_size, items=chosen), together):
            bar.update(len(items))
