"""Whose values are put into whom: the two directions of a patch across models, and other items as donors."""

from collections.abc import Sequence
from typing import Literal

from workbench.pairs import Side

Direction = Literal["judge_to_base", "base_to_judge"]
DIRECTIONS: tuple[Direction, ...] = ("judge_to_base", "base_to_judge")
"""Into the base (is it enough?), into the judge (is it needed?)."""

SHORT = {"judge_to_base": "judge into base", "base_to_judge": "base into judge"}
"""Directions in words."""

ARROWS = {"judge_to_base": "J>B", "base_to_judge": "B>J"}
"""Directions where there is no room for words."""


def ends(direction: str) -> tuple[Side, Side]:
    """Return donor and target of a direction."""
    return ("judge", "base") if direction == "judge_to_base" else ("base", "judge")


def others(clusters: Sequence[str]) -> list[int]:
    """Return for each item of a batch the next one of another cluster; itself where there is none.

    Args:
        clusters: What each item is independent by.
    """
    count = len(clusters)
    return [
        next((j % count for j in range(i + 1, i + count) if clusters[j % count] != clusters[i]), i)
        for i in range(count)
    ]
