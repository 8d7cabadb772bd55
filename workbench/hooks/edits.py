"""What is done to an activation: frozen descriptions that know their content, not how they are executed.

An edit names a site, optionally the token columns it touches, and what happens there. Its
``fingerprint`` hashes the *content* of every tensor in it: two patches with different donors never
share one, so an edited run can't be taken for another or for the unedited one.
"""

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import EditError
from workbench.hooks.sites import Site

_ORTHONORMAL_TOLERANCE = 1e-3
_nonces = itertools.count()


class Edit(ABC):
    """Base of all edits; subclasses are frozen dataclasses with ``site`` and ``positions``."""

    __slots__ = ()
    site: Site
    positions: Int[Tensor, "prompt k"] | None

    @property
    def per_position(self) -> bool:
        """Whether the edit speaks of particular prompt tokens; while generating it then acts on the prompt only."""
        return self.positions is not None

    @abstractmethod
    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse content that doesn't fit activations of ``shape``: [prompt pos *feature], k for pos with positions.

        Raises:
            EditError: A tensor of the edit has another shape.
        """

    @abstractmethod
    def transform(self, target: Float[Tensor, "prompt pos *feature"]) -> Float[Tensor, "prompt pos *feature"]:
        """Return what ``target`` becomes, in its dtype and on its device; ``target`` itself stays as it is."""

    @abstractmethod
    def content(self) -> tuple[object, ...]:
        """Return everything besides site and positions that makes this edit what it is."""

    def fingerprint(self) -> str:
        """Return a hex digest over kind, site, positions and the content of every tensor."""
        digest = hashlib.sha256()
        for part in (type(self).__name__, str(self.site), self.positions, *self.content()):
            _feed(digest, part)
        return digest.hexdigest()


def _feed(digest: "hashlib._Hash", part: object) -> None:
    # Lengths and types go in as well: otherwise ("ab", "c") and ("a", "bc") would collide.
    if isinstance(part, Tensor):
        raw = part.detach().cpu().contiguous()
        data = raw.reshape(-1).view(torch.uint8).numpy().tobytes()
        head = f"tensor {raw.dtype} {tuple(raw.shape)} {len(data)}:"
    else:
        data = repr(part).encode()
        head = f"{type(part).__name__} {len(data)}:"
    digest.update(head.encode())
    digest.update(data)


@dataclass(frozen=True, slots=True, eq=False)
class Patch(Edit):
    """Replace the activation by given values."""

    site: Site
    """Where."""
    values: Float[Tensor, "prompt pos *feature"]
    """What stands there afterwards: [prompt pos d], k for pos with positions; [.. head d_head] for whole q, k, v, z."""
    positions: Int[Tensor, "prompt k"] | None = None
    """Columns of the padded batch; None is all."""

    @property
    def per_position(self) -> bool:
        """Always: the values belong to the prompt's tokens."""
        return True

    def check(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Edit.check`."""
        _same_shape("values", self.values, shape)

    def transform(self, target: Tensor) -> Tensor:
        """See :meth:`Edit.transform`."""
        return self.values.to(target)

    def content(self) -> tuple[object, ...]:
        """See :meth:`Edit.content`."""
        return (self.values,)


@dataclass(frozen=True, slots=True, eq=False)
class Ablate(Edit):
    """Replace the activation by zero, or by a constant such as a mean."""

    site: Site
    """Where."""
    positions: Int[Tensor, "prompt k"] | None = None
    """Columns of the padded batch; None is all."""
    value: Float[Tensor, "*feature"] | None = None
    """Constant put there: one feature vector, one per prompt, or a full block; None is zero."""

    def check(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Edit.check`."""
        if self.value is not None:
            _spread(self.value, shape, name="value")

    def transform(self, target: Tensor) -> Tensor:
        """See :meth:`Edit.transform`."""
        if self.value is None:
            return torch.zeros_like(target)
        return _spread(self.value, tuple(target.shape), name="value").to(target).expand_as(target)

    def content(self) -> tuple[object, ...]:
        """See :meth:`Edit.content`."""
        return (self.value,)


@dataclass(frozen=True, slots=True, eq=False)
class Scale(Edit):
    """Multiply the activation by a factor."""

    site: Site
    """Where."""
    factor: float
    """0 silences, 1 changes nothing (and is refused when run)."""
    positions: Int[Tensor, "prompt k"] | None = None
    """Columns of the padded batch; None is all."""

    def check(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Edit.check`; a factor fits every shape."""

    def transform(self, target: Tensor) -> Tensor:
        """See :meth:`Edit.transform`."""
        return target * self.factor

    def content(self) -> tuple[object, ...]:
        """See :meth:`Edit.content`."""
        return (self.factor,)


@dataclass(frozen=True, slots=True, eq=False)
class Steer(Edit):
    """Add ``strength * vector`` to the activation."""

    site: Site
    """Where."""
    vector: Float[Tensor, "*feature"]
    """Direction: one feature vector, one per prompt, or a full block."""
    strength: float = 1.0
    """Multiple of the vector that is added."""
    positions: Int[Tensor, "prompt k"] | None = None
    """Columns of the padded batch; None is all."""

    def check(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Edit.check`."""
        _spread(self.vector, shape, name="vector")

    def transform(self, target: Tensor) -> Tensor:
        """See :meth:`Edit.transform`."""
        return target + (self.strength * _spread(self.vector, tuple(target.shape), name="vector")).to(target)

    def content(self) -> tuple[object, ...]:
        """See :meth:`Edit.content`."""
        return self.vector, self.strength


@dataclass(frozen=True, slots=True, eq=False)
class Subspace(Edit):
    """Inside the span of an orthonormal basis take the given values, outside keep what is there."""

    site: Site
    """Where."""
    basis: Float[Tensor, "k_basis d"]
    """Orthonormal rows spanning the subspace."""
    values: Float[Tensor, "prompt pos *feature"]
    """Donor activations, shaped as for :class:`Patch`; only their component inside the span is used."""
    positions: Int[Tensor, "prompt k"] | None = None
    """Columns of the padded batch; None is all."""

    def __post_init__(self) -> None:
        """Check the basis.

        Raises:
            EditError: The rows aren't orthonormal.
        """
        rows = self.basis.detach().double()
        if rows.ndim != 2 or not torch.allclose(
            rows @ rows.mT, torch.eye(len(rows)).to(rows), atol=_ORTHONORMAL_TOLERANCE
        ):
            raise EditError(
                "the rows of the basis must be orthonormal.",
                argument="basis",
                got=f"shape {tuple(self.basis.shape)}",
                fix="Orthonormalise it first, e.g. torch.linalg.qr(basis.T).Q.T.",
            )

    @property
    def per_position(self) -> bool:
        """Always: the values belong to the prompt's tokens."""
        return True

    def check(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Edit.check`."""
        _same_shape("values", self.values, shape)
        if self.basis.shape[-1] != shape[-1]:
            raise EditError(
                "the basis lives in another space.",
                argument="basis",
                got=tuple(self.basis.shape),
                allowed=f"[k, {shape[-1]}]",
            )

    def transform(self, target: Tensor) -> Tensor:
        """See :meth:`Edit.transform`."""
        basis = self.basis.to(device=target.device, dtype=torch.promote_types(target.dtype, torch.float32))
        # Differences in low precision would lose the very component that is swapped.
        gap = self.values.to(basis) - target.to(basis)
        return (target.to(basis) + gap @ basis.mT @ basis).to(target)

    def content(self) -> tuple[object, ...]:
        """See :meth:`Edit.content`."""
        return self.basis, self.values


@dataclass(frozen=True, slots=True, eq=False)
class Custom(Edit):
    """Apply any function; for tests, gradients and experiments no other edit describes.

    A function's content can't be hashed, so every instance has a fingerprint of its own that holds
    within the process only.
    """

    site: Site
    """Where."""
    fn: Callable[[Tensor], Tensor]
    """Maps the selected activation to its replacement of the same shape; must not write in place."""
    label: str
    """What to call it in provenance."""
    positions: Int[Tensor, "prompt k"] | None = None
    """Columns of the padded batch; None is all."""
    nonce: int = field(default_factory=lambda: next(_nonces), init=False)
    """Keeps two functions with one label apart."""

    def check(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Edit.check`; the shape is checked when the function has run."""

    def transform(self, target: Tensor) -> Tensor:
        """See :meth:`Edit.transform`.

        Raises:
            EditError: The function returned another shape.
        """
        new = self.fn(target)
        _same_shape("fn", new, tuple(target.shape))
        return new.to(target)

    def content(self) -> tuple[object, ...]:
        """See :meth:`Edit.content`."""
        return self.label, self.nonce


def _same_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise EditError(
            "this tensor doesn't fit the site.",
            argument=name,
            got=f"shape {tuple(tensor.shape)}",
            allowed=f"shape {shape}",
        )


def _spread(tensor: Tensor, shape: tuple[int, ...], *, name: str) -> Tensor:
    feature = shape[2:]
    if tuple(tensor.shape) == feature or tuple(tensor.shape) == shape:
        return tensor
    if tuple(tensor.shape) == (shape[0], *feature):
        return tensor.unsqueeze(1)
    raise EditError(
        "this tensor doesn't fit the site.",
        argument=name,
        got=f"shape {tuple(tensor.shape)}",
        allowed=f"shape {feature}, {(shape[0], *feature)} or {shape}",
    )
