"""Measuring a contrast: both versions through a model, every cell of one with the other's activation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.cross_model_patching.cells import Cell
from analyses.cross_model_patching.directions import others
from analyses.cross_model_patching.prompt_pairs import PromptPairs
from analyses.cross_model_patching.sweeping import (
    Donor,
    entered,
    of_noise,
    of_prompts,
    own_margin,
    patch_row,
    sizes,
    sweep,
)
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import controlled_items, progress_bar, random_judges
from workbench.hooks import HooksBackend, Site
from workbench.hooks.suffix import Mode, Suffix

Direction = Literal["other_to_clean", "clean_to_other"]
DIRECTIONS: tuple[Direction, ...] = ("other_to_clean", "clean_to_other")
SIDES = ("base", "judge")
CELL_ARRAYS = ("effect", "size", "zero", "mismatched_effect", "noise_effect")


class Entered(NamedTuple):
    """One model that has read both versions of some items."""

    target: Suffix
    donor: Suffix
    give: Donor


@dataclass(slots=True, kw_only=True)
class Work:
    """State of one run: what is planned, what is measured so far."""

    pairs: PromptPairs
    cells: tuple[Cell, ...]
    direction: Direction
    verdict: VerdictIds
    mode: Mode | None
    seed: int
    margins: Float[np.ndarray, "side version item order"]
    masses: Float[np.ndarray, "side version item order"]
    arrays: dict[str, np.ndarray]
    """[side, item, order, cell]; NaN where prompts can't be aligned."""
    random_margin: Float[np.ndarray, "draw version item order"]
    random_effect: Float[np.ndarray, "draw item order cell"]
    noise: float = 0.0
    self_test: float = float("nan")
    modes: list[str] = field(default_factory=list)

    @classmethod
    def plan(
        cls, pairs: PromptPairs, cells: tuple[Cell, ...], *, direction: Direction, draws: int, mode: Mode | None,
        seed: int,
    ) -> "Work":  # fmt: skip
        """Make room for everything.

        Raises:
            ParameterError: No pair of prompts has one of the cells.
        """
        pairs.check(cells)
        prompts = (len(pairs.clean), len(pairs.clean.orders))
        return cls(
            pairs=pairs,
            cells=cells,
            direction=direction,
            verdict=VerdictIds.of(pairs.clean),
            mode=mode,
            seed=seed,
            margins=np.full((2, 2, *prompts), np.nan),
            masses=np.full((2, 2, *prompts), np.nan),
            arrays={name: np.full((2, *prompts, len(cells)), np.nan) for name in CELL_ARRAYS},
            random_margin=np.full((draws, 2, *prompts), np.nan),
            random_effect=np.full((draws, *prompts, len(cells)), np.nan),
        )

    @property
    def sign(self) -> float:
        """Return what makes an effect positive where it is a share of clean minus other."""
        return -1.0 if self.direction == "other_to_clean" else 1.0

    def enter(self, executor: HooksBackend, items: Sequence[int]) -> Entered:
        """Run both versions of some items once."""
        pairs = self.pairs if self.direction == "other_to_clean" else self.pairs.flipped()
        target, donor = (entered(executor, batch, self.cells, mode=self.mode) for batch in pairs.batch(items))
        return Entered(target, donor, pairs.donor(items, target=target, donor=donor))

    def own(self, entry: Entered) -> np.ndarray:
        """Return margin and mass of the clean and the other version, ``[quantity, version, prompt]``."""
        both = [own_margin(suffix, self.verdict) for suffix in (entry.target, entry.donor)]
        read = both if self.direction == "other_to_clean" else both[::-1]
        return np.moveaxis(np.array(read), 1, 0)

    def effects(self, entry: Entered, donor: Donor, usable: np.ndarray) -> Float[np.ndarray, "quantity prompt cell"]:
        """Patch every cell that some prompt of the batch has; effect and structural zeros, NaN where there is none."""
        found = np.full((2, *usable.shape), np.nan)
        chosen = np.flatnonzero(usable.any(0))
        if chosen.size:
            swept = sweep(entry.target, [[self.cells[i]] for i in chosen], donor, self.verdict)
            self.noise = max(self.noise, swept.noise)
            found[0][:, chosen], found[1][:, chosen] = self.sign * swept.effect, swept.zero
        found[:, ~usable] = np.nan
        # A zero is no negative zero.
        return found + 0.0

    def measure(self, items: tuple[int, ...]) -> None:
        """Both models on one batch; safe to be called again on a part of it."""
        usable = self.pairs.aligned(self.cells, items)
        for at, side in enumerate(SIDES):
            entry = self.enter(self.pairs.clean.pair.executor(side), items)
            self._tested(entry, usable)
            self.margins[at][:, list(items)], self.masses[at][:, list(items)] = self._by_item(self.own(entry))
            effect, zero = self.effects(entry, entry.give, usable)
            size = np.full(usable.shape, np.nan)
            chosen = np.flatnonzero(usable.any(0))
            if chosen.size:
                size[:, chosen] = sizes(entry.target, [self.cells[i] for i in chosen], entry.give)
            for name, values in (("effect", effect), ("zero", zero), ("size", np.where(usable, size, np.nan))):
                self.put(name, at, items, values)

    def mislead(self, items: tuple[int, ...]) -> None:
        """Put in what another item's other version has there, and a random change of the same length."""
        usable = self.pairs.aligned(self.cells, items)
        order, apart = self._others(items)
        placed = usable & np.array([cell.span is None for cell in self.cells])
        for at, side in enumerate(SIDES):
            entry = self.enter(self.pairs.clean.pair.executor(side), items)
            drawn = of_noise(entry.give, entry.target, seed=self.seed)
            self.put("noise_effect", at, items, self.effects(entry, drawn, usable)[0])
            mixed = _reordered(of_prompts(entry.donor, entry.target), order)
            found = self.effects(entry, mixed, placed & apart[:, None])[0]
            self.put("mismatched_effect", at, items, found)

    def draw(self, draw: int, executor: HooksBackend, items: tuple[int, ...]) -> None:
        """Measure one random judge on one batch."""
        entry = self.enter(executor, items)
        self.random_margin[draw][:, list(items)] = self._by_item(self.own(entry))[0]
        effect = self.effects(entry, entry.give, self.pairs.aligned(self.cells, items))[0]
        self.random_effect[draw, list(items)] = self.pairs.clean.by_item(effect)

    def put(self, name: str, at: int, items: Sequence[int], values: np.ndarray) -> None:
        """Write a batch's ``[prompt, cell]`` to its items."""
        self.arrays[name][at, list(items)] = self.pairs.clean.by_item(values)

    def _by_item(self, values: Float[np.ndarray, "*lead prompt"]) -> np.ndarray:
        return values.reshape(*values.shape[:-1], -1, len(self.pairs.clean.orders))

    def _others(self, items: Sequence[int]) -> tuple[list[int], np.ndarray]:
        """Return for each prompt one of another cluster in the batch, and where there is one."""
        chosen, n_orders = others([self.pairs.clean.clusters[i] for i in items]), len(self.pairs.clean.orders)
        apart = np.repeat([j != i for i, j in enumerate(chosen)], n_orders)
        return [j * n_orders + k for j in chosen for k in range(n_orders)], apart

    def _tested(self, entry: Entered, usable: np.ndarray) -> None:
        """Once per model: random rows of the first prompt as full forwards."""
        if len(self.modes) >= len(SIDES):
            return
        self.modes.append(entry.target.mode)
        rows = [patch_row([cell], entry.target, entry.give)
                for i, cell in enumerate(self.cells) if usable[:, i].any()]  # fmt: skip
        worst = entry.target.check(rows, ids=self.verdict.ids, seed=self.seed)
        self.self_test = max(worst, 0.0 if np.isnan(self.self_test) else self.self_test)


def _reordered(donor: Donor, order: Sequence[int]) -> Donor:
    chosen: Int[Tensor, " prompt"] = torch.tensor(list(order))

    def give(site: Site, columns: Tensor) -> Tensor:
        values = donor(site, columns)
        return values[chosen.to(values.device)]

    return give


def run_controls(work: Work, *, limit: int | None, batch_size: int, progress: bool) -> None:
    """Measure the controls on some of the finished items."""
    prompts, draws = work.pairs.clean, len(work.random_effect)
    chosen = [i for i in prompts.sample(limit, seed=work.seed) if prompts.done[i]]
    if left := int(prompts.done.sum()) - len(chosen):
        prompts.notes.append(f"other items' activations and random directions on {left} items (control_items).")
    _each(work, chosen, work.mislead, batch_size=batch_size, title="controls", progress=progress)
    chosen = [i for i in controlled_items(prompts, draws=draws, limit=limit, seed=work.seed) if prompts.done[i]]
    if not chosen:
        return
    for draw, (_, executor) in enumerate(random_judges(prompts.pair, draws=draws, seed=work.seed)):

        def measure(items: tuple[int, ...], draw: int = draw, executor: HooksBackend = executor) -> None:
            work.draw(draw, executor, items)

        title = f"random judge {draw + 1} of {draws}"
        _each(work, chosen, measure, batch_size=batch_size, title=title, progress=progress)


def _each(
    work: Work, items: Sequence[int], measure: Callable[[tuple[int, ...]], None], *, batch_size: int, title: str,
    progress: bool,
) -> None:  # fmt: skip
    prompts = work.pairs.clean
    with progress_bar(len(items), title=title, shown=progress) as bar:
        for some, _ in prompts.each(prompts.batches(batch_size, items=items), measure):
            bar.update(len(some))
