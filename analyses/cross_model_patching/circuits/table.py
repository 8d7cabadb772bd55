"""The tidy table of a circuit run.

By circuit (``span`` names it) and model: ``faithfulness`` with random circuits as control and p, ``accuracy``;
``gain`` of the judge over the base; ``overlap``. By cell: ``member`` (1 or 0) of each circuit, ``single_effect`` of
ablating it alone on the training half, and ``minimality`` in the main circuit. By part left out (``span``):
``completeness``. By prompt: ``verdict_margin`` (``span`` is ``model``, ``nothing`` or a circuit).
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.cross_model_patching.circuits.ablation import SIDES
from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.cross_model_patching.circuits.result import CircuitResult


def frame(result: "CircuitResult") -> "pd.DataFrame":
    """Return the table.

    Args:
        result: The run.
    """
    import pandas as pd

    rows = [*_circuits(result), *_cells(result), *_minimality(result), *_completeness(result)]
    parts = [pd.DataFrame(rows), *(pd.DataFrame(part) for part in _prompts(result))]
    whole = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return tidy({name: whole[name] for name in whole.columns})


def _circuits(result: "CircuitResult") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for at, name in enumerate(result.circuit_names):
        if not result.members[at].any():
            continue
        for side, model in enumerate(SIDES):
            margin, chance = result.alive[at, side], result.chance(at, side)
            place = {"model": model, "span": f"{name} circuit"}
            kept = result.faithfulness(margin, side)._asdict()
            rows.append({**place, "metric": "faithfulness", **kept, "control": chance.value, "p": chance.p})
            whole = result.accuracy(result.margins[side]).value
            rows.append({**place, "metric": "accuracy", **result.accuracy(margin)._asdict(), "control": whole})
        gain, whole = result.gain(at)
        rows.append({"model": "judge - base", "span": f"{name} circuit", "metric": "gain", **gain._asdict(),
                     "control": whole.value})  # fmt: skip
    found = result.overlap()
    if found is not None:
        rows.append({"metric": "overlap", "value": found[0], "control": found[1].value, "p": found[1].p})
    return rows


def _cells(result: "CircuitResult") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    way = np.where(result.training[:, None], 1.0, np.nan) * _whole_way(result)
    for i, cell in enumerate(result.cells):
        place = _place(cell)
        rows += [
            {**place, "span": f"{name} circuit", "metric": "member", "value": float(result.members[at, i])}
            for at, name in enumerate(result.circuit_names)
        ]
        for side, model in enumerate(SIDES):
            lost = (result.margins[side] - result.single[side, i]) * way
            known = lost[~np.isnan(lost).any(1)]
            if len(known):
                value = -float(known.mean())
                rows.append({**place, "model": model, "metric": "single_effect", "value": value})
    return rows


def _whole_way(result: "CircuitResult") -> np.ndarray:
    sign = result.slot_sign()
    return sign if (~np.isnan(sign)).any() else np.sign(result.margins[1])


def _place(cell: Any) -> dict[str, Any]:
    return {"component": cell.component.value, "layer": cell.layer, "head": cell.head, "position": cell.position}


def _minimality(result: "CircuitResult") -> list[dict[str, Any]]:
    worth, adjusted = result.minimality()
    return [
        {**_place(cell), "model": result.model, "metric": "minimality", "value": float(worth.value[k]),
         "low": float(worth.low[k]), "high": float(worth.high[k]), "p": float(adjusted[k]), "n": worth.n}
        for k, cell in enumerate(result.circuit() if worth.n else ())
    ]  # fmt: skip


def _completeness(result: "CircuitResult") -> list[dict[str, Any]]:
    found = result.completeness()
    each = found.difference
    return [
        {"model": result.model, "span": name, "metric": "completeness", "value": float(each.value[k]),
         "low": float(each.low[k]), "high": float(each.high[k]), "n": each.n}
        for k, name in enumerate(result.subset_names if each.n else ())
    ]  # fmt: skip


def _prompts(result: "CircuitResult") -> list[dict[str, Any]]:
    items, orders = np.meshgrid(np.array(result.item_ids, dtype=object), result.orders, indexing="ij")
    parts: list[dict[str, Any]] = []
    for side, model in enumerate(SIDES):
        named = {"model": result.margins[side], "nothing": result.empty[side]}
        named |= {f"{name} circuit": result.alive[at, side] for at, name in enumerate(result.circuit_names)}
        parts += [
            {"item": items.ravel(), "order": orders.ravel(), "model": model, "span": span, "metric": "verdict_margin",
             "value": margin.ravel()}
            for span, margin in named.items()
        ]  # fmt: skip
    return parts
