"""The tidy table of a heads run: means by layer, head, span and part with intervals; heads by item and order."""

from typing import TYPE_CHECKING

import numpy as np

from analyses.cells import CellIntervals
from workbench.results import tidy

if TYPE_CHECKING:
    import pandas as pd

    from analyses.tuco.heads.result import HeadsResult

HEAD, ATTENTION, MLP = "z", "attn_out", "mlp_out"
"""Values of the ``component`` column; single neurons are ``neuron 17``."""

_VERDICT_TOKEN = "verdict token"  # noqa: S105 - a place in the prompt
"""Where biases and MLPs write from: they take from no other token."""


def frame(result: "HeadsResult") -> "pd.DataFrame":
    """Return the tidy table.

    Over items, for each view (``content_push``, ``position_push``): every head with interval, control (mean of the
    random changes) and family-wise p; every MLP; ``..._region_push`` by ``span`` (answers by role in the content
    view); ``..._pattern_push``, ``..._value_push``, ``..._output_push``; chosen neurons. By item and order:
    ``verdict_push`` of every head, attention bias and MLP (``model`` tells P from F), which with ``embedding_push``
    and ``bias_push`` add up to ``verdict_gap``.
    """
    import pandas as pd

    blocks = [block for view in result.views for block in _over_items(result, view)]
    return pd.concat([*blocks, *_by_prompt(result)], ignore_index=True)


def _over_items(result: "HeadsResult", view: str) -> "list[pd.DataFrame]":
    names, regions = result.in_view(result.region_push, view)
    index = result.views.index(view)
    heads = result.cells(result.head_push, view)
    blocks = [
        tidy(
            {
                **_axes(("layer", result.n_layers), ("head", result.n_heads)),
                **_columns(heads),
                "component": HEAD,
                "metric": f"{view}_push",
                "control": _control(result, result.control_head_push, view),
                "p": result.head_p[index].ravel(),
            }
        ),
        _block(result, result.mlp_push, view, MLP, control=result.control_mlp_push),
        _block(result, result.attention_bias_push, view, ATTENTION),
    ]
    spans = _axes(("layer", result.n_layers), ("head", result.n_heads), ("span", len(names)))
    spans["span"] = np.array(names, dtype=object)[spans["span"]]
    metric = f"{view}_region_push"
    blocks.append(tidy({**spans, **_columns(result.cells(regions, view)), "component": HEAD, "metric": metric}))
    grid = _axes(("layer", result.n_layers), ("head", result.n_heads))
    for k, part in enumerate(result.parts):
        cells = _columns(result.cells(result.part_push[..., k], view))
        blocks.append(tidy({**grid, **cells, "component": HEAD, "metric": f"{view}_{part}_push"}))
    if result.neuron_ids.size:
        blocks.append(_neurons(result, view))
    return blocks


def _block(
    result: "HeadsResult", values: np.ndarray, view: str, component: str, *, control: np.ndarray | None = None
) -> "pd.DataFrame":
    drawn = np.full(result.n_layers, np.nan) if control is None else _control(result, control, view)
    return tidy(
        {
            **_axes(("layer", result.n_layers)),
            **_columns(result.cells(values, view)),
            "component": component,
            "span": _VERDICT_TOKEN,
            "metric": f"{view}_push",
            "control": drawn,
        }
    )


def _neurons(result: "HeadsResult", view: str) -> "pd.DataFrame":
    cells = _columns(result.cells(result.neuron_push, view))
    random = np.abs(result.cells(result.neuron_control_push, view).value).mean(-1)
    return tidy(
        {
            "layer": np.repeat(np.arange(result.n_layers), result.neuron_ids.shape[1]),
            **cells,
            "component": np.array([f"neuron {k}" for k in result.neuron_ids.ravel()], dtype=object),
            "span": _VERDICT_TOKEN,
            "metric": f"{view}_push",
            "control": np.repeat(random, result.neuron_ids.shape[1]),
        }
    )


def _by_prompt(result: "HeadsResult") -> "list[pd.DataFrame]":
    def block(values: np.ndarray, *, component: str, model: str, metric: str = "verdict_push") -> "pd.DataFrame":
        names = ("layer", "head")[: values.ndim - 2]
        axes = _axes(
            ("item", len(result.item_ids)),
            ("order", len(result.orders)),
            *[(name, values.shape[2 + k]) for k, name in enumerate(names)],
        )
        axes["item"] = np.array(result.item_ids, dtype=object)[axes["item"]]
        axes["order"] = np.array(result.orders, dtype=object)[axes["order"]]
        place = {"component": component} if component else {}
        return tidy({**axes, **place, "model": model, "metric": metric, "value": values.ravel()})

    return [
        block(result.head_push, component=HEAD, model="finetuned"),
        block(result.pretrained_head_push, component=HEAD, model="pretrained"),
        block(result.attention_bias_push, component=ATTENTION, model="finetuned"),
        block(result.mlp_push, component=MLP, model="finetuned"),
        block(result.pretrained_push[..., 0], component=ATTENTION, model="pretrained", metric="sublayer_push"),
        block(result.pretrained_push[..., 1], component=MLP, model="pretrained", metric="sublayer_push"),
        block(result.judge_gap, component="", model="judge", metric="verdict_gap"),
        block(result.embedding_push, component="", model="judge", metric="embedding_push"),
        block(result.bias_push, component="", model="judge", metric="bias_push"),
    ]


def _axes(*axes: tuple[str, int]) -> dict[str, np.ndarray]:
    grids = np.meshgrid(*[np.arange(size) for _, size in axes], indexing="ij")
    return {name: grid.ravel() for (name, _), grid in zip(axes, grids, strict=True)}


def _columns(cells: CellIntervals) -> dict[str, object]:
    return {"value": cells.value.ravel(), "low": cells.low.ravel(), "high": cells.high.ravel(), "n": cells.n}


def _control(result: "HeadsResult", drawn: np.ndarray, view: str) -> np.ndarray:
    if not len(drawn):
        return np.full(int(np.prod(drawn.shape[3:])), np.nan)
    return np.mean([result.cells(draw, view).value for draw in drawn], axis=0).ravel()
