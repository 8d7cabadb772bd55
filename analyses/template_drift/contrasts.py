"""Two models under two templates: the difference of their differences, and the same for white space alone.

    drift = (judge - base) under the judge's template - (judge - base) under the other

Whatever a template does to both models alike cancels, and so does what fine-tuning does under both.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from analyses.metrics import FLOORS, LEVEL, Interval, holm, share_interval, sign_flip_test

if TYPE_CHECKING:
    from analyses.template_drift.result import TemplateDriftResult

Template = Literal["judge", "base", "white space"]
Side = Literal["base", "judge"]

TEMPLATES: tuple[Template, ...] = ("judge", "base", "white space")
"""The judge's own template, the one held against it, and the judge's with one line break more at its end."""

TOWARD_LABEL, TOWARD_FIRST_SLOT, SIZE = "toward the labelled answer", "toward the first slot", "in size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The difference-in-differences in one direction, beside that of white space."""

    way: str
    """Direction, in words; ``in size`` is the absolute value of every prompt's."""
    drift: Interval
    """Mean over items, nats."""
    control: Interval
    """The same where the two templates differ in white space only."""
    beyond: Interval
    """Drift minus control, paired by item."""
    p: float
    """Two-sided sign-flip p over clusters: of the drift, or in size of what it is beyond the control."""
    adjusted: float
    """Holm's over the directions."""
    floor: float
    """What rounding alone may produce, nats."""

    @property
    def holds(self) -> bool:
        """Whether it is told from 0, from white space and from rounding."""
        own = self.beyond.low > 0 if self.way == SIZE else self.drift.excludes(0.0) and self.beyond.excludes(0.0)
        return self.adjusted < LEVEL and own and abs(self.drift.value) > FLOORS * self.floor


def difference(result: "TemplateDriftResult", template: Template) -> Float[np.ndarray, "item order"]:
    """Return judge minus base under a template, slots as shown."""
    at = TEMPLATES.index(template)
    return result.judge_margin[at] - result.base_margin[at]


def drift(result: "TemplateDriftResult", against: Template = "base") -> Float[np.ndarray, "item order"]:
    """Return the difference-in-differences between the judge's template and another, slots as shown."""
    return difference(result, "judge") - difference(result, against)


def effects(result: "TemplateDriftResult") -> tuple[Effect, ...]:
    """Return the drift in every direction that can be told on these items, Holm-adjusted over them."""
    own, control = drift(result), drift(result, "white space")
    values: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if (result.labels >= 0).any():
        values[TOWARD_LABEL] = result.toward_label(own), result.toward_label(control)
    if len(result.orders) == 2:
        values[TOWARD_FIRST_SLOT] = result.toward_first_slot(own), result.toward_first_slot(control)
    values[SIZE] = np.abs(own), np.abs(control)
    raw = np.array([_p(result, way, *pair) for way, pair in values.items()])
    floor = result.meta.noise_floor or 0.0
    return tuple(
        Effect(
            way=way,
            drift=result.mean(pair[0]),
            control=result.mean(pair[1]),
            beyond=result.mean(pair[0] - pair[1]),
            p=float(p),
            adjusted=float(adjusted),
            floor=floor,
        )
        for (way, pair), p, adjusted in zip(values.items(), raw, holm(raw), strict=True)
    )


def flips(result: "TemplateDriftResult", side: Side, against: Template = "base") -> Interval:
    """Return the share of prompts whose verdict isn't that under the judge's template."""
    margins = result.margins(side)
    changed = (margins[TEMPLATES.index("judge")] > 0) != (margins[TEMPLATES.index(against)] > 0)
    return share_interval(changed.astype(float), clusters=result.clusters)


def mass(result: "TemplateDriftResult", side: Side, template: Template) -> Interval:
    """Return the mean probability a model puts on the verdict labels under a template."""
    return result.mean((result.judge_mass if side == "judge" else result.base_mass)[TEMPLATES.index(template)])


def agreement(result: "TemplateDriftResult", side: Side, template: Template) -> Interval:
    """Return the share of prompts in which a model prefers the labelled answer."""
    toward = result.toward_label(result.margins(side)[TEMPLATES.index(template)])
    return share_interval(np.where(np.isnan(toward), np.nan, toward > 0), clusters=result.clusters)


def _p(result: "TemplateDriftResult", way: str, own: np.ndarray, control: np.ndarray) -> float:
    values = own - control if way == SIZE else own
    p = sign_flip_test(
        values, seed=result.meta.seed, clusters=result.clusters, permutations=result.permutations
    )  # fmt: skip
    return 1.0 if np.isnan(p) else p
