"""Matplotlib primitives that every figure of the workbench is made of.

Figures are ``Figure`` objects built directly: no pyplot, so nothing is registered globally or has to be closed.
Style is set in a context and put back, global ``rcParams`` are left as found. Backgrounds are transparent and text
is one mid-grey, so that a figure reads on white and on black; in :func:`figure_svg` that grey becomes the text colour
of the page. Colours are Okabe and Ito's, cividis, and a blue-to-orange scale with zero in the middle.
"""

import hashlib
import io
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from workbench.errors import ParameterError

Numbers = Sequence[float] | Sequence[int] | np.ndarray
"""Plain numbers in a row."""

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Okabe and Ito's colours but black, the strongest contrasts first."""

INK = "#7c8188"
"""Grey of text and axes: contrast above 3.5 on white and on black."""

CONTROL = "#9aa0a8"
"""Grey of controls: what a finding has to differ from."""

DIVERGING = LinearSegmentedColormap.from_list("jw_blue_orange", ["#0b3c6f", "#4f9bd6", "#f3f1ee", "#f0a04b", "#8a3a00"])
"""Blue below zero, orange above, told apart by every common kind of colour vision."""

SEQUENTIAL = "cividis"
"""Scale for quantities without a sign."""

_STYLE: Mapping[str, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "judge-workbench",
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the workbench style inside a ``with`` block and put back what was there, whatever happens.

    Not ``rc_context``: that restores all of rcParams, the backend included, which can suppress inline display
    (matplotlib issues 25041 and 26716).
    """
    params = cast("dict[str, Any]", mpl.rcParams)
    before = {key: params[key] for key in _STYLE}
    params.update(_STYLE)
    try:
        yield
    finally:
        params.update(before)


class DisplayFigure(Figure):
    """A figure that shows itself in a notebook as vector graphics, without pyplot and in the page's text colour."""

    def _repr_html_(self) -> str:
        return figure_svg(self)


def new_axes(*, width: float = 7.0, height: float = 3.4, title: str = "") -> Axes:
    """Return the only axes of a new figure in the workbench style; ``axes.figure`` is the figure.

    Args:
        width: Inches.
        height: Inches.
        title: Shown above, as plain text.
    """
    with style():
        ax = DisplayFigure(figsize=(width, height), layout="constrained").add_subplot()
        ax.set_title(label_text(title))
    return ax


def label_text(text: object) -> str:
    """Return text that matplotlib draws as it is: no mathematics between dollars, no control characters."""
    plain = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" if c != "\n" else "↵" for c in str(text))
    return plain.replace("$", r"\$")


def heatmap(
    values: Float[np.ndarray, "row column"],
    *,
    rows: Sequence[object],
    columns: Sequence[object],
    title: str = "",
    row_label: str = "",
    column_label: str = "",
    value_label: str = "",
    center: float | None = 0.0,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a matrix with its labels; NaN cells stay empty.

    Args:
        values: (row, column), any unit.
        rows: Label of each row, the first on top.
        columns: Label of each column.
        title: Shown above.
        row_label: What the rows are.
        column_label: What the columns are.
        value_label: What the colours are, with its unit.
        center: Value drawn neutral on the diverging scale, symmetric around it; None takes the sequential scale.
        limits: Lowest and highest value of the scale; from the data when None.
        ax: Where to draw; a new figure when None.

    Raises:
        ParameterError: Labels and values differ in size.
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise ParameterError(
            "labels don't fit the matrix.", argument="values", got=values.shape, allowed=f"{(len(rows), len(columns))}"
        )
    if ax is None:
        beside = 0.085 * max((len(str(name)) for name in rows), default=0)  # inches the row labels take
        width = min(12.0, max(5.0, 2.5 + beside + 0.32 * len(columns)))
        ax = new_axes(width=width, height=min(12.0, 1.4 + 0.24 * len(rows)))
    norm, colours = _scale(values, center=center, limits=limits)
    with style():
        image = ax.imshow(np.ma.masked_invalid(values), aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
        _label_cells(ax, rows=rows, columns=columns)
        # A colour bar is as tall as its rows: what it measures is broken into lines that fit beside few of them.
        label = textwrap.fill(label_text(value_label), max(20, round(3.2 * len(rows))))
        bar = ax.get_figure(root=True).colorbar(image, ax=ax, label=label, fraction=0.05, pad=0.02)  # pyright: ignore[reportOptionalMemberAccess]: axes in use have a figure
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]: matplotlib's stub types outline as a patch factory
        _finish(ax, title=title, x_label=column_label, y_label=row_label)
    return ax


def _scale(values: np.ndarray, *, center: float | None, limits: tuple[float, float] | None) -> tuple[Normalize, Any]:
    finite = values[np.isfinite(values)]
    low, high = limits or ((float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))
    if center is None:
        return Normalize(low, high if high > low else low + 1.0), SEQUENTIAL
    reach = max(abs(low - center), abs(high - center)) or 1.0
    return TwoSlopeNorm(center, center - reach, center + reach), DIVERGING


def _label_cells(ax: Axes, *, rows: Sequence[object], columns: Sequence[object]) -> None:
    # Past some sixty labels they overlap: every n-th is drawn, the frame holds all of them.
    steps = max(1, -(-len(columns) // 60)), max(1, -(-len(rows) // 60))
    names = [label_text(name) for name in columns]
    small = 7.5, 10.0
    ax.set_xticks(range(0, len(columns), steps[0]), names[:: steps[0]], fontsize=small[len(columns) <= 40])
    ax.set_yticks(
        range(0, len(rows), steps[1]),
        [label_text(name) for name in rows][:: steps[1]],
        fontsize=small[len(rows) <= 40],
    )
    if max(map(len, names), default=0) > 3:
        ax.tick_params(axis="x", labelrotation=60)
    ax.tick_params(length=0)


def lines(
    series: Mapping[str, Numbers],
    *,
    x: Numbers,
    bands: Mapping[str, tuple[Any, Any]] | None = None,
    controls: Sequence[str] = (),
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    reference: float | None = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw one line per series over shared x values, with interval bands; controls are grey and dashed.

    Args:
        series: Name to y values, one per x; NaN leaves a gap.
        x: Shared positions, e.g. layers.
        bands: Name to (low, high) arrays of its interval.
        controls: Names of the series that are controls.
        title: Shown above.
        x_label: What x is, with its unit.
        y_label: What y is, with its unit.
        reference: Where to draw the line of no effect; none when None.
        ax: Where to draw; a new figure when None.

    Raises:
        ParameterError: A series has another length than ``x``, or a band or control names no series.
    """
    if bad := [name for name, y in series.items() if len(y) != len(x)]:
        raise ParameterError(
            "a series differs in length from x.", argument="series", got=bad, allowed=f"{len(x)} values"
        )
    if unknown := {*(bands or {}), *controls} - set(series):
        raise ParameterError(
            "bands and controls must name series.", argument="bands", got=sorted(unknown), allowed=list(series)
        )
    ax = ax or new_axes()
    with style():
        _reference(ax, reference, vertical=False)
        for name, colour in _colours(list(series), controls=controls).items():
            dash = "--" if name in controls else "-"
            marker = "o" if len(x) <= 48 else None
            ax.plot(
                x, series[name], color=colour, linestyle=dash, marker=marker, markersize=3.5, label=label_text(name)
            )
            if bands and name in bands:
                ax.fill_between(x, *bands[name], color=colour, alpha=0.18, linewidth=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=all(float(v).is_integer() for v in x), nbins=12))
        _legend(ax, count=len(series))
        _finish(ax, title=title, x_label=x_label, y_label=y_label)
    return ax


def bars(
    values: Mapping[str, float],
    *,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    controls: Mapping[str, float] | None = None,
    control_label: str = "control",
    title: str = "",
    value_label: str = "",
    reference: float | None = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw horizontal bars in order, with intervals, and the control of each as a mark across its bar.

    Args:
        values: Name to value, the first on top.
        intervals: Name to (low, high).
        controls: Name to the same number where nothing should be found.
        control_label: What the controls are, in the legend.
        title: Shown above.
        value_label: What the bars measure, with its unit.
        reference: Where to draw the line of no effect; none when None.
        ax: Where to draw; a new figure when None.

    Raises:
        ParameterError: An interval or control names no bar.
    """
    names = list(values)
    if unknown := {*(intervals or {}), *(controls or {})} - set(names):
        raise ParameterError("no such bar.", argument="intervals", got=sorted(unknown), allowed=names)
    ax = ax or new_axes(height=1.1 + 0.34 * len(names))
    with style():
        rows = {name: len(names) - 1 - index for index, name in enumerate(names)}
        _reference(ax, reference, vertical=True)
        ax.barh([rows[n] for n in names], [values[n] for n in names], color=PALETTE[0], height=0.6, alpha=0.85)
        for name, (low, high) in (intervals or {}).items():
            ax.plot([low, high], [rows[name]] * 2, color=INK, linewidth=2.2, solid_capstyle="butt")
        for index, (name, value) in enumerate((controls or {}).items()):
            label = label_text(control_label) if index == 0 else None
            ax.plot([value] * 2, [rows[name] - 0.38, rows[name] + 0.38], color=PALETTE[5], linewidth=2.4, label=label)
        ax.set_yticks(list(rows.values()), [label_text(name) for name in names])
        if controls:
            _legend_above(ax, title=title)
        _finish(ax, title=title, x_label=value_label)
    return ax


def strip(
    groups: Mapping[str, Numbers],
    *,
    controls: Mapping[str, Numbers] | None = None,
    control_label: str = "control",
    muted: Sequence[str] = (),
    title: str = "",
    value_label: str = "",
    reference: float | None = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw every value as a dot, one row per group with its mean, the control's dots in grey below each group's own.

    Args:
        groups: Name to values, one per item; NaN is left out.
        controls: Name to values of the same group's control.
        control_label: What the controls are, in the legend.
        muted: Groups that are controls themselves: drawn grey.
        title: Shown above.
        value_label: What the values are, with their unit.
        reference: Where to draw the line of no effect; none when None.
        ax: Where to draw; a new figure when None.

    Raises:
        ParameterError: A control names no group.
    """
    if unknown := {*(controls or {}), *muted} - set(groups):
        raise ParameterError("no such group.", argument="controls", got=sorted(unknown), allowed=list(groups))
    ax = ax or new_axes(height=1.2 + 0.6 * len(groups))
    with style():
        _reference(ax, reference, vertical=True)
        colours = _colours(list(groups), controls=muted)
        for index, (name, values) in enumerate(groups.items()):
            row = len(groups) - 1 - index
            label = label_text(control_label) if index == 0 else None
            if controls and name in controls:
                _dots(ax, controls[name], at=row - 0.2, colour=CONTROL, label=label)
            _dots(ax, values, at=row + (0.12 if controls else 0.0), colour=colours[name], label=None)
        ax.set_yticks(range(len(groups) - 1, -1, -1), [label_text(name) for name in groups])
        ax.set_ylim(-0.6, len(groups) - 0.4)
        if controls:
            _legend_above(ax, title=title)
        _finish(ax, title=title, x_label=value_label)
    return ax


def _dots(ax: Axes, values: Numbers, *, at: float, colour: str, label: str | None) -> None:
    finite = np.asarray(values, dtype=float)
    finite = np.sort(finite[np.isfinite(finite)])
    # Spread by the golden ratio: neighbours in value land apart, and the picture is the same every time.
    spread = (np.arange(finite.size) * 0.6180339887 % 1.0 - 0.5) * 0.24
    ax.scatter(finite, at + spread, s=14, color=colour, alpha=0.8, linewidths=0, label=label)
    if finite.size:
        ax.plot([finite.mean()] * 2, [at - 0.2, at + 0.2], color=colour, linewidth=2.6)


def _colours(names: Sequence[str], *, controls: Sequence[str]) -> dict[str, str]:
    own = iter(PALETTE * (1 + len(names) // len(PALETTE)))
    return {name: CONTROL if name in controls else next(own) for name in names}


def _reference(ax: Axes, at: float | None, *, vertical: bool) -> None:
    if at is not None:
        (ax.axvline if vertical else ax.axhline)(at, color=INK, linewidth=0.8, alpha=0.6)


def _legend(ax: Axes, *, count: int) -> None:
    if count > 1 and ax.get_legend_handles_labels()[1]:
        ax.legend(loc="best", ncols=1 if count < 6 else 2)


def _legend_above(ax: Axes, *, title: str) -> None:
    """Put the legend where it hides nothing: above the axes, unless a title stands there."""
    if title:
        ax.legend(loc="best")
    else:
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.0)


def _finish(ax: Axes, *, title: str = "", x_label: str = "", y_label: str = "") -> None:
    for text, put in ((title, ax.set_title), (x_label, ax.set_xlabel), (y_label, ax.set_ylabel)):
        if text:
            put(label_text(text))


def figure_svg(figure: Figure, *, prefix: str | None = None) -> str:
    """Return a figure as a self-contained SVG document: same figure, same text, and no date, in every process.

    Text stays text, in the colour of the page around it; ids carry a prefix, so that many figures share one page.

    Args:
        figure: Any matplotlib figure; it isn't changed or closed.
        prefix: Put before every id; from the content when None. Two equal figures on one page need different ones.
    """
    buffer = io.StringIO()
    nothing = cast("dict[str, Any]", dict.fromkeys(("Date", "Creator", "Format", "Type")))
    with style(), warnings.catch_warnings():
        # The browser draws the text, with fonts matplotlib doesn't have.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    raw = buffer.getvalue()
    body = re.sub(r"<!--.*?-->", "", raw[raw.index("<svg") :], flags=re.DOTALL).strip()
    # matplotlib's one style rule matches every element, so inside a page it would reach past this figure.
    body = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = body.replace("<svg ", '<svg style="stroke-linejoin:round;stroke-linecap:butt" ', 1)
    mark = prefix or "jw" + hashlib.sha256(body.encode()).hexdigest()[:10]
    return re.sub(r"<[^>]+>", lambda tag: _adapt_tag(tag[0], mark), body)


def _adapt_tag(tag: str, mark: str) -> str:
    tag = re.sub(r'(\sid=")', rf"\1{mark}-", tag)
    tag = re.sub(r'(url\(#|href="#)', rf"\1{mark}-", tag)
    return re.sub(INK, "currentColor", tag, flags=re.IGNORECASE)
