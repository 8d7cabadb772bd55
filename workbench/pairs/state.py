"""What the two models of a pair hold, told in milliseconds: has anything moved since it was loaded or measured?

Nothing is hashed here. Of every tensor its identity, its version counter and a few elements are noted: versions tell of
writes in place, elements of writes that go around them (``.data``), as merging an adapter does. Where a tensor lies
is not noted, for models that take turns move between devices and files.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from workbench.errors import PairMismatch
from workbench.pairs.adapters import Switches, adapter_switches
from workbench.pairs.fingerprint import fixed_buffers, template_text
from workbench.pairs.loading.quantised import coded_parts, is_quantised, quantised_layers
from workbench.pairs.memory.offloaded import place_of

_ELEMENTS = 64
_INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class TensorState(NamedTuple):
    """One tensor as it was found."""

    holder: object
    """The tensor object, or where accelerate keeps an offloaded one, of which it makes a new object every time."""
    version: int
    """How often it was written to in place."""
    shape: tuple[int, ...]
    """Its shape."""
    sample: tuple[int, ...] | None
    """The bits of a few elements; None where it has none here."""

    def same_content(self, now: "TensorState") -> bool:
        """Return whether nothing says that the value is another now; while it waits in a file, nothing can."""
        if now.waits:
            return self.version == now.version
        return (self.version, self.shape, self.sample) == (now.version, now.shape, now.sample)

    def same(self, now: "TensorState") -> bool:
        """Return whether this is the same tensor with nothing written to it."""
        return self.holder == now.holder and self.same_content(now)

    @property
    def waits(self) -> bool:
        """Return whether it is empty, because its model lets another one run."""
        return 0 in self.shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """One model as it was found."""

    parameters: Mapping[str, TensorState]
    """Every parameter by name; of a quantised one the tensors it is made of."""
    buffers: Mapping[str, TensorState]
    """Every buffer that running leaves alone."""
    switches: Mapping[str, Switches]
    """How adapter layers are set."""

    @classmethod
    def of(cls, module: nn.Module) -> "ModelState":
        """Return the state of a model now; it isn't changed."""
        return cls(
            parameters={name: _state(tensor, holder) for name, tensor, holder in _parameters(module)},
            buffers={name: _state(tensor, id(tensor)) for name, tensor in fixed_buffers(module)},
            switches=adapter_switches(module),
        )

    def same(self, other: "ModelState") -> bool:
        """Return whether what was measured of the other still holds."""
        return (
            self.switches == other.switches
            and _all_same(self.parameters, other.parameters)
            and _all_same(self.buffers, other.buffers)
        )

    def require_unmoved(self, now: "ModelState") -> None:
        """Refuse a base into which something was written since this state was found.

        Args:
            now: Its state now.

        Raises:
            PairMismatch: With the first such tensor.
        """
        before, after = self.parameters, now.parameters
        moved = [
            n for n in (*before, *after) if n not in before or n not in after or not before[n].same_content(after[n])
        ]
        if moved:
            raise PairMismatch(
                "the base's weights changed after the pair was loaded.",
                argument="base",
                got=f"{len(dict.fromkeys(moved))} tensors, e.g. {moved[0]}",
                fix="Load the pair again, from files if the model was edited or an adapter merged into it; "
                "edit `pair.bridge(side, share=False)` or a copy instead.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairState:
    """Both models of a pair, and how prompts are written, as they were found."""

    base: ModelState
    """The base."""
    judge: ModelState
    """The judge."""
    writing: tuple[str | None, int]
    """The chat template and the number of tokens."""

    @classmethod
    def of(cls, base: nn.Module, judge: nn.Module, tokenizer: PreTrainedTokenizerBase) -> "PairState":
        """Return the state of a pair now; nothing is changed."""
        known = ModelState.of(base)
        return cls(
            base=known,
            judge=known if judge is base else ModelState.of(judge),
            writing=(template_text(tokenizer), len(tokenizer)),
        )

    def same(self, other: "PairState") -> bool:
        """Return whether what was measured of the other still holds."""
        return self.writing == other.writing and self.base.same(other.base) and self.judge.same(other.judge)


def _parameters(module: nn.Module) -> Iterator[tuple[str, Tensor, object]]:
    """Yield every tensor that is a parameter or part of one, with its name and what tells it from others."""
    for owner, child in module.named_modules():
        for leaf, parameter in child.named_parameters(recurse=False):
            if not is_quantised(parameter):
                yield f"{owner}.{leaf}", parameter, place_of(child, leaf) if parameter.is_meta else id(parameter)
    for name, layer in quantised_layers(module):
        for part, tensor in coded_parts(layer):
            yield f"{name}.{part}", tensor, part  # made anew each time it is asked for


def _state(tensor: Tensor, holder: object) -> TensorState:
    absent = tensor.is_meta or not tensor.numel()
    return TensorState(
        holder=holder,
        version=0 if tensor.is_meta or tensor.is_inference() else tensor._version,  # noqa: SLF001 - it has no public name
        shape=tuple(tensor.shape),
        sample=None if absent else _sample(tensor.detach()),
    )


def _sample(tensor: Tensor) -> tuple[int, ...] | None:
    integer = _INTEGER_OF_SIZE.get(tensor.element_size())
    if integer is None:
        return None
    line = tensor.view(-1) if tensor.is_contiguous() else tensor[(0,) * (tensor.ndim - 1)].contiguous()
    # An odd step, or every element would lie in the first column.
    return tuple(line[:: (line.numel() // _ELEMENTS) | 1][:_ELEMENTS].contiguous().view(integer).tolist())


def _all_same(left: Mapping[str, TensorState], right: Mapping[str, TensorState]) -> bool:
    return left.keys() == right.keys() and all(state.same(right[name]) for name, state in left.items())
