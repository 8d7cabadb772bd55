"""Judges that are an adapter on the base's own weights."""

from workbench.pairs.adapters.attach import (
    adapter_type,
    attach_adapter,
    live_adapter_type,
    live_judge,
    split_peft,
)
from workbench.pairs.adapters.changes import TunedParameter, merged_tensors, tuned_parameters, weight_change
from workbench.pairs.adapters.kinds import AdapterKind, adapter_kind, adapter_kinds
from workbench.pairs.adapters.layers import (
    Factors,
    is_plain_lora,
    is_transposed,
    lora_factors,
    tuner_layers,
    untuned_name,
)
from workbench.pairs.adapters.merging import MergeError, merge_error
from workbench.pairs.adapters.plain import end_weights, head_is_tied, merged_copy, replace_layers, without_adapters
from workbench.pairs.adapters.switches import Switches, adapter_configs, adapter_switches, require_switched_on

__all__ = [
    "AdapterKind",
    "adapter_kind",
    "adapter_kinds",
    "adapter_type",
    "live_adapter_type",
    "live_judge",
    "merged_copy",
    "without_adapters",
    "Factors",
    "MergeError",
    "Switches",
    "TunedParameter",
    "adapter_configs",
    "adapter_switches",
    "attach_adapter",
    "end_weights",
    "head_is_tied",
    "is_plain_lora",
    "is_transposed",
    "lora_factors",
    "merge_error",
    "merged_tensors",
    "replace_layers",
    "require_switched_on",
    "split_peft",
    "tuned_parameters",
    "tuner_layers",
    "untuned_name",
    "weight_change",
]
