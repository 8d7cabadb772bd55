"""Thousands of writes as a few indexed ones: those of one kind at one point lie side by side."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.hooks.sites import Site
from workbench.hooks.suffix.rows import Row, Write


class Piece(NamedTuple):
    """Writes at one point that don't meet: they are of different rows, or of different heads of one."""

    rows: Int[Tensor, " n"]
    """Row of each column."""
    columns: Int[Tensor, "prompt n"]
    """Columns of the padded batch."""
    heads: Int[Tensor, " n"] | None
    """Head of each; None writes whole components."""
    values: Float[Tensor, "prompt n *feature"]
    """What is written."""
    weight: Float[Tensor, "prompt n *feature"] | None
    """Share of the new value; None replaces."""
    add: bool
    """Whether values are added."""

    def blend(self, old: Tensor) -> Tensor:
        """Return what stands there afterwards; see :meth:`Write.blend`."""
        return Write.blend(self, old)  # type: ignore[arg-type]


class _Kind(NamedTuple):
    point: Site
    turn: int
    whole: bool
    weighted: bool
    add: bool


def pieces_of(rows: Iterable[tuple[int, Row]]) -> dict[Site, list[Piece]]:
    """Return by point what is written there, in the order the writes of a row follow each other.

    Args:
        rows: Checked rows with their indices.
    """
    gathered: dict[_Kind, list[tuple[int, Write]]] = {}
    for index, row in rows:
        for kind, write in _turns(row):
            gathered.setdefault(kind, []).append((index, write))
    found: dict[Site, list[Piece]] = {}
    for kind in sorted(gathered, key=lambda kind: kind.turn):
        found.setdefault(kind.point, []).append(_piece(kind, gathered[kind]))
    return found


def _turns(row: Row) -> Iterable[tuple[_Kind, Write]]:
    """Yield a row's writes with their turn at their point: later ones that touch the same heads come later."""
    reached: dict[Site, tuple[int, frozenset[int | None]]] = {}
    for write in row.writes:
        point, head = whole_site(write.site), write.site.head
        turn, taken = reached.get(point, (0, frozenset()))
        if taken and (head is None or None in taken or head in taken):
            turn, taken = turn + 1, frozenset()
        reached[point] = turn, taken | {head}
        yield _Kind(point, turn, head is None, write.weight is not None, write.add), write


def _piece(kind: _Kind, entries: Sequence[tuple[int, Write]]) -> Piece:
    device = entries[0][1].values.device
    counts = torch.tensor([write.columns.shape[1] for _, write in entries])
    heads = None if kind.whole else torch.tensor([write.site.head for _, write in entries]).repeat_interleave(counts)
    return Piece(
        rows=torch.tensor([index for index, _ in entries]).repeat_interleave(counts),
        columns=torch.cat([write.columns for _, write in entries], dim=1),
        heads=heads,
        values=torch.cat([write.values.to(device) for _, write in entries], dim=1),
        weight=torch.cat([write.weight.to(device) for _, write in entries if write.weight is not None], dim=1)
        if kind.weighted
        else None,
        add=kind.add,
    )


@functools.lru_cache(maxsize=65536)
def whole_site(site: Site) -> Site:
    """Return :attr:`Site.whole`; a sweep asks for it thousands of times."""
    return site.whole


def unmoved(
    rows: Sequence[Row], clean: Mapping[Site, Tensor], *, prompts: int, first: int
) -> Bool[Tensor, "prompt row"]:
    """Return where a row writes, bit for bit, what is there already; nowhere where that isn't known.

    Args:
        rows: Checked rows, no earlier than the kept columns.
        clean: Activations at the kept columns.
        prompts: How many.
        first: First kept column.
    """
    moved = torch.zeros(prompts, len(rows), dtype=torch.long)
    for point, pieces in pieces_of(enumerate(rows)).items():
        for piece in pieces:
            change = _moved(piece, _there(point, piece, clean, first=first)).long().cpu()
            moved.index_add_(1, piece.rows, change)
    return moved == 0


def _there(point: Site, piece: Piece, clean: Mapping[Site, Tensor], *, first: int) -> Tensor | None:
    if point not in clean:
        return None
    kept = clean[point]
    at = (piece.columns - first).to(kept.device)
    prompts = torch.arange(len(kept), device=kept.device)[:, None]
    return kept[prompts, at] if piece.heads is None else kept[prompts, at, piece.heads.to(kept.device)[None]]


def _moved(piece: Piece, there: Tensor | None) -> Bool[Tensor, "prompt n"]:
    values = piece.values.detach()
    if piece.add:
        return (values != 0).flatten(2).any(-1)
    if there is None:
        return torch.ones(piece.columns.shape, dtype=torch.bool)
    return (there != values.to(there)).flatten(2).any(-1)
