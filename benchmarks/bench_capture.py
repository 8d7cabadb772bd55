"""What does reading every residual site cost, next to a plain Hugging Face forward?

One random Llama, one process, fixed seed; see timing.py for how it is measured.

    python benchmarks/bench_capture.py --rounds 20 --device cpu
"""

from collections.abc import Callable

import torch
from timing import interleaved, options, print_lines, random_llama
from tokenizers import Tokenizer, models
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.hooks import Anatomy, BridgeBackend, Component, HooksBackend, NNsightBackend, weight_sharing_shadow
from workbench.tokens import TokenBatch

RESIDUAL = (Component.RESID_PRE, Component.RESID_MID, Component.RESID_POST)
PLAIN = "plain forward"


def variants(model: LlamaForCausalLM, batch: TokenBatch) -> dict[str, Callable[[], object]]:
    """Return what is timed; all read the same sites, and unembed every position as a plain forward does."""
    anatomy = Anatomy.of(model)
    sites = anatomy.sites(components=RESIDUAL)
    hooks = HooksBackend(model, anatomy)
    # nnsight leaves a wrapper on what it traces: a shadow keeps the plain forward plain.
    nnsight = NNsightBackend(weight_sharing_shadow(model), anatomy, tokenizer=_tokenizer())
    bridge = BridgeBackend(anatomy).bridge
    names = {f"blocks.{site.layer}.hook_{site.component}" for site in sites}

    def plain() -> object:
        return model(**batch.forward_kwargs(), use_cache=False).logits

    def lens() -> object:
        return bridge.run_with_cache(
            batch.ids,
            names_filter=lambda name: name in names,
            attention_mask=batch.mask.long(),
            output_attentions=False,
        )

    return {
        PLAIN: plain,
        "HooksBackend, residual sites": lambda: hooks.run(batch, capture=sites, logits="all"),
        "HooksBackend, last logits only": lambda: hooks.run(batch, capture=sites),
        "NNsightBackend, residual sites": lambda: nnsight.run(batch, capture=sites, logits="all"),
        "TransformerBridge.run_with_cache": lens,
    }


def _tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>", pad_token="</s>")


def main() -> None:
    """Time all variants and print one JSON line each."""
    chosen = options(__doc__, rounds=15)
    model = random_llama(small=chosen.small, device=chosen.device)
    ids = torch.randint(3, 8192, (1, chosen.tokens), generator=torch.Generator().manual_seed(0)).tolist()
    batch = TokenBatch.from_rows(ids, pad_id=0, device=chosen.device)
    timings = interleaved(variants(model, batch), rounds=chosen.rounds, device=chosen.device)
    print_lines("capture", timings, rival=PLAIN, chosen=chosen, dtype=str(model.dtype).removeprefix("torch."))


if __name__ == "__main__":
    main()
