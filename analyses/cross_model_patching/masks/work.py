"""The steps of a mask run, and what they have measured so far."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from analyses.cross_model_patching.advantage import random_gaps
from analyses.cross_model_patching.cells import Cell, matched
from analyses.cross_model_patching.directions import Direction, ends
from analyses.cross_model_patching.masks.gates import HALF, Gates
from analyses.cross_model_patching.masks.learning import Loss, Training, agreement_of, learn
from analyses.cross_model_patching.masks.result import MaskResult, cell_labels, toward_donor
from analyses.cross_model_patching.sweeping import entered, of_model, own_margin, patch_row, read_rows
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import FEWEST_TO_CONFIRM, Prompts, progress_bar
from workbench.hooks import Component
from workbench.hooks.suffix import Mode, Suffix
from workbench.pairs import Pair, Side, run_meta


def output_maps_moved(pair: Pair, cells: Sequence[Cell]) -> tuple[str, ...]:
    """Warn where heads have gates whose output projection was tuned: their values don't carry that change."""
    anatomy = pair.anatomy("base")
    paths = {cell.layer: anatomy.port(cell.site.whole).path for cell in cells if cell.component is Component.Z}
    moved = [change.name for change in pair.delta(spectrum=False).moved]
    layers = sorted(layer for layer, path in paths.items() if any(f"{path}." in name for name in moved))
    if not layers:
        return ()
    return (
        f"The output projections of {len(layers)} blocks were tuned; a head's value is put in front of the target's "
        "own projection and doesn't carry that: compare sites=('attn_out', 'mlp_out').",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the caller chose; see :func:`learn_mask`."""

    directions: tuple[Direction, ...]
    """Whose values go into whom."""
    lambdas: tuple[float, ...]
    """Ascending."""
    steps: int
    """Of every lambda."""
    lr: float
    """Of the first step."""
    loss: Loss
    """What is made small."""
    seeds: int
    """Independent runs."""
    share: float
    """Recovery that is good enough."""
    draws: int
    """Random masks of each size."""
    controls: int
    """Random judges."""
    control_items: int | None
    """Items they are measured on."""
    cache_gb: float
    """Room for runs that are kept."""
    mode: Mode | None
    """How rows run."""
    batch_size: int
    """Prompts per forward."""
    seed: int
    """Of everything random."""
    progress: bool
    """Whether to show a bar."""


@dataclass(slots=True, kw_only=True, eq=False)
class MaskWork:
    """What a run has measured so far."""

    prompts: Prompts
    """The prompts of the run."""
    gates: Gates
    """What is learned."""
    verdict: VerdictIds
    """What is read."""
    choices: Choices
    """Of the caller."""
    training: Bool[np.ndarray, " item"]
    """Which items are learned on."""
    margins: Float[np.ndarray, "side item order"]
    """Base, judge."""
    single: Float[np.ndarray, "direction item order cell"]
    """Effect of each cell alone, on the training half."""
    learned: Float[np.ndarray, "direction price cell"]
    """Gates of the run with the lowest training loss."""
    left: Float[np.ndarray, "direction price"]
    """Its loss."""
    stability: Float[np.ndarray, "direction price"]
    """How far the masks of independent runs agree."""
    greedy: Int[np.ndarray, "direction cell"]
    """Cells by their effect alone, the strongest first."""
    set_sizes: Int[np.ndarray, " size"]
    """Sizes of masks."""
    masks: Float[np.ndarray, "direction price item order"]
    """Effect of each rounded mask."""
    greedies: Float[np.ndarray, "direction size item order"]
    """Effect of the cells that are strongest alone."""
    randoms: Float[np.ndarray, "direction size draw item order"]
    """Effect of random masks."""
    gaps: Float[np.ndarray, "draw item order"]
    """Of random judges."""
    remarks: list[str] = field(default_factory=list)
    """What a reader should know of how it was done."""
    noise: float = 0.0
    """How far null rows are from the models' own margins."""
    checked: float = 0.0
    """How far rows were from full forwards."""

    @classmethod
    def plan(cls, prompts: Prompts, cells: Sequence[Cell], choices: Choices) -> "MaskWork":
        """Split the items and make room."""
        first, _ = prompts.halves(seed=choices.seed)
        training = np.isin(np.arange(len(prompts)), first)
        shape, ways, prices = (len(prompts), len(prompts.orders)), len(choices.directions), len(choices.lambdas)
        blank = np.full
        return cls(
            prompts=prompts,
            gates=Gates.of(cells),
            verdict=VerdictIds.of(prompts),
            choices=choices,
            training=training,
            margins=blank((2, *shape), np.nan),
            single=blank((ways, *shape, len(cells)), np.nan),
            learned=blank((ways, prices, len(cells)), np.nan),
            left=blank((ways, prices), np.nan),
            stability=blank((ways, prices), np.nan),
            greedy=np.tile(np.arange(len(cells)), (ways, 1)),
            set_sizes=np.zeros(0, dtype=int),
            masks=blank((ways, prices, *shape), np.nan),
            greedies=blank((ways, 0, *shape), np.nan),
            randoms=blank((ways, 0, choices.draws, *shape), np.nan),
            gaps=blank((0, *shape), np.nan),
        )

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Return the cells that have gates."""
        return self.gates.cells

    def measure(self) -> None:
        """Step 1: both models once, and every cell alone on the training half."""
        prompts, size = self.prompts, self.choices.batch_size
        with progress_bar(len(prompts), title="single cells", shown=self.choices.progress) as bar:
            for learns in (True, False):
                half = np.flatnonzero(self.training == learns).tolist()
                for some, (margins, effects) in prompts.each(
                    prompts.batches(size, items=half), self._alone if learns else self._margins
                ):
                    chosen = list(some)
                    self.margins[:, chosen] = margins
                    if effects is not None:
                        self.single[:, chosen] = effects
                    prompts.done[chosen] = True
                    bar.update(len(chosen))

    def _entered(self, items: Sequence[int]) -> dict[Side, Suffix]:
        batch = self.prompts.batch(items)
        sides: tuple[Side, ...] = ("base", "judge")
        return {
            side: entered(self.prompts.pair.executor(side), batch, self.cells, mode=self.choices.mode)
            for side in sides
        }  # fmt: skip

    def _margins(self, items: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        batch = self.prompts.batch(items)
        logits = [self.prompts.pair.executor(side).run(batch).logits for side in ("base", "judge")]
        found = [self.verdict.of_vocabulary(x)[0].double().cpu().numpy() for x in logits]  # type: ignore[arg-type]
        return np.stack([self.prompts.by_item(margin) for margin in found]), None

    def _alone(self, items: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        ready = self._entered(items)
        margins = [self.prompts.by_item(own_margin(suffix, self.verdict)[0]) for suffix in ready.values()]
        sets = [(i,) for i in range(len(self.cells))]
        return np.stack(margins), np.stack([
            self._effects(ready, direction, sets) for direction in self.choices.directions
        ])  # fmt: skip

    def _effects(
        self, ready: dict[Side, Suffix], direction: Direction, sets: Sequence[Sequence[int]]
    ) -> Float[np.ndarray, "item order set"]:
        donor, target = (ready[side] for side in ends(direction))
        rows = [patch_row([self.cells[i] for i in chosen], target, of_model(donor)) for chosen in sets]
        self.checked = max(self.checked, target.check(rows, ids=self.verdict.ids, seed=self.choices.seed))
        found = read_rows(target, rows, self.verdict)
        self.noise = max(self.noise, found.noise)
        return self.prompts.by_item(found.effect)

    def gap(self, direction: Direction) -> Float[np.ndarray, "item order"]:
        """Return the donor's margin minus the target's."""
        change = self.margins[1] - self.margins[0]
        return change if direction == "judge_to_base" else -change

    @property
    def learnable(self) -> bool:
        """Whether both halves are measured and the models differ at all."""
        known = self.prompts.done
        if not (known & self.training).any() or not (known & ~self.training).any():
            self.prompts.notes.append("masks: one half of the items is empty.")
            return False
        if not np.nan_to_num(self.margins[1] - self.margins[0]).any():
            self.prompts.notes.append("masks: base and judge give the same margins on every item.")
            return False
        return True

    def learn(self) -> None:
        """Step 3: gates at every price, in every direction."""
        if not self.learnable:
            return
        choices = self.choices
        if self.prompts.n_clusters < FEWEST_TO_CONFIRM:
            self.remarks.append(
                f"{self.prompts.n_clusters} independent items are few to learn on one half of and tell by the other."
            )
        for at, direction in enumerate(choices.directions):
            gap = self.gap(direction)
            way = toward_donor(self.prompts.slot_sign, gap)
            way = way * np.sign(np.nanmean((gap * way)[self.training]))
            alone = np.nanmean((self.single[at] * way[..., None])[self.training], axis=(0, 1))
            self.greedy[at] = np.argsort(-alone, kind="stable")
            self._learn(at, direction)

    def _learn(self, at: int, direction: Direction) -> None:
        choices, prompts = self.choices, self.prompts
        donor, target = (prompts.pair.executor(side) for side in ends(direction))
        training = Training(
            prompts=prompts, gates=self.gates, verdict=self.verdict, target=target, donor=donor, loss=choices.loss,
            mode=choices.mode, batches=[],
        )  # fmt: skip
        items = np.flatnonzero(self.training & prompts.done).tolist()
        anew = training.fill(list(prompts.batches(choices.batch_size, items=items)), cache_gb=choices.cache_gb)
        if anew:
            self.remarks.append(
                f"{anew} of {len(training.batches)} training batches ({direction}) were run anew for every step: "
                f"cache_gb={choices.cache_gb:g} holds no more. It costs time, nothing else."
            )
        if training.scale() == 0:
            return
        total = choices.seeds * len(choices.lambdas) * choices.steps
        with progress_bar(total, title=f"mask {direction}", unit="step", shown=choices.progress) as bar:
            runs = [
                learn(
                    training, choices.lambdas, steps=choices.steps, rate=choices.lr, seed=choices.seed, run=run,
                    stepped=bar.update,
                )
                for run in range(choices.seeds)
            ]  # fmt: skip
        for k, price in enumerate(choices.lambdas):
            known = [run for run in runs if not np.isnan(run.left[k])]
            if known:
                best = min(known, key=lambda run: run.left[k] + price * run.gates[k].sum())  # noqa: B023
                self.learned[at, k], self.left[at, k] = best.gates[k], best.left[k]
                self.stability[at, k] = agreement_of([run.gates[k] for run in known])

    def evaluate(self) -> None:
        """Step 4: rounded masks, greedy sets and random masks, put in for real on both halves."""
        trained: np.ndarray = np.logical_not(np.isnan(self.learned).any(-1))
        if not trained.any():
            return
        choices, prompts = self.choices, self.prompts
        kept = [[np.flatnonzero(gates >= HALF).tolist() for gates in way] for way in np.nan_to_num(self.learned)]
        counts = {len(mask) for way, known in zip(kept, trained, strict=True)
                  for mask, k in zip(way, known, strict=True) if k}  # fmt: skip
        self.set_sizes = np.array(sorted(counts - {0} | {len(self.cells)}), dtype=int)
        shape = (len(choices.directions), len(self.set_sizes))
        self.greedies = np.full((*shape, *self.margins.shape[1:]), np.nan)
        self.randoms = np.full((*shape, choices.draws, *self.margins.shape[1:]), np.nan)
        plans = [self._sets(at, way) for at, way in enumerate(kept)]
        done = np.flatnonzero(prompts.done).tolist()
        with progress_bar(len(done), title="rounded masks", shown=choices.progress) as bar:
            for some, found in prompts.each(
                prompts.batches(choices.batch_size, items=done),
                lambda items: [self._put_in(items, d, p) for d, p in zip(choices.directions, plans, strict=True)],
            ):
                for at, (plan, effects) in enumerate(zip(plans, found, strict=True)):
                    self._store(at, plan, effects, list(some), trained[at], kept[at])
                bar.update(len(some))

    def _sets(self, at: int, masks: Sequence[Sequence[int]]) -> dict[tuple[str, int, int], tuple[int, ...]]:
        """Return the cells of everything that is put in, by kind, place and draw."""
        plan = {("mask", k, 0): tuple(mask) for k, mask in enumerate(masks) if mask}
        number = {cell: i for i, cell in enumerate(self.cells)}
        for s, size in enumerate(self.set_sizes.tolist()):
            plan["greedy", s, 0] = tuple(sorted(self.greedy[at, :size].tolist()))
            own = next((mask for mask in masks if len(mask) == size), None)
            for draw in range(self.choices.draws if own is not None else 0):
                drawn = matched(
                    [self.cells[i] for i in own or ()], self.cells, seed=(self.choices.seed, at, size, draw)
                )
                plan["random", s, draw] = tuple(sorted(number[cell] for cell in drawn))
        return plan

    def _put_in(
        self, items: Sequence[int], direction: Direction, plan: dict[tuple[str, int, int], tuple[int, ...]]
    ) -> dict[tuple[int, ...], np.ndarray]:
        sets = list(dict.fromkeys(plan.values()))
        if not sets:
            return {}
        effects = self._effects(self._entered(items), direction, sets)
        return {chosen: effects[..., k] for k, chosen in enumerate(sets)}

    def _store(
        self,
        at: int,
        plan: dict[tuple[str, int, int], tuple[int, ...]],
        effects: dict[tuple[int, ...], np.ndarray],
        items: list[int],
        trained: np.ndarray,
        masks: Sequence[Sequence[int]],
    ) -> None:
        for (kind, place, draw), chosen in plan.items():
            if kind == "mask":
                self.masks[at, place, items] = effects[chosen]
            elif kind == "greedy":
                self.greedies[at, place, items] = effects[chosen]
            else:
                self.randoms[at, place, draw, items] = effects[chosen]
        empty = [k for k, mask in enumerate(masks) if not mask and trained[k]]
        self.masks[at, np.array(empty, dtype=int)[:, None], np.array(items)[None, :]] = 0.0

    def control(self) -> None:
        """Step 2: how far random judges of equal norm move the margins."""
        choices = self.choices
        self.gaps = random_gaps(
            self.prompts, self.verdict, self.margins[0], draws=choices.controls, limit=choices.control_items,
            batch_size=choices.batch_size, seed=choices.seed,
        )  # fmt: skip


def assemble(work: MaskWork, *, parameters: dict[str, object], started: float) -> MaskResult:
    """Return the result of the finished items.

    Args:
        work: What was measured.
        parameters: Choices of the call that ``work.choices`` doesn't hold.
        started: When the run began.
    """
    prompts, choices = work.prompts, work.choices
    kept = prompts.kept
    chosen = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(choices).items()}
    meta = run_meta(
        prompts.pair,
        prompts.kept_items(),
        analysis="cross_model_patching.masks",
        parameters=parameters | {name: v for name, v in chosen.items() if name not in ("seed", "progress")},
        seed=choices.seed,
        wall_time_s=time.perf_counter() - started,
        noise_floor=work.noise,
        warnings=prompts.warnings,
        not_measured=prompts.notes,
    )
    return MaskResult(
        **prompts.axes(),  # type: ignore[arg-type]
        directions=choices.directions,
        lambdas=choices.lambdas,
        cell_labels=cell_labels(work.cells),
        share=choices.share,
        unit=work.verdict.unit,
        checked=work.checked,
        remarks=(*output_maps_moved(prompts.pair, work.cells), *work.remarks),
        training=kept(work.training),
        margins=kept(work.margins, axis=1),
        single_effect=kept(work.single, axis=1),
        gates=work.learned,
        left=work.left,
        stability=work.stability,
        greedy_order=work.greedy,
        set_sizes=work.set_sizes,
        mask_effect=kept(work.masks, axis=2),
        greedy_effect=kept(work.greedies, axis=2),
        random_effect=kept(work.randoms, axis=3),
        random_gap=kept(work.gaps, axis=1),
        meta=meta,
    )
