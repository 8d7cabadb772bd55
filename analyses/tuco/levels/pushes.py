"""The two ways a verdict can be pushed, and how a push is told from a reference over items and over random draws."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from analyses.judged import JudgedResult
from analyses.metrics import Chance, Interval, holm, sign_flip_test

TOWARD_LABEL, TOWARD_FIRST_SLOT = "toward the labelled answer", "toward the first slot"

UNTOLD = "Nothing found: without labels and with one answer order there is no direction to tell a push in."


class PushTest(NamedTuple):
    """One push held against one reference."""

    name: str
    """Level or stage the test is about."""
    way: str
    """Direction of the push, in words."""
    own: Interval
    """The push itself, logits."""
    difference: Interval
    """Push minus reference, paired by item, logits."""
    chance: Chance | None
    """Where a further random change would fall; None where the reference isn't random."""
    p: float
    """Holm-adjusted p-value."""


def ways(
    result: JudgedResult, push: Float[np.ndarray, "*lead item order"]
) -> Iterator[tuple[str, Float[np.ndarray, "..."]]]:
    """Yield each direction that can be told on these items, and the push in it.

    Args:
        result: Whose labels and orders.
        push: Verdict logit gap written, first slot minus second.
    """
    if (result.labels >= 0).any():
        yield TOWARD_LABEL, result.toward_label(push)
    if len(result.orders) == 2:
        yield TOWARD_FIRST_SLOT, result.toward_first_slot(push)


def over_items(result: JudgedResult, difference: Float[np.ndarray, "item *order"]) -> float:
    """Return the two-sided p of paired differences, by flipping the signs of whole clusters; 1 without any."""
    p = sign_flip_test(difference, seed=result.meta.seed, clusters=result.clusters)
    return 1.0 if np.isnan(p) else p


def adjusted(tests: list[PushTest]) -> tuple[PushTest, ...]:
    """Return the tests of one family with Holm's p-values."""
    p = holm(np.array([test.p for test in tests], dtype=float))
    return tuple(test._replace(p=float(value)) for test, value in zip(tests, p, strict=True))
