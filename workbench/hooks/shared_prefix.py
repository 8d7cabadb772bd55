"""Run what several rows have in common once: both answer orders of an item begin with the same prompt.

The common columns of every group of rows go through the model once and leave their keys and values
in a cache; the rest of all rows follows with that cache repeated. Numbers are those of a plain run
up to rounding, since a token depends on nothing after it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from workbench.errors import ParameterError
from workbench.hooks.observe import at_input, forward_accepts
from workbench.hooks.rope import moving_rope
from workbench.hooks.sites import Site
from workbench.hooks.torch_backend import HooksBackend
from workbench.tokens import TokenBatch

LEAST_SHARED = 8
"""Fewer common columns than this are not worth a second forward."""


def shared_prefix_run(
    executor: HooksBackend, batch: TokenBatch, *, group: int, capture: Sequence[Site]
) -> dict[Site, Float[Tensor, "prompt pos *feature"]]:
    """Capture sites at all positions, computing the columns that rows of a group share only once.

    Args:
        executor: Whose model runs.
        batch: Left-padded prompts, those of a group next to each other.
        group: Rows per group.
        capture: Sites to read.

    Returns:
        What a plain run would capture; a plain run where nothing can be shared.

    Raises:
        ParameterError: The batch isn't made of whole groups.
    """
    if group < 1 or len(batch) % group:
        raise ParameterError(
            "the rows of a batch must be whole groups.", argument="group", got=f"{len(batch)} rows, groups of {group}"
        )
    batch = at_input(executor.module, batch)
    columns = shared_columns(batch, group=group)
    takes_cache = all(forward_accepts(executor.module, name) for name in ("past_key_values", "position_ids"))
    if columns == 0 or not takes_cache or moving_rope(executor.module) is not None:
        return dict(executor.run(batch, capture=capture, logits="none").activations)
    cache = DynamicCache(config=executor.module.config)  # type: ignore[arg-type]
    head = TokenBatch(
        ids=batch.ids[::group, :columns], mask=batch.mask[::group, :columns], prompt_ids=batch.prompt_ids[::group]
    )
    early = executor.run_cached(
        head, capture=capture, forward=_inputs(batch, slice(0, columns), group, cache)
    ).activations
    cache.batch_repeat_interleave(group)
    rest = TokenBatch(ids=batch.ids[:, columns:], mask=batch.mask[:, columns:], prompt_ids=batch.prompt_ids)
    late = executor.run_cached(
        rest, capture=capture, forward=_inputs(batch, slice(columns, None), 1, cache)
    ).activations
    return {site: torch.cat([early[site].repeat_interleave(group, 0), late[site]], dim=1) for site in capture}


def shared_columns(batch: TokenBatch, *, group: int) -> int:
    """Return how many leading columns are the same in all rows of every group; 0 where that saves nothing.

    Every row must have begun before the cut (no row is all padding) and have tokens after it.
    """
    if group == 1:
        return 0
    ids, mask = (x.unflatten(0, (-1, group)) for x in (batch.ids, batch.mask))
    same = ((ids == ids[:, :1]) & (mask == mask[:, :1])).all(1).all(0)
    columns = int(same.long().cumprod(0).sum())
    columns = min(columns, batch.ids.shape[1] - 1)
    padding = int((~batch.mask).sum(-1).max())
    return columns if columns >= padding + LEAST_SHARED else 0


def _inputs(batch: TokenBatch, columns: slice, step: int, cache: DynamicCache) -> dict[str, Any]:
    return {
        "attention_mask": batch.mask[::step, : columns.stop].long(),
        "position_ids": batch.position_ids[::step, columns],
        "past_key_values": cache,
        "use_cache": True,
    }
