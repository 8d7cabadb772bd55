"""The tidy table of a mask run.

By cell: ``gate`` at every lambda (``dose``) and ``single_effect`` on the training half (toward the donor, the
margin's unit). By mask (``dose`` is its lambda): ``size``, ``recovery`` with random masks as control and p,
``explained``, ``accuracy``, ``flips``, all on held-out items. By size (``dose``): ``greedy_recovery``.
By prompt: ``verdict_margin`` of both models, and ``mask_effect`` at every lambda.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.cross_model_patching.directions import Direction
from analyses.metrics import among_draws
from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.cross_model_patching.masks.result import MaskResult


def frame(result: "MaskResult") -> "pd.DataFrame":
    """Return the table.

    Args:
        result: The run.
    """
    import pandas as pd

    rows = [row for direction in result.directions for row in (*_cells(result, direction), *_masks(result, direction))]
    parts = [pd.DataFrame(rows), *(pd.DataFrame(part) for part in _prompts(result))]
    whole = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return tidy({name: whole[name] for name in whole.columns})


def _cells(result: "MaskResult", direction: Direction) -> list[dict[str, Any]]:
    at = result.directions.index(direction)
    way = result.way(direction)
    alone = result.single_effect[at] * way[..., None]
    means = np.nanmean(alone[result.training], axis=(0, 1)) if not np.isnan(alone).all() else alone[0, 0]
    rows = []
    for i, cell in enumerate(result.cells):
        place = {
            "direction": direction, "component": cell.component.value, "layer": cell.layer, "head": cell.head,
            "position": cell.position,
        }  # fmt: skip
        rows.append({**place, "metric": "single_effect", "value": float(means[i])})
        rows += [
            {**place, "dose": result.lambdas[k], "metric": "gate", "value": float(result.gates[at, k, i])}
            for k in np.flatnonzero(result.trained[at])
        ]
    return rows


def _masks(result: "MaskResult", direction: Direction) -> list[dict[str, Any]]:
    at, rows = result.directions.index(direction), []
    for k in np.flatnonzero(result.trained[at]):
        place = {"direction": direction, "dose": result.lambdas[k]}
        effect, size = result.mask_effect[at, k], int(result.kept[at, k].sum())
        recovery = result.recovery(effect, direction)
        chance = among_draws(recovery.value, result.random_recoveries(direction, size))
        rows += [
            {**place, "metric": "size", "value": float(size)},
            {**place, "metric": "recovery", **recovery._asdict(), "control": chance.value, "p": chance.p},
        ]
        for name in ("explained", "accuracy", "flips"):
            rows.append({**place, "metric": name, **getattr(result, name)(effect, direction)._asdict()})
    for s, size in enumerate(result.set_sizes.tolist()):
        found = result.recovery(result.greedy_effect[at, s], direction)
        rows.append({"direction": direction, "dose": float(size), "metric": "greedy_recovery", **found._asdict()})
    return rows


def _prompts(result: "MaskResult") -> list[dict[str, Any]]:
    items, orders = np.meshgrid(np.array(result.item_ids, dtype=object), result.orders, indexing="ij")
    place = {"item": items.ravel(), "order": orders.ravel()}
    parts: list[dict[str, Any]] = [
        {**place, "model": side, "metric": "verdict_margin", "value": margins.ravel()}
        for side, margins in zip(("base", "judge"), result.margins, strict=True)
    ]
    for at, direction in enumerate(result.directions):
        parts += [
            {**place, "direction": direction, "dose": result.lambdas[k], "metric": "mask_effect",
             "value": result.mask_effect[at, k].ravel()}
            for k in np.flatnonzero(result.trained[at])
        ]  # fmt: skip
    return parts
