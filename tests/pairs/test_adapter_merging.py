"""Merging as a guard, as a control and as a line between two models, for every kind of adapter."""

import pytest
import torch
from peft import LilyConfig, LoraConfig, get_peft_model

from analyses import tuco
from analyses.tuco.scaling.weights import interpolated_judge
from tests.pairs.peft_kinds import BATCH, own_copy, saved, trained
from tests.tiny_models import tiny_model, tiny_tokenizer
from workbench.errors import PairMismatch
from workbench.judges import JudgeItem
from workbench.pairs import can_mix, load_pair, random_delta_pair
from workbench.pairs.adapters import (
    attach_adapter,
    head_is_tied,
    merge_error,
    merged_copy,
    tuned_parameters,
    tuner_layers,
    untuned_name,
)
from workbench.pairs.guards import merge_guards
from workbench.pairs.tiny import byte_tokenizer
from workbench.pairs.tiny import tiny_model as byte_model

SOME = ["lora", "dora", "ia3", "oft", "vera", "lora with trained tokens", "ln_tuning", "lora with a saved norm"]
ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(6)
]


def logits(model):
    with torch.no_grad():
        return model(**BATCH.forward_kwargs()).logits


def pair_of(kind, folder, *, doctor=False, architecture="llama"):
    base = tiny_model(architecture)
    saved(base, kind, architecture, folder)
    return load_pair(base, folder, tokenizer=tiny_tokenizer(), format="pairwise", doctor=doctor, device="cpu")


@pytest.mark.parametrize("kind", ["lora", "ia3", "oft", "lora on the embedding"])
def test_merged_equals_unmerged_in_float32_and_leaves_the_judge_alone(kind):
    judge = trained(tiny_model("gemma2"), "lora" if kind == "oft" else kind, "gemma2").get_base_model()
    before = logits(judge)
    layers, whole = merge_guards(judge, seed=0)
    assert (layers.status, whole.status) == ("ok", "ok")
    assert "tolerance 0.0001" in whole.value
    assert torch.equal(logits(judge), before)
    assert not any("forward" in vars(layer) for _, layer in tuner_layers(judge))


def test_half_precision_is_reported_with_both_numbers():
    """A small change is lost in the rounding of bfloat16 weights, however close the logits are."""
    judge = trained(tiny_model("llama"), "unilora", "llama", size=0.01).get_base_model().bfloat16()
    _, whole = merge_guards(judge, seed=0)
    assert whole.status == "warn"
    assert "rounding merged weights to bfloat16 alters" in whole.value
    assert "relative (tolerance 0.02)" in whole.value


def test_a_merge_that_isnt_the_adapter_is_caught(monkeypatch):
    judge = trained(tiny_model("llama"), "lora", "llama").get_base_model()
    layer = next(layer for _, layer in tuner_layers(judge))
    true = type(layer).get_delta_weight
    monkeypatch.setattr(type(layer), "get_delta_weight", lambda self, name: 0.5 * true(self, name))
    layers, whole = merge_guards(judge, seed=0)
    assert (layers.status, whole.status) == ("warn", "warn")


def test_an_interrupted_merge_leaves_every_forward_as_found(monkeypatch):
    judge = trained(tiny_model("llama"), "ia3", "llama").get_base_model()
    before = logits(judge)

    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("workbench.pairs.adapters.merging.merged_tensors", stop)
    with pytest.raises(KeyboardInterrupt):
        merge_error(judge, torch.arange(3, 20)[None])
    assert torch.equal(logits(judge), before)


def test_an_adapter_without_a_merged_form_is_said_not_to_be_compared():
    live = get_peft_model(tiny_model("llama"), LilyConfig(r=4, num_B=2, target_modules=["q_proj"]))
    (row,) = merge_guards(live.get_base_model().eval(), seed=0)
    assert row.status == "skipped"
    assert "can't be merged" in row.value


@pytest.mark.parametrize("kind", SOME)
def test_random_changes_move_every_tensor_as_far_as_the_adapter(kind, tmp_path):
    pair = pair_of(kind, tmp_path)
    control = random_delta_pair(pair, seed=0)
    base = dict(pair.base.named_parameters(remove_duplicate=False))
    wanted = _norms(pair.judge, base)
    found = _norms(control.judge, base)
    assert set(found) == set(wanted)
    for name, size in wanted.items():
        assert found[name] == pytest.approx(size, rel=1e-4), name
    assert not torch.allclose(logits(control.judge), logits(pair.judge), atol=1e-4)
    again = random_delta_pair(pair, seed=0)
    assert torch.equal(logits(again.judge), logits(control.judge))


def _norms(judge, base):
    changes = {name: tuned.change(base.get(name)) for name, tuned in tuned_parameters(judge).items()}
    return {name: float(change.norm()) for name, change in changes.items() if change is not None and change.any()}


@pytest.mark.parametrize("kind", SOME)
def test_weights_move_on_the_line_from_base_to_merged_judge(kind, tmp_path):
    pair = pair_of(kind, tmp_path)
    assert torch.equal(logits(interpolated_judge(pair, alpha=1.0)), logits(pair.judge))
    assert torch.equal(logits(interpolated_judge(pair, alpha=0.0, ends="base")), logits(pair.base))
    half = interpolated_judge(pair, alpha=0.5)
    expected = own_copy(pair.base)
    base = dict(pair.base.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, tuned in tuned_parameters(pair.judge).items():
            change = tuned.change(base.get(name))
            if change is not None:
                share = 0.5 if "layers." in name else 1.0
                expected.get_parameter(name).add_(share * change)
    torch.testing.assert_close(logits(half), logits(expected), atol=5e-5, rtol=0)
    assert {untuned_name(n) for n, _ in half.named_parameters()} >= set(base)


def test_rows_mix_only_under_plain_lora(tmp_path):
    for kind, mixes in {"lora": True, "adalora": False, "dora": False, "ia3": False, "pissa": False}.items():
        base = tiny_model("llama")
        judge = attach_adapter(base, saved(base, kind, "llama", tmp_path / kind))
        assert can_mix(base, judge) is mixes, kind


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "kind", ["lora", "ia3", "vera", "ln_tuning", "trainable_tokens", "lora with a saved norm", "oft", "fourierft"]
)
def test_the_doctor_passes(kind, architecture, tmp_path):
    pair = pair_of(kind, tmp_path, doctor=True, architecture=architecture)
    assert pair.report.comparable
    rows = {guard.name: guard.status for guard in pair.report.guards if guard.name.startswith("doctor, judge")}
    assert rows
    assert set(rows.values()) == {"ok"}


@pytest.mark.parametrize("kind", ["ia3", "ln_tuning"])
def test_tuco_runs_on_other_kinds_and_is_zero_where_the_adapter_does_nothing(kind, tmp_path):
    base = byte_model(n_layers=3)
    options = {"tokenizer": byte_tokenizer(), "format": "pairwise", "doctor": False, "device": "cpu"}
    found = {}
    for size in (0.1, 0.0):
        folder = tmp_path / str(size)
        trained(base, kind, "llama", size=size).save_pretrained(folder)
        if not size:
            with pytest.raises(PairMismatch, match="no weight differs"):
                load_pair(base, folder, **options)
        pair = load_pair(base, folder, allow_identical=not size, **options)
        assert pair.kind == kind
        found[size] = tuco.run(pair, ITEMS, progress=False, controls=1 if size else 0, confirm=False)
    assert found[0.1].tuco.max() > 0.01
    assert not found[0.0].tuco.any()


@pytest.mark.parametrize("kind", ["lora on the embedding", "lora with trained tokens", "lora"])
@pytest.mark.parametrize("architecture", ["gemma2", "llama"])
def test_a_merged_copy_survives_saving_tied_or_not(kind, architecture, tmp_path):
    """LoRA on a tied embedding leaves the head alone; a config that still says tied would lose one of the two."""
    judge = trained(tiny_model(architecture), kind, architecture).get_base_model()
    merged = merged_copy(judge)
    tied = architecture == "gemma2" and kind != "lora on the embedding"
    assert head_is_tied(merged) is merged.config.tie_word_embeddings is tied
    merged.save_pretrained(tmp_path)
    loaded = type(merged).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded), logits(merged))
    torch.testing.assert_close(logits(loaded), logits(judge), atol=5e-5, rtol=0)


@pytest.mark.parametrize("kind", ["lora with trained tokens", "trainable_tokens"])
def test_trained_tokens_of_a_tied_model_stay_tied(kind, tmp_path):
    pair = pair_of(kind, tmp_path, architecture="gemma2")
    (row,) = [guard for guard in pair.report.guards if guard.name == "output head"]
    assert (row.status, row.value) == ("ok", "tied to the embedding")


def test_a_head_saved_whole_is_no_longer_tied(tmp_path):
    base = tiny_model("gemma2")
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    live = get_peft_model(own_copy(base), config).eval()
    with torch.no_grad():
        live.get_base_model().lm_head.modules_to_save["default"].weight.mul_(1.5)
    live.save_pretrained(tmp_path / "adapter")
    judge = attach_adapter(base, tmp_path / "adapter")
    assert head_is_tied(base)
    assert not head_is_tied(judge)
    merged_copy(judge).save_pretrained(tmp_path / "merged")
    loaded = type(base).from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(loaded), logits(live), atol=5e-5, rtol=0)
