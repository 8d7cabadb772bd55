"""How the network is cut: the writes to the residual stream that are told apart."""

from dataclasses import dataclass
from typing import Literal

from workbench.errors import ParameterError
from workbench.hooks import Component, Site

Granularity = Literal["sublayer", "block", "model"] | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One write to the residual stream: a sub-layer, a block, or several blocks."""

    label: str
    """Name in tables and figures, e.g. ``"block 3"``."""
    layer: int
    """Last block of the unit."""
    component: Component
    """Whose output is the write: ``attn_out`` or ``mlp_out``; ``resid_post`` for whole blocks."""
    start: Site
    """Site of the stream the unit reads."""
    end: Site
    """Site where the unit's output is read: the write itself, or the stream after it."""


def units(granularity: Granularity, *, n_layers: int, parallel: bool) -> tuple[Unit, ...]:
    """Return the units of a granularity, in the order they write.

    Args:
        granularity: ``"block"`` as in the paper, ``"sublayer"`` for attention and MLP apart, an
            integer for that many blocks per segment, ``"model"`` for one segment of all blocks.
        n_layers: Number of blocks.
        parallel: Whether attention and MLP read the same input.

    Raises:
        ParameterError: The granularity isn't one of these.
    """
    if granularity == "sublayer":
        return tuple(unit for layer in range(n_layers) for unit in _sublayers(layer, parallel))
    size = {"block": 1, "model": n_layers}.get(granularity, granularity)  # type: ignore[arg-type]
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= n_layers:
        raise ParameterError(
            "no such granularity.",
            argument="granularity",
            got=granularity,
            allowed=f"'block', 'sublayer', 'model', or a number of blocks from 1 to {n_layers}",
        )
    return tuple(_segment(start, min(start + size, n_layers)) for start in range(0, n_layers, size))


def _sublayers(layer: int, parallel: bool) -> tuple[Unit, Unit]:
    pre, mid = Site(Component.RESID_PRE, layer), Site(Component.RESID_MID, layer)
    attention, mlp = Component.ATTN_OUT, Component.MLP_OUT
    return (
        Unit(label=f"attn {layer}", layer=layer, component=attention, start=pre, end=Site(attention, layer)),
        Unit(label=f"mlp {layer}", layer=layer, component=mlp, start=pre if parallel else mid, end=Site(mlp, layer)),
    )


def _segment(start: int, stop: int) -> Unit:
    label = f"block {start}" if stop == start + 1 else f"blocks {start}-{stop - 1}"
    return Unit(
        label=label,
        layer=stop - 1,
        component=Component.RESID_POST,
        start=Site(Component.RESID_PRE, start),
        end=Site(Component.RESID_POST, stop - 1),
    )
