"""What a paths run says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING

import numpy as np

from analyses.cells import CellIntervals
from analyses.cross_model_patching.advantage import LEAST_GAP, Advantage
from analyses.cross_model_patching.paths import views
from analyses.judged import estimate
from analyses.metrics import FEWEST_DRAWS, Interval
from workbench.hooks import Component, Site
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.cross_model_patching.paths.result import PathPatchingResult

WAYS = {"judge_to_base": "with the judge's writes in the base", "base_to_judge": "with the base's writes in the judge"}
"""Directions in words."""

_SHOWN = 3
_INPUTS = {Component.Q: "query", Component.K: "key", Component.V: "value"}


def finding(result: "PathPatchingResult") -> Finding:
    """Decide whether any path carries the judge's advantage, and say so first.

    A path is found when the pair has an advantage that random judges don't have, the path was chosen on one half of
    the items, and on the other half its sign-flip p is below .05 over all chosen paths, it is larger than the largest
    path of further random judges would be, and rounding is far below it.
    """
    told, edges = views.gate(result), views.edges(result)
    estimates = (
        _gap(result, told),
        *(_path(result, edges, index) for index in _order(edges)),
        *(one for direction in result.directions for one in _strongest(result, edges, direction)),
    )
    found = bool(edges.found.any())
    headline = _found(result, edges) if found else _nothing(result, told, edges)
    return Finding(headline=headline, found=found, estimates=estimates, limits=_limits(result, told))


def name_of(site: str) -> str:
    """Return a sender or receiver in words."""
    if site == "verdict":
        return "the verdict"
    parsed = Site.parse(site)
    if parsed.component is Component.MLP_OUT:
        return f"the MLP of block {parsed.layer}"
    if parsed.component is Component.Z:
        return f"head {parsed.layer}.{parsed.head}"
    kind = "head" if parsed.component is Component.Q else "key-value head"
    return f"the {_INPUTS[parsed.component]} of {kind} {parsed.layer}.{parsed.head}"


def path_name(result: "PathPatchingResult", index: int) -> str:
    """Return a path in words, e.g. ``head 1.2 -> the query of head 3.0``."""
    return f"{name_of(result.edge_senders[index])} → {name_of(result.edge_receivers[index])}"


def _order(edges: views.Edges) -> list[int]:
    """Return the chosen paths, the strongest first."""
    chosen = np.flatnonzero(~np.isnan(edges.p_items))
    return [int(i) for i in chosen[np.argsort(-np.abs(edges.effect.value[chosen]), kind="stable")]]


def _found(result: "PathPatchingResult", edges: views.Edges) -> str:
    said = []
    for direction in result.directions:
        here = [i for i in _order(edges) if edges.found[i] and result.edge_directions[i] == direction]
        direct = [i for i in here if result.edge_hops[i] == 0]
        further = [i for i in here if result.edge_hops[i] > 0]
        if not here:
            said.append(f"{WAYS[direction]} no path moves the verdicts beyond chance")
            continue
        parts = [_part(result, edges, i) for i in (*direct[:1], *further[:1])]
        count = "1 path does" if len(here) == 1 else f"{len(here)} paths do"
        said.append(f"{WAYS[direction]}, {count}, most of all {', and further back '.join(parts)}")
    text = "; ".join(said)
    return f"Single paths move the judge's advantage: {text}."


def _part(result: "PathPatchingResult", edges: views.Edges, index: int) -> str:
    share, name = edges.recovery.value[index], path_name(result, index)
    direct = " (direct)" if result.edge_hops[index] == 0 else ""
    return f"{name}{direct} with {share:.0%} of the gap" if not np.isnan(share) else f"{name}{direct}"


def _nothing(result: "PathPatchingResult", told: Advantage, edges: views.Edges) -> str:
    if told.why_not():
        return f"Nothing found: {told.why_not()}."
    if not result.effect.any():
        return "Nothing found: no head and no MLP writes anything else in the judge than in the base."
    if len(result.random_gap) < FEWEST_DRAWS:
        return "Nothing found: it takes three random judges to tell a path from chance (controls)."
    largest = float(np.nanmax(np.abs(edges.effect.value)))
    return (
        f"Nothing found: the judge has an advantage of {told.gap.value:.3g} {result.unit}, but no single path moves "
        f"the verdicts beyond chance (the largest by {largest:.3g})."
    )


def _gap(result: "PathPatchingResult", told: Advantage) -> Estimate:
    control = Estimate(
        name=f"random judges of equal norm (95% of further ones; p = {told.chance.p:.2g})",
        value=told.chance.value, low=told.chance.low, high=told.chance.high, n=told.gap.n, unit=result.unit,
    )  # fmt: skip
    return estimate(
        "judge's margin minus the base's, toward the labelled answer",
        told.gap,
        unit=result.unit,
        control=control if len(result.random_gap) else None,
    )


def _path(result: "PathPatchingResult", edges: views.Edges, index: int) -> Estimate:
    share = edges.recovery.value[index]
    said = "" if np.isnan(share) else f", {share:.0%} of the gap"
    name = f"{WAYS[result.edge_directions[index]]}: {path_name(result, index)}{said}"
    return _estimate(result, edges, index, f"{name} (chosen on other items; p = {edges.p[index]:.2g})")


def _strongest(result: "PathPatchingResult", edges: views.Edges, direction: str) -> list[Estimate]:
    """Return the strongest direct paths where none was chosen."""
    here = views.at_edges(result, direction=direction, hop=0)
    if not here or result.selected[here].any() or np.isnan(edges.effect.value[here]).all():
        return []
    ranked = sorted(here, key=lambda i: -abs(np.nan_to_num(edges.effect.value[i])))[:_SHOWN]
    return [
        _estimate(result, edges, i, f"{WAYS[direction]}: {path_name(result, i)} (direct; not told from chance)")
        for i in ranked
    ]


def _estimate(result: "PathPatchingResult", edges: views.Edges, index: int, name: str) -> Estimate:
    other = _interval(edges.mismatched, index)
    control = None if np.isnan(other.value) else estimate("another item's write", other, unit=result.unit)
    return estimate(name, _interval(edges.effect, index), unit=result.unit, control=control)


def _interval(cells: CellIntervals, index: int) -> Interval:
    return Interval(float(cells.value[index]), float(cells.low[index]), float(cells.high[index]), cells.n)


def _limits(result: "PathPatchingResult", told: Advantage) -> tuple[str, ...]:
    held = "attention" if result.frozen == "attention" else "attention and MLPs"
    said = []
    if not told.defined:
        said.append(
            f"Shares of the gap are not defined: the margins of base and judge differ by less than {LEAST_GAP} toward "
            "the label, or not reliably; raw effects stand in the table."
        )
    if len(result.random_gap) < FEWEST_DRAWS:
        said.append("Without three random judges no path can be told from chance, so that nothing is called found.")
    hops = max(result.edge_hops, default=0)
    count = result.meta.parameters.get("n_receivers")
    return (
        *said,
        f"Up to {count} paths a hop went on, chosen on one half of the items; {hops + 1} hops were followed.",
        *views.random_notes(result),
        f"Between sender and receiver {held} kept their clean values at the verdict token; behind a receiver "
        "everything reacts. Effects of paths don't add up to a sender's total.",
        "Writes at the verdict token only: what a head took from earlier tokens is in its write, and who wrote it "
        "there isn't followed. A key or value is shared by all query heads of its group.",
        "A head's write goes through the donor's own output projection, without its bias.",
        f"Rows ran as {', '.join(result.modes) or 'nothing'}; random rows differ from full forwards by "
        f"{result.self_test:.2g}, null rows by {result.noise:.2g} {result.unit}.",
        *(f"Not measured: {what}" for what in result.meta.not_measured),
    )
