"""Where every site lives in one Hugging Face model, learned from TransformerLens and checked on the model itself.

1. A TransformerBridge is booted on a weight-sharing shadow; it knows which module is which.
2. Its hook points are translated to *ports*: module path, side, axes.
3. Fused q/k/v projections have no port of their own: candidate layouts are compared with the
   values TransformerLens reports, and the one that reproduces them is kept.
4. One probe forward of the untouched module shows the order in which ports fire, their widths, and
   whether the residual stream really is a sum of the parts.
The bridge is dropped afterwards; what stays is data. Falsified when the doctor's captures disagree.
"""

import threading
import weakref
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workbench.errors import UnknownSite
from workbench.hooks.fused import fused_ports
from workbench.hooks.heads import classification_head
from workbench.hooks.lens_names import final_names, hook_name, owners
from workbench.hooks.observe import Observation, observe
from workbench.hooks.ports import Port, Side
from workbench.hooks.shadow import boot_bridge
from workbench.hooks.sites import Component, Site

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_SUM_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_NO_NEURONS = "the MLP of this block has no single down projection (a mixture of experts, say)."
_locks: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()


def module_lock(module: nn.Module) -> AbstractContextManager[bool]:
    """Return the re-entrant lock of a module: hooks are module-global, so one caller may enter it at a time."""
    with _locks_guard:
        return _locks.setdefault(module, threading.RLock())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anatomy:
    """The sites of one model; build it with :meth:`of`, again after a cast, a move or an adapter change."""

    module: nn.Module
    """The model it was made from, untouched."""
    tokenizer: Any
    """Its tokenizer, or None."""
    n_layers: int
    """Number of blocks."""
    d_model: int
    """Width of the residual stream."""
    n_heads: int
    """Query heads per block."""
    n_kv_heads: int
    """Key-value heads per block; fewer than ``n_heads`` under grouped-query attention."""
    d_head: int
    """Width of one head."""
    ports: Mapping[Site, Port]
    """Port of every whole-component site."""
    missing: Mapping[Site, str]
    """Sites the architecture lacks, with the reason."""
    order: Mapping[Site, int]
    """When each site fires in a forward pass; smaller is earlier."""
    blocks_path: str
    """Path of the module list of blocks."""
    final_norm: str
    """Path of the norm before the unembedding."""
    unembed: str
    """Path of the unembedding, or of the classification head."""
    parallel: bool
    """Whether attention and MLP read the same stream, so that there is no resid_mid."""
    tuple_blocks: bool
    """Whether blocks return a tuple."""
    additive: bool
    """Whether resid_post was seen to be resid_mid + mlp_out (resid_pre + attn_out + mlp_out in parallel blocks)."""

    @classmethod
    def of(cls, module: nn.Module, tokenizer: Any = None) -> "Anatomy":
        """Learn the anatomy of a model (boots TransformerLens on a shadow, then runs two short forwards).

        Args:
            module: A Hugging Face causal language model or a decoder with a classification head (for a LoRA judge the
                model the adapter sits in).
            tokenizer: Its tokenizer; only ever copied.

        Raises:
            ParameterError: TransformerLens doesn't know the architecture.
        """
        with module_lock(module):
            bridge, paths = boot_bridge(module)
            return _compile(module, bridge, owners(bridge, paths), tokenizer)

    @property
    def pooled(self) -> bool:
        """Whether the model's own logits are those of one position it chooses itself (a classification head)."""
        return classification_head(self.module) is not None

    def sites(
        self, *, components: Iterable[Component] | None = None, layers: Iterable[int] | None = None
    ) -> tuple[Site, ...]:
        """Return the whole-component sites that exist, ordered by layer and component."""
        wanted = None if components is None else set(components)
        depths = None if layers is None else set(layers)
        return tuple(
            site
            for site in sorted(self.ports)
            if (wanted is None or site.component in wanted) and (depths is None or site.layer in depths)
        )

    def heads(self, component: Component) -> int:
        """Return how many heads a component has; 0 for those without a head axis."""
        if not component.per_head:
            return 0
        return self.n_kv_heads if component in (Component.K, Component.V) else self.n_heads

    def check(self, site: Site) -> None:
        """Refuse a site this model doesn't have.

        Raises:
            UnknownSite: Layer or head is out of range, or the architecture has no such component.
        """
        if not site.layer < self.n_layers:
            raise UnknownSite(
                "the model has fewer blocks.",
                argument="site",
                got=str(site),
                allowed=f"layers 0 to {self.n_layers - 1}",
            )
        if site.whole not in self.ports:
            here = sorted({known.component.value for known in self.ports if known.layer == site.layer})
            why = self.missing.get(site.whole, "the architecture has no such place.")
            raise UnknownSite(why, argument="site", got=str(site), allowed=here)
        if site.head is not None and not site.head < self.ports[site.whole].feature[0]:
            raise UnknownSite(
                f"{site.component} has fewer heads.",
                argument="site",
                got=str(site),
                allowed=f"heads 0 to {self.ports[site.whole].feature[0] - 1}",
            )

    def port(self, site: Site) -> Port:
        """Return where a site lives; a head's port is that of its whole component.

        Raises:
            UnknownSite: See :meth:`check`.
        """
        self.check(site)
        return self.ports[site.whole]

    def feature(self, site: Site) -> tuple[int, ...]:
        """Return the axes of an activation after prompt and pos: (d_model,), (head, d_head), or (d_head,) for one head.

        Raises:
            UnknownSite: See :meth:`check`.
        """
        axes = self.port(site).feature
        return axes if site.head is None else axes[1:]


def _compile(
    module: nn.Module, bridge: "TransformerBridge", owner: Mapping[str, tuple[str, Side]], tokenizer: Any
) -> Anatomy:
    cfg = bridge.cfg
    n_heads, n_kv = int(cfg.n_heads), int(getattr(cfg, "n_key_value_heads", None) or cfg.n_heads)
    every = [Site(component, layer) for layer in range(int(cfg.n_layers)) for component in Component]
    direct = {site: owner[hook_name(site)] for site in every if hook_name(site) in owner}
    final_norm, unembed = final_names(owner)
    projections = {place for name, place in owner.items() if ".attn." in name and place[1] == "out"}
    seen = observe(module, {*direct.values(), *projections})
    ports: dict[Site, Port] = {}
    missing: dict[Site, str] = {}
    for site, place in direct.items():
        if place not in seen.tensors:
            missing[site] = "the module behind this site didn't run in a probe forward."
            continue
        if seen.tensors[place].ndim != 3:
            missing[site] = "the model runs this part without an axis of prompts."
            continue
        ports[site] = _whole_port(place, seen.tensors[place], heads=_heads(site.component, n_heads=n_heads, n_kv=n_kv))
    ports |= fused_ports(module, bridge, [site for site in every if site not in direct], owner, seen, missing)
    missing |= {site: _NO_NEURONS for site in every if site.component is Component.NEURONS and site not in direct}
    blocks_path = direct[Site(Component.RESID_PRE, 0)][0].rsplit(".", 1)[0]
    order = {site: seen.order[port.path, port.side] for site, port in ports.items()}
    parallel = not any(site.component is Component.RESID_MID for site in ports)
    return Anatomy(
        module=module,
        tokenizer=tokenizer,
        n_layers=int(cfg.n_layers),
        d_model=int(cfg.d_model),
        n_heads=n_heads,
        n_kv_heads=n_kv,
        d_head=int(cfg.d_head),
        ports=ports,
        missing=missing,
        order=order,
        blocks_path=blocks_path,
        final_norm=final_norm,
        unembed=unembed,
        parallel=parallel,
        tuple_blocks=f"{blocks_path}.0" in seen.tuples,
        additive=_adds_up(ports, seen, parallel),
    )


def _heads(component: Component, *, n_heads: int, n_kv: int) -> int | None:
    if not component.per_head:
        return None
    return n_kv if component in (Component.K, Component.V) else n_heads


def _whole_port(place: tuple[str, Side], tensor: Tensor, *, heads: int | None) -> Port:
    width = tensor.shape[-1]
    return Port(path=place[0], side=place[1], feature=(width,) if heads is None else (heads, width // heads))


def _adds_up(ports: Mapping[Site, Port], seen: Observation, parallel: bool) -> bool:
    def tensor(component: Component, layer: int) -> Tensor | None:
        port = ports.get(Site(component, layer))
        return None if port is None else seen.tensors[port.path, port.side]

    for layer in {site.layer for site in ports}:
        pre, post = tensor(Component.RESID_PRE, layer), tensor(Component.RESID_POST, layer)
        mid, attention, mlp = (tensor(c, layer) for c in (Component.RESID_MID, Component.ATTN_OUT, Component.MLP_OUT))
        if pre is None or post is None or attention is None or mlp is None or (mid is None and not parallel):
            return False
        stream = pre + attention if mid is None else mid
        if not (_close(stream + mlp, post) and (mid is None or _close(pre + attention, mid))):
            return False
    return True


def _close(left: Tensor, right: Tensor) -> bool:
    tolerance = _SUM_TOLERANCE.get(right.dtype, 2e-2)
    return bool((left - right).abs().max() <= tolerance * right.abs().max().clamp(min=1e-6))
