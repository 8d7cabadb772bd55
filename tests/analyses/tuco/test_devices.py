"""TuCo on a GPU gives what it gives on the CPU, and two models can take turns there."""

import numpy as np
import pytest
import torch

from analyses import tuco
from workbench.judges import JudgeItem
from workbench.pairs import load_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tuned_copy

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(10)
]
QUIET = {"progress": False, "controls": 0, "confirm": False}

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def pair_on(device):
    base = tiny_model()
    judge = tuned_copy(base, change=scaled_noise(0.1))
    return load_pair(
        base.to(device), judge.to(device), tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device=device
    )


@pytest.mark.parametrize(
    ("analysis", "parts"),
    [
        (tuco.run, "finetuned_push"),
        (tuco.split_heads, "finetuned_push"),
        (tuco.attribute_paths, "attribution"),
    ],
)
def test_the_gpu_gives_what_the_cpu_gives(analysis, parts):
    here, there = (analysis(pair_on(device), ITEMS, **QUIET) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(getattr(there, parts), getattr(here, parts), atol=1e-3)


def test_a_scaled_judge_is_the_same_on_the_gpu():
    here, there = (
        tuco.scale(pair_on(device), ITEMS, controls=0, progress=False, alphas=(0.0, 0.5, 1.0))
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(there.gap, here.gap, atol=1e-3)


def test_models_of_a_pair_in_host_memory_take_turns_on_the_gpu():
    pair = pair_on("cpu")
    here = tuco.run(pair, ITEMS, progress=False, controls=3)
    there = tuco.run(pair, ITEMS, progress=False, controls=3, resident="cuda")
    np.testing.assert_allclose(there.tuco, here.tuco, atol=1e-4)
    np.testing.assert_allclose(there.control_push, here.control_push, atol=1e-3)
    assert pair.device.type == "cpu"
    assert torch.cuda.memory_allocated() < 2**20, "nothing is left there"


def test_half_precision_on_the_gpu_is_decomposed_in_float32():
    base = tiny_model()
    judge = tuned_copy(base, change=scaled_noise(0.01))
    models = [m.bfloat16().cuda() for m in (base, judge)]
    pair = load_pair(*models, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cuda")
    result = tuco.run(pair, ITEMS, **QUIET)
    assert result.meta.noise_floor < 1e-4
    assert not result.under_floor.any()
