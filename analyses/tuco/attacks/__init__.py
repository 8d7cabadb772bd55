"""Attack and clean prompts in pairs: what an attack does beyond any suffix of its length, and who writes it."""

from analyses.tuco.attacks.contrasts import MEASURES, VARIANTS, Effect
from analyses.tuco.attacks.result import AttackResult
from analyses.tuco.attacks.runner import compare_attacks

__all__ = ["MEASURES", "VARIANTS", "AttackResult", "Effect", "compare_attacks"]
