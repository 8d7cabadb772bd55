"""TransformerLens' names for sites; with the backends the only place where hook-name strings exist."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workbench.hooks.ports import Side
from workbench.hooks.sites import Component, Site

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

UNEMBED_INPUT = "unembed.hook_in"
UNEMBED_OUTPUT = "unembed.hook_out"
FINAL_NORM_INPUT = "ln_final.hook_in"
_DOWN_PROJECTION_INPUT = "mlp.out.hook_in"


def hook_name(site: Site) -> str:
    """Return the name of a whole-component site's hook point."""
    if site.component is Component.NEURONS:
        return f"blocks.{site.layer}.{_DOWN_PROJECTION_INPUT}"
    inner = "attn." if site.component.per_head else ""
    return f"blocks.{site.layer}.{inner}hook_{site.component}"


def attention_prefix(layer: int) -> str:
    """Return what the names of a block's attention hook points begin with."""
    return f"blocks.{layer}.attn."


def owners(bridge: "TransformerBridge", paths: Mapping[int, str]) -> dict[str, tuple[str, Side]]:
    """Return, for every hook-point name that is one end of a wrapped module, that module's path and the end."""
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

    ends: dict[int, tuple[str, Side]] = {}
    for _, part in bridge.named_modules():
        if isinstance(part, GeneralizedComponent) and id(part.original_component) in paths:
            path = paths[id(part.original_component)]
            ends[id(part.hook_in)] = (path, "in")
            ends[id(part.hook_out)] = (path, "out")
    return {name: ends[id(point)] for name, point in bridge.hook_dict.items() if id(point) in ends}


def final_names(owner: Mapping[str, tuple[str, Side]]) -> tuple[str, str]:
    """Return the module paths of the final norm and of the unembedding."""
    return owner[FINAL_NORM_INPUT][0], owner[UNEMBED_INPUT][0]
