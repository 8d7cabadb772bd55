"""Quantised weights: how they are asked for, which kinds run where, and what a quantised tensor stands for.

A quantised model is another function than the one it was made from. Nothing is dequantised for running;
:func:`dequantised` gives the matrix a layer effectively multiplies with, one layer at a time, for measuring.
"""

import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AutoQuantizationConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from workbench.errors import CheckpointError, ParameterError
from workbench.pairs.loading.sources import Source

PRESETS = ("8bit", "4bit")
"""Names for the two settings of bitsandbytes that most quantised judges were trained on; 4 bits means NF4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """How a checkpoint's weights are quantised."""

    method: str
    """As transformers calls it, e.g. ``"bitsandbytes"``."""
    settings: Any
    """Configuration to hand to ``from_pretrained``; None when the checkpoint carries it."""


_PACKAGES = {"bitsandbytes": "bitsandbytes", "quanto": "optimum.quanto", "torchao": "torchao"}
"""Kinds that were seen to run, on a CPU, and the module each needs."""
_PACKED = "its layers hold packed parts and no weight, which nothing here can read yet"
_REFUSED = {
    "gptq": f"its kernels need a GPU, and {_PACKED}",
    "awq": f"its kernels need a GPU, and {_PACKED}",
    "compressed-tensors": _PACKED,
    "hqq": "transformers itself can't load HQQ weights at present",
}


def chosen(asked: Any, config: Any, *, source: Source, dtype: torch.dtype | None = None) -> Quantisation | None:
    """Return how a checkpoint is to be quantised: as its files say, or as asked; None for plain weights.

    Args:
        asked: ``"8bit"``, ``"4bit"``, a transformers quantisation config or its dictionary; None for none.
        config: Configuration of the checkpoint.
        source: Where it lies, for messages.
        dtype: Type a 4-bit preset computes in.

    Raises:
        CheckpointError: The kind isn't supported, or its package is missing.
        ParameterError: Nothing like it is known, or the checkpoint is quantised already.
    """
    stored = getattr(config, "quantization_config", None)
    if asked is None and stored is None:
        return None
    if asked is not None and stored is not None:
        raise ParameterError(
            "this checkpoint is quantised already.",
            argument="quantization",
            got=f"{source.label}: {_method(stored)}",
            fix="Leave `quantization` out for this side, or give the checkpoint it was made from.",
        )
    settings = stored if asked is None else _settings(asked, dtype)
    method = _method(settings)
    _require_runnable(method, source=source)
    return Quantisation(method=method, settings=None if asked is None else settings)


def require_quantised(module: PreTrainedModel, source: Source) -> None:
    """Refuse a model of which nothing was quantised, although its settings ask for it.

    Raises:
        CheckpointError: With the architecture.
    """
    if any(True for _ in quantised_layers(module)):
        return
    raise CheckpointError(
        "no layer of this model was quantised, though its settings ask for it; transformers says nothing then.",
        argument=source.argument,
        got=f"{source.label}: {type(module).__name__}",
        fix="Use another kind of quantisation, or none, in bfloat16 if memory is short.",
    )


def settle(module: nn.Module, *, argument: str = "module") -> None:
    """Put quantised layers into the state they run in, before anything is shared between clones.

    bitsandbytes does this in the first forward, in place on the weight: of two modules sharing an 8-bit weight the
    second to run would take the codes for numbers, and some CPUs would round the scales of 4-bit weights to bfloat16.

    Args:
        module: A model; those without such layers stay as they are.
        argument: Name of the caller's argument, for messages.

    Raises:
        CheckpointError: bitsandbytes would decode a layer wrongly.
    """
    for name, layer in quantised_layers(module):
        coded: Any = layer
        kind = type(layer.weight).__name__
        if kind == "Int8Params":
            if coded.weight.CB is not None:
                coded.init_8bit_state()
            # It says at every call of every layer that it computes in float16.
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        elif kind == "Params4bit":
            _require_whole_blocks(name, coded.weight, argument=argument)
            if hasattr(coded, "support_avx512bf16_for_cpu"):
                coded.support_avx512bf16_for_cpu = False


def _require_whole_blocks(name: str, weight: Any, *, argument: str) -> None:
    """Refuse rows that don't divide into blocks: the CPU kernel reads each row's last block with a wrong scale."""
    block, shape = weight.quant_state.blocksize, tuple(weight.quant_state.shape)
    if weight.device.type == "cpu" and shape[-1] % block:
        raise CheckpointError(
            "bitsandbytes decodes 4-bit rows that don't divide into blocks wrongly on a CPU.",
            argument=argument,
            got=f"{name}: {shape}, blocks of {block}",
            fix='Load it on a GPU, or with quantization="8bit".',
        )


def quantisation_of(module: nn.Module) -> str | None:
    """Return how a model is quantised, in a word or two, e.g. ``"bitsandbytes nf4"``; None for plain weights."""
    if not any(True for _ in quantised_layers(module)):
        return None
    config = getattr(getattr(module, "config", None), "quantization_config", None)
    if config is None:
        return next(type(cast(Tensor, layer.weight)).__name__ for _, layer in quantised_layers(module))
    read = _reader(config)
    details = {
        "bitsandbytes": "int8" if read("load_in_8bit") else read("bnb_4bit_quant_type"),
        "quanto": read("weights"),
        "torchao": type(read("quant_type")).__name__,
    }
    method = _method(config)
    return " ".join(filter(None, (method, details.get(method))))


def rounding(module: nn.Module) -> float | None:
    """Return the share by which two ways of running a model may differ beyond its data type; None for no more.

    8-bit layers of bitsandbytes round the activations as well, so that a last bit can become a whole step.
    """
    coded = any(type(layer.weight).__name__ == "Int8Params" for _, layer in quantised_layers(module))
    return 2e-2 if coded else None


def quantised_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every layer whose weight is quantised, with its dotted name."""
    for name, child in module.named_modules():
        weight = child._parameters.get("weight")  # noqa: SLF001 - a property of the same name may compute it
        if weight is not None and is_quantised(weight):
            yield name, child


def is_quantised(tensor: Tensor) -> bool:
    """Return whether a tensor holds codes instead of numbers."""
    return type(tensor).__name__ in ("Params4bit", "Int8Params") or _is_coded(tensor)


@torch.no_grad()
def dequantised(source: nn.Module | Tensor) -> Tensor:
    """Return the matrix a weight stands for, in float32 and in the layer's own layout; a new tensor if it was coded.

    Args:
        source: A layer with a ``weight``, or the weight itself. An 8-bit layer of bitsandbytes must be given as a
            layer: once it has run, it alone knows the scales.

    Raises:
        ParameterError: The scales can't be found.
    """
    weight = cast(Tensor, source.weight) if isinstance(source, nn.Module) else source
    kind = type(weight).__name__
    if kind == "Params4bit":
        return _from_4bit(weight)
    if kind == "Int8Params":
        return weight.data.float() * _row_scales(source, weight)[:, None].to(weight.device) / 127
    return cast(Any, weight).dequantize().float() if _is_coded(weight) else weight.detach().float()


def coded_parts(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every plain tensor a quantised weight is made of: codes, scales, offsets, with names.

    Args:
        layer: A layer of :func:`quantised_layers`.
    """
    weight = cast(Tensor, layer.weight)
    kind = type(weight).__name__
    if kind == "Params4bit":
        yield "codes", weight.data
        state = cast(Any, weight).quant_state
        yield from (("scales", state.absmax), ("values", state.code))
        if state.nested:  # the scales are codes themselves
            yield from (("offset", state.offset), ("scales.scales", state.state2.absmax))
            yield "scales.values", state.state2.code
    elif kind == "Int8Params":
        yield "codes", weight.data
        yield "scales", _row_scales(layer, weight)
    else:
        yield from _flat(weight)


def _from_4bit(weight: Tensor) -> Tensor:
    from bitsandbytes import functional

    codes, state = weight.data, cast(Any, weight).quant_state
    if getattr(state, "packing_format_for_cpu", False):
        # A model that ran before it was given here: codes are interleaved, scales transposed, for the CPU's kernel.
        scales = state.absmax.T.reshape(-1).float()
        codes = functional._convert_weight_packed_for_cpu_inverse(codes, copy.copy(state))[0]  # noqa: SLF001
        state = functional.QuantState(
            absmax=scales,
            shape=state.shape,
            code=state.code,
            blocksize=state.blocksize,
            quant_type=state.quant_type,
            dtype=torch.float32,
        )
    return functional.dequantize_4bit(codes, state).float()


def _flat(tensor: Tensor, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if not hasattr(tensor, "__tensor_flatten__"):
        yield prefix or "values", tensor
        return
    for name in cast(Any, tensor).__tensor_flatten__()[0]:
        yield from _flat(getattr(tensor, name), f"{prefix}.{name}" if prefix else name)


def _is_coded(tensor: Tensor) -> bool:
    return type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) and hasattr(tensor, "__tensor_flatten__")


def _row_scales(source: nn.Module | Tensor, weight: Tensor) -> Tensor:
    state = getattr(source, "state", None)
    scales = getattr(weight, "SCB", None)
    scales = getattr(state, "SCB", None) if scales is None else scales
    if scales is None:
        raise ParameterError(
            "the scales of this 8-bit weight are kept by its layer.",
            argument="source",
            got=type(weight).__name__,
            fix="Pass the layer instead of its weight.",
        )
    return scales


def _settings(asked: Any, dtype: torch.dtype | None) -> Any:
    if isinstance(asked, QuantizationConfigMixin):
        return asked
    if asked == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if asked == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype or torch.bfloat16
        )
    if isinstance(asked, Mapping):
        try:
            return AutoQuantizationConfig.from_dict(dict(asked))
        except (ValueError, TypeError, KeyError) as err:
            raise _unknown(asked) from err
    raise _unknown(asked)


def _unknown(asked: Any) -> ParameterError:
    return ParameterError(
        "no such quantisation.",
        argument="quantization",
        got=asked,
        allowed=f"{', '.join(map(repr, PRESETS))}, a transformers quantisation config, or its dictionary with a "
        f"`quant_method` among {', '.join(sorted(AUTO_QUANTIZATION_CONFIG_MAPPING))}",
    )


def _require_runnable(method: str, *, source: Source) -> None:
    package = _PACKAGES.get(method)
    if package is None:
        raise CheckpointError(
            "this kind of quantisation isn't supported.",
            argument=source.argument,
            got=f"{source.label}: {method} ({_REFUSED.get(method, 'it has not been tried')})",
            allowed=sorted(_PACKAGES),
            fix='Use the checkpoint it was made from, quantised while loading: `quantization="4bit"`.',
        )
    if not _importable(package):
        raise CheckpointError(
            f"{method} weights need a package that isn't installed.",
            argument=source.argument,
            got=f"{source.label}: {package}",
            fix=_install(package),
        )


def _install(package: str) -> str:
    if package == "bitsandbytes":
        return 'Install it: pip install "judge-workbench[quantized]".'
    return f"Install it: pip install {package.replace('.', '-').replace('_', '-')}."


def _importable(package: str) -> bool:
    top = package.partition(".")[0]
    return find_spec(top) is not None and (top == package or find_spec(package) is not None)


def _method(config: Any) -> str:
    method = _reader(config)("quant_method")
    if method is None and (_reader(config)("load_in_4bit") or _reader(config)("load_in_8bit")):
        return "bitsandbytes"  # configurations written before the method had a name
    return str(getattr(method, "value", method))


def _reader(config: Any) -> Any:
    return config.get if isinstance(config, Mapping) else lambda key: getattr(config, key, None)
