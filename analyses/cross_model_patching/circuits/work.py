"""The steps of a circuit run, and what they have measured so far."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from analyses.cross_model_patching.advantage import LEAST_GAP, random_gaps
from analyses.cross_model_patching.cells import Cell, matched, sites_of
from analyses.cross_model_patching.circuits.ablation import SIDES, Ablation, Means
from analyses.cross_model_patching.circuits.result import CircuitResult, cell_labels, jaccard, verdict_way
from analyses.cross_model_patching.circuits.search import Alive, nested_sizes, prefix, pruned, smallest
from analyses.cross_model_patching.sweeping import Donor, entered, of_model, own_margin, patch_row, read_rows
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import FEWEST_TO_CONFIRM, Prompts, progress_bar
from workbench.hooks.suffix import Mode, Suffix
from workbench.pairs import Side, run_meta

Key = tuple[str, int, int]
"""What a set of cells is for, with up to two indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the caller chose; see :func:`circuit`."""

    model: Side
    """Whose circuit is taken apart."""
    ablation: Ablation
    """What stands outside."""
    last_k: int
    """Positions from the end."""
    threshold: float
    """Faithful enough."""
    draws: int
    """Random circuits."""
    controls: int
    """Random judges."""
    control_items: int | None
    """Items they are measured on."""
    mode: Mode | None
    """How rows run."""
    batch_size: int
    """Prompts per forward."""
    seed: int
    """Of everything random."""
    progress: bool
    """Whether to show a bar."""


@dataclass(slots=True, kw_only=True, eq=False)
class CircuitWork:
    """What a run has measured so far."""

    prompts: Prompts
    """The prompts of the run."""
    cells: tuple[Cell, ...]
    """What circuits are made of."""
    verdict: VerdictIds
    """What is read."""
    choices: Choices
    """Of the caller."""
    means: Means
    """Of the training half."""
    names: tuple[str, ...]
    """``base`` and ``judge``, or ``given``."""
    training: Bool[np.ndarray, " item"]
    """Which items circuits are found on."""
    margins: Float[np.ndarray, "side item order"]
    """Base, judge."""
    circuits: Bool[np.ndarray, "circuit cell"]
    """Members."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """Measured margins, by the result's field."""
    subsets: Bool[np.ndarray, "subset cell"]
    """Parts of the main circuit that are left out."""
    subset_names: tuple[str, ...] = ()
    """What they are."""
    jaccards: Float[np.ndarray, " draw"]
    """Overlap of random circuits."""
    gaps: Float[np.ndarray, "draw item order"]
    """Of random judges."""
    remarks: list[str] = field(default_factory=list)
    """What a reader should know of how it was done."""
    noise: float = 0.0
    """How far null rows are from the models' own margins."""
    checked: float = 0.0
    """How far rows were from full forwards."""

    @classmethod
    def plan(
        cls, prompts: Prompts, cells: Sequence[Cell], choices: Choices, *, given: Bool[np.ndarray, " cell"] | None
    ) -> "CircuitWork":
        """Split the items and make room."""
        first, _ = prompts.halves(seed=choices.seed)
        shape, draws = (len(prompts), len(prompts.orders)), choices.draws
        names = SIDES if given is None else ("given",)
        circuits = np.zeros((len(names), len(cells)), dtype=bool) if given is None else given[None, :]
        blank = {
            "empty": (2,), "single": (2, len(cells)), "alive": (len(names), 2), "without": (len(cells),),
            "random_alive": (len(names), 2, draws), "whole_without": (0,), "circuit_without": (0,),
            "random_whole_without": (draws,), "random_circuit_without": (draws,),
        }  # fmt: skip
        return cls(
            prompts=prompts,
            cells=tuple(cells),
            verdict=VerdictIds.of(prompts),
            choices=choices,
            means=Means(sites=sites_of(cells), last_k=choices.last_k),
            names=names,
            training=np.isin(np.arange(len(prompts)), first),
            margins=np.full((2, *shape), np.nan),
            circuits=circuits,
            arrays={name: np.full((*lead, *shape), np.nan) for name, lead in blank.items()},
            subsets=np.zeros((0, len(cells)), dtype=bool),
            jaccards=np.zeros(0),
            gaps=np.full((0, *shape), np.nan),
        )

    @property
    def main(self) -> int:
        """Return which circuit is taken apart."""
        return self.names.index(self.choices.model) if self.choices.model in self.names else 0

    @property
    def every(self) -> Alive:
        """Return all cells."""
        return tuple(range(len(self.cells)))

    def _each(self, items: Sequence[int], title: str, run):  # noqa: ANN001, ANN202 - as Prompts.each
        with progress_bar(len(items), title=title, shown=self.choices.progress) as bar:
            for some, found in self.prompts.each(self.prompts.batches(self.choices.batch_size, items=items), run):
                yield list(some), found
                bar.update(len(some))

    def _entered(self, items: Sequence[int]) -> dict[Side, Suffix]:
        batch = self.prompts.batch(items)
        return {
            side: entered(self.prompts.pair.executor(side), batch, self.cells, mode=self.choices.mode)
            for side in SIDES
        }  # fmt: skip

    def measure(self) -> None:
        """Step 1: margins of both models, and means over the training half."""

        def both(items: tuple[int, ...]) -> dict[Side, Suffix]:
            return self._entered(items)

        for half in (True, False):
            for some, ready in self._each(np.flatnonzero(self.training == half).tolist(), "both models", both):
                for at, side in enumerate(SIDES):
                    self.margins[at, some] = self.prompts.by_item(own_margin(ready[side], self.verdict)[0])
                if half:
                    self.means.add(ready)
                self.prompts.done[some] = True

    def _donor(self, ready: dict[Side, Suffix], side: Side, items: Sequence[int]) -> Donor:
        if self.choices.ablation == "other_model":
            return of_model(ready["judge" if side == "base" else "base"])
        inside = self.training[list(items)].tolist()
        return self.means.donor(ready[side], side, inside, len(self.prompts.orders))

    def _run(self, items: tuple[int, ...], *, side: Side, sets: Sequence[Alive]) -> Float[np.ndarray, "item order set"]:
        """Return margins with only these cells alive."""
        ready = self._entered(items)
        target, donor = ready[side], self._donor(ready, side, items)
        some = [alive for alive in dict.fromkeys(sets) if alive != self.every]
        rows = [
            patch_row([cell for i, cell in enumerate(self.cells) if i not in set(alive)], target, donor)
            for alive in some
        ]
        effects = {self.every: np.zeros(len(target.batch))}
        if rows:
            self.checked = max(self.checked, target.check(rows, ids=self.verdict.ids, seed=self.choices.seed))
            found = read_rows(target, rows, self.verdict)
            self.noise = max(self.noise, found.noise)
            effects |= {alive: found.effect[:, k] for k, alive in enumerate(some)}
        # On top of the margins that are kept: what changes nothing gives exactly these, in whatever batch it ran.
        own = self.margins[SIDES.index(side), list(items)]
        return own[..., None] + self.prompts.by_item(np.stack([effects[alive] for alive in sets], axis=-1))

    def _over_training(self, side: Side, sets: Sequence[Alive], title: str) -> Float[np.ndarray, "item order set"]:
        found = np.full((*self.margins.shape[1:], len(sets)), np.nan)
        items = np.flatnonzero(self.training & self.prompts.done).tolist()
        for some, values in self._each(items, title, partial(self._run, side=side, sets=sets)):
            found[some] = values
        return found

    @property
    def _halved(self) -> bool:
        """Whether there are items on both halves."""
        return all((half & self.prompts.done).any() for half in (self.training, ~self.training))

    def find(self) -> None:
        """Steps 2 and 3: each model's own circuit, on the training half."""
        if not self._halved:
            self.prompts.notes.append("circuits: one half of the items is empty.")
            return
        if self.prompts.n_clusters < FEWEST_TO_CONFIRM:
            self.remarks.append(
                f"{self.prompts.n_clusters} independent items are few to find a circuit on one half of and test it on "
                "the other."
            )
        if "given" in self.names:
            return
        for at, side in enumerate(SIDES):
            self.circuits[at] = self._found(at, side)
            if not self.circuits[at].any():
                self.remarks.append(
                    f"The {side} has no circuit here: with all cells ablated its margin is no lower, or by less than "
                    f"{LEAST_GAP:g} {self.verdict.unit}, on the half circuits are found on."
                )

    def _found(self, at: int, side: Side) -> Bool[np.ndarray, " cell"]:
        alone = [tuple(i for i in self.every if i != out) for out in self.every]
        values = self._over_training(side, [(), *alone], f"single cells of the {side}")
        self.arrays["empty"][at] = values[..., 0]
        self.arrays["single"][at] = np.moveaxis(values[..., 1:], -1, 0)
        way = verdict_way(self.prompts.slot_sign, self.margins[1])
        full, empty = (self._mean(x * way) for x in (self.margins[at], values[..., 0]))
        members = np.zeros(len(self.cells), dtype=bool)
        if not full - empty >= LEAST_GAP:
            return members
        drops = full - np.array([self._mean(values[..., k] * way) for k in range(1, values.shape[-1])])
        order = np.argsort(-drops, kind="stable")

        def faithful(sets: Sequence[Alive]) -> Float[np.ndarray, " set"]:
            margins = self._over_training(side, sets, f"circuits of the {side}")
            return np.array([(self._mean(margins[..., k] * way) - empty) / (full - empty) for k in range(len(sets))])

        sizes = nested_sizes(len(self.cells))
        grown = smallest(faithful([prefix(order.tolist(), int(size)) for size in sizes]), self.choices.threshold)
        start = self.every if grown is None else prefix(order.tolist(), int(sizes[grown]))
        members[list(pruned(start, threshold=self.choices.threshold, measure=faithful))] = True
        return members

    def _mean(self, values: Float[np.ndarray, "item order"]) -> float:
        known = values[self.training & self.prompts.done]
        return float(known[~np.isnan(known).any(1)].mean())

    def evaluate(self) -> None:
        """Step 4: everything that is left alive, on all items of both models."""
        if not self._halved:
            return
        self._draw_subsets()
        items = np.flatnonzero(self.prompts.done).tolist()
        plans = [self._plan(at) for at in range(len(SIDES))]
        # The same rows in both: one model given twice then rounds alike, and differs by exactly nothing.
        sets = list(dict.fromkeys(alive for plan in plans for alive in plan.values()))
        for at, (side, plan) in enumerate(zip(SIDES, plans, strict=True)):
            run = partial(self._run, side=side, sets=sets)
            for some, values in self._each(items, f"circuits in the {side}", run):
                for (name, one, two), alive in plan.items():
                    self._store(name, (one, two), at, some, values[..., sets.index(alive)])

    def _draw_subsets(self) -> None:
        own = np.flatnonzero(self.circuits[self.main])
        kinds = {
            name: np.array([cell.component.value == name for cell in self.cells]) & self.circuits[self.main]
            for name in dict.fromkeys(cell.component.value for cell in self.cells)
        }
        rng = np.random.default_rng([self.choices.seed, 1])
        rows, names = [], []
        for draw in range(self.choices.draws if len(own) > 1 else 0):
            row = np.zeros(len(self.cells), dtype=bool)
            row[own[rng.random(len(own)) < 0.5]] = True
            if row.any():
                rows.append(row)
                names.append(f"random {draw}")
        for name, row in kinds.items():
            if row.any():
                rows.append(row)
                names.append(name)
        self.subsets, self.subset_names = np.array(rows, dtype=bool).reshape(-1, len(self.cells)), tuple(names)
        for name in ("whole_without", "circuit_without"):
            self.arrays[name] = np.full((len(rows), *self.margins.shape[1:]), np.nan)

    def _plan(self, at: int) -> dict[Key, Alive]:
        """Return which cells are left alive in one model, and what for."""
        plan: dict[Key, Alive] = {("empty", 0, 0): ()}
        randoms = [self._randoms(c) for c in range(len(self.names))]
        for c, row in enumerate(self.circuits):
            if row.any():
                plan["alive", c, 0] = _indices(row)
            plan |= {("random_alive", c, d): alive for d, alive in enumerate(randoms[c])}
        if at == 0:
            self.jaccards = np.array([jaccard(*pair) for pair in zip(*randoms, strict=True)]) if (
                len(randoms) == 2 and all(randoms)) else np.zeros(0)  # fmt: skip
        if SIDES[at] == self.choices.model:
            plan |= self._apart(randoms[self.main])
        return plan

    def _randoms(self, c: int) -> list[Alive]:
        own = [self.cells[i] for i in np.flatnonzero(self.circuits[c])]
        if not own:
            return []
        number = {cell: i for i, cell in enumerate(self.cells)}
        seeds = [(self.choices.seed, 2, c, draw) for draw in range(self.choices.draws)]
        return [tuple(sorted(number[x] for x in matched(own, self.cells, seed=seed))) for seed in seeds]

    def _apart(self, randoms: Sequence[Alive]) -> dict[Key, Alive]:
        """Return what taking the main circuit apart needs."""
        own = _indices(self.circuits[self.main])
        plan: dict[Key, Alive] = {
            ("without", member, 0): tuple(i for i in own if i != member) for member in own
        }  # fmt: skip
        for k, row in enumerate(self.subsets):
            out = set(_indices(row))
            plan["whole_without", k, 0] = tuple(i for i in self.every if i not in out)
            plan["circuit_without", k, 0] = tuple(i for i in own if i not in out)
        rng = np.random.default_rng([self.choices.seed, 3])
        for d, alive in enumerate(randoms):
            out = {i for i in alive if rng.random() < 0.5}
            plan["random_whole_without", d, 0] = tuple(i for i in self.every if i not in out)
            plan["random_circuit_without", d, 0] = tuple(i for i in alive if i not in out)
        return plan

    def _store(self, name: str, index: tuple[int, int], at: int, items: list[int], values: np.ndarray) -> None:
        array, (one, two) = self.arrays[name], index
        if name == "empty":
            array[at, items] = values
        elif name == "alive":
            array[one, at, items] = values
        elif name == "random_alive":
            array[one, at, two, items] = values
        else:
            array[one, items] = values

    def control(self) -> None:
        """Step 5: how far random judges of equal norm move the margins."""
        choices = self.choices
        self.gaps = random_gaps(
            self.prompts, self.verdict, self.margins[0], draws=choices.controls, limit=choices.control_items,
            batch_size=choices.batch_size, seed=choices.seed,
        )  # fmt: skip


def _indices(row: Bool[np.ndarray, " cell"]) -> tuple[int, ...]:
    found: Int[np.ndarray, " n"] = np.flatnonzero(row)
    return tuple(int(i) for i in found)


def assemble(work: CircuitWork, *, parameters: dict[str, object], started: float) -> CircuitResult:
    """Return the result of the finished items.

    Args:
        work: What was measured.
        parameters: Choices of the call that ``work.choices`` doesn't hold.
        started: When the run began.
    """
    prompts, choices = work.prompts, work.choices
    meta = run_meta(
        prompts.pair,
        prompts.kept_items(),
        analysis="cross_model_patching.circuits",
        parameters=parameters | {k: v for k, v in asdict(choices).items() if k not in ("seed", "progress")},
        seed=choices.seed,
        wall_time_s=time.perf_counter() - started,
        noise_floor=work.noise,
        warnings=prompts.warnings,
        not_measured=prompts.notes,
    )
    return CircuitResult(
        **prompts.axes(),  # type: ignore[arg-type]
        **{name: prompts.kept(array, axis=array.ndim - 2) for name, array in work.arrays.items()},  # type: ignore[arg-type]
        cell_labels=cell_labels(work.cells),
        circuit_names=work.names,
        subset_names=work.subset_names,
        model=choices.model,
        ablation=choices.ablation,
        threshold=choices.threshold,
        unit=work.verdict.unit,
        checked=work.checked,
        remarks=tuple(work.remarks),
        training=prompts.kept(work.training),
        margins=prompts.kept(work.margins, axis=1),
        members=work.circuits,
        subsets=work.subsets,
        random_overlap=work.jaccards,
        random_gap=prompts.kept(work.gaps, axis=1),
        meta=meta,
    )
