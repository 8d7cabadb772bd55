"""Find q, k and v inside a fused projection by comparing layouts with what TransformerLens reports.

No table of architectures: every layout in use (one after the other, interleaved per head, interleaved
per key-value group) is tried on every output of the attention's submodules, and the one that
reproduces TransformerLens' own q, k and v on a probe is kept. A site none fits is unknown.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workbench.hooks.lens_names import attention_prefix, hook_name
from workbench.hooks.observe import Observation, probe_kwargs
from workbench.hooks.ports import FusedSlice, Port, Side
from workbench.hooks.sites import Component, Site

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_PROJECTIONS = (Component.Q, Component.K, Component.V)
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}


def fused_ports(
    module: nn.Module,
    bridge: "TransformerBridge",
    sites: Iterable[Site],
    owner: Mapping[str, tuple[str, Side]],
    seen: Observation,
    missing: dict[Site, str],
) -> dict[Site, Port]:
    """Return ports of the q, k and v sites among ``sites``; those without one get a reason in ``missing``."""
    wanted = [site for site in sites if site.component in _PROJECTIONS and hook_name(site) in bridge.hook_dict]
    reported = _reported(module, bridge, wanted) if wanted else {}
    ports: dict[Site, Port] = {}
    for site in wanted:
        places = {
            place
            for name, place in owner.items()
            if name.startswith(attention_prefix(site.layer)) and place[1] == "out"
        }
        port = _match(reported.get(site), places & seen.tensors.keys(), seen)
        if port is None:
            missing[site] = "no slice of a fused projection reproduces TransformerLens' values here."
        else:
            ports[site] = port
    return ports


def _reported(module: nn.Module, bridge: "TransformerBridge", sites: Iterable[Site]) -> dict[Site, Tensor]:
    caught: dict[Site, Tensor] = {}

    def keeper(site: Site) -> Callable[[Tensor, object], None]:
        def keep(value: Tensor, hook: object) -> None:  # noqa: ARG001 - the bridge passes `hook` by keyword
            caught[site] = value

        return keep

    probe = probe_kwargs(module)
    with torch.no_grad():
        bridge.run_with_hooks(
            probe["input_ids"],
            attention_mask=probe["attention_mask"],
            fwd_hooks=[(hook_name(site), keeper(site)) for site in sites],
        )
    return caught


def _match(reported: Tensor | None, places: Iterable[tuple[str, Side]], seen: Observation) -> Port | None:
    if reported is None:
        return None
    heads, d_head = reported.shape[-2:]
    errors: dict[Port, float] = {}
    for path, side in places:
        raw = seen.tensors[path, side]
        for layout in _layouts(raw.shape[-1], heads=heads, d_head=d_head):
            error = (layout.read(raw) - reported.flatten(-2)).abs().max() / reported.abs().max()
            errors[Port(path=path, side=side, feature=(heads, d_head), fused=layout)] = float(error)
    best = min(errors, key=lambda port: errors[port], default=None)
    # In half precision eager and fused attention drift apart with depth; a wrong layout is off by about 1.
    return None if best is None or errors[best] > _TOLERANCE.get(reported.dtype, 0.1) else best


def _layouts(width: int, *, heads: int, d_head: int) -> Iterator[FusedSlice]:
    """Yield every way ``heads`` heads can lie in a fused projection of ``width`` columns, aligned to heads."""
    for groups in sorted({divisor for divisor in range(1, heads + 1) if heads % divisor == 0}):
        part = heads // groups * d_head
        if width % groups == 0 and width // groups > part:
            for start in range(0, width // groups - part + 1, d_head):
                yield FusedSlice(groups, start, start + part)
