"""Both models in lockstep, block by block on one stream: fine-tuning scaled anywhere between base and judge."""

from workbench.pairs.lockstep.gates import gated_stream
from workbench.pairs.lockstep.generation import scaled_generate
from workbench.pairs.lockstep.running import scaled_logits, scaled_stream
from workbench.pairs.lockstep.scaling import Scaling

__all__ = ["Scaling", "gated_stream", "scaled_generate", "scaled_logits", "scaled_stream"]
