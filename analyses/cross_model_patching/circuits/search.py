"""Growing a circuit along a ranking and taking out what it doesn't need, all from exact rows of one half."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

Alive = tuple[int, ...]
"""Cells that aren't ablated, ascending."""
Measure = Callable[[Sequence[Alive]], Float[np.ndarray, " set"]]
"""Returns the faithfulness of sets."""

_ALL_UP_TO = 64
_SIZES = 48
_ROUNDS = 4


def nested_sizes(count: int) -> Int[np.ndarray, " size"]:
    """Return sizes of circuits that are tried: all of them, or about 48 in equal ratios."""
    if count <= _ALL_UP_TO:
        return np.arange(1, count + 1)
    return np.unique(np.round(np.geomspace(1, count, _SIZES)).astype(int))


def prefix(order: Sequence[int], size: int) -> Alive:
    """Return the first cells of a ranking, ascending by index."""
    return tuple(sorted(int(i) for i in order[:size]))


def smallest(faithful: Float[np.ndarray, " size"], threshold: float) -> int | None:
    """Return the index of the first size that is faithful enough; None where none is."""
    good = np.flatnonzero(faithful >= threshold)
    return int(good[0]) if len(good) else None


def pruned(start: Alive, *, threshold: float, measure: Measure) -> Alive:
    """Take members out, the least needed first, while the rest stays faithful enough.

    Each round ranks the members by what leaving each out alone costs *the circuit*, tries every number of them, and
    takes the most that may go; it ends when none may.

    Args:
        start: A circuit that is faithful enough.
        threshold: How faithful it stays.
        measure: Of the half it is found on.
    """
    members = start
    for _ in range(_ROUNDS):
        if len(members) < 2:
            break
        left_out = measure([tuple(m for m in members if m != out) for out in members])
        order = [members[int(i)] for i in np.argsort(-left_out, kind="stable")]
        rests = [tuple(m for m in members if m not in set(order[:count])) for count in range(1, len(members))]
        good = np.flatnonzero(measure(rests) >= threshold)
        if not len(good):
            break
        members = rests[int(good[-1])]
    return members
