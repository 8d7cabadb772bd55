"""Which sites are named, and the random sets of sites they are held against."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from analyses.cells import family_p
from analyses.cross_model_patching.cells import Cell
from analyses.metrics import LEVEL
from workbench.hooks import Component

_STREAM = (Component.RESID_PRE, Component.RESID_MID, Component.RESID_POST)
_TRIES = 20
"""Draws of random sets for each wanted: those of few sites repeat."""
_HEADS_DO_IT = 0.8
"""A head that takes away so much of what its whole layer of attention does is named instead of it."""


def named_sites(
    cells: Sequence[Cell],
    removed: Float[np.ndarray, "item cell"],
    *,
    clusters: Sequence[str],
    count: int,
    seed: int,
) -> tuple[int, ...]:
    """Return the cells that take away most of the bias, the strongest first; none holds another.

    A cell has to pass a sign-flip test over items, corrected over the sweep. The residual stream holds everything
    below it and is never named.

    Args:
        cells: Of the sweep.
        removed: How much of the bias each takes away; NaN where it isn't known.
        clusters: What each item is independent by.
        count: How many at most.
        seed: Seed of the test.
    """
    known = np.asarray(~np.isnan(removed).all(1))
    if not known.any():
        return ()
    kept = removed[known]
    p = family_p(np.nan_to_num(kept), clusters=[c for c, k in zip(clusters, known, strict=True) if k], seed=seed)
    sums, counts = np.nansum(kept, axis=0), (~np.isnan(kept)).sum(0)
    means = np.divide(sums, counts, out=np.zeros(len(cells)), where=counts > 0)
    free = [
        i for i in np.argsort(-means, kind="stable") if means[i] > 0 and p[i] < LEVEL
        and cells[i].component not in _STREAM and not _finer(cells, means, int(i))
    ]  # fmt: skip
    found: list[int] = []
    for index in (int(i) for i in free):
        if len(found) < count and not any(_nested(cells[index], cells[other]) for other in found):
            found.append(index)
    return tuple(found)


def random_sets_of(cells: Sequence[Cell], own: Sequence[int], *, count: int, seed: int) -> list[tuple[int, ...]]:
    """Return different sets of as many other cells of the same components.

    A head is matched by another head of its layer in the same place, a whole component by that of another layer (a
    layer has one) in the same place: what stands elsewhere may not reach the verdict at all. Where there are too few
    such sets, other layers and places stand in.

    Args:
        cells: Of the sweep.
        own: The set to match.
        count: How many sets.
        seed: Seed of the choice.
    """
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    for close in (True, False):
        for _ in range(_TRIES * count):
            if len(found) < count and (drawn := _matched(cells, own, rng, close=close)):
                found.setdefault(drawn)
    return list(found)


def _matched(cells: Sequence[Cell], own: Sequence[int], rng: np.random.Generator, *, close: bool) -> tuple[int, ...]:
    taken, found = set(own), []
    for like in (cells[i] for i in own):
        free = [i for i, cell in enumerate(cells) if i not in taken and cell.component == like.component]
        level = [i for i in free if (cells[i].position, cells[i].span) == (like.position, like.span)]
        near = [i for i in level if cells[i].layer == like.layer]
        pool = (near or level or free) if close else free
        if not pool:
            return ()
        found.append(int(rng.choice(pool)))
        taken.add(found[-1])
    return tuple(sorted(found))


def _finer(cells: Sequence[Cell], means: np.ndarray, index: int) -> bool:
    own = cells[index]
    if own.component is not Component.ATTN_OUT:
        return False
    heads = [i for i, cell in enumerate(cells) if cell.head is not None and _nested(own, cell)]
    return max((float(means[i]) for i in heads), default=0.0) >= _HEADS_DO_IT * float(means[index])


def _nested(one: Cell, other: Cell) -> bool:
    """Return whether an attention output and something of the same attention lie in the same place."""
    if one.layer != other.layer or (one.position, one.span) != (other.position, other.span):
        return False
    parts = [cell.component.per_head for cell in (one, other)]
    whole = [cell.component is Component.ATTN_OUT for cell in (one, other)]
    return (parts[0] and whole[1]) or (parts[1] and whole[0])
