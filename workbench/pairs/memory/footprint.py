"""What a pair's weights, and a run on it, take: part by part, from files' headers and a configuration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from workbench.pairs.loading import checkpoints
from workbench.pairs.loading.placement import Placement
from workbench.pairs.loading.sources import Source
from workbench.pairs.memory.sizes import CheckpointSize, cache_bytes, checkpoint_size, module_bytes

HOST = "cpu"
EVERYWHERE = "all devices"
"""Device of what ``device_map`` spreads."""
_UNITS = ("B", "kB", "MB", "GB", "TB")

Kind = Literal["weights", "passing", "mapped", "live", "run"]
"""``weights`` and ``passing`` (given back after loading) have to be free to load; ``mapped`` weights stay in files;
``live`` ones are there already; ``run`` comes on top."""


class MemoryPart(NamedTuple):
    """One thing that takes memory."""

    name: str
    """What it is."""
    device: str
    """Where it lies."""
    size: int
    """Bytes."""
    kind: Kind
    """Why it counts."""
    exact: bool = True
    """Whether the size follows from shapes alone."""
    detail: str = ""
    """What to know about it."""


def readable(size: float | int) -> str:
    """Return a number of bytes with a unit."""
    power = min(int(math.log10(size) // 3), len(_UNITS) - 1) if size >= 1 else 0
    return f"{size / 1000**power:.3g} {_UNITS[power]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What two sources take where they are to be loaded."""

    place: Placement
    """Where and how."""
    sides: Mapping[str, Source]
    """Base, and judge where there is one."""
    sizes: Mapping[str, CheckpointSize | None]
    """What their files hold; None for live modules and where no header could be read."""

    @classmethod
    def of(cls, base: Source, judge: Source | None, place: Placement) -> "Footprint":
        """Read the headers of both sides.

        Raises:
            CheckpointError: A local file is damaged.
        """
        sides = {"base": base} if judge is None else {"base": base, "judge": judge}
        return cls(place=place, sides=sides, sizes={name: checkpoint_size(source) for name, source in sides.items()})

    @property
    def dtype(self) -> torch.dtype:
        """Return the type both models will have."""
        base, live = self.sizes["base"], self.sides["base"].live
        if live is not None:
            return next((p.dtype for p in live.parameters() if p.dtype.is_floating_point), torch.float32)
        return self.place.dtype or (base.dtype if base is not None else torch.float32)

    @property
    def plain(self) -> bool:
        """Return whether nothing is quantised, nor asked to be."""
        return not self.place.quantisations and not any(s.coded for s in self.sizes.values() if s is not None)

    def weights(self) -> list[MemoryPart]:
        """Return what the weights of each side take, and what loading them takes for a moment."""
        parts = [self._side(name) for name in self.sides]
        if not any(part.kind == "weights" for part in parts) and not self.place.offload:
            return parts
        whole = [self._bytes(n)[0] for n, size in self.sizes.items() if size is not None and not size.adapter]
        largest = max((size.largest for size in self.sizes.values() if size is not None), default=0)
        moved = self.place.device.type != "cpu" and self.place.device_map is None and self.plain
        if whole and (moved or self.place.offload):
            parts.append(
                MemoryPart("one model on its way", HOST, max(whole), "passing", True, "given back after loading")
            )
        if largest:
            parts.append(MemoryPart("one tensor while it is converted", HOST, largest, "passing"))
        return parts

    def run(self, *, prompt_tokens: int, batch_size: int, kept: int | None) -> list[MemoryPart]:
        """Return what a forward that captures so many sites adds; all block inputs, as TuCo does, for None."""
        source = self.sides["base"]
        config: Any = source.live.config if source.live is not None else checkpoints.read_config(source, self.place)
        text, item, device = config.get_text_config(), self.dtype.itemsize, str(self.place.device)
        cell = batch_size * prompt_tokens * text.hidden_size * item
        sites = text.num_hidden_layers + 1 if kept is None else kept
        one, whole = (cache_bytes(config, tokens=tokens, itemsize=item) for tokens in (1, prompt_tokens))
        inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
        block = batch_size * prompt_tokens * (3 * inner + 4 * text.hidden_size) * max(item, 4)
        shape = f"{batch_size} prompts of {prompt_tokens} tokens"
        return [
            MemoryPart("keys and values", device, batch_size * whole, "run", True, f"{shape}; {readable(one)} a token"),
            MemoryPart(
                "kept activations", device, sites * cell, "run", True, f"{shape}; {sites} sites of {readable(cell)}"
            ),
            MemoryPart("one block at work", device, block, "run", False, shape),
        ]

    def cures(self, needed: int) -> list[str]:
        """Return what would make the pair smaller, with its size then where that is known.

        Args:
            needed: Bytes that have to be free as things are.
        """
        place, item, known = self.place, self.dtype.itemsize, []
        if item > 2 and self.plain:
            known.append(f'dtype="bfloat16" (about {readable(needed * 2 / item)}).')
        if self.plain:
            known.append(f'quantization="4bit" (about {readable(needed * 0.6 / item)}, but another function).')
        if place.device.type != "cpu" and place.device_map is None:
            known.append('device_map="auto" with offload_folder=..., which spreads each model over all devices.')
            known.append(
                f'device="cpu", and one model at a time on {place.device} in analyses that allow it: '
                f'tuco.run(..., resident="{place.device}").'
            )
        if place.offload is None and place.device_map is None:
            known.append('device="cpu", offload="disk", which keeps weights in mapped files.')
        return known

    def _side(self, name: str) -> MemoryPart:
        source, size, device = self.sides[name], self.sizes[name], str(self.place.device)
        title = f"weights of the {name}"
        if source.live is not None:
            base = None if name == "base" else self.sides["base"].live
            where, own = next(source.live.parameters()).device, module_bytes(source.live, without=base)
            return MemoryPart(title, str(where), own, "live", True, "loaded already")
        if size is None:
            return MemoryPart(title, device, 0, "mapped", False, "the headers of its files could not be read")
        total, exact = self._bytes(name)
        if size.adapter:
            return MemoryPart("the adapter, on the base's own weights", device, total, "weights", False)
        if self._mapped(name):
            return MemoryPart(title, HOST, total, "mapped", exact, "they stay in files that are mapped into memory")
        if self.place.device_map is not None and self.place.offload_folder is not None:
            detail = "what no device has room for goes to the offload folder"
            return MemoryPart(title, EVERYWHERE, total, "mapped", exact, detail)
        return MemoryPart(title, device if self.place.device_map is None else EVERYWHERE, total, "weights", exact)

    def _bytes(self, name: str) -> tuple[int, bool]:
        """Return (bytes in memory, whether that is exact)."""
        size, asked = self.sizes[name], self.place.quantisation(self.sides[name])
        if size is None:
            return 0, False
        if size.adapter:
            return sum(t.numbers for t in size.tensors) * 4, False  # peft keeps half-precision factors in float32
        if asked is not None:
            return size.quantised(_bits(asked), self.dtype), False
        return size.in_memory(self.dtype), not size.coded

    def _mapped(self, name: str) -> bool:
        """Return whether weights stay in files: on the CPU in the type they are stored in, or when asked for."""
        size, place = self.sizes[name], self.place
        if size is None or place.device.type != "cpu" or place.device_map is not None:
            return False
        alike = {t.dtype for t in size.tensors} == {self.dtype}
        return place.quantisation(self.sides[name]) is None and (alike or place.offload is not None)


def _bits(asked: Any) -> int:
    given = asked if isinstance(asked, str) else getattr(asked, "to_dict", lambda: asked)()
    text = str(given).lower()
    return 4 if "4bit': true" in text or "int4" in text or text == "4bit" else 8
