"""The weights of a live module, with or without an adapter; offloaded ones come from where accelerate keeps them."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from workbench.errors import CheckpointError, ParameterError
from workbench.pairs.adapters import Factors, TunedParameter, is_plain_lora, lora_factors, tuned_parameters
from workbench.pairs.delta.stores import Stored, key_of
from workbench.pairs.loading.quantised import dequantised, is_quantised
from workbench.pairs.memory.offloaded import place_of, value_of


class ModuleStore:
    """A live module; with an adapter, its tensors are named as in the base and read as they would be merged.

    Args:
        module: The model.
        argument: Name of the caller's argument, for messages.
    """

    rests_on = None

    def __init__(self, module: nn.Module, *, argument: str) -> None:
        self._module, self._argument = module, argument
        self.label = str(getattr(getattr(module, "config", None), "_name_or_path", "") or type(module).__name__)
        prefix = getattr(module, "base_model_prefix", "")
        self._prefix = f"{prefix}." if prefix else ""
        self._tuned: dict[str, TunedParameter] = {}
        self.entries: dict[str, Stored] = {}
        self.aliases: dict[str, str] = {}
        self._plain: tuple[str, Tensor] | None = None
        self._owners = {
            id(parameter): child for child in module.modules() for parameter in child.parameters(recurse=False)
        }
        self._read_names(tuned_parameters(module))

    def key(self, name: str) -> str:
        """Return the key of a parameter name."""
        return key_of(name, prefix=self._prefix)

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Return rows of a parameter as it acts: merged where an adapter layer sits on it, decoded where quantised."""
        held = self._tuned[key].held
        if held is not None and held.is_meta:
            whole = self._lent(key, held)
        elif held is not None and is_quantised(held):
            whole = self._decoded(key)
        else:
            whole = cast(Tensor, self._tuned[key].effective()).detach()
        return whole[start:stop] if whole.ndim else whole

    def identity(self, key: str) -> object:
        """Return where the parameter lies in memory; None when it is offloaded or an adapter layer rewrites it."""
        tuned = self._tuned[key]
        held = tuned.held
        if held is None or (tuned.layer is not None and not _is_product(tuned)):
            return None
        if held.is_meta:
            return place_of(self._owners[id(held)], tuned.leaf)
        return held.data_ptr(), held.device, held.dtype, tuple(held.shape), held.stride()

    def factors(self, key: str) -> list[Factors] | None:
        """Return the LoRA products an adapter layer adds to a matrix; None where it adds none."""
        tuned = self._tuned.get(key)
        if tuned is None or tuned.layer is None or not _is_product(tuned):
            return None
        return lora_factors(tuned.layer) or None

    def _read_names(self, parameters: Mapping[str, TunedParameter]) -> None:
        seen: dict[int, str] = {}
        for name, tuned in parameters.items():
            key, held = self.key(name), tuned.held
            first = None if held is None or tuned.layer is not None else seen.get(id(held))
            if first is not None:
                self.aliases[key] = first
                continue
            if held is not None:
                seen[id(held)] = key
            self._tuned[key] = tuned
            coded = held is not None and is_quantised(held)
            shape = () if held is None else self._decoded_shape(held) if coded else tuple(held.shape)
            self.entries[key] = Stored(name, shape, None if held is None or coded else held.dtype)

    def _decoded_shape(self, held: Tensor) -> tuple[int, ...]:
        owner = self._owners[id(held)]
        return tuple(dequantised(owner).shape) if not isinstance(owner, nn.Linear) else _linear_shape(owner)

    def _decoded(self, key: str) -> Tensor:
        """Return what a quantised weight stands for; one at a time is kept."""
        if self._plain is None or self._plain[0] != key:
            self._plain = key, dequantised(self._owners[id(self._tuned[key].held)])
        return self._plain[1]

    def _lent(self, key: str, held: Tensor) -> Tensor:
        """Return an offloaded parameter from where it is kept; one at a time is held here."""
        if self._plain is None or self._plain[0] != key:
            owner = self._owners.get(id(held))
            leaf = self._tuned[key].leaf
            try:
                self._plain = key, value_of(cast(nn.Module, owner), leaf)
            except ParameterError as err:
                raise CheckpointError(
                    "this module holds no weights, and nothing lends it any.",
                    argument=self._argument,
                    got=f"{self.label}: {self.entries[key].name}",
                    fix="Compare the folders or Hub ids themselves, e.g. weight_delta(base_folder, judge_folder).",
                ) from err
        return self._plain[1]


def _is_product(tuned: TunedParameter) -> bool:
    return tuned.leaf == "weight" and tuned.layer is not None and is_plain_lora(tuned.layer)


def _linear_shape(layer: nn.Linear) -> tuple[int, ...]:
    return layer.out_features, layer.in_features
