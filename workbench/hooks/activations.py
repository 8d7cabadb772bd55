"""What was read: activations labelled by site, prompt and column."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import UnknownSite
from workbench.hooks.sites import Site


class MissingSite(UnknownSite, KeyError):
    """A site that wasn't captured; a KeyError too, so that mapping methods work as usual."""

    def __str__(self) -> str:
        """Return the message as it is; KeyError would quote it."""
        return self._message()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Activations(Mapping[Site, Tensor]):
    """Captured tensors by site, as they were after every edit."""

    tensors: Mapping[Site, Float[Tensor, "prompt pos *feature"]]
    """[prompt pos d]; [prompt pos head d_head] for whole q, k, v, z. With positions, k columns in place of pos."""
    prompt_ids: tuple[str, ...]
    """Label of each row."""
    positions: Int[Tensor, "prompt k"] | None = None
    """Columns that were kept; None is all, in the padded batch's order."""

    def __eq__(self, other: object) -> bool:
        """Compare by identity; Mapping would compare tensors elementwise."""
        return self is other

    def __hash__(self) -> int:
        """Hash by identity."""
        return id(self)

    def __getitem__(self, site: Site) -> Tensor:
        """Return the activation at ``site``; one head of a captured whole component is found too.

        Raises:
            MissingSite: Nothing was captured there (an UnknownSite and a KeyError).
        """
        if site in self.tensors:
            return self.tensors[site]
        if site.head is not None and site.whole in self.tensors and site.head < self.tensors[site.whole].shape[2]:
            return self.tensors[site.whole][:, :, site.head]
        raise MissingSite(
            "nothing was captured at this site.",
            argument="site",
            got=str(site),
            allowed=[str(known) for known in self.tensors],
            fix="Name it in `capture`.",
        )

    def __iter__(self) -> Iterator[Site]:
        """Iterate over the captured sites in the order they were asked for."""
        return iter(self.tensors)

    def __len__(self) -> int:
        """Return the number of captured sites."""
        return len(self.tensors)

    def to(self, device: torch.device | str | None = None, *, dtype: torch.dtype | None = None) -> "Activations":
        """Return a copy on another device or in another dtype."""
        moved = {site: value.to(device=device, dtype=dtype) for site, value in self.tensors.items()}
        return Activations(tensors=moved, prompt_ids=self.prompt_ids, positions=self.positions)

    def detach(self) -> "Activations":
        """Return the same values outside the autograd graph."""
        values = {site: value.detach() for site, value in self.tensors.items()}
        return Activations(tensors=values, prompt_ids=self.prompt_ids, positions=self.positions)
