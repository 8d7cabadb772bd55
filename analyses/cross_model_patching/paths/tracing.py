"""Path patching of one batch: what a sender's write does along one path only.

Step one lets the write in and holds every later attention output at its clean value (with ``"attention+mlp"`` every
later MLP too), so that at the verdict token it travels by MLPs (or not at all). The verdict then shows the *direct*
path; the inputs of receivers are recorded. Step two gives the model these recorded inputs alone, nothing held: the
path sender -> receiver -> anything. Both steps are rows of the suffix engine. One null row per birth block goes
through step one as well; what it reads is subtracted, so that kernels don't write where senders don't.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.cross_model_patching.paths.writes import upstream
from analyses.cross_model_patching.sweeping import read_rows
from analyses.cross_model_patching.verdicts import VerdictIds
from workbench.hooks import Component, Site
from workbench.hooks.suffix import Row, Suffix, Write

Frozen = Literal["attention", "attention+mlp"]
"""What step one holds at its clean value: MLPs between sender and receiver react, or nothing does."""


class Traced(NamedTuple):
    """Effects on the margin, slots as shown."""

    total: Float[np.ndarray, "prompt sender"]
    """Of the write by every path; NaN where it wasn't asked for."""
    along: Float[np.ndarray, "prompt receiver sender"]
    """Of the path through each receiver; exactly 0 where nothing can flow."""
    noise: float
    """How far null rows are from the model's own margin, at most."""


def trace(
    target: Suffix,
    change: Mapping[Site, Float[Tensor, "prompt d_model"]],
    receivers: Sequence[Site | None],
    verdict: VerdictIds,
    *,
    frozen: Frozen = "attention",
    total: bool = False,
) -> Traced:
    """Follow every sender's change of write to every receiver and from there to the verdict.

    Args:
        target: The model, as :func:`writes.opened` ran it.
        change: What is added to the stream by sender; see :func:`writes.changes`.
        receivers: Queries, keys and values of heads, ``mlp_out`` for an MLP's input, None for the verdict.
        verdict: What is read.
        frozen: What step one holds.
        total: Whether the effect by every path is measured too.
    """
    senders = list(change)
    along = np.zeros((len(target.batch), len(receivers), len(senders)))
    whole = np.full((len(target.batch), len(senders)), np.nan)
    noise = 0.0
    if total:
        found = read_rows(target, [Row((_entry(target, s, change[s]),)) for s in senders], verdict)
        whole, noise = found.effect, found.noise
    if None in receivers:
        found = read_rows(target, [step_one(target, s, change[s], frozen=frozen) for s in senders], verdict)
        along[:, receivers.index(None)] = found.effect
        noise = max(noise, found.noise)
    passed = _recorded(target, change, [r for r in receivers if r is not None], frozen=frozen)
    if passed:
        columns = target.columns(1)
        rows = [Row((Write(r, columns, values[:, None]),)) for (r, _), values in passed.items()]
        found = read_rows(target, rows, verdict)
        noise = max(noise, found.noise)
        for k, (receiver, sender) in enumerate(passed):
            along[:, receivers.index(receiver), senders.index(sender)] = found.effect[:, k]
    return Traced(whole, along, noise)


def step_one(
    target: Suffix, sender: Site, change: Float[Tensor, "prompt d_model"], *, frozen: Frozen, live: Site | None = None
) -> Row:
    """Return the row that lets a change in and holds what may not react.

    Args:
        target: The model.
        sender: Where the change enters.
        change: What is added to the stream.
        frozen: What is held.
        live: An MLP that reacts all the same: the one whose input is recorded.
    """
    columns, parts = target.columns(1), [_entry(target, sender, change)]
    for layer in range(sender.layer, target.executor.anatomy.n_layers):
        if layer > sender.layer:
            parts.append(_held(target, Site(Component.ATTN_OUT, layer), columns))
        mlp = Site(Component.MLP_OUT, layer)
        if frozen == "attention+mlp" and mlp not in (sender, live):
            parts.append(_held(target, mlp, columns))
    return Row(tuple(parts))


def _entry(target: Suffix, sender: Site, change: Tensor) -> Write:
    component = Component.MLP_OUT if sender.head is None else Component.ATTN_OUT
    return Write(Site(component, sender.layer), target.columns(1), change[:, None], add=True)


def _held(target: Suffix, site: Site, columns: Tensor) -> Write:
    return Write(site, columns, target.clean(site, columns))


def _recorded(
    target: Suffix, change: Mapping[Site, Tensor], receivers: Sequence[Site], *, frozen: Frozen
) -> dict[tuple[Site, Site], Tensor]:
    """Return each receiver's input under step one, by (receiver, sender); those that nothing can reach are left out."""
    anatomy, found = target.executor.anatomy, {}
    for live, group in _groups(receivers, frozen=frozen):
        reached = [s for s in change if any(upstream(anatomy, s, r) for r in group)]
        if not reached:
            continue
        first = {s.layer: s for s in reversed(reached)}
        nulls = list(first.values())
        rows = [step_one(target, s, change[s], frozen=frozen, live=live) for s in reached]
        rows += [step_one(target, s, torch.zeros_like(change[s]), frozen=frozen, live=live) for s in nulls]
        # The verdict isn't wanted here: one logit keeps the unembedding small.
        ran = target.run(rows, ids=[0], read=list(group))
        for receiver in group:
            clean, read = target.clean(receiver, target.columns(1))[:, 0], ran.read[receiver]
            for k, sender in enumerate(reached):
                if not upstream(anatomy, sender, receiver):
                    continue
                null = read[:, len(reached) + nulls.index(first[sender.layer])]
                moved = (change[sender] != 0).any(-1).view(-1, *([1] * (clean.ndim - 1)))
                found[receiver, sender] = torch.where(moved, clean + (read[:, k] - null), clean)
    return found


def _groups(receivers: Sequence[Site], *, frozen: Frozen) -> Iterable[tuple[Site | None, list[Site]]]:
    """Yield receivers that one row can record, and the MLP that has to react for it."""
    if frozen == "attention":
        yield None, list(receivers)
        return
    yield None, [r for r in receivers if r.component is not Component.MLP_OUT]
    for receiver in receivers:
        if receiver.component is Component.MLP_OUT:
            yield receiver, [receiver]


def check_rows(
    target: Suffix, change: Mapping[Site, Tensor], verdict: VerdictIds, *, frozen: Frozen, seed: int
) -> float:
    """Re-run random rows of step one as full forwards and return the largest difference, logits.

    Raises:
        ExecutorDisagreement: They differ by more than rounding does.
    """
    rows = [step_one(target, sender, moved, frozen=frozen) for sender, moved in change.items()]
    return target.check(rows, ids=verdict.ids, seed=seed)


def effects_by_item(traced: Traced, *, orders: int) -> Float[np.ndarray, "item order receiver sender"]:
    """Return effects along the paths, item by item."""
    return traced.along.reshape(-1, orders, *traced.along.shape[1:])
