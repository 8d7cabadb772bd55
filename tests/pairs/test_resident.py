"""One model in memory at a time: what is parked takes no room, and comes back bit for bit."""

import numpy as np
import pytest
import torch

from analyses import tuco
from workbench.errors import ParameterError
from workbench.judges import JudgeItem
from workbench.pairs import one_resident
from workbench.pairs.tiny import tiny_pair

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(10)
]


def blocks(pair, side):
    return pair.module(side).get_submodule(pair.anatomy(side).blocks_path)


def held(pair, side):
    return sum(p.numel() for p in blocks(pair, side).parameters())


def test_only_one_sides_blocks_are_held_and_both_come_back():
    pair = tiny_pair()
    before = {side: [p.clone() for p in pair.module(side).parameters()] for side in ("base", "judge")}
    full = held(pair, "base")
    with one_resident(pair) as switch:
        assert (held(pair, "judge"), held(pair, "base")) == (full, 0)
        switch("base")
        assert (held(pair, "judge"), held(pair, "base")) == (0, full)
        switch("base")
        switch("judge")
        assert (held(pair, "judge"), held(pair, "base")) == (full, 0)
    for side, tensors in before.items():
        assert all(torch.equal(p, q) for p, q in zip(pair.module(side).parameters(), tensors, strict=True))


def test_both_come_back_after_an_error():
    pair = tiny_pair()
    full = held(pair, "base")
    with pytest.raises(RuntimeError, match="stop"), one_resident(pair):
        raise RuntimeError("stop")
    assert (held(pair, "judge"), held(pair, "base")) == (full, full)


def test_what_an_adapter_shares_with_its_base_stays():
    pair = tiny_pair(kind="lora")
    full = held(pair, "base")
    with one_resident(pair, first="base"):
        assert held(pair, "base") == full
        assert held(pair, "judge") == full, "only the adapter's own factors are parked"


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_run_with_one_model_resident_gives_the_same_numbers(kind, monkeypatch):
    pair = tiny_pair(kind=kind)
    both = tuco.run(pair, ITEMS, controls=3, progress=False, batch_size=4)
    # Small enough that several turns are taken.
    monkeypatch.setattr("analyses.tuco.turns.RECORD_BYTES", 200_000)
    one = tuco.run(pair, ITEMS, controls=3, progress=False, batch_size=4, resident="one")
    for name in both.AXES:
        np.testing.assert_array_equal(getattr(one, name), getattr(both, name), err_msg=name)


@pytest.mark.parametrize("device", ["cudaa", "cuda:77"])
def test_a_run_on_a_device_that_isnt_there_is_refused_before_it_starts(device):
    with pytest.raises(ParameterError, match="no such device here") as caught:
        tuco.run(tiny_pair(), ITEMS, controls=3, progress=False, resident=device)
    assert caught.value.argument == "resident"
    assert "both" in str(caught.value)
