"""Which few heads and MLPs together carry the other model's verdict? Masks learned on half of the items."""

from analyses.cross_model_patching.masks.gates import Chosen
from analyses.cross_model_patching.masks.result import MaskResult
from analyses.cross_model_patching.masks.runner import LAMBDAS, learn_mask

__all__ = ["LAMBDAS", "Chosen", "MaskResult", "learn_mask"]
