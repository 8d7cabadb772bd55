"""Cross-model activation patching proper: one model's activations put into the other, site by site."""

from analyses.cross_model_patching.activations.result import ActivationPatchingResult
from analyses.cross_model_patching.activations.runner import run

__all__ = ["ActivationPatchingResult", "run"]
