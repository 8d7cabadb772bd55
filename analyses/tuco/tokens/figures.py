"""Figures of a token map. Each function draws numbers the result already holds."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from analyses.judged import Drawing, figure_of
from analyses.metrics import LEVEL, Interval
from analyses.tuco.naming import region_title
from analyses.tuco.tokens.statements import Concentration, concentrations, pooled
from workbench import plotting

if TYPE_CHECKING:
    from analyses.tuco.tokens.result import TokenMapResult

_MOST_TOKENS = 60


def share_by_region(result: "TokenMapResult", *, ax: Axes | None = None) -> Axes:
    """Draw each region's TuCo with its interval over items; the mark is a random change of equal norm."""
    found = [pooled(result, result.finetuned_norm[..., k], result.pretrained_norm[..., k]) for k in _regions(result)]
    names = [region_title(result.regions[k]) for k in _regions(result)]
    controls = {}
    if len(result.control_finetuned_norm):
        means = [v.mean(0) for v in (result.control_finetuned_norm, result.control_pretrained_norm)]
        drawn = [pooled(result, *(mean[..., k] for mean in means)).value for k in _regions(result)]
        controls = {name: value for name, value in zip(names, drawn, strict=True) if not np.isnan(value)}
    return plotting.bars(
        {name: interval.value for name, interval in zip(names, found, strict=True)},
        intervals={name: (interval.low, interval.high) for name, interval in zip(names, found, strict=True)},
        controls=controls,
        control_label="random change of equal norm",
        value_label=f"TuCo, mean over tokens ({result.granularity}, {result.norm})",
        ax=ax,
    )


def concentration_by_region(result: "TokenMapResult", *, ax: Axes | None = None) -> Axes:
    """Draw the share of each region over the share of all tokens, beside where random changes fall."""
    tests = [test for test in concentrations(result) if not np.isnan(test.own.value)]
    ax = ax or plotting.new_axes(height=1.2 + 0.4 * len(tests))
    rows = np.arange(len(tests))[::-1]
    with plotting.style():
        ax.axvline(1.0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        for row, test in zip(rows, tests, strict=True):
            ax.plot([test.chance.low, test.chance.high], [row - 0.16] * 2, color=plotting.CONTROL, linewidth=5)
            colour = plotting.PALETTE[0]
            face = colour if test.p < LEVEL else "white"
            ax.plot([test.own.low, test.own.high], [row + 0.12] * 2, color=colour, linewidth=1.8)
            ax.plot([test.own.value], [row + 0.12], "o", color=colour, markerfacecolor=face, markersize=6)
        ax.set_yticks(rows, [plotting.label_text(_tested_name(test)) for test in tests])
        ax.set_xlabel("share in the region / share in all tokens")
    return ax


def _tested_name(test: Concentration) -> str:
    return f"{region_title(test.region)} ({'no test' if np.isnan(test.p) else f'p {test.p:.2g}'})"


def parts_by_region(result: "TokenMapResult", *, ax: Axes | None = None) -> Axes:
    """Draw which unit wrote each region's TuCo; the cells of a row add up to it."""
    whole = result.finetuned_norm + result.pretrained_norm
    chosen = _regions(result)
    values = np.array(
        [
            [result.ratio(result.finetuned_parts[..., k, u], whole[..., k]).value for u in range(len(result.units))]
            for k in chosen
        ]
    )
    return plotting.heatmap(
        values,
        rows=[region_title(result.regions[k]) for k in chosen],
        columns=result.units,
        column_label="unit",
        value_label="part of TuCo",
        ax=ax,
    )


def example_map(result: "TokenMapResult", *, ax: Axes | None = None) -> Axes:
    """Draw unit by token of the first example: each cell a signed part of the token's TuCo."""
    tokens = result.example_tokens[0][0]
    whole = (result.example_finetuned + result.example_pretrained)[0, 0, : len(tokens), None]
    parts = result.example_finetuned_parts[0, 0, : len(tokens)]
    values = np.divide(parts, whole, out=np.full(parts.shape, np.nan), where=whole > 0)
    first = max(0, len(tokens) - _MOST_TOKENS)
    return plotting.heatmap(
        values[first:].T,
        rows=result.units,
        columns=[token or "∅" for token in tokens[first:]],
        row_label="unit",
        column_label=f"token (the last {len(tokens) - first} of {result.example_items[0]}, {result.orders[0]} order)",
        value_label="part of TuCo",
        ax=ax,
    )


def completion_curve(result: "TokenMapResult", *, ax: Axes | None = None) -> Axes:
    """Draw TuCo from the last prompt token through the completion, mean over the prompts that reach each token."""
    name, control = "judge", "random change of equal norm"
    steps = np.arange(result.curve.shape[-1])
    found = [_pooled_at(result, result.finetuned_curve[..., s], result.pretrained_curve[..., s]) for s in steps]
    series = {name: np.array([interval.value for interval in found])}
    if len(result.control_finetuned_curve):
        means = [v.mean(0) for v in (result.control_finetuned_curve, result.control_pretrained_curve)]
        series[control] = np.array([_pooled_at(result, *(mean[..., s] for mean in means)).value for s in steps])
    bands = {name: (np.array([i.low for i in found]), np.array([i.high for i in found]))}
    return plotting.lines(
        series,
        x=steps,
        bands=bands,
        controls=[control] if control in series else [],
        x_label="completion token (0: last prompt token)",
        y_label="TuCo",
        ax=ax,
    )


def _pooled_at(result: "TokenMapResult", finetuned: np.ndarray, pretrained: np.ndarray) -> Interval:
    """Return the share at one step over the prompts that reach it: either order of an item may be the shorter."""
    reached = ~np.isnan(finetuned)
    counts = reached.sum(1)
    sides = [
        np.where(counts > 0, np.where(reached, v, 0.0).sum(1) / np.maximum(counts, 1), np.nan)
        for v in (finetuned, pretrained)
    ]
    return pooled(result, *sides)


def _regions(result: "TokenMapResult") -> list[int]:
    return [k for k in range(len(result.regions)) if not np.isnan(result.finetuned_norm[..., k]).all(axis=0).any()]


PANELS = (
    Drawing(
        "How much fine-tuning wrote, region by region",
        lambda r: (
            "TuCo over the tokens of each region, ratio of means with 95% over items. The orange mark is a judge "
            "moved as far "
            "in random directions; the height of a bar alone is no finding."
        ),
        figure_of(share_by_region),
    ),
    Drawing(
        "Where the share stands out",
        lambda r: (
            "Fine-tuning's share in a region over its share in all tokens, with 95% over items; at 1 a region is like "
            "the rest. Grey: where 95% of random changes of equal norm fall. Filled dots differ from those at 5%, "
            "Holm over regions."
        ),
        figure_of(concentration_by_region),
        lambda r: bool(concentrations(r)),
    ),
    Drawing(
        "Which unit wrote where",
        lambda r: "Signed parts of each region's TuCo; a row adds up to it. Blue parts undo what other units wrote.",
        figure_of(parts_by_region),
    ),
    Drawing(
        "Unit by token",
        lambda r: (
            f"One prompt, {r.example_items[0] if r.example_items else ''}: signed part of each token's TuCo by "
            f"unit; a "
            "column adds up to the token's TuCo; blue undoes what other units wrote."
        ),
        figure_of(example_map),
        lambda r: bool(r.example_items),
    ),
    Drawing(
        "Through the completion",
        lambda r: (
            "TuCo from the last prompt token (the paper's) to the verdict, ratio of means over the prompts that reach "
            "each token, 95% over items; dashed is a random change of equal norm reading the same completions. "
            f"{r.n_unread} of {r.said.size} completions gave no verdict."
        ),
        figure_of(completion_curve),
        lambda r: r.curve.shape[-1] > 1,
    ),
)
"""Every panel, in reading order."""
