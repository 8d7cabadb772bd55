"""Path patching across models: along which paths the judge's advantage reaches the verdict."""

from analyses.cross_model_patching.paths.result import PathsResult
from analyses.cross_model_patching.paths.runner import trace_paths

__all__ = ["PathsResult", "trace_paths"]
