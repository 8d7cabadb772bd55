"""Figures of a path attribution. Each function draws numbers the result already holds and returns axes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.judged import figure_of
from analyses.tuco.naming import region_title
from analyses.tuco.paths import statements
from analyses.tuco.views import VIEWS
from workbench import plotting

if TYPE_CHECKING:
    from analyses.tuco.paths.result import PathsResult

_MOST_TOKENS = 60
_MOST_NAMES = 10
_LETTER, _LINE = 0.019, 0.04  # of the data's span, in small type
Drawn = Callable[["PathsResult"], Figure]
"""Makes a new figure of a result."""


def place_map(result: "PathsResult", *, view: str, ax: Axes | None = None) -> Axes:
    """Draw the mean attribution of every unit at every region; the cells and what lies outside add up to the change.

    Args:
        result: What to draw.
        view: A key of ``VIEWS``.
        ax: Where to draw; a new figure when None.
    """
    names, values = result.in_view(result.attribution, view)
    return plotting.heatmap(
        result.cells(values, view).value,
        rows=result.units,
        columns=[region_title(name) for name in names],
        row_label="unit",
        column_label="tokens of",
        value_label=f"{result.unit} {VIEWS[view]}",
        ax=ax,
    )


def unit_bars(result: "PathsResult", *, view: str, ax: Axes | None = None) -> Axes:
    """Draw the attribution of each unit, all tokens together, with interval and the mean of random changes.

    Args:
        result: What to draw.
        view: A key of ``VIEWS``.
        ax: Where to draw; a new figure when None.
    """
    return _bars(result, statements.places(result, view)["unit"], view, ax)


def region_bars(result: "PathsResult", *, view: str, ax: Axes | None = None) -> Axes:
    """Draw the attribution at each region's tokens, all units together, with interval and the mean of random changes.

    Args:
        result: What to draw.
        view: A key of ``VIEWS``.
        ax: Where to draw; a new figure when None.
    """
    return _bars(result, statements.places(result, view)["region"], view, ax)


def _bars(result: "PathsResult", place: statements.Places, view: str, ax: Axes | None) -> Axes:
    names = [region_title(name) for name in place.names]
    intervals = {name: (float(place.cells.low[k]), float(place.cells.high[k])) for k, name in enumerate(names)}
    controls = dict(zip(names, place.draws.mean(0).tolist(), strict=True)) if len(place.draws) else None
    return plotting.bars(
        dict(zip(names, place.cells.value.tolist(), strict=True)),
        intervals=intervals,
        controls=controls,
        control_label="random change of equal norm",
        value_label=f"{result.unit} {VIEWS[view]} ({result.granularity}s along the path)",
        ax=ax,
    )


def removal(result: "PathsResult", *, view: str, ax: Axes | None = None) -> Axes:
    """Draw what each place was attributed against the gap really lost without it; the line is where both agree.

    Args:
        result: What to draw.
        view: A key of ``VIEWS``.
        ax: Where to draw; a new figure when None.
    """
    attributed, lost, names = statements.compared(result, view)
    ax = ax or plotting.new_axes(width=5.4, height=4.6)
    with plotting.style():
        reach = [min(attributed.min(), lost.min()), max(attributed.max(), lost.max())]
        ax.plot(reach, reach, color=plotting.INK, linewidth=0.8, alpha=0.6)
        n = len(result.units)
        for part, label, marker in ((slice(0, n), "units", "o"), (slice(n, None), "regions", "s")):
            colour = plotting.PALETTE[0 if label == "units" else 1]
            ax.plot(attributed[part], lost[part], linestyle="none", marker=marker, color=colour, label=label)
        _name_points(ax, attributed, lost, [region_title(name) for name in names])
        ax.set_xlabel(f"attributed, {result.unit} {VIEWS[view]}")
        ax.set_ylabel(f"gap lost when really taken out, {result.unit}")
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.0, ncols=2)
    return ax


def _name_points(ax: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """Write names beside the farthest points, on no other point or name; what finds no place is left out."""
    at = np.stack([x, y], axis=1) / max(float(np.ptp([*x, *y])), 1e-12)
    taken = [(left - 0.01, left + 0.01, base) for left, base in at]
    for k in np.argsort(-np.abs(at).max(1))[:_MOST_NAMES]:
        size = _LETTER * len(names[k])
        for right, below in ((True, False), (True, True), (False, False), (False, True)):
            start = at[k, 0] + 0.015 if right else at[k, 0] - 0.015 - size
            base = at[k, 1] + (-_LINE if below else _LINE) / 2
            if all(abs(base - v) > 0.7 * _LINE or start > high or start + size < low
                   for j, (low, high, v) in enumerate(taken) if j != k):  # fmt: skip
                taken.append((start, start + size, base))
                ax.annotate(
                    plotting.label_text(names[k]),
                    (x[k], y[k]),
                    fontsize=8,
                    xytext=(5 if right else -5, -9 if below else 2),
                    textcoords="offset points",
                    ha="left" if right else "right",
                )
                break
    ax.margins(x=0.16)


def example_map(result: "PathsResult", *, index: int = 0, order: int = 0, ax: Axes | None = None) -> Axes:
    """Draw unit by token of one example, the last tokens of the prompt.

    Args:
        result: What to draw.
        index: Which example.
        order: Which answer order.
        ax: Where to draw; a new figure when None.
    """
    tokens = result.example_tokens[index][order]
    first = max(0, len(tokens) - _MOST_TOKENS)
    shown = f"{result.example_items[index]}, {result.orders[order]} order"
    return plotting.heatmap(
        result.example_attribution[index, order, :, first : len(tokens)],
        rows=result.units,
        columns=[token or "∅" for token in tokens[first:]],
        row_label="unit",
        column_label=f"token (the last {len(tokens) - first} of {shown})",
        value_label=f"{result.unit} {_up(result)}",
        ax=ax,
    )


def panels_of(result: "PathsResult") -> list[tuple[str, str, Drawn]]:
    """Return title, caption and drawing of each panel, in reading order."""
    made = [
        (title, caption, figure_of(draw, view=view))
        for view in result.views
        for title, caption, draw in _of(result, view)
    ]
    if result.example_items:
        made.append(
            (
                f"Token by token: {result.example_items[0]}",
                "What each unit's fine-tuning at each token was worth to this verdict, by every route; orange "
                f"{_up(result)}, blue away.",
                figure_of(example_map),
            )
        )
    return made


def _of(result: "PathsResult", view: str) -> list[tuple[str, str, Callable[..., Axes]]]:
    way = VIEWS[view]
    made: list[tuple[str, str, Callable[..., Axes]]] = [
        (
            f"Which blocks, at which text, carried it {way}",
            "Mean attribution of every unit at the tokens of every span; with the parts of embedding, norm and head "
            f"the cells add up to the judge's gap minus the base's. Orange {way}, blue away.",
            place_map,
        ),
        (
            f"By block, {way}",
            "The same, all tokens together, with 95% over items. Orange mark: random changes of equal norm, mean of "
            "the draws.",
            unit_bars,
        ),
        (
            f"By text, {way}",
            "The same, all units together, by the span a write stands at. Orange mark: random changes of equal norm.",
            region_bars,
        ),
    ]
    if not np.isnan(result.removed_unit).all():
        made.append(
            (
                f"Attribution against really taking it out, {way}",
                "Each block and each span: what the path attributed to it, and the gap really lost when the judge ran "
                "without fine-tuning there, on items that named nothing. Above the line places need one another, below "
                "it several carry the same thing.",
                removal,
            )
        )
    return made


def _up(result: "PathsResult") -> str:
    return "toward the slot shown first" if result.choices else "toward higher values"
