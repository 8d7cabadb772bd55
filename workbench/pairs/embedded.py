"""Pairs that ship with the package, found by name through package data."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from workbench.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPair:
    """Where an embedded pair lies and how it is asked."""

    name: str
    """Name to load it by."""
    description: str
    """One sentence on what is planted, or that nothing is."""
    base: Path
    """Folder of the base model and its tokenizer."""
    judge: Path
    """Folder of the judge checkpoint or of its adapter."""
    format: str
    """Name of the judge format."""
    kind: Literal["full", "lora"]
    """Checkpoint or adapter."""


def embedded_names() -> tuple[str, ...]:
    """Return the names of the pairs that ship with the package."""
    root = _root()
    return tuple(sorted(p.name for p in root.iterdir() if (p / "pair.json").is_file())) if root.is_dir() else ()


def embedded_pair(name: str) -> EmbeddedPair:
    """Return where the embedded pair ``name`` lies.

    Raises:
        CheckpointError: There is no such pair.
    """
    folder = _root() / name
    if name not in embedded_names():
        raise CheckpointError("no embedded pair has this name.", argument="base", got=name, allowed=embedded_names())
    spec = json.loads((folder / "pair.json").read_text(encoding="utf-8"))
    return EmbeddedPair(
        name=name,
        description=spec["description"],
        # A pair that continues another one names that one's base instead of bringing its own.
        base=(folder / spec["base"]).resolve(),
        judge=(folder / spec["judge"]).resolve(),
        format=spec["format"],
        kind=spec["kind"],
    )


def _root() -> Path:
    return Path(str(files("workbench"))) / "embedded"
