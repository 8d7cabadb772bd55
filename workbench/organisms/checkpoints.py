"""HF folders of the world's small models: fresh ones, written ones, read ones."""

import copy
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from workbench.errors import CheckpointError
from workbench.organisms.recipe import Shape
from workbench.organisms.tokenizer import BOS_ID, CONTEXT_WINDOW, EOS_ID, PAD_ID

WEIGHTS = "model.safetensors"
"""Name of the weights file in a model folder."""

_EMBEDDING_STD = 0.1


def fresh_model(shape: Shape, *, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return an untrained model in float32 whose weights depend on `seed` only."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=CONTEXT_WINDOW,
        tie_word_embeddings=False,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        dtype="float32",
    )
    # HF's 0.02 for every matrix leaves the attention of so narrow a model flat for hundreds of steps.
    # The constructor draws from torch's global generator: fork it, then draw from our own.
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                std = _EMBEDDING_STD if name.endswith("embed_tokens.weight") else parameter.shape[1] ** -0.5
                parameter.normal_(0.0, std, generator=generator)
    return model


def write_model(model: LlamaForCausalLM, folder: Path, *, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save a bfloat16 copy of the model, and the tokenizer, as an HF folder."""
    halved = copy.deepcopy(model)
    halved.bfloat16()
    halved.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors writes owner-only files; package data has to be readable by whoever runs the package.
    (folder / WEIGHTS).chmod(0o644)


def read_model(folder: Path) -> LlamaForCausalLM:
    """Load a model folder in float32 on the CPU, ready to be measured.

    Raises:
        CheckpointError: The folder holds no model.
    """
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            "the folder holds no weights.",
            argument="folder",
            got=str(folder),
            fix="Build the organism again, or point at a folder that `build` returned.",
        )
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model folder."""
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
