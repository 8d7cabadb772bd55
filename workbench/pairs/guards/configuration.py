"""In what do the two configurations differ, beyond shapes? One row per kind of drift, with what it means.

Each model always runs with its own configuration, so nothing here forbids a comparison: what differs
counts as fine-tuning, and is said beside every number. ``generation_config`` isn't compared, since
verdicts are read from logits.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedConfig

from workbench.pairs.report import Guard, Status


class _Kind(NamedTuple):
    """Keys of one kind of drift."""

    name: str
    keys: tuple[str, ...]
    detail: str
    status: Status = "warn"


_OWN = "Each model runs with its own, so that what follows from it counts as fine-tuning."
_KINDS = (
    _Kind(
        "rotary positions",
        ("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor", "rotary_pct",
         "rope_local_base_freq"),
        "Each model turns queries and keys by its own angles, so that positions count as fine-tuning.",
    ),
    _Kind(
        "context window",
        ("max_position_embeddings", "n_positions"),
        "Prompts must fit the smaller one.",
    ),
    _Kind(
        "sliding window",
        ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "sliding_window_pattern"),
        "Each model sees as far back as its own windows reach; long prompts differ by that alone.",
    ),
    _Kind("activation", ("hidden_act", "hidden_activation", "activation_function"), _OWN),
    _Kind("norm epsilon", ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"), _OWN),
    _Kind(
        "dropout",
        ("attention_dropout", "hidden_dropout", "classifier_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop",
         "summary_first_dropout", "resid_dropout", "embd_dropout"),
        "Off whenever a pair runs: no number depends on it.",
        "ok",
    ),
    _Kind(
        "token ids of the configuration",
        ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"),
        "Only generation and padding read them; prompts are written by the tokenizer.",
        "ok",
    ),
)  # fmt: skip
_ELSEWHERE = {
    # said by a row of their own, or not part of the function
    "_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "vocab_size",
    "tie_word_embeddings", "_attn_implementation", "quantization_config", "id2label", "label2id", "num_labels",
    "problem_type", "initializer_range", "auto_map", "gradient_checkpointing",
    "num_hidden_layers", "n_layer", "hidden_size", "n_embd", "num_attention_heads", "n_head", "num_key_value_heads",
    "head_dim",
}  # fmt: skip
_SHOWN = 6


def config_guards(base: PreTrainedConfig, judge: PreTrainedConfig) -> list[Guard]:
    """Return one row per kind of drift, and one for all other keys."""
    left, right = base.to_dict(), judge.to_dict()
    known = {key for kind in _KINDS for key in kind.keys} | _ELSEWHERE
    rest = sorted((left.keys() | right.keys()) - known)
    other = _Kind("other configuration", tuple(rest), _OWN)
    return [_row(kind, left, right) for kind in (*_KINDS, other)]


def _row(kind: _Kind, left: Mapping[str, Any], right: Mapping[str, Any]) -> Guard:
    changed = _changes(kind.keys, left, right)
    if not changed:
        present = {key: left[key] for key in kind.keys if left.get(key) is not None}
        value = _brief(present) if kind.name != "other configuration" else "same"
        return Guard(name=kind.name, status="ok", value=value or "none")
    more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return Guard(name=kind.name, status=kind.status, value="; ".join(changed[:_SHOWN]) + more, detail=kind.detail)


def _changes(keys: Sequence[str], left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Return ``key: base -> judge`` of what differs; nested tables such as rope's are taken apart."""
    before, after = ({key: side.get(key) for key in keys} for side in (left, right))
    flat = [_flat(side) for side in (before, after)]
    names = dict.fromkeys([*flat[0], *flat[1]])
    return [
        f"{name}: {flat[0].get(name)} -> {flat[1].get(name)}"
        for name in names
        if _text(flat[0].get(name)) != _text(flat[1].get(name))
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _brief(present: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in _flat(present).items() if not isinstance(value, list)}
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in shown.items())
