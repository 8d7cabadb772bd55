"""Did the adapter land, on the base it was trained on, and does merging it change the function?"""

import json
from pathlib import Path

import torch
from torch import nn

from workbench.pairs.adapters import merge_error, tuner_layers
from workbench.pairs.report import Guard

_MERGE_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}


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


def merge_guards(judge: nn.Module, *, seed: int) -> list[Guard]:
    """Compare an adapter with its merged form; nothing for judges that aren't adapters."""
    return [_merged(judge, seed)] if next(tuner_layers(judge), None) is not None else []


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
