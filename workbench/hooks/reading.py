"""Reading sites at columns of their own, beside what a run captures."""

from collections.abc import Callable, Iterable
from functools import partial

from jaxtyping import Int
from torch import Tensor

from workbench.hooks.edits import Custom
from workbench.hooks.sites import Site


class Reader:
    """Keeps activations at columns a run's captures needn't share: streams everywhere, heads at the last token only.

    Hand :attr:`edits` to a run with ``check_edits=False`` (they change nothing); afterwards :attr:`values` holds what
    stood at each site when its edit's turn came. One reader serves one run.

    Args:
        sites: What to read.
        positions: Columns of the padded batch that are kept; None is all.
        on_read: Called with each site as the run reaches it.
    """

    def __init__(
        self,
        sites: Iterable[Site],
        *,
        positions: Int[Tensor, "prompt k"] | None = None,
        on_read: Callable[[Site], None] | None = None,
    ) -> None:
        self.values: dict[Site, Tensor] = {}
        self._on_read = on_read
        self.edits = tuple(
            Custom(site, partial(self._keep, site), label=f"read {site}", positions=positions)
            for site in dict.fromkeys(sites)
        )

    def _keep(self, site: Site, value: Tensor) -> Tensor:
        kept = value.detach()
        # A view of a fused projection would keep all three of its parts alive.
        self.values[site] = kept.clone() if kept.untyped_storage().nbytes() > kept.nbytes else kept
        if self._on_read is not None:
            self._on_read(site)
        return value
