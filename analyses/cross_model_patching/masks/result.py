"""MaskResult: gates at every lambda and what the rounded masks recover, beside random and greedy ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from analyses.cross_model_patching.advantage import LEAST_GAP, Advantage, advantage
from analyses.cross_model_patching.cells import Cell
from analyses.cross_model_patching.directions import Direction
from analyses.cross_model_patching.masks import figures, statements, table
from analyses.cross_model_patching.masks.gates import HALF, Chosen
from analyses.judged import JudgedResult, drawn_panels
from analyses.metrics import Interval, among_draws, share_interval
from workbench.hooks import Component
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Half = Literal["training", "held out"]


def cell_labels(cells: Sequence[Cell]) -> tuple[tuple[str, int, int | None, int], ...]:
    """Return component, layer, head and position of cells, as a result holds them."""
    return tuple((cell.component.value, cell.layer, cell.head, cell.position or -1) for cell in cells)


def toward_donor(
    slot_sign: Float[np.ndarray, "item order"], gap: Float[np.ndarray, "item order"]
) -> Float[np.ndarray, "item order"]:
    """Return which way a margin is counted: toward the label; without any label, toward the donor's verdict."""
    return slot_sign if (~np.isnan(slot_sign)).any() else np.sign(gap)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class MaskResult(JudgedResult):
    """Gates learned on one half of the items, and what every rounded mask does on both.

    Margins and effects are first slot minus second slot as shown. Prices that were not tried, items that were not
    measured and sizes that no mask of a direction has are NaN.
    """

    directions: tuple[Direction, ...]
    """Whose values go into whom."""
    lambdas: tuple[float, ...]
    """Price of a gate, as a share of the gap; ascending."""
    cell_labels: tuple[tuple[str, int, int | None, int], ...]
    """Component, layer, head and position of every gate."""
    share: float
    """Recovery that is good enough."""
    unit: str
    """Unit of margins."""
    checked: float
    """How far random rows were from full forwards at most, in the margin's unit."""
    remarks: tuple[str, ...]
    """What a reader should know of how it was done."""
    training: Bool[np.ndarray, " item"]
    """Which items the gates were learned on."""
    margins: Float[np.ndarray, "side item order"]
    """Verdict margins of base and judge."""
    single_effect: Float[np.ndarray, "direction item order cell"]
    """What every cell does to the target's margin alone, on the training half."""
    gates: Float[np.ndarray, "direction price cell"]
    """Learned gates, 0 to 1."""
    left: Float[np.ndarray, "direction price"]
    """Training loss without the price: what is left of the (squared) gap."""
    stability: Float[np.ndarray, "direction price"]
    """Mean Jaccard index of the masks of independent runs; NaN for one run."""
    greedy_order: Int[np.ndarray, "direction cell"]
    """Cells by what each does alone on the training half, the strongest first."""
    set_sizes: Int[np.ndarray, " size"]
    """Sizes that masks have."""
    mask_effect: Float[np.ndarray, "direction price item order"]
    """What each rounded mask does to the target's margin."""
    greedy_effect: Float[np.ndarray, "direction size item order"]
    """What the cells that are strongest alone do together."""
    random_effect: Float[np.ndarray, "direction size draw item order"]
    """What random cells of the same kinds and blocks do together."""
    random_gap: Float[np.ndarray, "draw item order"]
    """Margins of judges moved as far at random, minus the base's."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "training": ("item",),
        "margins": ("side", "item", "order"),
        "single_effect": ("direction", "item", "order", "cell"),
        "gates": ("direction", "price", "cell"),
        "left": ("direction", "price"),
        "stability": ("direction", "price"),
        "greedy_order": ("direction", "cell"),
        "set_sizes": ("size",),
        "mask_effect": ("direction", "price", "item", "order"),
        "greedy_effect": ("direction", "size", "item", "order"),
        "random_effect": ("direction", "size", "draw", "item", "order"),
        "random_gap": ("control", "item", "order"),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        return {
            "item": len(self.item_ids),
            "order": len(self.orders),
            "side": 2,
            "direction": len(self.directions),
            "price": len(self.lambdas),
            "cell": len(self.cell_labels),
            "size": len(self.set_sizes),
            "draw": self.random_effect.shape[2],
            "control": len(self.random_gap),
        }

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Return what the gates belong to."""
        return tuple(
            Cell(component=Component(component), layer=layer, head=head, position=position)
            for component, layer, head, position in self.cell_labels
        )

    @property
    def identical(self) -> bool:
        """Whether the two models gave the same margin everywhere."""
        return not (self.margins[1] - self.margins[0]).any()

    @property
    def trained(self) -> Bool[np.ndarray, "direction price"]:
        """Return which lambdas were tried."""
        return np.asarray(np.logical_not(np.isnan(self.gates).any(-1)))

    @property
    def kept(self) -> Bool[np.ndarray, "direction price cell"]:
        """Return the rounded masks."""
        return np.nan_to_num(self.gates) >= HALF

    def mask(self, direction: Direction, price: int) -> tuple[Cell, ...]:
        """Return the cells of a rounded mask.

        Args:
            direction: Whose values go into whom.
            price: Index of its lambda.
        """
        chosen = self.kept[self.directions.index(direction), price]
        return tuple(cell for cell, keep in zip(self.cells, chosen, strict=True) if keep)

    def advantage(self) -> Advantage:
        """Return what there is to carry, over all items, beside judges moved as far at random."""
        gap = self.margins[1] - self.margins[0]
        draws = self.random_gap * self.slot_sign()
        return advantage(self.toward_label(gap), draws, clusters=self.clusters, seed=self.meta.seed)

    def gap(self, direction: Direction) -> Float[np.ndarray, "item order"]:
        """Return the donor's margin minus the target's."""
        change = self.margins[1] - self.margins[0]
        return change if direction == "judge_to_base" else -change

    def own(self, direction: Direction) -> Float[np.ndarray, "item order"]:
        """Return the target's margins."""
        return self.margins[0 if direction == "judge_to_base" else 1]

    def way(self, direction: Direction) -> Float[np.ndarray, "item order"]:
        """Return which way margins are counted: toward the label; without any, toward the donor's verdict."""
        return toward_donor(self.slot_sign(), self.gap(direction))

    def recovery(
        self, effect: Float[np.ndarray, "item order"], direction: Direction, *, half: Half = "held out"
    ) -> Interval:
        """Return the share of the gap that an effect closes: a ratio of means toward the label.

        Without labels it is toward the donor's verdicts. NaN where the gap is too small to divide by.

        Args:
            effect: Any effect of this result on one direction's target.
            direction: Which.
            half: On which items.
        """
        way = np.where(self._in(half)[:, None], self.way(direction), np.nan)
        gap = self.gap(direction) * way
        if np.isnan(gap).all() or abs(float(np.nanmean(gap))) < LEAST_GAP:
            return Interval(np.nan, np.nan, np.nan, 0)
        return self.ratio(effect * way, gap)

    def explained(
        self, effect: Float[np.ndarray, "item order"], direction: Direction, *, half: Half = "held out"
    ) -> Interval:
        """Return the share of the squared gap, prompt by prompt, that an effect takes away; below 0 it adds to it."""
        gap = np.where(self._in(half)[:, None], self.gap(direction), np.nan)
        if not np.nan_to_num(gap).any():
            return Interval(np.nan, np.nan, np.nan, 0)
        left = self.ratio(np.square(gap - effect), np.square(gap))
        return Interval(1 - left.value, 1 - left.high, 1 - left.low, left.n)

    def accuracy(
        self, effect: Float[np.ndarray, "item order"], direction: Direction, *, half: Half = "held out"
    ) -> Interval:
        """Return the share of prompts in which the patched target prefers the labelled answer; NaN without labels."""
        way = np.where(self._in(half)[:, None], self.slot_sign(), np.nan)
        toward = (self.own(direction) + effect) * way
        return share_interval(np.where(np.isnan(toward), np.nan, toward > 0), clusters=self.clusters)

    def flips(
        self, effect: Float[np.ndarray, "item order"], direction: Direction, *, half: Half = "held out"
    ) -> Interval:
        """Return the share of verdicts of the target that an effect turns."""
        own = self.own(direction)
        turned = (own > 0) != (own + effect > 0)
        known = self._in(half)[:, None] & ~np.isnan(own + effect)
        return share_interval(np.where(known, turned, np.nan), clusters=self.clusters)

    def random_recoveries(self, direction: Direction, size: int, *, half: Half = "held out") -> np.ndarray:
        """Return what each random mask of a size recovers; empty where none was drawn."""
        at = np.flatnonzero(self.set_sizes == size)
        if not len(at):
            return np.zeros(0)
        drawn = self.random_effect[self.directions.index(direction), at[0]]
        values = [self._point(effect, direction, half) for effect in drawn if not np.isnan(effect).all()]
        return np.array([value for value in values if not np.isnan(value)])

    def _point(self, effect: np.ndarray, direction: Direction, half: Half) -> float:
        """Return a recovery without its interval."""
        gap, way = self.gap(direction), np.where(self._in(half)[:, None], self.way(direction), np.nan)
        known = ~np.isnan((effect + gap) * way).any(1)
        if not known.any():
            return np.nan
        top, bottom = (effect * way)[known].mean(), (gap * way)[known].mean()
        return float(top / bottom) if abs(bottom) >= LEAST_GAP else np.nan

    def chosen(self, direction: Direction) -> Chosen | None:
        """Return the smallest mask that recovers ``share`` on the training half, told by the other; None without one.

        Among masks of one size the one with the lowest training loss.
        """
        at = self.directions.index(direction)
        good = [
            (int(self.kept[at, k].sum()), float(self.left[at, k]), k)
            for k in np.flatnonzero(self.trained[at]).tolist()
            if self._point(self.mask_effect[at, k], direction, "training") >= self.share
        ]
        if not good:
            return None
        size, _, price = min(good)
        recovery = self.recovery(self.mask_effect[at, price], direction)
        return Chosen(price, size, recovery, among_draws(recovery.value, self.random_recoveries(direction, size)))

    def _in(self, half: Half) -> Bool[np.ndarray, " item"]:
        return self.training if half == "training" else ~self.training

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; see the table module."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw recovery against size in the first direction."""
        return figures.curve(self, self.directions[0], ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return drawn_panels(self, figures.drawings(self))
