"""Verdict lens: the verdict of both models at every depth, and what every component writes toward it."""

from analyses.cross_model_patching.lens.result import VerdictLensResult
from analyses.cross_model_patching.lens.runner import verdict_lens

__all__ = ["VerdictLensResult", "verdict_lens"]
