"""Attribution patching: every token of every site screened by a gradient, the largest of them patched exactly."""

from analyses.cross_model_patching.screen.result import ScreenResult
from analyses.cross_model_patching.screen.runner import screen

__all__ = ["ScreenResult", "screen"]
