"""Which screened cells are worth an exact patch: the largest in front of the exactly patched tokens."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from analyses.cross_model_patching.screen.regions import LAST
from workbench.hooks import Site

Chosen = tuple[tuple[tuple[str, str], ...], ...]
"""By direction: (part, unit) of each chosen cell."""


def choose(
    screened: Float[np.ndarray, "region unit"],
    back: Float[np.ndarray, "back unit"],
    *,
    regions: Sequence[str],
    units: Sequence[str],
    calibrated: int,
    count: int,
) -> tuple[tuple[str, str], ...]:
    """Return the cells to be patched exactly, best first.

    Components take turns, each with its next largest cell: the stream holds what every earlier component wrote, and
    would take all places. Cells that score exactly 0 aren't chosen, nor is a single token that is a whole part by
    itself.

    Args:
        screened: Mean score of each part and unit.
        back: Mean score of each of the last tokens, the last one first.
        regions: Names of the parts.
        units: Names of the units.
        calibrated: How many last tokens are exact already.
        count: How many cells.
    """
    mid = [k for k, region in enumerate(regions) if region != LAST]
    tail = [k for k in range(max(calibrated, 1), len(back)) if not any(np.allclose(back[k], screened[r]) for r in mid)]
    names = [*(regions[k] for k in mid), *(str(-k - 1) for k in tail)]
    sizes = np.abs(np.concatenate([screened[mid], back[tail]]))
    components = np.array([str(Site.parse(unit).component) for unit in units])
    queues: list[list[int]] = []
    for component in dict.fromkeys(components.tolist()):
        own = np.where(components == component, np.nan_to_num(sizes), 0.0)
        ranked = np.argsort(-own, axis=None, kind="stable")[:count]
        queues.append([int(i) for i in ranked if own.flat[int(i)] > 0])
    turns = [queue[turn] for turn in range(count) for queue in queues if turn < len(queue)]
    return tuple((names[index // len(units)], units[index % len(units)]) for index in turns[:count])
