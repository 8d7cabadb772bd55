"""load_items: judge benchmarks, item files and frames as one sequence of items with provenance."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from workbench.errors import ItemError, ParameterError
from workbench.judges.items import JudgeItem, JudgeItems, Provenance
from workbench.judges.rows import SUFFIXES, Row, parse_rows, read_bytes
from workbench.judges.schemas import LLMBAR, Schema, item_from_row, recognise, schema_from_columns


@runtime_checkable
class Frame(Protocol):
    """What is used of a pandas data frame."""

    columns: Any

    def to_dict(self, orient: Any = ...) -> Any:
        """Return the rows as dictionaries (``"records"``)."""
        ...

    def to_csv(self, path_or_buf: Any = ..., *, index: Any = ...) -> Any:
        """Return the frame as CSV text."""
        ...


class _Raw(NamedTuple):
    rows: list[Row]
    sha256: str
    stem: str
    split: str | None
    schema: Schema | None
    licence: str | None = None


def load_items(
    source: str | os.PathLike[str] | Frame | Sequence[JudgeItem],
    *,
    path: str | os.PathLike[str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    columns: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> JudgeItems:
    """Load items to judge.

    Args:
        source: ``"demo:test"`` (an embedded pair's items), ``"llmbar:natural"`` (with ``path``), a ``.json``,
            ``.jsonl`` or ``.csv`` file, a data frame, or items. Files whose fields are known are recognised.
        path: Folder or file of a named benchmark.
        split: Split or subset, when ``source`` doesn't say it after a colon.
        limit: At most this many items, drawn without replacement and kept in file order.
        columns: Column map for other files: ``question``, ``answers`` (a list of columns), and optionally
            ``label``, ``label_values``, ``reference``, ``rubric``, ``item_id``, ``meta``.
        seed: Seed of the draw.

    Returns:
        The items with their provenance: hash, licence when known, split, number of rows, notes.

    Raises:
        ItemError: The file or the data set is missing, empty or malformed, or a row isn't an item; rows are named.
        ParameterError: ``limit``, ``split`` or ``columns`` makes no sense.
    """
    if limit is not None and (isinstance(limit, bool) or limit < 1):
        raise ParameterError("at least one item is needed.", argument="limit", got=limit, allowed="1 or more, or None")
    if isinstance(source, Sequence) and not isinstance(source, str):
        items = _from_items(source)
    else:
        raw = _raw(source, path=path, split=split)
        schema = raw.schema if columns is None else schema_from_columns(columns)
        items = _from_rows(raw, schema, source=_name_of(source))
    return _limited(items, limit=limit, seed=seed)


def embedded_pairs() -> tuple[str, ...]:
    """Return the names of the pairs shipped with the package that bring items."""
    folder = resources.files("workbench") / "embedded"
    if not folder.is_dir():
        return ()
    return tuple(sorted(entry.name for entry in folder.iterdir() if _item_folder(entry).is_dir()))


def one_sided(items: Sequence[JudgeItem]) -> str | None:
    """Return a note when every label names the same slot, so that one order alone can't measure accuracy."""
    labels = {item.label for item in items if item.label is not None}
    if len(labels) != 1 or len(items) < 2:
        return None
    return f"one-sided labels: the better answer is always number {labels.pop() + 1}; judge both orders"


def _raw(source: str | os.PathLike[str] | Frame, *, path: str | os.PathLike[str] | None, split: str | None) -> _Raw:
    if not isinstance(source, str | os.PathLike):
        return _frame(source)
    text = os.fspath(source)
    name, _, after = text.partition(":")
    named = name == LLMBAR.name or name in embedded_pairs()
    if isinstance(source, os.PathLike) or not named and (Path(text).suffix.lower() in SUFFIXES or Path(text).exists()):
        if path is not None:
            raise ParameterError(
                "the source is a file already.", argument="path", got=str(path), fix="Leave `path` out."
            )
        return _file(Path(text), split=split, schema=None)
    if after and split is not None and after != split:
        raise ParameterError("two different splits are asked for.", argument="split", got=split, allowed=[after])
    wanted = after or split
    if name == LLMBAR.name:
        return _llmbar(path, subset=wanted)
    return _embedded(name, split=wanted)


def _name_of(source: object) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "data frame"


def _file(path: Path, *, split: str | None, schema: Schema | None) -> _Raw:
    if path.is_dir():
        raise ItemError(
            "this is a folder, not an item file.",
            argument="source",
            got=str(path),
            allowed=SUFFIXES,
            fix="Point at one file; for LLMBar say load_items('llmbar:natural', path=folder).",
        )
    raw = read_bytes(path)
    stem = path.parent.name if path.stem == "dataset" and path.parent.name else path.stem
    return _Raw(parse_rows(raw, name=path.name), hashlib.sha256(raw).hexdigest(), stem, split, schema)


def _frame(frame: Frame) -> _Raw:
    names = [str(name) for name in frame.columns]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ItemError("two columns of the frame share a name.", argument="source", got=repeated)
    rows = [
        Row(f"row {number}", {str(key): _plain(value) for key, value in values.items()})
        for number, values in enumerate(frame.to_dict("records"), start=1)
    ]
    if not rows:
        raise ItemError("the data frame has no row.", argument="source", got=names)
    raw = frame.to_csv(index=False).encode("utf-8", "surrogatepass")
    return _Raw(rows, hashlib.sha256(raw).hexdigest(), "row", None, None)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' words for a missing cell, known without importing it
        return None
    return value if value is None or isinstance(value, str | int | float | list | tuple | dict) else str(value)


def _llmbar(path: str | os.PathLike[str] | None, *, subset: str | None) -> _Raw:
    if path is None:
        raise ItemError(
            "LLMBar isn't part of the package.",
            argument="path",
            fix="Download the LLMBar repository and pass path= its folder (or one of its dataset.json files).",
        )
    folder = Path(path)
    if folder.is_file():
        return _file(folder, split=subset, schema=LLMBAR)
    if not folder.is_dir():
        raise ItemError(
            "no such folder.", argument="path", got=str(folder), fix="Check the path, relative to where you run."
        )
    files = {
        _subset_name(file): file for file in [*sorted(folder.glob("*.json")), *sorted(folder.rglob("dataset.json"))]
    }
    files.pop("source", None)
    key = _plain_name(subset or "")
    if key not in files:
        raise ItemError(
            "there is no such LLMBar subset in this folder." if subset else "say which LLMBar subset to read.",
            argument="source",
            got=subset,
            allowed=[f"llmbar:{name}" for name in files] if files else f"no dataset file was found in {folder}",
        )
    raw = _file(files[key], split=key, schema=LLMBAR)
    return raw._replace(stem=f"llmbar-{key}")


def _subset_name(file: Path) -> str:
    return _plain_name(file.parent.name if file.stem == "dataset" else file.stem)


def _plain_name(text: str) -> str:
    return text.lower().replace("-", "_").removeprefix("adversarial_").removeprefix("casestudy_")


def _embedded(name: str, *, split: str | None) -> _Raw:
    names = embedded_pairs()
    if name not in names:
        raise ItemError(
            "this is neither a known item set nor an item file.",
            argument="source",
            got=name,
            allowed=[
                *(f"{pair}:<split>" for pair in names),
                "llmbar:<subset>",
                *(f"a {suffix} file" for suffix in SUFFIXES),
            ],
            fix="Check the spelling; a file needs its suffix.",
        )
    folder = _item_folder(resources.files("workbench") / "embedded" / name)
    splits = _splits(folder)
    if split not in splits:
        raise ItemError(
            f"pair {name!r} has no such split." if split else f"say which split of {name!r} to read.",
            argument="split",
            got=split,
            allowed=[f"{name}:{known}" for known in splits],
        )
    raw = (folder / f"{split}.jsonl").read_bytes()
    if not raw.strip():
        raise ItemError("the embedded item file is empty.", argument="source", got=f"{name}:{split}")
    rows = parse_rows(raw, name=f"{split}.jsonl")
    return _Raw(rows, hashlib.sha256(raw).hexdigest(), f"{name}-{split}", split, None, licence="Apache-2.0")


def _item_folder(pair: Traversable) -> Traversable:
    # A pair that continues another one has that one's items, and says so.
    note = pair / "pair.json"
    return pair / (json.loads(note.read_bytes()).get("items", "items") if note.is_file() else "items")


def _splits(folder: Traversable) -> tuple[str, ...]:
    return tuple(
        sorted(entry.name.removesuffix(".jsonl") for entry in folder.iterdir() if entry.name.endswith(".jsonl"))
    )


def _from_rows(raw: _Raw, schema: Schema | None, *, source: str) -> JudgeItems:
    used = recognise(raw.rows[0]) if schema is None else schema
    extra = {"subset": raw.split or raw.stem} if used is LLMBAR else {}
    items = tuple(
        item_from_row(row, used, fallback_id=f"{raw.stem}-{index}", extra=extra) for index, row in enumerate(raw.rows)
    )
    provenance = Provenance(
        source=source,
        sha256=raw.sha256,
        licence=raw.licence or used.licence,
        split=raw.split,
        total=len(items),
        notes=_notes(items),
    )
    return JudgeItems(items=items, provenance=provenance)


def _from_items(source: Sequence[JudgeItem]) -> JudgeItems:
    if isinstance(source, JudgeItems):
        return source
    items = tuple(source)
    if wrong := [type(item).__name__ for item in items if not isinstance(item, JudgeItem)]:
        raise ItemError(
            "a list of items holds only JudgeItem.", argument="source", got=wrong[0], fix="Build JudgeItem values."
        )
    body = json.dumps([asdict(item) for item in items], sort_keys=True, default=str)
    sha256 = hashlib.sha256(body.encode("ascii")).hexdigest()
    provenance = Provenance(source="items", sha256=sha256, total=len(items), notes=_notes(items))
    return JudgeItems(items=items, provenance=provenance)


def _notes(items: Sequence[JudgeItem]) -> tuple[str, ...]:
    note = one_sided(items)
    return () if note is None else (note,)


def _limited(items: JudgeItems, *, limit: int | None, seed: int) -> JudgeItems:
    if limit is None or limit >= len(items):
        return items
    chosen = np.sort(np.random.default_rng(seed).choice(len(items), size=limit, replace=False))
    return replace(items, items=tuple(items.items[index] for index in chosen))
