"""WeightSwapResult: what each part's weights do, beside what its activations show."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from jaxtyping import Bool, Float

from analyses.cells import CellIntervals
from analyses.cross_model_patching.advantage import Advantage
from analyses.cross_model_patching.weights import effects, figures, statements, table
from analyses.cross_model_patching.weights.effects import Tested
from analyses.cross_model_patching.weights.parts import Kind, Part
from analyses.judged import JudgedResult, drawn_panels
from workbench.errors import ParameterError
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_CELL = ("direction", "item", "order", "part")
_DRAWN = ("draw", *_CELL)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class WeightSwapResult(JudgedResult):
    """Margins after one part's weights, or one place's activations, were taken from the other model.

    Effects are margins with the change minus margins without, first slot minus second slot as shown.
    """

    directions: tuple[str, ...]
    """``judge_to_base`` changes the base (sufficiency), ``base_to_judge`` the judge (necessity)."""
    kinds: tuple[str, ...]
    """What each part is: ``layer``, ``attn``, ``mlp``, ``norms``, ``head``, ``kv_head``, ``embedding`` ..."""
    layers: tuple[int, ...]
    """Block of each part; -1 outside the blocks."""
    heads: tuple[int, ...]
    """Head of each part; -1 where it is none."""
    n_layers: int
    """Number of blocks."""
    unit: str
    """Unit of margins: ``logits``, or ``score`` of a classification head."""
    tied: bool
    """Whether embedding and unembedding are one tensor; they are swapped apart all the same, as two uses of it."""
    unchanged: Bool[np.ndarray, " part"]
    """Parts that hold the same bits in both models: their swap is exactly nothing, and isn't run."""
    base_margin: Float[np.ndarray, "item order"]
    """The base's own margin."""
    judge_margin: Float[np.ndarray, "item order"]
    """The judge's own margin."""
    written: Float[np.ndarray, "direction item order part"]
    """Effect of the part's weights."""
    seen: Float[np.ndarray, "direction item order part"]
    """Effect of the part's activations at all positions; NaN for parts without any of their own, or not measured."""
    through: Float[np.ndarray, "direction item order part"]
    """Heads: effect of the donor's z through the donor's own output projection; NaN elsewhere."""
    all_z: Float[np.ndarray, "direction item order layer"]
    """Effect of z of all heads through the target's output projection, in blocks where that differs; NaN elsewhere."""
    graft: Float[np.ndarray, "item order depth"]
    """Margin of the judge's embedding and first ``depth`` blocks under the base's rest; NaN when not measured."""
    random_gap: Float[np.ndarray, "draw item order"]
    """Margin of judges moved as far at random, minus the base's; NaN on items they weren't asked."""
    random_written: Float[np.ndarray, "draw direction item order part"]
    """Effect of the same parts' weights of these judges."""
    random_seen: Float[np.ndarray, "draw direction item order part"]
    """Effect of the same parts' activations of these judges."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "unchanged": ("part",),
        **dict.fromkeys(("base_margin", "judge_margin"), ("item", "order")),
        **dict.fromkeys(("written", "seen", "through"), _CELL),
        "all_z": ("direction", "item", "order", "layer"),
        "graft": ("item", "order", "depth"),
        "random_gap": ("draw", "item", "order"),
        **dict.fromkeys(("random_written", "random_seen"), _DRAWN),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        return {
            "item": len(self.item_ids),
            "order": len(self.orders),
            "direction": len(self.directions),
            "part": len(self.kinds),
            "layer": self.n_layers,
            "depth": self.n_layers + 1,
            "draw": len(self.random_gap),
        }

    @property
    def parts(self) -> tuple[Part, ...]:
        """Return the parts, in the order of the arrays' last axis."""
        return tuple(
            Part(kind=cast(Kind, kind), layer=None if layer < 0 else layer, head=None if head < 0 else head)
            for kind, layer, head in zip(self.kinds, self.layers, self.heads, strict=True)
        )

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    def direction(self, name: str) -> int:
        """Return the index of a direction.

        Raises:
            ParameterError: It wasn't measured.
        """
        if name not in self.directions:
            raise ParameterError(
                "this direction wasn't measured.", argument="direction", got=name, allowed=self.directions
            )
        return self.directions.index(name)

    def advantage(self) -> Advantage:
        """Return what there is to locate: the judge's margin minus the base's, toward the label."""
        return effects.gate(self)

    def effects(self, direction: str, *, of: str = "written") -> CellIntervals:
        """Return mean effects of all parts with intervals: margin toward the label that the base gains, or judge loses.

        Args:
            direction: One of :attr:`directions`.
            of: ``"written"``, ``"seen"`` or ``"through"``.
        """
        return effects.effect(self, self._values(of), self.direction(direction))

    def recoveries(self, direction: str, *, of: str = "written") -> CellIntervals:
        """Return the same as shares of the advantage, ratios of means; NaN where that is too small to divide by.

        Args:
            direction: One of :attr:`directions`.
            of: ``"written"``, ``"seen"`` or ``"through"``.
        """
        return effects.recovery(self, self._values(of), self.direction(direction))

    def tested(self) -> Tested:
        """Return p-values over the whole sweep, of items and against random judges."""
        return effects.tested(self)

    def blind(self) -> Float[np.ndarray, "direction layer"]:
        """Return the share of each block's attn_out patch that patching z misses; 0 where W_O is the same."""
        return effects.blind(self)

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; ``component`` is the kind of the part: see the table module."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw written beside seen, layer by layer, in the first direction."""
        return figures.by_layer(self, direction=self.directions[0], kind=figures.layered_kinds(self)[0], ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return drawn_panels(self, figures.PANELS)

    def _values(self, of: str) -> Float[np.ndarray, "direction item order part"]:
        if of not in ("written", "seen", "through"):
            raise ParameterError("no such effects.", argument="of", got=of, allowed=["written", "seen", "through"])
        return getattr(self, of)
