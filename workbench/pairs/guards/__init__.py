"""The guards: may these two models be compared, and what must be said beside every number.

Each guard is a function that returns one row of the pair table. Structural guards come first and decide
alone when they fail, since weights of two shapes can't be subtracted and a forward may not even run.
"""

from workbench.pairs.guards.adapters import adapter_guards, merge_guards
from workbench.pairs.guards.executors import doctor_guards
from workbench.pairs.guards.heads import head_guards
from workbench.pairs.guards.sources import quantisation_guards, source_guards, tokenizer_guard
from workbench.pairs.guards.structure import structure_guards
from workbench.pairs.guards.tokens import tokenizer_guards
from workbench.pairs.guards.weights import delta_guards, other_configuration, weight_guards

__all__ = [
    "adapter_guards",
    "delta_guards",
    "doctor_guards",
    "head_guards",
    "merge_guards",
    "other_configuration",
    "quantisation_guards",
    "source_guards",
    "structure_guards",
    "tokenizer_guard",
    "tokenizer_guards",
    "weight_guards",
]
