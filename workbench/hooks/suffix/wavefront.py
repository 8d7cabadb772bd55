"""All rows in one forward of the model itself, each from the block it is born in.

1. The model's own forward gets the flat tokens of all rows as one sequence behind the cached prompts, with the
   position ids their columns have.
2. In front of every block, tokens that are alive go on, those born here enter with the clean stream of their
   column, and the others wait; masks, rotary tables and position ids are cut alike. A token sees the cached
   columns before its row begins, and its own row.
3. Writes are made where the model computes the site: in a projection's own input or output, so that adapters,
   biases, post-norms and quantised weights act as they do.
4. In front of the unembedding only the last token of every row is left; norm, head and caps are the model's own.

No architecture is re-implemented. Falsified if a row differs from a full forward with the same edit.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from workbench.errors import EditError
from workbench.hooks.anatomy import Anatomy
from workbench.hooks.heads import forward_logits
from workbench.hooks.observe import forward_accepts
from workbench.hooks.ports import Port
from workbench.hooks.sites import Component, Site
from workbench.hooks.suffix.pieces import Piece, pieces_of
from workbench.hooks.suffix.prefill import MASK, Prefill, blocks_of, named_arguments, takes_mask
from workbench.hooks.suffix.rows import Layout, Row
from workbench.hooks.torch_backend import HooksBackend, attach, forward_replaced, forwards_replaced, passing
from workbench.tokens import TokenBatch


class Answer(NamedTuple):
    """What a forward of rows gave, in layout order."""

    logits: Float[Tensor, "prompt row option"]
    """Logits at the last token of every row."""
    read: Mapping[Site, Float[Tensor, "prompt row *feature"]]
    """Sites at the last token of every row; a row that isn't born there yet has the clean value."""


def forward_rows(
    executor: HooksBackend,
    prefill: Prefill,
    rows: Sequence[Row],
    layout: Layout,
    *,
    ids: Sequence[int] | None,
    read: Sequence[Site],
    narrow: bool,
) -> Answer:
    """Run one layout; the caller holds the model.

    Args:
        executor: Whose model runs.
        prefill: Its forward of the untouched prompts.
        rows: All checked rows; the layout says which of them run.
        layout: How they lie.
        ids: Rows of the unembedding that are computed; None for all.
        read: Sites to read at the last token of every row.
        narrow: Whether rows wait until their birth; otherwise all of them run through every block.
    """
    module, anatomy = executor.module, executor.anatomy
    flow = _Flow(prefill, layout, anatomy, narrow=narrow)
    edits = _Edits(rows, layout, prefill.batch, anatomy)
    kept: dict[Site, Tensor] = {}
    with ExitStack() as stack:
        # First in: writes into the stream that enters a block come after the rows born there.
        blocks = blocks_of(anatomy, module)
        for layer, block in enumerate(blocks):
            stack.callback(block.register_forward_pre_hook(flow.entering(layer, block), with_kwargs=True).remove)
        empty = [block for block, alive in zip(blocks, layout.alive, strict=True) if alive == 0]
        stack.enter_context(forwards_replaced(empty, passing(anatomy)))
        for point in edits.points(read):
            stack.callback(_on(anatomy, module, point, _visit(point, edits, flow, read, kept)).remove)
        unembed = Port(path=anatomy.unembed, side="in", feature=(anatomy.d_model,))
        stack.callback(attach(module.get_submodule(unembed.path), unembed, flow.ending).remove)
        stack.enter_context(only_rows(module, anatomy, ids))
        logits = forward_logits(module, flow.kwargs(module))
    if logits.shape[1] != len(layout.order):
        raise EditError("the unembedding didn't see the rows' last tokens.", argument="rows", got=tuple(logits.shape))
    whole = ids is not None and logits.shape[-1] != len(ids)
    # Blocks that nobody is born before are passed by: their sites aren't reached.
    kept |= {site: _clean_last(prefill, site, len(layout.last)) for site in read if site not in kept}
    return Answer(logits[..., list(cast(Sequence[int], ids))] if whole else logits, kept)


class _Flow:
    """Which tokens are alive where, and what a block is called with."""

    def __init__(self, prefill: Prefill, layout: Layout, anatomy: Anatomy, *, narrow: bool) -> None:
        self.prefill, self.layout, self.anatomy, self.narrow = prefill, layout, anatomy, narrow
        self.total = len(layout)
        self._masks: dict[int, Tensor] = {}

    def alive(self, layer: int) -> int:
        """Return how many flat tokens a block computes."""
        return self.layout.alive[layer] if self.narrow else self.total

    def kwargs(self, module: nn.Module) -> dict[str, Any]:
        """Return the keywords of the model's forward."""
        batch, columns = self.prefill.batch, self.layout.columns
        device = batch.device
        at = columns.to(device)
        ones = torch.ones(len(batch), self.total, dtype=torch.long, device=device)
        kwargs: dict[str, Any] = {
            "input_ids": batch.ids[:, at],
            "attention_mask": torch.cat([batch.mask.long(), ones], dim=1),
            "past_key_values": self._branch(),
            "use_cache": True,
        }
        if forward_accepts(module, "position_ids"):
            kwargs["position_ids"] = batch.position_ids[:, at]
        return kwargs

    def _branch(self) -> DynamicCache:
        # Layers are extended by concatenation: the prompts' keys and values are never written to.
        own = cast(DynamicCache, self.prefill.cache)
        twin = copy.copy(own)
        twin.layers = [copy.copy(layer) for layer in own.layers]
        return twin

    def entering(self, layer: int, block: nn.Module) -> Callable[..., Any]:
        """Return the hook in front of a block."""

        def hook(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            named = named_arguments(block, args, kwargs)
            stream = next(iter(named))
            hidden = cast(Tensor, named[stream])
            count = self.alive(layer)
            cut = {name: self._cut(value, count) for name, value in named.items() if name != stream}
            if takes_mask(block):
                cut[MASK] = self.mask(layer, like=hidden, count=count)
            return (), {stream: self._joined(layer, hidden), **cut}

        return hook

    def _joined(self, layer: int, hidden: Tensor) -> Tensor:
        """Return the alive tokens' stream followed by the clean stream of those born here."""
        born = self.layout.born(layer)
        kept = self.prefill.stream(layer)
        first = self.prefill.batch.ids.shape[1] - self.prefill.tokens
        new = kept[:, (self.layout.columns[born] - first).to(kept.device)].to(hidden)
        if self.narrow:
            return torch.cat([hidden[:, : born.start], new], dim=1)
        return torch.cat([hidden[:, : born.start], new, hidden[:, born.stop :]], dim=1)

    def mask(self, layer: int, *, like: Tensor, count: int) -> Tensor:
        """Return what the alive tokens see: the cached columns before their row, and their own row."""
        own = self.prefill.masks[layer]
        key = id(own)
        if key not in self._masks:
            self._masks[key] = tree_mask(own, self.prefill, self.layout, dtype=like.dtype, module=self._eager)
        width = self.prefill.batch.ids.shape[1]
        return self._masks[key][:, :, :count, : width + count].to(like.device)

    @property
    def _eager(self) -> bool:
        return getattr(self.anatomy.module.config, "_attn_implementation", None) != "sdpa"

    def _cut(self, value: Any, count: int) -> Any:
        if isinstance(value, Tensor):
            # Tokens stand behind the prompts, or first where there is no axis of prompts.
            if value.ndim > 1 and value.shape[1] == self.total:
                return value.narrow(1, 0, count)
            alone = value.ndim == 1 or self.total != len(self.prefill.batch)
            return value.narrow(0, 0, count) if value.ndim and alone and value.shape[0] == self.total else value
        if isinstance(value, tuple):
            return tuple(self._cut(entry, count) for entry in value)
        if isinstance(value, dict):
            return {name: self._cut(entry, count) for name, entry in value.items()}
        return value

    def ending(self, hidden: Tensor) -> Tensor:
        """Leave the last token of every row in front of the unembedding."""
        return hidden[:, self.layout.last.to(hidden.device)]


def tree_mask(
    own: Tensor | None, prefill: Prefill, layout: Layout, *, dtype: torch.dtype, module: bool
) -> Float[Tensor, "prompt one token key"] | Tensor:
    """Return the mask of flat tokens over cached columns and flat tokens.

    Args:
        own: Mask the model gave its block at the kept columns; None for "everything before".
        prefill: The prompts.
        layout: The rows.
        dtype: Type of the stream.
        module: Whether attention takes numbers to be added instead of booleans.
    """
    device, width = prefill.batch.device, prefill.batch.ids.shape[1]
    first = width - prefill.tokens
    columns, owner = layout.columns.to(device), layout.owner.to(device)
    starts = torch.tensor([place.start for place in layout.places], device=device)[owner]
    if own is None:
        seen = torch.arange(width, device=device)[None, :] <= torch.arange(first, width, device=device)[:, None]
        seen = (seen[None] & prefill.batch.mask[:, None, :])[:, None]
        own = seen if not module else torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(
            ~seen, torch.finfo(dtype).min
        )  # fmt: skip
    hidden: Any = False if own.dtype == torch.bool else torch.finfo(own.dtype).min
    whole = own.to(device)[:, :, columns - first]
    before = whole.masked_fill(torch.arange(width, device=device)[None, :] >= starts[:, None], hidden)
    among = whole[..., columns].masked_fill(owner[:, None] != owner[None, :], hidden)
    return torch.cat([before, among], dim=-1)


class _Edits:
    """What is written at every point, as indices of flat tokens."""

    def __init__(self, rows: Sequence[Row], layout: Layout, batch: TokenBatch, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._shift = torch.zeros(len(rows), dtype=torch.long)
        real = [(index, at) for at, index in enumerate(layout.order) if index >= 0]
        starts = [layout.offsets[at] - layout.places[at].start for _, at in real]
        self._shift[[index for index, _ in real]] = torch.tensor(starts)
        self.pieces = pieces_of((index, rows[index]) for index, _ in real)
        self._delta: dict[int, Tensor] = {}
        self._prompts = torch.arange(len(batch))[:, None]
        self._mid = {point.layer for point in self.pieces if point.component is Component.RESID_MID}

    def points(self, read: Sequence[Site]) -> list[Site]:
        """Return where hooks are needed, in execution order."""
        found = set(self.pieces) | {site.whole for site in read}
        found |= {Site(Component.RESID_POST, layer) for layer in self._mid}
        return sorted(found, key=lambda site: self._anatomy.order[site])

    def apply(self, point: Site, value: Tensor) -> Tensor:
        """Return the value at a point with everything written that this point's rows write."""
        new = value
        if point.component is Component.RESID_POST and point.layer in self._mid:
            # The residual branch bypasses the norm this site is the input of.
            new = new + self._delta.pop(point.layer)
        for piece in self.pieces.get(point, ()):
            new = self._written(new, piece)
        if point.component is Component.RESID_MID and point in self.pieces:
            self._delta[point.layer] = new - value
        return new

    def _written(self, value: Tensor, piece: Piece) -> Tensor:
        device = value.device
        tokens = piece.columns + self._shift[piece.rows]
        index: tuple[Tensor, ...] = (self._prompts.to(device), tokens.to(device))
        if piece.heads is not None:
            index = (*index, piece.heads.to(device)[None, :])
        if not piece.add and piece.weight is None:
            return value.index_put(index, piece.values.to(value))
        return value.index_put(index, piece.blend(value[index]))


def _visit(
    point: Site, edits: _Edits, flow: _Flow, read: Sequence[Site], kept: dict[Site, Tensor]
) -> Callable[[Tensor, Port], Tensor | None]:
    def act(raw: Tensor, port: Port) -> Tensor | None:
        value = port.read(raw)
        new = edits.apply(point, value)
        for site in read:
            if site.whole == point:
                kept[site] = _last(new, site, flow)
        return None if new is value else port.write(raw, new)

    return act


def _last(value: Tensor, site: Site, flow: _Flow) -> Tensor:
    """Return a site at the last token of every row; the clean value for rows that aren't born yet."""
    last = flow.layout.last
    born = torch.tensor([place.birth <= site.layer for place in flow.layout.places])
    part = value if site.head is None else value[:, :, site.head]
    out = _clean_last(flow.prefill, site, len(last)).clone()
    out[:, born] = part[:, last[born].to(part.device)].to(out)
    return out


def _clean_last(prefill: Prefill, site: Site, count: int) -> Tensor:
    clean = prefill.values.get(site)
    if clean is None:
        clean = prefill.values[site.whole][:, :, cast(int, site.head)]
    return clean[:, -1:].expand(-1, count, *clean.shape[2:])


def _on(
    anatomy: Anatomy, module: nn.Module, point: Site, act: Callable[[Tensor, Port], Tensor | None]
) -> torch.utils.hooks.RemovableHandle:
    port = anatomy.ports[point]
    return attach(module.get_submodule(port.path), port, lambda raw: act(raw, port))


@contextmanager
def only_rows(module: nn.Module, anatomy: Anatomy, ids: Sequence[int] | None) -> Iterator[None]:
    """Compute only some rows of the unembedding, where it is a plain linear map; otherwise all of them.

    Args:
        module: The model.
        anatomy: Its anatomy.
        ids: Which rows; None for all.
    """
    head = module.get_submodule(anatomy.unembed)
    if ids is None or type(head) is not nn.Linear:
        yield
        return
    chosen = torch.tensor(list(ids), device=head.weight.device)

    def narrow(hidden: Tensor) -> Tensor:
        bias = None if head.bias is None else head.bias[chosen]
        return functional.linear(hidden, head.weight[chosen], bias)

    with forward_replaced(head, narrow):
        yield
