"""Figures of a TuCo run. Each function draws numbers the result already holds and returns axes or a figure."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from analyses.judged import Drawing, figure_of
from analyses.metrics import Interval
from workbench import plotting

if TYPE_CHECKING:
    from analyses.tuco.result import TucoResult

_MOST_ROWS = 40


def share_by_item(result: "TucoResult", *, ax: Axes | None = None) -> Axes:
    """Draw TuCo of every prompt by answer order, with the random change of equal norm in grey."""
    groups = {f"{order} order": result.tuco[:, k] for k, order in enumerate(result.orders)}
    control = (
        {name: result.control_share.mean(0)[:, k] for k, name in enumerate(groups)}
        if len(result.control_share)
        else None
    )
    return plotting.strip(
        groups,
        controls=control,
        control_label="random change of equal norm",
        value_label=f"TuCo: share of |F| at the last token ({result.granularity}, {result.norm})",
        reference=None,
        ax=ax,
    )


def share_by_unit(result: "TucoResult", *, ax: Axes | None = None) -> Axes:
    """Draw each unit's part of TuCo, mean over items with interval; the bars add up to the mean TuCo."""
    intervals = _by_unit(result, result.finetuned_shares)
    return plotting.bars(
        {name: interval.value for name, interval in intervals.items()},
        intervals={name: (interval.low, interval.high) for name, interval in intervals.items()},
        value_label="part of TuCo",
        ax=ax,
    )


def push_by_unit(result: "TucoResult", *, ax: Axes | None = None) -> Axes:
    """Draw the push on the verdict by unit: pretraining, fine-tuning, and what really removing the latter costs."""
    series = {
        "pretraining (P)": result.pretrained_push,
        "fine-tuning (F)": result.finetuned_push,
        "gap lost without F (norm and head run again)": result.removal_effect,
    }
    found = {name: list(_by_unit(result, _oriented(result, values)).values()) for name, values in series.items()}
    ax = plotting.lines(
        {name: np.array([i.value for i in intervals]) for name, intervals in found.items()},
        x=np.arange(len(result.units)),
        bands={
            name: (np.array([i.low for i in intervals]), np.array([i.high for i in intervals]))
            for name, intervals in found.items()
        },
        controls=("gap lost without F (norm and head run again)",),
        x_label="unit",
        y_label=f"{result.unit} {_direction(result)}",
        ax=ax,
    )
    return _name_units(result, ax)


def gap_parts(result: "TucoResult", *, ax: Axes | None = None) -> Axes:
    """Draw what the judge's mean verdict gap is made of, and the base's own gap below it."""
    parts = {
        "token embedding": result.embedding_push,
        "changed embedding": result.embedding_change_push,
        "pretraining, all units": result.pretrained_push.sum(-1),
        "fine-tuning, all units": result.finetuned_push.sum(-1),
        "norm offset and head bias": result.bias_push,
        "= the judge's gap": result.judge_gap,
        "the base's own gap": result.base_gap,
    }
    found = {
        name: result.mean(_oriented(result, values[..., None])[..., 0])
        for name, values in parts.items()
        if not np.isnan(values).all()
    }
    control = {}
    if len(result.control_push):
        pushed = _oriented(result, result.control_push.mean(0)[..., None])[..., 0]
        control = {"fine-tuning, all units": result.mean(pushed).value}
    return plotting.bars(
        {name: interval.value for name, interval in found.items()},
        intervals={name: (interval.low, interval.high) for name, interval in found.items()},
        controls=control,
        control_label="random change of equal norm",
        value_label=f"{result.unit} {_direction(result)}, mean over items",
        ax=ax,
    )


def verdicts(result: "TucoResult", *, ax: Axes | None = None) -> Axes:
    """Draw every item's verdict margin, base and judge joined by a line, content part (mean over both orders)."""
    judge, base = (_oriented(result, gap[..., None])[..., 0].mean(1) for gap in (result.judge_gap, result.base_gap))
    chosen = _spread_rows(np.argsort(judge))
    ax = ax or plotting.new_axes(height=1.2 + 0.17 * len(chosen))
    with plotting.style():
        rows = np.arange(len(chosen))
        ax.axvline(0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        ax.hlines(rows, base[chosen], judge[chosen], color=plotting.CONTROL, linewidth=1.2)
        ax.scatter(base[chosen], rows, color=plotting.CONTROL, s=18, label="base")
        ax.scatter(judge[chosen], rows, color=plotting.PALETTE[0], s=22, label="judge")
        ax.set_yticks(rows, [plotting.label_text(result.item_ids[i]) for i in chosen], fontsize=7)
        ax.set_xlabel(f"verdict gap, {result.unit} {_direction(result)}")
        ax.legend(loc="best")
    return ax


def push_by_item(result: "TucoResult", *, ax: Axes | None = None) -> Axes:
    """Draw the push of fine-tuning for each item and unit, oriented, mean over both orders."""
    values = _oriented(result, result.finetuned_push).mean(1)
    chosen = _spread_rows(np.argsort(values.sum(-1)))[::-1]
    return plotting.heatmap(
        values[chosen],
        rows=[result.item_ids[i] for i in chosen],
        columns=result.units,
        row_label="item",
        column_label="unit",
        value_label=f"{result.unit} {_direction(result)}",
        ax=ax,
    )


def profile_by_depth(result: "TucoResult", *, ax: Axes | None = None) -> Axes:
    """Draw TuCo of the stream after each unit: where fine-tuning's share builds up."""
    intervals = list(_by_unit(result, result.profile).values())
    name = "TuCo so far"
    ax = plotting.lines(
        {name: np.array([i.value for i in intervals])},
        x=np.arange(len(result.units)),
        bands={name: (np.array([i.low for i in intervals]), np.array([i.high for i in intervals]))},
        x_label="unit",
        y_label="|F| / (|P| + |F|)",
        ax=ax,
    )
    if len(result.control_share):
        last = len(result.units) - 1
        with plotting.style():
            ax.plot([last], [np.nanmean(result.control_share)], marker="D", linestyle="none", color=plotting.CONTROL,
                    label="random change of equal norm, after the last unit")  # fmt: skip
            ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.0, ncols=2)
    return _name_units(result, ax)


def _was_read(result: "TucoResult") -> bool:
    return not np.isnan(result.judge_gap).all()


def _both_read(result: "TucoResult") -> bool:
    return _was_read(result) and not np.isnan(result.base_gap).all()


def _name_units(result: "TucoResult", ax: Axes) -> Axes:
    with plotting.style():
        step = max(1, -(-len(result.units) // 24))
        ax.set_xticks(
            range(0, len(result.units), step),
            [plotting.label_text(u) for u in result.units[::step]],
            rotation=45,
            ha="right",
        )
    return ax


def _oriented(result: "TucoResult", values: np.ndarray) -> np.ndarray:
    """Orient ``[item, order, unit]`` to the label, or to the judge's own verdict where there is none."""
    moved = np.moveaxis(values, -1, 0)
    labelled = result.toward_label(moved)
    return np.moveaxis(np.where(np.isnan(labelled), moved * np.sign(result.judge_gap), labelled), 0, -1)


def _direction(result: "TucoResult") -> str:
    return (
        "toward the labelled answer"
        if (result.labels >= 0).all()
        else "toward the label, or the judge's verdict where there is none"
    )


def _by_unit(result: "TucoResult", values: np.ndarray) -> dict[str, Interval]:
    return {unit: result.mean(values[..., k]) for k, unit in enumerate(result.units)}


def _spread_rows(order: np.ndarray) -> np.ndarray:
    """Return at most forty rows, spread evenly over the sorted items."""
    if len(order) <= _MOST_ROWS:
        return order
    return order[np.linspace(0, len(order) - 1, _MOST_ROWS).round().astype(int)]


def _shown(result: "TucoResult") -> str:
    n = len(result.item_ids)
    return f"All {n} items." if n <= _MOST_ROWS else f"{_MOST_ROWS} of {n} items, spread evenly from lowest to highest."


PANELS = (
    Drawing(
        "How much of each verdict fine-tuning wrote",
        lambda r: (
            "Each dot is one prompt: the share of everything the blocks wrote at the verdict token that the base's "
            "weights would not have written there; the bar is the mean. Grey, on some prompts: a judge moved just "
            "as far "
            "in random directions; a share alone is never a finding."
        ),
        figure_of(share_by_item),
    ),
    Drawing(
        "Base and judge, item by item",
        lambda r: (
            "Verdict gap of base (grey) and judge (blue), mean over both answer orders; right of zero the verdict is "
            "the labelled one. "
            f"{_shown(r)}"
        ),
        figure_of(verdicts),
        _both_read,
    ),
    Drawing(
        "What the verdict is made of",
        lambda r: (
            "Exact parts of the judge's mean verdict gap, with 95% over items: the parts add up to the judge's gap; "
            "the base's own gap is another run, shown to compare with. The orange mark is what a random change of "
            "equal norm pushes, mean of the draws."
        ),
        figure_of(gap_parts),
        _was_read,
    ),
    Drawing(
        "Where the verdict was pushed",
        lambda r: (
            "Push of each unit, split into what the base's weights would have written and what fine-tuning added; "
            "bands are 95% over items. "
            "The dashed grey line takes each F out and lets the model's own norm and head read the rest: it should "
            "follow the F line."
        ),
        figure_of(push_by_unit),
        _was_read,
    ),
    Drawing(
        "Who made the share",
        lambda r: (
            "Signed parts of TuCo by unit, mean over prompts with 95% over items; a negative part undoes what other "
            "units' fine-tuning wrote."
        ),
        figure_of(share_by_unit),
    ),
    Drawing(
        "Where the share builds up",
        lambda r: "TuCo computed on the stream after each unit, with 95% over items; the last value is TuCo.",
        figure_of(profile_by_depth),
    ),
    Drawing(
        "Push of fine-tuning, item by item",
        lambda r: (
            f"Orange pushes toward the labelled answer, blue away from it, mean over both answer orders. {_shown(r)}"
        ),
        figure_of(push_by_item),
        _was_read,
    ),
)
"""Every panel, in reading order."""
