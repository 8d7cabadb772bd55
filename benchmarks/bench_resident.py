"""How much memory do two models take, and how much with one of them resident at a time?

Each mode runs in a process of its own: a random pair is made, then the double pass of TuCo is watched by
sampling the process' resident memory (on a GPU, the allocator's peak). Loading both, and putting both back
afterwards, hold both models in host memory in either mode and are not counted.

    python benchmarks/bench_resident.py --device cpu
"""

import gc
import json
import subprocess
import sys
import time
from contextlib import ExitStack

import torch
from memory import Watch
from timing import options, random_llama

MODES = ("both", "one")


def one_mode(mode: str, *, device: str, tokens: int, small: bool) -> None:
    """Run the double pass on a random pair in one mode and print one JSON line."""
    from bench_tuco import build_items

    from analyses.tuco.clamp import contributions, judge_side
    from analyses.tuco.cuts import units
    from workbench.pairs import load_pair, one_resident
    from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tuned_copy

    home = "cpu" if mode == "one" else device
    models = [random_llama(small=small, device=home)]
    models.append(tuned_copy(models[0], change=scaled_noise(0.02)))
    pair = load_pair(*models, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device=home)
    del models
    weights = sum(p.numel() * p.element_size() for p in pair.base.parameters()) / 2**20
    blocks = pair.base.get_submodule(pair.anatomy("base").blocks_path)
    block_weights = sum(p.numel() * p.element_size() for p in blocks.parameters()) / 2**20
    parts = units("block", n_layers=pair.n_layers, parallel=pair.anatomy("judge").parallel)
    judge, base = pair.executor("judge"), pair.executor("base")
    cuda = device.startswith("cuda")
    started = time.perf_counter()
    with ExitStack() as stack:
        switch = None
        if mode == "one":
            switch = stack.enter_context(one_resident(pair, device=device if cuda else None))
        gc.collect()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        with Watch(every=0.02) as watch:
            batch = pair.encode(build_items(tokens), orders=["original"]).batch(device=device)
            side = judge_side(judge, batch, parts=parts)
            if switch is not None:
                switch("base")
            contributions(side, base, batch, parts=parts)
        peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else watch.peak
    line = {
        "benchmark": "resident",
        "variant": mode,
        "peak_mb": round(peak, 1),
        "weights_of_one_model_mb": round(weights, 1),
        "blocks_of_one_model_mb": round(block_weights, 1),
        "seconds": round(time.perf_counter() - started, 3),
        "tokens": tokens,
        "device": "cpu" if not cuda else torch.cuda.get_device_name(device),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    """Run each mode in a process of its own."""
    if "--mode" in sys.argv:
        at = sys.argv.index("--mode")
        _, mode, device, tokens, small = sys.argv[at : at + 5]
        one_mode(mode, device=device, tokens=int(tokens), small=small == "True")
        return
    chosen = options(__doc__, rounds=1)
    for mode in MODES:
        settings = [mode, chosen.device, str(chosen.tokens), str(chosen.small)]
        subprocess.run([sys.executable, __file__, "--mode", *settings], check=True)


if __name__ == "__main__":
    main()
