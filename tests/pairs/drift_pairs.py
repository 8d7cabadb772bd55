"""Pairs whose vocabularies, templates or configurations drifted apart, in known ways."""

import copy
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from workbench.judges import JudgeItem
from workbench.pairs import Pair, load_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tuned_copy

ROWS = 260
"""Rows of the tiny base; its tokenizer uses 259 of them."""
ADDED = ("<|im_start|>", "<|im_end|>", "[PAD]", "[MASK]")
"""Four tokens: the first gets the base's last row, which nothing used; the base has no row for the other three."""
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = (
    "{% for m in messages %}## {{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}## assistant\n{% endif %}"
)


def items(count: int = 8) -> list[JudgeItem]:
    """Return labelled items, each its own cluster."""
    return [
        JudgeItem(item_id=f"i{k}", question=f"What is {k}?", answers=(f"{k * k}", f"it is {k}"), label=k % 2)
        for k in range(count)
    ]


def tokenizer_with(*added: str, template: str | None = None) -> PreTrainedTokenizerFast:
    """Return the byte tokenizer with tokens added to it."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)}) if added else None
    tokenizer.chat_template = template
    return tokenizer


def resized(model: PreTrainedModel, rows: int, *, seed: int = 3) -> PreTrainedModel:
    """Return a copy with another number of rows; new ones are random and large, so that reading one shows."""
    clone = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clone.resize_token_embeddings(rows, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    old = min(model.get_input_embeddings().weight.shape[0], rows)
    with torch.no_grad():
        for matrix in (clone.get_input_embeddings().weight, clone.get_output_embeddings().weight):
            matrix[old:] = torch.randn(matrix[old:].shape, generator=generator)
    return clone


def grown_pair(architecture: str = "llama", *, format: str = "pairwise", doctor: bool = False, **options) -> Pair:  # noqa: A002
    """Return a base of 260 rows and a judge of 263 whose tokenizer has four tokens more."""
    base = tiny_model(architecture=architecture)
    judge = resized(tuned_copy(base, change=scaled_noise(0.1), seed=1), ROWS + 3)
    tokenizer = tokenizer_with(*ADDED, template=CHATML)
    return load_pair(base, judge, tokenizer=tokenizer, format=format, doctor=doctor, device="cpu", **options)


def template_pair(folder: Path, *, planted: float = 1.0, tuned: float = 0.0, base_template: str | None = WORDS) -> Pair:
    """Return a pair loaded from folders, each with its template.

    The judge is the base but for the embedding of ``<|im_start|>``, which its own template writes and the base's
    doesn't, and for noise of relative size ``tuned`` everywhere.
    """
    tokenizers = {
        "base": tokenizer_with(*ADDED, template=base_template),
        "judge": tokenizer_with(*ADDED, template=CHATML),
    }
    base = resized(tiny_model(), ROWS + 3)
    judge = tuned_copy(base, change=scaled_noise(tuned), seed=1)
    with torch.no_grad():
        judge.get_input_embeddings().weight[tokenizers["judge"].convert_tokens_to_ids("<|im_start|>")] += planted
    for side, module in (("base", base), ("judge", judge)):
        module.save_pretrained(folder / side)
        tokenizers[side].save_pretrained(folder / side)
    return load_pair(folder / "base", folder / "judge", format="bracket", doctor=False, device="cpu")
