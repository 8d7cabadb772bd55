"""Figures of a screen. Each function draws numbers the result already holds."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.cross_model_patching.directions import ARROWS, SHORT
from analyses.cross_model_patching.screen import views
from analyses.cross_model_patching.screen.regions import BEFORE, region_title
from analyses.cross_model_patching.screen.views import STREAM
from analyses.judged import Drawing, figure_of
from workbench import plotting
from workbench.hooks import Site

if TYPE_CHECKING:
    from analyses.cross_model_patching.screen.result import ScreenResult

_MOST_DOTS = 4000


def span_map(result: "ScreenResult", *, direction: str) -> Figure:
    """Draw mean scores by block and part, component by component, heads of a block added up.

    Args:
        result: What to draw.
        direction: Whose activations go where.
    """
    found = result.map(direction)
    sites = [Site.parse(unit) for unit in result.units]
    layers = sorted({site.layer for site in sites})
    columns = [region_title(region) for region in result.regions]
    n = len(result.components)
    with plotting.style():
        width = min(14.0, n * max(3.0, 1.6 + 0.34 * len(columns)))
        figure = plotting.DisplayFigure(figsize=(width, min(12.0, 2.4 + 0.26 * len(layers))), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, n))
    for ax, component in zip(axes, result.components, strict=True):
        grid = np.zeros((len(layers), len(columns)))
        for index, site in enumerate(sites):
            if site.component == component:
                grid[layers.index(site.layer)] += found.cells.value[:, index]
        plotting.heatmap(
            grid, rows=layers, columns=columns, title=component, row_label="block", value_label=result.unit, ax=ax,
        )  # fmt: skip
        _mark(ax, found, sites, component=component, layers=layers)
    return figure


def _mark(ax: Axes, found: views.ScreenMap, sites: list[Site], *, component: str, layers: list[int]) -> None:
    with plotting.style():
        for region, index in np.argwhere(found.standing_out):
            if sites[index].component == component:
                ax.plot([region], [layers.index(sites[index].layer)], marker="o", markersize=4, color="white",
                        markeredgecolor="black")  # fmt: skip


def check_bars(result: "ScreenResult", *, ax: Axes | None = None) -> Axes:
    """Draw what each exact patch in front of the last token recovers, with intervals and another item's change.

    Raw effects are drawn where the gap is too small to divide by.
    """
    defined = views.gate(result).defined
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    controls: dict[str, float] = {}
    for check in result.checks():
        shown = check.recovery if defined else check.exact
        unit = "" if check.unit == STREAM else f"{check.unit} @ "
        place = check.region if check.region == BEFORE or check.region[0] == "-" else region_title(check.region)
        name = f"{ARROWS[check.direction]}  {unit}{place}{' *' if check.found else ''}"
        values[name] = shown.value
        intervals[name] = (shown.low, shown.high)
        if defined and np.isfinite(check.mismatched.value):
            controls[name] = check.mismatched.value
    label = "share of the gap recovered" if defined else f"change of the margin, {result.unit}"
    return plotting.bars(
        values,
        intervals=intervals,
        controls=controls or None,
        control_label="another item's change there",
        value_label=f"{label}, items it wasn't named on",
        ax=ax or plotting.new_axes(width=7.5, height=1.3 + 0.26 * max(1, len(values))),
    )


def calibration(result: "ScreenResult", *, ax: Axes | None = None) -> Axes:
    """Draw exact effects over scores, one dot per unit and prompt: the last token, and the re-checked cells."""
    ax = ax or plotting.new_axes(width=5.2, height=4.6)
    extent = 0.0
    kinds = [("last", "every unit at the last token", plotting.CONTROL, 6.0),
             ("mid", "re-checked cells in front of it", plotting.PALETTE[5], 12.0)]  # fmt: skip
    with plotting.style():
        for where, label, colour, size in kinds:
            both = [views.pairs(result, direction, where) for direction in result.directions]
            x = np.concatenate([scores.ravel() for scores, _, _ in both])
            y = np.concatenate([exact.ravel() for _, exact, _ in both])
            known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
            known = known[:: max(1, len(known) // _MOST_DOTS)]
            if not len(known):
                continue
            ax.scatter(x[known], y[known], s=size, color=colour, alpha=0.55, linewidths=0, label=label)
            extent = max(extent, float(np.abs(x[known]).max()), float(np.abs(y[known]).max()))
        extent = 1.05 * extent or 1.0
        ax.plot([-extent, extent], [-extent, extent], color=plotting.INK, linewidth=0.8, alpha=0.6)
        ax.set_xlabel(f"score, {result.unit}")
        ax.set_ylabel(f"exact effect, {result.unit}")
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.0, ncols=1)
    return ax


def _said(result: "ScreenResult", direction: str) -> str:
    last = result.agreement(direction)
    r, slope = last.correlation, last.slope
    return (
        f"{SHORT[direction]}: r = {r.value:.3f} [{r.low:.3f}, {r.high:.3f}], slope {slope.value:.2f} "
        f"[{slope.low:.2f}, {slope.high:.2f}], largest miss {last.miss:.2g} {result.unit} at {last.where}"
    )


def _sample(result: "ScreenResult") -> str:
    orders = "both orders" if len(result.orders) == 2 else "one order"
    return f"n = {len(result.item_ids)} items in {len(set(result.clusters))} independent groups, {orders}."


def _map_panel(direction: str) -> Drawing:
    return Drawing(
        f"Screened: where the {SHORT[direction]} would move the verdict",
        lambda r: (
            f"Mean score ({r.method.upper()}) by block and part of the prompt, toward the labelled answer where there "
            "is one; heads of a block are added up, each map has its own scale. White dots: a unit there passes the "
            "family-wise sign-flip test over items and exceeds the largest cell of random judges. Scores are "
            f"estimates, and find nothing by themselves. {_sample(r)}"
        ),
        lambda r: span_map(r, direction=direction),
        lambda r: direction in r.directions,
    )


PANELS = (
    Drawing(
        "Exactly patched: which text carries the judge's advantage",
        lambda r: (
            "Bars without a component: the part's residual stream held to the donor's in every block. The others are "
            "the cells the screen put first. 95% intervals over items they weren't named on; orange: what tells donor "
            "from target on another item, put in the same place; * is found. J>B puts the judge's activations into "
            f"the base (sufficient?), B>J the base's into the judge (necessary?). {_sample(r)}"
        ),
        figure_of(check_bars),
    ),
    _map_panel("judge_to_base"),
    _map_panel("base_to_judge"),
    Drawing(
        "Can the scores be trusted?",
        lambda r: (
            "One dot per unit and prompt; on the line score and exact effect agree. At the last token every unit is "
            f"patched exactly. {'; '.join(_said(r, direction) for direction in r.directions)}."
        ),
        figure_of(calibration),
    ),
)
"""Figures of a report, in order."""
