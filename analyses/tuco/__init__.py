"""TuCo: how much of each judgement fine-tuning contributed, where, and in which direction (Nuti et al. 2025)."""

from analyses.readout import ExpectedScore, LabelGap, ScalarHead
from analyses.tuco.attacks import AttackResult, compare_attacks
from analyses.tuco.heads import HeadsResult, split_heads
from analyses.tuco.levels import LevelsResult, StagesResult, compare_levels, compare_stages
from analyses.tuco.paths import PathsResult, attribute_paths
from analyses.tuco.result import TucoResult
from analyses.tuco.runner import run
from analyses.tuco.scaling import ScalingResult, by_layer, by_span, scale
from analyses.tuco.tokens import TokenMapResult, map_tokens

__all__ = [
    "AttackResult",
    "ExpectedScore",
    "HeadsResult",
    "LabelGap",
    "LevelsResult",
    "PathsResult",
    "ScalarHead",
    "ScalingResult",
    "StagesResult",
    "TokenMapResult",
    "TucoResult",
    "attribute_paths",
    "by_layer",
    "by_span",
    "compare_attacks",
    "compare_levels",
    "compare_stages",
    "map_tokens",
    "run",
    "scale",
    "split_heads",
]
