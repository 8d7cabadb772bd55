"""Where in a model: a component of a block, its layer, and optionally one head of it."""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import total_ordering

from workbench.errors import UnknownSite


class Component(StrEnum):
    """What is read or written inside a block; the value is the name used in tables and on the command line."""

    RESID_PRE = "resid_pre"
    """Residual stream entering the block."""
    RESID_MID = "resid_mid"
    """Residual stream between attention and MLP; doesn't exist in parallel blocks."""
    RESID_POST = "resid_post"
    """Residual stream leaving the block."""
    ATTN_OUT = "attn_out"
    """What attention adds to the residual stream (after a post-norm, where there is one)."""
    MLP_OUT = "mlp_out"
    """What the MLP adds to the residual stream (after a post-norm, where there is one)."""
    Q = "q"
    """Query projection per head, before rotary embedding and query norm."""
    K = "k"
    """Key projection per key-value head, before rotary embedding and key norm."""
    V = "v"
    """Value projection per key-value head."""
    Z = "z"
    """Attention-weighted values per head, before the output projection."""
    NEURONS = "neurons"
    """Activations of the MLP's hidden layer, before its down projection; a mixture of experts has none of its own."""

    @property
    def per_head(self) -> bool:
        """Whether the component has a head axis."""
        return self in PER_HEAD


PER_HEAD = frozenset({Component.Q, Component.K, Component.V, Component.Z})
"""Components whose activations are [prompt pos head d_head]."""

_RANK = {component: index for index, component in enumerate(Component)}
_TEXT = re.compile(r"(?P<component>[a-z_]+)\.(?P<layer>\d+)(\.h(?P<head>\d+))?")


@total_ordering
@dataclass(frozen=True, slots=True)
class Site:
    """A place in a model, named the same in every architecture."""

    component: Component
    """What is read or written."""
    layer: int
    """Block index, from 0."""
    head: int | None = None
    """Head index, from 0, for q, k, v and z; None is the whole component."""

    def __post_init__(self) -> None:
        """Refuse text in place of a component, negative indices, and heads of components that have none.

        Raises:
            UnknownSite: The three parts don't go together.
        """
        if not isinstance(self.component, Component):
            raise UnknownSite(
                "a component isn't given as text.",
                argument="component",
                got=self.component,
                fix="Write Component.RESID_PRE, or read the text with Site.parse('resid_pre.3').",
            )
        if self.layer < 0 or (self.head is not None and self.head < 0):
            raise UnknownSite("layers and heads are counted from 0.", argument="site", got=(self.layer, self.head))
        if self.head is not None and not self.component.per_head:
            raise UnknownSite(
                f"{self.component} has no heads.",
                argument="head",
                got=self.head,
                allowed=sorted(component.value for component in PER_HEAD),
            )

    def __str__(self) -> str:
        """Return e.g. ``resid_pre.3`` or ``z.2.h5``."""
        return f"{self.component}.{self.layer}" + ("" if self.head is None else f".h{self.head}")

    def __lt__(self, other: object) -> bool:
        """Order by layer, then by component as listed in :class:`Component`, then by head (whole component first)."""
        if not isinstance(other, Site):
            return NotImplemented
        return self._key() < other._key()

    def _key(self) -> tuple[int, int, int]:
        return self.layer, _RANK[self.component], -1 if self.head is None else self.head

    @property
    def whole(self) -> "Site":
        """The same component with all of its heads."""
        return self if self.head is None else Site(self.component, self.layer)

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read what ``str(site)`` wrote.

        Raises:
            UnknownSite: ``text`` isn't of the form ``component.layer`` or ``component.layer.hN``.
        """
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise UnknownSite(
                "this isn't the name of a site.", argument="site", got=text, allowed="e.g. 'resid_pre.3' or 'z.2.h5'"
            )
        head = found["head"]
        return cls(_component(found["component"]), int(found["layer"]), None if head is None else int(head))


def _component(value: str) -> Component:
    try:
        return Component(value)
    except ValueError as err:
        raise UnknownSite(
            "unknown component.", argument="component", got=value, allowed=[component.value for component in Component]
        ) from err
