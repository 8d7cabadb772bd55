"""What does a patching sweep cost next to one forward, to TransformerLens' own utilities, and to plain hooks?

On a CPU one prompt is patched with another model's values: every head, attention, MLP and stream at the last token;
the stream at the last eight; every block's weights. Rivals pay a full forward per cell, so that only some cells are
run, those of the middle block, and their time is scaled to all (``cells_run`` of ``cells``). Times are the process's
own. On a GPU: all heads of a model of Llama-3.1-8B's shapes, 64 prompts.

    python benchmarks/bench_patching.py --rounds 3 --device cpu
    python benchmarks/bench_patching.py --device cuda
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from timing import interleaved, options, print_lines, random_llama
from torch import Tensor
from transformer_lens import patching
from transformers import LlamaConfig, LlamaForCausalLM

from analyses.cross_model_patching.weights import layer_swaps
from workbench.hooks import Anatomy, BridgeBackend, Component, HooksBackend, Site
from workbench.hooks.suffix import Row, Suffix, Write
from workbench.hooks.torch_backend import forward_replaced
from workbench.pairs.tiny import scaled_noise, tuned_copy
from workbench.tokens import TokenBatch

ONE = "one forward"
IDS = [5, 6]
WHOLE = (Component.RESID_PRE, Component.ATTN_OUT, Component.MLP_OUT)
LAST = 8
Cell = tuple[Site, int]
"""Where, and which token from the end (-1 is the last)."""


@dataclass
class Bench:
    """Two models of the same shape, one prompt, and what is timed on them."""

    target: HooksBackend
    donor: HooksBackend
    batch: TokenBatch
    cells: dict[str, list[Cell]] = field(default_factory=dict)
    some: dict[str, list[Cell]] = field(default_factory=dict)
    effects: dict[str, Tensor] = field(default_factory=dict)

    def entered(self, executor: HooksBackend, cells: Sequence[Cell]) -> Suffix:
        """Return a prompt run once, with what the cells need."""
        sites = list(dict.fromkeys(site.whole for site, _ in cells))
        return Suffix(executor, self.batch, capture=sites, tokens=-min(at for _, at in cells))

    def rows(self, target: Suffix, donor: Suffix, cells: Sequence[Cell]) -> list[Row]:
        """Return one row per cell, holding the donor's value."""
        width = self.batch.ids.shape[1]
        columns = {at: torch.full((1, 1), width + at) for at in {at for _, at in cells}}
        return [Row((Write(site, columns[at], donor.clean(site, columns[at])),)) for site, at in cells]

    def ours(self, name: str, *, ready: tuple[Suffix, Suffix] | None = None) -> Callable[[], object]:
        """Return the whole sweep, rows built anew; with the prefills unless they are given."""
        cells = self.cells[name]

        def work() -> object:
            target = self.entered(self.target, cells) if ready is None else ready[0]
            donor = self.entered(self.donor, cells) if ready is None else ready[1]
            found = target.run(self.rows(target, donor, cells), ids=IDS)
            gaps = found.logits[0] - found.null[0]
            chosen = [cells.index(cell) for cell in self.some[name]]
            self.effects[f"ours, {name}"] = (gaps[:, 0] - gaps[:, 1])[chosen]
            return found

        return work

    def hooks(self, name: str) -> Callable[[], object]:
        """Return some cells by plain hooks: a full forward each, the last token unembedded."""
        cells = self.some[name]
        donor = self.entered(self.donor, cells)

        def work() -> object:
            module, margins = self.target.module, []
            for site, at in [(None, 0), *cells]:
                handle = None if site is None else self._hooked(site, at, donor)
                logits = module(**self.batch.forward_kwargs(), use_cache=False, logits_to_keep=1).logits[0, -1]
                if handle is not None:
                    handle.remove()
                margins.append(logits[IDS[0]] - logits[IDS[1]])
            self.effects[f"hooks, {name}"] = torch.stack(margins[1:]) - margins[0]
            return margins

        return work

    def _hooked(self, site: Site, at: int, donor: Suffix) -> Any:
        port, width = self.target.anatomy.port(site), self.batch.ids.shape[1]
        value = donor.clean(site, torch.full((1, 1), width + at))[:, 0]

        def written(raw: Tensor) -> Tensor:
            new = port.read(raw).clone()
            if site.head is None:
                new[:, at] = value
            else:
                new[:, at, site.head] = value
            return port.write(raw, new)

        child = self.target.module.get_submodule(port.path)
        if port.side == "in":
            return child.register_forward_pre_hook(
                lambda _m, args, kwargs: ((written(args[0]), *args[1:]), kwargs), with_kwargs=True
            )
        return child.register_forward_hook(
            lambda _m, _a, out: written(out) if isinstance(out, Tensor) else (written(out[0]), *out[1:])
        )

    def lens(self, name: str) -> Callable[[], object]:
        """Return the same cells by ``transformer_lens.patching``, its cache of the donor taken before."""
        cells, width = self.some[name], self.batch.ids.shape[1]
        bridge = BridgeBackend(self.target.anatomy).bridge
        source = BridgeBackend(self.donor.anatomy).bridge
        _, cache = source.run_with_cache(self.batch.ids)
        kinds = list(dict.fromkeys((site.component, site.head is None) for site, _ in cells))

        def metric(logits: Tensor) -> Tensor:
            return logits[0, -1, IDS[0]] - logits[0, -1, IDS[1]]

        def work() -> object:
            clean = metric(bridge(self.batch.ids))
            found: dict[Cell, Tensor] = {}
            for component, whole in kinds:
                own = [cell for cell in cells if cell[0].component is component]
                index = [(s.layer, width + at) if whole else (s.layer, width + at, s.head) for s, at in own]
                names = ["layer", "pos"] if whole else ["layer", "pos", "head_index"]
                setter = patching.layer_pos_patch_setter if whole else patching.layer_pos_head_vector_patch_setter
                values = patching.generic_activation_patch(
                    bridge, self.batch.ids, cache, metric, setter, str(component),
                    index_df=pd.DataFrame(index, columns=names),
                )  # fmt: skip
                found |= dict(zip(own, values, strict=True))
            self.effects[f"lens, {name}"] = torch.stack([found[cell] for cell in cells]) - clean
            return found

        return work

    def swaps(self) -> object:
        """Swap every block's weights in turn, resumed from the block."""
        self.effects["swaps"] = layer_swaps(self.target, self.donor, self.batch)
        return None

    def naive_swaps(self) -> object:
        """Do the same by full forwards, and one of the untouched model."""
        module, path, found = self.target.module, self.target.anatomy.blocks_path, []
        blocks, others = (list(m.get_submodule(path).children()) for m in (module, self.donor.module))
        kwargs = {**self.batch.forward_kwargs(), "use_cache": False, "logits_to_keep": 1}
        module(**kwargs)
        for block, other in zip(blocks, others, strict=True):
            with forward_replaced(block, other.forward):
                found.append(module(**kwargs).logits[:, -1])
        self.effects["naive swaps"] = torch.stack(found)
        return None


def built(chosen: argparse.Namespace) -> Bench:
    """Return both models and the cells of each sweep."""
    target = random_llama(small=chosen.small, device="cpu")
    donor = tuned_copy(target, change=scaled_noise(0.1))
    ids = torch.randint(3, 8192, (1, chosen.tokens), generator=torch.Generator().manual_seed(0)).tolist()
    bench = Bench(
        HooksBackend(target, Anatomy.of(target)),  # type: ignore[arg-type]
        HooksBackend(donor, Anatomy.of(donor)),
        TokenBatch.from_rows(ids, pad_id=0),
    )
    layers, heads = range(bench.target.anatomy.n_layers), range(bench.target.anatomy.n_heads)
    last = [(Site(component, layer), -1) for layer in layers for component in WHOLE]
    last += [(Site(Component.Z, layer, head), -1) for layer in layers for head in heads]
    streams = [(Site(Component.RESID_PRE, layer), -k) for layer in layers for k in range(LAST, 0, -1)]
    bench.cells = {"last token": last, f"stream, last {LAST}": streams}
    # A full forward costs the same wherever it is patched.
    middle = len(layers) // 2
    bench.some = {
        "last token": [(s, at) for s, at in last if s.layer == middle and s.head in (None, 1)],
        f"stream, last {LAST}": [(s, at) for s, at in streams if s.layer == middle and at in (-1, -LAST)],
    }
    return bench


def measured(bench: Bench, chosen: argparse.Namespace) -> None:
    """Time everything on the CPU and print it, then what the goals compare."""
    kwargs = {**bench.batch.forward_kwargs(), "use_cache": False, "logits_to_keep": 1}
    work: dict[str, Callable[[], object]] = {ONE: lambda: bench.target.module(**kwargs)}
    for name, cells in bench.cells.items():
        ready = bench.entered(bench.target, cells), bench.entered(bench.donor, cells)
        work[f"{name}: rows"] = bench.ours(name, ready=ready)
        work[f"{name}: rows and both prefills"] = bench.ours(name)
        work[f"{name}: plain hooks, some cells"] = bench.hooks(name)
        work[f"{name}: TransformerLens, some cells"] = bench.lens(name)
    cells = bench.cells["last token"]
    work["one prefill that keeps every site"] = lambda: bench.entered(bench.target, cells)
    work["weight swaps"] = bench.swaps
    work["weight swaps, naive"] = bench.naive_swaps
    timings = interleaved(work, rounds=chosen.rounds, device="cpu", clock=time.process_time)
    print_lines("patching", timings, rival=ONE, chosen=chosen, dtype="torch.float32")

    def ratio(left: str, right: str, scale: float = 1.0) -> float:
        pairs = zip(timings.seconds[left], timings.seconds[right], strict=True)
        return round(scale * statistics.median(a / b for a, b in pairs), 3)

    for name, cells in bench.cells.items():
        some, ours = bench.some[name], f"{name}: rows and both prefills"
        # Rivals ran one clean forward beside their cells; the whole sweep would too.
        scale = (len(cells) + 1) / (len(some) + 1)
        mine = bench.effects[f"ours, {name}"]
        line = {
            "benchmark": "patching", "figure": name, "cells": len(cells), "cells_run": len(some),
            "times_faster_than_transformer_lens": ratio(f"{name}: TransformerLens, some cells", ours, scale),
            "times_faster_than_plain_hooks": ratio(f"{name}: plain hooks, some cells", ours, scale),
            "rows_in_forwards": ratio(f"{name}: rows", ONE),
            "rows_and_both_prefills_in_forwards": ratio(ours, ONE),
            "largest_effect": float(mine.abs().max()),
            "largest_difference_from_plain_hooks": float((mine - bench.effects[f"hooks, {name}"]).abs().max()),
            "largest_difference_from_transformer_lens": float((mine - bench.effects[f"lens, {name}"]).abs().max()),
        }  # fmt: skip
        print(json.dumps(line))
    gap = (bench.effects["swaps"] - bench.effects["naive swaps"]).abs().max()
    swaps = ratio("weight swaps", "weight swaps, naive")
    print(json.dumps({"benchmark": "patching", "figure": "weight swaps", "share_of_naive": swaps,
                      "largest_difference": float(gap)}))  # fmt: skip


def on_gpu(chosen: argparse.Namespace, *, prompts: int = 64, together: int = 8) -> None:
    """Patch all heads at the last token of every prompt with what the next prompt holds there."""
    shape: dict[str, Any] = {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    }
    if chosen.small:
        shape = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 12}
    heads: dict[str, Any] = {"num_key_value_heads": shape["num_attention_heads"] // 4, "vocab_size": 128256}
    config = LlamaConfig(**shape, **heads, max_position_embeddings=4096, dtype="bfloat16")
    with torch.device(chosen.device):
        model = LlamaForCausalLM(config).bfloat16().eval()
    executor = HooksBackend(model, Anatomy.of(model))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 128000, (prompts, chosen.tokens), generator=generator).tolist()
    batches = [
        TokenBatch.from_rows(ids[i : i + together], pad_id=0, device=chosen.device) for i in range(0, prompts, together)
    ]
    n_layers, n_heads = executor.anatomy.n_layers, executor.anatomy.n_heads
    sites = [Site(Component.Z, layer) for layer in range(n_layers)]

    def forwards() -> None:
        for batch in batches:
            model(**batch.forward_kwargs(), use_cache=False, logits_to_keep=1)

    def sweep() -> None:
        for batch in batches:
            suffix = Suffix(executor, batch, capture=sites)
            last = suffix.columns()
            given = {site: suffix.clean(site, last).roll(1, 0) for site in sites}
            suffix.run(
                [Row((Write(Site(Component.Z, s.layer, h), last, given[s][:, :, h]),)) for s in sites
                 for h in range(n_heads)], ids=IDS,
            )  # fmt: skip

    cuda = chosen.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    work = {"all forwards": forwards, "all prefills and all heads": sweep}
    timings = interleaved(work, rounds=chosen.rounds, device=chosen.device)
    seconds = statistics.median(timings.seconds["all prefills and all heads"]) / prompts
    peak = round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None
    more = {"prompts": prompts, "heads": n_layers * n_heads, "seconds_per_prompt": seconds, "peak_gib": peak}
    print_lines("patching, all heads", timings, rival="all forwards", chosen=chosen, dtype=str(model.dtype), **more)


def main() -> None:
    """Time the CPU's sweeps, or the GPU's."""
    chosen = options(__doc__, rounds=3)
    if chosen.device == "cpu":
        measured(built(chosen), chosen)
    else:
        on_gpu(chosen)


if __name__ == "__main__":
    main()
