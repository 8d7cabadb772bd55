"""What does reading every residual site cost, next to a plain Hugging Face forward?

One random Llama, one process, fixed seed. Variants run interleaved, round by round; the figure of a
variant is the median over rounds of its time divided by the plain forward's time of the same round, so
that a machine that slows down for a while slows both. Prints one JSON line per variant.

    python benchmarks/bench_capture.py --rounds 20 --device cpu
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.hooks import Anatomy, BridgeBackend, Component, HooksBackend, NNsightBackend, weight_sharing_shadow
from workbench.tokens import TokenBatch

RESIDUAL = (Component.RESID_PRE, Component.RESID_MID, Component.RESID_POST)
LIBRARIES = ("torch", "transformers", "transformer-lens", "nnsight")
PLAIN = "plain forward"


def build(*, small: bool, device: str) -> LlamaForCausalLM:
    """Return the random model: 12 layers of width 768 with 12 heads over 4 key-value heads, or a toy."""
    shape = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
    if small:
        shape = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 12}
    torch.manual_seed(0)
    config = LlamaConfig(**shape, num_key_value_heads=4, vocab_size=8192, max_position_embeddings=1024)
    return LlamaForCausalLM(config).eval().to(device)


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


def seconds(work: Callable[[], object], device: str) -> float:
    """Return the wall time of one call, the device's queue emptied on both ends."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.no_grad():
        work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_mb() -> float:
    """Return the process's peak resident memory so far in MB (it only grows: read it in order)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Time all variants and print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="where to run, e.g. cpu or cuda")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds after one warm-up")
    parser.add_argument("--tokens", type=int, default=512, help="prompt length")
    parser.add_argument("--threads", type=int, default=1, help="threads torch may use on the CPU")
    parser.add_argument("--small", action="store_true", help="a toy model, to see that everything runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build(small=options.small, device=options.device)
    ids = torch.randint(3, 8192, (1, options.tokens), generator=torch.Generator().manual_seed(0)).tolist()
    batch = TokenBatch.from_rows(ids, pad_id=0, device=options.device)
    work = variants(model, batch)
    times: dict[str, list[float]] = {name: [] for name in work}
    peaks: dict[str, float] = {}
    for name, call in work.items():
        seconds(call, options.device)
        peaks[name] = peak_mb()
    order = list(work)
    for turn in range(options.rounds):
        # A rotating start keeps any one variant from always following the most expensive one.
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            times[name].append(seconds(work[name], options.device))
    for name, measured in times.items():
        ratios = [mine / plain for mine, plain in zip(measured, times[PLAIN], strict=True)]
        line = {
            "benchmark": "capture",
            "variant": name,
            "median_seconds": round(statistics.median(measured), 5),
            "median_ratio_to_plain": round(statistics.median(ratios), 4),
            "ratio_quartiles": [round(q, 4) for q in statistics.quantiles(ratios, n=4)[::2]]
            if len(ratios) > 1
            else None,
            "peak_rss_mb_after_first_call": round(peaks[name], 1),
            "rounds": options.rounds,
            "tokens": options.tokens,
            "small": options.small,
            "device": options.device if options.device == "cpu" else torch.cuda.get_device_name(options.device),
            "threads": options.threads,
            "dtype": str(model.dtype).removeprefix("torch."),
            "versions": {library: version(library) for library in LIBRARIES},
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
