"""ScreenResult: scores of every part of the prompt, exact effects beside them, with finding, table and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float
from markupsafe import Markup

from analyses.cross_model_patching.screen import figures, statements, table, views
from analyses.cross_model_patching.screen.views import Agreement, Check, ScreenMap
from analyses.judged import JudgedResult, drawn_panels, finding_html
from workbench import html
from workbench.errors import ParameterError
from workbench.hooks import Site
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PROMPT = ("direction", "item", "order")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ScreenResult(JudgedResult):
    """Scores of attribution patching and the exact effects that check them; effects are first slot minus second.

    A *unit* is a component of a block, or a head of it. An effect is the margin with the patch minus that without.
    """

    units: tuple[str, ...]
    """What has a score of its own: ``attn_out.3``, ``z.2.h1``."""
    regions: tuple[str, ...]
    """Parts of the prompt, which don't overlap; ``last token`` is the last of them."""
    directions: tuple[str, ...]
    """``judge_to_base``: the judge's activations go into the base; ``base_to_judge``: the other way."""
    method: str
    """``atp`` or ``ig``."""
    steps: int
    """Nodes of a line; ``ig`` only."""
    unit: str
    """Unit of margins and effects."""
    places: tuple[tuple[tuple[str, str], ...], ...]
    """By direction: (part, unit) of every exact patch in front of the last token; unit ``stream`` is the residual
    stream of every block together."""
    base_margin: Float[np.ndarray, "item order"]
    """Verdict margin of the base."""
    judge_margin: Float[np.ndarray, "item order"]
    """Verdict margin of the judge."""
    screened: Float[np.ndarray, "direction item order region unit"]
    """Scores, added up over the tokens of each part."""
    back: Float[np.ndarray, "direction item order back unit"]
    """Scores of each of the last tokens, the last one first."""
    exact_back: Float[np.ndarray, "direction item order calibrated unit"]
    """Exact effects of the same at the first of them."""
    ranked: Bool[np.ndarray, " item"]
    """Items the re-checked cells were named on."""
    exact: Float[np.ndarray, "direction item order place"]
    """Exact effects of :attr:`places`; NaN on items they were named on, and where a direction has fewer."""
    mismatched: Float[np.ndarray, "direction item order place"]
    """The same with what tells donor from target on another item; NaN where its batch had none."""
    random_gap: Float[np.ndarray, "draw item order"]
    """Margins of random judges minus the base's; NaN where none was measured."""
    random_screened: Float[np.ndarray, "draw direction region unit"]
    """Mean scores of random judges over :attr:`random_items`, toward the label where there is one."""
    random_exact: Float[np.ndarray, "draw direction place"]
    """Mean exact effects of the same places, over those of the same items nothing was named on."""
    random_items: Bool[np.ndarray, " item"]
    """Items random judges were asked on; the real scores and effects are held against them over these."""
    example_items: tuple[str, ...]
    """Items that keep the scores of every token."""
    example_tokens: tuple[tuple[tuple[str, ...], ...], ...]
    """Their tokens, by item and order."""
    example_regions: tuple[tuple[tuple[str, ...], ...], ...]
    """The part each lies in."""
    example_scores: Float[np.ndarray, "example order direction token unit"]
    """Their scores; NaN behind the last token."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "base_margin": ("item", "order"),
        "judge_margin": ("item", "order"),
        "screened": (*_PROMPT, "region", "unit"),
        "back": (*_PROMPT, "back", "unit"),
        "exact_back": (*_PROMPT, "calibrated", "unit"),
        "ranked": ("item",),
        "exact": (*_PROMPT, "place"),
        "mismatched": (*_PROMPT, "place"),
        "random_gap": ("draw", "item", "order"),
        "random_screened": ("drawn", "direction", "region", "unit"),
        "random_exact": ("drawn", "direction", "place"),
        "random_items": ("item",),
        "example_scores": ("example", "order", "direction", "token", "unit"),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        return {
            "item": len(self.item_ids), "order": len(self.orders), "direction": len(self.directions),
            "region": len(self.regions), "unit": len(self.units), "back": self.back.shape[3],
            "calibrated": self.exact_back.shape[3], "place": max(map(len, self.places)),
            "draw": len(self.random_gap), "drawn": len(self.random_screened), "example": len(self.example_items),
            "token": self.example_scores.shape[3],
        }  # fmt: skip

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    @property
    def components(self) -> tuple[str, ...]:
        """Return the components that were screened."""
        return tuple(dict.fromkeys(str(Site.parse(unit).component) for unit in self.units))

    def checks(self) -> tuple[Check, ...]:
        """Return every exact patch in front of the last token, with tests and controls."""
        return views.checks(self)

    def map(self, direction: str) -> ScreenMap:
        """Return mean scores by part and unit with their tests."""
        return views.screen_map(self, direction)

    def agreement(self, direction: str, where: str = "last") -> Agreement:
        """Return how far scores agree with exact effects, at the last tokens or (``"mid"``) at re-checked cells."""
        return views.agreement(self, direction, where)

    def strip(
        self, item: str, order: str = "original", *, direction: str | None = None, component: str | None = None
    ) -> Markup:
        """Return the tokens of an example as an HTML strip, coloured by what patching each would do.

        Args:
            item: One of :attr:`example_items`.
            order: Answer order.
            direction: Whose activations go where; the first that was run by default.
            component: Component whose scores are added up over blocks and heads; what attention and MLPs write, or
                else the first component, by default.

        Raises:
            ParameterError: The prompt, direction or component wasn't kept.
        """
        chosen = self.directions[0] if direction is None else direction
        names = ("attn_out", "mlp_out") if component is None else (component,)
        names = tuple(name for name in names if name in self.components) or (
            self.components[:1] if component is None else ()
        )
        known = item in self.example_items and order in self.orders
        if not known or chosen not in self.directions or not names:
            raise ParameterError(
                "no token scores were kept of this.",
                argument="item",
                got=f"{item}/{order}, {chosen}, {component}",
                allowed=f"items {list(self.example_items)}, orders {list(self.orders)}, directions "
                f"{list(self.directions)}, components {list(self.components)}",
                fix="Raise `examples`, or screen this component.",
            )
        index, column = self.example_items.index(item), self.orders.index(order)
        tokens, parts = self.example_tokens[index][column], self.example_regions[index][column]
        units = [k for k, unit in enumerate(self.units) if str(Site.parse(unit).component) in names]
        scores = self.example_scores[index, column, self.directions.index(chosen), : len(tokens)][:, units].sum(-1)
        label = f"Score of each token ({' + '.join(names)}, {chosen}): {item}, {order} order"
        return html.fragment(html.escape(label), html.token_strip(tokens, scores, spans=_runs(parts), label=label))

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; see the table module."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw what the stream of each part, and each re-checked cell, recovers."""
        return figures.check_bars(self, ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return drawn_panels(self, figures.PANELS)

    def _repr_html_(self) -> str:
        if not self.example_items:
            return finding_html(self.finding)
        return finding_html(self.finding) + self.strip(self.example_items[0], self.orders[0])


def _runs(names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Return the half-open ranges of equal neighbours, by name; a name's later ranges are numbered."""
    starts = [k for k in range(len(names)) if k == 0 or names[k] != names[k - 1]]
    found: dict[str, tuple[int, int]] = {}
    for start, stop in zip(starts, [*starts[1:], len(names)], strict=True):
        count = sum(names[k] == names[start] for k in starts if k <= start)
        found[names[start] if count == 1 else f"{names[start]} ({count})"] = (start, stop)
    return found
