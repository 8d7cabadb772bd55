"""How long until the first table of guards, and what does an adapter's pair take beside its base?

The time is from the call of ``load_pair("demo")`` to its table, in fresh processes that have imported the package.
Memory is what a process takes above where it stood before loading (a tiny pair was loaded and run, so that imports
don't count) until every model was run once and every weight was read: the base of a random Llama alone, the pair of
it and a LoRA adapter, and the same pair examined by the doctor.

    python benchmarks/bench_check.py
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from memory import Watch, in_own_process
from timing import LIBRARIES, options, random_llama
from torch import nn

LOADS = ("base alone", "LoRA pair", "LoRA pair, examined")


def time_demo() -> None:
    """Load the embedded pair and print seconds until its table, and until that of a pair nobody examined."""
    from workbench.pairs import load_pair

    torch.set_num_threads(1)
    started = time.perf_counter()
    guards = len(load_pair("demo", device="cpu").report.guards)
    print(json.dumps({"seconds": time.perf_counter() - started, "guards": guards}))


def one_load(what: str, base: str, adapter: str) -> None:
    """Load one thing, run it, and print how far memory rose."""
    from transformers import AutoModelForCausalLM

    from workbench.pairs import load_pair
    from workbench.pairs.tiny import tiny_pair

    torch.set_num_threads(1)
    small = tiny_pair(kind="lora", doctor=what == LOADS[2])
    run((small.base, small.judge))
    with Watch() as watch:
        started = time.perf_counter()
        if what == LOADS[0]:
            models = (AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),)
        else:
            pair = load_pair(base, adapter, format="pairwise", device="cpu", doctor=what == LOADS[2])
            models = pair.base, pair.judge
        seconds = time.perf_counter() - started
        run(models)
    print(json.dumps({"above_start_mb": round(watch.above, 1), "seconds": round(seconds, 3)}))


def run(models: Sequence[nn.Module]) -> None:
    """Read every weight of each model and run it on a short prompt."""
    with torch.no_grad():
        for model in models:
            for parameter in model.parameters():
                torch.linalg.vector_norm(parameter)
            model(torch.arange(3, 67)[None])


def write_pair(root: Path, *, small: bool) -> tuple[str, str, float]:
    """Write a random base and a LoRA adapter on it; return both folders and the size of the base, MB."""
    from peft import LoraConfig, get_peft_model

    from workbench.pairs.tiny import byte_tokenizer

    base = random_llama(small=small, device="cpu")
    size = sum(p.numel() * p.element_size() for p in base.parameters()) / 2**20
    base.save_pretrained(root / "base")
    byte_tokenizer().save_pretrained(root / "base")
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(root / "adapter")
    byte_tokenizer().save_pretrained(root / "adapter")
    return str(root / "base"), str(root / "adapter"), size


def main() -> None:
    """Time the demo, then weigh each load, every one in a process of its own."""
    if "--one" in sys.argv:
        at = sys.argv.index("--one")
        time_demo() if sys.argv[at + 1] == "demo" else one_load(*sys.argv[at + 1 : at + 4])
        return
    chosen = options(__doc__, rounds=5)
    shared = {"device": "cpu", "threads": 1, "versions": {library: version(library) for library in LIBRARIES}}
    runs = [in_own_process(__file__, "demo") for _ in range(chosen.rounds)]
    line = {"benchmark": "check", "variant": "load_pair('demo') to its table", "guards": runs[0]["guards"]}
    line["median_seconds"] = round(statistics.median(run["seconds"] for run in runs), 3)
    line["slowest_seconds"] = round(max(run["seconds"] for run in runs), 3)
    print(json.dumps(line | {"rounds": chosen.rounds} | shared), flush=True)
    with tempfile.TemporaryDirectory() as root:
        base, adapter, size = write_pair(Path(root), small=chosen.small)
        alone: float | None = None
        for what in LOADS:
            measured = in_own_process(__file__, what, base, adapter)
            alone = measured["above_start_mb"] if alone is None else alone
            ratio = round(measured["above_start_mb"] / alone, 3)
            line = {"benchmark": "check", "variant": what, **measured, "over_base_alone": ratio}
            print(json.dumps(line | {"weights_of_base_mb": round(size, 1), "small": chosen.small} | shared), flush=True)


if __name__ == "__main__":
    main()
