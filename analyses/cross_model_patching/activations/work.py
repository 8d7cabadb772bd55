"""State of one patching run: what is planned, what is measured so far, and how one batch is measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from analyses.cross_model_patching.cells import Cell, cell_columns
from analyses.cross_model_patching.directions import Direction, ends
from analyses.cross_model_patching.sweeping import Donor, entered, of_model, own_margin, patch_row, sizes, sweep
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import Prompts
from workbench.errors import ParameterError
from workbench.hooks.suffix import Mode, Suffix


@dataclass(slots=True, kw_only=True)
class Work:
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
    ) -> "Work":  # fmt: skip
        """Make room for everything."""
        shape = (len(directions), len(prompts), len(prompts.orders), len(cells))
        names = ("effect", "patched_mass", "size", "zero", "mismatched_effect", "noise_effect")
        verdict = VerdictIds.of(prompts)
        check_spans(prompts, cells)
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
        rows = [patch_row([cell], target, donor) for cell in self.cells]
        worst = target.check(rows, ids=self.verdict.ids, seed=self.seed)
        self.self_test = max(worst, 0.0 if np.isnan(self.self_test) else self.self_test)


def check_spans(prompts: Prompts, cells: Sequence[Cell]) -> None:
    """Refuse spans no prompt of the run has.

    Raises:
        ParameterError: A span is in no prompt.
    """
    for span in dict.fromkeys(cell.span for cell in cells if cell.span is not None):
        if not any(span in table for table in prompts.encoded.spans):
            known = sorted({name for table in prompts.encoded.spans for name in table})
            raise ParameterError("no prompt has this span.", argument="spans", got=span, allowed=known)
