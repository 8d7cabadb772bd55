"""Means over the tokens of each region, prompt by prompt: what a token map keeps of most items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from analyses.tuco.shares import share
from analyses.tuco.tokens.completions import CompletedRows
from analyses.tuco.tokens.double_pass import TokenShares


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptTokens:
    """One prompt's measured tokens and where they lie."""

    regions: tuple[str, ...]
    """Region of every token of the row, measured or not."""
    measured: Bool[np.ndarray, " pos"]
    """Which of them were measured."""
    values: TokenShares
    """Of the measured tokens, left to right."""


def measured_share(
    finetuned: Float[np.ndarray, "*lead"], pretrained: Float[np.ndarray, "*lead"]
) -> Float[np.ndarray, "*lead"]:
    """Return |F| / (|P| + |F|), 0 where both are 0 and NaN where they were not measured."""
    return np.where(np.isnan(finetuned), np.nan, share(np.nan_to_num(finetuned), np.nan_to_num(pretrained)))


def by_prompt(
    rows: CompletedRows, indices: Sequence[int], *, chosen: Sequence[np.ndarray], values: TokenShares
) -> list[PromptTokens]:
    """Cut a batch's tokens into prompts.

    Args:
        rows: All rows.
        indices: Rows of the batch, in its order.
        chosen: Which tokens of each row were measured.
        values: Of the whole batch.
    """
    stops = np.cumsum([int(mask.sum()) for mask in chosen])
    found = []
    for index, mask, stop in zip(indices, chosen, stops, strict=True):
        piece = slice(int(stop) - int(mask.sum()), int(stop))
        own = TokenShares(
            alignment=values.alignment[piece],
            finetuned_parts=values.finetuned_parts[piece],
            pretrained_parts=values.pretrained_parts[piece],
            finetuned_depth=values.finetuned_depth[piece],
            pretrained_depth=values.pretrained_depth[piece],
        )
        found.append(PromptTokens(regions=rows.regions(index), measured=mask, values=own))
    return found


def region_means(prompt: PromptTokens, regions: Sequence[str]) -> dict[str, Float[np.ndarray, "region *unit"]]:
    """Return the mean of every quantity over the measured tokens of each region; NaN where there is none.

    Args:
        prompt: Tokens of one prompt.
        regions: Regions wanted.
    """
    lies = np.array(prompt.regions)[prompt.measured]
    member = np.array([lies == name for name in regions], dtype=float)
    values = prompt.values
    defined = ~np.isnan(values.alignment)  # where P or F is zero there is no angle
    found = {
        "finetuned_norm": _mean(member, values.finetuned_depth[:, -1]),
        "pretrained_norm": _mean(member, values.pretrained_depth[:, -1]),
        "alignment": _mean(member[:, defined], values.alignment[defined]),
        "finetuned_parts": _mean(member, values.finetuned_parts),
        "pretrained_parts": _mean(member, values.pretrained_parts),
        "finetuned_depth": _mean(member, values.finetuned_depth),
        "pretrained_depth": _mean(member, values.pretrained_depth),
    }
    return {"n_tokens": member.sum(1), **found}


def _mean(
    member: Float[np.ndarray, "region token"], values: Float[np.ndarray, "token *unit"]
) -> Float[np.ndarray, "region *unit"]:
    counts = member.sum(1).reshape(-1, *(1,) * (values.ndim - 1))
    sums = member @ values
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=np.broadcast_to(counts > 0, sums.shape))


def completion_curve(prompt: PromptTokens, *, n_prompt: int) -> Float[np.ndarray, "side step"]:
    """Return |F| and |P| from the last prompt token on, step by step to the verdict; NaN where not measured.

    Args:
        prompt: Tokens of one prompt.
        n_prompt: Tokens before the completion.
    """
    curve = np.full((2, len(prompt.regions)), np.nan)
    curve[:, prompt.measured] = [prompt.values.finetuned_depth[:, -1], prompt.values.pretrained_depth[:, -1]]
    return curve[:, n_prompt - 1 :]
