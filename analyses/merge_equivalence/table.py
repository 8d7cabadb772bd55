"""The tidy table of a comparison of merged and unmerged: one row per form, prompt and quantity."""

from typing import TYPE_CHECKING

import numpy as np

from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.merge_equivalence.result import MergeEquivalenceResult

_NAMES = ("reference_margin", "margin", "reference_mass", "mass", "logit_difference", "divergence")


def frame(result: "MergeEquivalenceResult") -> "pd.DataFrame":
    """Return one row per form, item, order and quantity, then one per layer of the stream's drift."""
    import pandas as pd

    shape = result.margin.shape
    form, item, order = (index.ravel() for index in np.indices(shape))
    labels = {
        "item": np.array(result.item_ids)[item],
        "order": np.array(result.orders)[order],
        "model": np.array(result.forms)[form],
    }
    plain = [tidy({**labels, "metric": name, "value": getattr(result, name).ravel()}) for name in _NAMES]
    drift = [
        tidy({**labels, "layer": layer, "metric": "stream_drift", "value": result.stream_drift[..., layer].ravel()})
        for layer in range(result.n_layers)
    ]
    return pd.concat([*plain, *drift], ignore_index=True)
