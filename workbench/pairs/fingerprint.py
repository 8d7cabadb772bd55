"""Identity of a model by its content: any changed weight, buffer, adapter setting or config changes the fingerprint."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from workbench.pairs.adapters import adapter_configs, adapter_switches
from workbench.pairs.loading.quantised import coded_parts, is_quantised, quantised_layers
from workbench.pairs.memory.offloaded import value_of

_CHUNK = 1 << 22
_INTEGER_OF_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def model_fingerprint(module: nn.Module) -> str:
    """Hash every parameter and buffer (an adapter's included), its name, shape and dtype, and the config.

    Of an adapter the settings count too, which no tensor holds: which one is active, its scaling, its configuration.

    Every element enters an order-sensitive checksum with an odd weight modulo 2**64, so that no
    single changed element can leave it unchanged; the checksums are then hashed with SHA-256.
    Works on any device without copying the model to the host.

    Returns:
        Sixteen hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters(), key=lambda pair: pair[0]):
        if is_quantised(parameter):
            continue
        digest.update(
            f"{name}|{tuple(parameter.shape)}|{parameter.dtype}|{_checksum(value_of(module, name))}\n".encode()
        )
    for name, layer in quantised_layers(module):
        parts = (f"{name}.{part}|{_checksum(tensor)}\n" for part, tensor in coded_parts(layer))
        digest.update("".join(parts).encode())
    for name, buffer in fixed_buffers(module):
        digest.update(f"{name}|{tuple(buffer.shape)}|{buffer.dtype}|{_checksum(buffer)}\n".encode())
    digest.update(_adapter_text(module).encode())
    digest.update(_config_text(module).encode())
    return digest.hexdigest()[:16]


def fixed_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every buffer that holds a value of its own, sorted by name; not what a model renews as it runs."""
    for owner, child in sorted(module.named_modules(), key=lambda pair: pair[0]):
        rope = str(getattr(child, "rope_type", ""))
        renewed = "dynamic" in rope or "longrope" in rope  # frequencies follow the length of what was read last
        for leaf, buffer in sorted(child.named_buffers(recurse=False), key=lambda pair: pair[0]):
            if not buffer.is_meta and not (renewed and leaf.endswith("inv_freq") and "original" not in leaf):
                yield f"{owner}.{leaf}", buffer


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash vocabulary, special tokens and chat template; sixteen hexadecimal digits."""
    return text_fingerprint(
        json.dumps(
            {
                "vocab": sorted(tokenizer.get_vocab().items()),
                "special": {k: str(v) for k, v in sorted(tokenizer.special_tokens_map.items())},
                "template": template_text(tokenizer),
            }
        )
    )


def template_text(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the tokenizer's chat template as text; None when it has none."""
    template = getattr(tokenizer, "chat_template", None)
    return json.dumps(template, sort_keys=True) if isinstance(template, dict) else template


def text_fingerprint(text: str) -> str:
    """Return the first sixteen hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checksum(tensor: Tensor) -> int:
    size = tensor.element_size()
    flat = tensor.detach().reshape(-1)
    if size not in _INTEGER_OF_SIZE:
        return int(hashlib.sha256(flat.cpu().numpy().tobytes()).hexdigest()[:15], 16)
    integers = flat.view(_INTEGER_OF_SIZE[size])
    total = 0
    for start in range(0, integers.numel(), _CHUNK):
        part = integers[start : start + _CHUNK].to(torch.int64)
        weights = torch.arange(start, start + part.numel(), device=part.device, dtype=torch.int64).mul_(2).add_(1)
        total = (total + int((part * weights).sum())) % (1 << 64)
    return total


def _adapter_text(module: nn.Module) -> str:
    switches = adapter_switches(module)
    return json.dumps([switches, adapter_configs(module)], sort_keys=True, default=str) if switches else ""


def _config_text(module: nn.Module) -> str:
    config: Any = getattr(module, "config", None)
    values: Mapping[str, Any] = {} if config is None else config.to_dict()
    volatile = (
        "_name_or_path",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "_attn_implementation",
    )
    return json.dumps({k: v for k, v in values.items() if k not in volatile}, sort_keys=True, default=str)
