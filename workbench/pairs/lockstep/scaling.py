"""How much of fine-tuning's contribution is left in, and where: in which blocks, sub-layers, heads and spans."""

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import ParameterError
from workbench.hooks import Component
from workbench.pairs.fingerprint import text_fingerprint
from workbench.pairs.pair import Pair
from workbench.tokens import TEMPLATE, TokenBatch

Ends = Literal["judge", "base"]
"""Whose embedding, final norm and head are used."""

Step = Literal["prompt", "completion"]
"""Whether a forward reads the prompt or tokens generated after it."""

Share = float | Float[Tensor, "prompt pos"]
"""How much of a write comes from the other model: everywhere the same, or token by token."""

COMPLETION = "completion"
"""Name of the generated tokens among a scaling's spans."""

_CUTS = {
    Component.RESID_POST: "blocks",
    Component.ATTN_OUT: "attention",
    Component.MLP_OUT: "MLPs",
    Component.Z: "heads",
}


@dataclass(frozen=True, slots=True)
class Scaling:
    """Fine-tuning's contribution times ``alpha`` in a part of the network, times ``elsewhere`` in the rest.

    ``Scaling(0.5)`` halves it everywhere (Definition 5.1); ``Scaling(0.0, layers=(3,), spans=("rubric",))``
    takes it out of block 3 at the rubric's tokens; ``Scaling(1.0, spans=("rubric",), elsewhere=0.0)`` leaves
    it in there only.
    """

    alpha: float = 1.0
    """1 is the judge, 0 the base, above 1 amplifies."""
    _: KW_ONLY
    component: Component = Component.RESID_POST
    """``RESID_POST`` for whole blocks, ``ATTN_OUT`` or ``MLP_OUT`` for one sub-layer, ``Z`` for heads' writes."""
    layers: tuple[int, ...] | None = None
    """Blocks it acts in; None is all of them."""
    heads: tuple[int, ...] | None = None
    """Heads whose writes it acts on, with component ``Z``; None is all of them. The output bias has no head."""
    spans: tuple[str, ...] | None = None
    """Spans it acts in (a token counts to its innermost span, ``"template"`` is in none, ``"completion"`` is what
    is generated); None is every token, generated ones included."""
    elsewhere: float = 1.0
    """Scale of everything else."""

    def __post_init__(self) -> None:
        """Refuse what no model could run.

        Raises:
            ParameterError: A scale is negative or not finite, or the parts don't go together.
        """
        for name in ("alpha", "elsewhere"):
            check_scale(getattr(self, name), argument=name)
        if self.component not in _CUTS:
            raise ParameterError(
                "no scale acts there.", argument="component", got=self.component, allowed=[str(c) for c in _CUTS]
            )
        if self.heads is not None and self.component is not Component.Z:
            raise ParameterError(
                "only component Z has heads.", argument="heads", got=(str(self.component), self.heads), allowed="None"
            )
        for name in ("layers", "heads"):
            _check_indices(getattr(self, name), argument=name)
        if self.spans is not None and (isinstance(self.spans, str) or not self.spans):
            raise ParameterError(
                "name one span or more, as a tuple.", argument="spans", got=self.spans, fix="Leave it out for all."
            )

    def label(self) -> str:
        """Return one line for tables and figures, e.g. ``alpha 0 in blocks 3 at rubric, 1 elsewhere``."""
        if self.component is Component.RESID_POST and self.layers is None and self.spans is None:
            return f"alpha {self.alpha:g}"
        where = _CUTS[self.component]
        where += "" if self.heads is None else f" {_listed(self.heads)}"
        if self.layers is not None:
            layers = _listed(self.layers)
            where += f" {layers}" if self.component is Component.RESID_POST else f" of blocks {layers}"
        at = "" if self.spans is None else f" at {_listed(self.spans)}"
        return f"alpha {self.alpha:g} in {where}{at}, {self.elsewhere:g} elsewhere"

    def fingerprint(self) -> str:
        """Return sixteen hexadecimal digits that differ whenever the scaled model does by construction."""
        return text_fingerprint(repr(self))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockShares:
    """How much of each write of one block comes from the inner model; the rest is the outer model's own."""

    whole: bool
    """Whether the block is mixed as one write; otherwise its sub-layers are, one after the other."""
    attention: Share
    """Share at the attention's write, or at the whole block's."""
    mlp: Share
    """Share at the MLP's write, or at the whole block's."""
    heads: tuple[int, ...] = ()
    """Heads with a share of their own."""
    chosen: Share = 0.0
    """Their share."""

    @property
    def only(self) -> float | None:
        """Return 0.0 when the block is the outer model's, 1.0 when it is the inner's, None when it takes both."""
        shares = {
            None if isinstance(share, Tensor) else share
            for share in (self.attention, self.mlp, self.chosen if self.heads else self.attention)
        }
        return shares.pop() if shares in ({0.0}, {1.0}) else None

    def repeated(self, times: int) -> "BlockShares":
        """Return the shares for a batch in which every prompt stands ``times`` times in a row."""

        def repeat(share: Share) -> float | Float[Tensor, "row pos"]:
            return share.repeat_interleave(times, dim=0) if isinstance(share, Tensor) else share

        return BlockShares(
            whole=self.whole,
            attention=repeat(self.attention),
            mlp=repeat(self.mlp),
            heads=self.heads,
            chosen=repeat(self.chosen),
        )


def block_shares(scaling: Scaling, batch: TokenBatch, *, pair: Pair, ends: Ends, step: Step) -> tuple[BlockShares, ...]:
    """Return the inner model's share in every block.

    Args:
        scaling: What is scaled where.
        batch: The prompts, for their spans.
        pair: Whose blocks, heads and spans these are.
        ends: Which model is the outer one.
        step: Shares at the prompt's tokens, or at tokens generated after it.

    Raises:
        ParameterError: The pair has no such block, head or span.
    """
    _check_fits(scaling, batch, pair)
    inside, outside = _inner(_local(scaling, batch, step=step), ends), _inner(float(scaling.elsewhere), ends)
    chosen = range(pair.n_layers) if scaling.layers is None else scaling.layers
    own = _shares(scaling, inside, outside, n_heads=pair.anatomy(ends).n_heads)
    rest = BlockShares(whole=own.whole, attention=outside, mlp=outside)
    return tuple(own if layer in chosen else rest for layer in range(pair.n_layers))


def check_scale(value: float, *, argument: str) -> None:
    """Refuse a scale that isn't one.

    Raises:
        ParameterError: It is negative or not finite.
    """
    if not 0 <= value < float("inf"):
        raise ParameterError("not a scale.", argument=argument, got=value, allowed="0 or more")


def _shares(scaling: Scaling, inside: Share, outside: Share, *, n_heads: int) -> BlockShares:
    match scaling.component:
        case Component.ATTN_OUT:
            return BlockShares(whole=False, attention=inside, mlp=outside)
        case Component.MLP_OUT:
            return BlockShares(whole=False, attention=outside, mlp=inside)
        case Component.Z:
            heads = tuple(range(n_heads)) if scaling.heads is None else scaling.heads
            return BlockShares(whole=False, attention=outside, mlp=outside, heads=heads, chosen=inside)
        case _:
            return BlockShares(whole=True, attention=inside, mlp=inside)


def _local(scaling: Scaling, batch: TokenBatch, *, step: Step) -> Share:
    """Return the scale inside the chosen spans and ``elsewhere`` outside them; one number where one will do."""
    alpha, elsewhere = float(scaling.alpha), float(scaling.elsewhere)
    if scaling.spans is None:
        return alpha
    if step == COMPLETION:
        return alpha if COMPLETION in scaling.spans else elsewhere
    names = [name for name in scaling.spans if name != COMPLETION]
    if not names:
        return elsewhere
    mask = batch.span_mask(names)
    if alpha == elsewhere or not bool(mask.any()):
        return elsewhere
    if bool((mask | ~batch.mask).all()):
        return alpha
    return torch.where(mask, alpha, elsewhere).double()


def _inner(scale: Share, ends: Ends) -> Share:
    return 1.0 - scale if ends == "judge" else scale


def _check_fits(scaling: Scaling, batch: TokenBatch, pair: Pair) -> None:
    limits = {"layers": pair.n_layers, "heads": pair.anatomy("base").n_heads}
    for name, limit in limits.items():
        values: tuple[int, ...] = getattr(scaling, name) or ()
        if beyond := [value for value in values if value >= limit]:
            raise ParameterError("the model has fewer.", argument=name, got=beyond, allowed=f"0 to {limit - 1}")
    if scaling.spans is not None:
        _check_spans(scaling.spans, batch, pair)


def _check_spans(names: Collection[str], batch: TokenBatch, pair: Pair) -> None:
    """Refuse a misspelt span, which would silently act nowhere; one an item lacks is no mistake."""
    written = {name for segment in pair.format.segments for name in (*segment.fields, segment.name) if name}
    known = written | {name for table in batch.spans for name in table} | {TEMPLATE, COMPLETION}
    if unknown := [name for name in names if name not in known]:
        raise ParameterError("no such span.", argument="spans", got=unknown, allowed=sorted(known))


def _check_indices(values: tuple[int, ...] | None, *, argument: str) -> None:
    if values is None:
        return
    if not values or len(set(values)) != len(values) or any(value < 0 for value in values):
        raise ParameterError(
            "choose one or more, counted from 0, each once.", argument=argument, got=values, fix="Leave it out for all."
        )


def _listed(values: Collection[object]) -> str:
    return ", ".join(map(str, values))
