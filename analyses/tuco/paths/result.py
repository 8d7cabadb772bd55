"""PathsResult: how much of the verdict's change each block and token carried, with finding, table and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from analyses.judged import finding_html
from analyses.tuco.naming import with_sample
from analyses.tuco.paths import figures, statements, table
from analyses.tuco.strips import place_of, runs
from analyses.tuco.views import ViewedResult
from workbench import html
from workbench.errors import ParameterError
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_IO = ("item", "order")
_CELLS = (*_IO, "unit", "region")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class PathsResult(ViewedResult):
    """The change of each verdict gap that fine-tuning made, split among writes and tokens along the path from base.

    Verdict gaps are first slot minus second slot as shown. For each prompt ``attribution`` summed over units and
    regions, ``embedding_part`` and ``head_part`` add up to the judge's gap minus the base's, to within
    ``completeness_error``. Arrays are NaN where something was not measured; ``meta.not_measured`` says why.
    """

    readout: str
    """What is read; written as a gap below, whatever it is."""
    units: tuple[str, ...]
    """Label of each write that is scaled along the path, e.g. ``block 3`` or ``attn 3``."""
    unit_layers: tuple[int, ...]
    """Block of each unit."""
    unit_components: tuple[str, ...]
    """``resid_post`` for whole blocks, ``attn_out`` or ``mlp_out`` for sub-layers."""
    granularity: str
    """``block`` or ``sublayer``: what is scaled along the path; attributions depend on it."""
    named_place: tuple[str, str] | None
    """Unit and region named on one half of the items, taken out on the other."""
    other_place: tuple[str, str] | None
    """Unit and region drawn at random for comparison."""
    judge_gap: Float[np.ndarray, "item order"]
    """Judge's verdict logit gap, before any logit cap."""
    base_gap: Float[np.ndarray, "item order"]
    """Base's own gap."""
    embedding_part: Float[np.ndarray, "item order"]
    """Part of the change that the exchange of the token embedding made."""
    head_part: Float[np.ndarray, "item order"]
    """Part that the exchange of final norm and head made."""
    attribution: Float[np.ndarray, "item order unit region"]
    """Part each unit's fine-tuning made at each region's tokens, by every route; 0 where a prompt lacks the region."""
    completeness_error: Float[np.ndarray, "item order"]
    """Sum of the attributions minus V(1) - V(0), over the latter's size or one logit, whichever is larger."""
    nodes: Float[np.ndarray, "item order"]
    """Intervals of the quadrature rule each prompt needed."""
    removed_unit: Float[np.ndarray, "item order unit"]
    """Gap lost when the unit really ran without fine-tuning, everything after it reacting."""
    removed_region: Float[np.ndarray, "item order region"]
    """Gap lost when every block ran without fine-tuning at the region's tokens."""
    confirmed_effect: Float[np.ndarray, "item order"]
    """Gap lost when the unit of ``named_place`` ran without fine-tuning at its region."""
    confirmed_other: Float[np.ndarray, "item order"]
    """The same for ``other_place``."""
    control_attribution: Float[np.ndarray, "draw item order unit region"]
    """Attributions of judges moved as far as the real one in random directions."""
    control_outside: Float[np.ndarray, "draw item order"]
    """Their embedding, norm and head parts."""
    example_items: tuple[str, ...]
    """Items whose tokens are kept one by one."""
    example_tokens: tuple[tuple[tuple[str, ...], ...], ...]
    """Text of each token, by example and order."""
    example_regions: tuple[tuple[tuple[str, ...], ...], ...]
    """Region of each token, by example and order."""
    example_attribution: Float[np.ndarray, "example order unit pos"]
    """Attribution of each unit at each token; rows end in NaN where prompts are shorter."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(
            (
                "judge_gap", "base_gap", "embedding_part", "head_part", "completeness_error", "nodes",
                "confirmed_effect", "confirmed_other",
            ),
            _IO,
        ),
        "attribution": _CELLS,
        "removed_unit": (*_IO, "unit"),
        "removed_region": (*_IO, "region"),
        "control_attribution": ("draw", *_CELLS),
        "control_outside": ("draw", *_IO),
        "example_attribution": ("example", "order", "unit", "pos"),
    }  # fmt: skip

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        own = {"item": len(self.item_ids), "order": len(self.orders), "unit": len(self.units)}
        own |= {"region": len(self.regions), "draw": len(self.control_attribution)}
        return own | {"example": len(self.example_items), "pos": self.example_attribution.shape[-1]}

    @property
    def change(self) -> Float[np.ndarray, "item order"]:
        """Return what fine-tuning changed the gap by: the judge's minus the base's."""
        return self.judge_gap - self.base_gap

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    def strip(self, item: str, order: str = "original", *, unit: str | None = None) -> Markup:
        """Return the tokens of an example as an HTML strip, coloured by attribution.

        Args:
            item: One of :attr:`example_items`.
            order: Answer order.
            unit: One of :attr:`units`; all of them together by default.

        Raises:
            ParameterError: The item isn't kept token by token, or the order or unit doesn't exist.
        """
        index, column = place_of(item, order, items=self.example_items, orders=self.orders)
        if unit is not None and unit not in self.units:
            raise ParameterError("there is no such unit.", argument="unit", got=unit, allowed=self.units)
        tokens = self.example_tokens[index][column]
        values = self.example_attribution[index, column, :, : len(tokens)]
        shown = values.sum(0) if unit is None else values[self.units.index(unit)]
        return html.token_strip(
            tokens,
            shown,
            spans=runs(self.example_regions[index][column]),
            label=f"attribution at each token of {item}, {order} order",
        )

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table: places by view with interval and control, prompts, and examples' tokens."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the attribution of every unit and region in the first view, into ``ax`` or a new one."""
        return figures.place_map(self, view=self.views[0], ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        shown = tuple(Panel(title, caption, partial(draw, self)) for title, caption, draw in figures.panels_of(self))
        return with_sample(self, shown)

    def _repr_html_(self) -> str:
        if not self.example_items:
            return finding_html(self.finding)
        first = self.example_items[0]
        title = f"Attribution at each token, all blocks: {first}"
        return finding_html(self.finding) + html.fragment(html.escape(title), self.strip(first, self.orders[0]))
