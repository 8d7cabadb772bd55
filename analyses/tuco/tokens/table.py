"""The tidy table of a token map."""

from typing import TYPE_CHECKING

import numpy as np

from analyses.tuco.tokens.averages import measured_share
from analyses.tuco.tokens.statements import concentrations
from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.tuco.tokens.result import TokenMapResult

_PRETRAINED, _FINETUNED = "pretrained", "finetuned"


def frame(result: "TokenMapResult") -> "pd.DataFrame":
    """Return the tidy table of a result; prompts without a region have no row for it.

    Per region: ``tuco`` (with the random control), ``finetuned_norm``, ``pretrained_norm``, ``alignment``,
    ``tokens``; per region and unit: ``share`` (adds up to the region's TuCo over ``model == "finetuned"``, to its rest
    over ``"pretrained"``) and ``tuco_profile``; per token of the examples: ``token_tuco``, ``token_alignment``; along
    completions, ``position`` counting from the last prompt token: ``completion_tuco``; and, once per region,
    ``concentration`` with interval, control and p.
    """
    import pandas as pd

    pieces = [_per_region(result), _per_unit(result), _per_token(result), _along(result), _tests(result)]
    return pd.concat([piece for piece in pieces if len(piece)], ignore_index=True)


def _per_region(result: "TokenMapResult") -> "pd.DataFrame":
    items, orders, regions = _grid(result.item_ids, result.orders, result.regions)
    empty = np.full(result.tuco.shape, np.nan)
    metrics = [
        ("tuco", "judge", result.tuco, _over_draws(result.control_tuco)),
        ("finetuned_norm", _FINETUNED, result.finetuned_norm, _over_draws(result.control_finetuned_norm)),
        ("pretrained_norm", _PRETRAINED, result.pretrained_norm, _over_draws(result.control_pretrained_norm)),
        ("alignment", "judge", result.alignment, empty),
        ("tokens", "judge", result.n_tokens, empty),
    ]
    present = (result.n_tokens > 0).ravel()
    n = int(present.sum())
    return tidy(
        {
            "item": np.tile(items[present], len(metrics)),
            "order": np.tile(orders[present], len(metrics)),
            "model": np.repeat([model for _, model, _, _ in metrics], n),
            "span": np.tile(regions[present], len(metrics)),
            "metric": np.repeat([name for name, _, _, _ in metrics], n),
            "value": np.concatenate([values.ravel()[present] for _, _, values, _ in metrics]),
            "control": np.concatenate([control.ravel()[present] for _, _, _, control in metrics]),
        }
    )


def _per_unit(result: "TokenMapResult") -> "pd.DataFrame":
    whole = (result.finetuned_norm + result.pretrained_norm)[..., None]
    items, orders, regions, units = _grid(
        result.item_ids, result.orders, result.regions, tuple(range(len(result.units)))
    )
    present = np.repeat((result.n_tokens > 0).ravel(), len(result.units))
    metrics = [
        ("share", _FINETUNED, _of_whole(result.finetuned_parts, whole)),
        ("share", _PRETRAINED, _of_whole(result.pretrained_parts, whole)),
        ("tuco_profile", "judge", result.profile),
    ]
    chosen = units[present].astype(int)
    n = int(present.sum())
    return tidy(
        {
            "item": np.tile(items[present], len(metrics)),
            "order": np.tile(orders[present], len(metrics)),
            "model": np.repeat([model for _, model, _ in metrics], n),
            "component": np.tile(np.asarray(result.unit_components, dtype=object)[chosen], len(metrics)),
            "layer": np.tile(np.asarray(result.unit_layers)[chosen], len(metrics)),
            "span": np.tile(regions[present], len(metrics)),
            "metric": np.repeat([name for name, _, _ in metrics], n),
            "value": np.concatenate([values.ravel()[present] for _, _, values in metrics]),
        }
    )


def _per_token(result: "TokenMapResult") -> "pd.DataFrame":
    rows: list[dict[str, object]] = []
    shares = measured_share(result.example_finetuned, result.example_pretrained)
    for e, item in enumerate(result.example_items):
        for k, order in enumerate(result.orders):
            for position, (token, region) in enumerate(
                zip(result.example_tokens[e][k], result.example_regions[e][k], strict=True)
            ):
                where = {"item": item, "order": order, "position": position, "token": token, "span": region}
                rows.append({**where, "metric": "token_tuco", "value": shares[e, k, position]})
                rows.append({**where, "metric": "token_alignment", "value": result.example_alignment[e, k, position]})
    return _rows(rows)


def _along(result: "TokenMapResult") -> "pd.DataFrame":
    items, orders, steps = _grid(result.item_ids, result.orders, tuple(range(result.curve.shape[-1])))
    known = ~np.isnan(result.curve.ravel())
    control = _over_draws(measured_share(result.control_finetuned_curve, result.control_pretrained_curve))
    return tidy(
        {
            "item": items[known],
            "order": orders[known],
            "model": "judge",
            "position": steps[known],
            "metric": "completion_tuco",
            "value": result.curve.ravel()[known],
            "control": control.ravel()[known],
        }
    )


def _tests(result: "TokenMapResult") -> "pd.DataFrame":
    return _rows(
        [
            {
                "span": test.region,
                "metric": "concentration",
                "value": test.own.value,
                "low": test.own.low,
                "high": test.own.high,
                "control": test.chance.value,
                "p": test.p,
                "n": test.own.n,
            }
            for test in concentrations(result)
        ]
    )


def _rows(rows: list[dict[str, object]]) -> "pd.DataFrame":
    names = list(rows[0]) if rows else ["metric", "value"]
    return tidy({name: [row[name] for row in rows] for name in names})


def _of_whole(parts: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(parts, whole, out=np.zeros_like(parts), where=np.broadcast_to(whole > 0, parts.shape))


def _grid(*labels: tuple[object, ...]) -> list[np.ndarray]:
    return [axis.ravel() for axis in np.meshgrid(*[np.asarray(label, dtype=object) for label in labels], indexing="ij")]


def _over_draws(values: np.ndarray) -> np.ndarray:
    return values.mean(0) if len(values) else np.full(values.shape[1:], np.nan)
