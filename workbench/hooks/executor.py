"""What every executor offers, and what they share: the run's result, the forward's keywords, suffix injection."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.errors import ParameterError
from workbench.hooks.activations import Activations
from workbench.hooks.anatomy import Anatomy, module_lock
from workbench.hooks.edits import Edit
from workbench.hooks.observe import evaluation_mode, forward_accepts, input_device, mask_overflows
from workbench.hooks.program import Program, Record
from workbench.hooks.sites import Site
from workbench.tokens import TokenBatch

LogitsKept = Literal["last", "all", "none"]
"""Which rows of logits a run returns; "last" doesn't unembed the other positions."""

Around = Callable[[], AbstractContextManager[Any]]
"""Makes a context every forward runs inside, e.g. one that switches an adapter off."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What one forward pass gave."""

    logits: Float[Tensor, "prompt *pos vocab"] | None
    """[prompt vocab] of the last column, [prompt pos vocab], or None ("none", or stopped before).

    Labels stand in place of the vocabulary where the model has a classification head.
    """
    activations: Activations
    """Captured sites."""


@runtime_checkable
class Executor(Protocol):
    """One way of running capture/edit programs on one model; all executors give the same numbers."""

    @property
    def anatomy(self) -> Anatomy:
        """Return the sites of the model."""
        ...

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
        ...

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
        """Resume from resid_pre of a block; see :meth:`HooksBackend.suffix`."""
        ...

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
        ...


def check_logits(logits: str) -> None:
    """Refuse an unknown choice of logits.

    Raises:
        ParameterError: It isn't "last", "all" or "none".
    """
    if logits not in ("last", "all", "none"):
        raise ParameterError("unknown choice.", argument="logits", got=logits, allowed=("last", "all", "none"))


def last_stop(program: Program, *, logits: LogitsKept, stop_after: Site | None) -> Site | None:
    """Return the point after which nothing is needed any more; None runs to the end."""
    if stop_after is not None:
        return stop_after.whole
    return program.points[-1] if logits == "none" and program.points else None


def check_padding(module: nn.Module, batch: TokenBatch, *, eager: bool = False) -> None:
    """Refuse padding that would turn a model's numbers into not-a-number.

    Raises:
        ParameterError: The batch has padding, and the model runs eager attention in float64.
    """
    if mask_overflows(module, eager=eager) and not bool(batch.mask.all()):
        raise ParameterError(
            "eager attention takes its softmax in float32, where float64's mask of padding overflows to NaN.",
            argument="batch",
            got=f"rows of {batch.lengths.tolist()} tokens",
            fix="Load the pair in float32 (or with attention='sdpa', where the architecture has it), or run prompts "
            "of equal length together, e.g. one at a time with batch.row(i).",
        )


def forward_kwargs(module: nn.Module, batch: TokenBatch, *, logits: LogitsKept, eager: bool = False) -> dict[str, Any]:
    """Return the keywords of one forward pass without a cache.

    Args:
        module: The model.
        batch: Its inputs.
        logits: Which logits are wanted.
        eager: Whether attention is eager whatever the model's own setting says.

    Raises:
        ParameterError: The batch has padding, and the model takes no position ids or runs eager attention in float64.
    """
    check_padding(module, batch, eager=eager)
    kwargs: dict[str, Any] = dict(batch.forward_kwargs())
    if not forward_accepts(module, "position_ids"):
        if not bool(batch.mask.all()):
            raise ParameterError(
                f"{type(module).__name__} takes no position ids, so that left padding would shift its positions.",
                argument="batch",
                got=f"rows of {batch.lengths.tolist()} tokens",
                fix="Run prompts of equal length together, e.g. one at a time with batch.row(i).",
            )
        del kwargs["position_ids"]
    if logits != "all" and forward_accepts(module, "logits_to_keep"):
        kwargs["logits_to_keep"] = 1
    return kwargs | {"use_cache": False}


def kept_logits(logits: Tensor | None, keep: LogitsKept) -> Tensor | None:
    """Return the logits a caller asked for from those the model gave."""
    if logits is None or keep == "none":
        return None
    return logits[:, -1] if keep == "last" else logits


def generation_kwargs(
    module: nn.Module, batch: TokenBatch, *, max_new_tokens: int, kwargs: dict[str, Any], eager: bool = False
) -> dict[str, Any]:
    """Return the keywords of a generation: greedy unless told otherwise.

    Raises:
        ParameterError: See :func:`check_padding`.
    """
    check_padding(module, batch, eager=eager)
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long(), "max_new_tokens": max_new_tokens}
    return {"do_sample": False} | kwargs | inputs


class Steps:
    """Hands the prompt's pass of a generation to one program and every later pass to what remains of it."""

    def __init__(self, program: Program) -> None:
        self.prompt, self.record = program, Record()
        self._later, self._reached = program.after_prompt(), set[Site]()
        self._spare = Record()

    def visit(self, site: Site, value: Tensor) -> Tensor | None:
        """See :meth:`Program.visit`; a site's first pass is the prompt's."""
        if site in self._reached:
            return self._later.visit(site, value, self._spare)
        self._reached.add(site)
        return self.prompt.visit(site, value, self.record)


@contextmanager
def entered(module: nn.Module, *, around: Around | None = None, grad: bool = False) -> Iterator[None]:
    """Hold the module's lock, in evaluation mode, with gradients as asked; everything is put back."""
    with ExitStack() as stack:
        stack.enter_context(module_lock(module))
        stack.enter_context(nullcontext() if around is None else around())
        stack.enter_context(evaluation_mode(module))
        stack.enter_context(torch.enable_grad() if grad else torch.no_grad())
        yield


@contextmanager
def random_state_kept(module: nn.Module) -> Iterator[None]:
    """Put the random state back: sampling is the only thing here that draws."""
    device = input_device(module)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
