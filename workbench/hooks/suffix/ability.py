"""Whether a model can run rows behind cached prompts, found out by asking it: one short probe per model."""

import weakref
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from workbench.errors import WorkbenchError, first_line
from workbench.hooks.executor import entered
from workbench.hooks.observe import forward_accepts, input_device, mask_overflows
from workbench.hooks.rope import moving_rope
from workbench.hooks.sites import Component, Site
from workbench.hooks.suffix.plain import forward_plain
from workbench.hooks.suffix.prefill import Prefill, blocks_of, last_columns, takes_mask
from workbench.hooks.suffix.rows import Layout, Row, Write, checked_rows, places_of
from workbench.hooks.suffix.wavefront import forward_rows
from workbench.hooks.torch_backend import HooksBackend
from workbench.tokens import TokenBatch

Mode = Literal["wavefront", "tree", "plain"]
"""How rows run: each from its own block, all of them through every block, or one full forward each."""

_ATTENTION = ("sdpa", "eager")
_STATELESS = {"full_attention", "sliding_attention", "chunked_attention", "attention"}
_PROBES = (((0, 5, 3, 9, 4, 2, 7, 1, 6), (8, 2, 6, 1, 5, 3, 7)), ((4, 8, 1, 6, 2, 9, 5), (3, 0, 7, 7, 2, 5, 1)))
"""Two prompts with padding, for which models make a mask, and two without, for which they often make none."""
_KEPT = 3
_found: "weakref.WeakKeyDictionary[nn.Module, dict[Any, Ability]]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """How the rows of one model run."""

    mode: Mode
    """The fastest way that gives the numbers of full forwards."""
    reason: str | None
    """Why no faster one is taken; None for the fastest."""


def tolerance(logits: Tensor) -> float:
    """Return how far two ways of computing logits may differ by rounding, in logits."""
    # Norms run in float32 whatever the model is in: float64 is no better than they are.
    relative = {torch.float64: 1e-6, torch.float32: 1e-4}.get(logits.dtype, 5e-2)
    return relative * max(1.0, float(logits.detach().abs().max()))


def ability_of(executor: HooksBackend) -> Ability:
    """Return how a model's rows run; probed once for every state of the model that matters, and kept while it lives.

    Args:
        executor: Whose model; left as it was.
    """
    kept, state = _found.setdefault(executor.module, {}), _state(executor)
    if state not in kept:
        kept[state] = _asked(executor)
    return kept[state]


def _state(executor: HooksBackend) -> tuple[Any, ...]:
    """Return what an ability hangs on: kinds of modules, attention, rotation, data types, devices, an adapter's switch.

    Two contexts around the forwards count as one: they switch adapters, which are linear.
    """
    module = executor.module
    config: Any = module.config
    places = frozenset((parameter.dtype, parameter.device) for parameter in module.parameters())
    attention = tuple(getattr(part, "_attn_implementation", None) for part in (config, config.get_text_config()))
    return tuple(map(type, module.modules())), places, attention, moving_rope(module), executor.around is None


def _asked(executor: HooksBackend) -> Ability:
    reason = _missing(executor)
    if reason is not None:
        return Ability(mode="plain", reason=reason)
    first: str | None = None
    for mode in ("wavefront", "tree"):
        reason = _probed(executor, narrow=mode == "wavefront")
        if reason is None:
            return Ability(mode=mode, reason=None if mode == "wavefront" else first)
        first = first or reason
    return Ability(mode="plain", reason=reason)


def _missing(executor: HooksBackend) -> str | None:
    module = executor.module
    for name in ("past_key_values", "position_ids"):
        if not forward_accepts(module, name):
            return f"its forward takes no {name}"
    attention = getattr(module.config, "_attn_implementation", None)
    if attention not in _ATTENTION:
        return f"attention {attention!r} takes no mask of single queries (load with attention='sdpa')"
    if mask_overflows(module):
        return "eager attention takes its softmax in float32, which is not float64's rounding"
    if (moving := moving_rope(module)) is not None:
        return f"its rotary frequencies depend on the length of the whole row ({moving})"
    return _inside(module, blocks_of(executor.anatomy, module))


def _inside(module: nn.Module, blocks: list[nn.Module]) -> str | None:
    """Return what a short probe might not show: blocks that look at where tokens lie, or remember otherwise."""
    config: Any = module.config.get_text_config()  # type: ignore[operator]
    if not all(takes_mask(block) for block in blocks):
        return "its blocks take no mask"
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - _STATELESS)
    if kinds:
        return f"its blocks of kind {kinds[0]} keep more than keys and values"
    if any(_square(buffer) for block in blocks for buffer in block.buffers()):
        return "its blocks hold masks of their own, by where tokens lie in the cache"
    if getattr(config, "attn_temperature_tuning", False):
        return "its attention is scaled by where tokens lie in the cache"
    return None


def _square(buffer: Tensor) -> bool:
    return buffer.dtype in (torch.bool, torch.uint8) and buffer.ndim == 4 and buffer.shape[-1] == buffer.shape[-2] > 1


def _probed(executor: HooksBackend, *, narrow: bool) -> str | None:
    """Return how rows differ from full forwards with the same writes; None where they don't."""
    vocabulary = executor.module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    try:
        for turn, probe in enumerate(_PROBES):
            rows = [[token % vocabulary for token in row] for row in probe]
            batch = TokenBatch.from_rows(rows, pad_id=0, device=input_device(executor.module))
            gap, allowed = _gap(executor, batch, narrow=narrow, turn=turn)
            if not gap <= allowed:
                return f"rows behind a cached prompt differ from full forwards by {gap:.2g} logits"
    except torch.OutOfMemoryError:
        raise
    except (WorkbenchError, TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError) as err:
        return f"rows behind a cached prompt fail ({type(err).__name__}: {first_line(err)[:120]})"
    return None


def _gap(executor: HooksBackend, batch: TokenBatch, *, narrow: bool, turn: int) -> tuple[float, float]:
    rows = checked_rows(executor.anatomy, batch, _probe_rows(executor, batch, turn))
    prefill = Prefill.of(executor, batch, capture=(), tokens=_KEPT, cached=True)
    n_layers, width = executor.anatomy.n_layers, batch.ids.shape[1]
    layout = Layout.of(places_of(rows), range(len(rows)), width=width, n_layers=n_layers)
    with entered(executor.module, around=executor.around):
        found = forward_rows(executor, prefill, rows, layout, ids=None, read=(), narrow=narrow).logits
    gaps = []
    for at, index in enumerate(layout.order):
        truth = forward_plain(executor, batch, None if index < 0 else rows[index]).logits
        gaps.append(float((found[:, at].double() - truth.double()).abs().max()))
    return max(gaps), tolerance(prefill.logits)


def _probe_rows(executor: HooksBackend, batch: TokenBatch, turn: int) -> list[Row]:
    """Return one row per kind of site and depth, in turns at the last and the last three columns."""
    generator = torch.Generator().manual_seed(turn)
    anatomy = executor.anatomy
    layers = sorted({0, anatomy.n_layers // 2, anatomy.n_layers - 1})
    wanted = (Component.RESID_PRE, Component.ATTN_OUT, Component.MLP_OUT, Component.Z, Component.V)
    found = []
    for site in (Site(component, layer) for layer in layers for component in wanted):
        turn += 1
        if site not in anatomy.ports:
            continue
        columns = last_columns(batch, (1, _KEPT)[turn % 2])
        values = torch.randn(*columns.shape, *anatomy.feature(site), generator=generator)
        found.append(Row((Write(site, columns, values),)))
    return found
