"""The tidy table of a paths run.

By item and order: ``verdict_margin`` of both models. Over items, toward the label: ``path_effect`` and
``path_recovery`` of every path (``component``, ``layer``, ``head``: the sender; ``span``: the receiver, with
``direct`` for the verdict; chosen paths on the items they weren't chosen on), control (another item's write) and p
of chosen paths; ``total_effect`` of every sender.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.cross_model_patching.paths import views
from workbench.hooks import Site
from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.cross_model_patching.paths.result import PathPatchingResult

DIRECT = "direct"
"""Receiver of a direct path in the ``span`` column."""


def frame(result: "PathPatchingResult") -> "pd.DataFrame":
    """Return the table.

    Args:
        result: The run.
    """
    import pandas as pd

    edges = views.edges(result)
    parts = [_margins(result), _paths(result, edges), _totals(result)]
    whole = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    return tidy({name: whole[name] for name in whole.columns})


def _margins(result: "PathPatchingResult") -> dict[str, Any]:
    items = np.repeat(np.array(result.item_ids, dtype=object), len(result.orders))
    orders = np.tile(np.array(result.orders, dtype=object), len(result.item_ids))
    return {
        "item": np.tile(items, 2),
        "order": np.tile(orders, 2),
        "model": np.repeat(["base", "judge"], len(items)),
        "position": -1,
        "metric": "verdict_margin",
        "value": np.concatenate([result.base_margin.ravel(), result.judge_margin.ravel()]),
    }


def _paths(result: "PathPatchingResult", edges: views.Edges) -> "pd.DataFrame":
    import pandas as pd

    span = [DIRECT if name == "verdict" else name for name in result.edge_receivers]
    place = {**_place(result.edge_senders), "direction": list(result.edge_directions), "span": span, "position": -1}
    blocks = [
        {**place, "metric": name, "value": cells.value, "low": cells.low, "high": cells.high, "n": cells.n,
         "p": edges.p}
        for name, cells in (("path_effect", edges.effect), ("path_recovery", edges.recovery))
    ]  # fmt: skip
    blocks[0]["control"] = edges.mismatched.value
    return pd.concat([pd.DataFrame(block) for block in blocks], ignore_index=True)


def _totals(result: "PathPatchingResult") -> "pd.DataFrame":
    import pandas as pd

    return pd.concat(
        [
            pd.DataFrame(
                {
                    **_place(result.senders),
                    "direction": direction,
                    "position": -1,
                    "metric": "total_effect",
                    "value": views.mean_toward(result, result.total_effect[at]),
                }
            )
            for at, direction in enumerate(result.directions)
        ],
        ignore_index=True,
    )


def _place(senders: tuple[str, ...]) -> dict[str, list[Any]]:
    sites = [Site.parse(name) for name in senders]
    return {
        "component": [site.component.value for site in sites],
        "layer": [site.layer for site in sites],
        "head": [site.head for site in sites],
    }
