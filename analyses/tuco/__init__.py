"""TuCo: how much of each judgement fine-tuning contributed, where, and in which direction (Nuti et al. 2025)."""

from analyses.tuco.result import TucoResult
from analyses.tuco.runner import run

__all__ = ["TucoResult", "run"]
