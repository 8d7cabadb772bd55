"""Figures of a paths run. Each function draws numbers the result already holds and returns axes."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from analyses.cross_model_patching.paths import statements, views
from analyses.judged import figure_of
from workbench import plotting
from workbench.hooks import Component, Site
from workbench.results import Panel

if TYPE_CHECKING:
    from analyses.cross_model_patching.paths.result import PathPatchingResult

_WIDEST = 5.0
_INPUTS = {Component.Q: "query", Component.K: "key", Component.V: "value"}


def direct_map(result: "PathPatchingResult", *, direction: str, ax: Axes | None = None) -> Axes:
    """Draw the direct effect of every head and MLP, block by block.

    Args:
        result: What to draw.
        direction: Whose writes go into whom.
        ax: Where to draw; a new figure when None.
    """
    values = np.full((result.n_layers, result.n_heads + 1), np.nan)
    here = views.at_edges(result, direction=direction, hop=0)
    means = views.mean_toward(result, result.effect[..., here])
    for index, mean in zip(here, means, strict=True):
        site = Site.parse(result.edge_senders[index])
        values[site.layer, result.n_heads if site.head is None else site.head] = mean
    return plotting.heatmap(
        values,
        rows=range(result.n_layers),
        columns=[*range(result.n_heads), "MLP"],
        row_label="block",
        column_label="head",
        value_label=f"{result.unit} toward the {_end(result)}, direct",
        ax=ax,
    )


def graph(result: "PathPatchingResult", *, direction: str, ax: Axes | None = None) -> Axes:
    """Draw the chosen paths from block to block up to the verdict; those that were found are solid.

    Args:
        result: What to draw.
        direction: Whose writes go into whom.
        ax: Where to draw; a new figure when None.
    """
    edges = views.edges(result)
    shown = [i for i in np.flatnonzero(result.selected == 1) if result.edge_directions[i] == direction]
    ax = ax or plotting.new_axes(width=7.0, height=1.8 + 0.5 * result.n_layers)
    largest = max((abs(float(edges.effect.value[i])) for i in shown), default=1.0) or 1.0
    nodes = {"verdict": _place(result, "verdict")}
    with plotting.style():
        for i in shown:
            start, receiver = _place(result, result.edge_senders[i]), result.edge_receivers[i]
            end = _place(result, receiver)
            nodes |= {result.edge_senders[i]: start, _node(result, receiver): end}
            value = float(edges.effect.value[i])
            ax.plot(
                [start[0], end[0]],
                [start[1], end[1]],
                color=plotting.PALETTE[1 if value > 0 else 0],
                linewidth=0.8 + (_WIDEST - 0.8) * abs(value) / largest,
                linestyle="-" if edges.found[i] else ":",
                zorder=1,
            )
            way = _INPUTS.get(Site.parse(receiver).component, "") if receiver != "verdict" else ""
            middle = (0.5 * (start[0] + end[0]), 0.5 * (start[1] + end[1]))
            ax.annotate(f"{value:+.2g} {way}".strip(), middle, fontsize=8, ha="center", va="center",
                        bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8})  # fmt: skip
        for name, (x, y) in nodes.items():
            ax.plot([x], [y], marker="o", markersize=17, color="white", markeredgecolor=plotting.INK, zorder=2)
            ax.annotate(_short(name), (x, y), fontsize=7, ha="center", va="center", zorder=3)
        ax.set_xlim(-0.7, result.n_heads + 0.7)
        ax.set_ylim(-0.6, result.n_layers + 0.8)
        ax.set_xticks(range(result.n_heads + 1), [*map(str, range(result.n_heads)), "MLP"])
        ax.set_yticks(range(result.n_layers + 1), [*map(str, range(result.n_layers)), "verdict"])
        ax.set_xlabel("head")
        ax.set_ylabel("block")
        ax.grid(visible=False)
    return ax


def shown_direction(result: "PathPatchingResult") -> str:
    """Return the first direction in which a path was chosen, or the first one."""
    chosen = [result.edge_directions[i] for i in np.flatnonzero(result.selected == 1)]
    return next((d for d in result.directions if d in chosen), result.directions[0])


def panels(result: "PathPatchingResult") -> tuple[Panel, ...]:
    """Return the figures of a report, in order."""
    made = []
    sample = f"n = {len(result.item_ids)} items in {len(set(result.clusters))} independent groups."
    for direction in result.directions:
        way = statements.WAYS[direction]
        if any(result.selected[i] == 1 for i, d in enumerate(result.edge_directions) if d == direction):
            made.append(
                Panel(
                    f"Paths to the verdict, {way}",
                    "Paths chosen on one half of the items, with their effect on the margin toward the labelled answer "
                    "on the other half; orange toward it, blue away, the thicker the larger. Solid: told from chance. "
                    f"Earlier blocks at the bottom. {sample}",
                    partial(figure_of(graph, direction=direction), result),
                )
            )
        made.append(
            Panel(
                f"Direct paths, {way}",
                f"Mean effect of exchanging one head's or MLP's write, every later attention held; orange toward the "
                f"{_end(result)}, blue away. {sample}",
                partial(figure_of(direct_map, direction=direction), result),
            )
        )
    return tuple(made)


def _end(result: "PathPatchingResult") -> str:
    return "labelled answer" if (result.labels >= 0).any() else "slot shown first"


def _node(result: "PathPatchingResult", receiver: str) -> str:
    """Return the sender that a receiver is an input of; a shared key or value keeps its own name."""
    if receiver == "verdict":
        return receiver
    site = Site.parse(receiver)
    return f"z.{site.layer}.h{site.head}" if site.component is Component.Q else receiver


def _place(result: "PathPatchingResult", name: str) -> tuple[float, float]:
    """Return where a node is drawn: heads from left to right, the MLP beside them, half a block later."""
    if name == "verdict":
        return (result.n_heads / 2, result.n_layers + 0.3)
    site = Site.parse(name)
    if site.component is Component.MLP_OUT:
        return (float(result.n_heads), site.layer + 0.3)
    return (float(site.head or 0), float(site.layer))


def _short(name: str) -> str:
    if name == "verdict":
        return name
    site = Site.parse(name)
    if site.component is Component.MLP_OUT:
        return f"M{site.layer}"
    letter = "" if site.component is Component.Z else site.component.value
    return f"{letter}{site.layer}.{site.head}"
