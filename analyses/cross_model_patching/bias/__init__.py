"""Bias to component: which sites carry a bias, found on half of the items and confirmed on the other."""

from analyses.cross_model_patching.bias.result import BiasSitesResult
from analyses.cross_model_patching.bias.runner import locate_bias
from analyses.cross_model_patching.bias.several import BiasesResult, locate_biases

__all__ = ["BiasSitesResult", "BiasesResult", "locate_bias", "locate_biases"]
