"""TransformerLens executes the same programs, on a weight-sharing shadow of the module.

The third opinion of the doctor, and the only executor that can reach inside attention. The bridge
runs eager attention; expect the drift between attention kernels in half precision, and a refusal of
padding in float64. On models with an
interleaved fused projection (GPT-NeoX) the bridge holds split copies of q, k and v while it lives, and
under an adapter merged ones; it is booted afresh when a tensor was written to.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.hooks.anatomy import Anatomy, module_lock
from workbench.hooks.edits import Edit
from workbench.hooks.executor import (
    LogitsKept,
    Run,
    Steps,
    check_logits,
    entered,
    forward_kwargs,
    generation_kwargs,
    kept_logits,
    last_stop,
    random_state_kept,
)
from workbench.hooks.heads import StopForward, check_writes
from workbench.hooks.lens_names import UNEMBED_INPUT, UNEMBED_OUTPUT, hook_name
from workbench.hooks.observe import at_input
from workbench.hooks.program import Program, Record, prepare
from workbench.hooks.shadow import boot_bridge
from workbench.hooks.sites import Site
from workbench.tokens import TokenBatch

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class BridgeBackend:
    """Runs capture/edit programs through a TransformerBridge.

    Args:
        anatomy: Anatomy of the model; the bridge is booted on a shadow of ``anatomy.module`` and again
            whenever that module's weights moved or its adapter state changed.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self._state: object = None
        self._bridge: TransformerBridge | None = None

    @property
    def bridge(self) -> "TransformerBridge":
        """Return a bridge that shows the module as it is now."""
        with module_lock(self.anatomy.module):
            state = _identity(self.anatomy.module)
            if self._bridge is None or state != self._state:
                self._bridge, _ = boot_bridge(self.anatomy.module)
                self._state = state
            return self._bridge

    def run(
        self,
        batch: TokenBatch,
        *,
        edits: Sequence[Edit] = (),
        capture: Sequence[Site] = (),
        positions: Int[Tensor, "prompt k"] | None = None,
        logits: LogitsKept = "last",
        grad: bool = False,
        stop_after: Site | None = None,
        check_edits: bool = True,
    ) -> Run:
        """Run the model once; see :meth:`HooksBackend.run`."""
        check_logits(logits)
        batch = at_input(self.anatomy.module, batch)
        program = prepare(
            self.anatomy,
            batch,
            edits=edits,
            capture=capture,
            positions=positions,
            grad=grad,
            check_edits=check_edits,
            stop_after=stop_after,
        )
        stop = last_stop(program, logits=logits, stop_after=stop_after)
        return self._execute(program, batch, logits=logits, stop=stop)

    def suffix(
        self,
        layer: int,
        resid: Float[Tensor, "prompt pos d_model"],
        batch: TokenBatch,
        *,
        edits: Sequence[Edit] = (),
        capture: Sequence[Site] = (),
        positions: Int[Tensor, "prompt k"] | None = None,
        logits: LogitsKept = "last",
        grad: bool = False,
        check_edits: bool = True,
    ) -> Run:
        """Resume from resid_pre of a block; see :meth:`HooksBackend.suffix`. The lower blocks run: nothing is saved."""
        check_logits(logits)
        batch = at_input(self.anatomy.module, batch)
        program = prepare(
            self.anatomy, batch, edits=edits, capture=capture, positions=positions, grad=grad, check_edits=check_edits,
            start=layer, resid=resid,
        )  # fmt: skip
        return self._execute(program, batch, logits=logits, stop=last_stop(program, logits=logits, stop_after=None))

    def generate(
        self,
        batch: TokenBatch,
        *,
        edits: Sequence[Edit] = (),
        max_new_tokens: int,
        check_edits: bool = True,
        **kwargs: Any,
    ) -> Int[Tensor, "prompt pos_new"]:
        """Continue the prompts; see :meth:`HooksBackend.generate`."""
        module = self.anatomy.module
        check_writes(module)
        batch = at_input(module, batch)
        steps = Steps(prepare(self.anatomy, batch, edits=edits, check_edits=check_edits))
        bridge = cast(Any, self.bridge)
        hooks = [(hook_name(site), _hook(site, steps.visit, stop=None)) for site in steps.prompt.points]
        with entered(module), random_state_kept(module), bridge.hooks(fwd_hooks=hooks):
            out = bridge.original_model.generate(
                **generation_kwargs(module, batch, max_new_tokens=max_new_tokens, kwargs=kwargs, eager=True)
            )
        steps.prompt.finish(steps.record)
        return out

    def _execute(self, program: Program, batch: TokenBatch, *, logits: LogitsKept, stop: Site | None) -> Run:
        record = Record()

        def visit(site: Site, value: Tensor) -> Tensor | None:
            return program.visit(site, value, record)

        points = program.points if stop is None or stop in program.points else (*program.points, stop)
        hooks = [(hook_name(site), _hook(site, visit, stop=stop)) for site in points]
        if logits != "all":
            hooks.append((UNEMBED_INPUT, lambda value, hook: value[:, -1:]))
        inputs = forward_kwargs(self.anatomy.module, batch, logits="all", eager=True)
        inputs = {name: inputs[name] for name in ("attention_mask", "position_ids") if name in inputs}
        unpooled: list[Tensor] = []
        if self.anatomy.pooled:
            hooks.append((UNEMBED_OUTPUT, lambda value, hook: _keep_and_stop(unpooled, value)))
        bridge, out = cast(Any, self.bridge), None
        with entered(self.anatomy.module, grad=program.grad):
            try:
                out = bridge.run_with_hooks(batch.ids, fwd_hooks=hooks, **inputs)
            except StopForward:
                out = unpooled[0] if unpooled else None
        return Run(logits=kept_logits(out, logits), activations=program.finish(record))


def _hook(
    site: Site, visit: Callable[[Site, Tensor], Tensor | None], *, stop: Site | None
) -> Callable[..., Tensor | None]:
    def act(value: Tensor, hook: object) -> Tensor | None:
        new = visit(site, value)
        if site == stop:
            raise StopForward
        return new

    return act


def _keep_and_stop(kept: list[Tensor], value: Tensor) -> None:
    kept.append(value)
    raise StopForward


def _identity(module: nn.Module) -> tuple[object, ...]:
    """Return what changes when a shadow no longer shows the module: storages, writes to them, adapter switches."""
    storages = tuple(
        (tensor.data_ptr(), tensor.dtype, None if tensor.is_inference() else tensor._version)  # noqa: SLF001 - its clock
        for tensor in [*module.parameters(), *module.buffers()]
    )
    switches = tuple(
        (bool(child.disable_adapters), tuple(cast(Any, child).active_adapters), bool(child.merged))
        for child in module.modules()
        if hasattr(child, "disable_adapters") and hasattr(child, "merged")
    )
    return storages, switches
