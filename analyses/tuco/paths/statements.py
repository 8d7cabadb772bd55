"""What a path attribution says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from analyses.cells import CellIntervals, family_p
from analyses.judged import estimate
from analyses.metrics import FEWEST_DRAWS, FLOORS, LEVEL, Interval, further_draw
from analyses.tuco.naming import region_phrase, region_title
from analyses.tuco.views import DECIDING, VIEWS
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.tuco.paths.result import PathsResult

_BOUND_LEVEL = 0.95
"""Two-sided, so that the upper end, which alone decides, is exceeded by chance in 2.5%."""
_IN_HALF = (
    " In half precision the stream is rounded after every block; load the pair in float32 for a complete integral."
)
Kind = Literal["unit", "region"]


class Places(NamedTuple):
    """All units, or all regions, in one view."""

    names: tuple[str, ...]
    """Units, or regions as the view names them."""
    cells: CellIntervals
    """Mean attribution over items with intervals."""
    p: Float[np.ndarray, " place"]
    """Sign-flip p over clusters, family-wise over units and regions of the view."""
    draws: Float[np.ndarray, "draw place"]
    """Mean attribution under each random change of equal norm."""
    same_items: Float[np.ndarray, " place"]
    """Mean attribution on the items the random changes were measured on."""
    bound: float
    """What the largest place of one more random change stays under, 97.5%; NaN with too few draws."""
    passing: np.ndarray
    """Which places pass both tests."""

    def strongest(self) -> int:
        """Return the index of the largest place, among those that pass where any does."""
        sizes = np.abs(np.nan_to_num(self.cells.value))
        return int(np.argmax(np.where(self.passing, sizes, -1.0) if self.passing.any() else sizes))


def places(result: "PathsResult", view: str) -> dict[Kind, Places]:
    """Return units and regions in a view, each with its tests.

    Args:
        result: What to test.
        view: A key of ``VIEWS``.
    """
    region_names, by_region = result.in_view(result.attribution.sum(2), view)
    values: dict[Kind, np.ndarray] = {"unit": result.attribution.sum(-1), "region": by_region}
    names: dict[Kind, tuple[str, ...]] = {"unit": result.units, "region": region_names}
    both = np.concatenate([result.oriented(values["unit"], view), result.oriented(values["region"], view)], axis=1)
    p = family_p(both, clusters=result.clusters, seed=result.meta.seed)
    drawn = [_marginals(result, draw, view) for draw in result.control_attribution]
    largest = np.array([max(np.abs(draw["unit"]).max(), np.abs(draw["region"]).max()) for draw in drawn])
    bound = further_draw(largest, level=_BOUND_LEVEL)[1] if len(drawn) >= FEWEST_DRAWS else float("nan")
    measured = ~np.isnan(result.control_attribution.sum(axis=(0, 2, 3, 4)))
    same = _marginals(result, np.where(measured[:, None, None, None], result.attribution, np.nan), view)
    deciding = [name for name in result.views if name in DECIDING]
    level = LEVEL / len(deciding) if view in deciding else 0.0
    out: dict[Kind, Places] = {}
    ps: dict[Kind, np.ndarray] = {"unit": p[: len(result.units)], "region": p[len(result.units) :]}
    for kind in values:
        sizes = np.abs(same[kind])
        loud = sizes > FLOORS * (result.meta.noise_floor or 0.0)
        out[kind] = Places(
            names=names[kind],
            cells=result.cells(values[kind], view),
            p=ps[kind],
            draws=np.array([draw[kind] for draw in drawn]).reshape(len(drawn), len(names[kind])),
            same_items=same[kind],
            bound=bound,
            passing=(ps[kind] < level) & (sizes > bound) & loud,
        )
    return out


def _marginals(result: "PathsResult", values: np.ndarray, view: str) -> dict[Kind, np.ndarray]:
    by_region = result.in_view(values.sum(2), view)[1]
    return {
        "unit": result.cells(values.sum(-1), view).value,
        "region": result.cells(by_region, view).value,
    }


def finding(result: "PathsResult") -> Finding:
    """Decide whether any block or any text carried a change of the verdict, and say so first.

    A place is found when its attribution, in the content or the position view, passes a sign-flip test over clusters
    of items (family-wise over units and regions, both views together at 5%) *and* is larger than the largest place of
    one more random change of equal norm would be.
    """
    by_view = {view: places(result, view) for view in result.views}
    found = {view: kinds for view, kinds in by_view.items() if any(kind.passing.any() for kind in kinds.values())}
    estimates = [
        *(_whole(result, view) for view in result.views),
        *(_place_estimate(result, view, kind) for view, kinds in by_view.items() for kind in kinds.values()),
        *_confirmed(result),
        *_outside(result),
    ]
    headline = _nothing(result, by_view)
    if found:
        said = " and ".join(_sentence(view, kinds, unit=result.unit) for view, kinds in found.items())
        headline = f"What fine-tuning changed in the verdict was carried {said}."
    return Finding(
        headline=headline, found=bool(found), estimates=tuple(estimates), limits=_limits(result, tuple(by_view))
    )


def agreement(result: "PathsResult", view: str) -> float:
    """Return Spearman's correlation over places between attribution and the gap really lost without the place.

    On the items places were taken out of; NaN where none were.

    Args:
        result: What to compare.
        view: A key of ``VIEWS``.
    """
    attributed, removed, _ = compared(result, view)
    if np.isnan(removed).all() or len(removed) < 3 or not np.ptp(attributed) > 0 or not np.ptp(removed) > 0:
        return float("nan")
    ranks = [stats.rankdata(values) for values in (attributed, removed)]
    return float(np.corrcoef(*ranks)[0, 1])


def compared(result: "PathsResult", view: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return mean attribution, mean gap lost and name of every unit and region, on the items taken apart.

    Args:
        result: What to compare.
        view: A key of ``VIEWS``.
    """
    tested = ~np.isnan(result.removed_unit.sum(axis=(1, 2)))
    own = _marginals(result, np.where(tested[:, None, None, None], result.attribution, np.nan), view)
    names, by_region = result.in_view(result.removed_region, view)
    lost = (result.cells(result.removed_unit, view).value, result.cells(by_region, view).value)
    return np.concatenate([own["unit"], own["region"]]), np.concatenate(lost), (*result.units, *names)


def _sentence(view: str, kinds: dict[Kind, Places], *, unit: str) -> str:
    said = []
    for place, preposition in ((kinds["unit"], "by"), (kinds["region"], "at")):
        if place.passing.any():
            best = place.strongest()
            name = place.names[best] if preposition == "by" else region_phrase(place.names[best])
            said.append(f"{preposition} {name} ({place.cells.value[best]:+.3g} {unit})")
    return f"{VIEWS[view]} most of all {' and '.join(said)}"


def _nothing(result: "PathsResult", by_view: dict[str, dict[Kind, Places]]) -> str:
    if not result.attribution.any():
        return "Nothing found: fine-tuning of the blocks changed exactly nothing in any verdict."
    if all(np.isnan(kind.bound) for kinds in by_view.values() for kind in kinds.values()):
        return "Nothing found: it takes three random changes or more to tell a place from chance (controls)."
    return (
        "Nothing found: no block and no part of the text carried a change of the verdict the same way on the items and "
        "further than the largest place of a random change of equal norm does."
    )


def _whole(result: "PathsResult", view: str) -> Estimate:
    control = None
    if len(result.control_attribution):
        drawn = result.control_attribution.sum((-2, -1)) + result.control_outside
        mean = _interval(result.cells(drawn.mean(0), view))
        control = estimate("mean of random changes of equal norm", mean, unit=result.unit)
    name = f"change of the gap {VIEWS[view]}, judge minus base"
    return estimate(name, _interval(result.cells(result.change, view)), unit=result.unit, control=control)


def _place_estimate(result: "PathsResult", view: str, place: Places) -> Estimate:
    best = place.strongest()
    control = None
    if len(place.draws):
        sizes = np.abs(place.draws).max(1)
        control = Estimate(
            name=f"largest place of a random change of equal norm, by size ({len(sizes)} drawn, one more within)",
            value=float(sizes.mean()),
            low=0.0,
            high=place.bound,
            n=place.cells.n,
            unit=result.unit,
        )
    at = Interval(
        float(place.cells.value[best]), float(place.cells.low[best]), float(place.cells.high[best]), place.cells.n
    )
    where = region_title(place.names[best])
    name = f"attribution {VIEWS[view]} of {where} (strongest; family-wise p {place.p[best]:.2g})"
    return estimate(name, at, unit=result.unit, control=control)


def _confirmed(result: "PathsResult") -> list[Estimate]:
    if result.named_place is None or np.isnan(result.confirmed_effect).all():
        return []
    view, control = result.named_view, None
    if result.other_place is not None:
        random = _interval(result.cells(result.confirmed_other, view))
        control = estimate(
            f"the same at random: {' at '.join(map(region_title, result.other_place))}", random, unit=result.unit
        )
    name = (
        f"gap {VIEWS[view]} lost when {result.named_place[0]} really runs without fine-tuning at "
        f"{region_phrase(result.named_place[1])} (named on other items)"
    )
    return [estimate(name, _interval(result.cells(result.confirmed_effect, view)), unit=result.unit, control=control)]


def _outside(result: "PathsResult") -> list[Estimate]:
    """Return what lies outside the blocks, where tuning touched it."""
    view, made = result.views[0], []
    for name, values in (("token embedding", result.embedding_part), ("final norm and head", result.head_part)):
        if values.any():
            made.append(
                estimate(f"part {VIEWS[view]} of the {name}", _interval(result.cells(values, view)), unit=result.unit)
            )
    return made


def _interval(cells: CellIntervals) -> Interval:
    return Interval(float(cells.value), float(cells.low), float(cells.high), cells.n)


def _limits(result: "PathsResult", views: tuple[str, ...]) -> tuple[str, ...]:
    tolerance = float(result.meta.parameters.get("tolerance", np.nan))
    error = np.abs(result.completeness_error)
    over = int((error > tolerance).sum())
    own = [
        f"Complete to {np.nanmax(error):.2g} of each change (or of 1, where that is more) with up to "
        f"{int(np.nanmax(result.nodes))} quadrature intervals"
        + (f"; {over} of {error.size} prompts stay above the tolerance of {tolerance:g}." if over else ".")
        + (_IN_HALF if over and result.meta.dtype in ("bfloat16", "float16") else ""),
        f"Depends on the path (all of fine-tuning scaled together) and on the cut ({result.granularity}); taking "
        "a place out loses less than was attributed to it where others carry the same thing, more where they need it.",
        "A region is where a write stands; what it wrote may have come from elsewhere by attention.",
    ]
    if result.choices:
        own.append(f"The gap compares the first tokens of {result.choices[0]!r} and {result.choices[1]!r}.")
    for view in views:
        rho = agreement(result, view)
        if not np.isnan(rho):
            own.append(
                f"Order of blocks and spans by attribution and by the gap really lost without each, {VIEWS[view]}: "
                f"Spearman {rho:.2f}."
            )
    floor = result.meta.noise_floor
    if floor is not None:
        own.append(f"Noise floor of the gap {floor:.2g} {result.unit}; under {FLOORS:g} floors nothing is found.")
    return (*own, *(f"Not measured: {what}" for what in result.meta.not_measured))
