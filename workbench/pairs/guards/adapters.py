"""Did the adapter land, on the base it was trained on, and does merging it change the function?"""

import json
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from workbench.errors import PairMismatch
from workbench.pairs.adapters import MergeError, merge_error, tuner_layers
from workbench.pairs.modules import embedding_of
from workbench.pairs.report import Guard

_MERGE_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
_ROUNDED = 0.05
"""Share of the weight change that rounding may alter before a merged checkpoint counts as another judge."""
_PROBE_TOKENS = 24
_LAYERS = "merged equals unmerged"
_UNMERGED = "Results hold for the unmerged adapter; a merged checkpoint is another function."


def adapter_guards(folder: Path, base: str) -> tuple[Guard, ...]:
    """Say that the adapter landed (loading raises when it doesn't), and whether it names this base.

    Args:
        folder: Local folder of the adapter.
        base: What the base is called.
    """
    landed = Guard(name="adapter landed", status="ok", value="every stored tensor is in the model")
    named = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    same = not named or Path(str(named)).name == Path(base).name
    return landed, Guard(
        name="adapter's base",
        status="ok" if same else "warn",
        value=f"adapter names {named!r}" if named else "the adapter names none",
        detail="" if same else f"It was loaded on {base!r}; make sure both are the same model.",
    )


def merge_guards(judge: PreTrainedModel, *, seed: int) -> list[Guard]:
    """Compare an adapter judge with its merged form on one probe batch; nothing for judges that aren't adapters.

    Args:
        judge: Fine-tuned model.
        seed: Seed of the probe's token ids.
    """
    if next(tuner_layers(judge), None) is None:
        return []
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, embedding_of(judge).shape[0], (1, _PROBE_TOKENS), generator=generator)
    try:
        error = merge_error(judge, ids)
    except PairMismatch as err:
        return [Guard(name=_LAYERS, status="skipped", value=err.what, detail="Results hold for the unmerged adapter.")]
    return [_merged_layers(judge, error), _merged_logits(judge, error)]


def _merged_layers(judge: nn.Module, error: MergeError) -> Guard:
    tolerance = _tolerance(judge)
    fine = error.layers <= tolerance
    return Guard(
        name=_LAYERS,
        status="ok" if fine else "warn",
        value=f"largest relative difference of {error.compared} layers {error.layers:.2g} (tolerance {tolerance:g})",
        detail="" if fine else _UNMERGED,
    )


def _merged_logits(judge: nn.Module, error: MergeError) -> Guard:
    dtype, tolerance = next(judge.parameters()).dtype, _tolerance(judge)
    fine = error.relative <= tolerance and error.rounded <= _ROUNDED
    return Guard(
        name="merged logits equal unmerged logits",
        status="ok" if fine else "warn",
        value=f"largest difference {error.logits:.2g} of logits up to {error.scale:.3g}, {error.relative:.2g} relative "
        f"(tolerance {tolerance:g}); rounding merged weights to {str(dtype).removeprefix('torch.')} alters "
        f"{error.rounded:.2g} of the weight change",
        detail="" if fine else _UNMERGED,
    )


def _tolerance(judge: nn.Module) -> float:
    return _MERGE_TOLERANCE.get(next(judge.parameters()).dtype, 2e-2)
