"""Path patching across models: along which paths the judge's advantage reaches the verdict."""

from analyses.cross_model_patching.paths.result import PathPatchingResult
from analyses.cross_model_patching.paths.runner import trace_paths

__all__ = ["PathPatchingResult", "trace_paths"]
