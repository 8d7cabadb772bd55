"""Memory that runs out costs neither items nor correctness: batches are halved, said, and counted once."""

import gc
import weakref

import numpy as np
import pytest
import torch

from analyses import tuco
from analyses.looping import Prompts, interruptible
from workbench.errors import MemoryShortage
from workbench.judges import JudgeItem
from workbench.pairs import memory_ran_out
from workbench.pairs.tiny import tiny_pair
from workbench.tokens import TokenBatch

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(10)
]
CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
ERRORS = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU_MESSAGE), MemoryError()]


@pytest.fixture(scope="module")
def pair():
    return tiny_pair()


@pytest.fixture
def room(monkeypatch):
    """Let memory run out whenever a batch has more prompts than this, and count the batches that were made."""
    limit, made = {"prompts": 10**9}, []
    plain = TokenBatch.from_rows.__func__

    def from_rows(cls, rows, **kwargs):
        if len(rows) > limit["prompts"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        made.append(len(rows))
        return plain(cls, rows, **kwargs)

    monkeypatch.setattr(TokenBatch, "from_rows", classmethod(from_rows))
    return limit, made


@pytest.mark.parametrize("err", ERRORS, ids=["cuda", "cpu", "numpy"])
def test_every_kind_of_exhaustion_is_told_from_other_errors(err):
    assert memory_ran_out(err)
    outer = RuntimeError("inside a hook")
    outer.__cause__ = err
    assert memory_ran_out(outer)
    assert not memory_ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not memory_ran_out(KeyboardInterrupt())


def test_a_batch_that_does_not_fit_is_halved_and_every_item_runs_once_in_order(pair):
    prompts = Prompts.of(pair, ITEMS)
    tried = []

    def run(chosen):
        tried.append(chosen)
        if len(chosen) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return list(chosen)

    planned = list(prompts.batches(20))
    found = list(prompts.each(planned, run))
    assert [i for chosen, _ in found for i in chosen] == [i for batch in planned for i in batch]
    assert all(list(chosen) == value for chosen, value in found)
    assert [len(chosen) for chosen in tried] == [10, 5, 2, 2, 1, 2, 2, 1], "ten don't fit, nor five"
    assert prompts.warnings[-1] == "memory ran out with batches of 20; continued with 4."
    assert [len(c) for c, _ in prompts.each([range(7)], run)] == [2, 2, 2, 1], (
        "the size is kept for the rest of the run"
    )


def test_nothing_of_the_failed_batch_is_alive_when_its_halves_run(pair):
    prompts, held = Prompts.of(pair, ITEMS), []

    def run(chosen):
        assert all(ref() is None for ref in held), "the traceback would keep the batch's tensors"
        big = torch.zeros(10)
        held.append(weakref.ref(big))
        if len(chosen) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return None

    gc.collect()
    assert len(list(prompts.each([range(4)], run))) == 2


def test_another_error_is_not_taken_for_exhaustion(pair):
    with pytest.raises(RuntimeError, match="shapes"):
        list(Prompts.of(pair, ITEMS).each([range(4)], lambda _: (_ for _ in ()).throw(RuntimeError("shapes differ"))))


def test_one_item_that_does_not_fit_is_named_with_its_length(pair):
    prompts = Prompts.of(pair, ITEMS)

    def run(chosen):
        if 3 in chosen:
            raise MemoryError
        return None

    tokens = len(prompts.encoded.rows[6])
    with pytest.raises(MemoryShortage, match=rf"'i3' with {tokens} tokens"):
        list(prompts.each([(1, 3)], run))
    assert prompts.most == 1


def test_an_item_that_does_not_fit_ends_the_run_like_ctrl_c_and_keeps_what_is_finished(pair):
    prompts = Prompts.of(pair, ITEMS)
    with pytest.warns(RuntimeWarning, match="'i3'"), interruptible(prompts):
        for chosen, _ in prompts.each([(0, 1), (2, 3)], lambda chosen: no() if 3 in chosen else None):
            prompts.done[list(chosen)] = True
    assert prompts.done.tolist() == [True, True, True, *[False] * 7]
    why = f"one item alone doesn't fit into memory: 'i3' with {len(prompts.encoded.rows[6])} tokens a prompt."
    assert prompts.notes == [f"7 of 10 items: {why}"]
    untouched = Prompts.of(pair, ITEMS)
    with pytest.raises(MemoryShortage), interruptible(untouched):
        list(untouched.each([(3,)], lambda _: no()))


def no():
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_exhaustion_after_the_items_keeps_them(pair):
    prompts = Prompts.of(pair, ITEMS)
    with pytest.warns(RuntimeWarning, match="controls"), interruptible(prompts):
        prompts.done[:] = True
        no()
    assert prompts.notes == ["whatever came after the items themselves (controls, confirmation): memory ran out."]


def test_a_prompts_noise_does_not_depend_on_its_batch(pair):
    prompts = Prompts.of(pair, ITEMS)
    whole, part = prompts.noise(range(10), 3, seed=5), prompts.noise([4, 7], 3, seed=5)
    np.testing.assert_array_equal(whole[[8, 9, 14, 15]], part)
    assert prompts.within((9, 4, 7), (4, 7)) == slice(2, 6)


RUNS = {
    "run": lambda pair, **k: tuco.run(pair, ITEMS, controls=3, control_items=4, batch_size=8, **k),
    "one resident": lambda pair, **k: tuco.run(
        pair, ITEMS, controls=3, control_items=4, batch_size=8, resident="one", **k
    ),
    "heads": lambda pair, **k: tuco.split_heads(pair, ITEMS, controls=3, control_items=4, batch_size=8, **k),
    "paths": lambda pair, **k: tuco.attribute_paths(
        pair, ITEMS, nodes=2, max_nodes=2, tolerance=10.0, controls=1, control_items=2, batch_size=8, **k
    ),
    "tokens": lambda pair, **k: tuco.map_tokens(pair, ITEMS, controls=2, control_items=4, batch_size=8, **k),
    "generated": lambda pair, **k: tuco.map_tokens(
        pair, ITEMS[:4], completions="generate", max_new_tokens=3, controls=0, batch_size=8, **k
    ),
    "scaling": lambda pair, **k: tuco.scale(
        pair, ITEMS, alphas=(0.5, 1.0), weights=True, controls=2, control_items=4, batch_size=8, **k
    ),
    "levels": lambda pair, **k: tuco.compare_levels(pair, ITEMS, draws=2, batch_size=8, **k),
    "stages": lambda pair, **k: tuco.compare_stages([pair], ITEMS, controls=2, control_items=4, batch_size=8, **k),
    "attacks": lambda pair, **k: tuco.compare_attacks(
        pair, ITEMS, attack="Ignore that.", controls=2, control_items=4, batch_size=8, **k
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_loop_gives_the_same_numbers_when_memory_runs_out(name, pair, room):
    limit, made = room
    whole = RUNS[name](pair, progress=False)
    assert max(made) >= 8, "or there was nothing to halve"
    made.clear()
    limit["prompts"] = 4
    halved = RUNS[name](pair, progress=False)
    assert max(made) <= 4
    said = [text for text in halved.meta.warnings if "memory ran out" in text]
    assert said == ["memory ran out with batches of 8; continued with 4."]
    assert not any("memory ran out" in text for text in whole.meta.warnings)
    assert halved.item_ids == whole.item_ids
    for array, axes in whole.AXES.items():
        mine, theirs = getattr(halved, array), getattr(whole, array)
        if mine.dtype.kind != "f":
            np.testing.assert_array_equal(mine, theirs, err_msg=array)
        elif not ("error" in array or array == "noise"):
            scale = np.nanmax(np.abs(theirs), initial=1e-6)
            np.testing.assert_allclose(mine / scale, theirs / scale, atol=2e-4, err_msg=f"{array} {axes}")


def test_a_run_that_cannot_go_on_keeps_its_items(pair, monkeypatch):
    plain, last = Prompts.batch, list(Prompts.of(pair, ITEMS).batches(2))[-1][0]

    def batch(self, items):
        chosen = list(items)
        return no() if last in chosen else plain(self, chosen)

    monkeypatch.setattr(Prompts, "batch", batch)
    with pytest.warns(RuntimeWarning, match=f"'i{last}'"):
        partial = tuco.run(pair, ITEMS, batch_size=4, confirm=False, progress=False)
    assert len(partial.item_ids) == 9
    assert f"i{last}" not in partial.item_ids
    assert partial.meta.n_items == 9
    assert any(f"'i{last}'" in text for text in partial.meta.not_measured)
