"""Random two-layer pairs for unit tests, docs and notebooks: no training, no download, milliseconds.

Nothing is planted in them but what the caller asks for; use an embedded pair to find something.
"""

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from workbench.errors import ParameterError
from workbench.hooks import weight_sharing_shadow
from workbench.pairs.load import load_pair
from workbench.pairs.pair import Pair

Architecture = Literal["llama", "gpt2"]
Weights = Callable[[str, nn.Parameter, torch.Generator], torch.Tensor]
"""Returns the change of one parameter, given its name, the base's parameter and a seeded generator."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte; it round-trips any text."""
    specials = ["<pad>", "<s>", "</s>"]
    vocabulary = {token: i for i, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def tiny_model(
    *, architecture: Architecture = "llama", seed: int = 0, n_layers: int = 2, width: int = 32, window: int = 1024
) -> PreTrainedModel:
    """Return a random model with every weight drawn from the seed, norm gains and biases included.

    Matrices are scaled so that every block really moves the residual stream; Hugging Face's own
    initial gains of exactly 1 would let some checks pass for the wrong reason.

    Raises:
        ParameterError: The architecture is unknown.
    """
    tokens: dict[str, Any] = {"vocab_size": 260, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if architecture == "llama":
        config: Any = LlamaConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=n_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=window,
            **tokens,
        )
        module: PreTrainedModel = LlamaForCausalLM(config)
    elif architecture == "gpt2":
        module = GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=n_layers, n_head=4, n_positions=window, **tokens))
    else:
        raise ParameterError(
            "no such tiny architecture.", argument="architecture", got=architecture, allowed=["llama", "gpt2"]
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(
                1 + 0.2 * noise
                if _is_gain(name)
                else noise * (0.1 if parameter.ndim == 1 else 1.0 / parameter.shape[-1] ** 0.5)
            )
    return module.eval()


def tuned_copy(base: PreTrainedModel, *, change: Weights, seed: int = 0) -> PreTrainedModel:
    """Return a copy of ``base`` with ``change(name, parameter, generator)`` added to each parameter."""
    judge = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in judge.named_parameters():
            parameter.add_(change(name, parameter, generator))
    return judge


def scaled_noise(scale: float, *, only: str = "") -> Weights:
    """Return Gaussian noise of ``scale`` times a tensor's own norm, in tensors whose name contains ``only``."""

    def change(name: str, parameter: nn.Parameter, generator: torch.Generator) -> torch.Tensor:
        noise = torch.randn(parameter.shape, generator=generator)
        size = scale * torch.linalg.vector_norm(parameter) / torch.linalg.vector_norm(noise)
        return noise * size if only in name else torch.zeros_like(parameter)

    return change


def tiny_pair(
    *,
    kind: Literal["full", "lora"] = "full",
    architecture: Architecture = "llama",
    seed: int = 0,
    change: Weights | None = None,
    n_layers: int = 2,
    format: str = "pairwise",  # noqa: A002 - the public name of load_pair
    doctor: bool = False,
    load_options: Mapping[str, Any] = MappingProxyType({}),
) -> Pair:
    """Return a random pair whose judge is the base plus a known change.

    Args:
        kind: Two full models, or one base with a rank-4 LoRA adapter with random factors.
        architecture: Shape of the models.
        seed: Seed of base and change.
        change: What tuning did to each parameter of a full judge; 5% Gaussian noise by default.
        n_layers: Number of blocks.
        format: Judge format.
        doctor: Whether :func:`load_pair` runs the doctor.
        load_options: More keyword arguments of :func:`load_pair`.
    """
    base = tiny_model(architecture=architecture, seed=seed, n_layers=n_layers)
    if kind == "lora":
        judge: PreTrainedModel | PeftModel = _with_lora(base, architecture, seed)
    else:
        judge = tuned_copy(base, change=change or scaled_noise(0.05), seed=seed + 1)
    return load_pair(
        base, judge, tokenizer=byte_tokenizer(), format=format, doctor=doctor, device="cpu", **load_options
    )


def _with_lora(base: PreTrainedModel, architecture: Architecture, seed: int) -> PeftModel:
    targets = ["q_proj", "v_proj", "down_proj"] if architecture == "llama" else ["c_attn", "c_proj"]
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=architecture == "gpt2", task_type="CAUSAL_LM"
    )
    wrapped = get_peft_model(weight_sharing_shadow(base), config)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return cast(PeftModel, wrapped.eval())


def _is_gain(name: str) -> bool:
    return name.endswith("weight") and any(part in name for part in ("norm", "ln_"))
