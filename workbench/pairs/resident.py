"""One model in memory at a time: the blocks of the side that doesn't run wait elsewhere.

On a GPU they wait in host memory; on the CPU in a file. Embeddings, final norms and heads stay, and
so does whatever the two sides share (everything but the adapter, in a LoRA pair).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from workbench.pairs.pair import Pair, Side

Switch = Callable[[Side], None]
"""Makes one side the resident one."""


@contextmanager
def one_resident(pair: Pair, *, first: Side = "judge") -> Iterator[Switch]:
    """While open, only one side's blocks are on the pair's device (or, on the CPU, in memory).

    Both sides are as found afterwards, bit for bit and on their devices, whatever happens.

    Args:
        pair: Whose models take turns.
        first: The side that is resident to begin with.

    Yields:
        A function that makes the named side the resident one.
    """
    own: dict[Side, list[nn.Parameter]] = {side: _own_blocks(pair, side) for side in ("base", "judge")}
    with TemporaryDirectory(prefix="judge-workbench-") as folder:
        store = {side: _Store(own[side], Path(folder) / f"{side}.safetensors") for side in own}

        def switch(side: Side) -> None:
            store["base" if side == "judge" else "judge"].park()
            store[side].fetch()

        try:
            switch(first)
            yield switch
        finally:
            for kept in store.values():
                kept.fetch()


@dataclass(slots=True)
class _Store:
    parameters: list[nn.Parameter]
    file: Path
    devices: list[torch.device] | None = None
    """Where the parameters belong while they are parked; None while they are there."""

    def park(self) -> None:
        if self.devices is not None or not self.parameters:
            return
        if all(p.device.type == "cpu" for p in self.parameters):
            if not self.file.exists():
                save_file({str(i): p.data.contiguous() for i, p in enumerate(self.parameters)}, self.file)
            self._set([torch.empty(0, dtype=p.dtype) for p in self.parameters])
        else:
            self._set([p.data.to("cpu") for p in self.parameters])

    def fetch(self) -> None:
        if self.devices is None:
            return
        held = load_file(self.file) if self.file.exists() else {}
        for index, (parameter, device) in enumerate(zip(self.parameters, self.devices, strict=True)):
            parameter.data = held[str(index)] if held else parameter.data.to(device)
        self.devices = None

    def _set(self, data: list[torch.Tensor]) -> None:
        self.devices = [p.device for p in self.parameters]
        for parameter, value in zip(self.parameters, data, strict=True):
            parameter.data = value


def _own_blocks(pair: Pair, side: Side) -> list[nn.Parameter]:
    """Return the block parameters that the other side doesn't share; a tied one counts once."""
    other = {id(p) for p in pair.module("base" if side == "judge" else "judge").parameters()}
    blocks = pair.module(side).get_submodule(pair.anatomy(side).blocks_path)
    return [p for p in blocks.parameters() if id(p) not in other]
