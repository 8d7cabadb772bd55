"""The tidy table of a TuCo run: one row per item, order, unit and metric."""

from typing import TYPE_CHECKING

import numpy as np

from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.tuco.result import TucoResult

PRETRAINED, FINETUNED = "pretrained", "finetuned"
"""Values of the ``model`` column for parts that belong to P or to F."""


def frame(result: "TucoResult") -> "pd.DataFrame":
    """Return the tidy table of a result.

    Per prompt: ``tuco, preco, output_share, alignment, embedding_norm, verdict_gap, ...`` with the
    random control of TuCo and of the push beside them. Per unit: ``share`` (adds up to TuCo or
    PreCo), ``verdict_push`` (adds up to the gap, with embedding and bias), ``removal_effect`` and
    ``tuco_profile``; ``model`` tells P from F.
    """
    import pandas as pd

    return pd.concat([_per_prompt(result), _per_unit(result)], ignore_index=True)


def _per_prompt(result: "TucoResult") -> "pd.DataFrame":
    control_share = _mean_over_draws(result.control_share)
    control_push = _mean_over_draws(result.control_push)
    empty = np.full(result.tuco.shape, np.nan)
    metrics = [
        ("tuco", "judge", result.tuco, control_share),
        ("preco", "judge", result.preco, 1 - control_share),
        ("output_share", "judge", result.output_share, empty),
        ("alignment", "judge", result.alignment, empty),
        ("embedding_norm", "judge", result.embedding_norm, empty),
        ("finetuned_norm", FINETUNED, result.finetuned_norm, _mean_over_draws(result.control_finetuned_norm)),
        ("pretrained_norm", PRETRAINED, result.pretrained_norm, _mean_over_draws(result.control_pretrained_norm)),
        ("verdict_gap", "judge", result.judge_gap, empty),
        ("verdict_gap", "base", result.base_gap, empty),
        ("verdict_push", FINETUNED, result.finetuned_push.sum(-1), control_push),
        ("verdict_push", PRETRAINED, result.pretrained_push.sum(-1), empty),
        ("embedding_push", PRETRAINED, result.embedding_push, empty),
        ("embedding_push", FINETUNED, result.embedding_change_push, empty),
        ("bias_push", "judge", result.bias_push, empty),
        ("head_change_effect", "judge", result.head_change_effect, empty),
        ("tuco_under_floor", "judge", result.under_floor.astype(float), empty),
        *((f"tuco_{kind}", "judge", result.tuco_by_norm[..., k], empty) for k, kind in enumerate(result.norms)),
        ("confirmed_effect", "judge", result.confirmed_effect, result.confirmed_control),
    ]
    items, orders = _grid(result.item_ids, result.orders)
    size = items.size
    return tidy(
        {
            "item": np.tile(items, len(metrics)),
            "order": np.tile(orders, len(metrics)),
            "model": np.repeat([model for _, model, _, _ in metrics], size),
            "metric": np.repeat([name for name, _, _, _ in metrics], size),
            "value": np.concatenate([values.ravel() for _, _, values, _ in metrics]),
            "control": np.concatenate([control.ravel() for _, _, _, control in metrics]),
        }
    )


def _per_unit(result: "TucoResult") -> "pd.DataFrame":
    metrics = [
        ("share", FINETUNED, result.finetuned_shares),
        ("share", PRETRAINED, result.pretrained_shares),
        ("verdict_push", FINETUNED, result.finetuned_push),
        ("verdict_push", PRETRAINED, result.pretrained_push),
        ("removal_effect", FINETUNED, result.removal_effect),
        ("tuco_profile", "judge", result.profile),
    ]
    items, orders, units = _grid(result.item_ids, result.orders, tuple(range(len(result.units))))
    units = units.astype(int)
    size = items.size
    return tidy(
        {
            "item": np.tile(items, len(metrics)),
            "order": np.tile(orders, len(metrics)),
            "model": np.repeat([model for _, model, _ in metrics], size),
            "component": np.tile(np.asarray(result.unit_components)[units], len(metrics)),
            "layer": np.tile(np.asarray(result.unit_layers)[units], len(metrics)),
            "metric": np.repeat([name for name, _, _ in metrics], size),
            "value": np.concatenate([values.ravel() for _, _, values in metrics]),
        }
    )


def _grid(*labels: tuple[object, ...]) -> list[np.ndarray]:
    return [axis.ravel() for axis in np.meshgrid(*[np.asarray(label, dtype=object) for label in labels], indexing="ij")]


def _mean_over_draws(values: np.ndarray) -> np.ndarray:
    return values.mean(0) if len(values) else np.full(values.shape[1:], np.nan)
