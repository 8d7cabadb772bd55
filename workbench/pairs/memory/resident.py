"""One model at a time: the blocks of the side that doesn't run wait elsewhere.

Given a device, models take turns on it while the other waits where it was (a pair loaded in host
memory, a GPU that holds one of them). Without one, the waiting side lies in files. Embeddings, final
norms and heads of both stay at hand, and so does whatever the two sides share (everything but the
adapter, in a LoRA pair).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from workbench.errors import ParameterError
from workbench.pairs.loading.quantised import is_quantised
from workbench.pairs.pair import Pair, Side

Switch = Callable[[Side], None]
"""Makes one side the resident one."""


@contextmanager
def one_resident(pair: Pair, *, first: Side = "judge", device: torch.device | str | None = None) -> Iterator[Switch]:
    """While open, only one side's blocks are in memory, or on ``device``.

    Both sides are as found afterwards, bit for bit and on their devices, whatever happens.

    Args:
        pair: Whose models take turns.
        first: The side that is resident to begin with.
        device: Where they take turns; None leaves the resident side where it is and puts the other in files.

    Yields:
        A function that makes the named side the resident one.

    Raises:
        ParameterError: Weights are quantised or offloaded.
    """
    own: dict[Side, list[Tensor]] = {side: _own_blocks(pair, side) for side in ("base", "judge")}
    with TemporaryDirectory(prefix="judge-workbench-") as folder:
        parked: dict[Side, _Files | _Moved] = {}
        for side, tensors in own.items():
            parked[side] = _Files(tensors, Path(folder) / side) if device is None else _Moved(tensors, device)
        at_hand = _Moved(_others(pair, own), device)

        def switch(side: Side) -> None:
            parked["base" if side == "judge" else "judge"].leave()
            parked[side].enter()

        try:
            at_hand.enter()
            switch(first)
            yield switch
        finally:
            at_hand.leave()
            for waiting in parked.values():
                waiting.restore()


@dataclass(slots=True)
class _Moved:
    """Tensors that are on a device in their turn and where they were otherwise."""

    tensors: list[Tensor]
    device: torch.device | str | None
    homes: list[Tensor] = field(default_factory=list)
    """The tensors' own data, kept where it was; empty while they are at home."""

    def enter(self) -> None:
        if self.device is not None and not self.homes:
            self.homes = [tensor.data for tensor in self.tensors]
            for tensor in self.tensors:
                tensor.data = tensor.data.to(self.device)

    def leave(self) -> None:
        for tensor, home in zip(self.tensors, self.homes, strict=False):
            tensor.data = home
        self.homes = []

    restore = leave


@dataclass(slots=True)
class _Files:
    """Tensors that are in memory in their turn and in files otherwise, one file each so that no copy is ever whole."""

    tensors: list[Tensor]
    folder: Path
    devices: list[torch.device] = field(default_factory=list)
    """Where the tensors belong; empty while they are there."""

    def leave(self) -> None:
        if self.devices:
            return
        self.folder.mkdir(exist_ok=True)
        self.devices = [tensor.device for tensor in self.tensors]
        for index, tensor in enumerate(self.tensors):
            file = self.folder / f"{index}.safetensors"
            if not file.exists():
                save_file({"tensor": tensor.data.contiguous()}, file)
            tensor.data = torch.empty(0, dtype=tensor.dtype)

    def enter(self) -> None:
        for index, (tensor, device) in enumerate(zip(self.tensors, self.devices, strict=False)):
            # A copy: what is read is a view of the file, which goes away.
            tensor.data = load_file(self.folder / f"{index}.safetensors")["tensor"].to(device, copy=True)
        self.devices = []

    restore = enter


def _own_blocks(pair: Pair, side: Side) -> list[Tensor]:
    """Return the block tensors that the other side doesn't share; a tied one counts once.

    Raises:
        ParameterError: One holds codes, whose scales lie elsewhere, or is kept outside its module already.
    """
    for tensor in _tensors(pair, side):
        if tensor.is_meta or is_quantised(tensor):
            raise ParameterError(
                "quantised and offloaded weights can't take turns.",
                argument="resident",
                got=f"the {side}: {type(tensor).__name__} on {tensor.device}",
                allowed=["both"],
                fix='Pass resident="both"; an adapter\'s base is in memory once anyway.',
            )
    other = {id(t) for t in _tensors(pair, "base" if side == "judge" else "judge")}
    blocks = pair.module(side).get_submodule(pair.anatomy(side).blocks_path)
    return [t for t in {id(t): t for t in (*blocks.parameters(), *blocks.buffers())}.values() if id(t) not in other]


def _others(pair: Pair, own: dict[Side, list[Tensor]]) -> list[Tensor]:
    """Return every tensor of both sides that doesn't take turns."""
    turning = {id(tensor) for tensors in own.values() for tensor in tensors}
    every = {id(tensor): tensor for side in own for tensor in _tensors(pair, side)}
    return [tensor for key, tensor in every.items() if key not in turning]


def _tensors(pair: Pair, side: Side) -> list[Tensor]:
    module = pair.module(side)
    return [*module.parameters(), *module.buffers()]
