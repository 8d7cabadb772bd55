"""What heads and MLPs add to the stream at the verdict token: the senders of a path, in either model.

    write of head h = O(z, all heads but h put to 0) - O(0),      write of an MLP = mlp_out

with O the *donor's own* output projection, so that a change of ``o_proj`` is sent as well. A norm behind attention
(sandwich norms) is applied to the sum the target would have: heads aren't additive there, a swapped head is exact.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import ParameterError
from workbench.hooks import Anatomy, Component, HooksBackend, Site
from workbench.hooks.executor import entered
from workbench.hooks.suffix import Mode, Suffix
from workbench.tokens import TokenBatch

SENDERS = ("heads+mlps", "heads", "mlps")
"""What can send."""

RECEIVING = (Component.Q, Component.K, Component.V, Component.MLP_OUT)
"""What can receive, beside the verdict; ``mlp_out`` stands for the MLP's input, of which it is a function."""

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def senders_of(anatomy: Anatomy, senders: str) -> tuple[Site, ...]:
    """Return the senders, block by block: heads as ``z`` sites, then the MLP.

    Raises:
        ParameterError: ``senders`` is none of :data:`SENDERS`.
    """
    if senders not in SENDERS:
        raise ParameterError("no such senders.", argument="senders", got=senders, allowed=SENDERS)
    found: list[Site] = []
    for layer in range(anatomy.n_layers):
        if "heads" in senders:
            found += [Site(Component.Z, layer, head) for head in range(anatomy.n_heads)]
        if "mlps" in senders:
            found.append(Site(Component.MLP_OUT, layer))
    return tuple(found)


def inputs_of(anatomy: Anatomy, sender: Site) -> tuple[Site, ...]:
    """Return where a sender itself receives: a head's query, key and value, or an MLP's input."""
    if sender.component is Component.MLP_OUT:
        return (sender,)
    head = int(sender.head or 0)
    shared = head // (anatomy.n_heads // anatomy.n_kv_heads)
    return (
        Site(Component.Q, sender.layer, head),
        Site(Component.K, sender.layer, shared),
        Site(Component.V, sender.layer, shared),
    )


def upstream(anatomy: Anatomy, sender: Site, receiver: Site | None) -> bool:
    """Return whether anything of a sender's write can reach a receiver; None is the verdict."""
    if receiver is None or sender.layer < receiver.layer:
        return True
    same_block = sender.layer == receiver.layer and receiver.component is Component.MLP_OUT
    return same_block and sender.component is Component.Z and not anatomy.parallel


def opened(executor: HooksBackend, batch: TokenBatch, *, mode: Mode | None = None) -> Suffix:
    """Run a batch once and keep everything paths begin, pass or end at, at the last token."""
    wanted = (Component.Z, Component.Q, Component.K, Component.V, Component.ATTN_OUT, Component.MLP_OUT)
    sites = [Site(component, layer) for layer in range(executor.anatomy.n_layers) for component in wanted]
    for site in sites:
        executor.anatomy.check(site)
    return Suffix(executor, batch, capture=sites, tokens=1, mode=mode)


class Writes(NamedTuple):
    """What one model's senders add to the stream, by block."""

    heads: tuple[Float[Tensor, "prompt head d_model"], ...]
    """Each head through its own output projection, without its bias."""
    mlps: tuple[Float[Tensor, "prompt d_model"], ...]
    """``mlp_out``."""

    @classmethod
    def of(cls, suffix: Suffix) -> "Writes":
        """Read them off a model's own activations."""
        columns, depth = suffix.columns(1), range(suffix.executor.anatomy.n_layers)
        heads = []
        for layer in depth:
            z = suffix.clean(Site(Component.Z, layer), columns)[:, 0]
            apart = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[None, :, :, None] * z[:, None]
            projected = _projected(suffix.executor, layer, torch.cat([apart, torch.zeros_like(apart[:, :1])], dim=1))
            heads.append(projected[:, :-1] - projected[:, -1:])
        mlps = tuple(suffix.clean(Site(Component.MLP_OUT, layer), columns)[:, 0] for layer in depth)
        return cls(tuple(heads), mlps)

    def of_others(self, order: Sequence[int]) -> "Writes":
        """Return for each prompt the writes on another prompt of the batch."""
        chosen = torch.tensor(list(order))
        return Writes(*(tuple(part[chosen.to(part.device)] for part in parts) for parts in self))


def changes(
    target: Suffix, own: Writes, given: Writes, senders: Sequence[Site]
) -> dict[Site, Float[Tensor, "prompt d_model"]]:
    """Return what replacing each sender's write adds to the target's stream; exactly 0 where both write the same.

    Args:
        target: The model that is given another write.
        own: Its own writes.
        given: What replaces them.
        senders: Which of them.

    Raises:
        ParameterError: Attention's output isn't its projection, followed by at most a norm.
    """
    found: dict[Site, Tensor] = {}
    after = {layer: _after(target, layer) for layer in {site.layer for site in senders if site.head is not None}}
    for site in senders:
        if site.head is None:
            before, now = own.mlps[site.layer], given.mlps[site.layer].to(own.mlps[site.layer])
            found[site] = now - before
            continue
        before = own.heads[site.layer][:, site.head]
        now = given.heads[site.layer][:, site.head].to(before)
        moved = (now != before).any(-1, keepdim=True)
        found[site] = torch.where(moved, after[site.layer](now - before), 0.0)
    return found


def _projected(executor: HooksBackend, layer: int, z: Float[Tensor, "prompt n head d_head"]) -> Tensor:
    """Run a block's own output projection, adapters and all."""
    port = executor.anatomy.port(Site(Component.Z, layer))
    raw = port.write(torch.zeros_like(z).flatten(-2), z)
    with entered(executor.module, around=executor.around):
        return executor.module.get_submodule(port.path)(raw)


def _after(target: Suffix, layer: int) -> Callable[[Tensor], Tensor]:
    """Return how a change of the projection's output changes what attention adds to the stream."""
    executor, columns = target.executor, target.columns(1)
    out = executor.anatomy.port(Site(Component.ATTN_OUT, layer))
    inner = executor.anatomy.port(Site(Component.Z, layer)).path.startswith(f"{out.path}.")
    module = executor.module.get_submodule(out.path)
    whole = _projected(executor, layer, target.clean(Site(Component.Z, layer), columns))[:, 0]
    there = target.clean(Site(Component.ATTN_OUT, layer), columns)[:, 0]

    def behind(value: Tensor) -> Tensor:
        if inner:
            return value
        with entered(executor.module, around=executor.around):
            return module(value)

    rebuilt = behind(whole)
    gap = float((rebuilt.double() - there.double()).abs().max() / there.double().abs().max().clamp(min=1e-12))
    if gap > _TOLERANCE.get(there.dtype, 3e-2):
        raise ParameterError(
            f"what attention adds in block {layer} isn't its output projection with at most a norm behind it.",
            argument="senders",
            got=f"a relative difference of {gap:.2g}",
            fix="Pass senders='mlps'.",
        )
    return (lambda change: change) if inner else (lambda change: behind(whole + change) - rebuilt)
