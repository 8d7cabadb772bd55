"""Figures of a scaling run. Each function draws numbers the result already holds and returns axes or a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analyses.judged import Drawing, figure_of
from analyses.tuco.naming import region_title
from analyses.tuco.scaling import measures
from analyses.tuco.scaling.measures import Measure
from analyses.tuco.scaling.regions import WEIGHTS
from analyses.tuco.scaling.statements import change
from workbench import plotting

if TYPE_CHECKING:
    from analyses.tuco.scaling.result import ScalingResult

_ALPHA = "alpha: fine-tuning's contribution times"
_MOST_TICKS = 15


def agreement(result: "ScalingResult", *, ax: Axes | None = None) -> Axes:
    """Draw shares over alpha: agreement with the labels and with the judge, consistency over orders."""
    wanted = (measures.AGREEMENT, measures.RIGHT_IN_BOTH, measures.CONSISTENCY, measures.SAME_AS_JUDGE)
    return _curves(result, wanted, control=wanted[:1], y_label="share of verdicts", reference=0.5, ax=ax)


def margins(result: "ScalingResult", *, ax: Axes | None = None) -> Axes:
    """Draw the margin toward the label and the push toward the first slot over alpha."""
    wanted = (measures.MARGIN, measures.POSITION)
    return _curves(result, wanted, control=wanted, y_label="logits", reference=0.0, ax=ax)


def scores(result: "ScalingResult", *, ax: Axes | None = None) -> Axes:
    """Draw expected probabilities over alpha: of the labelled answer, of the first slot, of the verdict tokens."""
    wanted = (measures.LABEL_SCORE, measures.FIRST_SCORE, measures.LABEL_MASS)
    return _curves(result, wanted, control=wanted[:1], y_label="mean probability", reference=0.5, ax=ax)


def length(result: "ScalingResult", *, ax: Axes | None = None) -> Axes:
    """Draw the pull of length beyond the labels over alpha."""
    wanted = (measures.LENGTH_SLOPE,)
    return _curves(
        result, wanted, control=wanted, y_label=f"logits per e-fold of {result.length_name}", reference=0.0, ax=ax
    )


def longer(result: "ScalingResult", *, ax: Axes | None = None) -> Axes:
    """Draw the share of verdicts for the longer answer over alpha, with that of the labels as a line."""
    share = result.share(measures.label_longer(result.labels, result.readings().log_ratio)).value
    wanted = (measures.LONGER,)
    reference = None if np.isnan(share) else share
    return _curves(result, wanted, control=wanted, y_label="share for the longer answer", reference=reference, ax=ax)


def items(result: "ScalingResult", *, ax: Axes | None = None) -> Axes:
    """Draw every item's margin toward the judge's own verdict over alpha; verdicts that flip stand out."""
    content = result.content()[0]
    oriented = content * np.sign(content[result.at_one])
    flips = ~(np.isnan(result.flips()[0]) & np.isnan(result.flips(upward=True)[0]))
    ax = ax or plotting.new_axes()
    with plotting.style():
        ax.axhline(0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        for chosen, colour, label in ((~flips, plotting.CONTROL, "never flip"), (flips, plotting.PALETTE[5], "flip")):
            drawn = ax.plot(result.alphas, oriented[:, chosen], color=colour, linewidth=0.8, alpha=0.55)
            if drawn:
                drawn[0].set_label(f"{label} ({int(chosen.sum())})")
        ax.legend(loc="best")
        ax.set_xlabel(_ALPHA)
        ax.set_ylabel("toward the verdict at alpha 1, logits")
    return _on_grid(result, ax)


def flip_counts(result: "ScalingResult", *, ax: Axes | None = None) -> Axes:
    """Draw how many verdicts flip at which alpha, below and above 1."""
    ax = ax or plotting.new_axes()
    bins = np.linspace(result.alphas[0], result.alphas[-1], 25)
    with plotting.style():
        for upward, colour, label in (
            (False, plotting.PALETTE[0], "going down"),
            (True, plotting.PALETTE[1], "going up"),
        ):
            found = result.flips(upward=upward)[0]
            found = found[~np.isnan(found)]
            if len(found):
                ax.hist(found, bins=bins.tolist(), color=colour, alpha=0.85, label=f"{label} from 1 ({len(found)})")
        ax.axvline(1.0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        if ax.get_legend_handles_labels()[1]:
            ax.legend(loc="best")
        ax.set_xlabel("flip alpha")
        ax.set_ylabel("items")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def flips_by_margin(result: "ScalingResult", *, ax: Axes | None = None) -> Axes:
    """Draw each flip alpha below 1 against the margin of the verdict at 1."""
    margin = np.abs(result.content()[0, result.at_one])
    below = result.flips()[0]
    never = np.isnan(below)
    ax = ax or plotting.new_axes()
    with plotting.style():
        ax.scatter(margin[~never], below[~never], s=18, color=plotting.PALETTE[0], alpha=0.8, label="flips")
        at = np.full(int(never.sum()), result.alphas[0])
        ax.scatter(margin[never], at, s=18, marker="|", color=plotting.CONTROL, label="never flips below 1")
        ax.legend(loc="best")
        ax.set_xlabel("margin at alpha 1, logits (mean of both orders)")
        ax.set_ylabel("flip alpha")
    return ax


def compare(result: "ScalingResult", *, ax: Axes | None = None) -> Axes:
    """Draw one line per curve: what is scaled where."""
    measure = _compared(result)
    found = {name: result.curve(measure, curve=k) for k, name in enumerate(result.curves)}
    ax = plotting.lines(
        {region_title(name): np.array([i.value for i in intervals]) for name, intervals in found.items()},
        x=result.alphas,
        x_label=_ALPHA,
        y_label=f"{measure.title}{_unit(measure)}",
        ax=ax,
    )
    drawn = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    for line in drawn[len(plotting.PALETTE) :]:
        line.set_linestyle(":")  # colours begin again
    with plotting.style():
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="scaled there only")
    return _on_grid(result, ax)


def compare_changes(result: "ScalingResult", *, ax: Axes | None = None) -> Axes:
    """Draw what each curve loses from alpha 1 to the far end, with that of random changes as a mark."""
    measure = _compared(result)
    found = {
        region_title(name): change(result, measure, curve=k) for k, name in enumerate(result.curves) if name != WEIGHTS
    }
    return plotting.bars(
        {name: c.own.value for name, c in found.items()},
        intervals={name: (c.own.low, c.own.high) for name, c in found.items()},
        controls={name: float(c.draws.mean()) for name, c in found.items() if len(c.draws)},
        control_label="random change of equal norm",
        value_label=f"{measure.title}, lost from alpha 1 to {result.alphas[result.far]:g}{_unit(measure)}",
        ax=ax,
    )


def _curves(
    result: "ScalingResult",
    wanted: Sequence[Measure],
    *,
    control: Sequence[Measure],
    y_label: str,
    reference: float | None,
    ax: Axes | None,
) -> Axes:
    """Draw measures along the first curve, the base's own points at its left, random changes dashed with range."""
    shown = [measure for measure in wanted if measure in result.applicable()]
    series: dict[str, np.ndarray] = {}
    bands: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for measure in shown:
        intervals = result.curve(measure)
        series[measure.title] = np.array([i.value for i in intervals])
        bands[measure.title] = (np.array([i.low for i in intervals]), np.array([i.high for i in intervals]))
    null = [measure for measure in control if measure in shown and len(result.control_gap)]
    names = {measure: f"random changes: {measure.title}" for measure in null}
    for measure, name in names.items():
        draws = result.control_curve(measure)
        series[name], bands[name] = draws.mean(0), (draws.min(0), draws.max(0))
    ax = ax or plotting.new_axes(height=3.2 + 0.18 * len(series))
    ax = plotting.lines(
        series,
        x=result.alphas,
        bands=bands,
        controls=tuple(names.values()),
        x_label=_ALPHA,
        y_label=y_label,
        reference=reference,
        ax=ax,
    )
    with plotting.style():
        for k, measure in enumerate(shown):
            at, colour = float(result.alphas[0]), plotting.PALETTE[k % len(plotting.PALETTE)]
            label = "the base itself" if k == 0 else None
            own = result.at_base(measure).value
            ax.scatter([at], [own], s=46, marker="D", facecolors="none", edgecolors=colour, label=label, zorder=4)
        _legend_above(ax)
    return _on_grid(result, ax)


def _legend_above(ax: Axes) -> None:
    """Keep many long names off the curves."""
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.02), borderaxespad=0.0, ncols=2, fontsize=8, columnspacing=1.2)


def _on_grid(result: "ScalingResult", ax: Axes) -> Axes:
    """Tick the alphas that were measured."""
    if len(result.alphas) <= _MOST_TICKS:
        ax.set_xticks(result.alphas, [f"{alpha:g}" for alpha in result.alphas])
    return ax


def _compared(result: "ScalingResult") -> Measure:
    return measures.MARGIN if measures.MARGIN in result.applicable() else measures.SAME_AS_JUDGE


def _unit(measure: Measure) -> str:
    return f", {measure.unit}" if measure.unit else ""


def _has_lengths(result: "ScalingResult") -> bool:
    return bool((np.nan_to_num(result.readings().log_ratio) != 0).any())


def _has_margins(result: "ScalingResult") -> bool:
    return any(measure in result.applicable() for measure in (measures.MARGIN, measures.POSITION))


def _several(result: "ScalingResult") -> bool:
    return len([name for name in result.curves if name != WEIGHTS]) > 1


def _lines_to_compare(result: "ScalingResult") -> bool:
    return len(result.curves) > 1


def _controls(result: "ScalingResult") -> str:
    n = len(result.control_gap)
    return f" Grey: mean and range of {n} random changes of equal norm, scaled the same way." if n else ""


def _flip_caption(result: "ScalingResult") -> str:
    below, above = result.flips()[0], result.flips(upward=True)[0]
    never = int((np.isnan(below) & np.isnan(above)).sum())
    return (
        f"Alpha next to 1 at which a verdict (mean of both orders) changes, linear between grid points; {never} of "
        f"{len(below)} items never flip on the grid."
    )


PANELS = (
    Drawing(
        "Agreement and consistency over alpha",
        lambda r: (
            f"The {r.ends} with fine-tuning's contribution scaled ({r.curves[0]}); the diamonds on the left are the "
            f"base itself. Bands are 95% (Wilson) over items.{_controls(r)}"
        ),
        figure_of(agreement),
    ),
    Drawing(
        "Margin and position over alpha",
        lambda r: (
            "Mean verdict gap toward the labelled answer, and its part that stays with the first slot whichever answer "
            f"stands there; bands are 95% over items.{_controls(r)}"
        ),
        figure_of(margins),
        _has_margins,
    ),
    Drawing(
        "Scores over alpha",
        lambda r: (
            "Probability of the labelled answer and of the first slot given a verdict, and of the two verdict tokens "
            f"together: where that falls, the model is out of format.{_controls(r)}"
        ),
        figure_of(scores),
    ),
    Drawing(
        "Verdicts for the longer answer",
        lambda r: (
            "Items whose answers differ in length. The line across is the share of labels for the longer answer: only "
            f"what differs from it is a bias.{_controls(r)}"
        ),
        figure_of(longer),
        _has_lengths,
    ),
    Drawing(
        "Pull of length over alpha",
        lambda r: (
            "Slope of the content margin on the log length ratio with the label held fixed; 0 is a judge that length "
            f"doesn't move.{_controls(r)}"
        ),
        figure_of(length),
        _has_lengths,
    ),
    Drawing(
        "Every item's margin over alpha",
        lambda r: (
            "Content margin oriented to the item's verdict at alpha 1; a line that crosses zero is a flipped verdict."
        ),
        figure_of(items),
    ),
    Drawing("Where verdicts flip", _flip_caption, figure_of(flip_counts)),
    Drawing(
        "Flip alpha and margin",
        lambda r: (
            "How much of fine-tuning each verdict needs, against how clear it is with all of it. Marks on the lower "
            "edge never flip below 1."
        ),
        figure_of(flips_by_margin),
    ),
    Drawing(
        "What is scaled where",
        lambda r: (
            "Each line scales fine-tuning in one place and leaves the judge elsewhere as it is, so that all meet "
            "at alpha 1; the steeper a line falls to the left, the more of the verdict hangs on that place."
        ),
        figure_of(compare),
        _lines_to_compare,
    ),
    Drawing(
        "What each part is worth",
        lambda r: (
            "What the verdict loses from alpha 1 to the far end of each curve, with 95% over items; orange marks "
            "are the mean of random changes of equal norm."
        ),
        figure_of(compare_changes),
        _several,
    ),
)
"""Every panel, in reading order."""
