"""What a suffix run computes: rows of edited tokens, and how they lie side by side in one forward.

A row is a copy of a prompt's last tokens with something written into it. Its *birth* is the lowest block it
differs in, its *start* the first column it differs at; nothing below or before can change, so that is all
there is to compute. Rows are laid out by birth: the rows alive in a block are always the first ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import EditError, ParameterError
from workbench.hooks.anatomy import Anatomy
from workbench.hooks.program import columns_of
from workbench.hooks.sites import Component, Site
from workbench.tokens import TokenBatch


class Write(NamedTuple):
    """What one row puts at one site: ``new = values``, ``old + weight * (values - old)``, or ``old + values``."""

    site: Site
    """Where; a head of q, k, v or z, or a whole component."""
    columns: Int[Tensor, "prompt k"]
    """Columns of the padded batch, each prompt its own; one may be repeated if its values are too."""
    values: Float[Tensor, "prompt k *feature"]
    """What is written: [prompt k d_model], [.. d_head] for one head, [.. head d_head] for all heads of a component."""
    weight: Float[Tensor, "*weight"] | None = None
    """Share of the new value, broadcast to ``values``; None replaces all of the old one, bit for bit."""
    add: bool = False
    """Whether ``values`` are added to what is there."""

    def blend(self, old: Tensor) -> Tensor:
        """Return what stands at the site afterwards, differentiable in ``values`` and ``weight``."""
        values = self.values.to(old)
        if self.add:
            return old + (values if self.weight is None else self.weight.to(old) * values)
        return values if self.weight is None else old + self.weight.to(old) * (values - old)


class Row(NamedTuple):
    """One intervention: everything that is written into one copy of the last tokens of every prompt."""

    writes: tuple[Write, ...]
    """In the order they are made: several at one site follow each other."""


class Place(NamedTuple):
    """Where a row begins."""

    birth: int
    """First block that computes it."""
    start: int
    """First column of the padded batch that it holds, the same for all prompts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Rows side by side in one forward, sorted by birth."""

    order: tuple[int, ...]
    """Index of each row among those that came in; -1 for a null row."""
    places: tuple[Place, ...]
    """Birth and start, in layout order."""
    offsets: tuple[int, ...]
    """First flat token of each row."""
    columns: Int[Tensor, " token"]
    """Column of the padded batch of each flat token."""
    owner: Int[Tensor, " token"]
    """Row of each flat token, in layout order."""
    alive: tuple[int, ...]
    """How many flat tokens have been born up to each block."""
    last: Int[Tensor, " row"]
    """Last flat token of each row, in layout order."""

    @classmethod
    def of(cls, places: Sequence[Place], chosen: Sequence[int], *, width: int, n_layers: int) -> "Layout":
        """Lay out rows and one null row per birth block, which begins where the shortest row of its block does.

        The null row is the last of its block, farthest from the prompts: what goes wrong with distance shows in it.

        Args:
            places: Of all rows.
            chosen: Which of them.
            width: Columns of the batch.
            n_layers: Blocks of the model.
        """
        births = sorted({places[i].birth for i in chosen})
        nulls = {birth: max(places[i].start for i in chosen if places[i].birth == birth) for birth in births}
        entries = [(places[i], i) for i in chosen] + [(Place(birth, start), -1) for birth, start in nulls.items()]
        entries.sort(key=lambda entry: (entry[0].birth, entry[1] < 0, entry[1]))
        starts = torch.tensor([place.start for place, _ in entries])
        lengths = width - starts
        ends = lengths.cumsum(0)
        born = torch.zeros(n_layers, dtype=torch.long)
        born.index_add_(0, torch.tensor([place.birth for place, _ in entries]), lengths)
        owner = torch.repeat_interleave(torch.arange(len(entries)), lengths)
        return cls(
            order=tuple(index for _, index in entries),
            places=tuple(place for place, _ in entries),
            offsets=tuple((ends - lengths).tolist()),
            columns=starts[owner] + torch.arange(len(owner)) - (ends - lengths)[owner],
            owner=owner,
            alive=tuple(born.cumsum(0).tolist()),
            last=ends - 1,
        )

    def born(self, layer: int) -> slice:
        """Return the flat tokens that enter the model at a block."""
        return slice(self.alive[layer - 1] if layer else 0, self.alive[layer])

    def __len__(self) -> int:
        """Return the number of flat tokens."""
        return len(self.columns)


def checked_rows(
    anatomy: Anatomy, batch: TokenBatch, rows: Iterable[Row], *, first: int = 0, distinct: bool = False
) -> tuple[Row, ...]:
    """Return rows with validated, non-negative columns; the stream behind a block is written in front of the next.

    Args:
        anatomy: What the model has.
        batch: The prompts.
        rows: What is to be written.
        first: First column that may be written.
        distinct: Whether a column named twice in a write is refused.

    Raises:
        UnknownSite: A site doesn't exist in this model.
        EditError: A row writes nothing, values or weights don't fit their site, or resid_mid can't be written here.
        ParameterError: There are no rows, or columns are outside the prompts or before ``first``.
    """
    check = _Check(anatomy, batch, first=first, distinct=distinct)
    ready = tuple(Row(tuple(check.write(write) for write in _some(row).writes)) for row in rows)
    if not ready:
        raise ParameterError("there is nothing to run.", argument="rows", got="no row", allowed="at least one Row")
    return ready


def _some(row: Row) -> Row:
    if not row.writes:
        raise EditError("a row needs something to write.", argument="rows", got="a row without writes")
    return row


class _Check:
    """Rows of a sweep share sites and columns: each is looked at once."""

    def __init__(self, anatomy: Anatomy, batch: TokenBatch, *, first: int, distinct: bool) -> None:
        self.anatomy, self.batch, self.first, self.distinct = anatomy, batch, first, distinct
        self._columns: dict[int, tuple[Tensor, Tensor]] = {}
        self._sites: dict[Site, tuple[Site, tuple[int, ...]]] = {}

    def write(self, write: Write) -> Write:
        """Return one write, ready to be made."""
        columns = self._checked_columns(write.columns)
        if write.site not in self._sites:
            self._sites[write.site] = self._checked_site(write.site)
        site, feature = self._sites[write.site]
        expected = (*columns.shape, *feature)
        if tuple(write.values.shape) != expected or not write.values.is_floating_point():
            raise EditError(
                f"these values don't fit {write.site}.",
                argument="values",
                got=f"{write.values.dtype} of shape {tuple(write.values.shape)}",
                allowed=f"floating point of shape {expected}",
            )
        weight = None if write.weight is None else _spread(write.weight, write.values)
        return Write(site, columns, write.values, weight, write.add)

    def _checked_columns(self, given: Tensor) -> Tensor:
        if id(given) not in self._columns:
            columns = columns_of(given, self.batch, distinct=self.distinct).cpu()
            if columns.shape[1] == 0:
                raise EditError("a write needs a column.", argument="columns", got=f"shape {tuple(given.shape)}")
            if int(columns.min()) < self.first:
                width = self.batch.ids.shape[1]
                raise ParameterError(
                    "a row writes before the kept columns.",
                    argument="rows",
                    got=f"column {int(columns.min())}",
                    allowed=f"{self.first} to {width - 1}",
                    fix=f"Make the Suffix with tokens={width - int(columns.min())} or more.",
                )
            # The tensor itself is kept too: an id is only one's own while one lives.
            self._columns[id(given)] = given, columns
        return self._columns[id(given)][1]

    def _checked_site(self, site: Site) -> tuple[Site, tuple[int, ...]]:
        self.anatomy.check(site)
        feature = self.anatomy.feature(site)
        if site.component is Component.RESID_MID and not self.anatomy.additive:
            raise EditError(
                "resid_mid can be read but not written here: this model doesn't form resid_post as "
                "resid_mid + mlp_out.",
                argument="rows",
                got=str(site),
                fix="Write attn_out, mlp_out or resid_pre instead.",
            )
        if site.component is Component.RESID_POST and site.layer + 1 < self.anatomy.n_layers:
            following = Site(Component.RESID_PRE, site.layer + 1)
            site = following if following in self.anatomy.ports else site
        return site, feature


def _spread(weight: Tensor, values: Tensor) -> Tensor:
    try:
        return weight.expand_as(values)
    except RuntimeError as err:
        raise EditError(
            "these weights don't fit their values.",
            argument="weight",
            got=f"shape {tuple(weight.shape)}",
            allowed=f"a shape that broadcasts to {tuple(values.shape)}",
        ) from err


def places_of(rows: Iterable[Row]) -> list[Place]:
    """Return where checked rows begin."""
    starts: dict[int, int] = {}

    def start(columns: Tensor) -> int:
        if id(columns) not in starts:
            starts[id(columns)] = int(columns.min())
        return starts[id(columns)]

    return [Place(min(w.site.layer for w in row.writes), min(start(w.columns) for w in row.writes)) for row in rows]


def chunks(places: Sequence[Place], chosen: Sequence[int], *, width: int, most: int) -> list[list[int]]:
    """Return rows in runs of at most ``most`` tokens, those of one block next to each other; a long row runs alone.

    Args:
        places: Of all rows.
        chosen: Which of them run.
        width: Columns of the batch.
        most: Tokens of one prompt in one forward.
    """
    found: list[list[int]] = []
    tokens, births = 0, set[int]()
    for index in sorted(chosen, key=lambda i: (places[i].birth, -places[i].start, i)):
        place = places[index]
        size = width - place.start
        # A new block brings its null row, which is no longer than this one.
        extra = size if place.birth in births else 2 * size
        if not found or tokens + extra > most:
            found.append([])
            tokens, births, extra = 0, set(), 2 * size
        found[-1].append(index)
        tokens += extra
        births.add(place.birth)
    return found
