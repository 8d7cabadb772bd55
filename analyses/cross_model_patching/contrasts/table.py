"""The tidy table of a contrast.

Per prompt: ``verdict_margin`` and ``label_mass`` by model and version (``direction``: clean, other). Over items:
``sensitivity`` (clean minus other) by model, ``judge - base`` being the interaction, and by part (``direction``:
content, position, and the position bias of an order swap), with random judges as control. For every cell ``effect``
with the random direction as control and p over items, ``recovery``, ``mismatched_effect``, ``noise_effect``, and
``named`` for cells named on one half.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.cells import CellIntervals
from analyses.cross_model_patching.contrasts import views
from analyses.cross_model_patching.contrasts.views import MODELS, VIEWS
from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.cross_model_patching.contrasts.result import ContrastResult


def frame(result: "ContrastResult") -> "pd.DataFrame":
    """Return the table.

    Args:
        result: The contrast.
    """
    import pandas as pd

    parts = [_per_prompt(result), _totals(result), *_cells(result), _named(result)]
    whole = pd.concat([pd.DataFrame(part) for part in parts if len(part)], ignore_index=True)
    return tidy({name: whole[name] for name in whole.columns})


def _per_prompt(result: "ContrastResult") -> dict[str, Any]:
    axes = (("base", "judge"), ("clean", "other"), result.item_ids, result.orders)
    model, version, item, order = (
        grid.ravel() for grid in np.meshgrid(*[np.asarray(axis, dtype=object) for axis in axes], indexing="ij")
    )
    return {
        "item": np.tile(item, 2),
        "order": np.tile(order, 2),
        "model": np.tile(model, 2),
        "direction": np.tile(version, 2),
        "metric": np.repeat(["verdict_margin", "label_mass"], item.size),
        "value": np.concatenate([result.margin.ravel(), result.mass.ravel()]),
    }


def _totals(result: "ContrastResult") -> list[dict[str, Any]]:
    rows = []
    for total in result.totals():
        for model in MODELS:
            row = {"model": model, "direction": total.part, "metric": "sensitivity", **total.of(model)._asdict()}
            added = model == "judge - base"
            rows.append(row | ({"control": total.chance.value, "p": total.p} if added else {}))
    return rows


def _cells(result: "ContrastResult") -> list[dict[str, Any]]:
    return [
        _where(result) | {"model": model, "direction": view, "metric": metric} | _columns(found) | more
        for view in VIEWS
        for model in MODELS
        for numbers in [views.cells(result, model, view)]
        for metric, found, more in (
            ("effect", numbers.effect, {"control": numbers.noise.value, "p": numbers.p}),
            ("recovery", numbers.recovery, {}),
            ("mismatched_effect", numbers.mismatched, {}),
            ("noise_effect", numbers.noise, {}),
        )
    ]


def _where(result: "ContrastResult") -> dict[str, Any]:
    return {
        "component": np.array(result.components, dtype=object),
        "layer": np.array(result.layers),
        "head": np.array(result.heads, dtype=object),
        "position": np.array(result.positions, dtype=object),
        "span": np.array(result.spans, dtype=object),
    }


def _columns(found: CellIntervals) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def _named(result: "ContrastResult") -> list[dict[str, Any]]:
    where = _where(result)
    return [
        {name: values[cell.cell] for name, values in where.items()}
        | {"model": "judge - base", "direction": view, "metric": "named", **cell.added._asdict()}
        | {"control": cell.bound, "p": max(cell.p_items, cell.p_chance)}
        for view in VIEWS
        for cell in views.named(result, view)
    ]
