"""What is read off one point of a curve: agreement, consistency, position, length, scores.

Every measure gives each item a value and a weight; the number shown is the ratio of their means, and its
interval resamples clusters of items. Items that don't count (no label, answers of one length) are NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from workbench.judges import content_position


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Readings:
    """Verdict logits of some points, and what is known about the items."""

    gap: Float[np.ndarray, "*lead item order"]
    """Verdict logit gap, first slot minus second slot as shown."""
    mass: Float[np.ndarray, "*lead item order"]
    """Probability of the two verdict tokens together."""
    judge_gap: Float[np.ndarray, "*judges item order"]
    """The judge's own gap on the same prompts; broadcasts against the points."""
    labels: Int[np.ndarray, " item"]
    """Index of the better answer; -1 where nobody said."""
    slot: Float[np.ndarray, " order"]
    """+1 for the original order, -1 for the swapped one."""
    lengths: Float[np.ndarray, "item answer"]
    """Length of the two answers."""

    @property
    def label_sign(self) -> Float[np.ndarray, " item"]:
        """Return +1 where answer 0 is the better one, -1 where answer 1 is, NaN without a label."""
        return np.where(self.labels < 0, np.nan, 1.0 - 2.0 * self.labels)

    @property
    def content(self) -> Float[np.ndarray, "*lead item"]:
        """Return the content margin: answer 0 minus answer 1 of the item, mean over the orders shown."""
        return (self.gap * self.slot).mean(-1)

    @property
    def toward_label(self) -> Float[np.ndarray, "*lead item order"]:
        """Return the gap oriented to the labelled answer."""
        return self.gap * self.slot * self.label_sign[:, None]

    @property
    def log_ratio(self) -> Float[np.ndarray, " item"]:
        """Return the log length ratio of answer 0 to answer 1."""
        return np.log(self.lengths[:, 0]) - np.log(self.lengths[:, 1])


class Parts(NamedTuple):
    """A measure item by item."""

    value: Float[np.ndarray, "*lead item"]
    """What is summed."""
    weight: Float[np.ndarray, "*lead item"]
    """What it is divided by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One number per point of a curve."""

    name: str
    """Name in tables."""
    title: str
    """Name in words."""
    parts: Callable[[Readings], Parts]
    """Value and weight of each item."""
    unit: str = ""
    """Unit; empty for shares."""
    rate: bool = False
    """Whether it is a share of items or prompts."""
    needs_labels: bool = False
    """Whether it says nothing without labels."""
    needs_both_orders: bool = False
    """Whether both answer orders must have been shown."""

    def applies(self, *, labelled: bool, both_orders: bool) -> bool:
        """Return whether the measure says anything about such items."""
        return (labelled or not self.needs_labels) and (both_orders or not self.needs_both_orders)


def _plain(values: np.ndarray) -> Parts:
    return Parts(values, np.ones_like(values))


def _true(condition: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return a condition on values as 0 and 1, NaN where the value is."""
    return np.where(np.isnan(values), np.nan, condition.astype(float))


def _agreement(r: Readings) -> Parts:
    return _plain(_true(r.toward_label > 0, r.toward_label).mean(-1))


def _right_in_all(r: Readings) -> Parts:
    return _plain(_true(r.toward_label > 0, r.toward_label).min(-1))


def _consistency(r: Readings) -> Parts:
    split = content_position(r.gap[..., 0], r.gap[..., 1])
    return _plain(_true(split.consistent, split.content))


def _same_as_judge(r: Readings) -> Parts:
    return _plain(_true(np.sign(r.gap) == np.sign(r.judge_gap), r.gap).mean(-1))


def _margin(r: Readings) -> Parts:
    return _plain(r.toward_label.mean(-1))


def _position(r: Readings) -> Parts:
    return _plain(r.gap.mean(-1))


def _first_slot(r: Readings) -> Parts:
    return _plain(_true(r.gap > 0, r.gap).mean(-1))


def _label_score(r: Readings) -> Parts:
    return _plain(_probability(r.toward_label).mean(-1))


def _first_score(r: Readings) -> Parts:
    return _plain(_probability(r.gap).mean(-1))


def _mass(r: Readings) -> Parts:
    return _plain(r.mass.mean(-1))


def _longer(r: Readings) -> Parts:
    ratio = np.where(r.log_ratio == 0, np.nan, r.log_ratio)
    toward_longer = r.gap * r.slot * np.sign(ratio)[:, None]
    return _plain(_true(toward_longer > 0, toward_longer).mean(-1))


def _length_slope(r: Readings) -> Parts:
    """Regress the content margin on the log length ratio, the label held fixed (no intercept: answers have no order).

    By partialling the label out of the ratio the slope is a ratio of two means over items.
    """
    ratio = length_contrast(r.log_ratio, r.label_sign)
    return Parts(r.content * ratio, np.broadcast_to(ratio**2, r.content.shape))


def length_contrast(
    log_ratio: Float[np.ndarray, " item"], label_sign: Float[np.ndarray, " item"]
) -> Float[np.ndarray, " item"]:
    """Return the part of the log length ratio that labels don't explain; all NaN when nothing is left.

    Items without a label count only when no item has one.

    Args:
        log_ratio: Log length ratio of answer 0 to answer 1.
        label_sign: +1, -1, or NaN without a label.
    """
    left = log_ratio
    if not np.isnan(label_sign).all():
        known = ~np.isnan(label_sign * log_ratio)
        left = log_ratio - label_sign * (log_ratio[known] * label_sign[known]).sum() / max(known.sum(), 1)
    size = np.nansum(left**2)
    return left if size > 1e-9 * max(np.nansum(log_ratio**2), 1e-9) else np.full_like(left, np.nan)


def _probability(gap: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(gap / 2))


def pooled(
    value: Float[np.ndarray, "*lead item"], weight: Float[np.ndarray, "*lead item"]
) -> Float[np.ndarray, "*lead"]:
    """Return the ratio of means over items with both, NaN where no item has."""
    known = ~(np.isnan(value) | np.isnan(weight))
    top, bottom = (np.where(known, part, 0.0).sum(-1) for part in (value, weight))
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


AGREEMENT = Measure(
    name="agreement", title="verdicts that agree with the labels", parts=_agreement, rate=True, needs_labels=True
)
RIGHT_IN_BOTH = Measure(
    name="right_in_both",
    title="right in both orders",
    parts=_right_in_all,
    rate=True,
    needs_labels=True,
    needs_both_orders=True,
)
CONSISTENCY = Measure(
    name="consistency", title="same answer in both orders", parts=_consistency, rate=True, needs_both_orders=True
)
SAME_AS_JUDGE = Measure(name="same_as_judge", title="same verdict as the judge", parts=_same_as_judge, rate=True)
MARGIN = Measure(
    name="margin", title="margin toward the labelled answer", unit="logits", parts=_margin, needs_labels=True
)
POSITION = Measure(
    name="position", title="push toward the first slot", unit="logits", parts=_position, needs_both_orders=True
)
FIRST_SLOT = Measure(
    name="first_slot", title="verdicts for the first slot", parts=_first_slot, rate=True, needs_both_orders=True
)
LABEL_SCORE = Measure(
    name="label_score", title="probability of the labelled answer", parts=_label_score, needs_labels=True
)
FIRST_SCORE = Measure(
    name="first_score", title="probability of the first slot", parts=_first_score, needs_both_orders=True
)
LABEL_MASS = Measure(name="label_mass", title="probability of the two verdict tokens", parts=_mass)
LONGER = Measure(name="longer", title="verdicts for the longer answer", parts=_longer, rate=True)
LENGTH_SLOPE = Measure(
    name="length_slope", title="pull of length beyond the labels", unit="logits per e-fold", parts=_length_slope
)

MEASURES = (
    AGREEMENT, RIGHT_IN_BOTH, CONSISTENCY, SAME_AS_JUDGE, MARGIN, POSITION, FIRST_SLOT, LABEL_SCORE, FIRST_SCORE,
    LABEL_MASS, LONGER, LENGTH_SLOPE,
)  # fmt: skip
"""Every measure, in the order of tables."""


def label_longer(labels: Int[np.ndarray, " item"], log_ratio: Float[np.ndarray, " item"]) -> Float[np.ndarray, " item"]:
    """Return 1 where the labelled answer is the longer one, 0 where the shorter, NaN where neither can be said."""
    sign = np.where(labels < 0, np.nan, 1.0 - 2.0 * labels) * np.sign(log_ratio)
    return np.where(np.isnan(sign) | (sign == 0), np.nan, (sign > 0).astype(float))
