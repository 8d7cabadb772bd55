"""Judges that are an adapter on the base's own weights."""

from workbench.pairs.adapters.attach import attach_adapter, split_peft
from workbench.pairs.adapters.changes import TunedParameter, merged_tensors, tuned_parameters, weight_change
from workbench.pairs.adapters.layers import (
    Factors,
    is_plain_lora,
    is_transposed,
    lora_factors,
    tuner_layers,
    untuned_name,
)
from workbench.pairs.adapters.merging import MergeError, merge_error

__all__ = [
    "Factors",
    "MergeError",
    "TunedParameter",
    "attach_adapter",
    "is_plain_lora",
    "is_transposed",
    "lora_factors",
    "merge_error",
    "merged_tensors",
    "split_peft",
    "tuned_parameters",
    "tuner_layers",
    "untuned_name",
    "weight_change",
]
