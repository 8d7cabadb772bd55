"""How large a checkpoint is, read from the headers of its safetensors files; never a weight."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
from huggingface_hub.errors import SafetensorsParsingError
from torch import nn
from transformers import DynamicCache
from transformers.modeling_utils import str_to_torch_dtype

from workbench.pairs.loading import hub, stored
from workbench.pairs.loading.sources import Source

_OUTSIDE = ("embed", "wte", "wpe", "lm_head", "score")
"""Parts of names of matrices that quantisers leave alone."""


class StoredTensor(NamedTuple):
    """One tensor as a file's header names it."""

    name: str
    """Its name in the file."""
    dtype: torch.dtype
    """Its stored type."""
    shape: tuple[int, ...]
    """Its stored shape."""

    @property
    def numbers(self) -> int:
        """Return how many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSize:
    """What the files of one model or adapter hold."""

    tensors: tuple[StoredTensor, ...]
    """Every stored tensor."""
    adapter: bool = False
    """Whether they are an adapter's."""

    @property
    def coded(self) -> bool:
        """Return whether weights are stored quantised, as integers."""
        coded = sum(t.numbers for t in self.tensors if not t.dtype.is_floating_point and len(t.shape) > 1)
        return coded > 0.1 * sum(t.numbers for t in self.tensors)

    @property
    def dtype(self) -> torch.dtype:
        """Return the floating type most of the stored numbers have."""
        counts: Counter[torch.dtype] = Counter()
        for tensor in self.tensors:
            if tensor.dtype.is_floating_point:
                counts[tensor.dtype] += tensor.numbers
        return max(counts, key=lambda kind: counts[kind], default=torch.float32)

    @property
    def stored(self) -> int:
        """Return the bytes of the files' tensors."""
        return sum(t.numbers * t.dtype.itemsize for t in self.tensors)

    @property
    def largest(self) -> int:
        """Return the bytes of the largest stored tensor."""
        return max((t.numbers * t.dtype.itemsize for t in self.tensors), default=0)

    def in_memory(self, dtype: torch.dtype | None) -> int:
        """Return the bytes of the parameters once loaded in a floating type; None keeps the stored one."""
        if dtype is None or self.coded:
            return self.stored
        kinds = ((t, dtype if t.dtype.is_floating_point else t.dtype) for t in self.tensors)
        return sum(t.numbers * kind.itemsize for t, kind in kinds)

    def quantised(self, bits: int, dtype: torch.dtype) -> int:
        """Return about how many bytes they take with their matrices in so many bits, scales included."""
        matrices = [t for t in self.tensors if len(t.shape) == 2 and not any(part in t.name for part in _OUTSIDE)]
        inside = sum(t.numbers for t in matrices)
        scales = inside // 64 * 4 if bits < 8 else sum(t.shape[0] for t in matrices) * 4
        return self.in_memory(dtype) - inside * dtype.itemsize + inside * bits // 8 + scales


def checkpoint_size(source: Source) -> CheckpointSize | None:
    """Return what a checkpoint's or adapter's files hold; None for live modules, or where no header can be read.

    Args:
        source: Local folder, or Hub repository (read from the local cache, else from the Hub: headers only).

    Raises:
        CheckpointError: A local file is damaged.
    """
    if source.live is not None:
        return None
    folder = hub.snapshot_folder(source)
    names = set() if folder is None else {path.name for path in folder.iterdir()}
    adapter = stored.ADAPTER_CONFIG in names
    weights = stored.ADAPTER_WEIGHTS if adapter else stored.WEIGHTS
    if folder is not None and (weights in names or stored.INDEX in names):
        files = [folder / weights] if weights in names else _shards(folder)
        if all(file.is_file() for file in files):
            return CheckpointSize(tensors=tuple(_local(source, files)), adapter=adapter)
    return None if source.repository is None else _remote(source)


def module_bytes(module: nn.Module, *, without: nn.Module | None = None) -> int:
    """Return the bytes of a live module's parameters, shared ones once.

    Args:
        module: The module.
        without: A module whose parameters don't count, being counted already.
    """
    seen = set() if without is None else {id(p) for p in without.parameters()}
    own = {id(p): p for p in module.parameters() if id(p) not in seen}
    return sum(p.numel() * p.element_size() for p in own.values())


def cache_bytes(config: Any, *, tokens: int, itemsize: int) -> int:
    """Return the bytes of keys and values that a prompt leaves behind, sliding windows counted as they are kept.

    Args:
        config: Configuration of the model.
        tokens: Length of the prompt.
        itemsize: Bytes of one number.
    """
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    windows = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=config).layers]
    windows = windows or [None] * text.num_hidden_layers
    kept = sum(tokens if window is None else min(tokens, window - 1) for window in windows)
    return 2 * kept * heads * width * itemsize


def _shards(folder: Path) -> list[Path]:
    index = json.loads((folder / stored.INDEX).read_text(encoding="utf-8"))
    return sorted({folder / file for file in index["weight_map"].values()})


def _local(source: Source, files: list[Path]) -> Iterator[StoredTensor]:
    for file in files:
        for name, entry in stored.read_header(source, file).items():
            yield StoredTensor(name, str_to_torch_dtype[entry["dtype"]], tuple(entry["shape"]))


def _remote(source: Source) -> CheckpointSize | None:
    """Read the headers of a Hub repository; a few kilobytes a file."""
    try:
        names = hub.file_names(replace(source, subfolder=None))
    except OSError:
        return None  # loading says why, and better
    inside = f"{source.subfolder.strip('/')}/" if source.subfolder else ""
    here = sorted(name for name in names if name.startswith(inside) and "/" not in name[len(inside) :])
    adapter = f"{inside}{stored.ADAPTER_CONFIG}" in here
    first = "adapter_model" if adapter else "model"
    files = [n for n in here if n.startswith(f"{inside}{first}") and n.endswith(".safetensors")]
    found: list[StoredTensor] = []
    for file in files:
        try:
            header = huggingface_hub.parse_safetensors_file_metadata(str(source.repository), file, revision=source.at)
        except (OSError, SafetensorsParsingError):
            return None
        found += [
            StoredTensor(name, str_to_torch_dtype[entry.dtype], tuple(entry.shape))
            for name, entry in header.tensors.items()
        ]
    return CheckpointSize(tensors=tuple(found), adapter=adapter) if found else None
