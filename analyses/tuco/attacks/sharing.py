"""Which tokens a clean prompt and its variants share, and what share of the stream fine-tuning writes at each.

Everything before the suffix and everything after it, counted from the end, is the same token in the same text. No
token before the suffix can know of it, so the change there is 0 but for rounding: a control that comes for free.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.tuco.clamp import double_pass, to_numpy
from analyses.tuco.cuts import Unit
from analyses.tuco.evaluation import PLAIN, Evaluation
from analyses.tuco.gauge import Gauge
from analyses.tuco.shares import Norm, share
from workbench.hooks import Component, HooksBackend
from workbench.tokens import TokenBatch

BEFORE = "before the suffix"
"""Name of the shared tokens that can't know of the suffix."""


class Shared(NamedTuple):
    """How many tokens all variants of a prompt have in common at either end."""

    head: int
    """Tokens before the first that differs."""
    tail: int
    """Tokens after the last that differs."""


class TokenShares(NamedTuple):
    """Share of fine-tuning at every token, padding included."""

    whole: Float[np.ndarray, "prompt pos"]
    """TuCo: |F| / (|P| + |F|) of the writes summed over units."""
    unit: Float[np.ndarray, "prompt pos unit"]
    """The same of each unit's own write."""


def shared(rows: Sequence[Sequence[int]]) -> Shared:
    """Return how many leading and trailing token ids the rows have in common; the two never overlap.

    Args:
        rows: Token ids of one prompt in several variants.
    """
    shortest = min(map(len, rows))
    head = next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)
    room = shortest - head
    tail = next((i for i in range(room) if len({row[-1 - i] for row in rows}) > 1), room)
    return Shared(head, tail)


def span_names(names: Sequence[str], common: Shared, *, carrier: str) -> list[str]:
    """Return the span of every shared token: one name for all before the suffix, then the prompt's own.

    Args:
        names: Innermost span of every token of the clean prompt.
        common: What is shared.
        carrier: Name of the span that carries the suffix; the two answers are renamed after it.
    """
    answers = {"answer_a": "other answer", "answer_b": "other answer", carrier: "carrier"}
    after = names[len(names) - common.tail :]
    return [BEFORE] * common.head + [answers.get(name, name) for name in after]


def token_shares(
    judge: HooksBackend,
    base: HooksBackend,
    batch: TokenBatch,
    *,
    parts: Sequence[Unit],
    norm: Norm,
    how: Evaluation = PLAIN,
) -> TokenShares:
    """Measure the share of fine-tuning at every token in one double pass.

    Args:
        judge: Executor of the fine-tuned model.
        base: Executor of the model before fine-tuning.
        batch: Prompts, left-padded.
        parts: How the network is cut.
        norm: Norm of the shares.
        how: How outputs on the recorded stream are computed; of this the precision.
    """
    run = double_pass(judge, base, batch, parts=parts, how=how)
    gauge = Gauge.of(norm, judge)
    finetuned_sum: Tensor | float = 0.0
    pretrained_sum: Tensor | float = 0.0
    by_unit = []
    for unit in parts:
        expected = run.base[unit.end].float()
        finetuned = run.judge[unit.end].float() - expected
        whole = unit.component is Component.RESID_POST
        pretrained = expected - run.inputs[unit.start].float() if whole else expected
        by_unit.append(_share(finetuned, pretrained, gauge=gauge))
        finetuned_sum, pretrained_sum = finetuned_sum + finetuned, pretrained_sum + pretrained
    total = _share(torch.as_tensor(finetuned_sum), torch.as_tensor(pretrained_sum), gauge=gauge)
    return TokenShares(total, np.stack(by_unit, axis=-1))


def span_means(
    values: Float[np.ndarray, "token *rest"], names: Sequence[str], *, spans: Sequence[str]
) -> Float[np.ndarray, "span *rest"]:
    """Average shared tokens by span; NaN for a span without tokens.

    Args:
        values: One value, or one per unit, for each shared token.
        names: Span of each shared token.
        spans: Spans to return.
    """
    labels = np.asarray(names, dtype=object)
    means = np.full((len(spans), *values.shape[1:]), np.nan)
    for row, span in enumerate(spans):
        if (inside := labels == span).any():
            means[row] = values[inside].mean(0)
    return means


def _share(finetuned: Tensor, pretrained: Tensor, *, gauge: Gauge) -> Float[np.ndarray, "prompt pos"]:
    sizes = [to_numpy(gauge.norm(gauge.weigh(x))) for x in (finetuned, pretrained)]
    return share(sizes[0], sizes[1])
