"""What a tensor is, read from its name: which layer it belongs to and what part of the block it is."""

import math
import re
from collections.abc import Mapping

OUTSIDE = "outside"
"""Where tensors sit that belong to no layer: embeddings, the last norm, the head."""

_KINDS: Mapping[str, str] = {
    **dict.fromkeys(("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings"), "embedding"),
    **dict.fromkeys(("wpe", "embed_positions", "position_embeddings"), "position"),
    **dict.fromkeys(("q_proj", "query", "wq"), "q"),
    **dict.fromkeys(("k_proj", "key", "wk"), "k"),
    **dict.fromkeys(("v_proj", "value", "wv"), "v"),
    **dict.fromkeys(("o_proj", "wo"), "o"),
    **dict.fromkeys(("c_attn", "query_key_value", "qkv_proj", "Wqkv", "in_proj"), "fused qkv"),
    **dict.fromkeys(("gate_proj", "w1"), "gate"),
    **dict.fromkeys(("up_proj", "c_fc", "dense_h_to_4h", "fc1", "w3"), "up"),
    **dict.fromkeys(("down_proj", "dense_4h_to_h", "fc2", "w2"), "down"),
    "gate_up_proj": "fused gate and up",
    **dict.fromkeys(("lm_head", "embed_out", "score", "classifier"), "head"),
}
_OUTPUTS = ("c_proj", "dense", "out_proj")
"""Names that attention and MLP blocks share for the matrix they end in."""
_CLASSIFIERS = ("score.", "classifier.")

_ORDER = (
    *("embedding", "position", "q", "k", "v", "fused qkv", "o"),
    *("gate", "up", "fused gate and up", "down", "norm", "bias", "head"),
)
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
_NORM = re.compile(r"norm|^ln_")


def layer_of(name: str) -> int | None:
    """Return the block a parameter belongs to; None for embeddings, the last norm and the head."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def kind_of(name: str) -> str:
    """Return what a parameter is in words of the field, e.g. ``"q"``; an unknown one keeps its own last name."""
    *owners, leaf = name.split(".")
    owner = owners[-1] if owners else ""
    if _NORM.search(owner.lower()):
        return "norm"
    if leaf == "bias":
        return "bias"
    called = owner if leaf == "weight" and owner else leaf
    if called in _OUTPUTS:
        return "o" if any("att" in part.lower() for part in owners[:-1]) else "down"
    return _KINDS.get(called, called)


def is_probe_head(name: str) -> bool:
    """Return whether a tensor belongs to a classification head, which reads a base that has none as a probe."""
    return name.startswith(_CLASSIFIERS)


def place(name: str) -> tuple[float | int, int, str]:
    """Return what to sort parameters by: embeddings, layer by layer, what comes after; kinds in a block's order."""
    layer, kind = layer_of(name), kind_of(name)
    if layer is None:
        return (-1 if kind in ("embedding", "position") else math.inf), _rank(kind), name
    return layer, _rank(kind), name


def in_order(kinds: set[str]) -> list[str]:
    """Return kinds in the order a token meets them; unknown ones last, by name."""
    return sorted(kinds, key=lambda kind: (_rank(kind), kind))


def _rank(kind: str) -> int:
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
