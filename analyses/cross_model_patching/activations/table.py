"""The tidy table of a patching run.

Per prompt: ``verdict_margin`` and ``label_mass`` of both models. Per direction and cell, over items: ``effect`` and
``recovery`` toward the label (with interval, the mismatched item's effect as control, and p), ``position_effect``
toward the first slot, ``flipped``, ``label_mass``, ``relative_size``, ``noise_effect``, ``structural_zero``. Per
direction: ``set_recovery`` of the named set, with the mean of random sets as control.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.cross_model_patching.activations import views
from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.cross_model_patching.activations.result import ActivationPatchingResult


def frame(result: "ActivationPatchingResult") -> "pd.DataFrame":
    """Return the table.

    Args:
        result: The run.
    """
    import pandas as pd

    found = views.sweeps(result)
    parts = [_per_prompt(result)]
    for direction in result.directions:
        parts += _per_cell(result, direction, found[direction])
    sets = [_set_row(result, at) for at in range(len(result.directions)) if result.sets[at]]
    whole = pd.concat([pd.DataFrame(part) for part in [*parts, *([pd.DataFrame(sets)] if sets else [])]])
    return tidy({name: whole[name].to_numpy() for name in whole.columns})


def _per_prompt(result: "ActivationPatchingResult") -> dict[str, Any]:
    items, orders = np.meshgrid(np.array(result.item_ids, object), np.array(result.orders, object), indexing="ij")
    rows = [
        ("base", "verdict_margin", result.base_margin),
        ("judge", "verdict_margin", result.judge_margin),
        ("base", "label_mass", result.base_mass),
        ("judge", "label_mass", result.judge_mass),
    ]
    return {
        "item": np.tile(items.ravel(), len(rows)),
        "order": np.tile(orders.ravel(), len(rows)),
        "model": np.repeat([model for model, _, _ in rows], items.size),
        "metric": np.repeat([metric for _, metric, _ in rows], items.size),
        "value": np.concatenate([values.ravel() for _, _, values in rows]),
    }


def _per_cell(result: "ActivationPatchingResult", direction: str, sweep: views.Sweep) -> list[dict[str, Any]]:
    labels = {
        "direction": direction,
        "model": "base" if direction == "judge_to_base" else "judge",
        "component": np.array(result.components, object),
        "layer": np.array(result.layers),
        "head": np.array(result.heads, object),
        "position": np.array(result.positions, object),
        "span": np.array(result.spans, object),
    }
    zero = views.mean_known(result.zero[result.at(direction)])
    intervals = {"effect": sweep.effect, "recovery": sweep.recovery, "position_effect": sweep.position}
    rows: list[dict[str, Any]] = []
    for metric, found in intervals.items():
        row = {**labels, "metric": metric, "value": found.value, "low": found.low, "high": found.high, "n": found.n}
        if metric == "effect":
            row |= {"control": sweep.mismatched.value, "p": sweep.p}
        rows.append(row)
    plain = {
        "flipped": sweep.flips,
        "label_mass": sweep.mass,
        "relative_size": sweep.size,
        "noise_effect": sweep.noise.value,
        "structural_zero": zero,
    }
    rows += [{**labels, "metric": metric, "value": values} for metric, values in plain.items()]
    return rows


def _set_row(result: "ActivationPatchingResult", at: int) -> dict[str, Any]:
    own = views.set_recovery(result, at, 0)
    others = [views.set_recovery(result, at, k).value for k in range(1, result.set_effect.shape[1])]
    return {
        "direction": result.directions[at],
        "metric": "set_recovery",
        "value": own.value,
        "low": own.low,
        "high": own.high,
        "n": own.n,
        "control": float(np.mean(others)) if others else np.nan,
    }
