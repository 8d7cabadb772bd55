"""Reading a verdict off the stream at any depth, through a model's own norm, head and whatever it does behind it.

The model itself runs with its blocks stepped over and a stream put in front of its final norm: logit caps and scales,
adapters and quantised heads act as they act, and no architecture is treated specially. At the top the lens is the
model's own answer, which is checked on every prompt.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analyses.cross_model_patching.verdicts import VerdictIds
from workbench.errors import ExecutorDisagreement
from workbench.hooks import Anatomy, Component, HooksBackend, Port, Site, forward_logits, forwards_replaced
from workbench.hooks.executor import entered, forward_kwargs
from workbench.hooks.observe import at_input
from workbench.hooks.suffix.ability import tolerance
from workbench.hooks.torch_backend import attach, passing
from workbench.tokens import TokenBatch


class Seen(NamedTuple):
    """What one model showed at the last prompt token."""

    logits: Float[Tensor, "prompt vocab"]
    """Its own logits."""
    values: Mapping[Site, Float[Tensor, "prompt *feature"]]
    """Captured sites."""


class Lens(NamedTuple):
    """A verdict read at every point."""

    margin: Float[Tensor, "prompt point"]
    """Verdict margin, first slot minus second as shown; float64."""
    mass: Float[Tensor, "prompt point"]
    """Probability of all labels together; NaN for a head's score."""


def points_of(anatomy: Anatomy, *, sublayers: bool) -> tuple[Site, ...]:
    """Return the points of the stream a lens reads: the embeddings, then the stream behind every block.

    Args:
        anatomy: What the model has.
        sublayers: Whether the stream between attention and MLP is read too, where there is one.
    """
    points = [Site(Component.RESID_PRE, 0)]
    for layer in range(anatomy.n_layers):
        middle = Site(Component.RESID_MID, layer)
        points += [middle] if sublayers and middle in anatomy.ports else []
        points.append(Site(Component.RESID_POST, layer))
    return tuple(points)


def depth_of(point: Site) -> float:
    """Return how deep a point lies: -1 for the embeddings, l behind block l, l - 0.5 inside it."""
    if point.component is Component.RESID_PRE:
        return point.layer - 1.0
    return point.layer - (0.5 if point.component is Component.RESID_MID else 0.0)


def see(executor: HooksBackend, batch: TokenBatch, sites: Sequence[Site]) -> Seen:
    """Run a model once and keep sites at the last prompt token.

    Args:
        executor: Whose model.
        batch: The prompts.
        sites: What is kept.
    """
    batch = at_input(executor.module, batch)
    last = torch.full((len(batch), 1), batch.ids.shape[1] - 1, device=batch.device)
    run = executor.run(batch, capture=list(sites), positions=last)
    if run.logits is None:
        raise RuntimeError("a run without logits")
    return Seen(run.logits, {site: run.activations[site][:, 0] for site in sites})


class Tail(NamedTuple):
    """What a model does with the stream behind its last block."""

    executor: HooksBackend
    """Whose model."""

    @property
    def modules(self) -> tuple[nn.Module, nn.Module]:
        """Return the final norm and the head."""
        anatomy = self.executor.anatomy
        return tuple(self.executor.module.get_submodule(p) for p in (anatomy.final_norm, anatomy.unembed))  # type: ignore[return-value]

    def logits(self, stream: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt vocab"]:
        """Return the logits the model gives for any streams, caps and scales included.

        Args:
            stream: What stands in front of the final norm.
        """
        module, anatomy = self.executor.module, self.executor.anatomy
        count = len(stream)
        one = TokenBatch(
            ids=torch.zeros(count, 1, dtype=torch.long),
            mask=torch.ones(count, 1, dtype=torch.bool),
            prompt_ids=tuple(str(i) for i in range(count)),
        )
        port = Port(path=anatomy.final_norm, side="in", feature=(anatomy.d_model,))
        blocks = list(module.get_submodule(anatomy.blocks_path).children())
        with ExitStack() as stack:
            stack.enter_context(entered(module, around=self.executor.around))
            stack.enter_context(forwards_replaced(blocks, passing(anatomy)))
            handle = attach(module.get_submodule(port.path), port, lambda raw: stream[:, None].to(raw))
            stack.callback(handle.remove)
            kwargs = forward_kwargs(module, at_input(module, one), logits="last")
            return forward_logits(module, kwargs)[:, -1]

    def read(self, seen: Seen, points: Sequence[Site], verdict: VerdictIds) -> Lens:
        """Read the verdict at every point of a stream.

        Args:
            seen: Of the same model, or of another.
            points: Where.
            verdict: What.
        """
        read = [verdict.of_vocabulary(self.logits(seen.values[point])) for point in points]
        margins, masses = zip(*read, strict=True)
        return Lens(torch.stack(margins, dim=-1), torch.stack(masses, dim=-1))


def top_error(lens: Lens, seen: Seen, verdict: VerdictIds) -> float:
    """Return how far the lens at the last point is from the model's own margin, at most.

    Raises:
        ExecutorDisagreement: Further than rounding: the model does something between its last block and its norm.
    """
    own, _ = verdict.of_vocabulary(seen.logits)
    error = float((lens.margin[:, -1].to(own) - own).abs().max())
    allowed = tolerance(seen.logits)
    if not error <= allowed:
        raise ExecutorDisagreement(
            "the lens at the last layer isn't the model's own answer, so what it reads below means nothing.",
            argument="pair",
            got=f"{error:.3g} {verdict.unit}",
            allowed=f"{allowed:.2g} in {seen.logits.dtype}",
        )
    return error
