"""Where does the judge's advantage live? Activations of one model put into the other, site by site, both ways.

    judge_to_base: does the base judge like the judge with the judge's value here?     (sufficiency)
    base_to_judge: does the judge lose it with the base's value here?                  (necessity)
    recovery = mean(margin(patched) - margin(target)) / mean(margin(donor) - margin(target))

Same prompt in both models, so that nothing has to be aligned; margins toward the labelled answer; all cells of a
batch in about one forward (:mod:`workbench.hooks.suffix`), exactly.
Prakash et al., "Fine-tuning enhances existing mechanisms", ICLR 2024 (arXiv 2402.14811), section 6, did this for one
set of heads, by accuracy, without controls.

Steps: 1 both models once per batch, 2 every cell both ways, 3 controls on some items: another item's activations,
a random direction of the same length, random judges of equal norm, 4 sites named on one half of the items and
patched together on the other, beside random sets matched on layer.

What it can't do: say where a change was *written*; sites behind it light up as well (:func:`swap_weights`).
Falsified if identical models give anything but 0, or a random row differs from a full forward.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch

from analyses.cross_model_patching.activations.result import ActivationPatchingResult
from analyses.cross_model_patching.activations.steps import run_controls, run_sets
from analyses.cross_model_patching.activations.work import Work
from analyses.cross_model_patching.cells import grid
from analyses.cross_model_patching.directions import DIRECTIONS
from analyses.cross_model_patching.verdicts import MODES
from analyses.looping import Prompts, check_least, interruptible, progress_bar
from workbench.errors import ParameterError
from workbench.hooks.suffix import Mode
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, run_meta


def run(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    sites: Sequence[str] = ("resid_pre", "attn_out", "mlp_out", "z"),
    last_k: int = 4,
    last_k_heads: int = 1,
    spans: Sequence[str] = (),
    layers: Iterable[int] | None = None,
    direction: Literal["both", "judge_to_base", "base_to_judge"] = "both",
    mass: bool = True,
    controls: int = 5,
    control_items: int | None = 32,
    named: int = 5,
    random_sets: int = 20,
    mode: Mode | None = None,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> ActivationPatchingResult:
    """Patch every site of one model with the other's activation and measure what the verdict makes of it.

    Args:
        pair: Base and judge.
        items: What to judge; each is shown in every order of ``orders``. Labels say which way an advantage points.
        sites: Components: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out``; head by head ``z``,
            ``q`` and, by key-value head, ``k``, ``v``.
        last_k: Positions from the end at which whole components are patched.
        last_k_heads: Positions from the end at which heads are patched.
        spans: Parts of the prompt patched as a whole: ``question``, ``reference``, ``answer_a``, ``answer_b``,
            ``rubric``, ``verdict`` or what else the format names. Each costs a row as long as the prompt from there.
        layers: Which blocks; all of them by default.
        direction: Whose activations go into whom.
        mass: Whether the probability of all labels is read in every cell (it costs the whole unembedding).
        controls: Number of random judges of equal norm; with fewer than three no cell can be told from chance.
        control_items: On how many items the controls are measured; None for all.
        named: How many sites are named on one half of the items and patched together on the other; 0 for none.
        random_sets: Random sets of as many sites, matched on layer, patched beside them.
        mode: How patches run; None takes the fastest exact way, ``"plain"`` one full forward each.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of splits, controls and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ParameterError: A choice isn't allowed, or no prompt has a span.
        UnknownSite: The models have no such site.
        ItemError: There are no items.
        FormatError: The format shows several answers to be scored, or its labels begin alike.
        ContextWindowError: A prompt is longer than the models' window.
        ExecutorDisagreement: A patch behind cached prompts differs from a full forward with it.
    """
    started = time.perf_counter()
    check_least(
        batch_size=(batch_size, 1),
        controls=(controls, 0),
        control_items=(control_items, 2),
        named=(named, 0),
        random_sets=(random_sets, 0),
        last_k=(last_k, 0),
        last_k_heads=(last_k_heads, 0),
    )
    if direction not in ("both", *DIRECTIONS):
        raise ParameterError("no such direction.", argument="direction", got=direction, allowed=("both", *DIRECTIONS))
    parameters = {
        "sites": list(sites), "last_k": last_k, "last_k_heads": last_k_heads, "spans": list(spans),
        "layers": None if layers is None else sorted(set(layers)), "direction": direction, "mass": mass,
        "controls": controls, "control_items": control_items, "named": named, "random_sets": random_sets, "mode": mode,
        "orders": list(orders), "batch_size": batch_size,
    }  # fmt: skip
    cells = grid(
        pair.anatomy("base"),
        sites=sites,
        last_k=last_k,
        last_k_heads=last_k_heads,
        spans=spans,
        layers=parameters["layers"],
    )
    prompts = Prompts.of(pair, items, orders=orders, modes=MODES)
    work = Work.plan(
        prompts,
        cells,
        directions=DIRECTIONS if direction == "both" else (direction,),
        draws=controls,
        limit=control_items,
        mode=mode,
        mass=mass,
        batch_size=batch_size,
        seed=seed,
    )
    with interruptible(prompts):
        with progress_bar(len(prompts), title="patching", shown=progress) as bar:
            for chosen, _ in prompts.each(prompts.batches(batch_size), work.measure):
                prompts.done[list(chosen)] = True
                bar.update(len(chosen))
        run_controls(work, progress=progress)
        run_sets(work, named=named, random_sets=random_sets, progress=progress)
    return _assemble(work, parameters=parameters, wall_time_s=time.perf_counter() - started)


def _readout_differs(pair: Pair) -> bool:
    """Return whether the final norms or the unembeddings hold different weights: no activation can carry that."""
    sides = [
        [p for path in (anatomy.final_norm, anatomy.unembed) for p in module.get_submodule(path).parameters()]
        for anatomy, module in ((pair.anatomy(side), pair.module(side)) for side in ("base", "judge"))
    ]
    if [p.shape for p in sides[0]] != [p.shape for p in sides[1]]:
        return True
    return any(a is not b and not torch.equal(a, b.to(a.device)) for a, b in zip(*sides, strict=True))


def _assemble(work: Work, *, parameters: dict[str, object], wall_time_s: float) -> ActivationPatchingResult:
    prompts, cells = work.prompts, work.cells
    kept = {name: prompts.kept(values, axis=1) for name, values in work.cell_arrays.items()}
    half = np.ones(len(prompts))
    half[work.first_half] = 0.0
    meta = run_meta(
        prompts.pair,
        prompts.kept_items(),
        analysis="cross_model_patching",
        parameters=parameters,
        seed=work.seed,
        wall_time_s=wall_time_s,
        noise_floor=work.noise,
        warnings=prompts.warnings,
        not_measured=prompts.notes,
    )
    return ActivationPatchingResult(
        **prompts.axes(),  # type: ignore[arg-type]
        directions=work.directions,
        choices=() if work.verdict.scalar else prompts.choices,
        unit=work.verdict.unit,
        components=tuple(cell.component.value for cell in cells),
        layers=tuple(cell.layer for cell in cells),
        heads=tuple(cell.head for cell in cells),
        positions=tuple(cell.position for cell in cells),
        spans=tuple(cell.span for cell in cells),
        modes=work.modes,
        sets=work.sets or tuple(() for _ in work.directions),
        random_sets=work.random_sets or tuple(() for _ in work.directions),
        base_margin=prompts.kept(work.margins[0]),
        judge_margin=prompts.kept(work.margins[1]),
        base_mass=prompts.kept(work.masses[0]),
        judge_mass=prompts.kept(work.masses[1]),
        **kept,  # type: ignore[arg-type]
        random_gap=prompts.kept(work.random_gap, axis=1),
        random_effect=prompts.kept(work.random_effect, axis=2),
        set_effect=prompts.kept(work.set_effect, axis=2),
        confirming=prompts.kept(half),
        readout_differs=_readout_differs(prompts.pair),
        noise=work.noise,
        self_test=work.self_test,
        meta=meta,
    )
