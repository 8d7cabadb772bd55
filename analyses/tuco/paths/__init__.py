"""Path-integrated attribution: which blocks and which text carried the whole change of the verdict."""

from analyses.tuco.paths.result import PathsResult
from analyses.tuco.paths.runner import attribute_paths

__all__ = ["PathsResult", "attribute_paths"]
