"""What fine-tuning changed in weight space."""

from workbench.pairs.delta.measure import TensorChange, WeightDelta, adapter_norm, weight_delta

__all__ = ["TensorChange", "WeightDelta", "adapter_norm", "weight_delta"]
