"""The tidy table of a verdict lens.

Per prompt and depth (``layer``, half a layer less inside a block): ``margin`` and ``label_mass``; ``model`` is whose
stream, ``direction`` by whose norm and head it is read. Over items: judge minus base (``change``) with interval, mean
of random changes and family-wise p; label agreement and share of settled verdicts by depth. By component: ``direct``
contributions of both models, their difference against chance, and ``total`` effects of patching by direction.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.cells import cell_intervals
from analyses.cross_model_patching.directions import DIRECTIONS
from analyses.cross_model_patching.lens.comparing import Changed, readouts
from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.cross_model_patching.lens.result import Side, VerdictLensResult

_SIDES: "tuple[Side, ...]" = ("base", "judge")
_CHANGE = "judge - base"


def frame(result: "VerdictLensResult") -> "pd.DataFrame":
    """Return the table.

    Args:
        result: The lens.
    """
    import pandas as pd

    parts = [*_per_prompt(result), *_by_depth(result), *_settling(result), *_readouts(result), *_by_part(result)]
    whole = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    return tidy({name: whole[name] for name in whole.columns})


def _per_prompt(result: "VerdictLensResult") -> list[dict[str, Any]]:
    items, orders, layers = _grid(result.item_ids, result.orders, result.depths)
    return [
        {
            "item": items, "order": orders, "layer": layers, "model": side, "direction": f"read by {reader}",
            "component": np.tile(_components(result), items.size // len(result.points)),
            "metric": metric, "value": values[s, r].ravel(),
        }
        for s, side in enumerate(_SIDES)
        for r, reader in enumerate(_SIDES)
        for metric, values in (("margin", result.margin), ("label_mass", result.mass))
    ]  # fmt: skip


def _by_depth(result: "VerdictLensResult") -> list[dict[str, Any]]:
    where = {"layer": result.depths, "component": _components(result)}
    rows = [{**where, "model": _CHANGE, "metric": "change", **_changed(result.changes())}]
    for name, values in (("stream", result.stream_change()), ("readout", result.readout_change())):
        cells = result.cells(values)
        rows.append({**where, "model": _CHANGE, "metric": f"{name}_change", **cells._asdict()})
    for side in _SIDES:
        shares = {"settled": settled_share(result, side)}
        if result.labelled:
            shares["agreement"] = result.correct(side)
        for metric, values in shares.items():
            cells = cell_intervals(values, clusters=result.clusters, seed=result.meta.seed)
            rows.append({**where, "model": side, "metric": metric, **cells._asdict()})
    return rows


def settled_share(result: "VerdictLensResult", side: "Side") -> np.ndarray:
    """Return which share of an item's prompts has settled by each point, ``[item, point]``."""
    points = result.settled(side)[..., None]
    return ((points >= 0) & (points <= np.arange(len(result.points)))).mean(1)


def _settling(result: "VerdictLensResult") -> list[dict[str, Any]]:
    rows = [{"model": side, "metric": "settle_depth", **result.settling(side).depth._asdict()} for side in _SIDES]
    rows.append({"model": _CHANGE, "metric": "settle_depth", **result.settling_change()._asdict()})
    if result.labelled:
        rows += [
            {"model": side, "metric": "agreement_depth", **result.agreement_reached(side)._asdict()} for side in _SIDES
        ]
    return [{name: [value] for name, value in row.items()} for row in rows]


def _readouts(result: "VerdictLensResult") -> list[dict[str, Any]]:
    if np.isnan(result.weights).all():
        return []
    rows: list[dict[str, Any]] = []
    for at, side in enumerate(_SIDES):
        found = readouts(result, side)
        shuffled = found.shuffled.value
        named = {
            "final_balanced_accuracy": (found.fitted.final, 0.5),
            "fitted_balanced_accuracy": (found.fitted.other, shuffled),
            "fitted_gain": (found.fitted.gain, 0.0),
            "uniform_balanced_accuracy": (found.uniform.other, 0.5),
            "uniform_gain": (found.uniform.gain, 0.0),
        }
        rows += [
            {"model": [side], "metric": [metric], "control": [control],
             **{name: [value] for name, value in interval._asdict().items()}}
            for metric, (interval, control) in named.items()
        ]  # fmt: skip
        where = {"layer": result.depths, "component": _components(result)}
        rows.append({**where, "model": side, "metric": "readout_weight", "value": result.weights[at]})
    return rows


def _by_part(result: "VerdictLensResult") -> list[dict[str, Any]]:
    if not result.parts:
        return []
    component, layer, head = (np.array(column, dtype=object) for column in zip(*result.parts, strict=True))
    where = {
        "component": component,
        "layer": np.array([np.nan if value < 0 else float(value) for value in layer]),
        "head": np.array([np.nan if value < 0 else float(value) for value in head]),
    }
    rows = [
        {**where, "model": side, "metric": "direct", **result.cells(result.direct[at])._asdict()}
        for at, side in enumerate(_SIDES)
    ]
    rows.append({**where, "model": _CHANGE, "metric": "direct", **_changed(result.direct_changes())})
    patched = np.array([part.patched for part in result.named_parts])
    for at, direction in enumerate(DIRECTIONS):
        cells = result.cells(result.total[at][..., patched])
        chosen = {name: values[patched] for name, values in where.items()}
        rows.append({**chosen, "direction": direction, "position": -1, "metric": "total", **cells._asdict()})
    return rows


def _changed(changes: Changed) -> dict[str, Any]:
    p = np.maximum(changes.p, changes.chance_p)
    return {**changes.cells._asdict(), "control": changes.random, "p": p}


def _components(result: "VerdictLensResult") -> np.ndarray:
    return np.array([point.split(".")[0] for point in result.points], dtype=object)


def _grid(*labels: Any) -> list[np.ndarray]:
    return [axis.ravel() for axis in np.meshgrid(*(np.asarray(label) for label in labels), indexing="ij")]
