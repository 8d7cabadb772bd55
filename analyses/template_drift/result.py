"""TemplateDriftResult: verdict margins of both models under three templates, with finding, table and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float

from analyses.judged import JudgedResult, drawn_panels
from analyses.template_drift import contrasts, figures, statements, table
from analyses.template_drift.contrasts import TEMPLATES, Effect, Side, Template
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PROMPT = ("template", "item", "order")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TemplateDriftResult(JudgedResult):
    """What base and judge answer under the judge's template, another one, and the judge's with one line break more.

    Margins are first slot minus second slot as shown, nats. The first axis is :data:`TEMPLATES`.
    """

    against: str
    """What the other template is: ``the base's template`` or ``the caller's template``."""
    excerpt: tuple[str, ...]
    """First lines that differ: ``-`` the other template, ``+`` the judge's."""
    choices: tuple[str, ...]
    """Text of the first label of A and of B."""
    permutations: int
    """Sign patterns drawn in a test, where there are too many to go through."""
    judge_margin: Float[np.ndarray, "template item order"]
    """Verdict margin of the judge: log-probability of A's labels minus B's."""
    base_margin: Float[np.ndarray, "template item order"]
    """Verdict margin of the base."""
    judge_mass: Float[np.ndarray, "template item order"]
    """Probability the judge puts on all labels together."""
    base_mass: Float[np.ndarray, "template item order"]
    """Probability the base puts on them."""
    random_margin: Float[np.ndarray, "draw template item order"]
    """Verdict margin of judges moved as far in random directions; NaN where none was measured."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(("judge_margin", "base_margin", "judge_mass", "base_mass"), _PROMPT),
        "random_margin": ("draw", *_PROMPT),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        return {"item": len(self.item_ids), "order": len(self.orders), "template": len(TEMPLATES)} | {
            "draw": len(self.random_margin)
        }

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    def margins(self, side: Side) -> Float[np.ndarray, "template item order"]:
        """Return the margins of judge or base."""
        return self.judge_margin if side == "judge" else self.base_margin

    def drift(self, against: Template = "base") -> Float[np.ndarray, "item order"]:
        """Return (judge - base) under the judge's template minus under another, nats, slots as shown.

        Args:
            against: ``"base"``, or ``"white space"`` for the control.
        """
        return contrasts.drift(self, against)

    def effects(self) -> tuple[Effect, ...]:
        """Return the drift in every direction that can be told here, Holm-adjusted over them."""
        return contrasts.effects(self)

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; ``direction`` names the template, or the difference: see the table module."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the mean margin of both models under every template."""
        return figures.margins_by_template(self, ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return drawn_panels(self, figures.PANELS)
