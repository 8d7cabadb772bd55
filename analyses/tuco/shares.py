"""TuCo's arithmetic on contributions already measured; numpy only, no model.

``P`` and ``F`` are what pretraining and fine-tuning write to the residual stream of one prompt,
unit by unit (Nuti et al. 2025, Proposition D.3). Everything here works on any leading axes.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

Norm = Literal["l1", "l2", "final_norm"]
"""Of a write: L1 as in Definition 4.3, L2, or L2 after the final norm's centring and gain, which is what logits see."""

NORMS: tuple[Norm, ...] = ("l1", "l2", "final_norm")


def vector_norm(x: Float[np.ndarray, "*lead d"], *, norm: Norm) -> Float[np.ndarray, "*lead"]:
    """Return the norm of the last axis; vectors for ``final_norm`` come with centring and gain applied."""
    return np.asarray(np.abs(x).sum(-1) if norm == "l1" else np.sqrt(np.square(x).sum(-1)))


def share(part: Float[np.ndarray, "*lead"], rest: Float[np.ndarray, "*lead"]) -> Float[np.ndarray, "*lead"]:
    """Return ``part / (part + rest)``, and 0 where both are 0 (Definition 4.3; TuCo with part = |F|, rest = |P|)."""
    whole = np.asarray(part + rest, dtype=float)
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def depth_profile(
    pretrained: Float[np.ndarray, "*lead unit d"], finetuned: Float[np.ndarray, "*lead unit d"], *, norm: Norm
) -> Float[np.ndarray, "*lead unit"]:
    """Return ``beta_l = |Fbar_l| / (|Pbar_l| + |Fbar_l|)`` after each unit (Proposition 4.2, at one token).

    The last entry is TuCo.
    """
    return share(vector_norm(finetuned.cumsum(-2), norm=norm), vector_norm(pretrained.cumsum(-2), norm=norm))


def additive_parts(writes: Float[np.ndarray, "*lead unit d"], *, norm: Norm) -> Float[np.ndarray, "*lead unit"]:
    """Split the norm of the summed writes among the units that wrote them.

    With ``I`` the sum, unit ``l`` gets ``<W_l, sign(I)>`` (L1) or ``<W_l, I> / |I|`` (the others). Parts are
    signed, since a unit may undo what others wrote, and add up to ``|I|`` exactly.
    """
    total = writes.sum(-2)
    if norm == "l1":
        direction = np.sign(total)
    else:
        size = vector_norm(total, norm="l2")[..., None]
        direction = np.divide(total, size, out=np.zeros_like(total), where=size > 0)
    return np.einsum("...ud,...d->...u", writes, direction)


def cosine(a: Float[np.ndarray, "*lead d"], b: Float[np.ndarray, "*lead d"]) -> Float[np.ndarray, "*lead"]:
    """Return the cosine of two vectors; NaN where one of them is zero."""
    sizes = vector_norm(a, norm="l2") * vector_norm(b, norm="l2")
    return np.divide((a * b).sum(-1), sizes, out=np.full(np.shape(sizes), np.nan), where=np.asarray(sizes > 0))
