"""How adapter layers are set: what of an adapter no tensor holds, and what must stay on while a pair is used."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from workbench.errors import PairMismatch

_NOT_THE_FUNCTION = frozenset(
    "base_model_name_or_path revision peft_version auto_mapping inference_mode runtime_config".split()
)
"""Entries of a configuration that say where an adapter came from or is going, not what it computes."""


class Switches(NamedTuple):
    """The settings of one adapter layer."""

    kind: str
    """Its class."""
    active: tuple[str, ...]
    """Adapters it runs with."""
    merged: tuple[str, ...]
    """Adapters added to the weights it wraps."""
    disabled: bool
    """Whether it runs without any."""
    scaling: tuple[tuple[str, float], ...]
    """Factor of each adapter's product, where the kind has one."""


def adapter_switches(module: nn.Module) -> dict[str, Switches]:
    """Return the settings of every adapter layer, and of every module peft keeps twice, by dotted name."""
    return {
        name: _switches(child)
        for name, child in module.named_modules()
        if isinstance(child, BaseTunerLayer | AuxiliaryTrainingWrapper)
    }


def adapter_configs(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the configuration of every adapter in a module as plain values, without paths and versions.

    Some kinds hold no more of a projection than the seed it was drawn from, and that stands here alone.
    """
    configs: Mapping[str, Any] = getattr(module, "peft_config", None) or {}
    return {
        name: {key: _plain(value) for key, value in config.to_dict().items() if key not in _NOT_THE_FUNCTION}
        for name, config in configs.items()
    }


def require_switched_on(switches: Mapping[str, Switches]) -> None:
    """Refuse a judge whose adapter was merged or switched off since the pair was loaded.

    Args:
        switches: Its settings now.

    Raises:
        PairMismatch: With the first such layer.
    """
    merged = next((name for name, layer in switches.items() if layer.merged), None)
    if merged is not None:
        raise PairMismatch(
            "the adapter was merged after the pair was loaded: the base shares these weights and moved with them.",
            argument="judge",
            got=merged,
            fix="Call `unmerge_adapter()` and load the pair again; `adapters.merged_copy(pair.judge)` merges a copy.",
        )
    none_active = not any(layer.active for layer in switches.values())
    off = next((name for name, layer in switches.items() if layer.disabled or none_active), None)
    if off is not None:
        raise PairMismatch(
            "the adapter was switched off after the pair was loaded, so that the judge is the base.",
            argument="judge",
            got=off,
            fix="Call `enable_adapter_layers()`, or leave `disable_adapter()`; the base is `pair.base`.",
        )


def _switches(layer: BaseTunerLayer | AuxiliaryTrainingWrapper) -> Switches:
    tuner = isinstance(layer, BaseTunerLayer)  # a wrapper passes what it lacks on to the module it wraps
    scaling = getattr(layer, "scaling", None) if tuner else None
    factors = scaling if isinstance(scaling, Mapping) else {}
    return Switches(
        kind=type(layer).__name__,
        active=tuple(layer.active_adapters),
        merged=tuple(layer.merged_adapters) if tuner else (),
        disabled=bool(layer.disable_adapters),
        scaling=tuple(sorted((name, float(value)) for name, value in factors.items())),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value.value) if isinstance(value, Enum) else value
