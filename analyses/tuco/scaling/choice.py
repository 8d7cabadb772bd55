"""An alpha that is better than 1: chosen on one half of the items, believed only on the other."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Chosen(NamedTuple):
    """The alpha that agreed best with the labels on one half, and what it is worth on the other."""

    place: int
    """Its place on the grid."""
    gain: Float[np.ndarray, " item"]
    """Agreement gained over alpha 1, item by item; NaN on the half it was chosen on."""


def choose_alpha(
    alphas: Float[np.ndarray, " alpha"],
    agreement: Float[np.ndarray, "alpha item"],
    score: Float[np.ndarray, "alpha item"],
    *,
    choosing: Bool[np.ndarray, " item"],
) -> Chosen | None:
    """Choose on one half by agreement, then by the labelled answer's probability, then by nearness to 1.

    Args:
        alphas: Scales, 1 among them.
        agreement: Share of an item's prompts that agree with its label; NaN without one.
        score: Mean probability of the labelled answer.
        choosing: The half to choose on.

    Returns:
        The choice; None when a half has no labelled item.
    """
    known = ~np.isnan(agreement).any(0)
    if not (known & choosing).any() or not (known & ~choosing).any():
        return None
    marks = agreement[:, known & choosing].mean(1), score[:, known & choosing].mean(1), -np.abs(alphas - 1.0)
    index = max(range(len(alphas)), key=lambda k: tuple(mark[k] for mark in marks))
    gain = agreement[index] - agreement[int(np.flatnonzero(alphas == 1.0)[0])]
    return Chosen(index, np.where(choosing, np.nan, gain))
