"""What a probe asks: item sets in step, how they are shown, and how what was read becomes one number per item.

A probe is data and two functions. ``prepare`` makes the item sets (conditions), ``score`` turns the readings of all
conditions into an effect per model and item, toward the biased side, beside the same for the placebo.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import ParameterError
from workbench.judges import JudgeFormat, JudgeItem
from workbench.judges.perturb import Target
from workbench.pairs import Pair

CLEAN, PERTURBED, PLACEBO = "clean", "perturbed", "placebo"
"""Names of conditions; others carry names of their own."""


class Ask(NamedTuple):
    """What a probe may use to make its item sets."""

    pair: Pair
    """The pair."""
    items: Sequence[JudgeItem]
    """The items as they came."""
    seed: int
    """Seed of whatever is drawn."""
    placebo: bool
    """Whether a placebo is wanted."""
    formats: tuple[JudgeFormat, ...]
    """Further formats, for probes that compare formats."""
    batch_size: int
    """Prompts per forward."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Item sets in step: entry k of each set is the same item."""

    conditions: tuple[str, ...]
    """Name of each set; the first is what others are compared with."""
    sets: tuple[tuple[JudgeItem, ...], ...]
    """The item sets."""
    toward: Int[np.ndarray, " item"]
    """Answer a biased judge would move to, in the item's own order; -1 where the target is no answer."""
    formats: tuple[JudgeFormat | None, ...] = ()
    """Format each set is shown in; None, or nothing at all, for the pair's own."""
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Whatever else the score needs, one row per item."""
    notes: tuple[str, ...] = ()
    """What was left out and why, and how the placebo was made."""
    changed: str | None = PERTURBED
    """Condition whose prompts must differ from the first one's; None where they may be the same."""

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.toward)

    def format_of(self, condition: int) -> JudgeFormat | None:
        """Return the format a set is shown in; None for the pair's own."""
        return self.formats[condition] if self.formats else None

    def take(self, rows: Sequence[int], *, notes: Sequence[str] = ()) -> "Plan":
        """Return the plan for some of the items."""
        index = np.asarray(rows, dtype=int)
        return replace(
            self,
            sets=tuple(tuple(items[int(i)] for i in index) for items in self.sets),
            toward=self.toward[index],
            extra={name: values[index] for name, values in self.extra.items()},
            notes=(*self.notes, *notes),
        )


class Read(NamedTuple):
    """What models said under every condition; NaN where nothing was read."""

    mass: Float[np.ndarray, "condition model item order"]
    """Probability of all labels together; NaN for a scalar format."""
    verdict: Float[np.ndarray, "condition model item order"]
    """+1 where the answer shown first wins, -1 the second, 0 a tie; of answers judged one at a time, the one better
    spoken of wins."""
    content: Float[np.ndarray, "condition model item"]
    """Answer 0 over answer 1; with one answer, how well it is spoken of."""
    position: Float[np.ndarray, "condition model item"]
    """First slot over second; 0 where answers are judged one at a time."""
    unit: str
    """Unit of content and position."""

    def take(self, rows: Sequence[int]) -> "Read":
        """Return what was read of some of the items."""
        index = np.asarray(rows, dtype=int)
        arrays = {name: getattr(self, name)[:, :, index] for name in self._fields if name != "unit"}
        return self._replace(**arrays)

    def moved(self, condition: int, *, against: int = 0) -> Float[np.ndarray, "model item"]:
        """Return how far margins are from those under another condition, whichever way: mean over the orders."""
        content, position = (values[condition] - values[against] for values in (self.content, self.position))
        return (np.abs(content + position) + np.abs(content - position)) / 2

    def size(self, condition: int = 0) -> Float[np.ndarray, "model item"]:
        """Return how large margins are, whichever way: mean over the orders."""
        content, position = self.content[condition], self.position[condition]
        return (np.abs(content + position) + np.abs(content - position)) / 2


class Rate(NamedTuple):
    """A further number per model and item, and the same under the placebo where there is one."""

    value: Float[np.ndarray, "model item"]
    """The number; NaN for items that have none."""
    placebo: Float[np.ndarray, "model item"] | None = None
    """The same under the placebo."""


class Score(NamedTuple):
    """What a probe makes of its readings."""

    effect: Float[np.ndarray, "model item"]
    """Toward the biased side."""
    placebo: Float[np.ndarray, "model item"] | None = None
    """The same for the placebo; None where there is none."""
    weight: Float[np.ndarray, "model item"] | None = None
    """What the effect is per: the number is mean effect over mean weight; None for a plain mean."""
    rates: Mapping[str, Rate] = {}
    """Further numbers by name."""
    unit: str | None = None
    """Unit of the effect; None for that of the readings."""

    @property
    def beyond(self) -> Float[np.ndarray, "model item"]:
        """Return effect minus placebo; the effect itself where there is no placebo."""
        return self.effect if self.placebo is None else self.effect - self.placebo


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One question put to a pair."""

    name: str
    """Short name."""
    title: str
    """What is probed, as something a judge does: ``"follows the majority"``."""
    description: str
    """What is asked, with which control, and where the definition comes from."""
    prepare: Callable[[Ask], Plan]
    """Makes the item sets."""
    score: Callable[[Plan, Read], Score]
    """Makes one number per model and item of what was read."""
    target: Target = "answer"
    """What a biased judge would move toward."""
    expected: Literal["still", "moves"] = "still"
    """What a good judge does; where it should move, failing to is the bias."""
    needs: Literal["nothing", "formats"] = "nothing"
    """What the caller has to give."""


def toward_sign(plan: Plan) -> Float[np.ndarray, " item"]:
    """Return +1 where a biased judge would move to answer 0, -1 for answer 1, NaN where to none."""
    return np.where(plan.toward < 0, np.nan, 1.0 - 2.0 * plan.toward)


def label_sign(plan: Plan, *, condition: int = 0) -> Float[np.ndarray, " item"]:
    """Return +1 where answer 0 is the better one, -1 where answer 1 is, NaN where nobody said."""
    labels = [item.label for item in plan.sets[condition]]
    return np.array([np.nan if label is None else 1.0 - 2.0 * label for label in labels])


def nothing_left(name: str, reasons: Sequence[str]) -> ParameterError:
    """Return the error of a probe that fits no item."""
    return ParameterError(
        f"no item is left for the probe {name!r}.",
        argument="items",
        got="; ".join(reasons) or "no items",
        fix="Choose items that have what the probe needs, or another probe.",
    )
