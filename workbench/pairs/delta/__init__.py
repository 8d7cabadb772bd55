"""What fine-tuning changed in weight space, and which base it started from."""

from workbench.pairs.delta.candidates import BaseCandidates, Candidate, sampled_delta, which_base
from workbench.pairs.delta.measure import adapter_norm, weight_delta
from workbench.pairs.delta.table import DISTANT, TensorChange, WeightDelta

__all__ = [
    "DISTANT",
    "BaseCandidates",
    "Candidate",
    "TensorChange",
    "WeightDelta",
    "adapter_norm",
    "sampled_delta",
    "weight_delta",
    "which_base",
]
