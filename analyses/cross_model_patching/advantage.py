"""Is there a change of verdicts to look for at all? The gate every part of this analysis passes first.

The judge's *advantage* is its margin minus the base's, toward the labelled answer. A patch of the last stream
recovers whatever difference there is, also that of a random change; only a difference that random changes of the
same size don't make is worth locating.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from analyses.cells import known_means
from analyses.cross_model_patching.sweeping import as_numpy
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import Prompts, controlled_items, random_judges
from analyses.metrics import FEWEST_DRAWS, LEVEL, Chance, Interval, against_draws, further_draw, mean_interval
from workbench.hooks import HooksBackend

LEAST_GAP = 0.05
"""A margin that moved by less, on average, is too small to divide by: recovery isn't defined."""

FEWEST_SHARED = 4
"""Clusters of held-out items that random judges have to be asked on for a confirmation to be held against them."""


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
    draws: Float[np.ndarray, "draw item *order"],
    *,
    clusters: Sequence[str],
    seed: int,
) -> Advantage:
    """Return what there is to recover.

    Args:
        gap: Judge's margin minus the base's, toward the label; NaN for items without one.
        draws: The same of random judges (:func:`random_gaps`); NaN on items they weren't asked.
        clusters: What each item is independent by.
        seed: Seed of the interval.
    """
    labelled = bool((~np.isnan(gap)).any())
    # Spelt out: -1 has no meaning where nothing was drawn.
    cells = math.prod(gap.shape[1:])
    means, same = means_on_same_items(draws.reshape(len(draws), len(gap), cells), gap.reshape(len(gap), cells))
    chance = against_draws(float(same.mean()), means.mean(1))
    return Advantage(mean_interval(gap, seed=seed, clusters=clusters), chance, labelled)


def means_on_same_items(
    draws: Float[np.ndarray, "draw item cell"], own: Float[np.ndarray, "item cell"]
) -> tuple[Float[np.ndarray, "whole cell"], Float[np.ndarray, " cell"]]:
    """Return the means of random changes and that of the real one over the same items.

    What is particular to the items asked is common to all draws, so that their spread doesn't show it: means over
    other items can't be held against them.

    Args:
        draws: Oriented changes of random judges; NaN on items they weren't asked, and in cells an item doesn't have.
            Draws that were interrupted, asked on fewer items than another, are left out.
        own: Oriented change of the judge.

    Returns:
        Means of the draws, and of the judge over the items they were asked on (over all items without any draw); NaN
        in cells that no item has.
    """
    asked = ~np.isnan(draws).all(2) & ~np.isnan(own).all(1)
    items = asked.any(0)
    whole = (asked == items).all(1) & items.any()
    if not whole.any():
        items = ~np.isnan(own).all(1)
    kept = draws[whole][:, items]
    # A cell's items are those that all of them have.
    known = ~(np.isnan(own[items]) | np.isnan(kept).any(0))
    return known_means(np.where(known, kept, np.nan)), known_means(np.where(known, own[items], np.nan))


class HeldOut(NamedTuple):
    """Means of random changes and of the real one over items nothing was chosen on, as far as these were asked."""

    draws: Float[np.ndarray, "whole cell"]
    """Of random judges."""
    own: Float[np.ndarray, " cell"]
    """Of the judge, over the same items."""
    note: str
    """What it was compared over where too few items are held out and asked; empty otherwise."""


def means_held_out(
    draws: Float[np.ndarray, "draw item cell"],
    own: Float[np.ndarray, "item cell"],
    *,
    held_out: Bool[np.ndarray, " item"],
    clusters: Sequence[str],
) -> HeldOut:
    """Return :func:`means_on_same_items` of the items a confirmation may look at.

    Where random judges were asked on fewer than :data:`FEWEST_SHARED` clusters of these, it is all items they were
    asked on, which the note says.

    Args:
        draws: Oriented changes of random judges; NaN on items they weren't asked.
        own: Oriented change of the judge; NaN where it isn't known.
        held_out: Items nothing was chosen on.
        clusters: What each item is independent by.
    """
    asked = (~np.isnan(draws).all(2) & ~np.isnan(own).all(1)).any(0)
    shared = asked & held_out
    count = len({cluster for cluster, kept in zip(clusters, shared, strict=True) if kept})
    if count >= FEWEST_SHARED or not asked.any():
        return HeldOut(*means_on_same_items(draws[:, held_out], own[held_out]), "")
    said = (
        f"Random judges were asked on {count} independent items of the half for confirmation: they are compared over "
        f"all {int(asked.sum())} items they were asked on, also those of the half that was chosen on (control_items)."
    )
    return HeldOut(*means_on_same_items(draws, own), said)


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


def against_largest(
    effects: Float[np.ndarray, " cell"], draws: Float[np.ndarray, "draw cell"]
) -> tuple[Float[np.ndarray, " cell"], float]:
    """Return each cell's p against the *largest* cell of random changes, and the bound one more of these stays within.

    Holding every cell against the largest of each draw corrects over the whole sweep, whatever the cells share. A
    largest cell is skewed to the right: Student's upper tail alone would give false alarms in 7 to 10% of sweeps, so
    that p is twice that tail (4 to 6%), and below .05 exactly where a cell is beyond the bound.

    Args:
        effects: Mean effect of every cell of the real pair, over the items the random changes were measured on; see
            :func:`means_on_same_items`. NaN for cells that aren't known.
        draws: The same of random changes.

    Returns:
        p-values of the sizes (1 with too few draws, or where a cell isn't known) and the upper end of the 95%
        prediction interval of a further draw's largest cell (NaN with too few).
    """
    if len(draws) < FEWEST_DRAWS or np.isnan(draws).all():
        return np.ones_like(effects), float("nan")
    largest = np.nanmax(np.abs(draws), axis=1)
    mean, n = float(largest.mean()), len(largest)
    beyond = np.fmax(np.nan_to_num(np.abs(effects)) - mean, 0.0)
    spread = float(largest.std(ddof=1)) * math.sqrt(1 + 1 / n)
    distance = np.divide(beyond, spread, out=np.where(beyond > 0, np.inf, 0.0), where=spread > 0)
    return 2 * stats.t.sf(distance, n - 1), further_draw(largest)[1]
