"""Tiny random models of nine architectures, saved and loaded back as a user's checkpoint would be.

Hugging Face initialises norm gains to 1, biases to 0 and matrices small; with those values many
checks pass for no reason. Gains and biases are randomised here and matrices boosted, so that every
layer, head and norm matters to the logits.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from workbench.tokens import TokenBatch

VOCAB = 320
D_MODEL, HEADS, KV_HEADS, LAYERS = 64, 4, 2, 3
WINDOW = 8
"""Sliding window of the Mistral and Gemma-2 models: shorter than the prompts of the tests."""

_IDS = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SHAPE = {
    "hidden_size": D_MODEL,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 128,
    **_IDS,
}
_GROUPED = {**_SHAPE, "num_key_value_heads": KV_HEADS}

BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_GROUPED, attention_bias=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_GROUPED, sliding_window=WINDOW)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_GROUPED, head_dim=24)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**_GROUPED, head_dim=16, sliding_window=WINDOW)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=D_MODEL, n_layer=LAYERS, n_head=HEADS, n_positions=128, **_IDS)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_SHAPE)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**_GROUPED)),
    "olmo": lambda: OlmoForCausalLM(OlmoConfig(**_GROUPED)),
}
"""One builder per architecture the conformance matrix covers."""

ARCHITECTURES = tuple(BUILDERS)
MATRIX = ("llama", "qwen3", "mistral", "gemma2", "gpt2", "neox")
"""Architectures every kind of judge is tried on."""
FUSED = {"gpt2", "neox", "phi3"}
"""Architectures whose q, k and v come out of one linear layer."""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer trained on one sentence, with bos, eos and pad."""
    raw = Tokenizer(models.BPE(unk_token=None))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["The judge compares answer A with answer B. Verdict: A"] * 4, trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def tiny_model(architecture: str, *, seed: int = 0) -> PreTrainedModel:
    """Build one random model (fp32, CPU, eval mode) without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + sum(map(ord, architecture)))
        model = BUILDERS[architecture]().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                _roughen(name, parameter)
    return model


def tiny_classifier(
    architecture: str, *, seed: int = 0, labels: int = 1, backbone: PreTrainedModel | None = None
) -> PreTrainedModel:
    """Build one random classification model of the same shape; ``backbone`` is a causal model whose body it copies."""
    body = tiny_model(architecture, seed=seed) if backbone is None else backbone
    config = copy.deepcopy(body.config)
    config.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + labels)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        model.base_model.load_state_dict(body.base_model.state_dict())
        with torch.no_grad():
            model.score.weight.copy_(0.3 * torch.randn_like(model.score.weight))
    return model


def _roughen(name: str, parameter: torch.nn.Parameter) -> None:
    if parameter.ndim > 1:
        if not any(part in name for part in ("embed", "wte", "wpe")):
            parameter.mul_(5)
    elif name.endswith("bias"):
        parameter.add_(0.1 * torch.randn_like(parameter))
    else:
        parameter.add_(0.3 * torch.randn_like(parameter))


def saved_and_loaded(architecture: str, folder: Path, *, seed: int = 0) -> PreTrainedModel:
    """Write a tiny model as a checkpoint folder and load it back as a user would."""
    tiny_model(architecture, seed=seed).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def random_batch(lengths: Sequence[int] = (12, 19, 15), *, seed: int = 0) -> TokenBatch:
    """Return left-padded rows of random ids, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in lengths]
    return TokenBatch.from_rows(rows, pad_id=0)
