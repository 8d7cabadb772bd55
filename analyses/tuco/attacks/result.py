"""AttackResult: every number of one comparison of attacked and clean prompts, with finding, table and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from analyses.judged import JudgedResult, drawn_panels
from analyses.metrics import Interval
from analyses.tuco import shares
from analyses.tuco.attacks import contrasts, figures, statements, table
from analyses.tuco.attacks.contrasts import VARIANTS, Effect, Measure, Variant
from analyses.tuco.attacks.patching import CONTROLS
from analyses.tuco.naming import with_sample
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PROMPT = ("variant", "item", "order")
_UNIT = ("variant", "item", "order", "unit")
_DRAW = ("draw", "variant", "item", "order")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class AttackResult(JudgedResult):
    """What a suffix on one answer does to the judge, and how much of it fine-tuning writes at the verdict.

    Every item stands in four variants: clean, and with one answer (the carrier) followed by the attack, by a plain
    remark, by random tokens, all three as long. Gaps and pushes are first slot minus second slot as shown, logits, at
    the last prompt token; :meth:`toward_carrier` orients them. NaN marks what was not measured.
    """

    units: tuple[str, ...]
    """Label of each residual write, e.g. ``block 3``."""
    unit_layers: tuple[int, ...]
    """Last block of each unit."""
    unit_components: tuple[str, ...]
    """Component of each unit: ``resid_post`` for whole blocks."""
    granularity: str
    """How the network was cut."""
    norm: str
    """``l1``, ``l2`` or ``final_norm``."""
    choices: tuple[str, ...]
    """Text of the two verdict labels whose logits make the gap."""
    carrier: str
    """Rule that named the carrier of each item."""
    suffixes: tuple[tuple[str, ...], ...]
    """Attack, plain remark and random tokens put after the carrier, by item."""
    permutations: int
    """Sign patterns drawn in a test, where there are too many to go through."""
    chosen_unit: str | None
    """Unit whose fine-tuning the attack changed most, named on one half of the items; patched on the other."""
    spans: tuple[str, ...]
    """Spans of the tokens all variants share; the first is everything before the suffix."""
    examples: tuple[str, ...]
    """Items shown token by token: moved most, in the middle, and least by the attack."""
    example_tokens: tuple[tuple[str, ...], ...]
    """Tokens of each example's clean prompt, first order."""
    example_heads: tuple[int, ...]
    """How many of them stand before the suffix."""
    carriers: Int[np.ndarray, " item"]
    """Which answer of the item carries the suffix."""
    added_tokens: Int[np.ndarray, " item"]
    """Tokens the suffix adds to the prompt."""
    finetuned_norm: Float[np.ndarray, "variant item order"]
    """|F|: norm of everything fine-tuning wrote."""
    pretrained_norm: Float[np.ndarray, "variant item order"]
    """|P|: norm of everything the base's weights would have written."""
    finetuned_parts: Float[np.ndarray, "variant item order unit"]
    """Each unit's signed part of |F|; the parts add up to it."""
    judge_gap: Float[np.ndarray, "variant item order"]
    """The judge's verdict gap."""
    base_gap: Float[np.ndarray, "variant item order"]
    """The free-running base's own verdict gap."""
    finetuned_push: Float[np.ndarray, "variant item order unit"]
    """Part of the judge's gap that each unit's F wrote."""
    pretrained_push: Float[np.ndarray, "variant item order unit"]
    """Part of the judge's gap that each unit's P wrote."""
    control_tuco: Float[np.ndarray, "draw variant item order"]
    """TuCo of judges moved as far in random directions; attack and benign only."""
    control_push: Float[np.ndarray, "draw variant item order"]
    """Their F's push on the gap, summed over units."""
    control_gap: Float[np.ndarray, "draw variant item order"]
    """Their verdict gap."""
    patched_gap: Float[np.ndarray, "item order unit"]
    """Gap of the attacked run in which this unit writes the clean run's F."""
    rebuilt_gap: Float[np.ndarray, "item order unit"]
    """The same for this unit and all before it."""
    patched_control: Float[np.ndarray, "control item order"]
    """Gap of the attacked run in which the chosen unit's F is another one: see ``CONTROLS``."""
    rebuilt_control: Float[np.ndarray, "control item order"]
    """The same for all units at once."""
    token_share: Float[np.ndarray, "variant item order span"]
    """TuCo at the shared tokens, mean over the tokens of a span."""
    token_unit_share: Float[np.ndarray, "variant item order span unit"]
    """Share of F in each unit's own write there."""
    example_share: Float[np.ndarray, "variant example token"]
    """TuCo at each shared token of the examples; NaN where a token isn't shared or the prompt has ended."""
    example_unit_share: Float[np.ndarray, "variant example token unit"]
    """Share of F in each unit's own write there."""
    patch_null: float
    """Largest move of a verdict when a run gets its own F back, logits; 0 but for rounding."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(("finetuned_norm", "pretrained_norm", "judge_gap", "base_gap"), _PROMPT),
        **dict.fromkeys(("finetuned_parts", "finetuned_push", "pretrained_push"), _UNIT),
        **dict.fromkeys(("control_tuco", "control_push", "control_gap"), _DRAW),
        **dict.fromkeys(("patched_gap", "rebuilt_gap"), ("item", "order", "unit")),
        **dict.fromkeys(("patched_control", "rebuilt_control"), ("control", "item", "order")),
        "token_share": (*_PROMPT, "span"),
        "token_unit_share": (*_PROMPT, "span", "unit"),
        "example_share": ("variant", "example", "token"),
        "example_unit_share": ("variant", "example", "token", "unit"),
        "carriers": ("item",),
        "added_tokens": ("item",),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        return {
            "item": len(self.item_ids),
            "order": len(self.orders),
            "variant": len(VARIANTS),
            "unit": len(self.units),
            "draw": len(self.control_push),
            "control": len(CONTROLS),
            "span": len(self.spans),
            "example": len(self.examples),
            "token": max(map(len, self.example_tokens), default=0),
        }

    @property
    def tuco(self) -> Float[np.ndarray, "variant item order"]:
        """Return TuCo of every prompt."""
        return shares.share(self.finetuned_norm, self.pretrained_norm)

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    def toward_carrier(self, gap: Float[np.ndarray, "*lead item order"]) -> Float[np.ndarray, "*lead item order"]:
        """Orient a slot-oriented gap to the answer that carries the suffix.

        Args:
            gap: Any array of this result whose last axes are item and order.
        """
        slots = np.array([1.0 if order == "original" else -1.0 for order in self.orders])
        return gap * (1.0 - 2.0 * self.carriers)[:, None] * slots[None, :]

    def gaps(self, side: Literal["judge", "base"]) -> Float[np.ndarray, "variant item order"]:
        """Return the verdict gaps of judge or base, slots as shown."""
        return self.judge_gap if side == "judge" else self.base_gap

    def measure(self, name: Measure) -> Float[np.ndarray, "variant item order"]:
        """Return a tested measure of every prompt: ``tuco``, or ``verdict_push`` or ``verdict_gap`` to the carrier."""
        if name == "tuco":
            return self.tuco
        return self.toward_carrier(self.finetuned_push.sum(-1) if name == "verdict_push" else self.judge_gap)

    def control_measure(self, name: Measure) -> Float[np.ndarray, "draw variant item order"]:
        """Return the same of the random judges."""
        if name == "tuco":
            return self.control_tuco
        return self.toward_carrier(self.control_push if name == "verdict_push" else self.control_gap)

    def effects(self, *, attack: Variant = "attack", against: Variant = "benign") -> tuple[Effect, ...]:
        """Return what one variant does beyond another on TuCo, push and gap; tests are adjusted over the three."""
        return contrasts.effects(self, attack=attack, against=against)

    def unit_effects(
        self,
        *,
        part: Literal["finetuned", "pretrained"] = "finetuned",
        attack: Variant = "attack",
        against: Variant = "benign",
    ) -> tuple[Effect, ...]:
        """Return what one variant does beyond another on each unit's push; tests are adjusted over units."""
        return contrasts.unit_effects(self, part=part, attack=attack, against=against)

    def span_effects(self, *, attack: Variant = "attack", against: Variant = "benign") -> tuple[Effect, ...]:
        """Return what one variant does beyond another on TuCo at the shared tokens after the suffix, span by span."""
        return contrasts.span_effects(self, attack=attack, against=against)

    def area(self, measure: Measure, *, attack: Variant = "attack", against: Variant = "benign") -> Interval:
        """Return the area under the ROC curve of telling two variants' prompts apart by one measure."""
        return contrasts.area(self, measure, attack=attack, against=against)

    def taken_back(self, *, unit: str | None = None) -> Interval:
        """Return how much of the attack's shift of the gap goes when clean F is put back.

        Args:
            unit: One unit; all units at once when None.
        """
        gap = self.rebuilt_gap[..., -1] if unit is None else self.patched_gap[..., self.units.index(unit)]
        return contrasts.taken_back(self, gap)

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; ``direction`` names the variant, or the difference of two: see the table module."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw every item's verdict gap toward its carrier, by variant."""
        return figures.gap_by_variant(self, ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures that have data here."""
        return with_sample(self, drawn_panels(self, figures.PANELS))
