"""CircuitResult: each model's circuit, what it is worth alone, in parts and in the other model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from analyses.cells import CellIntervals, cell_ratios, family_p
from analyses.cross_model_patching.advantage import LEAST_GAP, Advantage, advantage
from analyses.cross_model_patching.cells import Cell
from analyses.cross_model_patching.circuits import figures, statements, table
from analyses.cross_model_patching.circuits.ablation import SIDES, Ablation
from analyses.judged import JudgedResult, drawn_panels
from analyses.metrics import Chance, Interval, among_draws, share_interval
from workbench.hooks import Component
from workbench.pairs import Side
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_RESAMPLES = 2000
_UNDEFINED = Interval(np.nan, np.nan, np.nan, 0)


def cell_labels(cells: Sequence[Cell]) -> tuple[tuple[str, int, int | None, int], ...]:
    """Return component, layer, head and position of cells, as a result holds them."""
    return tuple((cell.component.value, cell.layer, cell.head, cell.position or -1) for cell in cells)


def verdict_way(
    slot_sign: Float[np.ndarray, "item order"], judge: Float[np.ndarray, "item order"]
) -> Float[np.ndarray, "item order"]:
    """Return which way margins are counted: toward the label; without any label, toward the judge's own verdict."""
    return slot_sign if (~np.isnan(slot_sign)).any() else np.sign(judge)


def jaccard(one: Sequence[int], other: Sequence[int]) -> float:
    """Return what two sets share of all they hold; 1 for two empty ones."""
    union = set(one) | set(other)
    return len(set(one) & set(other)) / len(union) if union else 1.0


class Completeness(NamedTuple):
    """How differently model and circuit take it when parts of the circuit are left out."""

    difference: CellIntervals
    """Faithfulness of the model without each part minus that of the circuit without it."""
    mean_size: Interval
    """Mean size of the difference over random parts."""
    random: float
    """The same for random circuits, a random part of each."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class CircuitResult(JudgedResult):
    """Margins of both models with nothing but a circuit alive at the last positions, and with parts of it left out.

    Margins are first slot minus second slot as shown; NaN where something was not measured. The first circuit is the
    base's and the second the judge's, or there is one, ``given``.
    """

    cell_labels: tuple[tuple[str, int, int | None, int], ...]
    """Component, layer, head and position of everything a circuit may hold."""
    circuit_names: tuple[str, ...]
    """Whose circuits: ``base``, ``judge``; or ``given``."""
    subset_names: tuple[str, ...]
    """Parts left out of the main circuit: ``random 0`` ..., and whole components."""
    model: Side
    """Whose circuit is taken apart."""
    ablation: Ablation
    """What stands outside a circuit."""
    threshold: float
    """Faithfulness of a found circuit on the half it is found on."""
    unit: str
    """Unit of margins."""
    checked: float
    """How far random rows were from full forwards at most, in the margin's unit."""
    remarks: tuple[str, ...]
    """What a reader should know of how it was done."""
    training: Bool[np.ndarray, " item"]
    """Which items circuits were found on."""
    members: Bool[np.ndarray, "circuit cell"]
    """Which cells each circuit holds; none where a model has no circuit."""
    margins: Float[np.ndarray, "side item order"]
    """Of base and judge, untouched."""
    empty: Float[np.ndarray, "side item order"]
    """With all cells ablated."""
    single: Float[np.ndarray, "side cell item order"]
    """With one cell ablated, on the training half."""
    alive: Float[np.ndarray, "circuit side item order"]
    """With everything outside a circuit ablated."""
    random_alive: Float[np.ndarray, "circuit side draw item order"]
    """The same for random circuits, matched on kind and block."""
    without: Float[np.ndarray, "cell item order"]
    """Of the main circuit in its model, with one more member ablated; NaN for other cells."""
    subsets: Bool[np.ndarray, "subset cell"]
    """Parts of the main circuit that were left out."""
    whole_without: Float[np.ndarray, "subset item order"]
    """Of the model with only that part ablated."""
    circuit_without: Float[np.ndarray, "subset item order"]
    """Of the circuit with that part ablated too."""
    random_whole_without: Float[np.ndarray, "draw item order"]
    """Of the model with a random part of a random circuit ablated."""
    random_circuit_without: Float[np.ndarray, "draw item order"]
    """Of that random circuit without that part."""
    random_overlap: Float[np.ndarray, " overlap"]
    """Jaccard indices of random circuits matched to the two."""
    random_gap: Float[np.ndarray, "control item order"]
    """Margins of judges moved as far at random, minus the base's."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "training": ("item",),
        "members": ("circuit", "cell"),
        "margins": ("side", "item", "order"),
        "empty": ("side", "item", "order"),
        "single": ("side", "cell", "item", "order"),
        "alive": ("circuit", "side", "item", "order"),
        "random_alive": ("circuit", "side", "draw", "item", "order"),
        "without": ("cell", "item", "order"),
        "subsets": ("subset", "cell"),
        "whole_without": ("subset", "item", "order"),
        "circuit_without": ("subset", "item", "order"),
        "random_whole_without": ("draw", "item", "order"),
        "random_circuit_without": ("draw", "item", "order"),
        "random_overlap": ("overlap",),
        "random_gap": ("control", "item", "order"),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        return {
            "item": len(self.item_ids), "order": len(self.orders), "side": 2, "cell": len(self.cell_labels),
            "circuit": len(self.circuit_names), "draw": self.random_alive.shape[2], "subset": len(self.subset_names),
            "overlap": len(self.random_overlap), "control": len(self.random_gap),
        }  # fmt: skip

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Return everything a circuit may hold."""
        return tuple(
            Cell(component=Component(component), layer=layer, head=head, position=position)
            for component, layer, head, position in self.cell_labels
        )

    @property
    def main(self) -> int:
        """Return which circuit was taken apart."""
        return self.circuit_names.index(self.model) if self.model in self.circuit_names else 0

    @property
    def side(self) -> int:
        """Return which model it was taken apart in: 0 base, 1 judge."""
        return SIDES.index(self.model)

    @property
    def identical(self) -> bool:
        """Whether the two models gave the same margin everywhere."""
        return not (self.margins[1] - self.margins[0]).any()

    def circuit(self, name: str | None = None) -> tuple[Cell, ...]:
        """Return the members of a circuit; of the main one for None."""
        row = self.members[self.main if name is None else self.circuit_names.index(name)]
        return tuple(cell for cell, member in zip(self.cells, row, strict=True) if member)

    def advantage(self) -> Advantage:
        """Return the judge's advantage over all items, beside judges moved as far at random."""
        gap = self.margins[1] - self.margins[0]
        draws = self.random_gap * self.slot_sign()
        return advantage(self.toward_label(gap), draws, clusters=self.clusters, seed=self.meta.seed)

    def way(self) -> Float[np.ndarray, "item order"]:
        """Return which way margins are counted on held-out items; NaN on the others."""
        return np.where(self.training[:, None], np.nan, verdict_way(self.slot_sign(), self.margins[1]))

    def span(self, side: int) -> Float[np.ndarray, "item order"]:
        """Return what the ablated cells are worth together in a model: margin untouched minus with all ablated."""
        return (self.margins[side] - self.empty[side]) * self.way()

    def _defined(self, side: int) -> bool:
        span = self.span(side)
        return not np.isnan(span).all() and float(np.nanmean(span)) >= LEAST_GAP

    def faithfulness(self, margin: Float[np.ndarray, "item order"], side: int) -> Interval:
        """Return the share of :meth:`span` that a margin keeps, on held-out items; NaN where the span is too small.

        Args:
            margin: Any margin of this result.
            side: Of which model: 0 base, 1 judge.
        """
        if not self._defined(side) or np.isnan(margin).all():
            return _UNDEFINED
        return self.ratio((margin - self.empty[side]) * self.way(), self.span(side))

    def _point(self, margin: np.ndarray, side: int) -> float:
        """Return a faithfulness without its interval."""
        span, kept = self.span(side), (margin - self.empty[side]) * self.way()
        known = ~np.isnan(span + kept).any(1)
        return float(kept[known].mean() / span[known].mean()) if known.any() and self._defined(side) else np.nan

    def accuracy(self, margin: Float[np.ndarray, "item order"]) -> Interval:
        """Return the share of held-out prompts in which a margin prefers the labelled answer; NaN without labels."""
        toward = np.where(self.training[:, None], np.nan, margin * self.slot_sign())
        return share_interval(np.where(np.isnan(toward), np.nan, toward > 0), clusters=self.clusters)

    def chance(self, circuit: int, side: int) -> Chance:
        """Return how faithful random circuits matched to one are in a model, and how many reach it."""
        drawn = [self._point(margin, side) for margin in self.random_alive[circuit, side]]
        known = np.array([value for value in drawn if not np.isnan(value)])
        return among_draws(self._point(self.alive[circuit, side], side), known)

    def gain(self, circuit: int) -> tuple[Interval, Interval]:
        """Return what judge minus base is toward the label with only a circuit alive, and in the whole models."""
        way = self.way()
        parts = ((self.alive[circuit, 1] - self.alive[circuit, 0]) * way, (self.margins[1] - self.margins[0]) * way)
        return self.mean(parts[0]), self.mean(parts[1])

    def minimality(self) -> tuple[CellIntervals, Float[np.ndarray, " member"]]:
        """Return what each member of the main circuit is worth in its company, and family-wise p-values.

        In shares of :meth:`span`, on held-out items, members in the order of :meth:`circuit`.
        """
        at = np.flatnonzero(self.members[self.main])
        if not len(at):
            return CellIntervals(np.zeros(0), np.zeros(0), np.zeros(0), 0), np.zeros(0)
        lost = (self.alive[self.main, self.side] - self.without[at]) * self.way()
        by_item = np.moveaxis(lost.mean(-1), 0, -1)
        found = cell_ratios(by_item, self._item_span(), clusters=self.clusters, seed=self.meta.seed)
        return found, family_p(by_item, clusters=self.clusters, seed=self.meta.seed)

    def _item_span(self) -> Float[np.ndarray, " item"]:
        span = self.span(self.side).mean(-1)
        return span if self._defined(self.side) else np.full_like(span, np.nan)

    def completeness(self) -> Completeness:
        """Return how differently model and circuit take parts of the circuit being left out."""
        way, span = self.way(), self._item_span()
        apart = (self.whole_without - self.circuit_without) * way
        by_item = np.moveaxis(apart.mean(-1), 0, -1)
        each = cell_ratios(by_item, span, clusters=self.clusters, seed=self.meta.seed)
        random = np.array([name.startswith("random") for name in self.subset_names], dtype=bool)
        drawn = ((self.random_whole_without - self.random_circuit_without) * way).mean(-1)
        sizes = [abs(float(np.nanmean(x) / np.nanmean(span))) for x in drawn if not np.isnan(x + span).all()]
        return Completeness(
            each, self._mean_size(by_item[:, random], span), float(np.mean(sizes)) if sizes else float("nan")
        )

    def _mean_size(self, parts: Float[np.ndarray, "item part"], span: Float[np.ndarray, " item"]) -> Interval:
        """Return the mean over parts of ``|mean(part) / mean(span)|`` with its interval over clusters."""
        known = ~np.isnan(span) & ~np.isnan(parts).any(1)
        if not known.any() or not parts.shape[1]:
            return _UNDEFINED
        _, index = np.unique(np.array(self.clusters)[known], return_inverse=True)
        both = np.concatenate([span[known, None], parts[known]], axis=1)
        sums = np.zeros((int(index.max()) + 1, both.shape[1]))
        np.add.at(sums, index, both)
        total, n = sums.sum(0), len(sums)
        value = float(np.abs(total[1:] / total[0]).mean())
        if n < 2:
            return Interval(value, np.nan, np.nan, n)
        drawn = np.random.default_rng(self.meta.seed).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES) @ sums
        low, high = np.quantile(np.abs(drawn[:, 1:] / drawn[:, :1]).mean(1), [0.025, 0.975])
        return Interval(value, float(low), float(high), n)

    def overlap(self) -> tuple[float, Chance] | None:
        """Return the Jaccard index of the two circuits beside random ones matched to them; None without both."""
        if len(self.circuit_names) < 2 or not self.members.any(1).all():
            return None
        own = jaccard(*(np.flatnonzero(row).tolist() for row in self.members))
        return own, among_draws(own, self.random_overlap)

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; see the table module."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw how faithful each circuit is in each model."""
        return figures.faithful_bars(self, ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return drawn_panels(self, figures.PANELS)
