"""The guards: may these two models be compared, and what must be said beside every number.

Each guard is a function returning one row. Structural guards come first and decide alone when they
fail, since weights of two shapes can't be subtracted and a forward may not even run.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.hooks import Anatomy, Check, doctor
from workbench.pairs.adapters import merge_error, tuner_layers
from workbench.pairs.checkpoints import attention_of, embedding_of
from workbench.pairs.delta import WeightDelta, weight_delta
from workbench.pairs.fingerprint import template_text, text_fingerprint
from workbench.pairs.report import Guard

DISTANT = 0.9
"""Relative weight distance from which a judge is said not to derive from the base; unrelated models sit near 1.4."""

_SHAPE_FIELDS = {
    "layers": ("num_hidden_layers", "n_layer"),
    "width": ("hidden_size", "n_embd"),
    "heads": ("num_attention_heads", "n_head"),
    "key-value heads": ("num_key_value_heads",),
    "head width": ("head_dim",),
}
_MERGE_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}


def structure_guards(base: PreTrainedModel, judge: PreTrainedModel) -> list[Guard]:
    """Compare architecture, layer count, width, head layout, vocabulary rows and attention implementation."""
    return [
        _architecture(base, judge),
        *(_shape(label, names, base, judge) for label, names in _SHAPE_FIELDS.items()),
        _vocabulary_rows(base, judge),
        _attention(base, judge),
        _config_drift(base, judge),
    ]


def tokenizer_guards(base: PreTrainedTokenizerBase | None, judge: PreTrainedTokenizerBase, rows: int) -> list[Guard]:
    """Compare the two tokenizers: ids, added and special tokens, chat template, and the model's vocabulary rows.

    Args:
        base: The base's own tokenizer; None when one tokenizer was given for both.
        judge: The tokenizer every prompt is encoded with.
        rows: Number of rows of the embedding matrix.
    """
    guards = [_ids_fit(judge, rows)]
    if base is None:
        return [*guards, Guard(name="tokenizer drift", status="ok", value="one tokenizer serves both")]
    return [*guards, _vocabulary_drift(base, judge), _special_tokens(base, judge), _chat_template(base, judge)]


def weight_guards(base: PreTrainedModel, judge: PreTrainedModel, *, seed: int) -> tuple[list[Guard], WeightDelta]:
    """Measure how far the judge moved from the base, and whether an adapter equals its merged form."""
    delta = weight_delta(base, judge)
    guards = [_derives(delta), _changed_tensors(delta)]
    if next(tuner_layers(judge), None) is not None:
        guards.append(_merged(judge, seed))
    return guards, delta


def doctor_guards(
    base: PreTrainedModel,
    judge: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    anatomies: Mapping[str, Anatomy],
) -> list[Guard]:
    """Run the doctor on both models: three executors, an edit, a self-patch, a left-padded row."""
    rows = []
    for side, module in (("base", base), ("judge", judge)):
        checks = doctor.examine(module, tokenizer, anatomy=anatomies[side])
        rows += [_from_check(side, check) for check in checks]
    return rows


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


def _ids_fit(tokenizer: PreTrainedTokenizerBase, rows: int) -> Guard:
    largest = max(tokenizer.get_vocab().values(), default=-1)
    fits = largest < rows
    return Guard(
        name="tokenizer fits the model",
        status="ok" if fits else "fail",
        value=f"largest id {largest}, {rows} embedding rows",
        detail="" if fits else "Give the tokenizer that was saved with the judge.",
    )


def _vocabulary_drift(base: PreTrainedTokenizerBase, judge: PreTrainedTokenizerBase) -> Guard:
    left, right = base.get_vocab(), judge.get_vocab()
    moved = [t for t, i in left.items() if t in right and right[t] != i]
    lost, added = sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys())
    if moved or lost:
        return Guard(
            name="vocabulary",
            status="fail",
            value=f"{len(moved)} tokens have other ids, {len(lost)} are missing in the judge: {(moved + lost)[:3]}",
            detail="Base and judge must share a tokenizer; one id must mean one token in both.",
        )
    if added:
        return Guard(
            name="vocabulary",
            status="warn",
            value=f"the judge adds {len(added)} tokens, e.g. {added[:3]}",
            detail="Their embeddings in the base are untrained.",
        )
    return Guard(name="vocabulary", status="ok", value=f"{len(left)} tokens, same ids")


def _special_tokens(base: PreTrainedTokenizerBase, judge: PreTrainedTokenizerBase) -> Guard:
    left, right = ({k: str(v) for k, v in t.special_tokens_map.items()} for t in (base, judge))
    changed = sorted(k for k in left.keys() | right.keys() if left.get(k) != right.get(k))
    value = "; ".join(f"{k}: {left.get(k)} -> {right.get(k)}" for k in changed) or "same"
    detail = "Prompts are encoded with the judge's tokenizer for both." if changed else ""
    return Guard(name="special tokens", status="warn" if changed else "ok", value=value, detail=detail)


def _chat_template(base: PreTrainedTokenizerBase, judge: PreTrainedTokenizerBase) -> Guard:
    left, right = template_text(base), template_text(judge)
    if left == right:
        return Guard(
            name="chat template", status="ok", value="none" if right is None else f"same ({text_fingerprint(right)})"
        )
    return Guard(
        name="chat template",
        status="warn",
        value="the base has none" if left is None else "the judge has none" if right is None else "they differ",
        detail="Both models get the judge's template.",
    )


def _derives(delta: WeightDelta) -> Guard:
    relative = delta.relative
    if math.isnan(relative) or relative > DISTANT:
        return Guard(
            name="judge derives from base",
            status="warn",
            value=f"relative weight distance {relative:.3g}",
            detail="Unrelated models sit near 1.4: check that this is the base the judge was tuned from.",
        )
    if relative == 0:
        return Guard(
            name="judge derives from base",
            status="warn",
            value="no weight differs",
            detail="Base and judge are the same model; every analysis will give its null value.",
        )
    return Guard(name="judge derives from base", status="ok", value=f"relative weight distance {relative:.3g}")


def _changed_tensors(delta: WeightDelta) -> Guard:
    moved = sorted(delta.moved, key=lambda c: -c.change / max(c.base_norm, 1e-12))
    most = ", ".join(f"{c.name} {c.change / max(c.base_norm, 1e-12):.2g}" for c in moved[:3])
    value = f"{len(moved)} of {len(delta.changes)} tensors moved" + (
        f"; most, relative to their norm: {most}" if moved else ""
    )
    return Guard(name="changed tensors", status="ok", value=value)


def _merged(judge: nn.Module, seed: int) -> Guard:
    error = merge_error(judge, seed=seed)
    name = "merged equals unmerged"
    if not error.compared:
        return Guard(
            name=name,
            status="skipped",
            value=f"none of {error.skipped} adapter layers is a matrix",
            detail="Nothing to merge.",
        )
    tolerance = _MERGE_TOLERANCE.get(next(judge.parameters()).dtype, 2e-2)
    fine = error.largest <= tolerance
    return Guard(
        name=name,
        status="ok" if fine else "warn",
        value=f"largest relative difference of {error.compared} layers {error.largest:.2g} (tolerance {tolerance:g}); "
        f"{error.skipped} not compared",
        detail="" if fine else "Results hold for the unmerged adapter; a merged checkpoint is another function.",
    )


def _from_check(side: str, check: Check) -> Guard:
    return Guard(
        name=f"doctor, {side}: {check.name}", status=check.status, value=_check_value(check), detail=check.detail
    )


def _check_value(check: Check) -> str:
    value: Any = check.value
    if isinstance(value, float):
        return f"{value:.2g}" + (f" (tolerance {check.tolerance:.2g})" if check.tolerance is not None else "")
    return str(value)
