"""What the caller named for one side of a pair: a live module, a local folder, or a place in a Hub repository."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from workbench.errors import ParameterError

Named = str | os.PathLike[str] | nn.Module
"""What may be given for a side."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
"""Files of which a tokenizer has at least one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Where one model, adapter or tokenizer comes from."""

    given: Named
    """As the caller wrote it."""
    argument: str
    """Name of the caller's argument, for messages."""
    revision: str | None = None
    """Commit, tag or branch of a Hub repository, as asked for; None for its default branch."""
    subfolder: str | None = None
    """Folder inside the repository or local folder."""
    commit: str | None = None
    """The commit ``revision`` stood for when it was resolved, the one time; None for folders and live modules."""
    elsewhere: tuple[str, ...] = ()
    """Other commits of the same repository that the local cache held when this one was resolved."""

    def __post_init__(self) -> None:
        """Refuse what names nothing, and a place inside it that it can't have."""
        blank = isinstance(self.given, str) and not self.given.strip()
        if blank or not isinstance(self.given, (str, os.PathLike, nn.Module)):
            raise ParameterError(
                "this names no model or tokenizer.",
                argument=self.argument,
                got=repr(self.given),
                allowed="a Hub id, a local folder or a live object; '.' is the folder you are in",
            )
        for name, value in (("revision", self.revision), ("subfolder", self.subfolder)):
            if value is not None and (self.live is not None or (name == "revision" and self.repository is None)):
                raise _nowhere(self, name, value)

    @property
    def live(self) -> nn.Module | None:
        """Return the module itself when one was given."""
        return self.given if isinstance(self.given, nn.Module) else None

    @property
    def name(self) -> str | os.PathLike[str]:
        """Return the Hub id or path.

        Raises:
            ParameterError: A live module was given.
        """
        if isinstance(self.given, nn.Module):
            raise ParameterError("a live module has no path.", argument=self.argument, got=type(self.given).__name__)
        path = self.folder
        return self.given if path is None else Path(self.given).expanduser()

    @property
    def folder(self) -> Path | None:
        """Return the local folder, sub-folder included; None for Hub ids and live modules."""
        if isinstance(self.given, nn.Module) or not _is_path(self.given):
            return None
        return Path(self.given).expanduser() / (self.subfolder or "")

    @property
    def repository(self) -> str | None:
        """Return the Hub id; None for folders and live modules."""
        return None if self.live is not None or self.folder is not None else str(self.given)

    @property
    def at(self) -> str | None:
        """Return the revision everything of this side is loaded at: the commit once it is known."""
        return self.commit or self.revision

    @property
    def label(self) -> str:
        """Return what to call it in tables."""
        if isinstance(self.given, nn.Module):
            return f"live {type(self.given).__name__}"
        return "/".join(filter(None, (str(self.given), self.subfolder)))

    def to_json(self) -> dict[str, Any]:
        """Return the place as JSON types, for the provenance of results."""
        name = self.label if self.live is not None else str(self.given)
        row: dict[str, Any] = {"source": name, "revision": self.commit}
        if self.repository is not None:
            row |= {"repository": self.repository, "asked_revision": self.revision}
        return row | ({"subfolder": self.subfolder} if self.subfolder else {})


def per_side(value: Any, *, argument: str) -> dict[Literal["base", "judge"], Any]:
    """Return a choice for each side: one for both, or a mapping with keys ``base`` and ``judge``.

    Raises:
        ParameterError: The mapping names another side.
    """
    if not isinstance(value, Mapping):
        return {"base": value, "judge": value}
    if unknown := set(value) - {"base", "judge"}:
        raise ParameterError("unknown side.", argument=argument, got=sorted(unknown), allowed=["base", "judge"])
    return {"base": value.get("base"), "judge": value.get("judge")}


def _nowhere(source: Source, name: str, value: str) -> ParameterError:
    other = "judge" if source.argument == "base" else "base"
    return ParameterError(
        f"only Hub repositories have a {name}." if name == "revision" else f"a live module has no {name}.",
        argument=name,
        got=f"{value!r} for {source.argument}={source.label!r}",
        fix=f"Leave it out, or name the side that has one: {name}={{{other!r}: {value!r}}}.",
    )


def _is_path(source: str | os.PathLike[str]) -> bool:
    """Return whether a source can only mean a local path: it exists, or doesn't look like ``owner/name``."""
    text = os.fspath(source)
    looks_local = text.startswith((".", "~", os.sep)) or text.count("/") > 1 or isinstance(source, Path)
    return looks_local or Path(text).exists()
