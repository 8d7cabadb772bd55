"""Plain torch hooks on the untouched Hugging Face module: the hot path.

Keeps the model's own attention kernel, cache and quantised layers; adds a few Python calls per site.
Hooks are global to a module, hence one lock per module, and they are always removed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.hooks.anatomy import Anatomy
from workbench.hooks.edits import Edit
from workbench.hooks.executor import (
    Around,
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
from workbench.hooks.heads import StopForward, check_writes, forward_logits
from workbench.hooks.observe import at_input, forward_accepts
from workbench.hooks.ports import Port, first, put_first
from workbench.hooks.program import Program, Record, prepare
from workbench.hooks.sites import Site
from workbench.tokens import TokenBatch

Action = Callable[[Tensor], Tensor | None]
"""What happens to a module's tensor: its replacement, or None to leave it."""


class HooksBackend:
    """Runs capture/edit programs with forward hooks.

    Args:
        module: A Hugging Face causal language model, or a decoder with a classification head.
        anatomy: Its anatomy, or that of a model with the same module tree.
        around: Makes a context every forward runs inside (an adapter switched off, say).
    """

    def __init__(self, module: nn.Module, anatomy: Anatomy, *, around: Around | None = None) -> None:
        self.module = module
        self.anatomy = anatomy
        self.around = around

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
        """Run the model once, without a cache.

        Args:
            batch: Left-padded prompts; moved to the model's device.
            edits: Applied in order, each where its site is computed.
            capture: Sites to read; values are those after every edit.
            positions: Columns of the padded batch captures keep, so that only these stay in memory.
            logits: "last" unembeds the last column only, "all" every column, "none" nothing (and the
                forward ends after the last site that is needed).
            grad: Captured tensors are part of the graph: ``torch.autograd.grad`` of anything computed
                from the run works on them, also when every parameter is frozen.
            stop_after: End the forward after this site; logits are None then.
            check_edits: Refuse edits that change nothing.

        Raises:
            UnknownSite: A site doesn't exist in this model.
            EditError: An edit doesn't fit, was never reached, or changed nothing.
            ParameterError: Positions, the batch or ``logits`` are outside what the model takes.
        """
        check_logits(logits)
        batch = at_input(self.module, batch)
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
        with entered(self.module, around=self.around, grad=grad):
            return self._execute(
                program, batch, logits=logits, stop=last_stop(program, logits=logits, stop_after=stop_after)
            )

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
        """Resume from resid_pre of a block; the blocks below don't run.

        Masks, rotary embeddings and sliding windows are still built by the model itself.

        Args:
            layer: Block that runs first.
            resid: What enters it; cast to the model's dtype.
            batch: The prompts ``resid`` belongs to.
            edits: See :meth:`run`; at or above ``layer``.
            capture: See :meth:`run`; at or above ``layer``.
            positions: See :meth:`run`.
            logits: See :meth:`run`.
            grad: See :meth:`run`.
            check_edits: See :meth:`run`.

        Raises:
            UnknownSite: See :meth:`run`.
            EditError: See :meth:`run`; also when ``resid`` has another shape.
            ParameterError: See :meth:`run`.
        """
        check_logits(logits)
        batch = at_input(self.module, batch)
        program = prepare(
            self.anatomy, batch, edits=edits, capture=capture, positions=positions, grad=grad, check_edits=check_edits,
            start=layer, resid=resid,
        )  # fmt: skip
        with entered(self.module, around=self.around, grad=grad), self._skipping(layer):
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
        """Continue the prompts with the model's own ``generate``, greedily unless told otherwise; return both parts.

        Edits of particular prompt tokens (those with positions, Patch, Subspace) act on the prompt's
        forward and reach later tokens through the cache; the others act on every token. The random
        state is put back afterwards.

        Args:
            batch: Left-padded prompts.
            edits: See :meth:`run`.
            max_new_tokens: Tokens to add at most.
            check_edits: See :meth:`run`.
            **kwargs: Handed to ``generate``.

        Raises:
            UnknownSite: See :meth:`run`.
            EditError: See :meth:`run`.
            ParameterError: The model has a classification head.
        """
        check_writes(self.module)
        batch = at_input(self.module, batch)
        steps = Steps(prepare(self.anatomy, batch, edits=edits, check_edits=check_edits))
        with (
            entered(self.module, around=self.around),
            random_state_kept(self.module),
            self._hooks(steps.prompt, steps.visit, stop=None),
        ):
            own = generation_kwargs(self.module, batch, max_new_tokens=max_new_tokens, kwargs=kwargs)
            out = self.module.generate(**own)  # type: ignore[operator]
        steps.prompt.finish(steps.record)
        return out

    def run_cached(
        self,
        batch: TokenBatch,
        *,
        capture: Sequence[Site],
        forward: Mapping[str, Any],
        positions: Int[Tensor, "prompt k"] | None = None,
        logits: LogitsKept = "none",
    ) -> Run:
        """Run columns that continue, or fill, a cache of keys and values, and capture sites.

        Without logits, blocks behind the last captured site don't run and leave their part of the cache as it is.

        Args:
            batch: The columns to run.
            capture: Sites to read.
            forward: Keywords of the model's forward that know the columns before: mask, position ids, cache.
            positions: Columns captures keep; all of them by default.
            logits: See :meth:`run`.

        Raises:
            UnknownSite: See :meth:`run`.
            ParameterError: See :meth:`run`.
        """
        program = prepare(self.anatomy, batch, capture=capture, positions=positions)
        with entered(self.module, around=self.around):
            stop = last_stop(program, logits=logits, stop_after=None)
            return self._execute(program, batch, logits=logits, stop=stop, forward=forward)

    def _execute(
        self,
        program: Program,
        batch: TokenBatch,
        *,
        logits: LogitsKept,
        stop: Site | None,
        forward: Mapping[str, Any] | None = None,
    ) -> Run:
        record = Record()
        kwargs = forward_kwargs(self.module, batch, logits=logits) | dict(forward or {})
        out: Tensor | None = None
        with (
            self._hooks(program, lambda site, value: program.visit(site, value, record), stop=stop),
            self._unembedding(logits),
        ):
            try:
                out = forward_logits(self.module, kwargs)
            except StopForward:
                out = None
        return Run(logits=kept_logits(out, logits), activations=program.finish(record))

    @contextmanager
    def _hooks(
        self, program: Program, act: Callable[[Site, Tensor], Tensor | None], *, stop: Site | None
    ) -> Iterator[None]:
        points = program.points if stop is None or stop in program.points else (*program.points, stop)
        handles: list[torch.utils.hooks.RemovableHandle] = []
        try:
            for site in points:
                port = self.anatomy.ports[site]
                handles.append(attach(self.module.get_submodule(port.path), port, _action(act, site, port, stop=stop)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _unembedding(self, logits: LogitsKept) -> Iterator[None]:
        """Where ``forward`` has no logits_to_keep, cut the unembedding's input to the last column."""
        if logits == "all" or forward_accepts(self.module, "logits_to_keep"):
            yield
            return
        port = Port(path=self.anatomy.unembed, side="in", feature=(self.anatomy.d_model,))
        handle = attach(self.module.get_submodule(port.path), port, lambda hidden: hidden[:, -1:])
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _skipping(self, layer: int) -> Iterator[None]:
        blocks = list(self.module.get_submodule(self.anatomy.blocks_path).children())[:layer]
        with forwards_replaced(blocks, passing(self.anatomy)):
            yield


@contextmanager
def forwards_replaced(modules: Iterable[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Let another function stand in for the forward of some modules; what was there is put back, whatever happens.

    Hooks of the modules still run; their own computation doesn't.

    Args:
        modules: Whose forward is replaced.
        forward: Called with what each module would have been called with.
    """
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(forward_replaced(module, forward))
        yield


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Do the same to one module; see :func:`forwards_replaced`."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        _restore_forward(module, own)


def _restore_forward(module: nn.Module, own: Callable[..., Any] | None) -> None:
    if own is None:
        module.__dict__.pop("forward", None)
    else:
        module.__dict__["forward"] = own


def passing(anatomy: Anatomy) -> Callable[..., Any]:
    """Return what stands in for a block's forward that hands the stream on."""
    return _pass_tuple if anatomy.tuple_blocks else _pass


def _pass(hidden_states: Tensor, *_args: object, **_kwargs: object) -> Tensor:
    return hidden_states


def _pass_tuple(hidden_states: Tensor, *_args: object, **_kwargs: object) -> tuple[Tensor]:
    return (hidden_states,)


def _action(act: Callable[[Site, Tensor], Tensor | None], site: Site, port: Port, *, stop: Site | None) -> Action:
    def action(raw: Tensor) -> Tensor | None:
        new = act(site, port.read(raw))
        if site == stop:
            raise StopForward
        return None if new is None else port.write(raw, new)

    return action


def attach(module: nn.Module, port: Port, action: Action) -> torch.utils.hooks.RemovableHandle:
    """Call ``action`` with the tensor at one end of a module; what it returns takes that tensor's place.

    Args:
        module: The module of the port.
        port: Which end of it.
        action: Gets the whole tensor, not the port's view of it; None leaves it.
    """

    def leaving(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        new = action(first(output))
        return None if new is None else put_first(output, new)

    def entering(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = action(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        name = next(key for key, value in kwargs.items() if isinstance(value, Tensor))
        new = action(kwargs[name])
        return None if new is None else (args, {**kwargs, name: new})

    if port.side == "out":
        return module.register_forward_hook(leaving)
    return module.register_forward_pre_hook(entering, with_kwargs=True)
