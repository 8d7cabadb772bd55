"""Cross-model activation patching: where is the judge's advantage seen, where was it written, what carries a bias?"""

from analyses.cross_model_patching.activations import ActivationPatchingResult, run
from analyses.cross_model_patching.bias import BiasesResult, BiasSitesResult, locate_bias, locate_biases
from analyses.cross_model_patching.circuits import CircuitResult, circuit
from analyses.cross_model_patching.contrasts import ContrastResult, contrast
from analyses.cross_model_patching.lens import VerdictLensResult, verdict_lens
from analyses.cross_model_patching.masks import MaskResult, learn_mask
from analyses.cross_model_patching.paths import PathPatchingResult, trace_paths
from analyses.cross_model_patching.screen import ScreenResult, screen
from analyses.cross_model_patching.weights import WeightSwapResult, swap_weights

__all__ = [
    "ActivationPatchingResult",
    "BiasSitesResult",
    "BiasesResult",
    "CircuitResult",
    "ContrastResult",
    "MaskResult",
    "PathPatchingResult",
    "ScreenResult",
    "VerdictLensResult",
    "WeightSwapResult",
    "circuit",
    "contrast",
    "learn_mask",
    "locate_bias",
    "locate_biases",
    "run",
    "screen",
    "swap_weights",
    "trace_paths",
    "verdict_lens",
]
