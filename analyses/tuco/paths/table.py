"""The tidy table of a path attribution: places over items, prompts, and examples' tokens."""

from typing import TYPE_CHECKING

import numpy as np

from analyses.tuco.paths import statements
from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.tuco.paths.result import PathsResult


def frame(result: "PathsResult") -> "pd.DataFrame":
    """Return the tidy table.

    Over items, for each view (``content_attribution``, ``position_attribution``): every unit, every region (``span``;
    answers by role in the content view) and every cell, with interval, control (mean of the random changes) and
    family-wise p; ``..._lost`` is the gap really lost without a unit or a region. By item and order: ``attribution``
    of every cell, which with ``embedding_part`` and ``head_part`` adds up to ``verdict_gap`` of the judge minus the
    base's; ``completeness_error`` and ``nodes``. Examples: ``token_attribution``.
    """
    import pandas as pd

    over_items = [block for view in result.views for block in _over_items(result, view)]
    return pd.concat([*over_items, *_by_prompt(result), *_tokens(result)], ignore_index=True)


def _over_items(result: "PathsResult", view: str) -> "list[pd.DataFrame]":
    blocks = []
    for kind, place in statements.places(result, view).items():
        at = _unit_columns(result) if kind == "unit" else {"span": np.array(place.names, dtype=object)}
        lost = result.removed_unit if kind == "unit" else result.in_view(result.removed_region, view)[1]
        control = place.draws.mean(0) if len(place.draws) else np.full(len(place.names), np.nan)
        blocks.append(
            tidy({**at, **_columns(place.cells), "metric": f"{view}_attribution", "control": control, "p": place.p})
        )
        if not np.isnan(lost).all():
            blocks.append(tidy({**at, **_columns(result.cells(lost, view)), "metric": f"{view}_lost"}))
    names, values = result.in_view(result.attribution, view)
    blocks.append(
        tidy(
            {
                **{name: np.repeat(column, len(names)) for name, column in _unit_columns(result).items()},
                "span": np.tile(np.array(names, dtype=object), len(result.units)),
                **_columns(result.cells(values, view)),
                "metric": f"{view}_attribution",
            }
        )
    )
    return blocks


def _by_prompt(result: "PathsResult") -> "list[pd.DataFrame]":
    n_cells = len(result.units) * len(result.regions)
    items, orders = (np.array(labels, dtype=object) for labels in (result.item_ids, result.orders))
    item, order = (axis.ravel() for axis in np.meshgrid(items, orders, indexing="ij"))
    units, regions = np.indices((len(result.units), len(result.regions))).reshape(2, -1)
    cells = {name: np.tile(column[units], len(item)) for name, column in _unit_columns(result).items()}
    metrics = [
        ("verdict_gap", "judge", result.judge_gap),
        ("verdict_gap", "base", result.base_gap),
        ("embedding_part", "judge", result.embedding_part),
        ("head_part", "judge", result.head_part),
        ("completeness_error", "judge", result.completeness_error),
        ("nodes", "judge", result.nodes),
    ]
    return [
        tidy(
            {
                "item": np.repeat(item, n_cells),
                "order": np.repeat(order, n_cells),
                **cells,
                "span": np.tile(np.array(result.regions, dtype=object)[regions], len(item)),
                "model": "judge",
                "metric": "attribution",
                "value": result.attribution.ravel(),
            }
        ),
        *(
            tidy({"item": item, "order": order, "model": model, "metric": metric, "value": values.ravel()})
            for metric, model, values in metrics
        ),
        tidy(
            {
                "item": item,
                "order": order,
                "model": "judge",
                "metric": "confirmed_effect",
                "value": result.confirmed_effect.ravel(),
                "control": result.confirmed_other.ravel(),
            }
        ),
    ]


def _tokens(result: "PathsResult") -> "list[pd.DataFrame]":
    blocks = []
    for e, item in enumerate(result.example_items):
        for k, order in enumerate(result.orders):
            tokens, names = result.example_tokens[e][k], result.example_regions[e][k]
            columns = {name: np.repeat(column, len(tokens)) for name, column in _unit_columns(result).items()}
            blocks.append(
                tidy(
                    {
                        "item": item,
                        "order": order,
                        "model": "judge",
                        **columns,
                        "position": np.tile(np.arange(len(tokens)), len(result.units)),
                        "token": np.tile(np.array(tokens, dtype=object), len(result.units)),
                        "span": np.tile(np.array(names, dtype=object), len(result.units)),
                        "metric": "token_attribution",
                        "value": result.example_attribution[e, k, :, : len(tokens)].ravel(),
                    }
                )
            )
    return blocks


def _unit_columns(result: "PathsResult") -> dict[str, np.ndarray]:
    return {
        "component": np.array(result.unit_components, dtype=object),
        "layer": np.array(result.unit_layers),
    }


def _columns(cells: statements.CellIntervals) -> dict[str, object]:
    return {"value": cells.value.ravel(), "low": cells.low.ravel(), "high": cells.high.ravel(), "n": cells.n}
