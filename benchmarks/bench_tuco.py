"""What does TuCo cost, next to the forwards it can't do without?

Rivals run on the same prompts in the same process, unembedding the last position only: one forward of
the judge, and one forward of each model. All of TuCo's arithmetic is inside the measured time; the
comparison of the shortcut with full forwards, once per run on one item, is not.

    python benchmarks/bench_tuco.py --rounds 5 --device cpu
"""

from collections.abc import Callable, Sequence

import torch
from timing import interleaved, options, print_lines, random_llama

from analyses.readout import LabelGap
from analyses.tuco.cuts import units
from analyses.tuco.evaluation import PLAIN, Evaluation
from analyses.tuco.gauge import Gauge
from analyses.tuco.prompts import Choices, measure_prompts
from analyses.tuco.tokens.double_pass import measure_tokens
from workbench.judges import JudgeItem
from workbench.pairs import Pair, gated_stream, load_pair, scaled_logits
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tuned_copy

ONE = "one forward (judge)"
NODES = 4
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def build_items(tokens: int) -> list[JudgeItem]:
    """Return two items whose prompts are about ``tokens`` bytes long in both orders."""
    filler = "The second lock on the river was opened late that year, and nobody wrote down why. "
    body = (filler * 40)[: max(10, (tokens - 150) // 3)]
    return [
        JudgeItem(item_id=str(i), question=f"{i} {body}?", answers=(body, body[:-1]), label=i % 2) for i in range(2)
    ]


def variants(pair: Pair, items: Sequence[JudgeItem], *, half: bool) -> dict[str, Callable[[], object]]:
    """Return what is timed; every variant runs the same four prompts in one batch."""
    encoded = pair.encode(items)
    batch = encoded.batch(device=pair.device)
    judge, base = pair.executor("judge"), pair.executor("base")
    readout = LabelGap(encoded.first_token_ids.a, encoded.first_token_ids.b)
    fast = Evaluation(last_only=True, float32=half)

    def forward(*sides: str) -> Callable[[], object]:
        modules = [pair.judge if side == "judge" else pair.base for side in sides]
        return lambda: [m(**batch.forward_kwargs(), use_cache=False, logits_to_keep=1).logits for m in modules]

    def tuco(*, how: Evaluation, split: bool = False, free: bool = False, cut: str = "block") -> Callable[[], object]:
        parts = units(cut, n_layers=pair.n_layers, parallel=False)  # type: ignore[arg-type]
        choices = Choices(parts=parts, norm="l1", readout=readout if split else None, free_base=free, how=how)
        return lambda: measure_prompts(judge, base, batch, choices=choices)

    def all_positions() -> object:
        parts = units("block", n_layers=pair.n_layers, parallel=False)
        return measure_tokens(judge, base, batch, parts=parts, gauge=Gauge.of("l1", judge))

    def paths() -> object:
        nodes = torch.linspace(0, 1, NODES)
        return [_path_node(pair, batch, float(node), readout) for node in nodes]

    def curve() -> object:
        return [scaled_logits(pair, batch, alpha=alpha, logits="last") for alpha in ALPHAS]

    shared = Evaluation(last_only=True, float32=half, group=2)
    return {
        ONE: forward("judge"),
        "two forwards (base and judge)": forward("base", "judge"),
        "TuCo at the last token": tuco(how=shared),
        "TuCo at the last token, nothing shared between orders": tuco(how=fast),
        "TuCo at the last token, full clamp": tuco(how=PLAIN),
        "TuCo at the last token, sub-layers": tuco(how=shared, cut="sublayer"),
        "TuCo and the verdict split": tuco(how=shared, split=True),
        "TuCo, verdict split, OutputCo (the base runs freely too)": tuco(how=shared, split=True, free=True),
        "TuCo at all positions": all_positions,
        f"path attribution, {NODES} nodes": paths,
        f"alpha curve, {len(ALPHAS)} values": curve,
    }


def _path_node(pair: Pair, batch: object, alpha: float, readout: LabelGap) -> torch.Tensor:
    """Run both models in lockstep with one gate per block, prompt and token, and differentiate the verdict by them."""
    shape = (pair.n_layers, *batch.ids.shape)  # type: ignore[attr-defined]
    with torch.enable_grad():
        gates = torch.full(shape, alpha, device=pair.device, requires_grad=True)
        stream = gated_stream(pair, batch, gates, ends="judge")  # type: ignore[arg-type]
        norm, head = (
            pair.judge.get_submodule(p) for p in (pair.anatomy("judge").final_norm, pair.anatomy("judge").unembed)
        )
        value = readout.of_normed(head, norm(stream[:, -1])).sum()
        return torch.autograd.grad(value, gates)[0]


def main() -> None:
    """Time all variants and print one JSON line each."""
    chosen = options(__doc__, rounds=5)
    dtype = torch.float32 if chosen.device == "cpu" else torch.bfloat16
    base = random_llama(small=chosen.small, device=chosen.device).to(dtype)
    judge = tuned_copy(base, change=scaled_noise(0.02))
    pair = load_pair(base, judge, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device=chosen.device)
    items = build_items(chosen.tokens)
    work = variants(pair, items, half=dtype != torch.float32)
    timings = interleaved(work, rounds=chosen.rounds, device=chosen.device)
    lengths = [len(row) for row in pair.encode(items).rows]
    more = {"prompts": len(lengths), "prompt_tokens": sum(lengths) // len(lengths), "dtype": str(dtype)}
    print_lines("tuco", timings, rival=ONE, chosen=chosen, **more)


if __name__ == "__main__":
    main()
