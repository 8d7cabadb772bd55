"""Cross-model activation patching: where is the judge's advantage seen, where was it written, what carries a bias?"""

from analyses.cross_model_patching.activations import ActivationPatchingResult, run

__all__ = ["ActivationPatchingResult", "run"]
