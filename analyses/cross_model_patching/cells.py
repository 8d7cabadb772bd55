"""What a sweep patches: a component of a block, all of it or one head, at one position or over a named span."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.errors import ParameterError
from workbench.hooks import Anatomy, Component, Site
from workbench.tokens import TokenBatch

COMPONENTS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v")
"""What can be patched; q, k, v and z head by head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One entry of a sweep; exactly one of ``position`` and ``span`` is set."""

    component: Component
    """What is patched."""
    layer: int
    """Block, from 0."""
    head: int | None = None
    """Head of q, k, v, z; None is the whole component."""
    position: int | None = None
    """Token counted from the end of the prompt; -1 is the one the verdict is read at."""
    span: str | None = None
    """Named part of the prompt, all of its tokens."""

    @property
    def site(self) -> Site:
        """Return where in the model."""
        return Site(self.component, self.layer, self.head)

    def __str__(self) -> str:
        """Return e.g. ``z.2.h1 @ -1`` or ``attn_out.3 @ reference``."""
        return f"{self.site} @ {self.position if self.span is None else self.span}"


def grid(
    anatomy: Anatomy,
    *,
    sites: Sequence[str],
    last_k: int = 1,
    last_k_heads: int = 1,
    spans: Sequence[str] = (),
    layers: Iterable[int] | None = None,
) -> tuple[Cell, ...]:
    """Return the cells of a sweep, ordered by component, layer, head and position.

    Args:
        anatomy: What the model has.
        sites: Components; ``z``, ``q``, ``k``, ``v`` give one cell per head (key-value head for k and v).
        last_k: Positions from the end for whole components.
        last_k_heads: Positions from the end for heads.
        spans: Named spans, beside the positions.
        layers: Which blocks; all of them by default.

    Raises:
        ParameterError: A component is unknown or doesn't exist here, or nothing is left.
    """
    unknown = [name for name in sites if name not in COMPONENTS]
    if unknown or not sites or len(set(sites)) < len(sites):
        raise ParameterError("unknown or repeated components.", argument="sites", got=list(sites), allowed=COMPONENTS)
    depths = range(anatomy.n_layers) if layers is None else sorted(set(layers))
    cells: list[Cell] = []
    for component in (Component(name) for name in sites):
        places: list[dict[str, Any]] = [{"span": span} for span in spans]
        count = last_k_heads if component.per_head else last_k
        places += [{"position": -k} for k in range(count, 0, -1)]
        for layer in depths:
            anatomy.check(Site(component, layer))
            heads = range(anatomy.heads(component)) if component.per_head else (None,)
            cells += [Cell(component=component, layer=layer, head=h, **place) for h in heads for place in places]
    if not cells:
        raise ParameterError(
            "there is nothing to patch.", argument="last_k", got=(last_k, last_k_heads), allowed="positions or spans"
        )
    return tuple(cells)


def cell_columns(cell: Cell, batch: TokenBatch) -> tuple[Int[Tensor, "prompt k"], Bool[Tensor, " prompt"]]:
    """Return a cell's columns in a padded batch, and which prompts have it.

    A span of fewer tokens than the longest repeats its last column; a prompt without it has the last column, and
    False.

    Raises:
        ParameterError: No prompt of the batch has the span.
    """
    width = batch.ids.shape[1]
    present = torch.ones(len(batch), dtype=torch.bool)
    if cell.span is None:
        position = -1 if cell.position is None else cell.position
        return torch.full((len(batch), 1), width + position), present
    spans = [table.get(cell.span) for table in batch.spans] or [None]
    longest = max((span.stop - span.start for span in spans if span is not None), default=0)
    if longest == 0:
        known = sorted({name for table in batch.spans for name in table})
        raise ParameterError("no prompt has this span.", argument="spans", got=cell.span, allowed=known)
    columns = torch.full((len(batch), longest), width - 1)
    for row, span in enumerate(spans):
        present[row] = span is not None
        if span is not None:
            columns[row] = torch.arange(span.start, span.start + longest).clamp(max=span.stop - 1)
    return columns, present


def tokens_needed(cells: Iterable[Cell], batch: TokenBatch) -> int:
    """Return how many last columns of a batch the cells reach back to."""
    width, spans = batch.ids.shape[1], {cell.span for cell in cells if cell.span is not None}
    reach = max((-cell.position for cell in cells if cell.position is not None), default=1)
    starts = [table[name].start for table in batch.spans for name in spans if name in table]
    return max([reach, *(width - start for start in starts)])


def sites_of(cells: Iterable[Cell]) -> tuple[Site, ...]:
    """Return the whole components the cells lie in: what has to be captured."""
    return tuple(dict.fromkeys(cell.site.whole for cell in cells))


def matched(chosen: Sequence[Cell], candidates: Sequence[Cell], *, seed: Sequence[int]) -> tuple[Cell, ...]:
    """Return as many random cells of the same kinds and positions: heads of the same blocks, whole components of any.

    A block has one MLP only, so that one matched on its block would always be itself.

    Args:
        chosen: What is matched.
        candidates: What there is to draw from, ``chosen`` among them.
        seed: Seed of the draw.
    """

    def stratum(cell: Cell) -> tuple[object, ...]:
        return cell.component, cell.position, cell.span, None if cell.head is None else cell.layer

    pools: dict[tuple[object, ...], list[Cell]] = {}
    for cell in candidates:
        pools.setdefault(stratum(cell), []).append(cell)
    wanted = Counter(stratum(cell) for cell in chosen)
    rng = np.random.default_rng(list(seed))
    drawn = {key: rng.permutation(len(pools[key]))[:count] for key, count in sorted(wanted.items(), key=str)}
    return tuple(pools[key][int(i)] for key, indices in drawn.items() for i in indices)
