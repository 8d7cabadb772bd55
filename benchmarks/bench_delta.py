"""How much memory and time does the weight difference of two sharded checkpoints take?

Two random checkpoints of two shards are written, once in bfloat16 and once in float32, whose largest tensor has the
same size in bytes. Every way of comparing them then runs in a process of its own; memory is what the process takes
above where it stood before, over the largest tensor as stored.

    python benchmarks/bench_delta.py
"""

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from memory import Watch, in_own_process
from safetensors.torch import save_file
from timing import LIBRARIES, options
from transformers import LlamaConfig

WAYS = ("streamed, norms", "streamed, norms and spectrum", "both models loaded and subtracted")


def write_checkpoint(folder: Path, config: LlamaConfig, *, dtype: torch.dtype, seed: int) -> int:
    """Write a random checkpoint of two shards and return the bytes of its largest tensor."""
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    d, ff = config.hidden_size, config.intermediate_size
    matrices = {"self_attn.q_proj": (d, d), "self_attn.k_proj": (d, d), "self_attn.v_proj": (d, d)}
    matrices |= {"self_attn.o_proj": (d, d), "mlp.gate_proj": (ff, d), "mlp.up_proj": (ff, d), "mlp.down_proj": (d, ff)}
    shapes = {"model.embed_tokens.weight": (config.vocab_size, d), "model.norm.weight": (d,)}
    for layer in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in matrices.items()}
        shapes |= {f"model.layers.{layer}.{n}_layernorm.weight": (d,) for n in ("input", "post_attention")}
    names, places = list(shapes), {}
    for number, part in enumerate((names[:1], names[1:]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        tensors = {}
        for name in part:
            base, noise = (torch.Generator().manual_seed(hash_of(name) + s) for s in (0, 1 + seed))
            tensors[name] = torch.randn(shapes[name], generator=base)
            if seed:
                tensors[name] += 0.02 * torch.randn(shapes[name], generator=noise)
            tensors[name] = tensors[name].to(dtype)
            places[name] = file
        save_file(tensors, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return config.vocab_size * d * torch.empty(0, dtype=dtype).element_size()


def hash_of(name: str) -> int:
    """Return a small number that is the same in every process."""
    return sum(ord(letter) * place for place, letter in enumerate(name, start=1))


def one_way(way: str, base: str, judge: str) -> None:
    """Compare the two in one way and print seconds, memory and the relative change found."""
    from transformers import AutoModelForCausalLM

    from workbench.pairs import weight_delta

    torch.set_num_threads(1)
    with Watch() as watch:
        started = time.perf_counter()
        if way == WAYS[-1]:
            left, right = (AutoModelForCausalLM.from_pretrained(folder, dtype="auto") for folder in (base, judge))
            moved = norm = 0.0
            others = dict(right.named_parameters())
            for name, parameter in left.named_parameters():
                own = parameter.detach().float()
                moved += float((others[name].detach().float() - own).square().sum())
                norm += float(own.square().sum())
            relative = (moved / norm) ** 0.5
        else:
            relative = weight_delta(base, judge, spectrum=way == WAYS[1]).relative
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": round(seconds, 3), "above_start_mb": round(watch.above, 1), "relative": relative}))


def main() -> None:
    """Write the checkpoints, then run every way on each pair of them."""
    if "--one" in sys.argv:
        at = sys.argv.index("--one")
        one_way(*sys.argv[at + 1 : at + 4])
        return
    chosen = options(__doc__, rounds=1)
    with tempfile.TemporaryDirectory() as root:
        for dtype, vocabulary in ((torch.bfloat16, 65536), (torch.float32, 32768)):
            shape = {"hidden_size": 2048, "intermediate_size": 4096, "num_attention_heads": 16}
            if chosen.small:
                shape, vocabulary = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}, 2048
            config = LlamaConfig(**shape, num_hidden_layers=2, vocab_size=vocabulary, tie_word_embeddings=True)
            name = str(dtype).removeprefix("torch.")
            folders = [Path(root) / name / side for side in ("base", "judge")]
            largest = [write_checkpoint(f, config, dtype=dtype, seed=s) for s, f in enumerate(folders)][0] / 2**20
            for way in WAYS:
                measured = in_own_process(__file__, way, *map(str, folders))
                line = {
                    "benchmark": "delta",
                    "variant": way,
                    "stored": name,
                    "largest_tensor_mb": round(largest, 1),
                    "above_start_over_largest_tensor": round(measured["above_start_mb"] / largest, 2),
                    **measured,
                    "shards": 2,
                    "small": chosen.small,
                    "device": "cpu",
                    "threads": 1,
                    "versions": {library: version(library) for library in LIBRARIES},
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
