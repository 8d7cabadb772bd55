"""Attention patterns at chosen columns, from the kernel the model really runs.

1. Under SDPA the call itself is intercepted (a thread-local mode; no configuration changes) and the
   softmax rows of the wanted columns are computed from its own query, key, mask and scale, in
   float32. Under eager attention the weights the module returns are read.
2. The values are read at the V site, the result of attention at the Z site, in the same forward.
3. ``pattern @ values`` must give Z within the dtype's rounding. Otherwise (soft caps a kernel
   ignores, sinks, gates, a kernel nobody can see into) the run is refused: no pattern is better
   than one that isn't the model's.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from workbench.errors import ExecutorDisagreement, ParameterError
from workbench.hooks.anatomy import module_lock
from workbench.hooks.doctor import TOLERANCE
from workbench.hooks.edits import Edit
from workbench.hooks.executor import Run
from workbench.hooks.observe import at_input
from workbench.hooks.program import columns_of
from workbench.hooks.reading import Reader
from workbench.hooks.sites import Component, Site
from workbench.hooks.torch_backend import HooksBackend
from workbench.tokens import TokenBatch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionRun:
    """One forward with what attention did at some columns, by layer."""

    run: Run
    """Captures, as from :meth:`HooksBackend.run`; no logits."""
    patterns: Mapping[int, Float[Tensor, "prompt head k pos"]]
    """How much each head at column k takes from each column; float32 or better, 0 on padding."""
    values: Mapping[int, Float[Tensor, "prompt pos kv_head d_head"]]
    """What there is to take, per key-value head; query head h reads head ``h // (head / kv_head)``."""
    z: Mapping[int, Float[Tensor, "prompt k head d_head"]]
    """What the model's own attention made of both."""
    error: float
    """Largest difference between ``pattern @ values`` and ``z``, as a share of the largest z of its layer."""


def attention_patterns(
    executor: HooksBackend,
    batch: TokenBatch,
    *,
    columns: Int[Tensor, "prompt k"],
    layers: Sequence[int] | None = None,
    edits: Sequence[Edit] = (),
    capture: Sequence[Site] = (),
    positions: Int[Tensor, "prompt k_captured"] | None = None,
    stop_after: Site | None = None,
) -> AttentionRun:
    """Run the model once and see what its heads attend to.

    Args:
        executor: Executor of the model; its attention must run as "sdpa" or "eager".
        batch: Left-padded prompts.
        columns: Columns of the padded batch whose patterns are kept; negative ones count from the end.
        layers: Blocks to look into; all of them by default.
        edits: See :meth:`HooksBackend.run`; that they change something isn't checked. Patterns and values are those
            after them, ``z`` is that before an edit of z.
        capture: See :meth:`HooksBackend.run`.
        positions: Columns captures keep; not those of the patterns.
        stop_after: End the forward after this site; by default after the last one that is needed.

    Raises:
        UnknownSite: The model has no V or Z site in one of the layers, or lacks another site named.
        ParameterError: Columns are outside the prompts, or a layer's attention runs where nobody can see it.
        ExecutorDisagreement: Patterns times values aren't what the model's attention gave.
    """
    batch = at_input(executor.module, batch)
    columns = columns_of(columns, batch, distinct=False)
    wanted = range(executor.anatomy.n_layers) if layers is None else layers
    rows = _Rows(columns)
    z = Reader((Site(Component.Z, layer) for layer in wanted), positions=columns)
    values = Reader((Site(Component.V, layer) for layer in wanted), on_read=rows.enter)
    # Eager attention hands out its weights when it returns, which is after Z.
    needed = [Site(Component.ATTN_OUT, max(wanted)), *capture, *(edit.site for edit in edits)]
    for site in needed:
        executor.anatomy.check(site)
    end = stop_after or max((site.whole for site in needed), key=lambda site: executor.anatomy.order[site])
    with module_lock(executor.module), _eager_weights(executor, wanted, rows), rows:
        run = executor.run(
            batch,
            edits=[*z.edits, *edits, *values.edits],
            capture=capture,
            positions=positions,
            logits="none",
            stop_after=end,
            check_edits=False,
        )
    found = AttentionRun(
        run=run,
        patterns=rows.patterns,
        values={site.layer: value for site, value in values.values.items()},
        z={site.layer: value for site, value in z.values.items()},
        error=0.0,
    )
    return _checked(found, wanted)


def mixed_values(
    patterns: Float[Tensor, "prompt head k pos"], values: Float[Tensor, "prompt pos kv_head d_head"]
) -> Float[Tensor, "prompt k head d_head"]:
    """Return what heads make of values: ``sum_s pattern[s] value[s]``, key-value heads shared among their queries."""
    groups = patterns.unflatten(1, (values.shape[2], -1))
    return torch.einsum("bhgks,bshd->bkhgd", groups, values.to(patterns.dtype)).flatten(2, 3)


class _Rows(TorchFunctionMode):
    """Computes the wanted rows of every attention that runs while its layer is open."""

    def __init__(self, columns: Int[Tensor, "prompt k"]) -> None:
        super().__init__()
        self.patterns: dict[int, Tensor] = {}
        self._columns = columns
        self._layer: int | None = None

    def enter(self, site: Site) -> None:
        """Open a layer: its values have just been computed, so the next attention is its own."""
        self._layer = site.layer

    def keep(self, layer: int, weights: Tensor) -> None:
        """Keep rows of a whole pattern ``[prompt head pos pos]``."""
        work = torch.promote_types(weights.dtype, torch.float32)
        self.patterns.setdefault(layer, _picked(weights, self._columns).movedim(1, 2).to(work))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at a call on its way."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self._layer is not None:
            layer, self._layer = self._layer, None
            self.patterns.setdefault(layer, _softmax_rows(self._columns, *args, **kwargs))
        return func(*args, **kwargs)


def _softmax_rows(
    columns: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,  # noqa: ARG001 - the kernel's own signature
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: ARG001 - shared heads are seen from the shapes
) -> Float[Tensor, "prompt head k pos"]:
    work = torch.promote_types(query.dtype, torch.float32)
    picked = _picked(query, columns).to(work).unflatten(2, (key.shape[1], -1))
    scores = torch.einsum("bkhgd,bhsd->bhgks", picked, key.to(work)).flatten(1, 2)
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        later = torch.arange(key.shape[2], device=query.device) > columns.to(query.device)[:, :, None]
        scores = scores.masked_fill(later[:, None], -torch.inf)
    if attn_mask is not None:
        whole = attn_mask.expand(query.shape[0], -1, query.shape[2], key.shape[2])
        rows = _picked(whole, columns).movedim(1, 2)
        scores = scores.masked_fill(~rows, -torch.inf) if rows.dtype == torch.bool else scores + rows.to(work)
    return scores.softmax(-1)


def _picked(tensor: Shaped[Tensor, "prompt head pos *rest"], columns: Tensor) -> Shaped[Tensor, "prompt k head *rest"]:
    columns = columns.to(tensor.device)
    return tensor[torch.arange(len(columns), device=tensor.device)[:, None], :, columns]


@contextmanager
def _eager_weights(executor: HooksBackend, layers: Sequence[int], rows: _Rows) -> Iterator[None]:
    """Read the weights an attention module returns; one that returns none leaves no trace."""

    def hook_of(layer: int) -> Any:
        def hook(_module: nn.Module, _args: object, output: Any) -> None:
            parts = output if isinstance(output, tuple) else ()
            for weights in (part for part in parts if isinstance(part, Tensor) and part.ndim == 4):
                rows.keep(layer, weights)

        return hook

    with ExitStack() as stack:
        for layer in layers:
            path = executor.anatomy.port(Site(Component.Z, layer)).path.rpartition(".")[0]
            handle = executor.module.get_submodule(path).register_forward_hook(hook_of(layer))
            stack.callback(handle.remove)
        yield


def _checked(found: AttentionRun, layers: Sequence[int]) -> AttentionRun:
    """Hold patterns times values against what attention gave."""
    worst = 0.0
    for layer in layers:
        if layer not in found.patterns:
            raise ParameterError(
                "the attention of this layer runs where it can't be seen.",
                argument="layers",
                got=layer,
                fix="Load the pair with attention='sdpa' or attention='eager'.",
            )
        pattern, values, z = found.patterns[layer], found.values[layer], found.z[layer]
        fits = pattern.shape[1] % values.shape[2] == 0 and z.shape[2:] == (pattern.shape[1], values.shape[3])
        error = _error(pattern, values, z) if fits and pattern.shape[-1] == values.shape[1] else float("inf")
        if not error <= TOLERANCE.get(z.dtype, 5e-2):
            raise ExecutorDisagreement(
                f"in layer {layer} the attention pattern times the values isn't what the model's attention gave, so "
                "its heads can't be split by source token.",
                argument="layers",
                got=f"largest difference {error:.3g} of the largest value",
                allowed=f"{TOLERANCE.get(z.dtype, 5e-2):.3g}",
                fix="Load the pair with attention='eager'; heads with a gate or with sinks outside the softmax have "
                "no such split.",
            )
        worst = max(worst, error)
    return AttentionRun(run=found.run, patterns=found.patterns, values=found.values, z=found.z, error=worst)


def _error(pattern: Tensor, values: Tensor, z: Tensor) -> float:
    gap = mixed_values(pattern, values) - z.to(pattern.dtype)
    return float(gap.abs().max() / z.abs().max().clamp(min=torch.finfo(z.dtype).tiny))
