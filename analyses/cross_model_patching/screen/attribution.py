"""Attribution patching: what a patch would do, to first order, at every token of every site from one gradient.

    score(site, token) = <d margin / d activation, donor's activation - own activation>

with the gradient of the target model's verdict margin. AtP takes it at the target's own activations; IG takes the
mean over the straight line from the target's activations of one whole site (a component of a block with all of its
heads, at all tokens together) to the donor's, everything behind it reacting, at the nodes of Gauss and Legendre. A
site's IG scores therefore add up, over tokens and heads, to the exact effect of patching the whole site at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.cross_model_patching.verdicts import VerdictIds
from workbench.hooks import Component, HooksBackend, Patch, Site
from workbench.tokens import TokenBatch

Method = Literal["atp", "ig"]
"""How gradients are taken."""
METHODS: tuple[Method, ...] = ("atp", "ig")

Values = Mapping[Site, Float[Tensor, "prompt pos *feature"]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """One model's run of a batch."""

    margin: Float[Tensor, " prompt"]
    """Its verdict margin."""
    values: Values
    """Its activations."""
    gradients: Values
    """Gradient of the margin in each of them; empty where none was asked for."""


def trace(
    executor: HooksBackend, batch: TokenBatch, sites: Sequence[Site], verdict: VerdictIds, *, grad: bool = True
) -> Trace:
    """Run a batch once and keep activations and, by one backward pass, the margin's gradients at every token.

    Args:
        executor: Whose model.
        batch: The prompts.
        sites: Whole components.
        verdict: What is read.
        grad: Whether gradients are wanted.
    """
    run = executor.run(batch, capture=sites, grad=grad)
    margin = verdict.of_vocabulary(cast(Tensor, run.logits))[0]
    slopes = torch.autograd.grad(margin.sum(), [run.activations[site] for site in sites]) if grad else ()
    return Trace(
        margin=margin.detach(),
        values={site: run.activations[site].detach() for site in sites},
        gradients=dict(zip(sites, (slope.detach() for slope in slopes), strict=grad)),
    )


def scores(target: Trace, donor: Trace, batch: TokenBatch, *, gradients: Values) -> Float[Tensor, "prompt pos unit"]:
    """Return what every token of every unit scores; padding scores 0.

    Args:
        target: The model that would be patched.
        donor: The model that gives.
        batch: The prompts.
        gradients: Of the target; a unit is a site, or a head of one, in their order.
    """
    parts = []
    for site, slope in gradients.items():
        own = target.values[site]
        wide = torch.promote_types(own.dtype, torch.float32)
        change = donor.values[site].to(device=own.device, dtype=wide) - own.to(wide)
        part = (slope.to(wide) * change).sum(-1)
        parts.append(part if site.component.per_head else part[..., None])
    found = torch.cat(parts, dim=-1)
    return torch.where(batch.mask.to(found.device)[..., None], found, 0.0)


def line_gradients(
    executor: HooksBackend,
    batch: TokenBatch,
    verdict: VerdictIds,
    *,
    sites: Sequence[Site],
    ends: tuple[Trace, Trace],
    steps: int,
) -> Values:
    """Return the mean gradient of each site along the straight line between two models' activations of it.

    Args:
        executor: The target.
        batch: The prompts.
        verdict: What is read.
        sites: Whole components, each on a line of its own.
        ends: Target and donor; the target's must hold what enters the sites' blocks.
        steps: Nodes on each line.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    target, donor = ends
    found = {}
    for site in sites:
        own = target.values[site]
        change = donor.values[site].to(own) - own
        total = torch.zeros_like(own, dtype=torch.promote_types(own.dtype, torch.float32))
        # Where nothing differs the line is a point.
        points = [(0.0, 2.0)] if not bool(change.any()) else zip(nodes.tolist(), weights.tolist(), strict=True)
        for node, weight in points:
            between = own + (node + 1) / 2 * change
            total += weight / 2 * _slope(executor, batch, verdict, site=site, value=between, stream=target.values)
        found[site] = total
    return found


def _slope(
    executor: HooksBackend, batch: TokenBatch, verdict: VerdictIds, *, site: Site, value: Tensor, stream: Values
) -> Tensor:
    """Return the margin's gradient with a site held at given values; blocks below it don't run."""
    leaf = value.detach().clone().requires_grad_(True)
    run = executor.suffix(
        site.layer,
        stream[Site(Component.RESID_PRE, site.layer)],
        batch,
        edits=[Patch(site=site, values=leaf)],
        grad=True,
        check_edits=False,
    )
    margin = verdict.of_vocabulary(cast(Tensor, run.logits))[0]
    return torch.autograd.grad(margin.sum(), leaf)[0]


def traced_sites(sites: Sequence[Site], method: Method) -> tuple[Site, ...]:
    """Return what a trace has to hold: the sites, and for lines what enters their blocks."""
    entries = [Site(Component.RESID_PRE, site.layer) for site in sites] if method == "ig" else []
    return tuple(dict.fromkeys((*sites, *entries)))


def attributed(
    executor: HooksBackend,
    batch: TokenBatch,
    verdict: VerdictIds,
    *,
    sites: Sequence[Site],
    ends: tuple[Trace, Trace],
    method: Method,
    steps: int,
) -> Float[Tensor, "prompt pos unit"]:
    """Return the scores of one direction.

    Args:
        executor: The target.
        batch: The prompts.
        verdict: What is read.
        sites: Whole components.
        ends: Traces of target and donor.
        method: How gradients are taken.
        steps: Nodes of a line.
    """
    if method == "atp":
        gradients = {site: ends[0].gradients[site] for site in sites}
    else:
        gradients = line_gradients(executor, batch, verdict, sites=sites, ends=ends, steps=steps)
    return scores(*ends, batch, gradients=gradients)
