"""Another readout: the layers' margins, weighted and summed, beside the last one alone.

Weights are fitted on one half of the items by logistic regression without an intercept (a score of nothing but
margins has no side of its own), and held against the labels on the other half. The control is the same fit to labels
that were shuffled among the items of the first half.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from analyses.metrics import Interval, share_interval

_RESAMPLES = 4000


class Weights(NamedTuple):
    """How much every layer's margin counts."""

    fitted: Float[np.ndarray, " point"]
    """Fitted to the labels; their sizes add up to 1. NaN where nothing could be fitted."""
    shuffled: Float[np.ndarray, "shuffle point"]
    """Fitted to shuffled labels."""


class Compared(NamedTuple):
    """Agreement of readouts with the labels, over the same items: balanced accuracy."""

    final: Interval
    """Of the model's own readout."""
    other: Interval
    """Of the other readout."""
    gain: Interval
    """Other minus final, paired by resample of clusters."""


def fit(
    margin: Float[np.ndarray, "item order point"],
    sign: Float[np.ndarray, "item order"],
    train: Bool[np.ndarray, " item"],
    *,
    regularisation: float,
    shuffles: int,
    seed: int,
) -> Weights:
    """Fit the weights.

    Args:
        margin: Verdict margins by point.
        sign: +1 where the labelled answer stands in the first slot; NaN without a label.
        train: Items the fit may see.
        regularisation: Strength of the penalty on squared weights (of margins scaled to unit size).
        shuffles: Number of fits to shuffled labels.
        seed: Seed of the shuffles.
    """
    points = margin.shape[-1]
    known = train & ~np.isnan(sign).any(1)
    features, targets = margin[known], sign[known]
    blank = Weights(np.full(points, np.nan), np.full((0, points), np.nan))
    if len(set((targets > 0).ravel().tolist())) < 2:
        return blank
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(targets)) for _ in range(shuffles)]
    # Shuffled among items: a label's two prompts stay each other's mirror images.
    drawn = [_fit(features, targets[order], regularisation) for order in orders]
    return Weights(_fit(features, targets, regularisation), np.array(drawn).reshape(-1, points))


def _fit(features: np.ndarray, targets: np.ndarray, regularisation: float) -> Float[np.ndarray, " point"]:
    from sklearn.linear_model import LogisticRegression  # a second to load

    flat = features.reshape(-1, features.shape[-1])
    scale = np.sqrt(np.square(flat).mean(0))
    scale[scale == 0] = 1.0
    if len(set((targets > 0).ravel().tolist())) < 2:
        return np.zeros(flat.shape[1])
    model = LogisticRegression(C=1.0 / regularisation, fit_intercept=False, max_iter=1000)
    model.fit(flat / scale, targets.ravel() > 0)
    weights = model.coef_[0] / scale
    size = np.abs(weights).sum()
    return weights / size if size > 0 else weights


def uniform(points: int) -> Float[np.ndarray, " point"]:
    """Return equal weights over the last third of the points, two at least: nothing is fitted."""
    last = min(points, max(2, -(-points // 3)))
    return np.where(np.arange(points) >= points - last, 1.0 / last, 0.0)


def compared(
    score: Float[np.ndarray, "item order"],
    final: Float[np.ndarray, "item order"],
    sign: Float[np.ndarray, "item order"],
    *,
    clusters: Sequence[str],
    seed: int,
) -> Compared:
    """Return the balanced accuracy of a score beside that of the final margin.

    Args:
        score: Positive where the first slot's answer is preferred.
        final: The model's own margin.
        sign: +1 where the labelled answer stands in the first slot; items with a NaN are left out.
        clusters: What each item is independent by.
        seed: Seed of the resampling.
    """
    known = ~np.isnan(sign).any(1) & ~np.isnan(score).any(1)
    if not known.any():
        blank = Interval(np.nan, np.nan, np.nan, 0)
        return Compared(blank, blank, blank)
    kept = [clusters[int(i)] for i in np.flatnonzero(known)]
    names, index = np.unique(np.asarray(kept, dtype=object).astype(str), return_inverse=True)
    first = (sign[known] > 0).astype(float)
    counts = _by_cluster(np.stack([first, 1 - first]), index, len(names))
    hits = [_hits(values[known], sign[known]) for values in (final, score)]
    sums = [_by_cluster(np.stack([hit * first, hit * (1 - first)]), index, len(names)) for hit in hits]
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES
    ).astype(float)  # fmt: skip
    values = [_balanced(part.sum(0), counts.sum(0)) for part in sums]
    spread = [_balanced(drawn @ part, drawn @ counts) for part in sums]
    own = [
        _interval(float(value), found, len(names)) if 0 < value < 1 else share_interval(hit, clusters=kept)
        for value, found, hit in zip(values, spread, hits, strict=True)
    ]
    return Compared(own[0], own[1], _interval(float(values[1] - values[0]), spread[1] - spread[0], len(names)))


def balanced_accuracy(score: Float[np.ndarray, "item order"], sign: Float[np.ndarray, "item order"]) -> float:
    """Return the mean of the shares of right verdicts where the first and where the second slot is labelled."""
    known = ~np.isnan(sign)
    hits, first = _hits(score[known], sign[known]), sign[known] > 0
    parts = [hits[side] for side in (first, ~first) if side.any()]
    return float(np.mean([part.mean() for part in parts])) if parts else float("nan")


def _hits(score: np.ndarray, sign: np.ndarray) -> np.ndarray:
    return (np.sign(score * sign) + 1) / 2


def _by_cluster(values: Float[np.ndarray, "side item order"], index: np.ndarray, n: int) -> np.ndarray:
    sums = np.zeros((n, len(values)))
    np.add.at(sums, index, values.sum(-1).T)
    return sums


def _balanced(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    shares = np.divide(hits, counts, out=np.full(np.shape(hits), np.nan), where=counts > 0)
    seen = ~np.isnan(shares)
    return np.asarray(np.where(seen, shares, 0.0).sum(-1) / np.maximum(seen.sum(-1), 1))


def _interval(value: float, drawn: np.ndarray, n: int) -> Interval:
    if n < 2:
        return Interval(value, np.nan, np.nan, n)
    low, high = (float(end) for end in np.quantile(drawn, [0.025, 0.975]))
    return Interval(value, low, high, n)
