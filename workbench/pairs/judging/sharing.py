"""Whether a model can go on from cached rows, found out by asking it: one short probe per model.

A model that takes no cache, or gives other numbers from one, is read the plain way, and the reason is kept.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from workbench.errors import first_line
from workbench.hooks import CachedRows, TokenTree
from workbench.hooks.executor import entered
from workbench.hooks.observe import forward_accepts, input_device, mask_overflows
from workbench.hooks.rope import moving_rope
from workbench.pairs.memory.exhaustion import memory_ran_out

_found: "weakref.WeakKeyDictionary[nn.Module, Sharing]" = weakref.WeakKeyDictionary()

_TREE_ATTENTION = ("sdpa", "eager")
"""Attention implementations that take a mask of their own for every query."""

_PREFIX, _RESTS = (0, 1, 2, 3), ((4, 5), (6,))
_TREES = (TokenTree((7, 8, 9), (-1, 0, -1)), TokenTree((7, 8, 5), (-1, 0, 1)))
_WHOLE = ((0, 1, 2, 3, 4, 5, 7, 8), (0, 1, 2, 3, 4, 5, 9, 8), (0, 1, 2, 3, 6, 7, 8, 5))
"""The same tokens as whole rows; what follows a token doesn't change it."""
_ENDS = ((0, 5), (2, 4))
_NODES = (((0, 6), (0, 7), (1, 6)), ((2, 5), (2, 6), (2, 7)))
"""Row and column, among the whole rows, of each row's end and of each node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What of a model's rows can be computed once."""

    cache: bool
    """Whether rows can be continued from a cache."""
    tree: bool
    """Whether all labels of a prompt can follow it as one tree."""
    window: int | None
    """Shortest sliding window, tokens; None where every token sees all before it."""
    reason: str | None
    """Why something can't be shared; None where all can."""

    def padded(self, columns: int) -> bool:
        """Whether padding may stand between columns, so many in all: not once a sliding window counts them."""
        return self.window is None or columns < self.window


def sharing_of(module: nn.Module) -> Sharing:
    """Return what a model can share; probed once and kept while it lives.

    Args:
        module: The model; left as it was.
    """
    if module not in _found:
        with entered(module):
            _found[module] = _asked(module)
    return _found[module]


def _asked(module: nn.Module) -> Sharing:
    windows: list[int] = []
    reason = _missing(module)
    if reason is None:
        layers = DynamicCache(config=module.config).layers  # type: ignore[arg-type]
        windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
        windows += _undeclared_windows(module)
        if odd := [type(layer).__name__ for layer in layers if type(layer) not in _LAYERS]:
            reason = f"its cache has layers that can't be shared ({odd[0]})"
    window = min(windows, default=None)
    if reason is not None:
        return Sharing(cache=False, tree=False, window=window, reason=reason)
    tree = getattr(module.config, "_attn_implementation", None) in _TREE_ATTENTION
    if window is not None and window <= len(_WHOLE[0]):
        return Sharing(cache=True, tree=False, window=window, reason="its sliding window is too short for the probe")
    if (reason := _probed(module, tree=False)) is not None:
        return Sharing(cache=False, tree=False, window=window, reason=reason)
    reason = _probed(module, tree=True) if tree else "its attention takes no mask of single queries"
    return Sharing(cache=True, tree=reason is None, window=window, reason=reason)


_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)


def _missing(module: nn.Module) -> str | None:
    for name in ("past_key_values", "position_ids"):
        if not forward_accepts(module, name):
            return f"its forward takes no {name}"
    if mask_overflows(module):
        return "eager attention takes no padding in float64"
    # The probe can't see it: it is shorter than any length at which they change.
    if (moving := moving_rope(module)) is not None:
        return f"its rotary frequencies depend on the length of the whole row ({moving})"
    return None


def _text_config(module: nn.Module) -> dict[str, Any]:
    config: Any = module.config
    return vars(config.get_text_config(decoder=True))


_NO_WINDOWS = ("max_window_layers", "sliding_window_pattern", "prefix_dense_sliding_window_pattern")
"""Settings that say which layers have a window, not how long it is."""


def _undeclared_windows(module: nn.Module) -> list[int]:
    """Return every window the settings speak of: some models (GPT-Neo) mask by columns, and their cache knows nothing.

    One that acts in no layer costs a little sharing and changes no number.
    """
    return [
        value
        for name, value in _text_config(module).items()
        if "window" in name and name not in _NO_WINDOWS and type(value) is int and value > 0
    ]


def _probed(module: nn.Module, *, tree: bool) -> str | None:
    """Return how continued rows differ from whole ones; None where they don't."""
    try:
        found, truth = _both(module, tree=tree)
    except (TypeError, ValueError, AttributeError, IndexError, NotImplementedError, RuntimeError) as err:
        if memory_ran_out(err):
            raise
        return f"continuing a cached row fails ({type(err).__name__}: {first_line(err)[:120]})"
    rounding = 1e-3 if torch.finfo(truth.dtype).eps < 1e-5 else 0.1
    gap, scale = float((found - truth).abs().max()), float(truth.abs().max())
    if gap <= rounding * scale:
        return None
    what = "a tree of labels" if tree else "a row continued from a cache"
    return f"{what} gives other logits than whole rows (by {gap:.2g}, of {scale:.2g})"


def _both(module: nn.Module, *, tree: bool) -> tuple[Tensor, Tensor]:
    vocab = module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    ids = [(7 * k + 3) % vocab for k in range(10)]
    rows = CachedRows(module, pad_id=ids[0])
    rows.extend([0], [[ids[k] for k in _PREFIX]])
    ends = rows.extend([0, 0], [[ids[k] for k in rest] for rest in _RESTS])[:, -1]
    whole = torch.tensor([[ids[k] for k in row] for row in _WHOLE], device=input_device(module))
    places = torch.arange(whole.shape[1], device=whole.device).expand_as(whole)
    full = module(input_ids=whole, attention_mask=torch.ones_like(whole), position_ids=places, use_cache=False).logits
    if not tree:
        return ends, torch.stack([full[at] for at in _ENDS])
    nodes = rows.grow([TokenTree(tuple(ids[k] for k in t.ids), t.parents) for t in _TREES])
    return nodes.flatten(0, 1), torch.stack([full[at] for row in _NODES for at in row])
