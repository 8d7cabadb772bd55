"""Where the tensors of one side are read from, some rows at a time: a live module, or safetensors files.

Two sides name a tensor alike once the name of the backbone is taken off (``model.layers.0...`` and ``layers.0...``),
which is the key everything here is looked up by. A tied head has no entry; it is an alias of the embedding.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, overload, runtime_checkable

import huggingface_hub
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from workbench.errors import CheckpointError
from workbench.pairs.adapters import Factors
from workbench.pairs.delta.naming import kind_of
from workbench.pairs.loading import stored
from workbench.pairs.loading.checkpoints import explained
from workbench.pairs.loading.sources import Source

CHUNK = 1 << 21
"""Elements of a tensor that are read at a time."""

_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_HEAD = "lm_head.weight"
_OTHER_HEAD = "embed_out."
"""What checkpoints of GPT-NeoX call the head that transformers loads as ``lm_head``."""


class Stored(NamedTuple):
    """What is known of a tensor before it is read."""

    name: str
    """Its own name on this side."""
    shape: tuple[int, ...]
    """Its shape."""
    dtype: torch.dtype | None
    """Its data type; None when it holds codes (quantised weights) and no numbers."""


@runtime_checkable
class TensorStore(Protocol):
    """The weights of one side."""

    @property
    def label(self) -> str:
        """Return what to call the side."""
        ...

    @property
    def entries(self) -> Mapping[str, Stored]:
        """Return every tensor by key, in the side's own order; a tied tensor once."""
        ...

    @property
    def aliases(self) -> Mapping[str, str]:
        """Return the keys of tied tensors, each with the key it is stored under."""
        ...

    @property
    def rests_on(self) -> "TensorStore | None":
        """Return the store whose tensors this side has wherever it has no entry of its own (adapter files)."""
        ...

    def key(self, name: str) -> str:
        """Return the key of a parameter name."""
        ...

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop`` of a tensor, detached, as stored."""
        ...

    def identity(self, key: str) -> object:
        """Return what two keys have in common when they are one tensor in memory; None when that can't be said."""
        ...

    def factors(self, key: str) -> Sequence[Factors] | None:
        """Return the LoRA products added to a tensor that is the base's own otherwise; None where there are none."""
        ...


def chunks(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last row (exclusive) of pieces of a tensor of about :data:`CHUNK` elements."""
    rows = shape[0] if shape else 1
    step = max(1, CHUNK // max(1, math.prod(shape[1:])))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def key_of(name: str, *, prefix: str) -> str:
    """Return the key of a parameter name.

    Args:
        name: As stored or held.
        prefix: Name of the backbone with its dot; empty when there is none.
    """
    key = name.removeprefix(prefix)
    return f"lm_head.{key.removeprefix(_OTHER_HEAD)}" if key.startswith(_OTHER_HEAD) else key


class Layout(NamedTuple):
    """What a configuration says about the names of a checkpoint."""

    prefix: str
    """Name of the backbone with its dot, e.g. ``"model."``; empty when unknown."""
    tied: bool
    """Whether the head is the embedding."""
    ignored: tuple[re.Pattern[str], ...]
    """Names of stored tensors the model has no use for, e.g. attention masks of old files."""

    def key(self, name: str) -> str:
        """Return a name without the backbone's."""
        return key_of(name, prefix=self.prefix)


class FileStore:
    """Safetensors files of a local folder or Hub repository, shards included; only what is asked for is read.

    Args:
        source: The folder or repository; a shard of a repository is fetched when something in it is asked for.

    Raises:
        CheckpointError: It has no configuration or no safetensors weights, or a file can't be read.
    """

    rests_on = None

    def __init__(self, source: Source) -> None:
        stored.check_model(source)
        _require_model(source)
        self._source = source
        self.label = source.label
        config = fetch(source, "config.json")
        self._layout = _layout(json.loads(config.read_text(encoding="utf-8")))
        self._headers: dict[str, dict[str, Stored]] = {}
        self._files = {self.key(name): (name, file) for name, file in self._tensor_files() if self._wanted(name)}
        self.entries = _Entries(self._files, self._stored)
        embedding = next((key for key in self._files if kind_of(key) == "embedding"), None)
        self.aliases: dict[str, str] = {}
        if self._layout.tied and embedding is not None and not self._keeps_its_head(embedding):
            self._files.pop(_HEAD, None)
            self.aliases[_HEAD] = embedding

    def key(self, name: str) -> str:
        """Return the key of a parameter name."""
        return self._layout.key(name)

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Return rows of a tensor; the file is opened for this alone, so that no page of it stays in memory."""
        name, file = self._files[key]
        if self.entries[key].dtype is None:
            raise CheckpointError(
                "this tensor holds codes of a quantised weight, which only its loaded layer can read.",
                argument=self._source.argument,
                got=f"{self.label}: {name}",
                fix="Load the pair and ask it: load_pair(base, judge).delta().",
            )
        with _opened(self._source, file) as opened:
            return opened.get_slice(name)[start:stop].clone() if self.entries[key].shape else opened.get_tensor(name)

    def identity(self, key: str) -> object:
        """Return file and name, so that one file on both sides is known to be one."""
        name, file = self._files[key]
        return str(fetch(self._source, file).resolve()), name

    def factors(self, key: str) -> None:
        """Return None: a checkpoint holds weights, not changes."""

    def _wanted(self, name: str) -> bool:
        return not any(pattern.search(name) for pattern in self._layout.ignored)

    def _keeps_its_head(self, embedding: str) -> bool:
        """Whether the head differs from the embedding its configuration ties it to; transformers then keeps both."""
        if _HEAD not in self._files:
            return False
        shape = self.entries[_HEAD].shape
        return shape != self.entries[embedding].shape or not all(
            torch.equal(self.rows(_HEAD, start, stop), self.rows(embedding, start, stop))
            for start, stop in chunks(shape)
        )

    def _tensor_files(self) -> Iterator[tuple[str, str]]:
        """Yield every stored tensor with the file it lies in."""
        if fetch(self._source, stored.WEIGHTS, optional=True) is not None:
            yield from ((name, stored.WEIGHTS) for name in self._header(stored.WEIGHTS))
            return
        index = fetch(self._source, stored.INDEX, optional=True)
        if index is None:
            raise CheckpointError(
                "there are no safetensors weights here.",
                argument=self._source.argument,
                got=self._source.label,
                allowed=[stored.WEIGHTS, stored.INDEX],
                fix="Save the model again with `save_pretrained`, which writes safetensors.",
            )
        named: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        yield from named.items()
        if self._source.folder is not None:  # transformers loads what the index forgot; a Hub's shards come one by one
            found = ((name, file) for file in dict.fromkeys(named.values()) for name in self._header(file))
            yield from ((name, file) for name, file in found if name not in named)

    def _stored(self, name: str, file: str) -> Stored:
        header = self._header(file)
        if name not in header:
            raise CheckpointError(
                f"{stored.INDEX} names a tensor that its file doesn't hold.",
                argument=self._source.argument,
                got=f"{self._source.label}: {name} in {file}",
                fix="Copy or download the checkpoint again.",
            )
        return header[name]

    def _header(self, file: str) -> dict[str, Stored]:
        if file not in self._headers:
            with _opened(self._source, file) as opened:
                parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
                self._headers[file] = {
                    name: Stored(name, tuple(part.get_shape()), _DTYPES.get(part.get_dtype()))
                    for name, part in parts.items()
                }
        return self._headers[file]


class _Entries(Mapping[str, Stored]):
    """Stored tensors by key; shapes are read file by file, as they are asked for."""

    def __init__(self, files: Mapping[str, tuple[str, str]], read: Callable[[str, str], Stored]) -> None:
        self._files, self._read = files, read

    def __getitem__(self, key: str) -> Stored:
        return self._read(*self._files[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


@overload
def fetch(source: Source, file: str) -> Path: ...
@overload
def fetch(source: Source, file: str, *, optional: bool) -> Path | None: ...
def fetch(source: Source, file: str, *, optional: bool = False) -> Path | None:
    """Return the local path of one file of a folder or repository, downloaded when it is on the Hub.

    Args:
        source: The folder or repository.
        file: Name of the file in it.
        optional: Whether to return None when there is no such file.

    Raises:
        CheckpointError: There is none.
    """
    folder = source.folder
    if folder is None:
        found = _downloaded(source, file)
    else:
        found = folder / file if (folder / file).is_file() else None
    if found is None and not optional:
        raise CheckpointError(
            f"there is no {file} here.",
            argument=source.argument,
            got=source.label,
            allowed="a Hub id or a local folder with config.json and safetensors weights, or a live module",
            fix="Check the name; copy or download the checkpoint again.",
        )
    return found


def _downloaded(source: Source, file: str) -> Path | None:
    with explained(source):
        try:
            return Path(
                huggingface_hub.hf_hub_download(str(source.name), file, revision=source.at, subfolder=source.subfolder)
            )
        except LocalEntryNotFoundError:
            if not huggingface_hub.is_offline_mode():
                raise  # the Hub can't be reached, which doesn't say that the file isn't there
            return None
        except EntryNotFoundError:
            return None


@contextmanager
def _opened(source: Source, file: str) -> Iterator[Any]:
    try:
        with safe_open(fetch(source, file), "pt") as opened:
            yield opened
    except SafetensorError as err:
        raise CheckpointError(
            "this safetensors file is cut short or damaged.",
            argument=source.argument,
            got=f"{source.label}: {file} ({err})",
            fix="Copy or download the file again.",
        ) from err


def _require_model(source: Source) -> None:
    if source.folder is None or not (source.folder / stored.ADAPTER_CONFIG).is_file():
        return
    raise CheckpointError(
        "this folder holds an adapter, which has no weights of its own to compare.",
        argument=source.argument,
        got=source.label,
        fix="Give the model it was trained on, or the adapter as the judge of weight_delta(base, adapter).",
    )


def _layout(config: Mapping[str, Any]) -> Layout:
    """Read names and ties off a configuration, without running code of the repository."""
    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        return Layout("", bool(config.get("tie_word_embeddings", False)), ())
    config_class = CONFIG_MAPPING[kind]
    parsed = config_class.from_dict(dict(config))
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(config_class, None)
    unused = ["rotary_emb.inv_freq", *(getattr(model_class, "_keys_to_ignore_on_load_unexpected", None) or ())]
    prefix = getattr(model_class, "base_model_prefix", "")
    return Layout(
        prefix=f"{prefix}." if prefix else "",
        tied=bool(parsed.get_text_config().tie_word_embeddings),
        ignored=tuple(re.compile(rf"(?:^|\.){pattern}$") for pattern in unused),
    )
