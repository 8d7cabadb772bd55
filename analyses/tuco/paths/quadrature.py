"""Clenshaw-Curtis rules on [0, 1]: doubling one keeps every point it was evaluated at."""

import math
from collections.abc import Mapping
from fractions import Fraction


def rule(intervals: int) -> Mapping[Fraction, float]:
    """Return the weight of each point of the rule with so many intervals; exact for polynomials of that degree.

    Args:
        intervals: One less than the number of points; 1 is the trapezoid.

    Returns:
        Weights by point; points are named by their fraction of the half circle (see :func:`position`), so that those
        of a rule are among those of the doubled one, exactly.
    """
    return {Fraction(k, intervals): _weight(k, intervals) for k in range(intervals + 1)}


def position(point: Fraction) -> float:
    """Return where a point lies in [0, 1]."""
    return math.sin(math.pi * float(point) / 2) ** 2


def _weight(k: int, n: int) -> float:
    total = 1.0
    for j in range(1, n // 2 + 1):
        twice = 1.0 if 2 * j == n else 2.0
        total -= twice * math.cos(2 * math.pi * j * k / n) / (4 * j * j - 1)
    return total / n * (0.5 if k in (0, n) else 1.0)
