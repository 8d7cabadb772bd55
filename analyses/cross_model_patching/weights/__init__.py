"""Where was the judge's advantage written? Weights swapped part by part, beside patches of the same places."""

from analyses.cross_model_patching.weights.measuring import layer_swaps
from analyses.cross_model_patching.weights.parts import GRANULARITIES, Part, parts_of
from analyses.cross_model_patching.weights.result import WeightSwapResult
from analyses.cross_model_patching.weights.runner import swap_weights

__all__ = ["GRANULARITIES", "Part", "WeightSwapResult", "layer_swaps", "parts_of", "swap_weights"]
