"""BiasSitesResult: which sites carry a bias, with the controls, finding, table and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float

from analyses.cross_model_patching.bias import figures, statements, table, views
from analyses.cross_model_patching.bias.views import Bias, CellMap, Confirmation
from analyses.judged import JudgedResult
from workbench.pairs import Side
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PROMPT = ("item", "order")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class BiasSitesResult(JudgedResult):
    """What patching and ablating sites takes away of a bias.

    Margins are first slot minus second slot as shown, in ``unit``; an effect is the margin with the patch minus the
    margin without. Numbers of the finding point toward the side the bias favours.
    """

    probe: str
    """Name of the probe."""
    title: str
    """What is probed, in words."""
    target: str
    """What a biased judge moves toward: ``answer``, ``first slot`` or ``none``."""
    side: Side
    """Model whose bias is located."""
    conditions: tuple[str, ...]
    """What was asked; the first shows the bias."""
    weights: tuple[float, ...]
    """What each condition's margin counts for in the bias."""
    donor: str
    """Condition that was patched from."""
    reference: str | None
    """Condition the shift is held against; None for position."""
    plain: str
    """Condition judging itself is looked at in."""
    ablation: str
    """How the named set was ablated."""
    said: tuple[str, ...]
    """What has to be known of the perturbation and of how its prompts are aligned."""
    unit: str
    """``logits``, or ``score`` for a classification head."""
    components: tuple[str, ...]
    """Component of each cell."""
    layers: tuple[int, ...]
    """Block of each cell."""
    heads: tuple[int | None, ...]
    """Head of each cell; None is the whole component."""
    positions: tuple[int | None, ...]
    """Token of each cell counted from the end; None for spans."""
    spans: tuple[str | None, ...]
    """Part of the prompt of each cell; None for single positions."""
    sets: tuple[tuple[int, ...], ...]
    """Cells named on one half of the items, the strongest first, then random sets; empty where nothing was named."""
    ran_as: str
    """How patches ran: ``wavefront``, ``tree`` or ``plain``."""
    naming: Float[np.ndarray, " item"]
    """1 for items sites were named on, 0 for those they were confirmed on."""
    sign: Float[np.ndarray, "item order"]
    """+1 where the biased side is the first slot, -1 the second; NaN where the model's own shift decides."""
    judge_margin: Float[np.ndarray, "condition item order"]
    """Verdict margins of the judge."""
    base_margin: Float[np.ndarray, "condition item order"]
    """Verdict margins of the base."""
    plain_mass: Float[np.ndarray, "item order"]
    """Probability the model puts on all labels, nothing perturbed."""
    effect: Float[np.ndarray, "item order cell"]
    """What the donor run's activation does to the margin that shows the bias; NaN where nothing is aligned."""
    other_effect: Float[np.ndarray, "item order cell"]
    """What the other model's activations, in both prompts, do to the shift."""
    set_effect: Float[np.ndarray, "set item order"]
    """Each set patched together; NaN on the naming half."""
    set_induced: Float[np.ndarray, "set item order"]
    """Each set of the donor run given what the run with the bias holds there; NaN for position."""
    set_other_effect: Float[np.ndarray, "set item order"]
    """Each set given the other model's activations."""
    set_shift: Float[np.ndarray, "set item order"]
    """The shift with each set ablated."""
    set_plain: Float[np.ndarray, "set item order"]
    """Margin of the unperturbed prompt with each set ablated."""
    ablated_mass: Float[np.ndarray, "item order"]
    """Probability of all labels on the unperturbed prompt with the named set ablated."""
    random_margin: Float[np.ndarray, "draw condition item order"]
    """Margins of judges moved as far at random; NaN on items they weren't asked."""
    random_effect: Float[np.ndarray, "draw item order cell"]
    """``effect`` in such judges."""
    random_other_effect: Float[np.ndarray, "draw item order cell"]
    """``other_effect`` in such judges."""
    random_set_effect: Float[np.ndarray, "draw named item order"]
    """The named set patched in such judges."""
    random_set_other_effect: Float[np.ndarray, "draw named item order"]
    """The named set given the base's activations in such judges."""
    self_test: float
    """How far random rows were from full forwards with the same patch, logits."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "naming": ("item",),
        **dict.fromkeys(("sign", "plain_mass", "ablated_mass"), _PROMPT),
        **dict.fromkeys(("judge_margin", "base_margin"), ("condition", *_PROMPT)),
        **dict.fromkeys(("effect", "other_effect"), (*_PROMPT, "cell")),
        **dict.fromkeys(("set_effect", "set_induced", "set_other_effect", "set_shift", "set_plain"), ("set", *_PROMPT)),
        "random_margin": ("draw", "condition", *_PROMPT),
        **dict.fromkeys(("random_effect", "random_other_effect"), ("draw", *_PROMPT, "cell")),
        **dict.fromkeys(("random_set_effect", "random_set_other_effect"), ("draw", "named", *_PROMPT)),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        return {
            "item": len(self.item_ids), "order": len(self.orders), "condition": len(self.conditions),
            "cell": len(self.components), "set": len(self.sets), "draw": len(self.random_margin),
            "named": min(1, len(self.sets)),
        }  # fmt: skip

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    @property
    def other_side(self) -> Side:
        """Return the model held against the one whose bias is located."""
        return "base" if self.side == "judge" else "judge"

    @property
    def named(self) -> tuple[int, ...]:
        """Return the cells named on one half of the items, the strongest first."""
        return self.sets[0] if self.sets else ()

    def margins(self, side: Side) -> Float[np.ndarray, "condition item order"]:
        """Return the margins of judge or base."""
        return self.judge_margin if side == "judge" else self.base_margin

    def cell_name(self, index: int) -> str:
        """Return a cell's name: ``z.2.h1 @ -1``."""
        head = "" if self.heads[index] is None else f".h{self.heads[index]}"
        return f"{self.components[index]}.{self.layers[index]}{head} @ {self.place(index)}"

    def place(self, index: int) -> str:
        """Return where in the prompt a cell is: a position from the end, or a span."""
        span = self.spans[index]
        return str(self.positions[index]) if span is None else span

    def bias(self) -> Bias:
        """Return the bias of both models, beside placebo and random judges."""
        return views.bias(self)

    def patched_map(self) -> CellMap:
        """Return what the donor run's activation takes away of the bias in every cell."""
        return views.patched_map(self)

    def given_map(self) -> CellMap:
        """Return what the other model's activations take away of the bias in every cell."""
        return views.given_map(self)

    def naming_map(self) -> CellMap:
        """Return the map that sites were named on: the patch, or for position the other model's activations."""
        return views.naming_map(self)

    def confirmation(self) -> Confirmation | None:
        """Return what the other half of the items says of the named set; None where nothing was named."""
        return views.confirmation(self)

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; see the table module."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw what patching, ablating and random sets take away of the bias."""
        return figures.confirmation_bars(self, ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return figures.panels(self)
