"""What the caller named for one side of a pair: a live module, a local folder, or a place in a Hub repository."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from workbench.errors import CheckpointError, ParameterError

Named = str | os.PathLike[str] | nn.Module
"""What may be given for a side."""

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Where one model, adapter or tokenizer comes from."""

    given: Named
    """As the caller wrote it."""
    argument: str
    """Name of the caller's argument, for messages."""
    revision: str | None = None
    """Commit, tag or branch of a Hub repository."""
    subfolder: str | None = None
    """Folder inside the repository or local folder."""

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
        return self.given

    @property
    def folder(self) -> Path | None:
        """Return the local folder, sub-folder included; None for Hub ids and live modules."""
        if isinstance(self.given, nn.Module) or not _is_path(self.given):
            return None
        return Path(self.given).expanduser() / (self.subfolder or "")

    @property
    def label(self) -> str:
        """Return what to call it in tables."""
        if isinstance(self.given, nn.Module):
            return f"live {type(self.given).__name__}"
        return "/".join(filter(None, (str(self.given), self.subfolder)))

    def has_tokenizer(self) -> bool:
        """Return whether a local folder holds tokenizer files; Hub repositories are assumed to."""
        if self.live is not None:
            return False
        folder = self.folder
        return True if folder is None else any((folder / name).is_file() for name in _TOKENIZER_FILES)

    def check(self) -> None:
        """Refuse a local path that isn't a folder, or whose weights are pickles.

        Raises:
            CheckpointError: With what was found there.
        """
        folder = self.folder
        if folder is None:
            return
        if not folder.is_dir():
            raise CheckpointError(
                "this folder doesn't exist.",
                argument=self.argument,
                got=str(folder),
                allowed="a Hub id, a local folder or a live module",
                fix="Check the path.",
            )
        names = sorted(p.name for p in folder.iterdir())
        if any(name.endswith(".safetensors") for name in names) or (folder / "adapter_config.json").is_file():
            return
        pickles = [name for name in names if Path(name).suffix in _PICKLES]
        raise CheckpointError(
            "the weights are pickle files, which can run code when loaded."
            if pickles
            else "this folder holds no safetensors weights.",
            argument=self.argument,
            got=f"{folder}: {(pickles or names)[:6]}",
            allowed=["*.safetensors"],
            fix="Save the model again with `save_pretrained`, which writes safetensors.",
        )


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


def _is_path(source: str | os.PathLike[str]) -> bool:
    """Return whether a source can only mean a local path: it exists, or doesn't look like ``owner/name``."""
    text = os.fspath(source)
    return Path(text).exists() or text.startswith((".", "~", os.sep)) or text.count("/") > 1 or isinstance(source, Path)
