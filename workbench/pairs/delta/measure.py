"""What fine-tuning changed in weight space, measured tensor by tensor and some rows at a time.

Neither model is held: of a checkpoint's files a few rows of one tensor are in memory, and the change of a LoRA
adapter is read off its factors, whose product is never formed.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from workbench.errors import PairMismatch
from workbench.pairs.adapters import Factors, lora_factors
from workbench.pairs.delta.adapter_file import AdapterStore
from workbench.pairs.delta.live import ModuleStore
from workbench.pairs.delta.naming import is_probe_head, kind_of, layer_of, place
from workbench.pairs.delta.precision import Precision
from workbench.pairs.delta.spectrum import (
    GRAM_SIDE,
    STREAMED_GRAM_SIDE,
    factor_rank,
    factor_spectrum,
    matrix_spectral_norm,
    spectral_norm,
)
from workbench.pairs.delta.stores import FileStore, Stored, TensorStore, chunks
from workbench.pairs.delta.table import TensorChange, WeightDelta
from workbench.pairs.loading import hub
from workbench.pairs.loading.checkpoints import adapter_folder
from workbench.pairs.loading.sources import Source

HELD = 1.5
"""A difference is held in float32 when it takes at most this many times the largest tensor as stored."""

_GROWING = ("embedding", "head")
"""Kinds of tensors whose number of rows may differ: the rows both sides have are compared."""


def weight_delta(
    base: nn.Module | str | os.PathLike[str] | Source,
    judge: nn.Module | str | os.PathLike[str] | Source,
    *,
    spectrum: bool = True,
    probe: bool = False,
) -> WeightDelta:
    """Measure how far each tensor moved from base to judge.

    Tensors are read a few rows at a time; beside that at most one difference in float32 is held, and only while it is
    no larger than 1.5 times the largest stored tensor. Norms are accumulated in double precision; the spectral norm of
    LoRA factors and of matrices with a side up to 256 is exact, that of others within 0.05%.

    Args:
        base: Live module, local folder, Hub id or :class:`Source` of the model before fine-tuning.
        judge: The same for the fine-tuned one: a model, or an adapter on ``base`` (as files only plain LoRA).
        spectrum: Whether to measure spectral norms and stable ranks too; norms alone read each tensor once.
        probe: Whether the base's classification head was lent by the judge; it is then left out, as from files.

    Raises:
        CheckpointError: A side can't be read, or is an adapter that only a loaded pair can measure.
        PairMismatch: The two don't share a tensor's shape, or no tensor at all.
    """
    left = open_store(base, argument="base")
    right = open_store(judge, argument="judge", base=left)
    return Comparison(base=left, judge=right, spectrum=spectrum, probe=probe).delta()


def open_store(
    given: nn.Module | str | os.PathLike[str] | Source, *, argument: str, base: TensorStore | None = None
) -> TensorStore:
    """Return the tensors of one side.

    Args:
        given: Live module, folder, Hub id or source.
        argument: Name of the caller's argument, for messages.
        base: The base's tensors, for an adapter to rest on; without them an adapter is refused.

    Raises:
        CheckpointError: It can't be read.
    """
    source = hub.resolved(given if isinstance(given, Source) else Source(given=given, argument=argument))
    if source.live is not None:
        return ModuleStore(source.live, argument=argument)
    folder = None if base is None else adapter_folder(source)
    return FileStore(source) if base is None or folder is None else AdapterStore(source, folder, base=base)


def adapter_norm(layer: BaseTunerLayer) -> float:
    """Return the Frobenius norm of a LoRA layer's weight change without forming the product."""
    return factor_spectrum(lora_factors(layer)).change


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    """One tensor to compare."""

    name: str
    """What it is called in the table."""
    base: str
    """Key under which the base stores it."""
    judge: str | None
    """Key under which the judge stores it; None when the judge's files leave it to the base."""
    adapted: str
    """Key under which an adapter would change it."""
    note: str = ""


@dataclass(kw_only=True, eq=False)
class Comparison:
    """One comparison of two sides under way."""

    base: TensorStore
    """The side before fine-tuning."""
    judge: TensorStore
    """The side after it."""
    spectrum: bool
    """Whether spectral norms are measured too."""
    probe: bool = False
    """Whether the base's classification head was lent by the judge."""
    _seen: tuple[Precision, Precision] = field(default_factory=lambda: (Precision(), Precision()))
    _budget: float = 0.0

    def delta(self, *, only: Callable[[str], bool] = lambda _name: True) -> WeightDelta:
        """Measure every tensor, or those whose name in the base passes ``only``.

        Raises:
            PairMismatch: A shape differs, or there is nothing to compare.
        """
        rows = sorted((row for row in self._rows() if only(row.name)), key=lambda row: place(row.name))
        if not any(layer_of(row.name) is not None for row in rows):
            raise PairMismatch(
                "base and judge have no layer in common.",
                argument="judge",
                got="; ".join(f"{side.label}: {list(side.entries)[:2]}" for side in (self.base, self.judge)),
                fix="Check that both are models of one architecture.",
            )
        self._budget = HELD * max(_bytes(self.base.entries[row.base]) for row in rows)
        changes = tuple(self._measured(row) for row in rows)
        return WeightDelta(
            base=self.base.label,
            judge=self.judge.label,
            changes=changes,
            only_base=tuple(filter(only, self._missing(self.base, self.judge))),
            only_judge=tuple(filter(only, (*self._missing(self.judge, self.base), *self._probe_heads()))),
            base_precision=self._seen[0].name,
            judge_precision=self._seen[1].name,
        )

    def _rows(self) -> Iterator[_Row]:
        base, judge = self.base, self.judge
        for key, entry in base.entries.items():
            if self._is_lent(key):
                continue
            if key in judge.entries:
                yield _Row(name=entry.name, base=key, judge=key, adapted=key)
            elif key in judge.aliases:
                note = "the judge's is tied to its embedding"
                yield _Row(name=entry.name, base=key, judge=judge.aliases[key], adapted=key, note=note)
            elif judge.rests_on is not None and not self._replaced(key):
                yield _Row(name=entry.name, base=key, judge=None, adapted=key)
        for key, entry in judge.entries.items():
            if key in base.aliases:
                note = "the base's is tied to its embedding"
                yield _Row(name=entry.name, base=base.aliases[key], judge=key, adapted=key, note=note)

    def _probe_heads(self) -> Iterator[str]:
        """Yield the tensors of a judge's head that the base was lent: they are no part of what is compared."""
        return (entry.name for key, entry in self.base.entries.items() if self._is_lent(key))

    def _replaced(self, key: str) -> bool:
        """Whether the judge, a classifier, has a head of its own in the place of the one that writes text."""
        own = any(is_probe_head(name) and name not in self.base.entries for name in self.judge.entries)
        return own and kind_of(key) == "head"

    def _is_lent(self, key: str) -> bool:
        return self.probe and is_probe_head(key)

    def _missing(self, side: TensorStore, other: TensorStore) -> tuple[str, ...]:
        """Return the names of tensors one side lacks; an adapter lacks none that it leaves to the base."""
        found = {*other.entries, *other.aliases}
        rests = other.rests_on is not None
        return tuple(
            entry.name for key, entry in side.entries.items() if key not in found and (not rests or self._replaced(key))
        )

    def _measured(self, row: _Row) -> TensorChange:
        entry, note = self.base.entries[row.base], row.note
        shape, beyond = self._shared_shape(row)
        factors = self._added(row.adapted)
        untouched = row.judge is None or _same_tensor(self.base, row.base, self.judge, row.judge)
        rank = None
        if untouched:
            found = _Norms(base=self._base_norm(row.base, entry), change=0.0, spectral=0.0)
            if factors:
                norms = factor_spectrum(factors)
                found = _Norms(base=found.base, change=norms.change, spectral=norms.spectral_norm)
                rank = factor_rank(factors, shape)
        else:
            found = self._subtracted(row, rows=shape[0] if shape else 1)
        if beyond:
            note = "; ".join(filter(None, (note, f"{beyond} rows exist on one side only and are not compared")))
        return TensorChange(
            name=row.name,
            layer=layer_of(row.name),
            kind=kind_of(row.name),
            shape=shape,
            change=found.change,
            base_norm=found.base,
            spectral_norm=found.spectral if len(shape) == 2 and self.spectrum else math.nan,
            rank_bound=rank,
            uncompared_rows=beyond,
            note=note,
        )

    def _added(self, key: str) -> list[Factors]:
        """Return the LoRA products the judge adds to a tensor, less the base's; none when they are the same."""
        own, other = (list(side.factors(key) or ()) for side in (self.judge, self.base))
        if [_place(f) for f in own] == [_place(f) for f in other]:
            return []
        return [*own, *(Factors(f.a, f.b, -f.scale) for f in other)]

    def _shared_shape(self, row: _Row) -> tuple[tuple[int, ...], int]:
        """Return the shape both sides have of a tensor, and how many rows only one of them has."""
        left = self.base.entries[row.base].shape
        right = left if row.judge is None else self.judge.entries[row.judge].shape
        if left == right:
            return left, 0
        if kind_of(row.name) in _GROWING and left and right and left[1:] == right[1:]:
            return (min(left[0], right[0]), *left[1:]), abs(left[0] - right[0])
        raise PairMismatch(
            "base and judge differ in the shape of a tensor.",
            argument="judge",
            got=f"{row.name}: base {left}, judge {right}",
            fix="Compare the judge with the model it was tuned from; which_base(judge, candidates) finds it.",
        )

    def _base_norm(self, key: str, entry: Stored) -> float:
        total = 0.0
        for start, stop in chunks(entry.shape):
            block = self.base.rows(key, start, stop)
            self._seen[0].see(block)
            total += float(torch.linalg.vector_norm(_exact(block))) ** 2
        return math.sqrt(total)

    def _subtracted(self, row: _Row, *, rows: int) -> "_Norms":
        entry = self.base.entries[row.base]
        shape = (rows, *entry.shape[1:]) if entry.shape else ()
        change = base = 0.0
        for left, right in self._blocks(row, shape):
            for seen, block in zip(self._seen, (left, right), strict=True):
                seen.see(block)
            exact = _exact(left)
            base += float(torch.linalg.vector_norm(exact)) ** 2
            change += float(torch.linalg.vector_norm(_exact(right).sub_(exact))) ** 2
        measured = self.spectrum and len(shape) == 2 and change
        spectral = (self._spectral(row, shape) if math.isfinite(change) else math.nan) if measured else 0.0
        return _Norms(base=math.sqrt(base), change=math.sqrt(change), spectral=spectral)

    def _blocks(self, row: _Row, shape: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the same rows of both sides, on the base's device."""
        for start, stop in chunks(shape):
            left = self.base.rows(row.base, start, stop)
            yield left, self.judge.rows(str(row.judge), start, stop).to(left.device)

    def _spectral(self, row: _Row, shape: tuple[int, ...]) -> float:
        if 4 * math.prod(shape) > self._budget:
            return spectral_norm(
                lambda: (_exact(right).sub_(_exact(left)) for left, right in self._blocks(row, shape)),
                columns=shape[1],
                gram=STREAMED_GRAM_SIDE if 16 * shape[1] ** 2 <= self._budget else GRAM_SIDE,
            )
        whole: Tensor | None = None
        start = 0
        for left, right in self._blocks(row, shape):
            if whole is None:
                whole = torch.empty(shape, dtype=_exact(left[:0]).dtype, device=left.device)
            whole[start : start + len(left)] = _exact(right).sub_(_exact(left))
            start += len(left)
        return 0.0 if whole is None else matrix_spectral_norm(whole)


class _Norms(NamedTuple):
    base: float
    change: float
    spectral: float


def _same_tensor(left: TensorStore, one: str, right: TensorStore, other: str) -> bool:
    identity = left.identity(one)
    return identity is not None and identity == right.identity(other)


def _place(factors: Factors) -> tuple[int, int, float]:
    return factors.a.data_ptr(), factors.b.data_ptr(), factors.scale


def _exact(block: Tensor) -> Tensor:
    """Return a copy wide enough to subtract in."""
    return block.to(torch.promote_types(block.dtype, torch.float32), copy=True)


def _bytes(entry: Stored) -> int:
    size = 4 if entry.dtype is None else torch.empty(0, dtype=entry.dtype).element_size()
    return size * math.prod(entry.shape)
