"""What loading an adapter may do behind one's back, and what is refused."""

import copy
import functools
import json
import shutil

import pytest
import torch
from peft import BeftConfig, LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tests.pairs.peft_kinds import BATCH, matrices, own_copy, saved, trained
from tests.tiny_models import VOCAB, tiny_classifier, tiny_model, tiny_tokenizer
from workbench.errors import CheckpointError, PairMismatch
from workbench.pairs import load_pair
from workbench.pairs.adapters import (
    attach_adapter,
    live_judge,
    merged_copy,
    split_peft,
    tuned_parameters,
    tuner_layers,
    weight_change,
)
from workbench.pairs.guards import structure_guards


def logits(model):
    with torch.no_grad():
        return model(**BATCH.forward_kwargs()).logits


def snapshot(model):
    return {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)}


def assert_untouched(model, before):
    now = dict(model.named_parameters(remove_duplicate=False))
    assert set(now) == set(before)
    assert all(torch.equal(now[name], value) for name, value in before.items())


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_an_embedding_in_the_file_goes_to_the_judge_alone(architecture, tmp_path):
    """peft copies it in place, into what would be the shared tensor."""
    base = tiny_model(architecture)
    live = trained(base, "lora", architecture)
    with torch.no_grad():
        live.get_base_model().get_input_embeddings().weight.mul_(1.2)
    live.save_pretrained(tmp_path, save_embedding_layers=True)
    before = snapshot(base)
    judge = attach_adapter(base, tmp_path)
    assert_untouched(base, before)
    torch.testing.assert_close(logits(judge), logits(live), atol=5e-5, rtol=0)
    assert "embed_tokens" in "".join(n for n, t in tuned_parameters(judge).items() if _moved(t, base, n))
    torch.testing.assert_close(logits(merged_copy(judge)), logits(live), atol=5e-5, rtol=0)


def _moved(tuned, base, name):
    change = tuned.change(dict(base.named_parameters(remove_duplicate=False)).get(name))
    return change is not None and bool(change.any())


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("rows", [VOCAB + 3, VOCAB - 8])
def test_the_judge_has_the_vocabulary_it_was_trained_with(architecture, rows, tmp_path):
    base = tiny_model(architecture)
    bigger = own_copy(base)
    bigger.resize_token_embeddings(rows, mean_resizing=False)
    live = trained(bigger, "lora", architecture)
    live.save_pretrained(tmp_path, save_embedding_layers=True)
    before, state = snapshot(base), torch.random.get_rng_state()
    judge = attach_adapter(base, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_untouched(base, before)
    assert base.config.vocab_size == VOCAB
    assert judge.config.vocab_size == rows
    torch.testing.assert_close(logits(judge), logits(live), atol=5e-5, rtol=0)
    inner = {id(p) for n, p in base.named_parameters() if "layers." in n}
    assert inner <= {id(p) for p in judge.parameters()}, "the blocks are shared all the same"


def test_more_tokens_without_their_embeddings_are_refused(tmp_path):
    base = tiny_model("llama")
    bigger = own_copy(base)
    bigger.resize_token_embeddings(VOCAB + 3, mean_resizing=False)
    trained(bigger, "lora on the embedding", "llama").save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(PairMismatch, match="more tokens than the base has") as caught:
        attach_adapter(base, tmp_path)
    assert str(VOCAB + 3) in str(caught.value)
    assert "save_embedding_layers" in caught.value.fix


def test_trained_new_tokens_bring_their_rows_where_the_head_is_tied(tmp_path):
    base = tiny_model("gemma2")
    bigger = own_copy(base)
    bigger.resize_token_embeddings(VOCAB + 2, mean_resizing=False)
    config = TrainableTokensConfig(token_indices=[VOCAB, VOCAB + 1], task_type="CAUSAL_LM")
    live = get_peft_model(bigger, config).eval()
    live.save_pretrained(tmp_path, save_embedding_layers=False)
    judge = attach_adapter(base, tmp_path)
    torch.testing.assert_close(logits(judge), logits(live), atol=5e-5, rtol=0)
    assert not [guard for guard in structure_guards(base, judge) if guard.status != "ok"]


def test_an_untrained_adapter_is_the_base_and_the_pair_says_so(tmp_path):
    base = tiny_model("llama")
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=matrices("llama"), task_type="CAUSAL_LM")
    get_peft_model(own_copy(base), config).save_pretrained(tmp_path)
    judge = attach_adapter(base, tmp_path)
    assert torch.equal(logits(judge), logits(base))
    assert all(not weight_change(layer).any() for _, layer in tuner_layers(judge))


@pytest.mark.parametrize("kind", ["lora", "ia3", "vera", "boft", "lora with trained tokens", "vblora"])
def test_a_tensor_missing_from_the_file_is_refused(kind, tmp_path):
    """Whatever the kind calls its tensors, one that kept its initial value is another judge."""
    folder = saved(tiny_model("llama"), kind, "llama", tmp_path)
    stored = load_file(folder / "adapter_model.safetensors")
    dropped = sorted(key for key in stored if "token_adapter" not in key)[0]
    save_file({k: v for k, v in stored.items() if k != dropped}, folder / "adapter_model.safetensors")
    with pytest.raises(PairMismatch, match=r"did not land.* 1 left at their initial value"):
        attach_adapter(tiny_model("llama"), folder)


@pytest.mark.parametrize("kind", ["ia3", "oft", "ln_tuning"])
def test_tensors_for_another_place_are_refused(kind, tmp_path):
    folder = saved(tiny_model("llama"), kind, "llama", tmp_path)
    stored = load_file(folder / "adapter_model.safetensors")
    moved = {key.replace("layers.0", "layers.8"): value for key, value in stored.items()}
    save_file(moved, folder / "adapter_model.safetensors")
    with pytest.raises(PairMismatch, match="did not land"):
        attach_adapter(tiny_model("llama"), folder)


@pytest.mark.parametrize("change", [{"target_modules": ["nowhere"]}, {"r": 3}])
def test_what_peft_cant_load_is_refused_in_words(change, tmp_path):
    folder = saved(tiny_model("llama"), "lora", "llama", tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    base = tiny_model("llama")
    before = snapshot(base)
    with pytest.raises(PairMismatch, match="doesn't fit the base model"):
        attach_adapter(base, folder)
    assert_untouched(base, before)
    assert all(p.requires_grad for p in base.parameters())


def test_olora_on_transposed_matrices_is_refused_before_it_crashes(tmp_path):
    base = tiny_model("gpt2")
    config = LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights="olora", task_type="CAUSAL_LM")
    get_peft_model(own_copy(base), config).save_pretrained(tmp_path)
    with pytest.raises(PairMismatch, match="don't fit the matrix they sit on"):
        attach_adapter(base, tmp_path)


@pytest.mark.parametrize("start", ["pissa_niter_4", "lora_ga", "corda", "loftq"])
def test_files_that_dont_hold_the_judge_are_refused(start, tmp_path):
    """peft draws another random SVD for each load: the function that was trained is gone, and nothing says so."""
    base = tiny_model("llama")
    folder = saved(base, "lora", "llama", tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": start}))
    with pytest.raises(CheckpointError, match="file alone doesn't hold the judge") as caught:
        attach_adapter(base, folder)
    assert "path_initial_model_for_weight_conversion" in caught.value.fix


def test_a_live_judge_that_no_file_holds_loads_beside_its_base():
    base = tiny_model("llama")
    config = LoraConfig(r=4, target_modules=matrices("llama"), init_lora_weights="pissa_niter_4", task_type="CAUSAL_LM")
    live = get_peft_model(own_copy(base), config).eval()
    pair = load_pair(
        base, live, tokenizer=tiny_tokenizer(), format="pairwise", doctor=False, device="cpu", allow_identical=True
    )
    torch.testing.assert_close(logits(merged_copy(pair.judge)), logits(live), atol=5e-5, rtol=0)


@pytest.mark.parametrize("config", [BeftConfig, functools.partial(LoraConfig, r=2, lora_bias=True)])
def test_biases_where_the_base_has_none_are_refused(config, tmp_path):
    base = tiny_model("gemma2")
    live = get_peft_model(own_copy(base), config(target_modules=["q_proj"], task_type="CAUSAL_LM")).eval()
    live.save_pretrained(tmp_path)
    for load in (lambda: attach_adapter(base, tmp_path), lambda: split_peft(live)):
        with pytest.raises(PairMismatch, match="adds biases to modules that have none"):
            load()


def test_a_kind_that_peft_cant_put_on_an_architecture_is_refused_in_words(tmp_path):
    folder = saved(tiny_model("llama"), "oft", "llama", tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["c_attn"]}))
    with pytest.raises(PairMismatch, match="Conv1D"):
        attach_adapter(tiny_model("gpt2"), folder)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_several_active_adapters_are_one_judge(kind):
    base = tiny_model("llama")
    live = trained(base, kind, "llama")
    live.add_adapter("other", copy.deepcopy(live.peft_config["default"]))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in live.named_parameters():
            if ".other" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    live.base_model.set_adapter(["default", "other"])
    live.eval()
    plain, judge = split_peft(live)
    assert torch.equal(logits(plain), logits(base))
    torch.testing.assert_close(logits(merged_copy(judge)), logits(live), atol=5e-5, rtol=0)
    for _, layer in tuner_layers(judge):
        reference = copy.deepcopy(layer)
        reference.merge()
        change = reference.get_base_layer().weight - layer.get_base_layer().weight
        torch.testing.assert_close(weight_change(layer), change.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("state", ["disabled", "merged"])
def test_a_live_model_that_isnt_base_plus_adapter_is_refused(state):
    live = trained(tiny_model("llama"), "ia3", "llama")
    if state == "merged":
        live.merge_adapter()
    else:
        live.base_model.disable_adapter_layers()
    with pytest.raises(PairMismatch, match="merged into its weights" if state == "merged" else "no active adapter"):
        split_peft(live)


def test_a_live_model_whose_base_was_rewritten_loads_beside_its_base():
    base = tiny_model("llama")
    live = trained(base, "pissa", "llama")
    with pytest.raises(PairMismatch, match="wrote into the weights") as caught:
        load_pair(live, tokenizer=tiny_tokenizer(), format="pairwise", doctor=False, device="cpu")
    assert "load_pair(base, peft_model)" in caught.value.fix
    pair = load_pair(base, live, tokenizer=tiny_tokenizer(), format="pairwise", doctor=False, device="cpu")
    assert pair.kind == "lora"
    assert torch.equal(logits(pair.judge), logits(live))
    assert torch.equal(logits(pair.base), logits(tiny_model("llama")))
    for name, layer in tuner_layers(pair.judge):
        whole = weight_change(layer, original=base.get_parameter(f"{name}.weight"))
        merged = copy.deepcopy(layer)
        merged.merge()
        expected = merged.get_base_layer().weight - base.get_parameter(f"{name}.weight")
        torch.testing.assert_close(whole, expected.detach(), atol=1e-6, rtol=0)


def test_a_live_ln_tuned_model_stays_as_it_is():
    live = trained(tiny_model("llama"), "ln_tuning", "llama")
    wrapped = len(list(tuner_layers(live)))
    judge = live_judge(live)
    assert torch.equal(logits(judge), logits(live))
    assert not list(tuner_layers(judge))
    assert len(list(tuner_layers(live))) == wrapped > 0


def test_an_adapter_of_a_classifier_is_pefts_own(tmp_path):
    base = tiny_classifier("llama")
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=matrices("llama"), task_type="SEQ_CLS", init_lora_weights=False)
    live = get_peft_model(own_copy(base), config).eval()
    with torch.no_grad():
        live.get_base_model().score.modules_to_save["default"].weight.mul_(1.5)
    live.save_pretrained(tmp_path)
    before = snapshot(base)
    judge = attach_adapter(base, tmp_path)
    reference = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    torch.testing.assert_close(logits(judge), logits(reference), atol=5e-5, rtol=0)
    torch.testing.assert_close(logits(merged_copy(judge)), logits(judge), atol=5e-5, rtol=0)
    assert_untouched(base, before)


def test_a_copy_of_the_file_under_another_adapter_name_is_the_same_judge(tmp_path):
    """peft drops the adapter's name from stored tensors; a name that looks like a part of a path must not matter."""
    base = tiny_model("llama")
    live = trained(base, "lora", "llama")
    live.add_adapter("weight", copy.deepcopy(live.peft_config["default"]))
    live.set_adapter("weight")
    live.save_pretrained(tmp_path, selected_adapters=["weight"])
    folder = shutil.copytree(tmp_path / "weight", tmp_path / "moved")
    torch.testing.assert_close(logits(attach_adapter(base, folder)), logits(live.eval()), atol=5e-5, rtol=0)
