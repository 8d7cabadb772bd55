"""PathPatchingResult: the effect of every path followed, with its controls, finding, table and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from analyses.cross_model_patching.advantage import Advantage
from analyses.cross_model_patching.paths import figures, statements, table, views
from analyses.judged import JudgedResult
from workbench.errors import ParameterError
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PROMPT = ("item", "order")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class PathPatchingResult(JudgedResult):
    """What one model's writes do to the other's verdict along single paths at the verdict token.

    Margins are first slot minus second slot as shown, in ``unit``. A path is ``sender -> receiver -> anything``; the
    receiver ``verdict`` is the direct path. Paths along which nothing can flow aren't listed: their effect is 0.
    """

    directions: tuple[str, ...]
    """``judge_to_base`` (the base is given the judge's writes: sufficiency), ``base_to_judge`` (necessity)."""
    frozen: str
    """What is held between sender and receiver: ``attention``, or ``attention+mlp``."""
    choices: tuple[str, ...]
    """Text of the first label of A and of B; empty for a classification head."""
    unit: str
    """``logits``, or ``score`` for a classification head."""
    senders: tuple[str, ...]
    """Heads as ``z.2.h1``, MLPs as ``mlp_out.2``, block by block."""
    n_layers: int
    """Blocks of the models."""
    n_heads: int
    """Heads per block."""
    modes: tuple[str, ...]
    """How rows ran, by direction: ``wavefront``, ``tree`` or ``plain``."""
    edge_directions: tuple[str, ...]
    """Direction of each path."""
    edge_hops: tuple[int, ...]
    """How many receivers before the verdict: 0 is a direct path."""
    edge_receivers: tuple[str, ...]
    """``verdict``, ``q.3.h1``, ``k.3.h0``, ``v.3.h0``, or ``mlp_out.3`` for that MLP's input."""
    edge_senders: tuple[str, ...]
    """Whose write it is."""
    base_margin: Float[np.ndarray, "item order"]
    """The base's own margin."""
    judge_margin: Float[np.ndarray, "item order"]
    """The judge's own margin."""
    effect: Float[np.ndarray, "item order edge"]
    """Change of the margin along a path; exactly 0 where both models write the same bits."""
    mismatched_effect: Float[np.ndarray, "item order edge"]
    """The same with the donor's write on another item; NaN where not measured."""
    total_effect: Float[np.ndarray, "direction item order sender"]
    """Change of the margin when a write is exchanged and everything behind it reacts."""
    random_gap: Float[np.ndarray, "draw item order"]
    """Random judge's margin minus the base's; NaN where not measured."""
    random_effect: Float[np.ndarray, "draw asked edge"]
    """Toward the label with a random judge of equal norm in the judge's place, both orders averaged, of the items of
    :attr:`random_items`; NaN where not measured."""
    random_items: Bool[np.ndarray, " item"]
    """Items random judges were asked on."""
    selected: Float[np.ndarray, " edge"]
    """1 for paths chosen on one half of the items, which go on to the next hop."""
    confirming: Float[np.ndarray, " item"]
    """0 for items paths were chosen on, 1 for those they are tested on."""
    noise: float
    """How far null rows are from the prompts' own margin, at most: what rounding alone does."""
    self_test: float
    """Largest difference of random rows from full forwards with the same writes."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(("base_margin", "judge_margin"), _PROMPT),
        **dict.fromkeys(("effect", "mismatched_effect"), (*_PROMPT, "edge")),
        "total_effect": ("direction", *_PROMPT, "sender"),
        "random_gap": ("draw", *_PROMPT),
        "random_effect": ("draw", "asked", "edge"),
        "random_items": ("item",),
        "selected": ("edge",),
        "confirming": ("item",),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        return {
            "item": len(self.item_ids),
            "order": len(self.orders),
            "direction": len(self.directions),
            "sender": len(self.senders),
            "edge": len(self.edge_senders),
            "draw": len(self.random_gap),
            "asked": int(self.random_items.sum()),
        }

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    @property
    def advantage(self) -> Advantage:
        """Return what there is to follow, and whether it is more than chance."""
        return views.gate(self)

    def edges(self) -> views.Edges:
        """Return effects, shares of the gap, controls and tests of every path."""
        return views.edges(self)

    def at(self, *, sender: str, receiver: str = "verdict", direction: str = "judge_to_base") -> int:
        """Return the index of a path.

        Raises:
            ParameterError: It wasn't followed, or nothing can flow along it.
        """
        named = list(zip(self.edge_directions, self.edge_receivers, self.edge_senders, strict=True))
        if (direction, receiver, sender) not in named:
            raise ParameterError(
                "this path wasn't followed, or nothing can flow along it.",
                argument="sender",
                got=f"{sender} -> {receiver} ({direction})",
                allowed=sorted(set(self.edge_receivers)),
            )
        return named.index((direction, receiver, sender))

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; see the table module."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the paths that were chosen as a graph, for the first direction that has any."""
        return figures.graph(self, direction=figures.shown_direction(self), ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return figures.panels(self)
