"""HeadsResult: what fine-tuning's change of each head, source region and neuron pushed the verdict by."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from analyses.metrics import FLOORS, LEVEL
from analyses.tuco.heads import figures, statements, table
from analyses.tuco.naming import with_sample
from analyses.tuco.views import DECIDING, ViewedResult
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_IO, _IOL, _IOLH = ("item", "order"), ("item", "order", "layer"), ("item", "order", "layer", "head")
_CELL = ("view", "layer", "head")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class HeadsResult(ViewedResult):
    """Signed verdict TuCo by layer, head and token region, at sub-layer granularity and the last prompt token.

    A push is a part of the judge's verdict logit gap, first slot minus second slot as shown (or of a score or reward).
    Arrays are NaN where something was not measured; ``meta.not_measured`` says why.
    """

    n_layers: int
    """Number of blocks."""
    n_heads: int
    """Query heads per block."""
    parts: tuple[str, ...]
    """What a head's change is split into: pattern, value, output."""
    named_head: tuple[int, int] | None
    """(layer, head) named on one half of the items and confirmed on the other."""
    other_head: tuple[int, int] | None
    """(layer, head) drawn at random for comparison."""
    judge_gap: Float[np.ndarray, "item order"]
    """Judge's verdict logit gap, before any logit cap."""
    embedding_push: Float[np.ndarray, "item order"]
    """Part the token embedding wrote."""
    bias_push: Float[np.ndarray, "item order"]
    """Part no stream decides: norm offset and head bias."""
    pretrained_push: Float[np.ndarray, "item order layer sublayer"]
    """Part the base's attention and MLP would have written (P)."""
    head_push: Float[np.ndarray, "item order layer head"]
    """Part each head's fine-tuning wrote (F)."""
    pretrained_head_push: Float[np.ndarray, "item order layer head"]
    """What the base's head would have pushed on the same stream."""
    region_push: Float[np.ndarray, "item order layer head region"]
    """F of each head by the region of the tokens it takes from."""
    part_push: Float[np.ndarray, "item order layer head part"]
    """F of each head by what changed, Shapley values."""
    attention_bias_push: Float[np.ndarray, "item order layer"]
    """F of the output projection's bias."""
    mlp_push: Float[np.ndarray, "item order layer"]
    """F of the MLP, its bias included."""
    mlp_bias_push: Float[np.ndarray, "item order layer"]
    """F of the down projection's bias."""
    neuron_ids: Int[np.ndarray, "layer neuron"]
    """Neurons chosen in each layer on the first half of the items."""
    neuron_push: Float[np.ndarray, "item order layer neuron"]
    """F of the chosen neurons on the items they were not chosen on."""
    neuron_control_push: Float[np.ndarray, "item order layer neuron"]
    """F of as many neurons of the layer drawn at random."""
    head_low: Float[np.ndarray, "view layer head"]
    """Lower end of each head's mean push, 95% over clusters."""
    head_high: Float[np.ndarray, "view layer head"]
    """Upper end."""
    head_p: Float[np.ndarray, "view layer head"]
    """Sign-flip p over clusters of items, family-wise over all heads of a view."""
    head_bound: Float[np.ndarray, " view"]
    """What the largest head of one more random change of equal norm stays under, 97.5%; NaN with too few draws."""
    control_head_push: Float[np.ndarray, "draw item order layer head"]
    """F of each head of judges that moved as far as the real one in random directions."""
    control_region_push: Float[np.ndarray, "draw item order region"]
    """Their F by region, all heads together."""
    control_part_push: Float[np.ndarray, "draw item order part"]
    """Their F by what changed, all heads together."""
    control_mlp_push: Float[np.ndarray, "draw item order layer"]
    """F of their MLPs."""
    confirmed_effect: Float[np.ndarray, "item order"]
    """Gap lost when ``named_head`` wrote what the base's head writes, everything after it reacting."""
    confirmed_other: Float[np.ndarray, "item order"]
    """The same for ``other_head``."""
    confirmed_control: Float[np.ndarray, "item order"]
    """The same for a random change as long as the named head's, at its place."""
    closing_error: float
    """Largest distance between what a sub-layer wrote and the sum of its parts, along the verdict."""
    region_error: float
    """Largest distance between a head's push and the sum over regions (or over parts)."""
    identical_push: float
    """Largest push of any head, MLP or neuron of the judge against itself; exactly 0 or the run is refused."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(
            ("judge_gap", "embedding_push", "bias_push", "confirmed_effect", "confirmed_other", "confirmed_control"),
            _IO,
        ),
        "pretrained_push": (*_IOL, "sublayer"),
        **dict.fromkeys(("head_push", "pretrained_head_push"), _IOLH),
        "region_push": (*_IOLH, "region"),
        "part_push": (*_IOLH, "part"),
        **dict.fromkeys(("attention_bias_push", "mlp_push", "mlp_bias_push"), _IOL),
        "neuron_ids": ("layer", "neuron"),
        **dict.fromkeys(("neuron_push", "neuron_control_push"), (*_IOL, "neuron")),
        **dict.fromkeys(("head_low", "head_high", "head_p"), _CELL),
        "head_bound": ("view",),
        "control_head_push": ("draw", *_IOLH),
        "control_region_push": ("draw", *_IO, "region"),
        "control_part_push": ("draw", *_IO, "part"),
        "control_mlp_push": ("draw", *_IOL),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        own = {
            "layer": self.n_layers,
            "head": self.n_heads,
            "sublayer": 2,
            "region": len(self.regions),
            "part": len(self.parts),
            "view": len(self.views),
            "neuron": self.neuron_ids.shape[1],
            "draw": len(self.control_head_push),
        }
        return {"item": len(self.item_ids), "order": len(self.orders), **own}

    @property
    def finetuned_push(self) -> Float[np.ndarray, "item order layer sublayer"]:
        """Return F of attention and MLP; with P, embedding and bias it adds up to the gap."""
        return np.stack([self.head_push.sum(-1) + self.attention_bias_push, self.mlp_push], axis=-1)

    @property
    def gap_error(self) -> float:
        """Return how far embedding, P, F and bias are from the gap at most: what rounding the stream costs."""
        sublayers = (self.pretrained_push + self.finetuned_push).sum((2, 3))
        return float(np.abs(self.embedding_push + self.bias_push + sublayers - self.judge_gap).max())

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    def passing(self, view: str) -> Bool[np.ndarray, "layer head"]:
        """Return which heads pass both tests of a view: over items, and beyond random changes and rounding.

        Args:
            view: A key of ``VIEWS``.
        """
        if view not in DECIDING:
            return np.zeros((self.n_layers, self.n_heads), dtype=bool)
        index = self.views.index(view)
        level = LEVEL / len([name for name in self.views if name in DECIDING])
        unmeasured = np.asarray(np.isnan(self.control_head_push).any((0, 2, 3, 4)))
        same_items = np.where(unmeasured[:, None, None, None], np.nan, self.head_push)
        size: np.ndarray = np.abs(self.cells(same_items, view).value)
        loud = size > FLOORS * (self.meta.noise_floor or 0.0)
        return (self.head_p[index] < level) & (size > self.head_bound[index]) & loud

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table: heads, regions, parts and MLPs by view, heads and sums by item and order."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw what each head's fine-tuning pushed, layer by head, in the first view."""
        return figures.head_map(self, view=self.views[0], ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        shown = tuple(Panel(title, caption, partial(draw, self)) for title, caption, draw in figures.panels_of(self))
        return with_sample(self, shown)
