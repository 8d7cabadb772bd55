"""What files and loaded pairs must say alike where they can go wrong: other bases, NaN, lent heads, odd checkpoints."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.pairs.head_pairs import LABELS, saved, with_json, write_adapter
from tests.pairs.test_delta import lora_folder
from tests.tiny_models import tiny_classifier, tiny_model
from workbench.errors import CheckpointError, PairMismatch
from workbench.pairs import check_files, load_pair, weight_delta, which_base
from workbench.pairs.tiny import scaled_noise, tuned_copy

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A base, a full judge, a LoRA judge that names the base, and reward judges of one and two labels."""
    root = tmp_path_factory.mktemp("refusals")
    base = tiny_model("llama")
    saved(base, root / "base")
    saved(tuned_copy(base, change=scaled_noise(0.05)), root / "judge")
    adapter_of(root / "base", root / "adapter")
    for labels in (1, LABELS):
        body = tuned_copy(base, change=scaled_noise(0.05))
        saved(tiny_classifier("llama", labels=labels, backbone=body), root / f"reward {labels}")
        write_adapter(root / "base", root / f"reward lora {labels}", architecture="llama", labels=labels)
    return root


def adapter_of(base, folder):
    return lora_folder(AutoModelForCausalLM.from_pretrained(base), folder)


def load(base, judge, **options):
    return load_pair(base, judge, **{"format": "pairwise", "doctor": False, "device": "cpu", **options})


def row(report, name):
    return next(guard for guard in report.guards if guard.name == name)


def rewritten(folder, target, **tensors):
    """Copy a checkpoint with some of its tensors replaced or added."""
    shutil.copytree(folder, target)
    file = target / next(path.name for path in folder.glob("*model.safetensors"))
    save_file(load_file(file) | tensors, file, {"format": "pt"})
    return target


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_factors_of_another_shape_are_refused_from_files_too(architecture, root, tmp_path):
    folder = lora_folder(tiny_model(architecture), tmp_path / "adapter", architecture=architecture)
    saved(tiny_model(architecture), tmp_path / "base")
    assert check_files(tmp_path / "base", folder).delta.moved
    stored = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in stored if "lora_B" in name)
    wide = rewritten(folder, tmp_path / "wide", **{name: torch.cat([stored[name]] * 2)})
    with pytest.raises(CheckpointError, match="1 products of another shape"):
        check_files(tmp_path / "base", wide)


def test_an_adapter_of_another_architecture_with_the_same_names_is_refused(root, tmp_path):
    foreign = lora_folder(tiny_model("qwen3"), tmp_path / "adapter", target_modules="all-linear")
    for judged in (check_files, load):
        with pytest.raises((CheckpointError, PairMismatch), match="doesn't fit the base"):
            judged(root / "base", foreign)


@pytest.mark.parametrize("judged", [check_files, load])
def test_the_adapters_base_is_compared_by_its_full_name_and_its_weights(judged, root, tmp_path):
    def said(base, named):
        adapter = tmp_path / f"adapter {len(list(tmp_path.iterdir()))}"
        shutil.copytree(root / "adapter", adapter)
        with_json(adapter, "adapter_config.json", base_model_name_or_path=named)
        return row(judged(base, adapter).report, "adapter's base")

    base = tmp_path / "run1" / "checkpoint-500"
    shutil.copytree(root / "base", base)
    assert said(base, str(base)).status == "ok"
    assert said(base, str(tmp_path / "run1" / ".." / "run1" / "checkpoint-500")).status == "ok"
    twin = said(base, str(root / "base"))
    assert twin.status == "ok" and "same weights" in twin.value
    assert said(base, "lab/checkpoint-500").status == "warn"
    assert said(base, str(tmp_path / "gone" / "checkpoint-500")).status == "warn"
    other = tmp_path / "run2" / "checkpoint-500"
    saved(tuned_copy(tiny_model("llama"), change=scaled_noise(0.05)), other)
    with pytest.raises(PairMismatch, match="adapter's base: .* in relative weights"):
        said(base, str(other))
    saved(tiny_model("gpt2"), tmp_path / "gpt2")
    with pytest.raises(PairMismatch, match="another model"):
        said(base, str(tmp_path / "gpt2"))
    (tmp_path / "empty").mkdir()
    assert said(base, str(tmp_path / "empty")).status == "warn"


def test_a_live_base_is_compared_with_the_folder_the_adapter_names(root):
    tokenizer = load(root / "base", root / "judge").tokenizer
    live = AutoModelForCausalLM.from_pretrained(root / "base").eval()
    guard = row(load(live, root / "adapter", tokenizer=tokenizer).report, "adapter's base")
    assert guard.status == "ok" and "same weights" in guard.value
    with pytest.raises(PairMismatch, match="adapter's base"):
        load(tuned_copy(live, change=scaled_noise(0.05)), root / "adapter", tokenizer=tokenizer)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["base", "judge", "adapter"])
def test_numbers_that_are_not_finite_fail_by_the_name_of_their_tensor(number, side, root, tmp_path):
    file = root / side / ("adapter_model.safetensors" if side == "adapter" else WEIGHTS)
    name = next(name for name in load_file(file) if "layers.1.mlp.down_proj" in name)
    tensor = load_file(file)[name].clone()
    tensor[0, 0] = number
    folder = rewritten(root / side, tmp_path / "broken", **{name: tensor})
    sides = (folder, root / "judge") if side == "base" else (root / "base", folder)
    said = f"{'base' if side == 'base' else 'judge'}: model.layers.1.mlp.down_proj.weight holds (NaN|infinity)"
    for judged in (check_files, load):
        with pytest.raises(PairMismatch, match=f"finite weights: {said}") as refused:
            judged(*sides)
        assert row(refused.value.report, "judge derives from base").status == "skipped"
    delta = weight_delta(*sides)
    assert delta.summary().startswith("Not measured: 1 of")
    json.dumps(delta.to_json(), allow_nan=False)
    assert delta._repr_html_()


def test_which_base_says_who_holds_nan(root, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    tensor = load_file(root / "judge" / WEIGHTS)[name].clone()
    tensor[0, 0] = float("nan")
    broken = rewritten(root / "judge", tmp_path / "broken", **{name: tensor})
    said = which_base(broken, [root / "base"]).summary()
    assert f"the judge's {name} holds NaN" in said and "nothing is said about its base" in said
    found = which_base(root / "judge", [broken, root / "base"])
    assert found.base == str(root / "base") and f"the candidate's {name} holds NaN" in found.summary()


def test_a_head_that_a_tied_configuration_forgot_is_compared(root, tmp_path):
    own = load_file(root / "judge" / WEIGHTS)["lm_head.weight"]
    judge = with_json(shutil.copytree(root / "judge", tmp_path / "judge"), "config.json", tie_word_embeddings=True)
    pair, checked = load(root / "base", judge), check_files(root / "base", judge)
    assert torch.equal(pair.judge.lm_head.weight, own)
    rows = [row(report, "output head") for report in (pair.report, checked.report)]
    assert [(r.status, r.value) for r in rows] == [("ok", "a matrix of its own")] * 2
    assert [(c.name, c.change) for c in checked.delta.changes] == [
        (c.name, pytest.approx(c.change)) for c in pair.delta().changes
    ]
    embedding = load_file(judge / WEIGHTS)["model.embed_tokens.weight"]
    twice = rewritten(judge, tmp_path / "twice", **{"lm_head.weight": embedding.clone()})
    checked, pair = check_files(root / "base", twice), load(root / "base", twice)
    assert checked.delta.relative == pytest.approx(pair.delta().relative)
    assert "tied" in next(c.note for c in checked.delta.changes if c.kind == "head")


@pytest.mark.parametrize("judge", ["reward 1", "reward 2", "reward lora 1", "reward lora 2"])
def test_reward_judges_of_a_causal_base_say_the_same_from_files(judge, root):
    pair, checked = load(root / "base", root / judge), check_files(root / "base", root / judge)
    loaded = {guard.name: guard for guard in pair.report.guards}
    for guard in checked.report.guards:
        if guard.name != "models":
            assert (guard.status, guard.value) == (loaded[guard.name].status, loaded[guard.name].value)
    assert row(checked.report, "base head").status == "warn"
    assert checked.delta.relative == pytest.approx(pair.delta().relative, rel=1e-6)
    assert {c.name for c in checked.delta.changes} == {c.name for c in pair.delta().changes}
    assert "score.weight" in checked.delta.only_judge and "score.weight" in pair.delta().only_judge


def test_the_attention_of_a_configuration_file_is_no_difference(root, tmp_path):
    judge = with_json(shutil.copytree(root / "judge", tmp_path / "judge"), "config.json", attn_implementation="eager")
    assert row(check_files(root / "base", judge).report, "attention implementation").status == "ok"
    assert row(load(root / "base", judge).report, "attention implementation").status == "ok"


@pytest.mark.parametrize("judged", [check_files, load])
def test_a_head_trained_on_a_frozen_body_is_a_warning(judged, root, tmp_path):
    frozen = tiny_classifier("llama", labels=1, backbone=AutoModelForCausalLM.from_pretrained(root / "base"))
    guard = row(judged(root / "base", saved(frozen, tmp_path / "frozen")).report, "judge derives from base")
    assert guard.status == "warn" and "only the head was trained" in guard.value


@pytest.mark.parametrize("judged", [check_files, load])
def test_two_models_that_differ_in_their_configuration_alone_are_told_so(judged, root, tmp_path):
    turned = shutil.copytree(root / "base", tmp_path / "turned")
    settings = json.loads((turned / "config.json").read_text())
    rope = {"rope_type": "default", "rope_theta": 77.0}
    with_json(turned, "config.json", rope_parameters=settings.get("rope_parameters", {}) | rope)
    with pytest.raises(PairMismatch, match="only the configuration does .*rope_theta.* -> 77"):
        judged(root / "base", turned)
    guard = row(judged(root / "base", turned, allow_identical=True).report, "judge derives from base")
    assert guard.status == "warn" and "comes from the configuration" in guard.detail


def test_a_tensor_the_index_forgot_is_measured_as_it_is_loaded(root, tmp_path):
    judge = tmp_path / "judge"
    AutoModelForCausalLM.from_pretrained(root / "judge").save_pretrained(judge, max_shard_size="100KB")
    index = judge / "model.safetensors.index.json"
    held = json.loads(index.read_text())
    del held["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    index.write_text(json.dumps(held))
    delta, whole = (weight_delta(root / "base", folder, spectrum=False) for folder in (judge, root / "judge"))
    assert [(c.name, c.change) for c in delta.changes] == [(c.name, c.change) for c in whole.changes]
    assert not delta.only_base


def test_tensors_of_one_side_are_a_warning(root, tmp_path):
    extra = rewritten(root / "judge", tmp_path / "extra", **{"model.layers.0.extra.weight": torch.ones(2)})
    guard = row(check_files(root / "base", extra).report, "compared tensors")
    assert guard.status == "warn" and "only the judge has 1: model.layers.0.extra.weight" in guard.value
