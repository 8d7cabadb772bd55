"""Numbers of a contrast: content and position parts, the judge's share, totals, cells, and which of them are named."""

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from analyses.cells import CellIntervals, by_pattern, cell_intervals, cell_ratios, family_p, known_means
from analyses.cross_model_patching.advantage import (
    LEAST_GAP,
    HeldOut,
    against_largest,
    means_held_out,
    means_on_same_items,
)
from analyses.metrics import (
    FEWEST_DRAWS,
    FLOORS,
    LEVEL,
    Chance,
    Interval,
    against_draws,
    holm,
    mean_interval,
    ratio_interval,
)

if TYPE_CHECKING:
    from analyses.cross_model_patching.contrasts.result import ContrastResult

View = Literal["content", "position"]
Part = Literal["content", "position", "bias"]
VIEWS: tuple[View, ...] = ("content", "position")
Model = Literal["base", "judge", "judge - base"]
MODELS: tuple[Model, ...] = ("base", "judge", "judge - base")


class Total(NamedTuple):
    """A contrast's whole effect on the margin, one part of it."""

    part: Part
    """``content``: toward the answer the clean version speaks for; ``position``: toward the first slot; ``bias`` of an
    order swap: the margin toward the first slot over both orders, which a swap leaves as it is."""
    base: Interval
    """Clean minus other in the base; of a bias, the margin itself."""
    judge: Interval
    """The same in the judge."""
    added: Interval
    """The judge's minus the base's: the interaction."""
    chance: Chance
    """Where one more random judge of equal norm would fall."""
    p: float
    """p against random judges, Holm-adjusted over the parts; NaN where it can't be tested."""
    found: bool
    """Whether fine-tuning changed it: the interval excludes 0, p is below .05, and rounding is far below."""

    def of(self, model: Model) -> Interval:
        """Return one model's interval, or that of the interaction."""
        return {"base": self.base, "judge": self.judge, "judge - base": self.added}[model]


class CellNumbers(NamedTuple):
    """Every cell of a sweep in one model, or in the judge beyond the base, one part of it."""

    effect: CellIntervals
    """Mean effect; positive takes (or brings) a share of clean minus other."""
    recovery: CellIntervals
    """Share of the total; NaN where the total is too small to divide by."""
    mismatched: CellIntervals
    """Mean effect of another item's activation; NaN for spans, and where not measured."""
    noise: CellIntervals
    """Mean effect of a random change of the same length."""
    p: Float[np.ndarray, " cell"]
    """Sign-flip p over items, adjusted over all cells."""


class Named(NamedTuple):
    """A cell that was named on one half of the items, and what the other half says of it."""

    cell: int
    """Which cell."""
    view: View
    """Which part."""
    first: float
    """Mean on the half it was named on."""
    added: Interval
    """Interaction on the other half."""
    share: Interval
    """Its share of the whole interaction on the other half; NaN where that is too small."""
    p_items: float
    """Sign-flip p over items of the other half, adjusted over the cells named."""
    p_chance: float
    """p against the largest cell of random judges."""
    bound: float
    """What one more random judge's largest cell stays within."""
    found: bool
    """Whether it holds: both p below .05 and the same sign as on the first half."""


def in_view(
    result: "ContrastResult", values: Float[np.ndarray, "item order *cell"], view: View
) -> Float[np.ndarray, "item *cell"]:
    """Return one part of a slot-oriented quantity; NaN where it can't be told.

    Args:
        result: Whose axes they are.
        values: First slot minus second slot as shown.
        view: ``content`` turns with the answers, ``position`` doesn't.
    """
    if view == "position":
        return values.mean(1) if len(result.orders) == 2 else np.full((len(values), *values.shape[2:]), np.nan)
    shown = np.array([1.0 if order == "original" else -1.0 for order in result.orders])
    sign = result.toward[:, None] * shown
    return (values * sign.reshape(*sign.shape, *[1] * (values.ndim - 2))).mean(1)


def sensitivity(result: "ContrastResult", model: Model) -> Float[np.ndarray, "item order"]:
    """Return clean minus other of a model, or the judge's minus the base's; slots as shown."""
    base, judge = result.margin[:, 0] - result.margin[:, 1]
    return {"base": base, "judge": judge, "judge - base": judge - base}[model]


def of_model(values: Float[np.ndarray, "side *rest"], model: Model) -> np.ndarray:
    """Return a model's numbers of an array with both sides, or the judge's minus the base's."""
    base, judge = values
    return {"base": base, "judge": judge, "judge - base": judge - base}[model]


def totals(result: "ContrastResult") -> tuple[Total, ...]:
    """Return the whole effect of the contrast by part, tested together."""
    found = [_total(result, part) for part in parts(result)]
    adjusted = holm(np.array([total.p for total in found]))
    return tuple(
        total._replace(p=float(p), found=bool(p < LEVEL) and total.found)
        for total, p in zip(found, adjusted, strict=True)
    )


def parts(result: "ContrastResult") -> tuple[Part, ...]:
    """Return the parts a contrast is tested in: a swap can't show what doesn't turn, so that it is read directly."""
    return (*VIEWS, "bias") if result.swapped and len(result.orders) == 2 else VIEWS


def whole(result: "ContrastResult", model: Model, part: Part) -> Float[np.ndarray, " item"]:
    """Return one part of what the contrast does in a model, item by item."""
    if part == "bias":
        return in_view(result, of_model(result.margin[:, 0], model), "position")
    return in_view(result, sensitivity(result, model), part)


def _total(result: "ContrastResult", part: Part) -> Total:
    values = {model: whole(result, model, part) for model in MODELS}
    base, judge, added = (_mean(result, values[model]) for model in MODELS)
    changed = values["judge - base"]
    draws, same = means_on_same_items(random_totals(result, part)[..., None], changed[:, None])
    chance = against_draws(float(same[0]), draws[:, 0])
    # What is 0 by construction (the position part of an order swap) isn't tested.
    testable = added.n > 1 and bool(np.nanmax(np.abs(changed), initial=0.0) > FLOORS * result.noise)
    holds = testable and added.excludes(0.0) and abs(added.value) > FLOORS * result.noise
    return Total(part, base, judge, added, chance, chance.p if testable else float("nan"), holds)


def random_totals(result: "ContrastResult", part: Part) -> Float[np.ndarray, "draw item"]:
    """Return the interaction of every random judge; NaN on items it wasn't asked."""
    gaps = result.random_margin - result.margin[0]
    if part == "bias":
        drawn = [in_view(result, gap[0], "position") for gap in gaps]
    else:
        drawn = [in_view(result, gap[0] - gap[1], part) for gap in gaps]
    return np.array(drawn).reshape(len(drawn), len(result.item_ids))


def random_cells(result: "ContrastResult", view: View) -> Float[np.ndarray, "draw item cell"]:
    """Return the interaction of every cell with every random judge; NaN on items it wasn't asked."""
    drawn = [in_view(result, draw - result.effect[0], view) for draw in result.random_effect]
    return np.array(drawn).reshape(len(drawn), len(result.item_ids), len(result.components))


def cells(result: "ContrastResult", model: Model, view: View) -> CellNumbers:
    """Return every cell's numbers in a model, or in the judge beyond the base.

    Args:
        result: The contrast.
        model: Whose.
        view: Which part.
    """
    total = whole(result, model, view)

    def intervals(values: np.ndarray) -> CellIntervals:
        part = in_view(result, of_model(values, model), view)
        return by_pattern(part, lambda v: cell_intervals(v, clusters=result.clusters, seed=result.meta.seed))

    effect = in_view(result, of_model(result.effect, model), view)
    recovery = by_pattern(
        effect, lambda v: cell_ratios(v, total, clusters=result.clusters, seed=result.meta.seed)
    )  # fmt: skip
    if not defined(_mean(result, total)):
        blank = np.full(effect.shape[1], np.nan)
        recovery = CellIntervals(blank, blank.copy(), blank.copy(), recovery.n)
    return CellNumbers(
        effect=intervals(result.effect),
        recovery=recovery,
        mismatched=intervals(result.mismatched_effect),
        noise=intervals(result.noise_effect),
        p=_family(result, effect, range(len(effect))),
    )


def defined(total: Interval) -> bool:
    """Return whether a total is large enough to divide by."""
    return abs(total.value) >= LEAST_GAP and total.excludes(0.0)


def named(result: "ContrastResult", view: View) -> tuple[Named, ...]:
    """Return the cells with the largest interaction on one half of the items, and what the other half says of them.

    Args:
        result: The contrast.
        view: Which part.
    """
    first, second = (np.flatnonzero(result.confirming == half) for half in (0.0, 1.0))
    effect = in_view(result, of_model(result.effect, "judge - base"), view)
    if not first.size or not second.size or np.isnan(effect).all():
        return ()
    sizes = known_means(effect[first])
    known = np.flatnonzero(~np.isnan(sizes) & ~np.isnan(known_means(effect[second])) & (sizes != 0))
    chosen = [int(i) for i in known[np.argsort(-np.abs(sizes[known]), kind="stable")][: result.named]]
    if not chosen:
        return ()
    p_items = _family(result, effect[second][:, chosen], second)
    drawn = against_random(result, view)
    every, bound = against_largest(drawn.own, drawn.draws)
    p_chance = every[chosen]
    shift = whole(result, "judge - base", view)
    clusters = [result.clusters[i] for i in second]
    seed = result.meta.seed
    total = mean_interval(shift[second], seed=seed, clusters=clusters)
    found = []
    for at, index in enumerate(chosen):
        added = mean_interval(effect[second, index], seed=seed, clusters=clusters)
        share = ratio_interval(effect[second, index], shift[second], seed=seed, clusters=clusters)
        blank = Interval(np.nan, np.nan, np.nan, share.n)
        holds = (
            p_items[at] < LEVEL
            and p_chance[at] < LEVEL
            and added.value * sizes[index] > 0
            and abs(added.value) > FLOORS * result.noise
        )
        found.append(Named(index, view, float(sizes[index]), added, share if defined(total) else blank,
                           float(p_items[at]), float(p_chance[at]), bound, bool(holds)))  # fmt: skip
    return tuple(found)


def drawn_enough(result: "ContrastResult") -> bool:
    """Return whether there are enough random judges to tell anything from chance."""
    return len(result.random_margin) >= FEWEST_DRAWS


def against_random(result: "ContrastResult", view: View) -> HeldOut:
    """Return every cell's interaction and that of random judges, over the same items nothing was named on."""
    effect = in_view(result, of_model(result.effect, "judge - base"), view)
    held_out = result.confirming == 1.0
    return means_held_out(random_cells(result, view), effect, held_out=held_out, clusters=result.clusters)


def _mean(result: "ContrastResult", values: Float[np.ndarray, " item"]) -> Interval:
    return mean_interval(values, seed=result.meta.seed, clusters=result.clusters)


def _family(
    result: "ContrastResult", values: Float[np.ndarray, "item cell"], items: "np.ndarray | range"
) -> Float[np.ndarray, " cell"]:
    known: np.ndarray = np.asarray((~np.isnan(values)).any(1))
    found = np.full(values.shape[1], np.nan)
    if not known.any():
        return found
    clusters = [result.clusters[int(i)] for i, kept in zip(items, known, strict=True) if kept]
    # An item whose prompts don't align says nothing of a cell, whichever way its sign is flipped.
    found = family_p(np.nan_to_num(values[known]), clusters=clusters, seed=result.meta.seed)
    return np.where((~np.isnan(values)).any(0), found, np.nan)
