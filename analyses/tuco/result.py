"""TucoResult: every number of one TuCo run, with labels, finding, table and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from analyses.judged import JudgedResult, drawn_panels
from analyses.metrics import FLOORS
from analyses.tuco import figures, shares, statements, table
from analyses.tuco.naming import with_sample
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_ITEM_ORDER = ("item", "order")
_ITEM_ORDER_UNIT = ("item", "order", "unit")
_DRAW_ITEM_ORDER = ("draw", "item", "order")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TucoResult(JudgedResult):
    """Contribution of fine-tuning to each judgement, at the last prompt token.

    Verdict quantities are logit gaps oriented first slot minus second slot of the prompt as shown;
    use :meth:`toward_label` to orient them to the labelled answer. Arrays are NaN where something
    was not measured; ``meta.not_measured`` says why.
    """

    units: tuple[str, ...]
    """Label of each residual write, e.g. ``block 3`` or ``attn 3``."""
    unit_layers: tuple[int, ...]
    """Block (last block) of each unit."""
    unit_components: tuple[str, ...]
    """``resid_post`` for whole blocks, ``attn_out`` or ``mlp_out`` for sub-layers."""
    granularity: str
    """How the network was cut; TuCo depends on it."""
    norm: str
    """Norm of shares and parts: ``l1`` (the paper's), ``l2``, or ``final_norm``."""
    norms: tuple[str, ...]
    """Every kind of norm that was measured."""
    readout: str
    """What is split into signed parts: ``LabelGap``, ``ExpectedScore``, ``ScalarHead``; empty for nothing."""
    unit: str
    """Unit of what is read, e.g. ``logits``."""
    exact: bool
    """Whether the signed parts add up exactly (they do for everything linear in the final stream)."""
    merged: bool
    """Whether the judge is a checkpoint of its own: a merge's rounding, if there was one, is then booked as F."""
    choices: tuple[str, ...]
    """Text of the two verdict labels whose logits make the gap."""
    confirmed_unit: str | None
    """Unit whose fine-tuning was taken out in a real forward; chosen on items it was not tested on."""
    finetuned_norm: Float[np.ndarray, "item order"]
    """|F|: norm of everything fine-tuning wrote."""
    pretrained_norm: Float[np.ndarray, "item order"]
    """|P|: norm of everything the base's weights wrote."""
    finetuned_norms: Float[np.ndarray, "item order kind"]
    """|F| in every kind of norm."""
    pretrained_norms: Float[np.ndarray, "item order kind"]
    """|P| in every kind of norm."""
    embedding_norm: Float[np.ndarray, "item order"]
    """|dE|: norm of the change in the token's own embedding; in neither share."""
    output_change_norm: Float[np.ndarray, "item order"]
    """Norm of judge's minus base's own final stream, two free runs."""
    base_output_norm: Float[np.ndarray, "item order"]
    """Norm of the base's own final stream."""
    alignment: Float[np.ndarray, "item order"]
    """Cosine of P and F: below 0, fine-tuning works against what the base would have written."""
    finetuned_parts: Float[np.ndarray, "item order unit"]
    """Signed parts of |F| by unit; they add up to it."""
    pretrained_parts: Float[np.ndarray, "item order unit"]
    """Signed parts of |P| by unit; they add up to it."""
    profile: Float[np.ndarray, "item order unit"]
    """TuCo of the stream after each unit; the last is TuCo."""
    judge_gap: Float[np.ndarray, "item order"]
    """Judge's verdict logit gap at the last prompt token, before any logit cap."""
    base_gap: Float[np.ndarray, "item order"]
    """Base's own verdict logit gap on the same prompt."""
    embedding_push: Float[np.ndarray, "item order"]
    """Part of the judge's gap due to the base's token embedding."""
    embedding_change_push: Float[np.ndarray, "item order"]
    """Part due to the change of the embedding."""
    bias_push: Float[np.ndarray, "item order"]
    """Part no stream decides: norm offset and head bias."""
    head_change_effect: Float[np.ndarray, "item order"]
    """What the change of final norm and head does by itself: the judge's gap less that of the base's norm and head on
    the judge's final stream. Not one of the parts: those use the judge's norm and head throughout."""
    pretrained_push: Float[np.ndarray, "item order unit"]
    """Part of the gap each unit's P wrote."""
    finetuned_push: Float[np.ndarray, "item order unit"]
    """Part of the gap each unit's F wrote."""
    removal_effect: Float[np.ndarray, "item order unit"]
    """Gap lost when a unit's F is taken out of the final stream and norm and head run again."""
    control_finetuned_norm: Float[np.ndarray, "draw item order"]
    """|F| of a judge moved as far as the real one, tensor by tensor, in random directions."""
    control_pretrained_norm: Float[np.ndarray, "draw item order"]
    """|P| of that judge."""
    control_push: Float[np.ndarray, "draw item order"]
    """Gap its F wrote in all."""
    confirmed_effect: Float[np.ndarray, "item order"]
    """Gap lost when ``confirmed_unit`` ran with the base's write, everything after it reacting."""
    confirmed_control: Float[np.ndarray, "item order"]
    """The same with a random change of equal length at the same place."""
    identical_share: float
    """TuCo of the judge against itself; exactly 0 or the run is refused."""
    shortcut_error: float
    """Largest difference of the last-token shortcut from full forwards, by the largest write; NaN: not used."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(
            (
                "finetuned_norm", "pretrained_norm", "embedding_norm", "output_change_norm", "base_output_norm",
                "alignment", "judge_gap", "base_gap", "embedding_push", "embedding_change_push", "bias_push",
                "head_change_effect", "confirmed_effect", "confirmed_control",
            ),
            _ITEM_ORDER,
        ),
        **dict.fromkeys(
            ("finetuned_parts", "pretrained_parts", "profile", "pretrained_push", "finetuned_push", "removal_effect"),
            _ITEM_ORDER_UNIT,
        ),
        **dict.fromkeys(("finetuned_norms", "pretrained_norms"), (*_ITEM_ORDER, "kind")),
        **dict.fromkeys(("control_finetuned_norm", "control_pretrained_norm", "control_push"), _DRAW_ITEM_ORDER),
    }  # fmt: skip

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        base = {"item": len(self.item_ids), "order": len(self.orders)}
        return base | {"unit": len(self.units), "draw": len(self.control_push), "kind": len(self.norms)}

    @property
    def tuco(self) -> Float[np.ndarray, "item order"]:
        """Return TuCo of each prompt: |F| / (|P| + |F|), between 0 and 1 (Definition 4.3)."""
        return shares.share(self.finetuned_norm, self.pretrained_norm)

    @property
    def tuco_by_norm(self) -> Float[np.ndarray, "item order kind"]:
        """Return TuCo in every kind of norm."""
        return shares.share(self.finetuned_norms, self.pretrained_norms)

    @property
    def under_floor(self) -> Bool[np.ndarray, "item order"]:
        """Return where TuCo is under three noise floors, so that it may be rounding; nowhere when none was measured."""
        floor = self.meta.noise_floor
        return np.zeros(self.tuco.shape, dtype=bool) if floor is None else self.tuco < FLOORS * floor

    @property
    def preco(self) -> Float[np.ndarray, "item order"]:
        """Return PreCo of each prompt: 1 - TuCo; 0 where nothing was written at all."""
        return shares.share(self.pretrained_norm, self.finetuned_norm)

    @property
    def output_share(self) -> Float[np.ndarray, "item order"]:
        """Return OutputCo of each prompt (section 5.5): the share of the judge's own change in the final stream."""
        return np.where(
            np.isnan(self.output_change_norm),
            np.nan,
            shares.share(np.nan_to_num(self.output_change_norm), np.nan_to_num(self.base_output_norm)),
        )

    @property
    def finetuned_shares(self) -> Float[np.ndarray, "item order unit"]:
        """Return each unit's part of TuCo; the parts of a prompt add up to its TuCo."""
        return self._of_whole(self.finetuned_parts)

    @property
    def pretrained_shares(self) -> Float[np.ndarray, "item order unit"]:
        """Return each unit's part of PreCo; the parts of a prompt add up to its PreCo."""
        return self._of_whole(self.pretrained_parts)

    @property
    def control_share(self) -> Float[np.ndarray, "draw item order"]:
        """Return TuCo of the random judges of equal norm."""
        return np.where(
            np.isnan(self.control_finetuned_norm),
            np.nan,
            shares.share(np.nan_to_num(self.control_finetuned_norm), np.nan_to_num(self.control_pretrained_norm)),
        )

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table: one row per item, order, unit and metric."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw each item's TuCo beside its random control, into ``ax`` or a new one."""
        return figures.share_by_item(self, ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return with_sample(self, drawn_panels(self, figures.PANELS))

    def _of_whole(self, parts: np.ndarray) -> np.ndarray:
        whole = (self.finetuned_norm + self.pretrained_norm)[..., None]
        return np.divide(parts, whole, out=np.zeros_like(parts), where=whole > 0)

    def __repr__(self) -> str:
        """Return one line: pair, sizes and the headline."""
        pair = self.meta.pair.get("name")
        return f"TucoResult({pair!r}, {len(self.item_ids)} items, {self.granularity}): {self.finding.headline}"


def empty_arrays(*, n_items: int, n_orders: int, n_units: int) -> dict[str, np.ndarray]:
    """Return the result's arrays filled with NaN (no control draws yet), for a run to fill in."""
    sizes = {"item": n_items, "order": n_orders, "unit": n_units, "draw": 0, "kind": len(shares.NORMS)}
    return {name: np.full(tuple(sizes[axis] for axis in axes), np.nan) for name, axes in TucoResult.AXES.items()}
