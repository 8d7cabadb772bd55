"""One batch, one model: put donor values into its cells, one row each, and read the verdict.

    effect(cell) = margin(model with donor's value in the cell) - margin(model)

through :class:`workbench.hooks.suffix.Suffix`, so that all cells of a batch cost about one forward and nothing is
approximated. Where donor and model hold the same bits the effect is exactly 0 and isn't computed.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.cross_model_patching.cells import Cell, cell_columns, sites_of, tokens_needed
from analyses.cross_model_patching.verdicts import VerdictIds
from workbench.errors import ParameterError
from workbench.hooks import HooksBackend, Site
from workbench.hooks.suffix import Mode, Row, Suffix, Write
from workbench.tokens import TokenBatch

Donor = Callable[[Site, Tensor], Tensor]
"""Returns what is put at a site, ``[prompt k *feature]``, for columns ``[prompt k]`` of the *target's* batch."""


class Swept(NamedTuple):
    """What one batch of rows gave; slots as shown."""

    effect: Float[np.ndarray, "prompt cell"]
    """Margin with the patch minus the margin without; exactly 0 where nothing was changed."""
    mass: Float[np.ndarray, "prompt cell"]
    """Probability of all labels together with the patch; NaN when not asked for."""
    zero: np.ndarray
    """Where donor and model held the same bits."""
    noise: float
    """How far null rows are from the model's own margin, at most."""


def entered(
    executor: HooksBackend, batch: TokenBatch, cells: Sequence[Cell], *, mode: Mode | None = None, more: int = 1
) -> Suffix:
    """Run a batch once and keep what its cells need, as target or as donor.

    Args:
        executor: Whose model.
        batch: The prompts.
        cells: What will be patched or given.
        mode: How rows run; see :class:`Suffix`.
        more: Columns to keep at least.
    """
    tokens = max(tokens_needed(cells, batch), more)
    shortest = int(batch.lengths.min())
    # Spans may begin where a shorter prompt of the batch has padding; positions may not.
    kept = None if tokens > shortest and any(cell.span for cell in cells) else tokens
    return Suffix(executor, batch, capture=sites_of(cells), tokens=kept, mode=mode)


def of_model(donor: Suffix) -> Donor:
    """Return the donor that gives another model's activations on the same prompts."""
    return donor.clean


def of_prompts(donor: Suffix, target: Suffix) -> Donor:
    """Return the donor that gives the same model's activations on other prompts, aligned from the right.

    Raises:
        ParameterError: The two have different numbers of prompts.
    """
    if len(donor.batch) != len(target.batch):
        raise ParameterError(
            "every prompt needs a donor.", argument="donor", got=len(donor.batch), allowed=str(len(target.batch))
        )
    shift = donor.batch.ids.shape[1] - target.batch.ids.shape[1]
    return lambda site, columns: donor.clean(site, columns + shift)


def of_others(donor: Suffix, order: Sequence[int]) -> Donor:
    """Return the donor that gives each prompt what the model holds on another prompt of the batch, from the right.

    Args:
        donor: The model that gives.
        order: For each prompt, the one it is given.
    """
    chosen = torch.tensor(list(order))
    return lambda site, columns: donor.clean(site, columns)[chosen.to(donor.batch.device)]


def of_noise(donor: Donor, target: Suffix, *, seed: int) -> Donor:
    """Return the donor that moves each token as far as ``donor`` does, in a random direction.

    Args:
        donor: What sets the length.
        target: What is moved.
        seed: Seed of the directions.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(site: Site, columns: Tensor) -> Tensor:
        own = target.clean(site, columns)
        change = (donor(site, columns).to(own) - own).flatten(2)
        drawn = torch.randn(change.shape, generator=generator).to(change)
        drawn = drawn * (change.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True))
        # A column that is named twice is one token, with one value.
        first = (columns[:, :, None] == columns[:, None, :]).float().argmax(-1).to(own.device)
        drawn = drawn.gather(1, first[..., None].expand_as(drawn))
        return own + drawn.unflatten(-1, own.shape[2:])

    return noise


def patch_row(cells: Sequence[Cell], target: Suffix, donor: Donor) -> Row:
    """Return one row that writes the donor's value into several cells at once."""
    writes = []
    for cell in cells:
        columns, present = cell_columns(cell, target.batch)
        values = donor(cell.site, columns)
        if not bool(present.all()):
            keep = present.to(values.device).view(-1, *([1] * (values.ndim - 1)))
            values = torch.where(keep, values, target.clean(cell.site, columns).to(values))
        writes.append(Write(cell.site, columns, values))
    return Row(tuple(writes))


def sweep(
    target: Suffix, groups: Sequence[Sequence[Cell]], donor: Donor, verdict: VerdictIds, *, mass: bool = False
) -> Swept:
    """Patch groups of cells, each group together in one row, and read the verdict.

    Args:
        target: The model that is patched.
        groups: Cells by row; one cell each for a map.
        donor: What is put there.
        verdict: What is read.
        mass: Whether the label mass is read too.
    """
    rows = [patch_row(group, target, donor) for group in groups]
    return read_rows(target, rows, verdict, mass=mass)


def read_rows(target: Suffix, rows: Sequence[Row], verdict: VerdictIds, *, mass: bool = False) -> Swept:
    """Run rows and read the verdict of each, as a difference from its null row."""
    found = target.run(rows, ids=verdict.ids, mass=mass and not verdict.scalar)
    patched, null = verdict.margin(found.logits), verdict.margin(found.null)
    if found.logsumexp is None:
        share = torch.full(patched.shape, torch.nan)
    else:
        share = verdict.mass(found.logits, found.logsumexp)
    own = verdict.margin(target.logits[:, list(verdict.ids)])
    return Swept(
        effect=as_numpy(patched - null),
        mass=as_numpy(share),
        zero=found.same.cpu().numpy(),
        noise=float((null - own[:, None]).abs().max()),
    )


def own_margin(target: Suffix, verdict: VerdictIds) -> tuple[np.ndarray, np.ndarray]:
    """Return margin and label mass of the untouched prompts, ``[prompt]`` each."""
    margin, mass = verdict.of_vocabulary(target.logits)
    return as_numpy(margin), as_numpy(mass)


def sizes(target: Suffix, cells: Sequence[Cell], donor: Donor) -> Float[np.ndarray, "prompt cell"]:
    """Return how far each patch moves its cell: ``|donor - own| / |own|``, over all tokens of the cell together."""
    found = []
    for cell in cells:
        columns, _ = cell_columns(cell, target.batch)
        own = target.clean(cell.site, columns).float().flatten(1)
        change = donor(cell.site, columns).float().to(own).flatten(1) - own
        found.append(change.norm(dim=-1) / own.norm(dim=-1).clamp(min=1e-12))
    return as_numpy(torch.stack(found, dim=1))


def as_numpy(values: Tensor) -> np.ndarray:
    """Return float64 on the CPU."""
    return values.detach().double().cpu().numpy()
