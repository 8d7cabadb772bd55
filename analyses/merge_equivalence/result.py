"""MergeEquivalenceResult: a judge and its merged form, prompt by prompt, with finding, table and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from analyses.judged import JudgedResult, drawn_panels
from analyses.merge_equivalence import figures, statements, table
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PROMPT = ("form", "item", "order")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class MergeEquivalenceResult(JudgedResult):
    """What merging an adapter changes. Margins are first slot minus second slot as shown, nats.

    The first axis is ``forms``; each form is held against its own reference, see
    :data:`analyses.merge_equivalence.FORMS`.
    """

    forms: tuple[str, ...]
    """What was held against the judge as it is."""
    kind: str
    """Kind of adapter, as peft calls it, in lower case."""
    dtype: str
    """Data type of the pair, in which the first form was merged."""
    n_layers: int
    """Number of blocks."""
    tolerance: float
    """Largest change of a margin, nats, that counts as the same judge."""
    choices: tuple[str, ...]
    """Text of the first label of A and of B."""
    reference_margin: Float[np.ndarray, "form item order"]
    """Verdict margin of the unmerged judge in the same precision."""
    margin: Float[np.ndarray, "form item order"]
    """Verdict margin of the form."""
    reference_mass: Float[np.ndarray, "form item order"]
    """Probability the unmerged judge puts on all labels together."""
    mass: Float[np.ndarray, "form item order"]
    """Probability the form puts on them."""
    logit_difference: Float[np.ndarray, "form item order"]
    """Largest difference of any logit at the last token."""
    divergence: Float[np.ndarray, "form item order"]
    """Kullback-Leibler divergence of the form's next token from the reference's, nats."""
    stream_drift: Float[np.ndarray, "form item order layer"]
    """Distance of the stream after every block from the reference's, as a share of its norm, at the last token."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(
            ("reference_margin", "margin", "reference_mass", "mass", "logit_difference", "divergence"), _PROMPT
        ),
        "stream_drift": (*_PROMPT, "layer"),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        base = {"item": len(self.item_ids), "order": len(self.orders)}
        return base | {"form": len(self.forms), "layer": self.n_layers}

    @property
    def change(self) -> Float[np.ndarray, "form item order"]:
        """Return how far each margin moved, nats."""
        return self.margin - self.reference_margin

    @property
    def flips(self) -> Bool[np.ndarray, "form item order"]:
        """Return where the verdict is another one."""
        return np.sign(self.margin) != np.sign(self.reference_margin)

    @property
    def equivalent(self) -> Bool[np.ndarray, " form"]:
        """Return whether a form is the same judge here: no verdict flips, no margin moves by more than tolerance."""
        moved = np.abs(self.change).max((1, 2), initial=0.0)
        return (moved <= self.tolerance) & ~self.flips.any((1, 2))

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; ``model`` names the form."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the margin of every prompt, merged against unmerged."""
        return figures.margins(self, ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return drawn_panels(self, figures.PANELS)
