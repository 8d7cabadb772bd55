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
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from analyses.cross_model_patching.activations.result import ActivationPatchingResult
from analyses.cross_model_patching.activations.sets import chosen_set, matched_set
from analyses.cross_model_patching.advantage import random_gaps
from analyses.cross_model_patching.cells import Cell, cell_columns, grid
from analyses.cross_model_patching.sweeping import (
    Donor,
    entered,
    of_model,
    of_noise,
    of_others,
    own_margin,
    patch_row,
    sizes,
    sweep,
)
from analyses.cross_model_patching.verdicts import MODES, VerdictIds
from analyses.looping import FEWEST_TO_CONFIRM, Prompts, check_least, interruptible, progress_bar
from workbench.errors import ParameterError
from workbench.hooks import HooksBackend
from workbench.hooks.suffix import Mode, Suffix
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, run_meta

Direction = Literal["judge_to_base", "base_to_judge"]
DIRECTIONS: tuple[Direction, ...] = ("judge_to_base", "base_to_judge")


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
    work = _Work.plan(
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
        _controls(work, progress=progress)
        _sets(work, named=named, random_sets=random_sets, progress=progress)
    return _assemble(work, parameters=parameters, wall_time_s=time.perf_counter() - started)


@dataclass(slots=True, kw_only=True)
class _Work:
    """State of one run: what is planned, what is measured so far."""

    prompts: Prompts
    cells: tuple[Cell, ...]
    directions: tuple[Direction, ...]
    verdict: VerdictIds
    control_items: list[int]
    """Items the controls are measured on."""
    draws: int
    limit: int | None
    mode: Mode | None
    mass: bool
    batch_size: int
    seed: int
    margins: Float[np.ndarray, "model item order"]
    masses: Float[np.ndarray, "model item order"]
    cell_arrays: dict[str, np.ndarray]
    """[direction, item, order, cell]; those of controls hold NaN elsewhere."""
    random_gap: Float[np.ndarray, "draw item order"]
    random_effect: Float[np.ndarray, "draw direction item order cell"]
    set_effect: Float[np.ndarray, "direction set item order"]
    """The named set first, then the random ones; NaN where not measured."""
    sets: tuple[tuple[int, ...], ...] = ()
    """Cells named, by direction."""
    random_sets: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """Cells of the random sets, by direction."""
    first_half: list[int] = field(default_factory=list)
    noise: float = 0.0
    self_test: float = float("nan")
    modes: tuple[str, ...] = ()

    @classmethod
    def plan(
        cls, prompts: Prompts, cells: tuple[Cell, ...], *, directions: tuple[Direction, ...], limit: int | None,
        draws: int, mode: Mode | None, mass: bool, batch_size: int, seed: int,
    ) -> "_Work":  # fmt: skip
        """Make room for everything."""
        shape = (len(directions), len(prompts), len(prompts.orders), len(cells))
        names = ("effect", "patched_mass", "size", "zero", "mismatched_effect", "noise_effect")
        verdict = VerdictIds.of(prompts)
        _check_spans(prompts, cells)
        return cls(
            prompts=prompts,
            cells=cells,
            directions=directions,
            verdict=verdict,
            control_items=prompts.sample(limit, seed=seed),
            draws=draws,
            limit=limit,
            mode=mode,
            mass=mass,
            batch_size=batch_size,
            seed=seed,
            random_gap=np.zeros((0, *shape[1:3])),
            random_effect=np.zeros((0, *shape)),
            set_effect=np.zeros((shape[0], 0, *shape[1:3])),
            margins=np.full((2, *shape[1:3]), np.nan),
            masses=np.full((2, *shape[1:3]), np.nan),
            cell_arrays={name: np.full(shape, np.nan) for name in names},
        )

    def models(self, items: Sequence[int]) -> dict[str, Suffix]:
        """Run both models once on some items."""
        batch = self.prompts.batch(items)
        pair = self.prompts.pair
        return {side: entered(pair.executor(side), batch, self.cells, mode=self.mode) for side in ("base", "judge")}

    def measure(self, items: tuple[int, ...]) -> None:
        """Steps 1 and 2 on one batch; safe to be called again on a part of it."""
        models = self.models(items)
        rows = list(items)
        for index, side in enumerate(("base", "judge")):
            margin, mass = own_margin(models[side], self.verdict)
            self.margins[index, rows] = self.prompts.by_item(margin)
            self.masses[index, rows] = self.prompts.by_item(mass)
        for at, direction in enumerate(self.directions):
            donor_side, target_side = ends(direction)
            target, donor = models[target_side], of_model(models[donor_side])
            self._tested(target, donor)
            found = sweep(target, [[cell] for cell in self.cells], donor, self.verdict, mass=self.mass)
            self.noise = max(self.noise, found.noise)
            self.put("effect", at, rows, found.effect)
            self.put("patched_mass", at, rows, found.mass)
            self.put("zero", at, rows, found.zero.astype(float))
            self.put("size", at, rows, sizes(target, self.cells, donor))
        self._blank_absent(rows, models["base"])

    def put(self, name: str, at: int, rows: list[int], values: np.ndarray) -> None:
        """Write a batch's ``[prompt, cell]`` to its items."""
        self.cell_arrays[name][at, rows] = self.prompts.by_item(values)

    def _blank_absent(self, rows: list[int], target: Suffix) -> None:
        """A prompt without a span has no effect of it, not an effect of 0."""
        for index, cell in enumerate(self.cells):
            if cell.span is None:
                continue
            present = self.prompts.by_item(cell_columns(cell, target.batch)[1].numpy())
            for name in ("effect", "patched_mass", "zero", "size"):
                whole = self.cell_arrays[name][..., index]  # a view
                whole[:, rows] = np.where(present, whole[:, rows], np.nan)

    def _tested(self, target: Suffix, donor: Donor) -> None:
        """Once per direction: random rows of the first prompt as full forwards."""
        if len(self.modes) >= len(self.directions):
            return
        self.modes = (*self.modes, target.mode)
        if target.reason is not None and target.reason != "asked for":
            self.prompts.notes.append(f"patches the fastest way: {target.reason}; they ran as {target.mode}.")
        rows = [patch_row([cell], target, donor) for cell in self.cells]
        worst = target.check(rows, ids=self.verdict.ids, seed=self.seed)
        self.self_test = max(worst, 0.0 if np.isnan(self.self_test) else self.self_test)


def ends(direction: Direction) -> tuple[Literal["base", "judge"], Literal["base", "judge"]]:
    """Return donor and target of a direction."""
    return ("judge", "base") if direction == "judge_to_base" else ("base", "judge")


def _check_spans(prompts: Prompts, cells: Sequence[Cell]) -> None:
    for span in dict.fromkeys(cell.span for cell in cells if cell.span is not None):
        if not any(span in table for table in prompts.encoded.spans):
            known = sorted({name for table in prompts.encoded.spans for name in table})
            raise ParameterError("no prompt has this span.", argument="spans", got=span, allowed=known)


def _controls(work: _Work, *, progress: bool) -> None:
    """Step 3, on the control items."""
    prompts = work.prompts
    chosen = [i for i in work.control_items if prompts.done[i]]
    if left := int(prompts.done.sum()) - len(chosen):
        prompts.notes.append(f"other items' activations and random directions on {left} items (control_items).")
    with progress_bar(len(chosen), title="controls", shown=progress) as bar:
        for items, _ in prompts.each(prompts.batches(work.batch_size, items=chosen), lambda some: _mislead(work, some)):
            bar.update(len(items))
    _random_judges(work)


def _mislead(work: _Work, items: tuple[int, ...]) -> None:
    """Put in what another item has there, and a random change of the same length."""
    models, rows = work.models(items), list(items)
    other = _others([work.prompts.clusters[i] for i in rows])
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


def _others(clusters: Sequence[str]) -> list[int]:
    """Return for each item of a batch the next one of another cluster; itself where there is none."""
    count = len(clusters)
    return [
        next((j % count for j in range(i + 1, i + count) if clusters[j % count] != clusters[i]), i)
        for i in range(count)
    ]


def _random_judges(work: _Work) -> None:
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


def _sets(work: _Work, *, named: int, random_sets: int, progress: bool) -> None:
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


def _readout_differs(pair: Pair) -> bool:
    """Return whether the final norms or the unembeddings hold different weights: no activation can carry that."""
    sides = [
        [p for path in (anatomy.final_norm, anatomy.unembed) for p in module.get_submodule(path).parameters()]
        for anatomy, module in ((pair.anatomy(side), pair.module(side)) for side in ("base", "judge"))
    ]
    if [p.shape for p in sides[0]] != [p.shape for p in sides[1]]:
        return True
    return any(a is not b and not torch.equal(a, b.to(a.device)) for a, b in zip(*sides, strict=True))


def _assemble(work: _Work, *, parameters: dict[str, object], wall_time_s: float) -> ActivationPatchingResult:
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
