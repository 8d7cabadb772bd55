"""Pair folders: where their parts lie, and how a built one is put among those that ship."""

import filecmp
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import OrganismError

EMBEDDED = Path(__file__).parents[1] / "embedded"
"""Where the pairs that ship with the package are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFolder:
    """Where the parts of a pair lie; those it shares with another pair lie in that one's folder."""

    base: Path
    judge: Path
    items: Path

    @classmethod
    def read(cls, folder: Path) -> "PairFolder":
        """Return the parts that the folder's ``pair.json`` names."""
        pair = json.loads((folder / "pair.json").read_text(encoding="utf-8"))
        return cls(
            base=(folder / pair["base"]).resolve(),
            judge=(folder / pair["judge"]).resolve(),
            items=(folder / pair.get("items", "items")).resolve(),
        )


def ship(folder: Path, *, into: Path = EMBEDDED) -> Path:
    """Copy a built pair among the shipped ones; what it shares with the pair it continues is named, not copied.

    Args:
        folder: A folder that `build` wrote.
        into: Folder of the shipped pairs.

    Returns:
        The new folder.

    Raises:
        OrganismError: The pair continues one that isn't there, or whose base or items differ.
    """
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    pair = json.loads((folder / "pair.json").read_text(encoding="utf-8"))
    target = into / truth["name"]
    origin = truth["training"].get("origin")
    shared = () if origin is None else ("base", "items")
    for part in shared:
        if not _same_files(folder / part, into / str(origin) / part):
            raise OrganismError(
                f"the {part} of {truth['name']} is not that of the shipped {origin}.",
                argument="folder",
                got=str(folder),
                fix=f"Build it with the seed and scale of the shipped {origin}.",
            )
        pair[part] = f"../{origin}/{part}"
    shutil.copytree(folder, target, ignore=lambda at, names: shared if Path(at) == folder else ())
    (target / "pair.json").write_text(json.dumps(pair, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def _same_files(first: Path, second: Path) -> bool:
    names = {path.name for path in first.iterdir()}
    if not second.is_dir() or names != {path.name for path in second.iterdir()}:
        return False
    return not any(filecmp.cmpfiles(first, second, sorted(names), shallow=False)[1:])
