"""ScalingResult: every verdict of one run at every alpha, with curves, flip alphas, finding, table and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float, Int

from analyses.judged import JudgedResult, drawn_panels
from analyses.metrics import Interval, ratio_interval, share_interval
from analyses.tuco.naming import with_sample
from analyses.tuco.scaling import figures, measures, statements, table
from analyses.tuco.scaling.choice import Chosen, choose_alpha
from analyses.tuco.scaling.flips import flip_alpha
from analyses.tuco.scaling.measures import Measure, Readings
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ScalingResult(JudgedResult):
    """Verdicts of the judge with fine-tuning's contribution scaled by alpha.

    Gaps are logits, first slot minus second slot of the prompt as shown. The first curve is the one that
    headline numbers are about. NaN where something was not measured; ``meta.not_measured`` says why.
    """

    curves: tuple[str, ...]
    """Name of each curve: what was scaled."""
    described: tuple[str, ...]
    """What each curve does at alpha 0, in words."""
    ends: str
    """Whose embedding, final norm and head were used: ``judge`` or ``base``."""
    choices: tuple[str, ...]
    """Text of the two verdict labels whose logits make the gap."""
    length_name: str
    """What the length of an answer is."""
    alphas: Float[np.ndarray, " alpha"]
    """Scales, ascending; 1 is among them."""
    gap: Float[np.ndarray, "curve alpha item order"]
    """Verdict logit gap at the last prompt token."""
    mass: Float[np.ndarray, "curve alpha item order"]
    """Probability of the two verdict tokens together."""
    judge_gap: Float[np.ndarray, "item order"]
    """The judge's own gap: its plain forward."""
    base_gap: Float[np.ndarray, "item order"]
    """The base's own gap, with its own embedding, final norm and head."""
    judge_mass: Float[np.ndarray, "item order"]
    """Probability of the verdict tokens under the judge."""
    base_mass: Float[np.ndarray, "item order"]
    """Probability of the verdict tokens under the base."""
    control_gap: Float[np.ndarray, "draw curve alpha item order"]
    """The same curves of judges that moved as far as the real one, tensor by tensor, in random directions."""
    control_judge_gap: Float[np.ndarray, "draw item order"]
    """Those judges' own gaps."""
    lengths: Float[np.ndarray, "item answer"]
    """Length of both answers, in the item's own order."""
    chosen_on: Int[np.ndarray, " item"]
    """1 on the half of the items a best alpha is chosen on, 0 on the half it is tested on."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "alphas": ("alpha",),
        "gap": ("curve", "alpha", "item", "order"),
        "mass": ("curve", "alpha", "item", "order"),
        **dict.fromkeys(("judge_gap", "base_gap", "judge_mass", "base_mass"), ("item", "order")),
        "control_gap": ("draw", "curve", "alpha", "item", "order"),
        "control_judge_gap": ("draw", "item", "order"),
        "lengths": ("item", "answer"),
        "chosen_on": ("item",),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        return {
            "item": len(self.item_ids),
            "order": len(self.orders),
            "curve": len(self.curves),
            "alpha": len(self.alphas),
            "draw": len(self.control_gap),
            "answer": 2,
        }

    @property
    def at_one(self) -> int:
        """Return the place of alpha 1 on the grid."""
        return int(np.flatnonzero(self.alphas == 1.0)[0])

    @property
    def far(self) -> int:
        """Return the place of the alpha that effects are told at: the smallest, or the largest when none is below 1."""
        return 0 if self.at_one else len(self.alphas) - 1

    @property
    def slots(self) -> Float[np.ndarray, " order"]:
        """Return +1 for the original order, -1 for the swapped one."""
        return np.array([1.0 if order == "original" else -1.0 for order in self.orders])

    def readings(self) -> Readings:
        """Return all points of all curves, ``[curve alpha item order]``."""
        return self._read(self.gap, self.mass, self.judge_gap)

    def control_readings(self) -> Readings:
        """Return all points of the random changes, ``[draw curve alpha item order]``."""
        return self._read(
            self.control_gap, np.full_like(self.control_gap, np.nan), self.control_judge_gap[:, None, None]
        )

    def base_readings(self) -> Readings:
        """Return the base's own point, ``[item order]``."""
        return self._read(self.base_gap, self.base_mass, self.judge_gap)

    def applicable(self) -> tuple[Measure, ...]:
        """Return the measures that say something about these items in these orders."""
        labelled, both = bool((self.labels >= 0).any()), len(self.orders) == 2
        return tuple(m for m in measures.MEASURES if m.applies(labelled=labelled, both_orders=both))

    def curve(self, measure: Measure, *, curve: int = 0) -> tuple[Interval, ...]:
        """Return one measure along one curve, alpha by alpha, with intervals over clusters of items."""
        parts = measure.parts(self.readings())
        return tuple(
            self.interval(measure, parts.value[curve, k], parts.weight[curve, k]) for k in range(len(self.alphas))
        )

    def control_curve(self, measure: Measure, *, curve: int = 0) -> Float[np.ndarray, "draw alpha"]:
        """Return the same curve of each random change; no rows where none was measured."""
        if not len(self.control_gap):
            return np.zeros((0, len(self.alphas)))
        parts = measure.parts(self.control_readings())
        return measures.pooled(parts.value[:, curve], parts.weight[:, curve])

    def at_base(self, measure: Measure) -> Interval:
        """Return one measure of the base itself."""
        parts = measure.parts(self.base_readings())
        return self.interval(measure, parts.value, parts.weight)

    def interval(self, measure: Measure, value: np.ndarray, weight: np.ndarray) -> Interval:
        """Return a measure's ratio of means over items: Wilson for rates, bootstrap otherwise."""
        if np.isnan(value).all():
            return Interval(np.nan, np.nan, np.nan, 0)
        return self.share(value) if measure.rate else self.ratio(value, weight)

    def share(self, hits: Float[np.ndarray, " item"]) -> Interval:
        """Return a rate over items with its Wilson interval, each cluster counted once."""
        return share_interval(hits, clusters=self.clusters)

    def ratio(
        self,
        numerator: Float[np.ndarray, "item *order"],
        denominator: Float[np.ndarray, "item *order"],
        *,
        level: float = 0.95,
    ) -> Interval:
        """Return the ratio of two means, with its interval over clusters of items."""
        return ratio_interval(numerator, denominator, seed=self.meta.seed, clusters=self.clusters, level=level)

    def content(self) -> Float[np.ndarray, "curve alpha item"]:
        """Return the content margin: answer 0 minus answer 1 of the item, mean over the orders shown."""
        return self.readings().content

    def flips(self, *, upward: bool = False) -> Float[np.ndarray, "curve item"]:
        """Return the alpha next to 1 at which each item's verdict changes; NaN where it never does on the grid.

        The verdict is the sign of the content margin, so that no position bias flips it.

        Args:
            upward: Whether to look above 1 instead of below.
        """
        return flip_alpha(self.alphas, self.content(), upward=upward)

    def control_flips(self, *, upward: bool = False) -> Float[np.ndarray, "draw curve item"]:
        """Return the flip alphas of the random changes, each against its own verdict at 1."""
        return flip_alpha(self.alphas, self.control_readings().content, upward=upward)

    def robustness(self) -> Float[np.ndarray, "curve item"]:
        """Return how far alpha may move from 1, either way, before the verdict changes; infinite if it never does."""
        below, above = 1.0 - self.flips(), self.flips(upward=True) - 1.0
        return np.fmin(np.nan_to_num(below, nan=np.inf), np.nan_to_num(above, nan=np.inf))

    def best_alpha(self) -> Chosen | None:
        """Return the alpha of the first curve that agrees best, chosen on one half; None without labels on both."""
        read = self.readings()
        agreement, score = (m.parts(read).value[0] for m in (measures.AGREEMENT, measures.LABEL_SCORE))
        return choose_alpha(self.alphas, agreement, score, choosing=self.chosen_on == 1)

    def control_gains(self) -> Float[np.ndarray, " draw"]:
        """Return the mean gain that the same choice finds in each random change; NaN where it can't be made."""
        if not len(self.control_gap):
            return np.zeros(0)
        read = self.control_readings()
        agreement, score = (m.parts(read).value[:, 0] for m in (measures.AGREEMENT, measures.LABEL_SCORE))
        found = [
            choose_alpha(self.alphas, a, s, choosing=self.chosen_on == 1) for a, s in zip(agreement, score, strict=True)
        ]
        return np.array([np.nan if choice is None else np.nanmean(choice.gain) for choice in found])

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; ``dose`` is alpha and ``component`` the curve."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the agreement curves, into ``ax`` or new axes."""
        return figures.agreement(self, ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return with_sample(self, drawn_panels(self, figures.PANELS))

    def _read(self, gap: np.ndarray, mass: np.ndarray, judge_gap: np.ndarray) -> Readings:
        return Readings(
            gap=gap, mass=mass, judge_gap=judge_gap, labels=self.labels, slot=self.slots, lengths=self.lengths
        )
