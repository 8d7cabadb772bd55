"""Is there a change of verdicts to look for at all? The gate every part of this analysis passes first.

The judge's *advantage* is its margin minus the base's, toward the labelled answer. A patch of the last stream
recovers whatever difference there is, also that of a random change; only a difference that random changes of the
same size don't make is worth locating.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from analyses.cross_model_patching.sweeping import as_numpy
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import Prompts, controlled_items, random_judges
from analyses.metrics import FEWEST_DRAWS, LEVEL, Chance, Interval, against_draws, further_draw, mean_interval
from workbench.hooks import HooksBackend

LEAST_GAP = 0.05
"""A margin that moved by less, on average, is too small to divide by: recovery isn't defined."""


class Advantage(NamedTuple):
    """What there is to recover."""

    gap: Interval
    """Judge's margin minus the base's, toward the label; both orders averaged."""
    chance: Chance
    """Where the gap of one more random change of equal norm would fall."""
    labelled: bool
    """Whether any item says which answer is better."""

    @property
    def defined(self) -> bool:
        """Whether recoveries may be divided by the gap."""
        return abs(self.gap.value) >= LEAST_GAP and self.gap.excludes(0.0)

    @property
    def found(self) -> bool:
        """Whether the judge's change is more than chance: over items, and against random changes."""
        return self.labelled and self.defined and self.chance.p < LEVEL

    def why_not(self) -> str:
        """Return why nothing is looked for, as part of a sentence; empty where something is."""
        if self.found:
            return ""
        if not self.labelled:
            return "no item says which answer is better, so that no change is an advantage"
        if not self.defined:
            return "base and judge decide alike toward the labelled answer, so that there is nothing to recover"
        return "random changes of the same size move the verdicts as far"


def advantage(
    gap: Float[np.ndarray, "item *order"],
    draws: Float[np.ndarray, " draw"],
    *,
    clusters: Sequence[str],
    seed: int,
) -> Advantage:
    """Return what there is to recover.

    Args:
        gap: Judge's margin minus the base's, toward the label; NaN for items without one.
        draws: The same mean for random judges; see :func:`random_gaps`.
        clusters: What each item is independent by.
        seed: Seed of the interval.
    """
    labelled = bool((~np.isnan(gap)).any())
    own = mean_interval(gap, seed=seed, clusters=clusters)
    return Advantage(own, against_draws(own.value, draws), labelled)


def random_gaps(
    prompts: Prompts,
    verdict: VerdictIds,
    base: Float[np.ndarray, "item order"],
    *,
    draws: int,
    limit: int | None,
    batch_size: int,
    seed: int,
    measure: Callable[[int, HooksBackend, Sequence[int]], None] | None = None,
    items: Sequence[int] | None = None,
) -> Float[np.ndarray, "draw item order"]:
    """Return how far random judges of equal norm move the margin, slots as shown; NaN on items they weren't asked.

    Args:
        prompts: The prompts of the run; its notes are told what is left out.
        verdict: What is read.
        base: The base's own margins.
        draws: Number of random judges.
        limit: On how many items at most; None for all.
        batch_size: Prompts per forward.
        seed: Seed of the first; others count up.
        measure: Called with draw, the random judge's executor and items of each batch, for whatever else the caller
            wants to know of a random judge.
        items: Of which items at most; all of them by default.
    """
    chosen = controlled_items(prompts, draws=draws, limit=limit, seed=seed)
    if items is not None:
        chosen = [i for i in chosen if i in set(items)]
    found = np.full((draws if chosen else 0, *base.shape), np.nan)
    if not chosen:
        return found
    for draw, (_, executor) in enumerate(random_judges(prompts.pair, draws=draws, seed=seed)):

        def ask(items: tuple[int, ...], executor: HooksBackend = executor, draw: int = draw) -> np.ndarray:
            logits = executor.run(prompts.batch(items)).logits
            if measure is not None:
                measure(draw, executor, items)
            return prompts.by_item(as_numpy(verdict.of_vocabulary(logits)[0]))  # type: ignore[arg-type]

        for some, margins in prompts.each(prompts.batches(batch_size, items=chosen), ask):
            found[draw, list(some)] = margins - base[list(some)]
    return found


def toward_label_means(
    gaps: Float[np.ndarray, "draw item order"], slot_sign: Float[np.ndarray, "item order"]
) -> Float[np.ndarray, " measured"]:
    """Return the mean toward the label of every draw that was measured on a labelled item, over those items."""
    oriented = gaps * slot_sign
    return np.array([np.nanmean(draw) for draw in oriented if (~np.isnan(draw)).any()])


def against_largest(
    effects: Float[np.ndarray, " cell"], draws: Float[np.ndarray, "draw cell"]
) -> tuple[Float[np.ndarray, " cell"], float]:
    """Return each cell's p against the *largest* cell of random changes, and the bound one more of these stays within.

    Holding every cell against the largest of each draw corrects over the whole sweep, whatever the cells share.

    Args:
        effects: Mean effect of every cell of the real pair.
        draws: The same of random changes; NaN cells are left out.

    Returns:
        One-sided p-values of the sizes (1 with too few draws) and the upper end of the 95% prediction interval of a
        further draw's largest cell (NaN with too few).
    """
    if len(draws) < FEWEST_DRAWS:
        return np.ones_like(effects), float("nan")
    largest = np.nanmax(np.abs(draws), axis=1)
    found = [against_draws(float(size), largest) for size in np.abs(effects)]
    p = np.array([
        chance.p / 2 if size > chance.value else 1.0 for size, chance in zip(np.abs(effects), found, strict=True)
    ])  # fmt: skip
    return p, further_draw(largest)[1]
