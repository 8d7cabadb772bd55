"""ContrastResult: what each cell carries of a change of the prompt, in base and judge, with finding and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float

from analyses.cross_model_patching.contrasts import figures, statements, table, views
from analyses.cross_model_patching.contrasts.views import CellNumbers, Model, Named, Total, View
from analyses.judged import JudgedResult
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_CELL = ("side", "item", "order", "cell")
_VERSION = ("side", "version", "item", "order")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ContrastResult(JudgedResult):
    """What a change of the prompt does to the verdict, and what each cell carries of it.

    Margins are first slot minus second slot as shown, in ``unit``. Sides are base and judge, versions clean and other.
    """

    contrast: str
    """Name of the contrast."""
    title: str
    """What is changed, in words."""
    speaks_for: str
    """Which answer the clean version speaks for."""
    direction: str
    """``other_to_clean`` (what hangs on a cell) or ``clean_to_other`` (what it brings back)."""
    choices: tuple[str, ...]
    """Text of the first label of A and of B; empty for a classification head."""
    unit: str
    """``logits``, or ``score`` for a classification head."""
    kinds: tuple[str, ...]
    """How each pair of prompts that was planned is aligned: ``design``, ``right`` or ``spans``."""
    components: tuple[str, ...]
    """Component of each cell."""
    layers: tuple[int, ...]
    """Block of each cell."""
    heads: tuple[int | None, ...]
    """Head of each cell; None is the whole component."""
    positions: tuple[int | None, ...]
    """Token of each cell counted from the end; None for spans."""
    spans: tuple[str | None, ...]
    """Part of the prompt of each cell; None for single positions."""
    modes: tuple[str, ...]
    """How patches ran, in base and judge."""
    named: int
    """How many cells are named on one half of the items, at most."""
    toward: Float[np.ndarray, " item"]
    """+1 where the clean version speaks for the item's first answer, -1 for its second, NaN where nobody knows."""
    confirming: Float[np.ndarray, " item"]
    """1 for items that named cells are estimated on, 0 for those they are named on; NaN where nothing is named."""
    margin: Float[np.ndarray, "side version item order"]
    """Margin of both models on both versions."""
    mass: Float[np.ndarray, "side version item order"]
    """Probability on all labels; NaN for a head's score."""
    effect: Float[np.ndarray, "side item order cell"]
    """Share of clean minus other that a cell takes away (or brings back); exactly 0 where both runs hold the same bits;
    NaN where the prompts don't align."""
    size: Float[np.ndarray, "side item order cell"]
    """Length of the change over the length of what was there."""
    zero: Float[np.ndarray, "side item order cell"]
    """1 where both runs held the same bits: a structural zero."""
    mismatched_effect: Float[np.ndarray, "side item order cell"]
    """The same with another item's activation; NaN where not measured."""
    noise_effect: Float[np.ndarray, "side item order cell"]
    """The same with a change in a random direction, as long as the real one; NaN where not measured."""
    random_margin: Float[np.ndarray, "draw version item order"]
    """Margins of judges moved as far at random; NaN where not measured."""
    random_effect: Float[np.ndarray, "draw item order cell"]
    """Effects in these judges; NaN where not measured."""
    noise: float
    """How far null rows are from the prompts' own margin, at most: what rounding alone does."""
    self_test: float
    """Largest difference of random rows from full forwards with the same patch."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(("toward", "confirming"), ("item",)),
        **dict.fromkeys(("margin", "mass"), _VERSION),
        **dict.fromkeys(("effect", "size", "zero", "mismatched_effect", "noise_effect"), _CELL),
        "random_margin": ("draw", *_VERSION[1:]),
        "random_effect": ("draw", *_CELL[1:]),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        return {
            "item": len(self.item_ids),
            "order": len(self.orders),
            "side": 2,
            "version": 2,
            "cell": len(self.components),
            "draw": len(self.random_margin),
        }

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    def sensitivity(self, model: Model) -> Float[np.ndarray, "item order"]:
        """Return clean minus other of a model, or the judge's minus the base's; slots as shown."""
        return views.sensitivity(self, model)

    def totals(self) -> tuple[Total, ...]:
        """Return the whole effect of the contrast in both models, content and position part, with tests."""
        return views.totals(self)

    def cells(self, model: Model, view: View = "content") -> CellNumbers:
        """Return every cell's effect, recovery and controls in a model, or in the judge beyond the base."""
        return views.cells(self, model, view)

    def named_cells(self, view: View = "content") -> tuple[Named, ...]:
        """Return the cells with the largest interaction on one half of the items, judged on the other."""
        return views.named(self, view)

    def cell_name(self, index: int) -> str:
        """Return e.g. ``head 1 of block 2 (z) at -1``."""
        head, place = self.heads[index], self.spans[index]
        of = "" if head is None else f"head {head} of "
        where = f"over {place}" if place is not None else f"at {self.positions[index]}"
        return f"{of}block {self.layers[index]} ({self.components[index]}) {where}"

    @property
    def swapped(self) -> bool:
        """Whether the other version is the same item in the other answer order."""
        return bool(self.meta.parameters["swapped"])

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; see the table module."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw content and position part of the contrast in both models."""
        return figures.split_bars(self, ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return figures.panels(self)
