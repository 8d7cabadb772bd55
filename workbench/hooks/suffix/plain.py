"""One full forward per row, with plain hooks: the way for models that can't share, and the judge of the other one."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.hooks.edits import Custom, Edit
from workbench.hooks.sites import Site
from workbench.hooks.suffix.prefill import last_columns
from workbench.hooks.suffix.rows import Row, Write
from workbench.hooks.torch_backend import HooksBackend
from workbench.tokens import TokenBatch


class PlainAnswer(NamedTuple):
    """What one full forward gave."""

    logits: Float[Tensor, "prompt vocab"]
    """Logits of the last column."""
    read: Mapping[Site, Float[Tensor, "prompt *feature"]]
    """Sites at the last column."""


def forward_plain(
    executor: HooksBackend, batch: TokenBatch, row: Row | None, *, read: Sequence[Site] = (), grad: bool = False
) -> PlainAnswer:
    """Run whole prompts with one row's writes; without any for None.

    Args:
        executor: Whose model runs.
        batch: The prompts.
        row: What is written.
        read: Sites to read at the last column.
        grad: Whether gradients flow through the writes.
    """
    run = executor.run(
        batch,
        edits=[edit for write in (() if row is None else row.writes) for edit in _of_write(write)],
        capture=list(read),
        positions=last_columns(batch, 1),
        check_edits=False,
        grad=grad,
    )
    return PlainAnswer(cast(Tensor, run.logits), {site: run.activations[site][:, 0] for site in read})


def _of_write(write: Write) -> list[Edit]:
    """Return one edit per column: edits refuse a column that is named twice, writes may repeat one."""
    width = write.columns.shape[1]
    if all(len(set(row)) == width for row in write.columns.tolist()):
        return [Custom(write.site, write.blend, label="write", positions=write.columns)]
    found: list[Edit] = []
    for k in range(width):
        repeated = (write.columns[:, :k] == write.columns[:, k : k + 1]).any(1)
        one = write._replace(
            columns=write.columns[:, k : k + 1],
            values=write.values[:, k : k + 1],
            weight=None if write.weight is None else write.weight.expand_as(write.values)[:, k : k + 1],
        )
        found.append(Custom(write.site, _first_time(one, repeated), label="write", positions=one.columns))
    return found


def _first_time(write: Write, repeated: Tensor) -> Callable[[Tensor], Tensor]:
    def blend(old: Tensor) -> Tensor:
        shape = (-1, *([1] * (old.ndim - 1)))
        return torch.where(repeated.to(old.device).view(shape), old, write.blend(old))

    return blend
