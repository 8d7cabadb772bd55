"""Figures of a verdict lens. Each draws numbers the result already holds and returns axes."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from analyses.cells import cell_intervals
from analyses.cross_model_patching.lens.comparing import paired
from analyses.judged import Drawing, figure_of
from workbench import plotting

if TYPE_CHECKING:
    from analyses.cross_model_patching.lens.result import Side, VerdictLensResult

_SIDES: "tuple[Side, ...]" = ("judge", "base")
_MOST_BARS = 12
_X = "depth in blocks (-1: embeddings)"


def margins(result: "VerdictLensResult", *, ax: Axes | None = None) -> Axes:
    """Draw both models' margins by depth, order by order; hollow where labels have no mass."""
    series, bands = {}, {}
    for side in _SIDES:
        for k, order in enumerate(result.orders):
            values = result.own(side) * result.slot_sign()[..., None] if result.labelled else result.own(side)
            cells = cell_intervals(values[:, k], clusters=result.clusters, seed=result.meta.seed)
            name = f"{side}, {order}"
            series[name], bands[name] = cells.value, (cells.low, cells.high)
    ax = plotting.lines(series, x=result.depths, bands=bands, x_label=_X, y_label=f"{result.unit} {result.way}", ax=ax)
    with plotting.style():
        for name, line in zip(series, ax.get_lines()[-len(series) :], strict=True):
            blank = ~result.readable("judge" if name.startswith("judge") else "base")
            ax.plot(result.depths[blank], series[name][blank], linestyle="none", marker="o", markersize=4.5,
                    color="white", markeredgecolor=line.get_color())  # fmt: skip
    return ax


def masses(result: "VerdictLensResult", *, ax: Axes | None = None) -> Axes:
    """Draw the probability of all labels together by depth."""
    series, bands = {}, {}
    for side in _SIDES:
        for k, order in enumerate(result.orders):
            cells = cell_intervals(result.own_mass(side)[:, k], clusters=result.clusters, seed=result.meta.seed)
            name = f"{side}, {order}"
            series[name], bands[name] = cells.value, (cells.low, cells.high)
    y_label = "probability of all labels together"
    return plotting.lines(
        series, x=result.depths, bands=bands, x_label=_X, y_label=y_label, reference=result.least_mass, ax=ax
    )


def changes(result: "VerdictLensResult", *, ax: Axes | None = None) -> Axes:
    """Draw judge minus base by depth, the part of the stream and that of the readout, beside random changes."""
    found = result.changes()
    cells = {
        "judge minus base": found.cells,
        "of it, the stream": result.cells(result.stream_change()),
        "of it, norm and head": result.cells(result.readout_change()),
    }
    series = {name: one.value for name, one in cells.items()}
    random = "random changes of equal norm"
    if np.isfinite(found.random).any():
        series[random] = found.random
    ax = plotting.lines(
        series,
        x=result.depths,
        bands={name: (one.low, one.high) for name, one in cells.items()},
        controls=[random] if random in series else [],
        x_label=_X,
        y_label=f"{result.unit} {result.way}",
        ax=ax,
    )
    if np.isfinite(found.bound):
        ax.axhspan(-found.bound, found.bound, color=plotting.CONTROL, alpha=0.15, linewidth=0)
    return ax


def settle_histogram(result: "VerdictLensResult", *, ax: Axes | None = None) -> Axes:
    """Draw at which depth how many prompts' verdicts settle."""
    ax = ax or plotting.new_axes()
    width = 0.38 * float(np.diff(result.depths).min())
    colours = (plotting.PALETTE[0], plotting.PALETTE[1])
    with plotting.style():
        for side, colour, shift in zip(_SIDES, colours, (-0.5, 0.5), strict=True):
            points = result.settled(side)
            counts = np.bincount(points[points >= 0], minlength=len(result.points)) / points.size
            ax.bar(result.depths + shift * width, counts, width=width, color=colour, label=side)
        ax.set_xlabel(_X)
        ax.set_ylabel("share of prompts")
        ax.legend(loc="best")
    return ax


def direct_and_total(result: "VerdictLensResult", *, ax: Axes | None = None) -> Axes:
    """Draw every part's direct contribution against its whole effect, both directions."""
    ax = ax or plotting.new_axes(height=4.2)
    names = ("judge's values put into the base", "base's put into the judge, turned round")
    with plotting.style():
        ax.axhline(0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        ax.axvline(0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        for direction, (name, marker) in enumerate(zip(names, ("o", "^"), strict=True)):
            direct, total = (np.asarray(result_mean) for result_mean in _means(result, direction))
            ax.plot(direct, total, linestyle="none", marker=marker, markersize=5, alpha=0.75,
                    color=plotting.PALETTE[direction], label=name)  # fmt: skip
        reach = max(map(abs, ax.get_xlim()))
        ax.plot([-reach, reach], [-reach, reach], color=plotting.CONTROL, linestyle="--", linewidth=1.0,
                label="as much directly as in all")  # fmt: skip
        ax.set_xlabel(f"direct contribution, judge minus base, {result.unit} {result.way}")
        ax.set_ylabel(f"whole effect of patching, {result.unit}")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1))
    return ax


def _means(result: "VerdictLensResult", direction: int) -> tuple[np.ndarray, np.ndarray]:
    direct, total = paired(result, direction)
    known = ~(np.isnan(direct).any(1) | np.isnan(total).any(1))
    return direct[known].mean(0) if known.any() else np.zeros(0), total[known].mean(0) if known.any() else np.zeros(0)


def top_parts(result: "VerdictLensResult", *, ax: Axes | None = None) -> Axes:
    """Draw the parts whose direct contribution changed most, with that of random changes."""
    found = result.direct_changes()
    order = [int(i) for i in np.argsort(-np.abs(found.cells.value), kind="stable")[:_MOST_BARS]]
    names = {at: str(result.named_parts[at]) for at in order}
    known = np.isfinite(found.random).all()
    ax = plotting.bars(
        {names[at]: float(found.cells.value[at]) for at in order},
        intervals={names[at]: (float(found.cells.low[at]), float(found.cells.high[at])) for at in order},
        controls={names[at]: float(found.random[at]) for at in order} if known else None,
        control_label="random change of equal norm",
        value_label=f"direct contribution, judge minus base, {result.unit} {result.way}",
        ax=ax,
    )
    if np.isfinite(found.bound):
        ax.axvspan(-found.bound, found.bound, color=plotting.CONTROL, alpha=0.15, linewidth=0)
    return ax


def _sample(result: "VerdictLensResult") -> str:
    orders = "both orders" if len(result.orders) == 2 else "one order"
    return f"n = {len(result.item_ids)} items in {len(set(result.clusters))} independent groups, {orders}."


PANELS = (
    Drawing(
        "The verdict at every depth",
        lambda r: (
            f"Mean verdict margin {r.way} with 95% over items, read off the stream through each model's own norm and "
            f"head. Hollow: the labels have too little probability there to speak of a verdict. {_sample(r)}"
        ),
        figure_of(margins),
    ),
    Drawing(
        "Where the lens reads anything",
        lambda r: (
            "Mean probability of all labels together with 95% over items. Margins count as verdicts from "
            f"{r.least_mass:.2g} (line) on. {_sample(r)}"
        ),
        figure_of(masses),
        lambda r: not np.isnan(r.mass).all(),
    ),
    Drawing(
        "What tells judge from base, by depth",
        lambda r: (
            "Judge minus base with 95% over items, and its two parts, which add up: what the streams hold, and how "
            "norm and head read them. Grey: random changes of equal norm; the largest depth of a further one stays "
            f"within the band. {_sample(r)}"
        ),
        figure_of(changes),
    ),
    Drawing(
        "Where verdicts settle",
        lambda r: (
            "Share of prompts by the depth from which on the verdict is the final one and the labels have mass; "
            f"prompts that settle nowhere are missing. {_sample(r)}"
        ),
        figure_of(settle_histogram),
    ),
    Drawing(
        "Which components write the difference",
        lambda r: (
            "Direct contribution to the margin, judge minus base, with 95% over items; the parts add up to the whole "
            f"difference. Marks: random changes of equal norm; their largest part stays within the band. {_sample(r)}"
        ),
        figure_of(top_parts),
        lambda r: bool(r.parts),
    ),
    Drawing(
        "Direct contribution and whole effect",
        lambda r: (
            "Every head and MLP: its direct contribution to judge minus base against what the margin does when its "
            "value is really replaced at the last token. Far from the dashed line, later layers undo or carry what it "
            f"writes. {_sample(r)}"
        ),
        figure_of(direct_and_total),
        lambda r: any(part.patched for part in r.named_parts),
    ),
)
"""Figures of a report, in order."""
