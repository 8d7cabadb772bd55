"""Two models under two templates: the difference of their differences, and the same for white space alone.

    drift = (judge - base) under the judge's template - (judge - base) under the other

Whatever a template does to both models alike cancels, and so does what fine-tuning does under both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from analyses.metrics import (
    FEWEST_DRAWS,
    FLOORS,
    LEVEL,
    Chance,
    Interval,
    against_draws,
    holm,
    share_interval,
    sign_flip_test,
)

if TYPE_CHECKING:
    from analyses.template_drift.result import TemplateDriftResult

Template = Literal["judge", "base", "white space"]
Side = Literal["base", "judge"]
Turn = Callable[[np.ndarray], np.ndarray]
"""Orients a slot-oriented gap ``[item order]``."""

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
    chance: Chance | None
    """Where the drift of a further judge moved as far at random would fall; None with fewer than three."""

    @property
    def holds(self) -> bool:
        """Whether it is told from 0, from white space and from rounding."""
        own = self.beyond.low > 0 if self.way == SIZE else self.drift.excludes(0.0) and self.beyond.excludes(0.0)
        return self.adjusted < LEVEL and own and abs(self.drift.value) > FLOORS * self.floor

    @property
    def beyond_chance(self) -> bool:
        """Whether it is larger than what random changes of the judge's norm make of the same templates."""
        return self.chance is not None and self.chance.p < LEVEL


def difference(result: "TemplateDriftResult", template: Template) -> Float[np.ndarray, "item order"]:
    """Return judge minus base under a template, slots as shown."""
    at = TEMPLATES.index(template)
    return result.judge_margin[at] - result.base_margin[at]


def drift(result: "TemplateDriftResult", against: Template = "base") -> Float[np.ndarray, "item order"]:
    """Return the difference-in-differences between the judge's template and another, slots as shown."""
    return difference(result, "judge") - difference(result, against)


def random_drifts(result: "TemplateDriftResult") -> Float[np.ndarray, "draw item order"]:
    """Return the drift of every judge moved at random; NaN on items it wasn't measured on."""
    change = result.random_margin - result.base_margin
    return change[:, TEMPLATES.index("judge")] - change[:, TEMPLATES.index("base")]


def effects(result: "TemplateDriftResult") -> tuple[Effect, ...]:
    """Return the drift in every direction that can be told on these items, Holm-adjusted over them."""
    ways: dict[str, Turn] = {}
    if (result.labels >= 0).any():
        ways[TOWARD_LABEL] = result.toward_label
    if len(result.orders) == 2:
        ways[TOWARD_FIRST_SLOT] = result.toward_first_slot
    ways[SIZE] = np.abs
    own, control = drift(result), drift(result, "white space")
    values = {way: (turn(own), turn(control)) for way, turn in ways.items()}
    raw = np.array([_p(result, way, *pair) for way, pair in values.items()])
    return tuple(
        Effect(
            way=way,
            drift=result.mean(values[way][0]),
            control=result.mean(values[way][1]),
            beyond=result.mean(values[way][0] - values[way][1]),
            p=float(p),
            adjusted=float(adjusted),
            floor=result.meta.noise_floor or 0.0,
            chance=_chance(result, turn),
        )
        for (way, turn), p, adjusted in zip(ways.items(), raw, holm(raw), strict=True)
    )


def _chance(result: "TemplateDriftResult", turn: Turn) -> Chance | None:
    draws = random_drifts(result)
    draws = draws[~np.isnan(draws).all((1, 2))]
    if len(draws) < FEWEST_DRAWS:
        return None
    same_items = np.where(np.isnan(draws[0]), np.nan, drift(result))
    return against_draws(result.mean(turn(same_items)).value, np.array([result.mean(turn(d)).value for d in draws]))


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
