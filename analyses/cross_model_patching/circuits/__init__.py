"""Which heads and MLPs are enough for a verdict, and does the base's circuit run in the judge?"""

from analyses.cross_model_patching.circuits.result import CircuitResult
from analyses.cross_model_patching.circuits.runner import circuit

__all__ = ["CircuitResult", "circuit"]
