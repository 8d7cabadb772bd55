"""VerdictLensResult: verdict margins of both models by depth, read by both readouts, and what components write."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from analyses.cells import CellIntervals, cell_intervals
from analyses.cross_model_patching.advantage import Advantage, advantage
from analyses.cross_model_patching.lens import depths as along
from analyses.cross_model_patching.lens import figures, statements, table
from analyses.cross_model_patching.lens.comparing import Changed, Ranked, changed, ranked
from analyses.cross_model_patching.lens.depths import Settling
from analyses.cross_model_patching.lens.direct import Part
from analyses.judged import JudgedResult, drawn_panels
from analyses.metrics import Interval
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Side = Literal["base", "judge"]
_READ = ("side", "reader", "item", "order", "point")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class VerdictLensResult(JudgedResult):
    """Verdicts by depth. Margins are first slot minus second slot as shown; sides are base, judge.

    Depth -1 is the embeddings, l the stream behind block l, l - 0.5 the stream inside it.
    """

    unit: str
    """Unit of margins."""
    points: tuple[str, ...]
    """Where the stream was read, from the embeddings up."""
    depths: Float[np.ndarray, " point"]
    """How deep each point lies."""
    margin: Float[np.ndarray, "side reader item order point"]
    """Verdict margin of each model's stream, read by each model's norm and head."""
    mass: Float[np.ndarray, "side reader item order point"]
    """Probability of all labels together; NaN for a head's score."""
    parts: tuple[tuple[str, int, int], ...]
    """Component, layer and head of each part of a margin (-1: none); empty where margins weren't split."""
    direct: Float[np.ndarray, "side item order part"]
    """What each part contributes to the model's own margin; the parts add up to it."""
    total: Float[np.ndarray, "direction item order part"]
    """Change of the margin when the other model's value is put there at the last token: into the base, into the judge;
    NaN for parts that can't be patched."""
    random_change: Float[np.ndarray, "draw item order point"]
    """Margin of judges moved as far in random directions minus the base's; NaN on items they weren't asked."""
    random_direct: Float[np.ndarray, "draw item order part"]
    """Their direct contributions minus the base's."""
    held_out: Bool[np.ndarray, " item"]
    """Items the weights weren't fitted on."""
    weights: Float[np.ndarray, "side point"]
    """Weight of each point's margin in the fitted readout; NaN where none was fitted."""
    shuffled_weights: Float[np.ndarray, "side shuffle point"]
    """The same fitted to shuffled labels."""
    least_mass: float
    """Label mass from which on a margin counts as a verdict."""
    epsilon: float
    """By how much less agreement with the labels counts as that of the last layer."""
    top_error: float
    """Largest distance of the lens at the last layer from the model's own margin."""
    sum_error: float
    """Largest distance of a sum of parts from the model's own margin; NaN where margins weren't split."""
    patch_error: float
    """Largest distance of the patches that were re-run as full forwards; NaN where nothing was patched."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "depths": ("point",),
        "margin": _READ,
        "mass": _READ,
        "direct": ("side", "item", "order", "part"),
        "total": ("direction", "item", "order", "part"),
        "random_change": ("draw", "item", "order", "point"),
        "random_direct": ("draw", "item", "order", "part"),
        "held_out": ("item",),
        "weights": ("side", "point"),
        "shuffled_weights": ("side", "shuffle", "point"),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        own = {"item": len(self.item_ids), "order": len(self.orders), "point": len(self.points)}
        own |= {"side": 2, "reader": 2, "direction": 2, "part": len(self.parts)}
        return own | {"draw": len(self.random_change), "shuffle": self.shuffled_weights.shape[1]}

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    @property
    def labelled(self) -> bool:
        """Whether any item says which answer is better."""
        return bool((self.labels >= 0).any())

    @property
    def way(self) -> str:
        """Return what positive numbers over items point to."""
        return "toward the labelled answer" if self.labelled else "toward the first slot"

    def own(self, side: Side) -> Float[np.ndarray, "item order point"]:
        """Return a model's margins, read by its own norm and head."""
        index = _index(side)
        return self.margin[index, index]

    def own_mass(self, side: Side) -> Float[np.ndarray, "item order point"]:
        """Return the label mass of a model, read by its own norm and head."""
        index = _index(side)
        return self.mass[index, index]

    def oriented(self, values: Float[np.ndarray, "*lead item order cell"]) -> Float[np.ndarray, "*lead item cell"]:
        """Return the mean over orders of values turned toward the labelled answer, or as they are without labels."""
        turned = values * self.slot_sign()[..., None] if self.labelled else values
        return turned.mean(-2)

    def cells(self, values: Float[np.ndarray, "item order cell"]) -> CellIntervals:
        """Return the oriented mean of every cell with its interval over clusters."""
        return cell_intervals(self.oriented(values), clusters=self.clusters, seed=self.meta.seed)

    @property
    def advantage(self) -> Advantage:
        """Return the gate: is there a change of verdicts, more than chance, at the last layer?"""
        change = (self.own("judge") - self.own("base"))[..., -1:]
        gap = self.toward_label(change[..., 0])
        draws = self.random_change[..., -1] * self.slot_sign()
        return advantage(gap, draws, clusters=self.clusters, seed=self.meta.seed)

    def readable(self, side: Side) -> Bool[np.ndarray, " point"]:
        """Return at which points a model's labels have the mass to speak of a verdict."""
        return along.readable_from(self.own_mass(side), least_mass=self.least_mass)

    def changes(self) -> Changed:
        """Return judge minus base at every point, each by its own readout, against chance."""
        change, floor = self.own("judge") - self.own("base"), self.meta.noise_floor or 0.0
        return changed(self, change, self.random_change, floor=floor)

    def stream_change(self) -> Float[np.ndarray, "item order point"]:
        """Return the part of judge minus base that the streams make, mean over both readouts."""
        return (self.margin[1] - self.margin[0]).mean(0)

    def readout_change(self) -> Float[np.ndarray, "item order point"]:
        """Return the part that the readouts make, mean over both streams; with the streams' it adds up."""
        return (self.margin[:, 1] - self.margin[:, 0]).mean(0)

    def settled(self, side: Side) -> Int[np.ndarray, "item order"]:
        """Return the point from which on each prompt's verdict is the final one; -1 where it can't be read."""
        return along.settled_at(self.own(side), self.own_mass(side), least_mass=self.least_mass)

    def settling(self, side: Side) -> Settling:
        """Return how deep a model's verdicts settle."""
        return along.settling(self.settled(side), self.depths, clusters=self.clusters, seed=self.meta.seed)

    def settling_change(self) -> Interval:
        """Return how much deeper the judge's verdicts settle than the base's, over items where both settle."""
        both = [np.where(self.settled(side) < 0, np.nan, self.depths[self.settled(side)]) for side in ("base", "judge")]
        return self.mean(both[1] - both[0])

    def correct(self, side: Side) -> Float[np.ndarray, "item point"]:
        """Return the share of an item's prompts in which a point prefers the labelled answer; NaN without a label."""
        toward = self.own(side) * self.slot_sign()[..., None]
        return ((np.sign(toward) + 1) / 2).mean(1)

    def agreement_reached(self, side: Side) -> Interval:
        """Return the first depth at which agreement with the labels is within ``epsilon`` of the last layer's.

        NaN where the last layer's isn't above one half: there is nothing to reach.
        """
        final = cell_intervals(self.correct(side)[:, -1:], clusters=self.clusters, seed=self.meta.seed)
        if not final.low[0] > 0.5:
            return Interval(np.nan, np.nan, np.nan, final.n)
        return along.agreement_reached(
            self.correct(side), self.readable(side), self.depths,
            epsilon=self.epsilon, clusters=self.clusters, seed=self.meta.seed,
        )  # fmt: skip

    @property
    def named_parts(self) -> tuple[Part, ...]:
        """Return the parts of a margin."""
        return tuple(Part(*part) for part in self.parts)

    def direct_changes(self) -> Changed:
        """Return judge minus base of every part's direct contribution, against chance."""
        return changed(self, self.direct[1] - self.direct[0], self.random_direct, floor=self.sum_error)

    def direct_and_total(self, direction: int) -> Ranked:
        """Return the rank correlation of direct and whole effects over the parts that were patched.

        Args:
            direction: 0 for the judge's values put into the base, 1 for the base's put into the judge; the latter's
                effects are turned round, so that both agree with judge minus base.
        """
        return ranked(self, direction)

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; see the table module."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw both models' margins by depth."""
        return figures.margins(self, ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return drawn_panels(self, figures.PANELS)


def _index(side: Side) -> int:
    return ("base", "judge").index(side)
