"""Figures of a comparison of templates. Each draws numbers the result already holds and returns axes."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from analyses.judged import Drawing, figure_of
from analyses.template_drift import contrasts
from analyses.template_drift.contrasts import SIZE, TEMPLATES, Side
from workbench import plotting

if TYPE_CHECKING:
    from analyses.template_drift.result import TemplateDriftResult

_SIDES: tuple[Side, ...] = ("judge", "base")


def margins_by_template(result: "TemplateDriftResult", *, ax: Axes | None = None) -> Axes:
    """Draw the mean margin of both models under every template; lines that aren't parallel are the drift."""
    ax = ax or plotting.new_axes(height=3.6)
    labelled = bool((result.labels >= 0).any())
    x = np.arange(len(TEMPLATES))
    with plotting.style():
        ax.axhline(0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        for side, colour, shift in zip(_SIDES, (plotting.PALETTE[0], plotting.CONTROL), (-0.04, 0.04), strict=True):
            margins = result.margins(side)
            shown = result.toward_label(margins) if labelled else margins
            means = [result.mean(values) for values in shown]
            reach = np.array([[m.value - m.low, m.high - m.value] for m in means]).T
            ax.errorbar(x + shift, [m.value for m in means], yerr=np.nan_to_num(reach), color=colour, marker="o",
                        capsize=3, label=side)  # fmt: skip
        ax.set_xticks(x, [name.replace(", ", ",\n") for name in _names(result)])
        ax.set_ylabel(f"nats toward the {'labelled answer' if labelled else 'first slot'}")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return ax


def drift_by_item(result: "TemplateDriftResult", *, ax: Axes | None = None) -> Axes:
    """Draw every item's change of judge minus base, and below it that of white space."""
    ways = [effect.way for effect in result.effects() if effect.way != SIZE]
    own, control = result.drift(), result.drift("white space")
    turned = {
        contrasts.TOWARD_LABEL: lambda values: result.toward_label(values).mean(-1),
        contrasts.TOWARD_FIRST_SLOT: result.toward_first_slot,
    }
    groups = {way: turned[way](own) for way in ways} | {SIZE: np.abs(own).mean(-1)}
    controls = {way: turned[way](control) for way in ways} | {SIZE: np.abs(control).mean(-1)}
    return plotting.strip(
        groups,
        controls=controls,
        control_label="one line break more",
        value_label="change of judge minus base between the templates, nats",
        ax=ax,
    )


def mass_by_template(result: "TemplateDriftResult", *, ax: Axes | None = None) -> Axes:
    """Draw how much probability each model puts on the labels."""
    found = {
        f"{side} under {name}": contrasts.mass(result, side, template)
        for side in _SIDES
        for name, template in zip(_names(result), TEMPLATES, strict=True)
    }
    return plotting.bars(
        {name: interval.value for name, interval in found.items()},
        intervals={name: (interval.low, interval.high) for name, interval in found.items()},
        value_label="probability of all labels together",
        ax=ax,
    )


def _names(result: "TemplateDriftResult") -> tuple[str, str, str]:
    return "the judge's template", result.against, "the judge's, one line break more"


def _sample(result: "TemplateDriftResult") -> str:
    orders = "both orders" if len(result.orders) == 2 else "one order"
    return f"n = {len(result.item_ids)} items in {len(set(result.clusters))} independent groups, {orders}."


PANELS = (
    Drawing(
        "Both models under each template",
        lambda r: (
            "Mean verdict margin with 95% intervals over items. Where the lines run parallel, the template moves both "
            f"models alike. {_sample(r)}"
        ),
        figure_of(margins_by_template),
    ),
    Drawing(
        "How far the template changes judge minus base",
        lambda r: (
            "One dot per item, the bar is the mean: judge minus base under the judge's template, less the same under "
            f"{r.against}. Grey: what one line break more at the template's end does. {_sample(r)}"
        ),
        figure_of(drift_by_item),
    ),
    Drawing(
        "Do the models answer with a label?",
        lambda r: (
            "Mean probability of all labels together with 95% intervals over items; near 0 a model writes something "
            f"else, and its verdicts say little. {_sample(r)}"
        ),
        figure_of(mass_by_template),
    ),
)
"""Figures of a report, in order."""
