"""Run everything that doesn't feed keys or values at the last tokens only.

A block's output at the last tokens needs keys and values of *all* tokens, but queries, the output
projection, norms behind the attention and the MLP only at those tokens. Where the stream entering
every block is given (a clamped run), the other tokens' outputs are never read, so they needn't be
computed: on a model of 12 blocks and 512 tokens about a fourteenth of a forward is left.

1. A probe forward shows which modules of a block start after its keys and values are made; the
   outermost of them, and a query projection of its own, act on each token alone.
2. While the context is open they see the last ``count`` columns and repeat their first answer over
   the others, which keeps shapes, positions and masks as the model expects them.
3. ``scaled_dot_product_attention`` is asked for the last queries only.

No architecture is named and no attention is re-implemented; a module that did mix tokens would be
found by the caller, who compares with a full run. Falsified if the last columns of a clamped run
change by more than rounding.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from workbench.hooks.anatomy import Anatomy, module_lock
from workbench.hooks.observe import evaluation_mode, probe_kwargs
from workbench.hooks.sites import Component, Site
from workbench.hooks.torch_backend import HooksBackend, forward_replaced

_plans: "weakref.WeakKeyDictionary[nn.Module, TailPlan]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class TailPlan:
    """Which modules of each block act on one token at a time and feed neither keys nor values."""

    paths: tuple[tuple[str, ...], ...]
    """Dotted module paths by layer."""

    @classmethod
    def of(cls, anatomy: Anatomy) -> "TailPlan":
        """Return the plan of a model, made by one probe forward and kept while it lives."""
        if anatomy.module not in _plans:
            _plans[anatomy.module] = cls(paths=tuple(_layer_paths(anatomy)))
        return _plans[anatomy.module]


@contextmanager
def last_tokens_only(executor: HooksBackend, *, count: int = 1) -> Iterator[TailPlan]:
    """While open, blocks compute what feeds no key or value at the last columns only.

    The other columns of every block's output are meaningless: overwrite them before the next block
    reads them (a clamped run does), and read the last ``count`` columns only.

    Args:
        executor: Whose model is entered; it must be the only one running it.
        count: Number of columns, from the end.

    Yields:
        The plan in force.
    """
    plan = TailPlan.of(executor.anatomy)
    module = executor.module
    with ExitStack() as stack:
        stack.enter_context(module_lock(module))
        for path in [path for layer in plan.paths for path in layer]:
            child = module.get_submodule(path)
            stack.enter_context(forward_replaced(child, _at_the_end(child.forward, count=count)))
        stack.enter_context(_LastQueries(count=count))
        yield plan


@contextmanager
def last_block_at_the_end(executor: HooksBackend, *, count: int, watched: Iterable[str]) -> Iterator[None]:
    """While open, the last block computes what feeds no key or value at the last columns only.

    Nothing reads its output at the other columns but norm and unembedding, at the last ones. Keys and values are
    made for every column.

    Args:
        executor: Whose model is entered; it must be the only one running it.
        count: Number of columns, from the end.
        watched: Paths of modules that are hooked; what holds one of them runs in full, so that its hook sees all
            columns.
    """
    inside = tuple(watched)
    paths = [
        path
        for path in TailPlan.of(executor.anatomy).paths[-1]
        if not any(other.startswith(f"{path}.") for other in inside)
    ]
    with ExitStack() as stack:
        stack.enter_context(module_lock(executor.module))
        for path in paths:
            child = executor.module.get_submodule(path)
            stack.enter_context(forward_replaced(child, _at_the_end(child.forward, count=count)))
        yield


def _at_the_end(own: Callable[..., Any], *, count: int) -> Callable[..., Any]:
    """Return a forward that shows the last columns to ``own`` and spreads its answer over the others."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        width = hidden_states.shape[1]
        if width <= count:
            return own(hidden_states, *args, **kwargs)
        output = own(hidden_states[:, -count:].contiguous(), *args, **kwargs)
        if isinstance(output, Tensor):
            return _spread(output, width, axis=1)
        return (_spread(output[0], width, axis=1), *output[1:])

    return forward


def _spread(tail: Tensor, width: int, *, axis: int) -> Tensor:
    """Return the tail at the end of ``width`` columns, its first column repeated before it."""
    count = tail.shape[axis]
    shape = list(tail.shape)
    if count == 1:
        shape[axis] = width
        return tail.expand(shape)
    shape[axis] = width - count
    return torch.cat([tail.narrow(axis, 0, 1).expand(shape), tail], dim=axis)


class _LastQueries(TorchFunctionMode):
    """Asks scaled dot-product attention for the last queries only; local to this thread."""

    def __init__(self, *, count: int) -> None:
        super().__init__()
        self._count = count

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Narrow one kind of call, hand every other on."""
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value, mask = _attention_arguments(args, kwargs)
        count, width = self._count, query.shape[-2]
        if width <= count:
            return func(*args, **kwargs)
        rest = {name: kwargs[name] for name in ("dropout_p", "scale", "enable_gqa") if name in kwargs}
        if mask is None and kwargs.get("is_causal", False):
            mask = _causal_rows(count, key)
        elif mask is not None and mask.shape[-2] > 1:
            mask = mask[..., -count:, :]
        out = func(query[..., -count:, :], key, value, attn_mask=mask, **rest)
        return _spread(out, width, axis=out.ndim - 2)


def _attention_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
    return named["query"], named["key"], named["value"], named.get("attn_mask")


def _causal_rows(count: int, key: Tensor) -> Tensor | None:
    """Return the last rows of a causal mask; the very last one sees everything and needs none."""
    if count == 1:
        return None
    width = key.shape[-2]
    columns = torch.arange(width, device=key.device)
    return columns[None, :] <= columns[width - count :, None]


def _layer_paths(anatomy: Anatomy) -> Iterator[tuple[str, ...]]:
    """Yield, block by block, the outermost modules that start after keys and values are made, and the query's."""
    started = _starts(anatomy)
    for layer in range(anatomy.n_layers):
        prefix = f"{anatomy.blocks_path}.{layer}."
        feeding = {
            anatomy.port(Site(c, layer)).path for c in (Component.K, Component.V) if Site(c, layer) in anatomy.ports
        }
        if not feeding or any(path not in started for path in feeding):
            yield ()
            continue
        ready = max(started[path][1] for path in feeding)
        late = [p for p, (start, _) in started.items() if p.startswith(prefix) and start > ready]
        outermost = [p for p in late if not any(p.startswith(f"{other}.") for other in late)]
        query = anatomy.ports.get(Site(Component.Q, layer))
        own = [query.path] if query is not None and query.side == "out" and query.path not in feeding else []
        yield tuple(dict.fromkeys([*own, *outermost]))


def _starts(anatomy: Anatomy) -> dict[str, tuple[int, int]]:
    """Run the probe and return when each module that maps [prompt pos ...] to as many columns starts and ends."""
    module, clock = anatomy.module, iter(range(1 << 30))
    begun: dict[str, int] = {}
    seen: dict[str, tuple[int, int]] = {}
    kwargs = probe_kwargs(module)
    shape = tuple(kwargs["input_ids"].shape)

    def watch(path: str, child: nn.Module) -> list[Any]:
        def entering(_module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and tuple(args[0].shape[:2]) == shape:
                begun.setdefault(path, next(clock))

        def leaving(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            tensor = output if isinstance(output, Tensor) else output[0] if isinstance(output, tuple) else None
            if path in begun and isinstance(tensor, Tensor) and tuple(tensor.shape[:2]) == shape:
                seen.setdefault(path, (begun[path], next(clock)))

        return [child.register_forward_pre_hook(entering), child.register_forward_hook(leaving)]

    blocks = module.get_submodule(anatomy.blocks_path)
    handles = [
        handle
        for path, child in blocks.named_modules(prefix=anatomy.blocks_path)
        if path != anatomy.blocks_path
        for handle in watch(path, child)
    ]
    try:
        with torch.no_grad(), module_lock(module), evaluation_mode(module):
            module(**kwargs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen
