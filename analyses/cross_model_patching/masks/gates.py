"""One gate per cell: how far a head or MLP holds the donor's value, differentiable, in one row per prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.cross_model_patching.cells import Cell
from analyses.metrics import Chance, Interval
from workbench.hooks import Site
from workbench.hooks.suffix import Row, Suffix, Write

HALF = 0.5
"""A gate from here on up holds the donor's value in the rounded mask."""


class Chosen(NamedTuple):
    """The smallest mask that is good enough on the training half."""

    price: int
    """Index of its lambda."""
    size: int
    """How many cells it holds."""
    recovery: Interval
    """On the held-out half."""
    chance: Chance
    """What random masks of its size, matched on kind and block, recover."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gates:
    """Cells at the last positions, and where the gate of each lies in the writes of a row."""

    cells: tuple[Cell, ...]
    """In the order gates come in."""
    last_k: int
    """Positions from the end that every component is gated at."""
    index: Mapping[Site, Int[Tensor, "k *head"]]
    """By whole component: which gate each of its positions (and heads) has."""

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> "Gates":
        """Lay out the gates of a full grid of cells.

        Args:
            cells: Every head and position of their components, none twice.
        """
        last_k = max(-(cell.position or -1) for cell in cells)
        number = {cell: i for i, cell in enumerate(cells)}
        index: dict[Site, Tensor] = {}
        for site in dict.fromkeys(cell.site.whole for cell in cells):
            own = [cell for cell in cells if cell.site.whole == site]
            heads = sorted({cell.head for cell in own if cell.head is not None})
            places = [[cell for cell in own if cell.position == -k] for k in range(last_k, 0, -1)]
            rows = [[number[cell] for cell in sorted(place, key=lambda c: c.head or 0)] for place in places]
            index[site] = torch.tensor(rows) if heads else torch.tensor(rows)[:, 0]
        return cls(cells=tuple(cells), last_k=last_k, index=index)

    def donor(self, suffix: Suffix) -> dict[Site, Tensor]:
        """Return what a model holds at the gated cells, ``[prompt k *feature]`` by whole component."""
        return {site: suffix.clean(site, suffix.columns(self.last_k)) for site in self.index}

    def row(self, gates: Float[Tensor, " cell"], target: Suffix, values: Mapping[Site, Tensor]) -> Row:
        """Return the row in which each cell holds ``gate * donor + (1 - gate) * own``.

        "Own" is what the row itself holds there, behind all gates of earlier blocks.

        Args:
            gates: One number per cell.
            target: Who is patched.
            values: What the donor holds; see :meth:`donor`.
        """
        columns = target.columns(self.last_k)
        writes = []
        for site, index in self.index.items():
            weight = gates[index.to(gates.device)][None, ..., None]
            writes.append(Write(site, columns, values[site], weight))
        return Row(tuple(writes))
