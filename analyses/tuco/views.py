"""How a push is oriented, which orientations a run can have, and what results by region have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from analyses.cells import CellIntervals, cell_intervals
from analyses.judged import JudgedResult

_ROLES = {"answer_a": "labelled answer", "answer_b": "other answer"}

VIEWS: Mapping[str, str] = {
    "content": "toward the labelled answer",
    "position": "toward the first slot",
    "slot": "toward the first slot as shown",
    "value": "toward higher values",
}
"""Ways to orient a push: what an order swap turns round, what it doesn't, neither where only that is known, and for
scores and rewards, which have no slots, as it is."""

DECIDING = ("content", "position", "value")
"""Views that tell something about the judge; the remaining one mixes content and position."""


def views_of(labels: Int[np.ndarray, " item"], orders: Sequence[str], *, gap: bool) -> tuple[str, ...]:
    """Return the views these items allow: content needs labels, position both orders, and both need a verdict gap."""
    if not gap:
        return ("value",)
    found = [("content", bool((labels >= 0).any())), ("position", len(orders) == 2)]
    return tuple(view for view, possible in found if possible) or ("slot",)


def oriented(
    values: Float[np.ndarray, "item order *cell"], view: str, *, sign: Float[np.ndarray, "item order"]
) -> Float[np.ndarray, "item *cell"]:
    """Return a view of slot-oriented quantities, mean over orders; NaN in the content view without a label.

    Args:
        values: Any array whose first axes are item and order.
        view: A key of ``VIEWS``.
        sign: +1 where the labelled answer stands in the first slot, -1 in the second.
    """
    if view != "content":
        return values.mean(1)
    return (values * sign.reshape(*sign.shape, *[1] * (values.ndim - 2))).mean(1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ViewedResult(JudgedResult):
    """Parts of what is read, by place and by region of the prompt, told in several views."""

    choices: tuple[str, ...]
    """Text of the two verdict labels whose logits make the gap; empty where another number is read."""
    unit: str
    """Unit of everything that is called a part, a push or a gap."""
    regions: tuple[str, ...]
    """Names of the token regions: innermost spans, by slot as shown; ``template`` is every token in none."""
    views: tuple[str, ...]
    """Orientations measured, keys of ``VIEWS``."""
    named_view: str
    """View in which what was named on one half of the items was strongest, a key of ``VIEWS``."""

    def oriented(self, values: Float[np.ndarray, "item order *cell"], view: str) -> Float[np.ndarray, "item *cell"]:
        """Return a view of a slot-oriented quantity: its content part (NaN without a label) or its position part.

        Args:
            values: Any array of this result whose first axes are item and order.
            view: A key of ``VIEWS``.
        """
        return oriented(values, view, sign=self.slot_sign())

    def cells(self, values: Float[np.ndarray, "item order *cell"], view: str) -> CellIntervals:
        """Return the mean of every cell in a view, with intervals over clusters of items."""
        return cell_intervals(self.oriented(values, view), clusters=self.clusters, seed=self.meta.seed)

    def in_view(
        self, values: Float[np.ndarray, "item order *cell region"], view: str
    ) -> tuple[tuple[str, ...], Float[np.ndarray, "item order *cell region"]]:
        """Return region names and values as a view tells them: in the content view answers by role, not by slot.

        Args:
            values: Any array whose first axes are item and order and whose last is region.
            view: A key of ``VIEWS``.
        """
        return self.by_role(values) if view == "content" else (self.regions, values)

    def by_role(
        self, values: Float[np.ndarray, "item order *cell region"]
    ) -> tuple[tuple[str, ...], Float[np.ndarray, "item order *cell region"]]:
        """Return regions by role in place of slot: the labelled answer and the other one.

        Args:
            values: Any array whose first axes are item and order and whose last is region.

        Returns:
            Names of the regions, and the values in that order; unchanged where a format shows no two answers.
        """
        if not set(_ROLES) <= set(self.regions):
            return self.regions, values
        first, second = (self.regions.index(name) for name in _ROLES)
        turned = np.arange(len(self.regions))
        turned[[first, second]] = second, first
        swapped = (self.slot_sign() < 0).reshape(*values.shape[:2], *[1] * (values.ndim - 2))
        return tuple(_ROLES.get(name, name) for name in self.regions), np.where(swapped, values[..., turned], values)
