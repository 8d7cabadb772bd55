"""The weight difference of a pair as a table that can be grouped, drawn and read out."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench import html, plotting
from workbench.errors import ParameterError
from workbench.pairs.delta.naming import OUTSIDE, in_order
from workbench.pairs.delta.precision import coarser, half_steps
from workbench.pairs.delta.spectrum import gaussian_rank

if TYPE_CHECKING:
    import pandas as pd

Group = Literal["layer", "kind"]

DISTANT = 0.9
"""Relative weight distance from which a judge is said not to derive from the base; unrelated models sit near 1.4."""

CONCENTRATED = 0.5
"""A change is called concentrated when half of it sits in at most this share of the tensors an even one would take."""

_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class TensorChange:
    """How far one tensor moved."""

    name: str
    """Parameter name in the base model."""
    layer: int | None
    """Block it belongs to; None outside the blocks."""
    kind: str
    """What it is: ``"q"``, ``"down"``, ``"norm"``, ``"embedding"`` ...; its last name when that isn't known."""
    shape: tuple[int, ...]
    """Shape of what was compared."""
    change: float
    """Frobenius norm of judge minus base."""
    base_norm: float
    """Frobenius norm of the base tensor."""
    spectral_norm: float = math.nan
    """Largest singular value of the change; NaN where it wasn't measured or the tensor is no matrix."""
    rank_bound: int | None = None
    """Rank the change can't exceed, when it came as LoRA factors."""
    uncompared_rows: int = 0
    """Rows that only one side has, e.g. of added tokens; they are in no number here."""
    note: str = ""
    """What has to be said about it."""

    @property
    def relative(self) -> float:
        """Return the norm of the change over that of the base tensor."""
        return self.change / self.base_norm if self.base_norm else (0.0 if not self.change else math.inf)

    @property
    def stable_rank(self) -> float:
        """Return ``|D|_F^2 / |D|_2^2``: 1 for a single direction; NaN without a spectral norm or a change."""
        return (self.change / self.spectral_norm) ** 2 if self.spectral_norm else math.nan

    @property
    def gaussian_rank(self) -> float:
        """Return the stable rank of a random matrix of this shape, the control of ``stable_rank``."""
        return math.nan if math.isnan(self.stable_rank) else gaussian_rank(self.shape)

    @property
    def not_finite(self) -> str | None:
        """Return which side holds NaN or infinity in this tensor, in words; None when all numbers are finite."""
        for side, norm in (("base", self.base_norm), ("judge", self.change)):
            if not math.isfinite(norm):
                return f"{side}: {self.name} holds {'NaN' if math.isnan(norm) else 'infinity'}"
        return None

    @property
    def numel(self) -> int:
        """Return the number of weights compared."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDelta:
    """What fine-tuning changed in weight space, tensor by tensor."""

    base: str
    """What the base is called."""
    judge: str
    """What the judge is called."""
    changes: tuple[TensorChange, ...]
    """One row per tensor both models share: embeddings first, then layer by layer, then the head."""
    only_base: tuple[str, ...] = ()
    """Tensors the judge doesn't have."""
    only_judge: tuple[str, ...] = ()
    """Tensors the base doesn't have."""
    base_precision: str | None = None
    """Coarsest type that holds the base's weights without loss."""
    judge_precision: str | None = None
    """The same of the judge's; None for an adapter, which is never rounded to the base's steps."""

    @property
    def relative(self) -> float:
        """Return the Frobenius norm of the whole change over that of the base; about 1.4 for unrelated models."""
        known = [c for c in self.changes if math.isfinite(c.base_norm)]
        base = _norm(c.base_norm for c in known)
        return _norm(c.change for c in known) / base if base else math.nan

    @property
    def moved(self) -> tuple[TensorChange, ...]:
        """Return the tensors that differ at all."""
        return tuple(c for c in self.changes if c.change > 0)

    @property
    def not_finite(self) -> tuple[str, ...]:
        """Return which tensors hold NaN or infinity, in words; the change of such a tensor isn't defined."""
        return tuple(said for c in self.changes if (said := c.not_finite) is not None)

    @property
    def precision(self) -> str | None:
        """Return the coarser of the two sides' precisions; None for an adapter."""
        return coarser(self.base_precision, self.judge_precision)

    @property
    def beyond_rounding(self) -> tuple[TensorChange, ...]:
        """Return the tensors that moved by more than saving them in the coarser of two precisions explains."""
        if self.base_precision == self.judge_precision or self.precision is None:
            return self.moved
        return tuple(c for c in self.moved if c.change > self.rounding(c) * c.base_norm)

    def rounding(self, change: TensorChange) -> float:
        """Return the rounding floor of a tensor: half a step in every weight, relative to its norm; NaN for adapters.

        A relative change below it is smaller than the steps the coarser side is written in.
        """
        if self.precision is None or not change.base_norm:
            return math.nan
        return half_steps(change.base_norm, numel=change.numel, precision=self.precision) / change.base_norm

    def by(self, *groups: Group | Sequence[Group]) -> "pd.DataFrame":
        """Return the change summed over groups of tensors.

        Args:
            groups: ``"layer"``, ``"kind"`` or both.

        Returns:
            One row per group with columns of the groups (layer -1 is outside the blocks), ``tensors``, ``moved``,
            ``weights`` (count), ``change``, ``base_norm``, ``relative``, ``share`` of the whole squared change and
            ``even_share``, what it were had every weight moved alike.

        Raises:
            ParameterError: There is no such group.
        """
        import pandas as pd

        names = [name for group in groups for name in ([group] if isinstance(group, str) else group)]
        if not names or set(names) - {"layer", "kind"}:
            raise ParameterError("no such group.", argument="groups", got=names, allowed=["layer", "kind"])
        whole, weights = _norm(c.change for c in self.changes) ** 2, sum(c.numel for c in self.changes)
        rows: dict[tuple[Any, ...], list[TensorChange]] = {}
        for change in self.changes:
            layer = -1 if change.layer is None else change.layer
            rows.setdefault(tuple({"layer": layer, "kind": change.kind}[n] for n in names), []).append(change)
        order = in_order({c.kind for c in self.changes})
        return pd.DataFrame(
            [
                dict(zip(names, key, strict=True)) | _totals(rows[key], whole=whole, weights=weights)
                for key in sorted(rows, key=lambda key: tuple(order.index(k) if isinstance(k, str) else k for k in key))
            ]
        )

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per tensor; ``gaussian_rank`` and ``rounding`` stand beside what they are the control of."""
        import pandas as pd

        return pd.DataFrame([self._record(change) for change in self.changes])

    def to_json(self) -> dict[str, Any]:
        """Return the whole difference as JSON types; numbers that aren't defined are None."""
        rows = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in self._record(c).items()}
            for c in self.changes
        ]
        return {
            "base": self.base,
            "judge": self.judge,
            "relative": self.relative if math.isfinite(self.relative) else None,
            "base_precision": self.base_precision,
            "judge_precision": self.judge_precision,
            "only_base": list(self.only_base),
            "only_judge": list(self.only_judge),
            "summary": self.summary(),
            "tensors": rows,
        }

    def summary(self) -> str:
        """Return the finding in words: where the change sits, its control beside it, and what wasn't compared."""
        return " ".join(filter(None, (self._verdict(), self._place(), self._ranks(), self._steps(), self._left_out())))

    def movers(self, count: int = _SHOWN) -> tuple[TensorChange, ...]:
        """Return the tensors that moved most, relative to their norm."""
        return tuple(sorted(self.moved, key=lambda c: -c.relative)[:count])

    def grid(self) -> tuple[list[str], list[str], np.ndarray]:
        """Return kinds, layers and the relative change of each cell, with a row and a column for all of them.

        Returns:
            Row labels, column labels and values; NaN where there is no tensor.
        """
        layers = sorted({c.layer for c in self.changes if c.layer is not None})
        outside = [None] if any(c.layer is None for c in self.changes) else []
        columns: list[Any] = [*layers, *outside]
        kinds = in_order({c.kind for c in self.changes})

        def cell(fits: Callable[[TensorChange], bool]) -> float:
            inside = [c for c in self.changes if fits(c)]
            return _relative(inside) if inside else math.nan

        values = [
            [cell(lambda c, k=kind, at=layer: c.kind == k and c.layer == at) for layer in columns]
            + [cell(lambda c, k=kind: c.kind == k)]
            for kind in kinds
        ]
        values.append([cell(lambda c, at=layer: c.layer == at) for layer in columns] + [cell(lambda c: True)])
        labels = [OUTSIDE if layer is None else str(layer) for layer in columns]
        return [*kinds, "all kinds"], [*labels, "all layers"], np.array(values)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the relative change of every kind of tensor in every layer; the last row and column are totals."""
        rows, columns, values = self.grid()
        return plotting.heatmap(
            values,
            rows=rows,
            columns=columns,
            title=f"Where the weights moved: {Path(self.judge).name}",
            column_label="layer",
            value_label="change relative to the base's norm",
            center=None,
            limits=(0.0, float(np.nanmax(values)) or 1.0),
            ax=ax,
        )

    def to_html(self) -> html.Markup:
        """Return finding, figure and the tensors that moved most as one piece of a page."""
        figure = self.plot().get_figure(root=True)
        drawn = plotting.figure_svg(figure) if isinstance(figure, Figure) else ""
        movers = self.movers()
        rows = [
            (c.name, c.kind, "–" if c.layer is None else c.layer, c.relative, self.rounding(c), c.stable_rank, c.note)
            for c in movers
        ]
        columns = ("tensor", "kind", "layer", "relative change", "rounding floor", "stable rank", "note")
        caption = f"The {len(movers)} tensors that moved most, of {len(self.moved)} that moved"
        pieces = (
            html.Markup("<p>{}</p>").format(html.escape(self.summary())),
            html.figure(drawn, alt="Relative weight change by layer and kind of tensor", caption=_CAPTION),
            html.table(rows, columns, caption=caption) if rows else html.Markup(),
        )
        return html.Markup().join(pieces)

    def _repr_html_(self) -> str:
        return html.fragment(self.to_html())

    def __repr__(self) -> str:
        """Return one line."""
        moved = f"{len(self.moved)} of {len(self.changes)} tensors moved"
        return f"WeightDelta({self.base!r} -> {self.judge!r}, relative {self.relative:.3g}, {moved})"

    def _record(self, change: TensorChange) -> dict[str, Any]:
        return asdict(change) | {
            "shape": "x".join(map(str, change.shape)),
            "relative": change.relative,
            "rounding": self.rounding(change),
            "stable_rank": change.stable_rank,
            "gaussian_rank": change.gaussian_rank,
        }

    def _verdict(self) -> str:
        total = len(self.changes)
        if found := self.not_finite:
            return f"Not measured: {len(found)} of {total} tensors hold numbers that aren't finite ({found[0]})."
        if not self.moved:
            return f"Nothing moved: all {total} tensors are the same in both models, bit for bit."
        size = f"relative weight change {self.relative:.3g}, {len(self.moved)} of {total} tensors"
        if not self.beyond_rounding:
            return f"Nothing moved beyond rounding: saving the base as {self.precision} explains every change ({size})."
        half, even = (
            _tensors_for_half([c.change**2 for c in self.changes]),
            _tensors_for_half([float(c.numel) for c in self.changes]),
        )
        where = "concentrated" if half <= CONCENTRATED * even else "spread"
        return (
            f"The change is {where}: half of it (squared) sits in {half} of {total} tensors, where a change of equal "
            f"size in every weight would take {even} ({size})."
        )

    def _place(self) -> str:
        if not self.beyond_rounding or self.not_finite:
            return ""
        said = []
        for group in ("layer", "kind"):
            table = self.by(group).sort_values("share", ascending=False)
            top = table.iloc[0]
            where = f"in {top[group]}" if group == "kind" else f"in layer {top[group]}"
            where = "outside the blocks" if top[group] == -1 else where
            said.append(f"{where} ({top['share']:.0%} against {top['even_share']:.0%} if even)")
        return f"The largest part sits {said[0]}; by kind, {said[1]}."

    def _ranks(self) -> str:
        ranked = [c for c in self.moved if math.isfinite(c.stable_rank) and c.stable_rank]
        if not ranked:
            return ""
        own, random = (
            statistics.median(v) for v in ([c.stable_rank for c in ranked], [c.gaussian_rank for c in ranked])
        )
        return f"Median stable rank {own:.3g}, {random:.3g} for Gaussian changes of the same shapes."

    def _steps(self) -> str:
        if self.base_precision == self.judge_precision or self.precision is None or not self.moved:
            return ""
        within = len(self.moved) - len(self.beyond_rounding)
        return (
            f"Base weights are written in {self.base_precision}, the judge's in {self.judge_precision}: rounding alone "
            f"explains {within} of the {len(self.moved)} tensors that moved."
        )

    def _left_out(self) -> str:
        said = []
        for c in self.changes:
            if c.uncompared_rows:
                said.append(f"{c.uncompared_rows} rows of {c.name} exist on one side only and were not compared.")
        for side, names in (("base", self.only_base), ("judge", self.only_judge)):
            if names:
                said.append(f"Only the {side} has {len(names)} tensors, e.g. {names[0]}.")
        return " ".join(said)


_CAPTION = (
    "Norm of judge minus base over the norm of the base, for every kind of tensor in every layer. Empty: no such "
    "tensor. The size of a change says where the weights moved, not what the judge does with it."
)


def _norm(values: Any) -> float:
    return math.sqrt(math.fsum(value**2 for value in values))


def _relative(changes: Sequence[TensorChange]) -> float:
    base = _norm(c.base_norm for c in changes if math.isfinite(c.base_norm))
    return _norm(c.change for c in changes) / base if base else math.nan


def _totals(changes: Sequence[TensorChange], *, whole: float, weights: int) -> dict[str, Any]:
    moved, numel = _norm(c.change for c in changes), sum(c.numel for c in changes)
    return {
        "tensors": len(changes),
        "moved": sum(c.change > 0 for c in changes),
        "weights": numel,
        "change": moved,
        "base_norm": _norm(c.base_norm for c in changes if math.isfinite(c.base_norm)),
        "relative": _relative(changes),
        "share": moved**2 / whole if whole else 0.0,
        "even_share": numel / weights if weights else math.nan,
    }


def _tensors_for_half(sizes: Sequence[float]) -> int:
    """Return how many of the largest parts make up half of their sum."""
    half, total = sum(sizes) / 2, 0.0
    for count, size in enumerate(sorted(sizes, reverse=True), start=1):
        total += size
        if total >= half:
            return count
    return len(sizes)
