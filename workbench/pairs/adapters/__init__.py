"""Judges that are an adapter on the base's own weights."""

from workbench.pairs.adapters.attach import attach_adapter, split_peft
from workbench.pairs.adapters.layers import Factors, lora_factors, tuner_layers, untuned_name
from workbench.pairs.adapters.merging import MergeError, merge_error

__all__ = [
    "Factors",
    "MergeError",
    "attach_adapter",
    "lora_factors",
    "merge_error",
    "split_peft",
    "tuner_layers",
    "untuned_name",
]
