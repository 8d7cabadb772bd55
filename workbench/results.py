"""What every analysis hands back: labelled numpy arrays, one finding, and where the numbers came from.

A result is a frozen dataclass with numpy arrays on the CPU beside their labels. This module holds
what all of them share and nothing of any one analysis: the protocol that reports and explorers
rely on, the verdict-first ``Finding``, the provenance ``RunMeta``, the tidy-table vocabulary and
the npz + JSON folder a result is saved to. It imports neither torch nor pandas at import time.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from workbench.errors import ParameterError, ResultError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TIDY_COLUMNS = (
    "item", "order", "model", "direction", "component", "layer", "head", "position", "token", "span", "dose", "metric",
    "value", "low", "high", "control", "p", "n",
)  # fmt: skip
"""The only columns a result's frame may have, in the order they appear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One number with its interval, and the control that number has to beat."""

    name: str
    """What was measured, in words."""
    value: float
    """Point estimate."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    n: int
    """Number of independent items behind it."""
    unit: str = ""
    """Unit of value and interval; empty for shares."""
    control: "Estimate | None" = None
    """The same number where nothing should be found."""

    def text(self) -> str:
        """Return ``name value unit [low, high], n=...; control: ...``."""
        unit = f" {self.unit}" if self.unit else ""
        own = f"{self.name} {_number(self.value)}{unit} [{_number(self.low)}, {_number(self.high)}], n={self.n}"
        return own if self.control is None else f"{own}; control: {self.control.text()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a result says, verdict first."""

    headline: str
    """One sentence; begins with "Nothing found" when nothing was."""
    found: bool
    """Whether the evidence passed the analysis' own stated threshold."""
    estimates: tuple[Estimate, ...]
    """Headline numbers, each with interval and control."""
    limits: tuple[str, ...] = ()
    """What these numbers can't show, and what was not measured."""

    def text(self) -> str:
        """Return the finding as plain text: headline, effects with controls, limits."""
        lines = [self.headline, *(f"  - {estimate.text()}" for estimate in self.estimates)]
        if self.limits:
            lines += ["  Limits:", *(f"  - {limit}" for limit in self.limits)]
        return "\n".join(lines)


class Panel(NamedTuple):
    """One figure of a result, drawn only when somebody looks."""

    title: str
    """Short title above the figure."""
    caption: str
    """What the figure shows and how to read it; also its alternative text."""
    draw: "Callable[[], Figure]"
    """Makes a new figure; the caller closes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMeta:
    """Everything needed to say what was run, on what, and what was left out."""

    analysis: str
    """Name of the analysis, e.g. ``"tuco"``."""
    pair: Mapping[str, Any]
    """Identity of base, judge, adapter, tokenizer and template: names, revisions, content hashes."""
    items: Mapping[str, Any]
    """Provenance of the items, with their number and hash."""
    parameters: Mapping[str, Any]
    """Every choice of the call, defaults included."""
    seed: int
    """Seed of every random draw of the run."""
    n_items: int
    """Number of independent items: both orders of an item, and items of one cluster, count once."""
    dtype: str
    """Data type the models ran in."""
    attention: str
    """Attention implementation the models ran with."""
    device: str
    """Device the models ran on."""
    noise_floor: float | None = None
    """Value of the headline number that rounding alone produces here; None when not measured."""
    edits: tuple[str, ...] = ()
    """Every edit and adapter state that was active, by content."""
    warnings: tuple[str, ...] = ()
    """Guard warnings of the pair and of the run."""
    not_measured: tuple[str, ...] = ()
    """What was left out, and why."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries involved."""
    wall_time_s: float = math.nan
    """Seconds the run took."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; NaN becomes null."""
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "RunMeta":
        """Rebuild from :meth:`to_json`.

        Raises:
            ResultError: A field is missing or unknown.
        """
        known = {f.name for f in fields(cls)}
        if unknown := set(data) - known:
            raise ResultError(
                "the meta block has unknown fields.", argument="meta", got=sorted(unknown), allowed=sorted(known)
            )
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        if values.get("wall_time_s") is None:
            values["wall_time_s"] = math.nan
        try:
            return cls(**values)
        except TypeError as err:
            raise ResultError(
                "the meta block is incomplete.", argument="meta", got=sorted(data), allowed=sorted(known)
            ) from err


@runtime_checkable
class Result(Protocol):
    """What reports, explorers and the command line rely on; every ``XResult`` has it."""

    @property
    def meta(self) -> RunMeta:
        """Return where the numbers came from."""
        ...

    @property
    def finding(self) -> Finding:
        """Return what the result says, verdict first."""
        ...

    def to_frame(self) -> "pd.DataFrame":
        """Return a tidy table, one row per cell, with columns from ``TIDY_COLUMNS`` only."""
        ...

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the main figure into ``ax`` (a new one when None) and return it; never shows it."""
        ...

    def panels(self) -> Sequence[Panel]:
        """Return the figures a report shows, in order."""
        ...

    def summary(self) -> str:
        """Return the finding as plain text."""
        ...

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result as a folder of npz and JSON and return the folder."""
        ...


def tidy(columns: Mapping[str, Any]) -> "pd.DataFrame":
    """Build a tidy frame, refusing columns outside the shared vocabulary.

    Args:
        columns: Column name to values; all columns have the same length, scalars are broadcast.

    Raises:
        ParameterError: A column isn't in ``TIDY_COLUMNS``, or ``metric``/``value`` is missing.
    """
    import pandas as pd

    unknown = set(columns) - set(TIDY_COLUMNS)
    if unknown or not {"metric", "value"} <= set(columns):
        raise ParameterError(
            "a tidy frame needs `metric` and `value` and only known columns.",
            argument="columns",
            got=sorted(columns),
            allowed=TIDY_COLUMNS,
        )
    return pd.DataFrame({name: columns[name] for name in TIDY_COLUMNS if name in columns})


def frozen_array(values: Any, *, dtype: Any = np.float64) -> np.ndarray:
    """Return a read-only numpy copy, so that a frozen result is frozen to its contents."""
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array


def save_folder(
    path: str | os.PathLike[str],
    *,
    kind: str,
    arrays: Mapping[str, np.ndarray],
    labels: Mapping[str, Any],
    meta: RunMeta,
) -> Path:
    """Write a result folder (``result.json``, ``arrays.npz``) in one move, so that half of one never stays.

    Args:
        path: Folder to write; an earlier result there is replaced, anything else is refused.
        kind: Class name of the result, checked when it is loaded.
        arrays: Numpy arrays by field name; no object arrays.
        labels: JSON-able fields (labels, choices).
        meta: Provenance.

    Raises:
        ResultError: ``path`` exists and isn't a result folder, or an array holds objects.
    """
    target = Path(path)
    if target.exists() and not (target / "result.json").is_file():
        raise ResultError(
            "this path exists and isn't a saved result, so it is not overwritten.",
            argument="path",
            got=str(target),
            fix="Choose another folder, or remove this one yourself.",
        )
    if objects := [name for name, array in arrays.items() if array.dtype.hasobject]:
        raise ResultError("object arrays can't be saved without pickle.", argument="arrays", got=objects)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        stored: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
        np.savez_compressed(scratch / "arrays.npz", **stored)
        body = {"kind": kind, "labels": dict(labels), "meta": meta.to_json()}
        (scratch / "result.json").write_text(json.dumps(body, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        scratch.chmod(0o755)  # mkdtemp is private to the user by design; a result is an ordinary folder
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


class LoadedFolder(NamedTuple):
    """Contents of a saved result folder."""

    arrays: dict[str, np.ndarray]
    """Arrays by field name, read-only."""
    labels: dict[str, Any]
    """JSON fields as they were saved (tuples come back as lists)."""
    meta: RunMeta
    """Provenance."""


def load_folder(path: str | os.PathLike[str], *, kind: str) -> LoadedFolder:
    """Read what :func:`save_folder` wrote.

    Raises:
        ResultError: A file is missing, or the folder holds another kind of result.
    """
    folder = Path(path)
    for name in ("result.json", "arrays.npz"):
        if not (folder / name).is_file():
            raise ResultError(
                f"no {name} here.", argument="path", got=str(folder), fix="Point at a folder written by `result.save`."
            )
    body = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if body.get("kind") != kind:
        raise ResultError(
            "this folder holds another kind of result.", argument="path", got=body.get("kind"), allowed=[kind]
        )
    with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
        arrays = {name: frozen_array(stored[name], dtype=stored[name].dtype) for name in stored.files}
    return LoadedFolder(arrays, body["labels"], RunMeta.from_json(body["meta"]))


def _number(value: float) -> str:
    return "not defined" if math.isnan(value) else f"{value:.4g}"
