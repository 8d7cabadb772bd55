"""What one batch of items gives: both lenses, the crossed ones, direct contributions and whole effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from analyses.cross_model_patching.cells import Cell
from analyses.cross_model_patching.directions import DIRECTIONS
from analyses.cross_model_patching.lens.direct import Part, parts_of, sites_of_parts, split
from analyses.cross_model_patching.lens.reading import Seen, Tail, points_of, see, top_error
from analyses.cross_model_patching.sweeping import as_numpy, entered, of_model, patch_row, sweep
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import Prompts
from workbench.hooks import HooksBackend, Site
from workbench.pairs import Pair

SIDES = ("base", "judge")
"""The models, in the order of the axis ``side``; also whose norm and head read a stream."""

Measured = Mapping[str, np.ndarray]
"""Arrays ``[..., item, order, *]`` by the name of the field they go to."""


@dataclass(slots=True, kw_only=True, eq=False)
class Lenses:
    """Everything the run reads prompts with."""

    prompts: Prompts
    """What is read."""
    verdict: VerdictIds
    """Where the verdict is read."""
    executors: tuple[HooksBackend, HooksBackend]
    """Of base and judge."""
    tails: tuple[Tail, Tail]
    """Norm and head of base and judge."""
    points: tuple[Site, ...]
    """Where the stream is read."""
    parts: tuple[Part, ...]
    """Parts of a margin; empty without direct contributions."""
    cells: tuple[Cell, ...]
    """Parts that are also patched."""
    errors: dict[str, float] = field(default_factory=dict)
    """Largest errors of the checks so far."""

    @classmethod
    def of(cls, pair: Pair, prompts: Prompts, *, sublayers: bool, direct: bool) -> "Lenses":
        """Prepare both models.

        Args:
            pair: Base and judge.
            prompts: The prompts of the run; their notes are told what can't be measured.
            sublayers: Whether the stream between attention and MLP is read too.
            direct: Whether margins are split.

        Raises:
            FormatError: Labels can't be told apart by their first tokens.
        """
        base, judge = (pair.executor(side) for side in ("base", "judge"))
        verdict = VerdictIds.of(prompts)
        parts = parts_of(judge.anatomy) if direct else ()
        if pair.probe:
            prompts.notes.append("the base's own head: it has none of this kind, and the judge's reads its stream.")
        if direct and not any(part.component == "z" for part in parts):
            prompts.notes.append("contributions of single heads: they aren't the input of one output projection here.")
        return cls(
            prompts=prompts,
            verdict=verdict,
            executors=(base, judge),
            tails=(Tail(base), Tail(judge)),
            points=points_of(judge.anatomy, sublayers=sublayers),
            parts=parts,
            cells=tuple(_cell(part) for part in parts if part.patched),
        )

    @property
    def sites(self) -> tuple[Site, ...]:
        """Return what has to be captured."""
        return tuple(dict.fromkeys([*self.points, *(sites_of_parts(self.parts) if self.parts else ())]))

    def measure(self, items: Sequence[int]) -> Measured:
        """Read some items by both models and each through the other's head; split their margins; patch their parts.

        Raises:
            ExecutorDisagreement: A lens, a sum or a patch isn't what the model computes.
        """
        batch = self.prompts.batch(items)
        seen = [see(executor, batch, self.sites) for executor in self.executors]
        lenses = [[tail.read(shown, self.points, self.verdict) for tail in self.tails] for shown in seen]
        for side in (0, 1):
            self._note("top", top_error(lenses[side][side], seen[side], self.verdict))
        found = {
            "margin": np.stack([[self._by_item(lens.margin) for lens in row] for row in lenses]),
            "mass": np.stack([[self._by_item(lens.mass) for lens in row] for row in lenses]),
        }
        if self.parts:
            found["direct"] = np.stack([self._split(side, seen[side]) for side in (0, 1)])
            found["total"] = self._patched(items)
        return found

    def measure_random(self, executor: HooksBackend, items: Sequence[int]) -> Measured:
        """Read some items by a random judge, and split its margins.

        Args:
            executor: Of the random judge.
            items: Which items.
        """
        tail = Tail(executor)
        seen = see(executor, self.prompts.batch(items), self.sites)
        found = {"random_change": self._by_item(tail.read(seen, self.points, self.verdict).margin)}
        if self.parts:
            parts = split(tail, seen, self.parts, self.verdict).parts
            found["random_direct"] = self._by_item(parts)
        return found

    def _split(self, side: int, seen: Seen) -> np.ndarray:
        found = split(self.tails[side], seen, self.parts, self.verdict)
        self._note("sum", found.error)
        return self._by_item(found.parts)

    def _patched(self, items: Sequence[int]) -> Float[np.ndarray, "direction item order part"]:
        """Put each patched part of one model into the other, at the last token."""
        shape = (len(DIRECTIONS), len(items), len(self.prompts.orders), len(self.parts))
        found = np.full(shape, np.nan)
        at = [index for index, part in enumerate(self.parts) if part.patched]
        if not at:
            return found
        batch = self.prompts.batch(items)
        sides = [entered(executor, batch, self.cells) for executor in self.executors]
        for index, (target, donor) in enumerate(((0, 1), (1, 0))):
            if f"patch {index}" not in self.errors:
                rows = [patch_row([cell], sides[target], of_model(sides[donor])) for cell in self.cells]
                self._note(f"patch {index}", sides[target].check(rows, ids=self.verdict.ids))
            swept = sweep(sides[target], [[cell] for cell in self.cells], of_model(sides[donor]), self.verdict)
            found[index][..., at] = self.prompts.by_item(swept.effect)
            self._note("rows", swept.noise)
        return found

    def _by_item(self, values: object) -> np.ndarray:
        return self.prompts.by_item(as_numpy(values))  # type: ignore[arg-type]

    def _note(self, name: str, error: float) -> None:
        self.errors[name] = max(self.errors.get(name, 0.0), error)


def _cell(part: Part) -> Cell:
    site = part.site
    return Cell(component=site.component, layer=site.layer, head=site.head, position=-1)
