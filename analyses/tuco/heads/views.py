"""How a push is oriented, and which orientations a run can have."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

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

VERDICT_TOKEN = "verdict token"  # noqa: S105 - a place in the prompt
"""Where biases and MLPs write from: they take from no other token."""


def views_of(labels: Int[np.ndarray, " item"], orders: Sequence[str], *, gap: bool) -> tuple[str, ...]:
    """Return the views these items allow: content needs labels, position both orders, and both need a verdict gap."""
    if not gap:
        return ("value",)
    found = [("content", bool((labels >= 0).any())), ("position", len(orders) == 2)]
    return tuple(view for view, possible in found if possible) or ("slot",)
