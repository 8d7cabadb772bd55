"""TokenMapResult: TuCo by region, unit and token, through the completion, with finding, table and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from analyses.judged import JudgedResult, drawn_panels, finding_html
from analyses.tuco.naming import with_sample
from analyses.tuco.strips import place_of, runs
from analyses.tuco.tokens import figures, statements, table
from analyses.tuco.tokens.averages import measured_share
from analyses.tuco.tokens.completions import COMPLETION, PROMPT_END, UNREAD, VERDICT
from workbench import html
from workbench.results import Finding, Panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_REGION = ("item", "order", "region")
_REGION_UNIT = (*_REGION, "unit")
_TOKEN = ("example", "order", "pos")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TokenMapResult(JudgedResult):
    """Contribution of fine-tuning at every token; norms of a region are means over its tokens.

    Shares are ratios of those means. Arrays are NaN where a prompt has no such region or something
    was not measured; ``meta.not_measured`` says why.
    """

    regions: tuple[str, ...]
    """Innermost spans, and on their own: ``start`` (first token of the row), ``stem`` (of the verdict), ``prompt_end``
    (last prompt token before a completion), ``completion``, ``verdict`` (last token before the label)."""
    units: tuple[str, ...]
    """Label of each residual write, e.g. ``block 3`` or ``attn 3``."""
    unit_layers: tuple[int, ...]
    """Block (last block) of each unit."""
    unit_components: tuple[str, ...]
    """``resid_post`` for whole blocks, ``attn_out`` or ``mlp_out`` for sub-layers."""
    granularity: str
    """How the network was cut; TuCo depends on it."""
    norm: str
    """``l1`` (the paper's), ``l2``, or ``final_norm`` (L2 weighted with the final norm's gain)."""
    completions: str
    """``none``, ``given`` or ``generated``."""
    said: Int[np.ndarray, "item order"]
    """Choice each completion gives (0 A, 1 B, 2 tie, slots as shown); -1 unread, or without completions."""
    n_tokens: Float[np.ndarray, "item order region"]
    """Measured tokens of each region."""
    finetuned_norm: Float[np.ndarray, "item order region"]
    """Mean |F| over a region's tokens."""
    pretrained_norm: Float[np.ndarray, "item order region"]
    """Mean |P| over them."""
    alignment: Float[np.ndarray, "item order region"]
    """Mean cosine of P and F; below 0, fine-tuning works against what the base would have written."""
    finetuned_parts: Float[np.ndarray, "item order region unit"]
    """Signed parts of mean |F| by unit; they add up to it."""
    pretrained_parts: Float[np.ndarray, "item order region unit"]
    """Signed parts of mean |P| by unit; they add up to it."""
    finetuned_depth: Float[np.ndarray, "item order region unit"]
    """Mean norm of what fine-tuning wrote up to and with each unit."""
    pretrained_depth: Float[np.ndarray, "item order region unit"]
    """Mean norm of what the base's weights wrote up to there."""
    finetuned_curve: Float[np.ndarray, "item order step"]
    """|F| at the last prompt token (step 0) and each completion token after it, up to the verdict."""
    pretrained_curve: Float[np.ndarray, "item order step"]
    """|P| at the same tokens."""
    control_finetuned_norm: Float[np.ndarray, "draw item order region"]
    """Mean |F| of a judge moved as far as the real one in random directions, reading the same tokens."""
    control_pretrained_norm: Float[np.ndarray, "draw item order region"]
    """Mean |P| of that judge."""
    control_finetuned_curve: Float[np.ndarray, "draw item order step"]
    """|F| of that judge along the completion."""
    control_pretrained_curve: Float[np.ndarray, "draw item order step"]
    """|P| of that judge along the completion."""
    example_items: tuple[str, ...]
    """Items whose tokens are kept one by one."""
    example_tokens: tuple[tuple[tuple[str, ...], ...], ...]
    """Text of each token, by example and order."""
    example_regions: tuple[tuple[tuple[str, ...], ...], ...]
    """Region of each token, by example and order."""
    example_finetuned: Float[np.ndarray, "example order pos"]
    """|F| at each token; rows end in NaN where prompts are shorter."""
    example_pretrained: Float[np.ndarray, "example order pos"]
    """|P| at each token."""
    example_alignment: Float[np.ndarray, "example order pos"]
    """Cosine of P and F at each token."""
    example_finetuned_parts: Float[np.ndarray, "example order pos unit"]
    """Signed parts of |F| by unit."""
    example_pretrained_parts: Float[np.ndarray, "example order pos unit"]
    """Signed parts of |P| by unit."""
    identical_share: float
    """TuCo of the judge against itself over all tokens; exactly 0 or the run is refused."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "said": ("item", "order"),
        **dict.fromkeys(("n_tokens", "finetuned_norm", "pretrained_norm", "alignment"), _REGION),
        **dict.fromkeys(("finetuned_parts", "pretrained_parts", "finetuned_depth", "pretrained_depth"), _REGION_UNIT),
        **dict.fromkeys(("finetuned_curve", "pretrained_curve"), ("item", "order", "step")),
        **dict.fromkeys(("control_finetuned_norm", "control_pretrained_norm"), ("draw", *_REGION)),
        **dict.fromkeys(("control_finetuned_curve", "control_pretrained_curve"), ("draw", "item", "order", "step")),
        **dict.fromkeys(("example_finetuned", "example_pretrained", "example_alignment"), _TOKEN),
        **dict.fromkeys(("example_finetuned_parts", "example_pretrained_parts"), (*_TOKEN, "unit")),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        own = {"item": len(self.item_ids), "order": len(self.orders), "region": len(self.regions)}
        own |= {"unit": len(self.units), "draw": len(self.control_finetuned_norm)}
        own |= {"step": self.finetuned_curve.shape[-1], "pos": self.example_finetuned.shape[-1]}
        return own | {"example": len(self.example_items)}

    @property
    def tuco(self) -> Float[np.ndarray, "item order region"]:
        """Return the share of each region: mean |F| / (mean |P| + mean |F|) over its tokens."""
        return measured_share(self.finetuned_norm, self.pretrained_norm)

    @property
    def control_tuco(self) -> Float[np.ndarray, "draw item order region"]:
        """Return the same of the random judges of equal norm."""
        return measured_share(self.control_finetuned_norm, self.control_pretrained_norm)

    @property
    def profile(self) -> Float[np.ndarray, "item order region unit"]:
        """Return the share in the stream after each unit; the last is :attr:`tuco`."""
        return measured_share(self.finetuned_depth, self.pretrained_depth)

    @property
    def curve(self) -> Float[np.ndarray, "item order step"]:
        """Return TuCo along the completion: step 0 is the last prompt token (the paper's), the last the verdict."""
        return measured_share(self.finetuned_curve, self.pretrained_curve)

    @property
    def first_token(self) -> Float[np.ndarray, "side item order"]:
        """Return |F| and |P| at the last prompt token, where the paper reads TuCo."""
        own = np.stack([self.at(PROMPT_END, self.finetuned_norm), self.at(PROMPT_END, self.pretrained_norm)])
        return np.where(np.isnan(own), self.verdict, own)  # no completion: the last prompt token is the verdict's

    @property
    def reasoning(self) -> Float[np.ndarray, "side item order"]:
        """Return mean |F| and |P| over the completion's tokens before the verdict; NaN where there are none."""
        return np.stack([self.at(COMPLETION, self.finetuned_norm), self.at(COMPLETION, self.pretrained_norm)])

    @property
    def verdict(self) -> Float[np.ndarray, "side item order"]:
        """Return |F| and |P| at the last token before the verdict label; NaN where no verdict could be read."""
        return np.stack([self.at(VERDICT, self.finetuned_norm), self.at(VERDICT, self.pretrained_norm)])

    @property
    def n_unread(self) -> int:
        """Return the number of completions no verdict could be read from."""
        return 0 if self.completions == "none" else int((self.said == UNREAD).sum())

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""
        return statements.finding(self)

    def at(self, region: str, values: Float[np.ndarray, "*lead region"]) -> Float[np.ndarray, "*lead"]:
        """Return one region of an array whose last axis is the region; NaN when no prompt has it."""
        if region not in self.regions:
            return np.full(values.shape[:-1], np.nan)
        return values[..., self.regions.index(region)]

    def strip(self, item: str, order: str = "original") -> Markup:
        """Return the tokens of an example as an HTML strip with its styles, coloured by TuCo.

        Args:
            item: One of :attr:`example_items`.
            order: Answer order.

        Raises:
            ParameterError: The item isn't kept token by token, or the order wasn't shown.
        """
        index, column = place_of(item, order, items=self.example_items, orders=self.orders)
        tokens, names = self.example_tokens[index][column], self.example_regions[index][column]
        values = measured_share(self.example_finetuned, self.example_pretrained)[index, column, : len(tokens)]
        tokens_by_share = html.token_strip(
            tokens, values, spans=runs(names), label=f"TuCo at each token of {item}, {order} order"
        )
        return html.fragment(html.escape(f"TuCo at each token: {item}, {order} order"), tokens_by_share)

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table: regions, units, examples' tokens, curve and tests."""
        return table.frame(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw TuCo by region beside the random change, into ``ax`` or a new one."""
        return figures.share_by_region(self, ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        return with_sample(self, drawn_panels(self, figures.PANELS))

    def _repr_html_(self) -> str:
        if not self.example_items:
            return finding_html(self.finding)
        return finding_html(self.finding) + self.strip(self.example_items[0], self.orders[0])
