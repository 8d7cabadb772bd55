"""What does TuCo cost, next to the two forwards it can't do without?

The rival runs base and judge once each on the same prompts, unembedding the last position only. All
of TuCo's arithmetic is inside the measured time. Variants add one thing at a time.

    python benchmarks/bench_tuco.py --rounds 9 --device cpu
"""

from collections.abc import Callable, Sequence

import torch
from timing import interleaved, options, print_lines, random_llama

from analyses import tuco
from workbench.judges import JudgeItem
from workbench.pairs import Pair, load_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tuned_copy

TWO = "two forwards (base and judge)"


def build_items(tokens: int) -> list[JudgeItem]:
    """Return two items whose prompts are about ``tokens`` bytes long in both orders."""
    filler = "The second lock on the river was opened late that year, and nobody wrote down why. "
    body = (filler * 40)[: max(10, (tokens - 150) // 3)]
    return [
        JudgeItem(item_id=str(i), question=f"{i} {body}?", answers=(body, body[:-1]), label=i % 2) for i in range(2)
    ]


def variants(pair: Pair, items: Sequence[JudgeItem]) -> dict[str, Callable[[], object]]:
    """Return what is timed; every variant runs the same four prompts in one batch."""
    batch = pair.encode(items).batch(device=pair.device)
    core = {"controls": 0, "confirm": False, "batch_size": 4, "progress": False}

    def two_forwards() -> object:
        return [m(**batch.forward_kwargs(), use_cache=False, logits_to_keep=1).logits for m in (pair.base, pair.judge)]

    def run(**choices: object) -> Callable[[], object]:
        return lambda: tuco.run(pair, items, numerics=False, **(core | choices))

    return {
        TWO: two_forwards,
        "TuCo": run(output_share=False, readout=None),
        "TuCo and verdict split": run(output_share=False),
        "TuCo, verdict split, OutputCo (a third forward)": run(),
        "TuCo at sub-layers": run(output_share=False, readout=None, granularity="sublayer"),
    }


def main() -> None:
    """Time all variants and print one JSON line each."""
    chosen = options(__doc__, rounds=7)
    base = random_llama(small=chosen.small, device=chosen.device)
    judge = tuned_copy(base, change=scaled_noise(0.02))
    pair = load_pair(base, judge, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device=chosen.device)
    pair.identity()
    items = build_items(chosen.tokens)
    timings = interleaved(variants(pair, items), rounds=chosen.rounds, device=chosen.device)
    lengths = [len(row) for row in pair.encode(items).rows]
    more = {"prompts": len(lengths), "prompt_tokens": sum(lengths) // len(lengths), "cuda": torch.cuda.is_available()}
    print_lines("tuco", timings, rival=TWO, chosen=chosen, **more)


if __name__ == "__main__":
    main()
