"""Code that a repository brings along: it runs only when that was asked for by name."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from workbench.errors import CheckpointError
from workbench.pairs.loading.sources import Source
from workbench.pairs.loading.stored import CONFIG

_TOKENIZER_CONFIG = "tokenizer_config.json"


def code_files(source: Source, *, tokenizer: bool = False) -> tuple[str, ...]:
    """Return the files a checkpoint's ``auto_map`` would run; those of another repository as ``owner/name: file``.

    Args:
        source: A folder or Hub repository; live modules bring no code.
        tokenizer: Look at the tokenizer's code instead of the model's.
    """
    settings = _settings(source, _TOKENIZER_CONFIG if tokenizer else CONFIG)
    return tuple(sorted({_file_of(name) for name in _classes(settings.get("auto_map"))}))


def require_allowed(source: Source, *, allowed: bool, tokenizer: bool = False) -> None:
    """Refuse a checkpoint that can only be loaded by running its own code, unless that was allowed.

    Where transformers has a class of its own for the model, that one is used and nothing of the repository runs;
    the guard table says so.

    Raises:
        CheckpointError: With the files that would run.
    """
    if allowed or not (files := code_files(source, tokenizer=tokenizer)):
        return
    if is_native_tokenizer(source) if tokenizer else is_native(source):
        return
    raise CheckpointError(
        f"this {'tokenizer' if tokenizer else 'model'} is defined by code in its repository, which isn't run "
        "unless asked for.",
        argument=source.argument,
        got=f"{source.label}: {', '.join(files)}",
        fix="Read these files; if you trust them, pass `trust_remote_code=True` (and a pinned `revision`).",
    )


def is_native(source: Source) -> bool:
    """Return whether transformers itself has a class for this model type."""
    return _settings(source, CONFIG).get("model_type") in CONFIG_MAPPING


def is_native_tokenizer(source: Source) -> bool:
    """Return whether transformers itself has the tokenizer class a checkpoint names."""
    name = _settings(source, _TOKENIZER_CONFIG).get("tokenizer_class")
    return name is not None and tokenizer_class_from_name(name) is not None


def _classes(auto_map: Any) -> Iterator[str]:
    values = auto_map.values() if isinstance(auto_map, Mapping) else ()
    for value in values:
        yield from [name for name in (value if isinstance(value, list | tuple) else [value]) if name]


def _file_of(reference: str) -> str:
    repository, _, name = reference.rpartition("--")
    file = f"{name.rsplit('.', 1)[0]}.py"
    return f"{repository}: {file}" if repository else file


def _settings(source: Source, name: str) -> Mapping[str, Any]:
    path = _local_file(source, name)
    if path is None:
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise CheckpointError(
            f"{name} isn't valid JSON.",
            argument=source.argument,
            got=f"{path} ({err})",
            fix="Copy or download the file again.",
        ) from err


def _local_file(source: Source, name: str) -> Path | None:
    if source.live is not None:
        return None
    if source.folder is not None:
        path = source.folder / name
        return path if path.is_file() else None
    try:
        found = huggingface_hub.hf_hub_download(
            str(source.repository), name, subfolder=source.subfolder, revision=source.at
        )
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
    return Path(found)
