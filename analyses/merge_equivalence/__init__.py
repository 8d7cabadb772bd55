"""Is an adapter judge, merged into its weights, still the same judge?"""

from analyses.merge_equivalence.forms import FORMS
from analyses.merge_equivalence.result import MergeEquivalenceResult
from analyses.merge_equivalence.runner import run

__all__ = ["FORMS", "MergeEquivalenceResult", "run"]
