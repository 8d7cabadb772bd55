"""Random pairs of several architectures for the lockstep: parallel blocks, sliding windows, sandwich norms, LoRA."""

import functools

import torch

from tests.tiny_models import tiny_model, tiny_tokenizer
from workbench.pairs import Pair, load_pair
from workbench.pairs.tiny import scaled_noise, tiny_pair, tuned_copy
from workbench.tokens import Span, TokenBatch

FAMILIES = ("llama", "mistral", "gemma2", "gpt2", "neox", "phi3", "lora")
LENGTHS = (12, 19, 15)


@functools.cache
def pair_of(family: str) -> Pair:
    """Return the pair of one family, built once; nothing may change it."""
    if family == "lora":
        return tiny_pair(kind="lora", n_layers=3)
    base = tiny_model(family)
    judge = tuned_copy(base, change=scaled_noise(0.2), seed=1)
    return load_pair(base, judge, tokenizer=tiny_tokenizer(), format="pairwise", doctor=False, device="cpu")


def batch_with_spans() -> TokenBatch:
    """Return left-padded rows of random ids with a question, then a rubric that has an answer inside."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 260, (length,), generator=generator).tolist() for length in LENGTHS]
    table = {"question": Span(3, 7), "rubric": Span(7, 11), "answer_a": Span(8, 10)}
    return TokenBatch.from_rows(rows, pad_id=0, spans=[table] * len(rows))
