"""Is the adapter, merged into the weights, still the same function?

One forward of the judge in which every adapter layer computes its output twice: as it is, and from a
merged weight that exists for that one call. The merged output is what goes on, so the logits at the end are
those of a merged checkpoint, and no second model is ever held.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Int
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from workbench.hooks import input_device, module_lock
from workbench.pairs.adapters.changes import merged_tensors
from workbench.pairs.adapters.layers import tuner_layers


class MergeError(NamedTuple):
    """How far the merged judge is from the unmerged one, on one probe batch."""

    layers: float
    """Largest relative difference of an adapter layer's output; NaN when there is none."""
    compared: int
    """Adapter layers compared."""
    logits: float
    """Largest absolute difference of the logits."""
    scale: float
    """Largest absolute unmerged logit."""
    rounded: float
    """Share of the weight change that rounding the merged weights to their dtype takes away or adds."""

    @property
    def relative(self) -> float:
        """Return the difference of the logits relative to the largest of them."""
        return self.logits / self.scale if self.scale else math.nan


@dataclass(slots=True)
class _Tally:
    """What the layers saw so far."""

    layers: list[float] = field(default_factory=list)
    changed: float = 0.0
    lost: float = 0.0


@torch.no_grad()
def merge_error(judge: PreTrainedModel, ids: Int[Tensor, "prompt pos"]) -> MergeError:
    """Run one batch as it is and with every adapter layer merged for the moment it runs.

    Args:
        judge: Model with adapter layers; it is left as found.
        ids: Token ids without padding.

    Raises:
        PairMismatch: This kind of adapter can't be merged.
    """
    ids = ids.to(input_device(judge))
    tally = _Tally()
    with module_lock(judge):
        unmerged = judge(input_ids=ids, use_cache=False).logits.float()
        with _merging(judge, tally):
            merged = judge(input_ids=ids, use_cache=False).logits.float()
    return MergeError(
        layers=max(tally.layers, default=math.nan),
        compared=len(tally.layers),
        logits=float((merged - unmerged).abs().max()),
        scale=float(unmerged.abs().max()),
        rounded=math.sqrt(tally.lost / tally.changed) if tally.changed else 0.0,
    )


@contextmanager
def _merging(judge: nn.Module, tally: _Tally) -> Iterator[None]:
    with ExitStack() as stack:
        for _, layer in tuner_layers(judge):
            module = cast(Any, layer)
            replaced = module.__dict__.get("forward")  # accelerate puts a forward of its own on the instance
            module.forward = _merged_forward(layer, module.forward, tally)
            stack.callback(_restore, module, replaced)
        yield


def _restore(module: Any, replaced: Callable[..., Any] | None) -> None:
    del module.forward
    if replaced is not None:
        module.forward = replaced


def _merged_forward(layer: BaseTunerLayer, unmerged: Callable[..., Any], tally: _Tally) -> Callable[..., Any]:
    plain = layer.get_base_layer()

    def forward(*args: Any, **kwargs: Any) -> Any:
        held = dict(plain.named_parameters())
        rounded = {}
        for name, exact in merged_tensors(layer).items():
            rounded[name] = exact.to(held[name].dtype)
            tally.lost += float((rounded[name].to(exact.dtype) - exact).square().sum())
            tally.changed += float((exact - held[name].to(exact.dtype)).square().sum())
        output = functional_call(plain, rounded, args, kwargs)
        if isinstance(output, Tensor):
            before = unmerged(*args, **kwargs).float()
            tally.layers.append(float((before - output.float()).abs().max() / before.abs().max().clamp(min=1e-12)))
        return output

    return forward
