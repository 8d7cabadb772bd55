"""Figures of a weight swap. Each draws numbers the result already holds and returns axes."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.cross_model_patching.weights import effects
from analyses.judged import Drawing, figure_of
from workbench import plotting

if TYPE_CHECKING:
    from analyses.cross_model_patching.weights.result import WeightSwapResult

_TITLES = {
    "layer": "whole blocks",
    "attn": "attention",
    "mlp": "MLP",
    "norms": "norms",
    "head": "query heads",
    "kv_head": "key-value heads",
}
_WAYS = {"judge_to_base": "what the base gains", "base_to_judge": "what the judge loses"}
_OUTSIDE = ("embedding", "final_norm", "unembed")


def layered_kinds(result: "WeightSwapResult") -> list[str]:
    """Return the kinds that have one part per block; without any the kinds there are."""
    found = [kind for kind in ("layer", "attn", "mlp", "norms") if kind in result.kinds]
    return found or list(dict.fromkeys(result.kinds))


def by_layer(result: "WeightSwapResult", *, direction: str, kind: str, ax: Axes | None = None) -> Axes:
    """Draw written beside seen for the parts of one kind, with intervals and what random changes stay within.

    Args:
        result: What to draw.
        direction: One of its directions.
        kind: One of its kinds of parts.
        ax: Where to draw; a new figure when None.
    """
    ax = ax or plotting.new_axes(height=3.0)
    index = [i for i, each in enumerate(result.kinds) if each == kind]
    bound = effects.tested(result).bound
    with plotting.style():
        if np.isfinite(bound):
            ax.axhspan(
                -bound, bound, color=plotting.CONTROL, alpha=0.3, linewidth=0, label="random changes stay within"
            )
        ax.axhline(0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        for colour, shift, of in ((plotting.PALETTE[0], -0.2, "written"), (plotting.PALETTE[1], 0.2, "seen")):
            cells = result.effects(direction, of=of)
            if np.isnan(cells.value[index]).all():
                continue
            x = np.arange(len(index)) + shift
            ax.bar(x, np.nan_to_num(cells.value[index]), width=0.38, color=colour, label=f"{of} here")
            for at, i in zip(x, index, strict=True):
                ax.plot([at, at], [cells.low[i], cells.high[i]], color=plotting.INK, linewidth=1.2)
        _mark_named(ax, result, direction, index)
        ax.set_xticks(range(len(index)), [_tick(result, i) for i in index])
        ax.set_xlabel(_TITLES.get(kind, kind))
        ax.set_ylabel(f"{result.unit}: {_WAYS[direction]}")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return ax


def _mark_named(ax: Axes, result: "WeightSwapResult", direction: str, index: list[int]) -> None:
    passes = effects.tested(result).passes[result.direction(direction)]
    values = result.effects(direction).value
    chosen = [(at - 0.2, values[i]) for at, i in enumerate(index) if passes[i]]
    if chosen:
        x, y = zip(*chosen, strict=True)
        ax.plot(x, y, linestyle="none", marker="D", markersize=5, color="white", markeredgecolor="black",
                label="told from chance")  # fmt: skip


def _tick(result: "WeightSwapResult", index: int) -> str:
    layer, head = result.layers[index], result.heads[index]
    return result.kinds[index] if layer < 0 else str(layer) if head < 0 else f"{layer}.{head}"


def _grid(count: int, columns: int, *, width: float, height: float) -> tuple[Figure, np.ndarray]:
    with plotting.style():
        figure = plotting.DisplayFigure(figsize=(width, height * count), layout="constrained")
        return figure, figure.subplots(count, columns, squeeze=False)


def layer_grid(result: "WeightSwapResult") -> Figure:
    """Draw every kind of part that blocks have, both directions side by side."""
    kinds = [kind for kind in layered_kinds(result) if kind in ("layer", "attn", "mlp", "norms")]
    ways = result.directions
    figure, axes = _grid(len(kinds), len(ways), width=5.2 * len(ways), height=2.7)
    for row, kind in enumerate(kinds):
        for column, way in enumerate(ways):
            by_layer(result, direction=way, kind=kind, ax=axes[row, column])
    _one_legend(figure, axes)
    return figure


def _one_legend(figure: Figure, axes: np.ndarray) -> None:
    """Legends beside every small panel would take the panels' room."""
    named = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    for legend in (ax.get_legend() for ax in axes.flat):
        legend.remove()
    with plotting.style():
        figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=len(named))


def outside_grid(result: "WeightSwapResult") -> Figure:
    """Draw embedding, final norm and unembedding, both directions side by side."""
    ways = result.directions
    figure, axes = _grid(1, len(ways), width=5.2 * len(ways), height=2.4)
    index = [i for i, kind in enumerate(result.kinds) if kind in _OUTSIDE]
    bound = effects.tested(result).bound
    for column, way in enumerate(ways):
        cells = result.effects(way)
        plotting.bars(
            {result.kinds[i]: float(cells.value[i]) for i in index},
            intervals={result.kinds[i]: (float(cells.low[i]), float(cells.high[i])) for i in index},
            controls=dict.fromkeys((result.kinds[i] for i in index), bound) if np.isfinite(bound) else None,
            control_label="random changes stay within",
            value_label=f"{result.unit}: {_WAYS[way]}",
            ax=axes[0, column],
        )
    return figure


def head_grid(result: "WeightSwapResult") -> Figure:
    """Draw maps of heads, block by head: written and seen, one row of maps per direction."""
    kinds = [kind for kind in ("head", "kv_head") if kind in result.kinds]
    shown = [(kind, of) for kind in kinds for of in ("written", "seen", "through") if _measured(result, kind, of)]
    figure, axes = _grid(len(result.directions), len(shown), width=3.6 * len(shown), height=3.4)
    for row, way in enumerate(result.directions):
        cells = {of: result.effects(way, of=of).value for _, of in shown}
        # One scale for a row of maps: what is seen and what is written are held against each other.
        heads = [i for i, kind in enumerate(result.kinds) if kind in kinds]
        reach = max((float(np.nanmax(np.abs(cells[of][heads]), initial=0.0)) for _, of in shown), default=0.0) or 1.0
        for column, (kind, of) in enumerate(shown):
            _map(result, kind, cells[of], reach, axes[row, column])
            name = "z through donor's o_proj" if of == "through" else f"{of} here"
            axes[row, column].set_title(f"{name}, {_TITLES[kind]}\n{_WAYS[way]}", fontsize=9)
    return figure


def _measured(result: "WeightSwapResult", kind: str, of: str) -> bool:
    index = [i for i, each in enumerate(result.kinds) if each == kind]
    return not np.isnan(getattr(result, of)[..., index]).all()


def _map(result: "WeightSwapResult", kind: str, values: np.ndarray, reach: float, ax: Axes) -> None:
    index = [i for i, each in enumerate(result.kinds) if each == kind]
    layers = sorted({result.layers[i] for i in index})
    grid = np.full((len(layers), max(result.heads[i] for i in index) + 1), np.nan)
    for i in index:
        grid[layers.index(result.layers[i]), result.heads[i]] = values[i]
    plotting.heatmap(
        grid, rows=layers, columns=range(grid.shape[1]), row_label="block", column_label="head",
        value_label=result.unit, limits=(-reach, reach), ax=ax,
    )  # fmt: skip


def graft_line(result: "WeightSwapResult", *, ax: Axes | None = None) -> Axes:
    """Draw how far the judge's first blocks under the base's others move the base's margin, depth by depth."""
    cells = effects.grafted(result)
    ax = plotting.lines(
        {"judge below, base above": cells.value},
        x=np.arange(len(cells.value)),
        bands={"judge below, base above": (cells.low, cells.high)},
        x_label="blocks of the judge",
        y_label=f"{result.unit}: what the base gains",
        ax=ax,
    )
    whole = effects.gap(result)
    with plotting.style():
        ax.axhline(float(np.nanmean(whole)), color=plotting.CONTROL, linestyle="--", linewidth=1.2)
    return ax


def _sample(result: "WeightSwapResult") -> str:
    way = "toward the labelled answer" if effects.labelled(result) else "toward the first slot (no labels)"
    return f"Effects {way}; n = {len(result.item_ids)} items in {len(set(result.clusters))} independent groups."


def _headed(result: "WeightSwapResult") -> bool:
    return "head" in result.kinds


PANELS = (
    Drawing(
        "Seen here, written here: block by block",
        lambda r: (
            "Written: the part's weights come from the other model. Seen: its activations do, at every token. Places "
            "downstream of a change are seen without having been written. Lines are 95% intervals over items, the "
            "grey band is where the largest part of a further random judge of equal norm stays, diamonds are told "
            f"from chance. Effects don't add. {_sample(r)}"
        ),
        layer_grid,
        lambda r: any(kind in r.kinds for kind in ("layer", "attn", "mlp", "norms")),
    ),
    Drawing(
        "Embedding and readout",
        lambda r: f"Weights outside the blocks, swapped; the final norm and unembedding are the readout. {_sample(r)}",
        outside_grid,
        lambda r: any(kind in r.kinds for kind in _OUTSIDE),
    ),
    Drawing(
        "Seen here, written here: heads",
        lambda r: (
            "Left, the head's weights are swapped; then its z (for key-value heads its keys and values) is patched at "
            f"every token, plainly and through the donor's own output projection. {_sample(r)}"
        ),
        head_grid,
        _headed,
    ),
    Drawing(
        "The judge's first blocks under the base's others",
        lambda r: (
            "Margin gained with embedding and first blocks from the judge; exactly what patching the whole stream at "
            "that depth gives. It accumulates by construction: look at the steps. Dashed: judge minus base; what the "
            f"last point misses is the readout. {_sample(r)}"
        ),
        figure_of(graft_line),
        lambda r: not np.isnan(r.graft).all(),
    ),
)
"""Figures of a report, in order."""
