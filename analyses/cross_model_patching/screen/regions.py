"""Parts of a prompt by which scores are added up: named spans, the template between them, and the last token.

A token belongs to its innermost span, and the last token, at which the verdict is read, to none but itself: parts
don't overlap, so that what their tokens score adds up to the whole prompt.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analyses.looping import Prompts
from workbench.errors import ParameterError
from workbench.tokens import TEMPLATE, TokenBatch, innermost_names

LAST = "last token"
"""The token the verdict is read at."""
BEFORE = "all but the last token"
"""Every token in front of it."""

BACK = tuple(str(-k) for k in range(1, 65))
"""Single tokens, counted from the end."""


class Columns(NamedTuple):
    """The tokens of one part, prompt by prompt."""

    columns: Int[Tensor, "prompt k"]
    """Columns of the padded batch, aligned from the right; a shorter part repeats its first."""
    n_tokens: Int[Tensor, " prompt"]
    """How many different ones; 0 where a prompt doesn't have the part."""


def regions_of(prompts: Prompts, spans: Sequence[str] | None) -> tuple[str, ...]:
    """Return the parts of a run's prompts, in the order they come in; the last token at the end.

    Args:
        prompts: The prompts.
        spans: Which named spans; None for all of them and the template.

    Raises:
        ParameterError: No prompt has one of the spans, or one is named twice.
    """
    starts: dict[str, list[float]] = {}
    for index in range(len(prompts.encoded)):
        names = prompts.encoded.span_names(index)
        for name in dict.fromkeys(names[:-1]):
            starts.setdefault(name, []).append(names.index(name) / len(names))
    known = sorted(starts, key=lambda name: fmean(starts[name]))
    if spans is None:
        return (*known, LAST)
    if not spans or set(spans) - set(known) or len(set(spans)) < len(spans):
        raise ParameterError(
            "no prompt has text in one of these spans, or one is named twice.",
            argument="spans",
            got=list(spans),
            allowed=known,
        )
    return (*spans, LAST)


def names_of(batch: TokenBatch) -> tuple[tuple[str, ...], ...]:
    """Return the part each column of each prompt lies in; padding has an empty name."""
    width = batch.ids.shape[1]
    tables = batch.spans or ({},) * len(batch)
    found = []
    for table, length in zip(tables, batch.lengths.tolist(), strict=True):
        names = innermost_names(table, length=width)
        found.append(("",) * (width - length) + names[width - length : -1] + (LAST,))
    return tuple(found)


def region_mask(batch: TokenBatch, region: str) -> Bool[Tensor, "prompt pos"]:
    """Return which columns lie in a part, in front of the last token, or at one from the end."""
    if region == BEFORE:
        before = batch.mask.clone()
        before[:, -1] = False
        return before
    if region in BACK:
        alone = torch.zeros_like(batch.mask)
        alone[:, int(region)] = True
        return alone
    chosen = [[name == region for name in names] for names in names_of(batch)]
    return torch.tensor(chosen, device=batch.device)


def region_columns(batch: TokenBatch, region: str) -> Columns:
    """Return the columns of a part; a prompt without it has its last column and a count of 0."""
    mask = region_mask(batch, region).cpu()
    count = mask.sum(-1)
    width, longest = mask.shape[1], max(int(count.max()), 1)
    columns = torch.full((len(batch), longest), width - 1)
    for row in range(len(batch)):
        own = mask[row].nonzero()[:, 0]
        if len(own):
            columns[row] = own[(torch.arange(longest) - longest + len(own)).clamp(min=0)]
    return Columns(columns, count)


def by_region(
    scores: Float[Tensor, "prompt pos unit"], batch: TokenBatch, regions: Sequence[str]
) -> Float[Tensor, "prompt region unit"]:
    """Return the sum of the tokens' scores over each part."""
    masks = torch.stack([region_mask(batch, region) for region in regions], dim=1).to(scores)
    return torch.einsum("prt,ptu->pru", masks, scores)


def region_title(name: str) -> str:
    """Return what a reader calls a part: ``answer_a`` is the answer in the first slot."""
    titles = {"answer_a": "first answer", "answer_b": "second answer", TEMPLATE: "template"}
    return titles.get(name, name.replace("_", " "))
