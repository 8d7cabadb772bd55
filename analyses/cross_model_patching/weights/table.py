"""The tidy table of a weight swap; ``component`` is the kind of the part.

Per prompt: ``verdict_margin`` by model, and ``written`` and ``seen`` effects, slots as shown. Over items: ``written``,
``seen`` and ``through`` toward the label (what the base gains, or the judge loses) with interval, the family-wise p
over items and, as control, what the largest part of a further random judge stays within; the same as ``_recovery``;
``graft`` by depth (in ``layer``).
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.cross_model_patching.weights import effects
from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.cross_model_patching.weights.result import WeightSwapResult


def frame(result: "WeightSwapResult") -> "pd.DataFrame":
    """Return the table.

    Args:
        result: The run.
    """
    import pandas as pd

    parts = [*_margins(result), *_per_prompt(result), *_over_items(result), *_grafts(result)]
    whole = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    return tidy({name: whole[name] for name in whole.columns})


def _margins(result: "WeightSwapResult") -> list[dict[str, Any]]:
    items, orders = _grid(result.item_ids, result.orders)
    return [
        {"item": items, "order": orders, "model": model, "metric": "verdict_margin", "value": values.ravel()}
        for model, values in (("base", result.base_margin), ("judge", result.judge_margin))
    ]


def _per_prompt(result: "WeightSwapResult") -> list[dict[str, Any]]:
    numbers = tuple(range(len(result.kinds)))
    ways, items, orders, parts = _grid(result.directions, result.item_ids, result.orders, numbers)
    return [
        {"item": items, "order": orders, "direction": ways, **_labels(result, parts.astype(int)), "metric": metric,
         "value": values.ravel()}
        for metric, values in (("written", result.written), ("seen", result.seen))
        if not np.isnan(values).all()
    ]  # fmt: skip


def _over_items(result: "WeightSwapResult") -> list[dict[str, Any]]:
    tested = effects.tested(result)
    parts = np.arange(len(result.kinds))
    found = []
    for index, way in enumerate(result.directions):
        for metric in ("written", "seen", "through"):
            if np.isnan(getattr(result, metric)).all():
                continue
            written = metric == "written"
            bound = tested.bound if written else effects.seen_bound(result)
            for name, cells in (
                (metric, result.effects(way, of=metric)),
                (f"{metric}_recovery", result.recoveries(way, of=metric)),
            ):
                found.append(
                    {"direction": way, **_labels(result, parts), "metric": name, "value": cells.value,
                     "low": cells.low, "high": cells.high, "n": cells.n,
                     "p": tested.p_items[index] if written else np.nan,
                     "control": bound if name == metric else np.nan}
                )  # fmt: skip
    return found


def _grafts(result: "WeightSwapResult") -> list[dict[str, Any]]:
    if np.isnan(result.graft).all():
        return []
    cells = effects.grafted(result)
    return [
        {"direction": "judge_to_base", "component": "first blocks", "layer": np.arange(len(cells.value)),
         "metric": "graft", "value": cells.value, "low": cells.low, "high": cells.high, "n": cells.n}
    ]  # fmt: skip


def _labels(result: "WeightSwapResult", parts: np.ndarray) -> dict[str, Any]:
    numbers = [np.where(np.array(values) < 0, np.nan, values)[parts] for values in (result.layers, result.heads)]
    return {"component": np.array(result.kinds, dtype=object)[parts], "layer": numbers[0], "head": numbers[1]}


def _grid(*labels: tuple[Any, ...]) -> list[np.ndarray]:
    axes = [np.asarray(label, dtype=object) for label in labels]
    return [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]
