"""Prompt contrasts within and across models: what carries a change of the prompt, and what fine-tuning added."""

from analyses.cross_model_patching.contrasts.result import ContrastResult
from analyses.cross_model_patching.contrasts.runner import contrast
from analyses.cross_model_patching.contrasts.versions import TITLES
from analyses.cross_model_patching.contrasts.views import CellNumbers, Named, Total

__all__ = ["TITLES", "CellNumbers", "ContrastResult", "Named", "Total", "contrast"]
