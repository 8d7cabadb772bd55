"""What is run for one bias, batch by batch: every cell patched, the named set patched and ablated, random judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analyses.cross_model_patching.bias.plan import Plan
from analyses.cross_model_patching.cells import Cell, cell_columns
from analyses.cross_model_patching.sweeping import entered, of_model, own_margin, patch_row, read_rows, sweep
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import Prompts
from workbench.hooks import HooksBackend
from workbench.hooks.suffix import Mode, Row, Suffix, Write
from workbench.pairs import Pair, Side

Ablation = Literal["mean", "zero", "clean"]
ABLATIONS: tuple[Ablation, ...] = ("mean", "zero", "clean")
Runs = Mapping[str, Suffix]
"""One model's run of every condition of a batch."""
Groups = Sequence[Sequence[int]]


class Sums(NamedTuple):
    """Sums of a batch's clean activations, for means."""

    values: tuple[Tensor, ...]
    """By cell, float64."""
    counts: tuple[int, ...]
    """Tokens behind each."""


@dataclass(slots=True, kw_only=True)
class Work:
    """One bias of one model: what is planned, what is measured so far."""

    plan: Plan
    cells: tuple[Cell, ...]
    verdict: VerdictIds
    side: Side
    """Whose bias it is."""
    ablation: Ablation
    mode: Mode | None
    seed: int
    naming: Bool[np.ndarray, " item"]
    """Items sites are named on."""
    margins: dict[Side, Float[np.ndarray, "condition item order"]]
    masses: Float[np.ndarray, "item order"]
    """Label mass of the model looked at, nothing perturbed."""
    effect: Float[np.ndarray, "item order cell"]
    """What the donor run's activation does to the margin that shows the bias."""
    other_effect: Float[np.ndarray, "item order cell"]
    """What the other model's activations do to the shift."""
    means: tuple[Tensor, ...] = ()
    """Mean activation of every cell over the naming half, nothing perturbed."""
    noise: float = 0.0
    self_test: float = float("nan")
    ran_as: str = ""
    sets: Groups = field(default_factory=list)
    """The named set, then random ones."""
    set_effect: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    set_induced: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    set_other_effect: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    set_shift: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    set_plain: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    ablated_mass: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def shown(self) -> Prompts:
        """Return the prompts that show the bias; they keep track of what is done."""
        return self.plan.shown

    @property
    def pair(self) -> Pair:
        """Return the pair."""
        return self.shown.pair

    @property
    def other(self) -> Side:
        """Return the other model."""
        return "base" if self.side == "judge" else "judge"

    def enter(self, executor: HooksBackend, items: Sequence[int]) -> Runs:
        """Run one model once on every condition of some items."""
        return {
            name: entered(executor, prompts.batch(items), self.cells, mode=self.mode)
            for name, prompts in self.plan.prompts.items()
        }

    def own_margins(self, runs: Runs) -> Float[np.ndarray, "condition item order"]:
        """Return a model's margins in every condition."""
        return np.array([self.shown.by_item(own_margin(runs[name], self.verdict)[0]) for name in self.plan.conditions])

    def measure(self, items: tuple[int, ...]) -> Sums:
        """Both models once on one batch, and every cell both ways; safe to be called again on a part of it."""
        rows = list(items)
        runs = {side: self.enter(self.pair.executor(side), items) for side in ("base", "judge")}
        for side in ("base", "judge"):
            self.margins[side][:, rows] = self.own_margins(runs[side])
        own, other = runs[self.side], runs[self.other]
        self.masses[rows] = self.shown.by_item(own_margin(own[self.plan.plain], self.verdict)[1])
        self._test_once(own, items)
        every = [[i] for i in range(len(self.cells))]
        self.effect[rows] = self.within(own, items, every)
        self.other_effect[rows] = self.across(own, other, items, every)
        return self.sums(other if self.plan.placed else own, items)

    def within(self, own: Runs, items: Sequence[int], groups: Groups) -> Float[np.ndarray, "item order group"]:
        """Return what the donor run of the same item does in each group of cells; NaN where nothing is aligned."""
        target = own[self.plan.conditions[0]]
        donor = self.plan.pairs.donor(items, target=target, donor=own[self.plan.donor])
        found = sweep(target, self._cells(groups), donor, self.verdict)
        self.noise = max(self.noise, found.noise)
        known = self.plan.pairs.aligned(self.cells, items)
        return self.shown.by_item(np.where(_all(known, groups), found.effect, np.nan))

    def _induced(self, own: Runs, items: Sequence[int]) -> Float[np.ndarray, "item order group"]:
        """Return what the run with the bias does in the sets of the run it is patched from."""
        turned, target = self.plan.pairs.flipped(), own[self.plan.donor]
        donor = turned.donor(items, target=target, donor=own[self.plan.conditions[0]])
        found = sweep(target, self._cells(self.sets), donor, self.verdict)
        known = turned.aligned(self.cells, items)
        return self.shown.by_item(np.where(_all(known, self.sets), found.effect, np.nan))

    def across(
        self, own: Runs, other: Runs, items: Sequence[int], groups: Groups
    ) -> Float[np.ndarray, "item order group"]:
        """Return what the other model's activations on the same prompts do to the shift, group by group."""
        total = np.zeros((len(own[self.plan.plain].batch), len(groups)))
        for sign, name in self._shift():
            found = sweep(own[name], self._cells(groups), of_model(other[name]), self.verdict)
            self.noise = max(self.noise, found.noise)
            total += sign * np.where(_all(self._present(own[name]), groups), found.effect, np.nan)
        return self.shown.by_item(total)

    def sums(self, runs: Runs, items: Sequence[int]) -> Sums:
        """Return sums of what the cells hold where nothing is perturbed, over the naming half of a batch."""
        plain = runs[self.plan.plain]
        chosen = np.repeat(self.naming[list(items)], len(self.shown.orders))
        values, counts = [], []
        for cell in self.cells:
            columns, present = cell_columns(cell, plain.batch)
            kept = torch.from_numpy(chosen) & present
            there = plain.clean(cell.site, columns)
            there = there[kept.to(there.device)].double().flatten(0, 1)
            values.append(there.sum(0).cpu())
            counts.append(len(there))
        return Sums(tuple(values), tuple(counts))

    def confirm(self, items: tuple[int, ...]) -> None:
        """Patch the sets, give them the other model's activations and ablate them, on items they weren't named on."""
        rows = list(items)
        own, other = (self.enter(self.pair.executor(side), items) for side in (self.side, self.other))
        given = self.across(own, other, items, self.sets)
        patched = given if self.plan.placed else self.within(own, items, self.sets)
        self.set_other_effect[:, rows], self.set_effect[:, rows] = (np.moveaxis(x, -1, 0) for x in (given, patched))
        if not self.plan.placed:
            self.set_induced[:, rows] = np.moveaxis(self._induced(own, items), -1, 0)
        away = {name: self._ablated(own[name], items) for name in {self.plan.plain, *(n for _, n in self._shift())}}
        shift = [sign * away[name][0] for sign, name in self._shift()]
        self.set_shift[:, rows] = np.moveaxis(self.shown.by_item(np.sum(shift, axis=0)), -1, 0)
        margins, mass = away[self.plan.plain]
        self.set_plain[:, rows] = np.moveaxis(self.shown.by_item(margins), -1, 0)
        self.ablated_mass[rows] = self.shown.by_item(mass[:, 0])

    def random_judge(self, executor: HooksBackend, items: Sequence[int]) -> dict[str, np.ndarray]:
        """Return what is measured of a judge moved as far at random, on some items."""
        runs: dict[Side, Runs] = {
            "judge": self.enter(executor, items), "base": self.enter(self.pair.executor("base"), items)
        }  # fmt: skip
        groups = [[i] for i in range(len(self.cells))] + [list(part) for part in self.sets[:1]]
        across = self.across(runs[self.side], runs[self.other], items, groups)
        within = self.within(runs["judge"], items, groups)
        cells = len(self.cells)
        return {
            "margin": self.own_margins(runs["judge"]),
            "effect": within[..., :cells],
            "other_effect": across[..., :cells],
            "set_effect": np.moveaxis(across if self.plan.placed else within, -1, 0)[cells:],
            "set_other_effect": np.moveaxis(across, -1, 0)[cells:],
        }

    def _ablated(self, target: Suffix, items: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return margin and label mass ``[prompt, set]`` of one condition with every set ablated."""
        others = self._others(items) if self.ablation == "clean" else None
        rows = [self._ablation_row([self.cells[i] for i in group], target, others) for group in self.sets]
        found = read_rows(target, rows, self.verdict, mass=True)
        return own_margin(target, self.verdict)[0][:, None] + found.effect, found.mass

    def _others(self, items: Sequence[int]) -> Suffix:
        """Return the run of other items, of the naming half, nothing perturbed; each item always has the same one."""
        pool = np.flatnonzero(self.naming & self.shown.done)
        drawn = [int(pool[np.random.default_rng([self.seed, i]).integers(len(pool))]) for i in items]
        side = self.other if self.plan.placed else self.side
        return entered(
            self.pair.executor(side), self.plan.prompts[self.plan.plain].batch(drawn), self.cells, mode=self.mode
        )

    def _ablation_row(self, cells: Sequence[Cell], target: Suffix, others: Suffix | None) -> Row:
        writes = []
        for cell in cells:
            columns, present = cell_columns(cell, target.batch)
            own = target.clean(cell.site, columns)
            if others is not None:
                shift = others.batch.ids.shape[1] - target.batch.ids.shape[1]
                values = others.clean(cell.site, columns + shift).to(own)
            elif self.ablation == "zero":
                values = torch.zeros_like(own)
            else:
                values = self.means[self.cells.index(cell)].to(own).expand_as(own)
            keep = present.to(own.device).view(-1, *[1] * (own.ndim - 1))
            writes.append(Write(cell.site, columns, torch.where(keep, values, own)))
        return Row(tuple(writes))

    def _shift(self) -> list[tuple[float, str]]:
        """Return the conditions whose difference is the bias, with their signs."""
        held = [] if self.plan.reference is None else [(-1.0, self.plan.reference)]
        return [(1.0, self.plan.conditions[0]), *held]

    def _cells(self, groups: Groups) -> list[list[Cell]]:
        return [[self.cells[i] for i in group] for group in groups]

    def _present(self, target: Suffix) -> Bool[np.ndarray, "prompt cell"]:
        return np.stack([cell_columns(cell, target.batch)[1].numpy() for cell in self.cells], axis=1)

    def _test_once(self, own: Runs, items: Sequence[int]) -> None:
        """Re-run random rows of the first prompt as full forwards."""
        if self.ran_as:
            return
        target = own[self.plan.conditions[0]]
        self.ran_as = target.mode
        donor = self.plan.pairs.donor(items, target=target, donor=own[self.plan.donor])
        rows = [patch_row([cell], target, donor) for cell in self.cells]
        self.self_test = target.check(rows, ids=self.verdict.ids, seed=self.seed)


def mean_of(parts: Sequence[Sums]) -> tuple[Tensor, ...]:
    """Return the mean of every cell over batches; zeros where no prompt has it."""
    found = []
    for index in range(len(parts[0].values)):
        total = torch.stack([part.values[index] for part in parts]).sum(0)
        found.append(total / max(1, sum(part.counts[index] for part in parts)))
    return tuple(found)


def _all(known: Bool[np.ndarray, "prompt cell"], groups: Groups) -> Bool[np.ndarray, "prompt group"]:
    return np.stack([known[:, list(group)].all(1) for group in groups], axis=1)
