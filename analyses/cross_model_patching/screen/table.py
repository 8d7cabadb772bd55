"""The tidy table of a screen.

Per unit and part (``span``), or token from the end (``position``): ``score`` toward the label with interval and
family-wise p (``control``: what random judges' largest stays within), ``effect`` where it was patched exactly
(``control``: its score). Exact patches in front of the last token: ``effect`` and ``recovery`` (``control``: another
item's change there), with ``component`` ``stream`` for the residual stream of every block together. ``correlation``,
``slope`` and ``miss`` say how far scores agree with exact effects at the last tokens and (``span`` ``re-checked``) in
front of them. Per prompt: margins, and the exact patches.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.cells import cell_intervals
from analyses.cross_model_patching.screen import views
from analyses.cross_model_patching.screen.views import STREAM
from workbench.hooks import Site
from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.cross_model_patching.screen.result import ScreenResult


def frame(result: "ScreenResult") -> "pd.DataFrame":
    """Return the table.

    Args:
        result: The screen.
    """
    import pandas as pd

    rows = [row for at in range(len(result.directions)) for row in (*_map(result, at), *_tail(result, at))]
    rows += [*_checks(result), *_agreements(result), *_prompts(result)]
    whole = pd.DataFrame(rows)
    return tidy({name: whole[name] for name in whole.columns})


def _unit(unit: str) -> dict[str, Any]:
    if unit == STREAM:
        return {"component": STREAM}
    site = Site.parse(unit)
    return {"component": str(site.component), "layer": site.layer, "head": site.head}


def _region(region: str) -> dict[str, Any]:
    return {"position": int(region)} if region.startswith("-") else {"span": region}


def _map(result: "ScreenResult", at: int) -> list[dict[str, Any]]:
    direction = result.directions[at]
    found = result.map(direction)
    return [
        {
            "direction": direction, **_unit(unit), "span": region, "metric": "score", "value": found.cells.value[r, u],
            "low": found.cells.low[r, u], "high": found.cells.high[r, u], "control": found.bound, "p": found.p[r, u],
            "n": found.cells.n,
        }
        for r, region in enumerate(result.regions)
        for u, unit in enumerate(result.units)
    ]  # fmt: skip


def _tail(result: "ScreenResult", at: int) -> list[dict[str, Any]]:
    direction, rows = result.directions[at], []
    scores, exact = (
        cell_intervals(views.oriented(result, values[at]).mean(1), clusters=result.clusters, seed=result.meta.seed)
        for values in (result.back, result.exact_back)
    )
    for metric, cells in (("score", scores), ("effect", exact)):
        for back, unit in np.ndindex(*cells.value.shape):
            control = scores.value[back, unit] if metric == "effect" else np.nan
            rows.append({
                "direction": direction, **_unit(result.units[unit]), "position": -back - 1, "metric": metric,
                "value": cells.value[back, unit], "low": cells.low[back, unit], "high": cells.high[back, unit],
                "control": control, "n": cells.n,
            })  # fmt: skip
    return rows


def _checks(result: "ScreenResult") -> list[dict[str, Any]]:
    rows = []
    for check in result.checks():
        where = {"direction": check.direction, **_unit(check.unit), **_region(check.region)}
        rows.append({**where, "metric": "effect", **check.exact._asdict(), "control": check.screened.value,
                     "p": check.p})  # fmt: skip
        rows.append({**where, "metric": "recovery", **check.recovery._asdict(), "control": check.mismatched.value})
    return rows


def _agreements(result: "ScreenResult") -> list[dict[str, Any]]:
    rows = []
    for direction in result.directions:
        for where, span in (("last", "last token"), ("mid", "re-checked")):
            found = result.agreement(direction, where)
            shared = {"direction": direction, "span": span}
            rows.append({**shared, "metric": "correlation", **found.correlation._asdict()})
            rows.append({**shared, "metric": "slope", **found.slope._asdict()})
            rows.append({**shared, "metric": "miss", "value": found.miss})
    return rows


def _prompts(result: "ScreenResult") -> list[dict[str, Any]]:
    rows = []
    for i, item in enumerate(result.item_ids):
        for k, order in enumerate(result.orders):
            shared = {"item": item, "order": order}
            for side, margins in (("base", result.base_margin), ("judge", result.judge_margin)):
                rows.append({**shared, "model": side, "metric": "verdict_margin", "value": margins[i, k]})
            for at, places in enumerate(result.places):
                rows += [
                    {**shared, "direction": result.directions[at], **_unit(unit), **_region(region),
                     "metric": "patch_effect", "value": result.exact[at, i, k, p]}
                    for p, (region, unit) in enumerate(places)
                    if np.isfinite(result.exact[at, i, k, p])
                ]  # fmt: skip
    return rows
