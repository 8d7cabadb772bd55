"""Flip alpha: how far fine-tuning must be scaled before an item's verdict changes."""

import numpy as np
from jaxtyping import Float


def flip_alpha(
    alphas: Float[np.ndarray, " alpha"], content: Float[np.ndarray, "*lead alpha item"], *, upward: bool = False
) -> Float[np.ndarray, "*lead item"]:
    """Return the scale next to 1 at which each item's verdict changes, linear between the points of the grid.

    The verdict at 1 is the sign of the content margin there. Where a verdict comes back further out, the
    change nearest to 1 counts.

    Args:
        alphas: Scales, ascending, 1 among them.
        content: Content margin, answer 0 minus answer 1 of the item, logits.
        upward: Whether to look above 1 instead of below.

    Returns:
        The scale; NaN where the verdict never changes on this side of the grid, or is a tie at 1.
    """
    start = int(np.flatnonzero(alphas == 1.0)[0])
    at_one = content[..., start, :]
    sign = np.where(at_one == 0, np.nan, np.sign(at_one))
    oriented = content * sign[..., None, :]
    found = np.full(at_one.shape, np.nan)
    for near, far in _steps(start, len(alphas), upward=upward):
        stays, goes = oriented[..., near, :], oriented[..., far, :]
        crossed = np.isnan(found) & (stays > 0) & (goes <= 0)
        along = np.divide(stays, stays - goes, out=np.zeros_like(stays), where=crossed)
        found = np.where(crossed, alphas[near] + along * (alphas[far] - alphas[near]), found)
    return found


def _steps(start: int, n: int, *, upward: bool) -> list[tuple[int, int]]:
    """Return the neighbouring grid points outward from 1."""
    return [(k, k + 1) for k in range(start, n - 1)] if upward else [(k, k - 1) for k in range(start, 0, -1)]
