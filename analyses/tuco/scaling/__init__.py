"""Fine-tuning scaled up and down: curves of the judge's agreement and biases, and where each verdict flips."""

from analyses.tuco.scaling.regions import by_layer, by_span
from analyses.tuco.scaling.result import ScalingResult
from analyses.tuco.scaling.runner import scale

__all__ = ["ScalingResult", "by_layer", "by_span", "scale"]
