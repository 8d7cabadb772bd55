"""ActivationPatchingResult: every cell's effect both ways, with its controls, finding, table and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float

from analyses.cross_model_patching.activations import figures, statements, table, views
from analyses.cross_model_patching.advantage import Advantage
from analyses.judged import JudgedResult, drawn_panels
from workbench.errors import ParameterError
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_CELL = ("direction", "item", "order", "cell")
_PROMPT = ("item", "order")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ActivationPatchingResult(JudgedResult):
    """What putting one model's activation into the other does to the verdict, site by site.

    Margins are first slot minus second slot as shown, in ``unit``; an effect is the margin with the patch minus the
    margin without, through the same kernels.
    """

    directions: tuple[str, ...]
    """``judge_to_base`` (the base is given the judge's value: sufficiency), ``base_to_judge`` (necessity)."""
    choices: tuple[str, ...]
    """Text of the first label of A and of B; empty for a classification head."""
    unit: str
    """``logits``, or ``score`` for a classification head."""
    components: tuple[str, ...]
    """Component of each cell."""
    layers: tuple[int, ...]
    """Block of each cell."""
    heads: tuple[int | None, ...]
    """Head of each cell; None is the whole component."""
    positions: tuple[int | None, ...]
    """Token of each cell counted from the end, -1 being the one the verdict is read at; None for spans."""
    spans: tuple[str | None, ...]
    """Part of the prompt of each cell; None for single positions."""
    modes: tuple[str, ...]
    """How patches ran, by direction: ``wavefront``, ``tree`` or ``plain``."""
    sets: tuple[tuple[int, ...], ...]
    """Cells named on one half of the items, by direction; empty where nothing was named."""
    random_sets: tuple[tuple[tuple[int, ...], ...], ...]
    """Random sets of as many cells, matched on layer, by direction."""
    base_margin: Float[np.ndarray, "item order"]
    """The base's own margin."""
    judge_margin: Float[np.ndarray, "item order"]
    """The judge's own margin."""
    base_mass: Float[np.ndarray, "item order"]
    """Probability the base puts on all labels."""
    judge_mass: Float[np.ndarray, "item order"]
    """Probability the judge puts on all labels."""
    effect: Float[np.ndarray, "direction item order cell"]
    """Change of the margin; exactly 0 where donor and target hold the same bits; NaN where a prompt lacks a span."""
    patched_mass: Float[np.ndarray, "direction item order cell"]
    """Probability of all labels with the patch; NaN where not measured."""
    size: Float[np.ndarray, "direction item order cell"]
    """Length of the change over the length of what was there."""
    zero: Float[np.ndarray, "direction item order cell"]
    """1 where donor and target held the same bits: a structural zero."""
    mismatched_effect: Float[np.ndarray, "direction item order cell"]
    """Effect of the donor's activation on another item; NaN where not measured."""
    noise_effect: Float[np.ndarray, "direction item order cell"]
    """Effect of a change in a random direction, as long as the real one; NaN where not measured."""
    random_gap: Float[np.ndarray, "draw item order"]
    """Random judge's margin minus the base's; NaN where not measured."""
    random_effect: Float[np.ndarray, "draw direction item order cell"]
    """Effect with a random judge of equal norm in the judge's place; NaN where not measured."""
    set_effect: Float[np.ndarray, "direction set item order"]
    """Effect of the named set (first) and the random ones, patched together; NaN on the items it was named on."""
    confirming: Float[np.ndarray, " item"]
    """1 for items the named set was tested on, 0 for those it was named on."""
    readout_differs: bool
    """Whether final norm or unembedding differ between the models, which no patched activation can carry."""
    noise: float
    """How far null rows are from the prompts' own margin, at most: what rounding alone does."""
    self_test: float
    """Largest difference of random rows from full forwards with the same patch."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(("base_margin", "judge_margin", "base_mass", "judge_mass"), _PROMPT),
        **dict.fromkeys(("effect", "patched_mass", "size", "zero", "mismatched_effect", "noise_effect"), _CELL),
        "random_gap": ("draw", *_PROMPT),
        "random_effect": ("draw", *_CELL),
        "set_effect": ("direction", "set", *_PROMPT),
        "confirming": ("item",),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        return {
            "item": len(self.item_ids),
            "order": len(self.orders),
            "direction": len(self.directions),
            "cell": len(self.components),
            "draw": len(self.random_gap),
            "set": self.set_effect.shape[1],
        }

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    @property
    def advantage(self) -> Advantage:
        """Return what there is to recover, and whether it is more than chance."""
        return views.gate(self)

    def at(self, direction: str) -> int:
        """Return a direction's index.

        Raises:
            ParameterError: It wasn't run.
        """
        if direction not in self.directions:
            raise ParameterError(
                "this direction wasn't run.", argument="direction", got=direction, allowed=self.directions
            )
        return self.directions.index(direction)

    def target_margin(self, direction: str) -> Float[np.ndarray, "item order"]:
        """Return the margin of the model that is patched, untouched."""
        return self.base_margin if direction == "judge_to_base" else self.judge_margin

    def sweep(self, direction: str) -> views.Sweep:
        """Return effects, recoveries, controls and tests of every cell of a direction.

        Raises:
            ParameterError: It wasn't run.
        """
        self.at(direction)
        return views.sweeps(self)[direction]

    def cell_name(self, index: int) -> str:
        """Return e.g. ``head 1 of block 2 at the last token``."""
        place = self.spans[index]
        where = f"over {place}" if place is not None else _token(int(self.positions[index] or -1))
        head = self.heads[index]
        of = f"{self.components[index]} of" if head is None else f"{self.components[index]} of head {head} in"
        return f"{of} block {self.layers[index]} {where}"

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; see the table module."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the strongest single cells, both directions, with intervals and controls."""
        return figures.strongest_bars(self, ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return (*drawn_panels(self, figures.PANELS), *figures.maps(self))


def _token(position: int) -> str:
    return "at the last token" if position == -1 else f"at token {position}"
