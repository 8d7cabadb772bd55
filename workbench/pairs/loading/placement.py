"""Where and how both models of a pair are loaded: device, data type, attention, quantisation."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from workbench.errors import ParameterError
from workbench.pairs.loading.sources import Source, per_side


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how a model is loaded."""

    dtype: torch.dtype | None
    """Data type; None keeps the checkpoint's own."""
    device: torch.device
    """Where a model goes when ``device_map`` is None."""
    device_map: Any = None
    """Passed on to transformers, e.g. ``"auto"``."""
    max_memory: Mapping[Any, Any] | None = None
    """Most memory each device may give, e.g. ``{0: "20GiB", "cpu": "60GiB"}``, when ``device_map`` is chosen."""
    offload_folder: str | os.PathLike[str] | None = None
    """Where weights go that fit on no device."""
    offload: str | None = None
    """``"disk"`` keeps the weights of models in host memory in mapped files."""
    attention: str | None = None
    """Attention implementation; None lets transformers choose."""
    trust_remote_code: bool = False
    """Whether code from the repositories may run; off unless asked for by name."""
    quantisations: Mapping[str, Any] = field(default_factory=dict)
    """How each side's weights are quantised while loading, by ``"base"`` and ``"judge"``."""

    @classmethod
    def choose(
        cls,
        *,
        dtype: torch.dtype | str | None,
        device: torch.device | str | None,
        device_map: Any,
        attention: str | None,
        trust_remote_code: bool,
        max_memory: Mapping[Any, Any] | None = None,
        offload_folder: str | os.PathLike[str] | None = None,
        offload: str | None = None,
        quantization: Any = None,
    ) -> "Placement":
        """Settle what the caller left open: the first GPU, else the CPU; float32 on a CPU.

        Raises:
            ParameterError: ``device`` and ``device_map`` are both given, the device or data type is
                unknown, or ``offload`` is asked for where nothing is in host memory.
        """
        require_flags(trust_remote_code=trust_remote_code)
        if attention is not None and not isinstance(attention, str):
            raise ParameterError(
                "this is no attention implementation.",
                argument="attention",
                got=attention,
                allowed='a name transformers knows, e.g. "sdpa", "eager", "flash_attention_2"',
            )
        if device is not None and device_map is not None:
            raise ParameterError("give `device` or `device_map`, not both.", argument="device_map", got=device_map)
        chosen = _device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
        if offload is not None:
            _check_offload(
                offload, device=None if device is None else chosen, device_map=device_map, quantization=quantization
            )
        for name, given in (
            ("max_memory", max_memory),
            ("offload_folder", offload_folder if offload is None else None),
        ):
            if given is not None and device_map is None:
                raise ParameterError(
                    "only a model spread over devices needs this.",
                    argument=name,
                    got=given,
                    fix='Pass `device_map="auto"` with it.',
                )
        kind = _dtype(dtype)
        if kind is None and chosen.type == "cpu":
            kind = torch.float32
        return cls(
            dtype=kind,
            device=chosen,
            device_map=device_map,
            max_memory=max_memory,
            offload_folder=offload_folder,
            offload=offload,
            attention=attention,
            trust_remote_code=trust_remote_code,
            quantisations=_quantisations(quantization),
        )

    def quantisation(self, source: Source) -> Any:
        """Return how the weights of a source are to be quantised; None to take them as stored."""
        return self.quantisations.get(source.argument)

    def devices(self, source: Source, *, quantised: bool) -> dict[str, Any]:
        """Return the arguments of ``from_pretrained`` that say where weights go.

        Args:
            source: The side; each writes what it offloads to a folder of its own, as both use the same names.
            quantised: Quantised weights are placed while loading; they can't all be moved afterwards.
        """
        if self.device_map is None:
            return {"device_map": {"": self.device}} if quantised else {}
        folder = None if self.offload_folder is None else Path(self.offload_folder) / source.argument
        given = {"max_memory": self.max_memory, "offload_folder": folder}
        return {"device_map": self.device_map, **{key: value for key, value in given.items() if value is not None}}


def usable_device(
    device: torch.device | str, *, argument: str = "device", besides: tuple[str, ...] = ()
) -> torch.device:
    """Return a device that tensors can be put on.

    Args:
        device: Name or device.
        argument: Name of the caller's argument, for messages.
        besides: What else that argument may be, for messages.

    Raises:
        ParameterError: There is no such device here.
    """
    chosen = _device(device, argument=argument, besides=besides)
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as err:  # a torch built without CUDA asserts, other devices raise
        raise _no_device(device, argument=argument, besides=besides) from err
    return chosen


def require_flags(**flags: object) -> None:
    """Refuse what isn't a yes or no: the word ``"false"`` would count as one that says yes.

    Raises:
        ParameterError: With the name of the argument.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ParameterError("this is neither yes nor no.", argument=name, got=repr(value), allowed=[True, False])


def require_seed(seed: object) -> None:
    """Refuse what can't seed a generator.

    Raises:
        ParameterError: It isn't a whole number from 0 on.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ParameterError("no such seed.", argument="seed", got=repr(seed), allowed="a whole number from 0 on")


def _quantisations(given: Any) -> dict[str, Any]:
    by_side = isinstance(given, Mapping) and bool(given) and set(given) <= {"base", "judge"}
    chosen: Mapping[Any, Any] = (
        dict(per_side(given, argument="quantization")) if by_side else dict.fromkeys(("base", "judge"), given)
    )
    return {side: value for side, value in chosen.items() if value is not None}


def _check_offload(offload: str, *, device: torch.device | None, device_map: Any, quantization: Any) -> None:
    if offload != "disk":
        raise ParameterError("no such place.", argument="offload", got=offload, allowed=["disk"])
    if device is None or device.type != "cpu" or device_map is not None or quantization is not None:
        raise ParameterError(
            "weights are kept in files for models in host memory, unquantised.",
            argument="offload",
            got=f"device={device and str(device)!r}, device_map={device_map!r}, quantization={quantization!r}",
            fix='Pass device="cpu" with it; spread over devices, `device_map` and `offload_folder` do the same.',
        )


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ParameterError(
            "no such data type.", argument="dtype", got=dtype, allowed=["float32", "bfloat16", "float16", "float64"]
        )
    return found


def _device(device: torch.device | str, *, argument: str = "device", besides: tuple[str, ...] = ()) -> torch.device:
    """Return a device by its name, whether it is here or not."""
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as err:
        raise _no_device(device, argument=argument, besides=besides) from err
    if chosen.type == "meta":  # holds shapes without numbers
        raise _no_device(device, argument=argument, besides=besides)
    return chosen


def _no_device(device: object, *, argument: str, besides: tuple[str, ...]) -> ParameterError:
    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return ParameterError(
        "there is no such device here.", argument=argument, got=str(device), allowed=[*besides, *here]
    )
