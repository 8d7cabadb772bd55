"""Exact effects beside screened ones: every unit at the last tokens, and chosen patches of whole parts of a prompt."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.cross_model_patching.cells import grid
from analyses.cross_model_patching.screen.regions import Columns, region_columns
from analyses.cross_model_patching.sweeping import of_model, read_rows, sweep
from analyses.cross_model_patching.verdicts import VerdictIds
from workbench.hooks import Component, HooksBackend, Site
from workbench.hooks.suffix import Row, Suffix, Write
from workbench.tokens import TokenBatch

Give = Callable[[Site, Columns], Tensor]
"""Returns what is written at a site, ``[prompt k *feature]``, for the columns of a part."""


class Place(NamedTuple):
    """One exact patch: the donor's values at some sites, at all tokens of a part of the prompt together."""

    sites: tuple[Site, ...]
    """Components or heads; several are patched in one run."""
    region: str
    """Part of the prompt; ``-3`` is the third token from the end."""


def held_stream(n_layers: int, region: str) -> Place:
    """Return the patch that holds a part's residual stream to the donor's in every block.

    What the verdict's token can learn of these tokens is then what the donor's stream holds of them, read through the
    target's own weights.
    """
    return Place(tuple(Site(Component.RESID_PRE, layer) for layer in range(n_layers)), region)


def entered(executor: HooksBackend, batch: TokenBatch, places: Iterable[Place]) -> Suffix:
    """Run a batch once and keep every token of what the places need, as target or as donor."""
    sites = dict.fromkeys(site.whole for place in places for site in place.sites)
    return Suffix(executor, batch, capture=tuple(sites), tokens=None)


def of_model_at(donor: Suffix) -> Give:
    """Return what gives another model's activations on the same prompts."""
    return lambda site, part: donor.clean(site, part.columns)


def of_change_elsewhere(donor: Suffix, target: Suffix, order: Sequence[int]) -> Give:
    """Return what moves each prompt by what tells donor from target on *another* prompt, in the same part.

    Tokens are matched from the right end of the part. Giving the other prompt's activations themselves would also put
    the other prompt's text there, and take away what is judged.

    Args:
        donor: The model that gives.
        target: The model that is patched.
        order: For each prompt, the one whose change it is given.
    """
    other = torch.tensor(list(order))

    def give(site: Site, part: Columns) -> Tensor:
        own = target.clean(site, part.columns)
        change = (donor.clean(site, part.columns).to(own) - own)[other.to(own.device)]
        # A repeated column is one token, with one value: that of its right-most copy.
        copies = part.columns[:, :, None] == part.columns[:, None, :]
        last = (copies * torch.arange(copies.shape[-1])).argmax(-1).to(own.device)
        change = change.flatten(2)
        change = change.gather(1, last[..., None].expand_as(change)).unflatten(-1, own.shape[2:])
        missing = (part.n_tokens[other] == 0).to(own.device).view(-1, *([1] * (own.ndim - 1)))
        return own + torch.where(missing, 0.0, change)

    return give


def rows_of(target: Suffix, places: Sequence[Place], give: Give) -> list[Row]:
    """Return one row per place; prompts without the part keep what they have."""
    parts = {place.region: region_columns(target.batch, place.region) for place in places}
    rows = []
    for place in places:
        part, writes = parts[place.region], []
        for site in place.sites:
            own, values = target.clean(site, part.columns), give(site, part)
            there = (part.n_tokens > 0).to(own.device).view(-1, *([1] * (own.ndim - 1)))
            writes.append(Write(site, part.columns, torch.where(there, values.to(own), own)))
        rows.append(Row(tuple(writes)))
    return rows


class Exact(NamedTuple):
    """What exact patches did to a batch; slots as shown."""

    effect: Float[np.ndarray, "prompt place"]
    """Margin with the patch minus the margin without."""
    noise: float
    """How far null rows are from the model's own margin, at most."""


def exact_effects(
    target: Suffix, places: Sequence[Place], give: Give, verdict: VerdictIds, *, check: int | None = None
) -> Exact:
    """Run places and read the verdict.

    Args:
        target: The model that is patched, entered with these places.
        places: What is patched, one row each.
        give: What is put there.
        verdict: What is read.
        check: Seed of the choice of rows that are run again as full forwards; None checks none.

    Raises:
        ExecutorDisagreement: A checked row differs from the full forward.
    """
    rows = rows_of(target, places, give)
    if check is not None:
        target.check(rows, ids=verdict.ids, seed=check)
    found = read_rows(target, rows, verdict)
    return Exact(found.effect, found.noise)


def last_effects(
    target: Suffix, donor: Suffix, sites: Sequence[Site], verdict: VerdictIds, *, count: int
) -> tuple[Float[np.ndarray, "prompt unit back"], float]:
    """Return the exact effect of every unit at each of the last tokens, the last one first, and the noise.

    Args:
        target: The model that is patched.
        donor: The model that gives.
        sites: Whole components.
        verdict: What is read.
        count: How many last tokens.
    """
    cells = [
        cell
        for site in sites
        for cell in grid(
            target.executor.anatomy,
            sites=(site.component.value,),
            last_k=count,
            last_k_heads=count,
            layers=[site.layer],
        )
    ]
    found = sweep(target, [(cell,) for cell in cells], of_model(donor), verdict)
    return found.effect.reshape(len(found.effect), -1, count)[..., ::-1], found.noise
