"""Naming the strongest head and neurons on one half of the items, and testing them on the other."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.tuco.clamp import to_numpy
from analyses.tuco.cuts import units
from analyses.tuco.heads.glimpse import Glimpse
from analyses.tuco.heads.projections import Projection
from analyses.tuco.heads.split import HeadSplit
from analyses.tuco.heads.work import HeadWork
from analyses.tuco.prompts import patched_gap
from workbench.hooks import Component, Site


def sum_neurons(work: HeadWork, chosen: Sequence[int], found: HeadSplit) -> None:
    """Add a batch of the first half to the sums by which neurons are named."""
    pushes = work.prompts.by_item(np.stack([to_numpy(layer) for layer in found.neurons], axis=1))
    work.neuron_sums.append(
        np.stack([np.nansum(work.oriented(pushes, view, chosen), axis=0) for view in work.views], axis=0)
    )


def name_strongest(work: HeadWork) -> None:
    """Name the head, and in each layer the neurons, whose push over the items done is largest in any view (step 4)."""
    done = work.prompts.done
    sums = [np.nansum(work.oriented(work.arrays["head_push"], view)[done], axis=0) for view in work.views]
    sizes = np.abs(np.stack(sums))
    rng = np.random.default_rng(work.seed)
    if work.confirm and sizes.max() > 0:
        view, layer, head = (int(i) for i in np.unravel_index(int(np.argmax(sizes)), sizes.shape))
        work.named, work.named_view = (layer, head), work.views[view]
        others = [tuple(int(i) for i in cell) for cell in np.argwhere(sizes.max(0) > 0) if tuple(cell) != (layer, head)]
        chosen = others[int(rng.integers(len(others)))] if others else None
        work.other = None if chosen is None else (chosen[0], chosen[1])
    elif work.confirm:
        work.prompts.notes.append("replacing a head in a real forward (no head's write changed).")
    if work.neurons:
        pushed = np.abs(np.sum(work.neuron_sums, axis=0)).max(0)
        count = min(work.neurons, pushed.shape[1])
        work.neuron_ids = np.argsort(-pushed, axis=1, kind="stable")[:, :count]
        work.random_ids = np.stack([_others(rng, ids, width=pushed.shape[1]) for ids in work.neuron_ids])


def _others(rng: np.random.Generator, ids: Int[np.ndarray, " neuron"], *, width: int) -> Int[np.ndarray, " neuron"]:
    """Draw as many neurons as were named, none of them named; all there are when most were named."""
    rest = np.setdiff1d(np.arange(width), ids)
    drawn = rng.permutation(rest if len(rest) >= len(ids) else width)
    return drawn[: len(ids)]


def try_named(work: HeadWork, chosen: Sequence[int], found: HeadSplit, *, own: Glimpse, other: Glimpse) -> None:
    """Test what was named on items it was not named on: the neurons' push, and the head in real forwards (step 5).

    Args:
        work: State of the run.
        chosen: Items of the batch.
        found: Their split.
        own: What the judge showed.
        other: What the clamped base showed.
    """
    for name, ids in (("neuron_push", work.neuron_ids), ("neuron_control_push", work.random_ids)):
        if ids.size:
            pushes = [
                to_numpy(layer[:, torch.from_numpy(rows)]) for layer, rows in zip(found.neurons, ids, strict=True)
            ]
            work.store(name, chosen, np.stack(pushes, axis=1))
    if work.named is None:
        return
    removed = _head_change(work, work.named, own=own, other=other)
    noise = torch.from_numpy(work.prompts.noise(chosen, removed.shape[-1], seed=work.seed))
    random = noise.to(removed) * removed.norm(dim=-1, keepdim=True) / noise.to(removed).norm(dim=-1, keepdim=True)
    changes = {"confirmed_effect": (work.named, removed), "confirmed_control": (work.named, random)}
    if work.other is not None:
        changes["confirmed_other"] = (work.other, _head_change(work, work.other, own=own, other=other))
    batch, gap = work.prompts.batch(chosen), to_numpy(found.judge_gap)
    cut = units("sublayer", n_layers=work.judge.anatomy.n_layers, parallel=work.judge.anatomy.parallel)
    for name, ((layer, _), change) in changes.items():
        unit = next(unit for unit in cut if unit.end == Site(Component.ATTN_OUT, layer))
        write = own.last[unit.end]
        values = (write.float() - change.to(write.device)).to(write.dtype)
        work.store(name, chosen, gap - patched_gap(work.judge, batch, unit=unit, values=values, readout=work.readout))


def _head_change(
    work: HeadWork, head: tuple[int, int], *, own: Glimpse, other: Glimpse
) -> Float[Tensor, "prompt d_model"]:
    """Return what fine-tuning changed in one head's write to the stream."""
    site = Site(Component.Z, head[0])
    writes = []
    for executor, side in ((work.judge, own), (work.base, other)):
        z = side.attention.z[site.layer][:, 0]
        part = torch.zeros_like(z)
        part[:, head[1]] = z[:, head[1]]
        writes.append(Projection.of(executor, site, dtype=z.dtype).write(z.flatten(1), part.flatten(1)))
    return writes[0] - writes[1].to(writes[0].device)
