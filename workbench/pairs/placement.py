"""Where and how both models of a pair are loaded: device, data type, attention, quantisation."""

from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import ParameterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how a model is loaded."""

    dtype: torch.dtype | None
    """Data type; None keeps the checkpoint's own."""
    device: torch.device
    """Where a model goes when ``device_map`` is None."""
    device_map: Any = None
    """Passed on to transformers, e.g. ``"auto"``."""
    attention: str | None = None
    """Attention implementation; None lets transformers choose."""
    trust_remote_code: bool = False
    """Whether code from the repositories may run; off unless asked for by name."""

    @classmethod
    def choose(
        cls,
        *,
        dtype: torch.dtype | str | None,
        device: torch.device | str | None,
        device_map: Any,
        attention: str | None,
        trust_remote_code: bool,
    ) -> "Placement":
        """Settle what the caller left open: the first GPU, else the CPU; float32 on a CPU.

        Raises:
            ParameterError: ``device`` and ``device_map`` are both given, or the data type is unknown.
        """
        if device is not None and device_map is not None:
            raise ParameterError("give `device` or `device_map`, not both.", argument="device_map", got=device_map)
        chosen = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
        kind = _dtype(dtype)
        if kind is None and chosen.type == "cpu" and device_map is None:
            kind = torch.float32
        return cls(
            dtype=kind,
            device=chosen,
            device_map=device_map,
            attention=attention,
            trust_remote_code=trust_remote_code,
        )


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ParameterError(
            "no such data type.", argument="dtype", got=dtype, allowed=["float32", "bfloat16", "float16", "float64"]
        )
    return found
