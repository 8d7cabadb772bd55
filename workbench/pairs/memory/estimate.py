"""Will a pair fit? Said before a weight is loaded, from configurations and the headers of safetensors files.

On a CPU, weights loaded in the type they are stored in stay in their files: the system maps them into memory and drops
pages it needs elsewhere, so that nothing has to be free for them. Everything else must fit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch

from workbench import html
from workbench.errors import MemoryShortage
from workbench.pairs.embedded import embedded_names, embedded_pair
from workbench.pairs.loading import hub
from workbench.pairs.loading.placement import Placement
from workbench.pairs.loading.sources import Named, Source, per_side
from workbench.pairs.memory.footprint import EVERYWHERE, HOST, Footprint, MemoryPart, readable
from workbench.pairs.report import Guard

if TYPE_CHECKING:
    import pandas as pd

Side = Literal["base", "judge"]
_FREE_TO_LOAD = ("weights", "passing")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """What loading a pair and running it takes, device by device, beside what is free there."""

    parts: tuple[MemoryPart, ...]
    """Weights first, then what loading and a run add."""
    free: Mapping[str, int]
    """Bytes free on each device; a device that doesn't say is absent."""
    cures: tuple[str, ...] = ()
    """What would make it smaller, for this pair on this machine."""

    @property
    def needed(self) -> dict[str, int]:
        """Return the bytes that have to be free to load the pair, by device."""
        return self._by_device(_FREE_TO_LOAD)

    @property
    def fits(self) -> bool:
        """Return whether the pair can be loaded; True where nothing is known of what is free."""
        return self._fits(self.needed)

    @property
    def run_fits(self) -> bool:
        """Return whether a run of the size asked for fits beside the weights."""
        return self._fits(self._by_device(("weights", "run")))

    def to_frame(self) -> "pd.DataFrame":
        """Return the parts with columns ``part, device, bytes, kind, exact, detail``."""
        import pandas as pd

        columns = ("part", "device", "bytes", "kind", "exact", "detail")
        return pd.DataFrame([dict(zip(columns, part, strict=True)) for part in self.parts], columns=list(columns))

    def summary(self) -> str:
        """Return the verdict, then every part, then what would help where it doesn't fit."""
        about = {True: "", False: "about "}
        lines = [
            f"  - {part.name}: {about[part.exact]}{readable(part.size)} on {part.device}"
            + (f" ({part.detail})" if part.detail else "")
            for part in self.parts
        ]
        cures = [] if self.fits and self.run_fits else [f"  What would help: {cure}" for cure in self.cures]
        return "\n".join([self._verdict(), *lines, *cures])

    def guard(self) -> Guard:
        """Return the row of the pair table."""
        known = not self.needed or bool(self.free)
        status = "skipped" if not known else "ok" if self.fits else "warn"
        detail = "This device doesn't say what is free." if not known else "" if self.fits else " Or: ".join(self.cures)
        return Guard(name="memory", status=status, value=self._verdict(), detail=detail)

    def require_fit(self) -> "MemoryEstimate":
        """Return the estimate, or refuse a pair that won't fit.

        Raises:
            MemoryShortage: With what is needed, what is free, and what would help.
        """
        if self.fits:
            return self
        raise MemoryShortage(
            "the weights of this pair don't fit into memory, so nothing was loaded.",
            argument="base",
            got=self._verdict(),
            fix=" Or: ".join([*self.cures, "check_memory=False, to try all the same."]),
        )

    def _by_device(self, kinds: tuple[str, ...]) -> dict[str, int]:
        found: dict[str, int] = {}
        for part in self.parts:
            if part.kind in kinds:
                found[part.device] = found.get(part.device, 0) + part.size
        return found

    def _fits(self, needed: Mapping[str, int]) -> bool:
        if EVERYWHERE in needed:
            return not self.free or sum(needed.values()) <= sum(self.free.values())
        return all(size <= self.free.get(device, math.inf) for device, size in needed.items())

    def _verdict(self) -> str:
        unread = [part.detail for part in self.parts if part.detail.startswith("the headers")]
        if unread:
            return f"not known: {unread[0]}"
        if not self.needed:
            mapped = sum(part.size for part in self.parts if part.kind == "mapped")
            return f"{readable(mapped)} of weights stay in files" if mapped else "both models were loaded already"
        needed = "; ".join(f"{readable(size)} needed on {device}" for device, size in self.needed.items())
        free = ", ".join(f"{readable(size)} on {device}" for device, size in self.free.items())
        return f"{needed}; free: {free or 'not known'}"

    def __str__(self) -> str:
        """Return the summary."""
        return self.summary()

    def _repr_html_(self) -> str:
        rows = [(part.name, part.device, readable(part.size), part.kind, part.detail) for part in self.parts]
        head = ("part", "device", "size", "kind", "what to know")
        badge = html.badge("ok" if self.fits else "fail")
        return html.fragment(badge, html.table(rows, head, caption=self._verdict()))


def estimate_memory(
    base: Named,
    judge: Named | None = None,
    *,
    prompt_tokens: int = 1024,
    batch_size: int = 8,
    kept: int | None = None,
    revision: Any = None,
    subfolder: Any = None,
    **placement: Any,
) -> MemoryEstimate:
    """Say what a pair will take before any weight is loaded.

    Weights and keys and values are exact for plain checkpoints; what a quantiser makes of weights, an adapter's
    precision, and the working memory of a block are not, and say so.

    Args:
        base: As in :func:`workbench.load_pair`.
        judge: As in :func:`workbench.load_pair`; None estimates the base alone, or an embedded pair.
        prompt_tokens: Tokens of a prompt.
        batch_size: Prompts in a batch.
        kept: Sites captured at every token; by default every block's input, which is what a TuCo run keeps.
        revision: As in :func:`workbench.load_pair`.
        subfolder: As in :func:`workbench.load_pair`.
        placement: ``dtype, device, device_map, max_memory, offload, offload_folder, quantization, trust_remote_code``
            as in :func:`workbench.load_pair`.

    Raises:
        CheckpointError: A configuration or header can't be read.
        ParameterError: Arguments contradict each other.
    """
    named = embedded_pair(base) if isinstance(base, str) and base in embedded_names() else None
    if named is not None:
        base, judge = named.base, named.judge if judge is None else judge
    revisions, folders = per_side(revision, argument="revision"), per_side(subfolder, argument="subfolder")
    given: list[tuple[Side, Named]] = [("base", base), *([("judge", judge)] if judge is not None else [])]
    sources = [
        hub.resolved(Source(given=what, argument=side, revision=revisions[side], subfolder=folders[side]))
        for side, what in given
    ]
    options = {"dtype": None, "device": None, "device_map": None, "attention": None, "trust_remote_code": False}
    place = Placement.choose(**{**options, **placement})
    footprint = Footprint.of(sources[0], sources[1] if len(sources) == 2 else None, place)
    run = footprint.run(prompt_tokens=prompt_tokens, batch_size=batch_size, kept=kept)
    return _estimate(footprint, [*footprint.weights(), *run])


def load_estimate(base: Source, judge: Source | None, place: Placement) -> MemoryEstimate:
    """Estimate what loading takes, without what a run adds.

    Args:
        base: The base, resolved.
        judge: The judge, resolved; None when the base is a live ``PeftModel``.
        place: Where and how they are to be loaded.

    Raises:
        CheckpointError: A local file is damaged.
    """
    footprint = Footprint.of(base, judge, place)
    return _estimate(footprint, footprint.weights())


def free_memory(device: torch.device | str) -> int | None:
    """Return the bytes that can be taken on a device; None where it can't be asked.

    On the host this is what the system calls available, or less where a container allows less.
    """
    place = torch.device(device)
    if place.type == "cpu":
        return int(min(psutil.virtual_memory().available, _container_room()))
    if place.type == "cuda" and torch.cuda.is_available():
        unused = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
        return torch.cuda.mem_get_info(place)[0] + unused
    return None


def _estimate(footprint: Footprint, parts: list[MemoryPart]) -> MemoryEstimate:
    place = footprint.place
    free = {device: room for device in _devices(place) if (room := _room(place, device)) is not None}
    needed = sum(part.size for part in parts if part.kind in _FREE_TO_LOAD)
    return MemoryEstimate(parts=tuple(parts), free=free, cures=tuple(footprint.cures(needed)))


def _devices(place: Placement) -> list[str]:
    """Return the devices weights may go to."""
    if place.device_map is None:
        return list(dict.fromkeys([str(place.device), HOST]))
    if place.max_memory is not None:
        return [_device_name(key) for key in place.max_memory if key != "disk"]
    return [*(f"cuda:{index}" for index in range(torch.cuda.device_count())), HOST]


def _room(place: Placement, device: str) -> int | None:
    """Return what may be taken on a device: what is free, or the most it may give."""
    limits = [_bytes_of(value) for key, value in (place.max_memory or {}).items() if _device_name(key) == device]
    free = free_memory(device)
    return min([*limits, *([] if free is None else [free])], default=None)


def _device_name(key: Any) -> str:
    return f"cuda:{key}" if isinstance(key, int) else str(key)


def _bytes_of(value: Any) -> int:
    from accelerate.utils import convert_file_size_to_int

    return int(value if isinstance(value, int) else convert_file_size_to_int(value))


def _container_room() -> float:
    """Return what a container still allows; infinity outside one."""
    root = Path("/sys/fs/cgroup")
    try:
        most = (root / "memory.max").read_text(encoding="ascii").strip()
        used = int((root / "memory.current").read_text(encoding="ascii"))
        counts = dict(line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return math.inf
    # Pages of files are given back when memory is wanted.
    return math.inf if most == "max" else int(most) - used + int(counts.get("inactive_file", 0))
