"""The tidy table of a located bias.

Per prompt and condition (``direction``): ``verdict_margin`` of both models. Over items: ``bias`` of both models.
Per cell: ``bias_removed`` by the donor run (direction: its name) and by the other model (direction: its side), as a
share with interval and as ``bias_removed_raw`` with p. Of the named set (component ``named set``): ``set_removed`` by
patching, ablating and the other model, with the mean of random sets (judges) as control; ``margin_lost`` and
``agreement`` of the side effect.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.cross_model_patching.bias.views import CellMap, Confirmation
from analyses.metrics import Interval
from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.cross_model_patching.bias.result import BiasSitesResult


def frame(result: "BiasSitesResult") -> "pd.DataFrame":
    """Return the table.

    Args:
        result: The run.
    """
    import pandas as pd

    parts = [pd.DataFrame(_per_prompt(result)), pd.DataFrame(_biases(result))]
    for direction, found in ((result.donor, result.patched_map()), (result.other_side, result.given_map())):
        parts += [pd.DataFrame(rows) for rows in _per_cell(result, direction, found)]
    held = result.confirmation()
    if held is not None:
        parts.append(pd.DataFrame(_set_rows(result, held)))
    whole = pd.concat(parts, ignore_index=True)
    return tidy({name: whole[name].to_numpy() for name in whole.columns})


def _per_prompt(result: "BiasSitesResult") -> dict[str, Any]:
    conditions, items, orders = np.meshgrid(
        *(np.array(axis, object) for axis in (result.conditions, result.item_ids, result.orders)), indexing="ij"
    )
    return {
        "item": np.tile(items.ravel(), 2),
        "order": np.tile(orders.ravel(), 2),
        "direction": np.tile(conditions.ravel(), 2),
        "model": np.repeat(["judge", "base"], items.size),
        "metric": "verdict_margin",
        "value": np.concatenate([result.judge_margin.ravel(), result.base_margin.ravel()]),
    }


def _biases(result: "BiasSitesResult") -> list[dict[str, Any]]:
    told = result.bias()
    return [
        _interval(told.own, model=result.side, metric="bias") | {"control": told.placebo.value, "p": told.p},
        _interval(told.other, model=result.other_side, metric="bias"),
        _interval(told.made, model="judge - base", metric="bias")
        | {"control": told.made_chance.value, "p": told.made_chance.p},
    ]


def _per_cell(result: "BiasSitesResult", direction: str, found: CellMap) -> list[dict[str, Any]]:
    labels = {
        "model": result.side,
        "direction": direction,
        "component": np.array(result.components, object),
        "layer": np.array(result.layers),
        "head": np.array(result.heads, object),
        "position": np.array(result.positions, object),
        "span": np.array(result.spans, object),
    }
    share = found.share
    return [
        {**labels, "metric": "bias_removed", "value": share.value, "low": share.low, "high": share.high, "n": share.n},
        {**labels, "metric": "bias_removed_raw", "value": found.removed, "p": np.fmax(found.p_items, found.p_chance)},
    ]


def _set_rows(result: "BiasSitesResult", held: Confirmation) -> list[dict[str, Any]]:
    labels = {"model": result.side, "component": "named set"}
    checks = {result.donor: held.patched, f"{result.ablation} ablation": held.ablated, result.other_side: held.given}
    if not np.isnan(held.induced.share.value):
        checks[f"into {result.donor}"] = held.induced
    rows = [
        _interval(check.share, metric="set_removed", direction=name, **labels)
        | {"control": check.random.value, "p": check.random.p}
        for name, check in checks.items()
    ]
    ablated = {**labels, "direction": f"{result.ablation} ablation"}
    rows.append(_interval(held.side.lost, metric="margin_lost", **ablated))
    rows.append(_interval(held.side.right_after, metric="agreement", **ablated) | {"control": held.side.right.value})
    return rows


def _interval(interval: Interval, **labels: Any) -> dict[str, Any]:
    return {**labels, **interval._asdict()}
