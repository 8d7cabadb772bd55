"""Random rows, and what full forwards with plain edits say of them; for the tests of the suffix engine."""

import torch
from torch import Tensor

from workbench.hooks import Anatomy, Component, Custom, HooksBackend, Site
from workbench.hooks.suffix import Row, Write
from workbench.tokens import TokenBatch


def drawn_rows(anatomy: Anatomy, batch: TokenBatch, *, count: int, reach: int, seed: int) -> list[Row]:
    """Return random rows of one to three writes each within the last columns."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Row(tuple(_write(anatomy, batch, reach, generator) for _ in range(_below(3, generator) + 1)))
        for _ in range(count)
    ]


def naive(executor: HooksBackend, batch: TokenBatch, row: Row, *, capture=(), grad: bool = False):
    """Run all tokens with one edit per write and column, in the order written."""
    edits = [edit for write in row.writes for edit in _edits(write)]
    last = torch.full((len(batch), 1), batch.ids.shape[1] - 1)
    return executor.run(batch, edits=edits, capture=list(capture), positions=last, check_edits=False, grad=grad)


def _below(stop: int, generator: torch.Generator) -> int:
    return int(torch.randint(stop, (1,), generator=generator))


def _write(anatomy: Anatomy, batch: TokenBatch, reach: int, generator: torch.Generator) -> Write:
    sites = [s for s in anatomy.sites() if anatomy.additive or s.component is not Component.RESID_MID]
    site = sites[_below(len(sites), generator)]
    if site.component.per_head and _below(4, generator):
        site = Site(site.component, site.layer, _below(anatomy.heads(site.component), generator))
    width, k = batch.ids.shape[1], _below(4, generator) + 1
    rows = []
    for length in batch.lengths.tolist():
        near = min(reach, length)
        rows.append(width - near + torch.randperm(near, generator=generator)[:k])
    k = min(len(row) for row in rows)
    columns = torch.stack([row[:k] for row in rows])
    values = torch.randn(len(batch), k, *anatomy.feature(site), generator=generator)
    kind = _below(5, generator)
    if kind == 0 and k > 1:  # a column named twice, with one value
        columns[:, -1], values[:, -1] = columns[:, 0], values[:, 0]
    weight = torch.rand(len(batch), k, *[1] * (values.ndim - 2), generator=generator) if kind == 1 else None
    return Write(site, columns, values, weight, kind == 2)


def _edits(write: Write) -> list[Custom]:
    found, seen = [], torch.zeros(write.columns.shape[0], 0, dtype=torch.long)
    for k in range(write.columns.shape[1]):
        column = write.columns[:, k : k + 1]
        again = (seen == column).any(1)
        seen = torch.cat([seen, column], dim=1)
        found.append(Custom(write.site, _change(write, k, again), label="naive", positions=column))
    return found


def _change(write: Write, k: int, again: Tensor):
    def change(old: Tensor) -> Tensor:
        values = write.values[:, k : k + 1].to(old)
        weight = torch.ones(()) if write.weight is None else write.weight.expand_as(write.values)[:, k : k + 1]
        new = old + weight.to(old) * values if write.add else old + weight.to(old) * (values - old)
        new = values if write.weight is None and not write.add else new
        return torch.where(again.view(-1, *[1] * (old.ndim - 1)), old, new)

    return change
