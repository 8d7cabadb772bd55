"""Adapters of every kind on the tiny models: how each is configured, trained a little, and saved."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel

from workbench.hooks import weight_sharing_shadow
from workbench.tokens import TokenBatch

MATRICES = {"gpt2": ["attn.c_attn", "mlp.c_proj"], "neox": ["query_key_value", "dense_4h_to_h"]}
"""One matrix that reads the residual stream and one that writes it; q_proj and down_proj elsewhere."""
NORMS = {"gpt2": ["ln_1", "ln_f"], "neox": ["input_layernorm", "final_layer_norm"]}
EMBEDDINGS = {"gpt2": "wte", "neox": "embed_in"}
HEADS = {"neox": "embed_out"}

TOKENS = [5, 9, 31]
"""Ids whose embeddings the kinds that train tokens change; they stand in ``BATCH``."""
BATCH = TokenBatch.from_rows([[1, *TOKENS, 77, 140, 201, 9, 260, 33, 18, 5], [1, 88, 31, 250, 5, 12]], pad_id=0)
LINEAR_ONLY = frozenset(
    "olora oft boft loha lokr hra miss shira c3a road delora beft glora osf peanut psoft supertuning".split()
)
"""Kinds that peft can't put on GPT-2's transposed matrices; there they sit on the (tied) head."""

Config = Callable[[str], peft.PeftConfig]


def matrices(architecture: str) -> list[str]:
    """Return the two kinds of matrices that adapters of the matrix sit on."""
    return MATRICES.get(architecture, ["q_proj", "down_proj"])


def embedding(architecture: str) -> str:
    """Return the name of the token embedding."""
    return EMBEDDINGS.get(architecture, "embed_tokens")


def norms(architecture: str) -> list[str]:
    """Return the names of two kinds of norms."""
    return NORMS.get(architecture, ["input_layernorm", "model.norm"])


def _on_matrices(config: type[Any], **options: Any) -> Config:
    return lambda architecture: config(target_modules=matrices(architecture), task_type="CAUSAL_LM", **options)


def _on(names: Callable[[str], Any], config: type[Any], **options: Any) -> Config:
    return lambda architecture: config(target_modules=names(architecture), task_type="CAUSAL_LM", **options)


def _ia3(architecture: str) -> peft.PeftConfig:
    reads, writes = matrices(architecture)
    return peft.IA3Config(target_modules=[reads, writes], feedforward_modules=[writes], task_type="CAUSAL_LM")


def _saved_head(architecture: str) -> peft.PeftConfig:
    modules = [norms(architecture)[1].rpartition(".")[2]]  # a head tied to the embedding can't be saved alone
    return peft.LoraConfig(r=4, target_modules=matrices(architecture), modules_to_save=modules, task_type="CAUSAL_LM")


def _tokens_beside(architecture: str) -> peft.PeftConfig:
    return peft.LoraConfig(
        r=4,
        target_modules=matrices(architecture),
        trainable_token_indices={embedding(architecture): TOKENS},
        task_type="CAUSAL_LM",
    )


def _patterned(architecture: str) -> peft.PeftConfig:
    reads, writes = (name.rpartition(".")[2] for name in matrices(architecture))
    return peft.LoraConfig(
        r=2,
        target_modules=matrices(architecture),
        rank_pattern={reads: 6},
        alpha_pattern={writes: 20},
        task_type="CAUSAL_LM",
    )


KINDS: Mapping[str, Config] = {
    "lora": _on_matrices(peft.LoraConfig, r=4),
    "rslora": _on_matrices(peft.LoraConfig, r=4, use_rslora=True),
    "dora": _on_matrices(peft.LoraConfig, r=4, use_dora=True),
    "pissa": _on_matrices(peft.LoraConfig, r=4, init_lora_weights="pissa"),
    "olora": _on_matrices(peft.LoraConfig, r=4, init_lora_weights="olora"),
    "eva": _on_matrices(peft.LoraConfig, r=4, init_lora_weights="eva"),
    "lora with patterns": _patterned,
    "lora with a saved norm": _saved_head,
    "lora with trained tokens": _tokens_beside,
    "lora on the embedding": _on(lambda a: [matrices(a)[0], embedding(a)], peft.LoraConfig, r=4),
    "lora with biases": _on_matrices(peft.LoraConfig, r=4, bias="all"),
    "adalora": _on_matrices(peft.AdaLoraConfig, init_r=4, target_r=4, total_step=10),
    "ia3": _ia3,
    "oft": _on_matrices(peft.OFTConfig, oft_block_size=8),
    "boft": _on_matrices(peft.BOFTConfig, boft_block_size=8),
    "loha": _on_matrices(peft.LoHaConfig, r=4),
    "lokr": _on_matrices(peft.LoKrConfig, r=4),
    "vera": lambda a: peft.VeraConfig(target_modules=matrices(a)[:1], r=4, task_type="CAUSAL_LM"),
    "fourierft": _on_matrices(peft.FourierFTConfig, n_frequency=50),
    "ln_tuning": _on(norms, peft.LNTuningConfig),
    "hra": _on_matrices(peft.HRAConfig, r=4),
    "miss": _on_matrices(peft.MissConfig, r=4),
    "shira": _on_matrices(peft.ShiraConfig, r=4, random_seed=0),
    "randlora": _on_matrices(peft.RandLoraConfig, r=4, randlora_alpha=8),
    "vblora": _on_matrices(peft.VBLoRAConfig, r=4, num_vectors=16, vector_length=32),
    "c3a": _on_matrices(peft.C3AConfig, block_size=32),
    "waveft": _on_matrices(peft.WaveFTConfig, n_frequency=50),
    "road": _on_matrices(peft.RoadConfig, group_size=32),
    "delora": _on_matrices(peft.DeloraConfig, r=4),
    "gralora": _on_matrices(peft.GraloraConfig, r=4),
    "trainable_tokens": _on(lambda a: [embedding(a)], peft.TrainableTokensConfig, token_indices=TOKENS),
    "beft": _on(lambda a: matrices(a)[:1], peft.BeftConfig),
    "deft": _on_matrices(peft.DeftConfig, r=4),
    "frod": _on_matrices(peft.FrodConfig, progressbar=False),
    "glora": _on_matrices(peft.GloraConfig, r=4),
    "hira": _on_matrices(peft.HiraConfig, r=4),
    "peanut": _on_matrices(peft.PeanutConfig, r=4),
    "osf": _on_matrices(peft.OSFConfig, effective_rank=8),
    "psoft": _on_matrices(peft.PsoftConfig, r=4),
    "pvera": lambda a: peft.PveraConfig(target_modules=matrices(a)[:1], r=4, task_type="CAUSAL_LM"),
    "supertuning": _on_matrices(peft.SupertuningConfig, sparsity=0.9),
    "tinylora": _on_matrices(peft.TinyLoraConfig, r=2, u=8),
    "unilora": _on_matrices(peft.UniLoraConfig, r=4, theta_d_length=64),
}
"""Name -> configuration for an architecture. Variants of LoRA come first, then peft's types by name."""


def trained(base: PreTrainedModel, kind: str, architecture: str, *, size: float = 0.1) -> PeftModel:
    """Return a live adapter of ``kind`` on a copy of ``base``, with every trained tensor moved at random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(own_copy(base), configuration(kind, architecture))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(size * torch.randn_like(parameter))
    return model.eval()


def configuration(kind: str, architecture: str) -> peft.PeftConfig:
    """Return the configuration of a kind on an architecture."""
    config: Any = KINDS[kind](architecture)
    if architecture == "gpt2" and kind in LINEAR_ONLY:
        config.target_modules = {"lm_head"}
    return config


def fits(kind: str, architecture: str) -> bool:
    """Return whether a kind has something to change there: BEFT needs modules with a bias."""
    return kind != "beft" or architecture in ("llama", "neox")


def saved(base: PreTrainedModel, kind: str, architecture: str, folder: Path) -> Path:
    """Save such an adapter and return its folder."""
    trained(base, kind, architecture).save_pretrained(folder, save_embedding_layers=False)
    return folder


def own_copy(base: PreTrainedModel) -> PreTrainedModel:
    """Return a copy that shares no parameter."""
    fresh = {p: torch.nn.Parameter(p.detach().clone()) for p in base.parameters()}
    return weight_sharing_shadow(base, replace=fresh)
