"""The largest singular value of a weight change, exactly where that is cheap and by Lanczos steps where it isn't."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from workbench.pairs.adapters import Factors

GRAM_SIDE = 256
"""Matrices with a side up to this are solved exactly from their Gram matrix."""

STREAMED_GRAM_SIDE = 4096
"""Matrices too large to hold form a Gram matrix up to this many columns: reading them again would take longer."""

TOLERANCE = 1e-3
"""Relative residual of the squared norm at which Lanczos steps stop; the norm itself is within half of it."""

Blocks = Callable[[], Iterable[Float[Tensor, "row column"]]]
"""Yields a matrix anew each time, in blocks of rows from top to bottom, float32 or float64."""


class Spectrum(NamedTuple):
    """Norms of one weight change."""

    change: float
    """Frobenius norm."""
    spectral_norm: float
    """Largest singular value."""


def spectral_norm(blocks: Blocks, *, columns: int, gram: int = GRAM_SIDE) -> float:
    """Return the largest singular value of a matrix that is read in blocks of rows.

    Up to ``gram`` columns the matrix is read once, for its Gram matrix; beyond, once per Lanczos step: forty times.
    Up to :data:`GRAM_SIDE` columns the value is exact. Otherwise its relative error is about half of :data:`TOLERANCE`
    at most and on the small side, as a Lanczos estimate approaches the largest value from below.

    Args:
        blocks: The matrix.
        columns: Its number of columns.
        gram: Columns up to which a Gram matrix is formed; worth more where reading is what takes time.
    """
    if columns > gram:
        return _largest(_Gram(blocks, columns), columns)
    total = torch.zeros(columns, columns, dtype=torch.float64)
    for block in blocks():
        wide = block.double() if columns <= GRAM_SIDE else block
        total += (wide.T @ wide).cpu()
    if columns > GRAM_SIDE:
        return _largest(total.numpy(), columns)
    return math.sqrt(max(float(torch.linalg.eigvalsh(total)[-1]), 0.0))


def matrix_spectral_norm(matrix: Float[Tensor, "row column"]) -> float:
    """Return the largest singular value of a matrix in memory; the shorter side is worked on."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return spectral_norm(lambda: (tall,), columns=tall.shape[1])


def factor_spectrum(factors: Sequence[Factors]) -> Spectrum:
    """Return the norms of ``sum of scale * b @ a`` from the factors alone, exactly; NaN where a factor isn't finite.

    With ``b = Q R`` and ``a^T = P S`` the product has the singular values of the small ``R S^T``.
    """
    left = torch.cat([f.scale * f.b.detach().double() for f in factors], dim=1)
    right = torch.cat([f.a.detach().double() for f in factors], dim=0)
    if not (left.isfinite().all() and right.isfinite().all()):
        return Spectrum(change=math.nan, spectral_norm=math.nan)
    values = torch.linalg.svdvals(torch.linalg.qr(left).R @ torch.linalg.qr(right.T).R.T)
    return Spectrum(change=float(torch.linalg.vector_norm(values)), spectral_norm=float(values.max()))


def factor_rank(factors: Sequence[Factors], shape: Sequence[int]) -> int:
    """Return the rank that a sum of products can't exceed, in a matrix of this shape."""
    return min(sum(f.a.shape[0] for f in factors), *shape)


def gaussian_rank(shape: Sequence[int]) -> float:
    """Return the stable rank of a large Gaussian matrix of this shape: what a change without structure has."""
    rows, columns = shape
    return rows * columns / (math.sqrt(rows) + math.sqrt(columns)) ** 2


def _largest(gram: Any, columns: int) -> float:
    """Return the root of the largest eigenvalue of a Gram matrix, from a start that is always the same."""
    start = np.random.default_rng(0).standard_normal(columns)
    precise: Any = TOLERANCE  # scipy's stub reads an integer off the default
    largest = eigsh(gram, k=1, which="LA", v0=start, tol=precise, return_eigenvectors=False)
    return math.sqrt(max(float(largest[0]), 0.0))


class _Gram(LinearOperator):
    """``D^T D`` of a matrix D that is read in blocks of rows, once per product."""

    def __init__(self, blocks: Blocks, columns: int) -> None:
        super().__init__(np.dtype(np.float64), (columns, columns))
        self._blocks = blocks

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        total = np.zeros(x.size)
        for block in self._blocks():
            vector = torch.from_numpy(x.reshape(-1)).to(block.device, block.dtype)
            total += (block.T @ (block @ vector)).double().cpu().numpy()
        return total
