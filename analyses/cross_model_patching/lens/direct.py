"""Direct contributions: what every component writes toward the verdict, as an exact sum.

With the final norm's scale frozen at its actual value the margin is linear in the stream, and the stream is a sum of
writes. A head's write is what the output projection itself makes of that head's values with the other heads at zero,
less what it makes of nothing (its bias, which is a part of its own); behind a norm of the attention's output that
norm's scale is frozen too. Adapters, biases and quantised layers act as they act. What isn't linear in the stream
stands beside the sum under a name of its own. Falsified where the parts don't add up to the model's margin.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analyses.cross_model_patching.lens.reading import Seen, Tail
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.readout import FrozenReadout, frozen_readout
from workbench.errors import ExecutorDisagreement
from workbench.hooks import Anatomy, Component, HooksBackend, Site
from workbench.hooks.executor import entered
from workbench.hooks.suffix.ability import tolerance

EMBEDDINGS, HEAD, ATTENTION, ATTENTION_BIAS, MLP = "embeddings", "z", "attn_out", "attn_bias", "mlp_out"
READOUT, CAP = "readout", "logit_cap"
"""What no write decides: offsets of norm and head (with labels of several tokens also what their sum bends), and what
the model does behind its head."""


class Part(NamedTuple):
    """One summand of a margin."""

    component: str
    """``z`` for a head, ``attn_out``, ``attn_bias``, ``mlp_out``, ``embeddings``, ``readout`` or ``logit_cap``."""
    layer: int = -1
    """Block; -1 for what belongs to none."""
    head: int = -1
    """Head; -1 for what belongs to none."""

    @property
    def patched(self) -> bool:
        """Whether it is a site whose whole effect can be had by patching."""
        return self.component in (HEAD, ATTENTION, MLP)

    @property
    def site(self) -> Site:
        """Return where in the model; for parts that are :attr:`patched`."""
        return Site(Component(self.component), self.layer, None if self.head < 0 else self.head)

    def __str__(self) -> str:
        """Return e.g. ``head 2.1`` or ``MLP 3``."""
        names = {HEAD: "head", ATTENTION: "attention", ATTENTION_BIAS: "attention bias", MLP: "MLP"}
        at = "" if self.layer < 0 else f" {self.layer}" + ("" if self.head < 0 else f".{self.head}")
        return names.get(self.component, self.component.replace("_", " ")) + at


class Sum(NamedTuple):
    """One model's margin as a sum."""

    parts: Float[Tensor, "prompt part"]
    """Contribution of every part, first slot minus second as shown; float64."""
    error: float
    """How far the parts' sum is from the model's own margin, at most."""


class _Reads(NamedTuple):
    """The verdict margin as a readout, before any cap of the logits."""

    verdict: VerdictIds

    @property
    def exact(self) -> bool:
        """Whether writes add up to it: with one token a label; the sum of several bends."""
        return len(self.verdict.first) == 1 and len(self.verdict.second) <= 1

    @property
    def unit(self) -> str:
        """That of the margin."""
        return self.verdict.unit

    def of_normed(self, head: nn.Module, normed: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead"]:
        """Return the margin."""
        return self.verdict.margin(head(normed)[..., list(self.verdict.ids)])


class _Along(NamedTuple):
    """The projection of a normed vector on one direction per prompt."""

    direction: Float[Tensor, "prompt d_model"]

    @property
    def exact(self) -> bool:
        """Whether the number is linear in the vector: yes."""
        return True

    @property
    def unit(self) -> str:
        """That of the direction."""
        return ""

    def of_normed(self, head: nn.Module, normed: Float[Tensor, "*lead d_model"]) -> Float[Tensor, " prompt"]:  # noqa: ARG002
        """Return ``<normed, direction>`` of each prompt."""
        return (normed.double() * self.direction.to(normed.device)).sum(-1)


def parts_of(anatomy: Anatomy) -> tuple[Part, ...]:
    """Return the parts of a margin: by layer its heads (or its attention, where heads can't be told) and its MLP."""
    found = [Part(EMBEDDINGS)]
    for layer in range(anatomy.n_layers):
        if splits(anatomy, layer):
            found += [Part(HEAD, layer, head) for head in range(anatomy.n_heads)]
            found.append(Part(ATTENTION_BIAS, layer))
        else:
            found.append(Part(ATTENTION, layer))
        found.append(Part(MLP, layer))
    return (*found, Part(READOUT), Part(CAP))


def splits(anatomy: Anatomy, layer: int) -> bool:
    """Return whether a block's heads are the input of one projection whose output is what attention writes."""
    inner, outer = (anatomy.ports.get(Site(c, layer)) for c in (Component.Z, Component.ATTN_OUT))
    return inner is not None and outer is not None and (inner.side, inner.fused, outer.side) == ("in", None, "out")


def sites_of_parts(parts: Sequence[Part]) -> tuple[Site, ...]:
    """Return what has to be captured for a split."""
    return (Site(Component.RESID_PRE, 0), *dict.fromkeys(part.site.whole for part in parts if part.patched))


def split(tail: Tail, seen: Seen, parts: Sequence[Part], verdict: VerdictIds) -> Sum:
    """Split a model's margin on every prompt.

    Args:
        tail: Of the model.
        seen: What the model showed; see :func:`sites_of_parts`, and the stream behind the last block.
        parts: Of :func:`parts_of`.
        verdict: What is read.

    Raises:
        ExecutorDisagreement: The parts don't add up: the stream isn't the sum of what its components write.
        ParameterError: The final norm isn't a gain on a normalised stream.
    """
    executor = tail.executor
    final = seen.values[Site(Component.RESID_POST, executor.anatomy.n_layers - 1)]
    with entered(executor.module, around=executor.around):
        frozen = frozen_readout(*tail.modules, final, readout=_Reads(verdict))
    found: dict[Part, Tensor] = {
        Part(EMBEDDINGS): _along(seen.values[Site(Component.RESID_PRE, 0)], frozen),
        Part(READOUT): frozen.bias,
        Part(CAP): verdict.of_vocabulary(seen.logits)[0].to(frozen.gap) - frozen.gap,
    }
    with entered(executor.module, around=executor.around):
        for layer in sorted({part.layer for part in parts if part.component == HEAD}):
            found |= _heads(executor, seen.values[Site(Component.Z, layer)], layer, frozen.direction)
    for part in parts:
        if part.component in (ATTENTION, MLP):
            found[part] = _along(seen.values[part.site], frozen)
    stacked = torch.stack([found[part].to(final.device) for part in parts], dim=-1)
    return Sum(stacked, _checked(stacked, seen, verdict))


def _checked(parts: Tensor, seen: Seen, verdict: VerdictIds) -> float:
    own = verdict.of_vocabulary(seen.logits)[0].to(parts)
    error = float((parts.sum(-1) - own).abs().max())
    allowed = tolerance(parts.abs().sum(-1).to(seen.logits.dtype))
    if not error <= allowed:
        raise ExecutorDisagreement(
            "direct contributions don't add up to the model's margin: its stream isn't the sum of what its components "
            "write.",
            argument="direct",
            got=f"off by {error:.3g} {verdict.unit}",
            allowed=f"{allowed:.2g} in {seen.logits.dtype}",
            fix="Pass direct=False.",
        )
    return error


def _along(write: Tensor, frozen: FrozenReadout) -> Tensor:
    return (write.double() * frozen.direction.to(write.device)).sum(-1)


def _heads(executor: HooksBackend, z: Tensor, layer: int, direction: Tensor) -> dict[Part, Tensor]:
    """Return what each head of a block, and the projection's bias, write along a direction."""
    anatomy = executor.anatomy
    inner, outer = (anatomy.ports[Site(c, layer)] for c in (Component.Z, Component.ATTN_OUT))
    project = executor.module.get_submodule(inner.path)
    count = z.shape[1]
    alone = z[:, None] * torch.eye(count, dtype=z.dtype, device=z.device)[None, :, :, None]
    nothing = project(torch.zeros_like(z).flatten(1)[:, None])[:, 0].double()
    writes = project(alone.flatten(2)).double() - nothing[:, None]
    direction, offset = direction.to(writes.device), torch.zeros_like(nothing[:, 0])
    # A write that doesn't leave by the projection's own parent goes through a norm behind it.
    if not f"{inner.path}.".startswith(f"{outer.path}."):
        whole = project(z.flatten(1)[:, None])[:, 0]
        frozen = frozen_readout(
            executor.module.get_submodule(outer.path), nn.Identity(), whole, readout=_Along(direction)
        )
        direction, offset = frozen.direction, frozen.bias
    pushed = torch.einsum("phd,pd->ph", writes, direction)
    found = {Part(HEAD, layer, head): pushed[:, head] for head in range(count)}
    found[Part(ATTENTION_BIAS, layer)] = (nothing * direction).sum(-1) + offset
    return found
