"""A pair says who it is now: nothing is remembered past a change, and no run starts on a judge or base that moved."""

import dataclasses
import shutil
import time

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from analyses import tuco
from workbench.errors import PairMismatch
from workbench.hooks import weight_sharing_shadow
from workbench.judges import JudgeItem
from workbench.pairs import load_pair
from workbench.pairs.adapters import merged_copy, tuner_layers
from workbench.pairs.controls import identical_pair, random_delta_pair
from workbench.pairs.memory.resident import one_resident
from workbench.pairs.state import ModelState
from workbench.pairs.tiny import byte_tokenizer, tiny_model, tiny_pair

IDS = torch.arange(3, 40)[None]
ITEMS = [
    JudgeItem(item_id=f"i{n}", question=f"What is {n}+{n}?", answers=(str(2 * n), str(2 * n + 1)), label=0)
    for n in range(2)
]


def live(*second: str) -> PeftModel:
    """Return a live model with an adapter on two kinds of matrices and, on ``second``, another one."""
    torch.manual_seed(0)

    def config(*targets: str) -> LoraConfig:
        return LoraConfig(r=2, target_modules=list(targets), task_type="CAUSAL_LM", init_lora_weights=False)

    model = get_peft_model(weight_sharing_shadow(tiny_model()), config("q_proj", "down_proj"))
    if second:
        model.add_adapter("second", config(*second))
        model.set_adapter("default")
    return model.eval()


def pair_of(model: PeftModel):
    return load_pair(model, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu")


def judge_print(pair):
    return pair.identity()["judge"]["fingerprint"]


def starts(pair):
    """Return every way a run starts."""
    return (pair.identity, pair.delta, lambda: pair.encode(ITEMS), lambda: pair.executor("base"))


def assert_refused(pair, words):
    for start in starts(pair):
        with pytest.raises(PairMismatch, match=words) as caught:
            start()
        assert caught.value.fix


def test_another_active_adapter_is_another_judge():
    model = live("q_proj")
    pair = pair_of(model)
    before, moved = judge_print(pair), pair.delta()
    model.set_adapter("second")
    assert judge_print(pair) != before
    assert {c.name for c in pair.delta().moved} == {c.name for c in moved.moved if "q_proj" in c.name}
    model.set_adapter("default")
    assert judge_print(pair) == before


@pytest.mark.parametrize("spectrum", [True, False])
def test_what_is_written_into_the_judge_is_measured_again(spectrum):
    pair = tiny_pair()
    before, moved = judge_print(pair), pair.delta(spectrum=spectrum)
    assert pair.delta(spectrum=spectrum) is moved
    with torch.no_grad():
        pair.judge.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    assert judge_print(pair) != before
    assert pair.delta(spectrum=spectrum).relative > moved.relative
    pair.judge.model.layers[0].mlp.up_proj.weight.data.mul_(2)
    assert judge_print(pair) != before, "a write around the version counter"


def test_another_template_on_the_tokenizer_is_another_identity():
    pair = tiny_pair()
    before = pair.identity()
    pair.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert pair.identity()["chat_template"] != before["chat_template"]
    more = pair.identity()["tokenizer"]
    pair.tokenizer.add_tokens(["<new>"])
    assert pair.identity()["tokenizer"] != more


def test_a_disabled_adapter_starts_no_run():
    model = live()
    pair = pair_of(model)
    model.base_model.disable_adapter_layers()
    assert_refused(pair, "switched off")
    model.base_model.enable_adapter_layers()
    for start in starts(pair):
        start()
    with model.disable_adapter():
        assert_refused(pair, "switched off")


def test_a_merged_adapter_moves_the_base_and_starts_no_run():
    model = live()
    pair = pair_of(model)
    model.merge_adapter()
    assert_refused(pair, "merged after the pair was loaded")


@pytest.mark.parametrize("around", [False, True])
def test_a_base_that_was_written_to_starts_no_run(around):
    pair = tiny_pair()
    weight = pair.base.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        (weight.data if around else weight).mul_(1.1)
    assert_refused(pair, "base's weights changed")
    for other in (random_delta_pair(pair, seed=0), dataclasses.replace(pair, name="other")):
        assert_refused(other, "base's weights changed")


def test_training_the_adapter_on_is_another_judge_on_the_same_base():
    model = live()
    pair = pair_of(model)
    before = pair.identity()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(2)
    now = pair.identity()
    assert now["judge"]["fingerprint"] != before["judge"]["fingerprint"]
    assert now["base"] == before["base"]


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_models_that_take_turns_are_the_ones_that_were_loaded(kind, device):
    pair = tiny_pair(kind=kind)
    before = pair.identity()
    with one_resident(pair, device=device) as switch:
        for side in ("base", "judge"):
            switch(side)
            pair.executor(side)
            pair.encode(ITEMS)
            assert pair.identity() == before, "what was measured before holds while the other side is away"
    assert pair.identity() == before


def test_controls_and_runs_leave_a_pair_as_it_was_loaded():
    pair = tiny_pair(kind="lora")
    before = pair.identity()
    for other in (identical_pair(pair), random_delta_pair(pair, seed=0)):
        for start in starts(other)[2:]:
            start()
    tuco.run(pair, ITEMS)
    assert pair.identity() is before, "nothing was hashed again"


def test_a_token_costs_little_and_no_tensor_is_read_whole():
    pair = tiny_pair(kind="lora")
    ModelState.of(pair.judge)
    started = time.perf_counter()
    ModelState.of(pair.judge)
    assert time.perf_counter() - started < 0.05


def test_an_active_adapter_on_fewer_layers_has_a_random_control():
    model = live("q_proj")
    model.set_adapter("second")
    pair = pair_of(model)
    control = random_delta_pair(pair, seed=0)
    moved, wanted = ({c.name: c.change for c in p.delta().moved} for p in (control, pair))
    assert moved == pytest.approx(wanted, rel=1e-4)
    assert len(moved) == 2
    tuco.run(pair, ITEMS)


def test_a_judge_of_adapter_layers_is_saved_merged_or_not_at_all(tmp_path):
    live().save_pretrained(tmp_path / "adapter")
    pair = load_pair(
        tiny_model(), tmp_path / "adapter", tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu"
    )
    with pytest.raises(PairMismatch, match="random matrices") as caught:
        pair.judge.save_pretrained(tmp_path / "broken")
    assert "merged_copy" in str(caught.value.fix)
    assert not (tmp_path / "broken").exists()
    for side, model in (("judge", merged_copy(pair.judge)), ("base", pair.base)):
        model.save_pretrained(tmp_path / side)
        again = AutoModelForCausalLM.from_pretrained(tmp_path / side).eval()
        with torch.no_grad():
            torch.testing.assert_close(again(IDS).logits, pair.module(side)(IDS).logits, atol=5e-5, rtol=0)
        shutil.rmtree(tmp_path / side)


def test_a_live_model_of_the_users_own_is_not_touched(tmp_path):
    model = live()
    pair_of(model)
    assert "save_pretrained" not in model.get_base_model().__dict__
    model.save_pretrained(tmp_path)
    assert any(True for _ in tuner_layers(model.get_base_model()))
