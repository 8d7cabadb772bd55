"""What the command line can run: analyses and notebooks, by name."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from workbench.errors import NotebookError, ParameterError


class Analysis(NamedTuple):
    """Where an analysis is found."""

    module: str
    """Module that exports it."""
    function: str
    """Function that runs it: ``function(pair, items, *, choices..., seed)``."""
    result: str
    """Class of its result."""


ANALYSES: Mapping[str, Analysis] = {
    "behavior": Analysis("analyses.behavior", "run", "BehaviorResult"),
    "behavior.probes": Analysis("analyses.behavior", "probe_all", "ProbesResult"),
    "tuco": Analysis("analyses.tuco", "run", "TucoResult"),
    "tuco.heads": Analysis("analyses.tuco", "split_heads", "HeadsResult"),
    "tuco.tokens": Analysis("analyses.tuco", "map_tokens", "TokenMapResult"),
    "tuco.paths": Analysis("analyses.tuco", "attribute_paths", "PathsResult"),
    "tuco.scaling": Analysis("analyses.tuco", "scale", "ScalingResult"),
    "tuco.attacks": Analysis("analyses.tuco", "compare_attacks", "AttackResult"),
    "cross_model_patching": Analysis("analyses.cross_model_patching", "run", "ActivationPatchingResult"),
    "cross_model_patching.lens": Analysis("analyses.cross_model_patching", "verdict_lens", "VerdictLensResult"),
    "cross_model_patching.weights": Analysis("analyses.cross_model_patching", "swap_weights", "WeightSwapResult"),
    "cross_model_patching.screen": Analysis("analyses.cross_model_patching", "screen", "ScreenResult"),
    "cross_model_patching.paths": Analysis("analyses.cross_model_patching", "trace_paths", "PathPatchingResult"),
    "cross_model_patching.masks": Analysis("analyses.cross_model_patching", "learn_mask", "MaskResult"),
    "cross_model_patching.circuits": Analysis("analyses.cross_model_patching", "circuit", "CircuitResult"),
    "cross_model_patching.contrasts": Analysis("analyses.cross_model_patching", "contrast", "ContrastResult"),
    "cross_model_patching.bias": Analysis("analyses.cross_model_patching", "locate_bias", "BiasSitesResult"),
    "cross_model_patching.biases": Analysis("analyses.cross_model_patching", "locate_biases", "BiasesResult"),
    "template_drift": Analysis("analyses.template_drift", "run", "TemplateDriftResult"),
    "merge_equivalence": Analysis("analyses.merge_equivalence", "run", "MergeEquivalenceResult"),
}
"""Analyses the command line can run, by name, in reading order."""

COMPARISONS: Mapping[str, Analysis] = {
    "tuco.levels": Analysis("analyses.tuco", "compare_levels", "LevelsResult"),
    "tuco.stages": Analysis("analyses.tuco", "compare_stages", "StagesResult"),
}
"""Analyses of several pairs: from Python and notebooks only; their results go into reports like any other."""

NOTEBOOKS = ("judge_behavior", "tuco", "cross_model_patching")
"""Notebooks of a report, in reading order; each saves its results as folders under its ``out``."""


def find_analysis(name: str) -> Any:
    """Return the function that runs an analysis.

    Raises:
        ParameterError: There is no such analysis.
    """
    if name not in ANALYSES:
        raise ParameterError("no such analysis.", argument="analysis", got=name, allowed=tuple(ANALYSES))
    found = ANALYSES[name]
    return getattr(importlib.import_module(found.module), found.function)


def load_results(folder: Path) -> list[Any]:
    """Load every result folder a notebook left, in the order of :data:`ANALYSES`.

    Raises:
        NotebookError: A result is of an unknown kind.
    """
    known = {found.result: found for found in (*ANALYSES.values(), *COMPARISONS.values())}
    order = list(known)
    kinds = {path.parent: json.loads(path.read_text(encoding="utf-8"))["kind"] for path in folder.glob("*/result.json")}
    if unknown := {kind for kind in kinds.values() if kind not in known}:
        raise NotebookError(
            "a notebook saved a result of an unknown kind.", argument="out", got=sorted(unknown), allowed=order
        )
    ordered = sorted(kinds.items(), key=lambda entry: (order.index(entry[1]), entry[0].name))
    return [getattr(importlib.import_module(known[kind].module), kind).load(path) for path, kind in ordered]


def notebooks_folder() -> Path:
    """Return the folder of notebooks: inside an installed package, beside it in a checkout.

    Raises:
        NotebookError: The installation has none.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if folder.is_dir():
            return folder
    raise NotebookError(
        "the notebooks are not part of this installation.",
        argument="notebooks",
        got=str(package),
        fix="Install from a checkout or a wheel of the project.",
    )
