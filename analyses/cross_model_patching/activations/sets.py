"""Sets of sites: the strongest ones, and random ones matched on layer that they are held against."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from analyses.cross_model_patching.cells import Cell, matched
from workbench.hooks import Component

_WHOLE_WRITES = (Component.ATTN_OUT, Component.MLP_OUT)


def candidates(cells: Sequence[Cell]) -> tuple[int, ...]:
    """Return the cells a set may be made of: writes of one component that don't hold each other.

    Heads where they were swept (their attention output holds them), attention outputs elsewhere, and MLPs. The
    residual stream holds everything below it and is never part of a set.
    """
    heads = any(cell.component is Component.Z for cell in cells)
    wanted = (Component.Z, Component.MLP_OUT) if heads else _WHOLE_WRITES
    return tuple(i for i, cell in enumerate(cells) if cell.component in wanted)


def chosen_set(cells: Sequence[Cell], toward: Float[np.ndarray, "item cell"], *, count: int) -> tuple[int, ...]:
    """Return the cells whose mean effect is largest in size, ascending by index.

    Args:
        cells: Of the sweep.
        toward: Effects on the items the set is named on, toward the label; NaN items are left out.
        count: Size of the set.
    """
    known = [i for i in candidates(cells) if not np.isnan(toward[:, i]).all()]
    means = {i: abs(float(np.nanmean(toward[:, i]))) for i in known}
    # A set of sites that do nothing would be named by chance.
    ranked = sorted((i for i in known if means[i] > 0), key=lambda i: -means[i])
    return tuple(sorted(ranked[:count]))


def matched_set(cells: Sequence[Cell], own: Sequence[int], *, seed: Sequence[int]) -> tuple[int, ...]:
    """Return as many other candidates, of the same kinds and positions, heads of the same blocks; see :func:`matched`.

    Where a block has too few other heads, any other candidates stand in, so that sets are of one size.

    Args:
        cells: Of the sweep.
        own: The set to match.
        seed: Seed of the choice.
    """
    index = {cell: i for i, cell in enumerate(cells)}
    others = [i for i in candidates(cells) if i not in set(own)]
    found = [index[cell] for cell in matched([cells[i] for i in own], [cells[i] for i in others], seed=seed)]
    spare = [i for i in others if i not in set(found)]
    more = np.random.default_rng([*seed, 1]).permutation(len(spare))[: len(own) - len(found)]
    return tuple(sorted([*found, *(spare[int(k)] for k in more)]))
