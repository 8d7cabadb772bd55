"""What stands outside a circuit: the mean over other items, or the other model's value, at the last positions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from analyses.cross_model_patching.sweeping import Donor
from workbench.hooks import Site
from workbench.hooks.suffix import Suffix
from workbench.pairs import Side

Ablation = Literal["mean", "other_model"]
ABLATIONS: tuple[Ablation, ...] = ("mean", "other_model")
SIDES: tuple[Side, ...] = ("base", "judge")


@dataclass(slots=True, kw_only=True, eq=False)
class Means:
    """Sums over the prompts of one half, both orders together, site by site and position by position."""

    sites: tuple[Site, ...]
    """Whole components."""
    last_k: int
    """Positions from the end."""
    sums: dict[tuple[Side, Site], Tensor] = field(default_factory=dict)
    """``[k *feature]``, float64."""
    count: int = 0
    """Prompts in them."""

    def add(self, ready: dict[Side, Suffix]) -> None:
        """Take in a batch of the half the means are of, of both models."""
        for side, suffix in ready.items():
            for site in self.sites:
                own = suffix.clean(site, suffix.columns(self.last_k)).double().sum(0)
                self.sums[side, site] = self.sums.get((side, site), torch.zeros_like(own)) + own
        self.count += len(ready["base"].batch)

    def donor(self, suffix: Suffix, side: Side, inside: Sequence[bool], n_orders: int) -> Donor:
        """Return the donor of the means; an item that is in them gets the mean over the others.

        Args:
            suffix: Whose prompts are ablated.
            side: Which model it is.
            inside: For each item of the batch, whether the means hold it.
            n_orders: Prompts of an item.
        """
        member = torch.tensor(list(inside)).repeat_interleave(n_orders)
        first = suffix.batch.ids.shape[1] - self.last_k
        known: dict[Site, Tensor] = {}

        def give(site: Site, columns: Tensor) -> Tensor:
            if site.whole not in known:
                known[site.whole] = self._means(suffix, side, site.whole, member, n_orders)
            values = known[site.whole]
            at = (columns - first).to(values.device)
            picked = values[torch.arange(len(values), device=values.device)[:, None], at]
            return picked if site.head is None else picked[:, :, site.head]

        return give

    def _means(self, suffix: Suffix, side: Side, site: Site, member: Bool[Tensor, " prompt"], n_orders: int) -> Tensor:
        own = suffix.clean(site, suffix.columns(self.last_k))
        total = self.sums[side, site].to(own.device)
        summed = own.double().unflatten(0, (-1, n_orders)).sum(1).repeat_interleave(n_orders, 0)
        shape = (-1, *([1] * (own.ndim - 1)))
        inside = member.to(own.device).view(shape)
        left = torch.where(inside, float(self.count - n_orders), float(self.count))
        # The one item of a half has no others: it keeps its own mean.
        alone = inside & (left <= 0)
        means = (total - torch.where(inside & ~alone, summed, torch.zeros_like(summed))) / left.clamp(min=1.0)
        return torch.where(alone, summed / n_orders, means).to(own)
