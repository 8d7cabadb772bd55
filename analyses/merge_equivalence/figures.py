"""Figures of a comparison of merged and unmerged. Each draws numbers the result already holds and returns axes."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from analyses.judged import Drawing, figure_of
from analyses.merge_equivalence.forms import AGAIN, MERGED
from workbench import plotting

if TYPE_CHECKING:
    from analyses.merge_equivalence.result import MergeEquivalenceResult


def margins(result: "MergeEquivalenceResult", *, ax: Axes | None = None) -> Axes:
    """Draw every prompt's margin, merged against unmerged; on the diagonal nothing changed."""
    ax = ax or plotting.new_axes(height=4.2)
    index = result.forms.index(MERGED)
    own, other = result.reference_margin[index].ravel(), result.margin[index].ravel()
    flips = result.flips[index].ravel()
    ends = [float(min(own.min(), other.min())), float(max(own.max(), other.max()))]
    with plotting.style():
        ax.axhline(0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        ax.axvline(0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        ax.plot(ends, ends, color=plotting.CONTROL, linewidth=1)
        ax.scatter(own[~flips], other[~flips], s=18, color=plotting.PALETTE[0], label="same verdict")
        if flips.any():
            ax.scatter(own[flips], other[flips], s=32, marker="x", color=plotting.PALETTE[1], label="verdict flips")
            ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        ax.set_xlabel("margin of the unmerged judge, nats")
        ax.set_ylabel("margin merged, nats")
    return ax


def changes(result: "MergeEquivalenceResult", *, ax: Axes | None = None) -> Axes:
    """Draw how far every form's margins moved, on a logarithmic scale, beside the tolerance."""
    ax = ax or plotting.new_axes(height=3.6)
    sizes = np.abs(result.change).mean(-1)
    floor = max(float(sizes[sizes > 0].min(initial=1e-7)) / 2, 1e-9)
    with plotting.style():
        for k, values in enumerate(sizes):
            spread = np.linspace(-0.2, 0.2, len(values))
            colour = plotting.PALETTE[0] if result.forms[k] == MERGED else plotting.CONTROL
            ax.scatter(k + spread, np.maximum(values, floor), s=14, color=colour)
        ax.axhline(result.tolerance, color=plotting.INK, linewidth=1, linestyle="--")
        ax.set_yscale("log")
        ax.set_xticks(range(len(result.forms)), result.forms)
        ax.set_ylabel("change of an item's margin, nats")
    return ax


def drift_by_layer(result: "MergeEquivalenceResult", *, ax: Axes | None = None) -> Axes:
    """Draw how far the stream has drifted after every block, merged and by rounding alone."""
    ax = ax or plotting.new_axes(height=3.4)
    layers = np.arange(result.n_layers)
    with plotting.style():
        for name, colour in ((MERGED, plotting.PALETTE[0]), (AGAIN, plotting.CONTROL)):
            drift = result.stream_drift[result.forms.index(name)]
            means = [result.mean(drift[..., layer]) for layer in layers]
            ax.plot(layers, [mean.value for mean in means], color=colour, marker="o", label=name)
            ax.fill_between(layers, [m.low for m in means], [m.high for m in means], color=colour, alpha=0.2)
        ax.set_xticks(layers)
        ax.set_xlabel("block")
        ax.set_ylabel("distance of the stream, share of its norm")
        ax.legend(loc="best")
    return ax


def _still(result: "MergeEquivalenceResult") -> str:
    return "; those in the bottom row didn't move" if (np.abs(result.change).mean(-1) == 0).any() else ""


def _others(result: "MergeEquivalenceResult") -> str:
    again = "Grey: the unmerged judge asked prompt by prompt instead of in a batch"
    return (
        f"{again}."
        if len(result.forms) == 2
        else f"{again}, then weights merged in the pair's type and in float32, read in float32."
    )


def _sample(result: "MergeEquivalenceResult") -> str:
    orders = "both orders" if len(result.orders) == 2 else "one order"
    return f"n = {len(result.item_ids)} items in {len(set(result.clusters))} independent groups, {orders}."


PANELS = (
    Drawing(
        "Verdict margins, merged against unmerged",
        lambda result: (
            "Each point is a prompt. On the diagonal merging changed nothing; where the margins differ in sign, the "
            f"verdict is another one. {_sample(result)}"
        ),
        figure_of(margins),
    ),
    Drawing(
        "How far margins move",
        lambda result: (
            f"Each point is an item{_still(result)}. {_others(result)} "
            f"The dashed line is the tolerance of {result.tolerance:g} nats. {_sample(result)}"
        ),
        figure_of(changes),
    ),
    Drawing(
        "Where the difference grows",
        lambda result: (
            "Distance of the residual stream at the last token from the unmerged judge's after every block; bands are "
            f"95% intervals over items, grey is rounding alone. {_sample(result)}"
        ),
        figure_of(drift_by_layer),
    ),
)
