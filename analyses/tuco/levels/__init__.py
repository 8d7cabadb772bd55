"""TuCo beside reference levels of one base, and split among the stages of training."""

from analyses.tuco.levels.compare import compare_levels
from analyses.tuco.levels.result import LevelsResult
from analyses.tuco.levels.stages import compare_stages
from analyses.tuco.levels.stages_result import StagesResult

__all__ = ["LevelsResult", "StagesResult", "compare_levels", "compare_stages"]
