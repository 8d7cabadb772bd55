"""What carries a change of the prompt to the verdict, in each model, and what did fine-tuning add to that?

    sensitivity        margin(clean) - margin(other)                    of one model
    effect of a cell   margin(clean) - margin(clean with the other version's activation there)
                       or margin(other with the clean one's) - margin(other)
    recovery           mean(effect) / mean(sensitivity)                 never clipped
    interaction        the judge's number minus the base's              what fine-tuning added

All are linear in logits, so that over both answer orders each splits exactly into a content part (LD_AB - LD_BA)/2,
which turns with the answers, and a position part (LD_AB + LD_BA)/2, which doesn't. The difference in differences
takes away whatever a change of the prompt does to both models alike (arXiv 2605.24583 does so for templates).

Steps: 1 both versions of every item, as like in length as they can be, aligned prompt by prompt, 2 every cell of one
version with the other's activation, exactly, in both models, 3 controls on some items: another item's activation,
a random direction of the same length, judges moved as far at random, 4 cells named on one half of the items and
estimated on the other.

What it can't do: say where the change was written; cells behind it light up as well. Effects of cells don't add up.
Falsified if identical models give any interaction but 0, or a site before the first differing token any effect but 0.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from analyses.cross_model_patching.cells import grid
from analyses.cross_model_patching.contrasts.result import ContrastResult
from analyses.cross_model_patching.contrasts.versions import TITLES, Versions, versions
from analyses.cross_model_patching.contrasts.work import DIRECTIONS, Direction, Work, run_controls
from analyses.cross_model_patching.prompt_pairs import Align, PromptPairs
from analyses.cross_model_patching.verdicts import MODES
from analyses.looping import FEWEST_TO_CONFIRM, check_least, interruptible, progress_bar
from workbench.errors import ParameterError
from workbench.hooks.suffix import Mode
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, run_meta


def contrast(
    pair: Pair,
    items: Sequence[JudgeItem],
    contrast: str = "order",
    *,
    other: Sequence[JudgeItem] | None = None,
    toward: Sequence[int] | None = None,
    cue: str = "authority",
    words: tuple[str, str] | None = None,
    direction: Direction = "other_to_clean",
    align: Align | None = None,
    sites: Sequence[str] = ("resid_pre", "attn_out", "mlp_out", "z"),
    last_k: int = 4,
    last_k_heads: int = 1,
    spans: Sequence[str] = (),
    layers: Iterable[int] | None = None,
    controls: int = 5,
    control_items: int | None = 32,
    named: int = 5,
    mode: Mode | None = None,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> ContrastResult:
    """Hold two versions of every item against each other, in each model and across models, site by site.

    Args:
        pair: Base and judge.
        items: What to judge; each is shown in every order of ``orders``.
        contrast: ``"order"`` (answers exchanged), ``"better_worse"`` (the better answer one word worse: items bring
            ``meta["worse_answer"]``, or ``true_value`` and ``wrong_value``), ``"reference"`` (another item's, as
            long), ``"verbosity"`` (the same padding behind one answer or the other), ``"cue"`` (``cue`` in one answer
            or the other), ``"rubric"`` (``words`` changed, or the same case under another rubric), ``"template"`` (the
            judge's against the base's); with ``other``, any name.
        other: The other version of each item, in step: a contrast of your own.
        toward: Index of the answer each clean version speaks for, in the item's own order; -1 where nobody knows. By
            default the labelled one, or the one that carries the cue.
        cue: Perturbation whose cue is moved from one answer to the other.
        words: A word of the rubric and the one that replaces it.
        direction: ``"other_to_clean"`` puts the other version's activation into the clean run (what hangs on it),
            ``"clean_to_other"`` the reverse (what it brings back).
        align: ``"design"`` keeps only prompts of equal length and spans, ``"right"`` moves common last tokens,
            ``"spans"`` spans of equal length, ``"auto"`` the strongest there is; by default the
            one a contrast is made for.
        sites: Components, as in the sweep across models.
        last_k: Positions from the end at which whole components are patched.
        last_k_heads: Positions from the end at which heads are patched.
        spans: Named parts of the prompt patched as a whole, where both versions have them equally long.
        layers: Which blocks; all of them by default.
        controls: Number of random judges of equal norm; with fewer than three no interaction can be told from chance.
        control_items: On how many items the controls are measured; None for all.
        named: How many cells are named on one half of the items, at most.
        mode: How patches run; None takes the fastest exact way.
        orders: Answer orders to show; content and position are told apart by both.
        batch_size: Prompts per forward.
        seed: Seed of draws, splits, controls and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ParameterError: A choice isn't allowed, or no pair of prompts has a cell.
        ItemError: There are no items, or none has another version.
        FormatError: No pair of prompts can be aligned, or the format can't be read.
        UnknownSite: The models have no such site.
        ContextWindowError: A prompt is longer than the models' window.
        ExecutorDisagreement: A patch behind cached prompts differs from a full forward with it.
    """
    started = time.perf_counter()
    if direction not in DIRECTIONS:
        raise ParameterError("no such direction.", argument="direction", got=direction, allowed=DIRECTIONS)
    check_least(
        batch_size=(batch_size, 1), controls=(controls, 0), control_items=(control_items, 2), named=(named, 0),
        last_k=(last_k, 0), last_k_heads=(last_k_heads, 0),
    )  # fmt: skip
    depths = None if layers is None else sorted(set(layers))
    parameters: dict[str, Any] = {
        "contrast": contrast, "cue": cue, "words": None if words is None else list(words), "direction": direction,
        "align": align, "sites": list(sites), "last_k": last_k, "last_k_heads": last_k_heads, "spans": list(spans),
        "layers": depths, "controls": controls, "control_items": control_items, "named": named, "mode": mode,
        "orders": list(orders), "batch_size": batch_size,
    }  # fmt: skip
    cells = grid(
        pair.anatomy("base"), sites=sites, last_k=last_k, last_k_heads=last_k_heads, spans=spans, layers=depths
    )
    made = versions(
        items, contrast, other=other, toward=toward, cue=cue, words=words, tokenizer=pair.tokenizer, seed=seed
    )
    parameters["swapped"] = contrast == "order" and other is None
    pairs = _pairs(pair, made, swapped=parameters["swapped"],
                   template=contrast == "template" and other is None, orders=orders, align=align)  # fmt: skip
    work = Work.plan(pairs, cells, direction=direction, draws=controls, mode=mode, seed=seed)
    prompts = pairs.clean
    with interruptible(prompts):
        with progress_bar(len(prompts), title=f"contrast: {contrast}", shown=progress) as bar:
            for chosen, _ in prompts.each(prompts.batches(batch_size), work.measure):
                prompts.done[list(chosen)] = True
                bar.update(len(chosen))
        run_controls(work, limit=control_items, batch_size=batch_size, progress=progress)
    return _assemble(work, made, parameters=parameters, wall_time_s=time.perf_counter() - started)


def _pairs(
    pair: Pair, made: Versions, *, swapped: bool, template: bool, orders: Sequence[Order], align: Align | None
) -> PromptPairs:
    chosen = made.align if align is None else align
    if swapped:
        return PromptPairs.swapped(pair, made.clean, orders=orders, align=chosen)
    return PromptPairs.of(
        pair.with_template("judge") if template else pair,
        made.clean,
        made.other,
        orders=orders,
        modes=MODES,
        align=chosen,
        other_pair=pair.with_template("base") if template else None,
    )


def _assemble(work: Work, made: Versions, *, parameters: dict[str, Any], wall_time_s: float) -> ContrastResult:
    pairs, prompts = work.pairs, work.pairs.clean
    meta = run_meta(
        prompts.pair,
        prompts.kept_items(),
        analysis="cross_model_patching.contrasts",
        parameters=parameters,
        seed=work.seed,
        wall_time_s=wall_time_s,
        noise_floor=work.noise,
        warnings=[*prompts.warnings, *pairs.said()],
        not_measured=[*made.notes, *pairs.notes, *prompts.notes],
    )
    name = str(parameters["contrast"])
    chosen = np.array([made.toward[i] for i in pairs.chosen])
    measured = ~np.isnan(work.random_margin).all(axis=(1, 2, 3))
    confirming = np.full(len(prompts), np.nan)
    if prompts.n_clusters >= FEWEST_TO_CONFIRM and parameters["named"]:
        confirming[:] = 1.0
        confirming[prompts.halves(seed=work.seed)[0]] = 0.0
    return ContrastResult(
        **prompts.axes(),  # type: ignore[arg-type]
        contrast=name,
        title=TITLES.get(name, name),
        speaks_for=made.speaks_for,
        direction=work.direction,
        choices=() if work.verdict.scalar else prompts.choices,
        unit=work.verdict.unit,
        kinds=tuple(pairs.kinds),
        components=tuple(str(cell.component) for cell in work.cells),
        layers=tuple(cell.layer for cell in work.cells),
        heads=tuple(cell.head for cell in work.cells),
        positions=tuple(cell.position for cell in work.cells),
        spans=tuple(cell.span for cell in work.cells),
        modes=tuple(work.modes),
        named=int(parameters["named"]),
        toward=prompts.kept(np.where(chosen < 0, np.nan, 1.0 - 2.0 * chosen)),
        confirming=prompts.kept(confirming),
        margin=prompts.kept(work.margins, axis=2),
        mass=prompts.kept(work.masses, axis=2),
        **{key: prompts.kept(values, axis=1) for key, values in work.arrays.items()},
        random_margin=prompts.kept(work.random_margin[measured], axis=2),
        random_effect=prompts.kept(work.random_effect[measured], axis=1),
        noise=work.noise,
        self_test=work.self_test,
        meta=meta,
    )
