"""Have base and judge the same shape? These guards come first: weights of two shapes can't be subtracted."""

import json

from transformers import PreTrainedModel

from workbench.pairs.modules import attention_of, embedding_of
from workbench.pairs.report import Guard

_SHAPE_FIELDS = {
    "layers": ("num_hidden_layers", "n_layer"),
    "width": ("hidden_size", "n_embd"),
    "heads": ("num_attention_heads", "n_head"),
    "key-value heads": ("num_key_value_heads",),
    "head width": ("head_dim",),
}


def structure_guards(base: PreTrainedModel, judge: PreTrainedModel) -> list[Guard]:
    """Compare architecture, layer count, width, head layout, vocabulary rows and attention implementation."""
    return [
        _architecture(base, judge),
        *(_shape(label, names, base, judge) for label, names in _SHAPE_FIELDS.items()),
        _vocabulary_rows(base, judge),
        _attention(base, judge),
        _config_drift(base, judge),
    ]


def _architecture(base: PreTrainedModel, judge: PreTrainedModel) -> Guard:
    names = type(base).__name__, type(judge).__name__
    return Guard(
        name="architecture",
        status="ok" if names[0] == names[1] else "fail",
        value=names[0] if names[0] == names[1] else f"base {names[0]}, judge {names[1]}",
        detail="" if names[0] == names[1] else "Choose the model the judge was fine-tuned from as the base.",
    )


def _shape(label: str, names: tuple[str, ...], base: PreTrainedModel, judge: PreTrainedModel) -> Guard:
    values = [
        next((getattr(m.config, n) for n in names if getattr(m.config, n, None) is not None), None)
        for m in (base, judge)
    ]
    same = values[0] == values[1]
    return Guard(
        name=label,
        status="ok" if same else "fail",
        value=str(values[0] if values[0] is not None else "as the other shapes imply")
        if same
        else f"base {values[0]}, judge {values[1]}",
        detail="" if same else "Base and judge must share their shape; check that both belong together.",
    )


def _vocabulary_rows(base: PreTrainedModel, judge: PreTrainedModel) -> Guard:
    rows = [embedding_of(m).shape[0] for m in (base, judge)]
    same = rows[0] == rows[1]
    return Guard(
        name="vocabulary rows",
        status="ok" if same else "fail",
        value=str(rows[0]) if same else f"base {rows[0]}, judge {rows[1]}",
        detail="" if same else "Resize the base's embeddings to the judge's (rows are never sliced in silence).",
    )


def _attention(base: PreTrainedModel, judge: PreTrainedModel) -> Guard:
    kinds = [attention_of(m) for m in (base, judge)]
    same = kinds[0] == kinds[1]
    return Guard(
        name="attention implementation",
        status="ok" if same else "fail",
        value=kinds[0] if same else f"base {kinds[0]}, judge {kinds[1]}",
        detail=""
        if same
        else "Load both with the same `attn_implementation`; kernels differ by more than small judges do.",
    )


def _config_drift(base: PreTrainedModel, judge: PreTrainedModel) -> Guard:
    ignored = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache"}
    left, right = ({k: v for k, v in m.config.to_dict().items() if k not in ignored} for m in (base, judge))
    changed = sorted(
        k
        for k in left.keys() | right.keys()
        if json.dumps(left.get(k), default=str) != json.dumps(right.get(k), default=str)
    )
    value = "same" if not changed else "; ".join(f"{k}: {left.get(k)} -> {right.get(k)}" for k in changed[:6])
    detail = "" if not changed else "Each model runs with its own configuration; differences count as fine-tuning."
    return Guard(name="configuration", status="warn" if changed else "ok", value=value, detail=detail)
