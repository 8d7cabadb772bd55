"""Which base a judge was tuned from, from weights alone."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.pairs.fake_hub import use
from workbench.errors import CheckpointError, ParameterError
from workbench.pairs import weight_delta, which_base
from workbench.pairs.delta import measure
from workbench.pairs.loading.sources import Source
from workbench.pairs.tiny import scaled_noise, tiny_model, tuned_copy


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base, an instruct model tuned from it, a judge tuned from that, and strangers."""
    root = tmp_path_factory.mktemp("family")
    base = tiny_model(n_layers=4)
    instruct = tuned_copy(base, change=scaled_noise(0.2), seed=1)
    family = {
        "base": base,
        "instruct": instruct,
        "judge": tuned_copy(instruct, change=scaled_noise(0.05), seed=2),
        "stranger": tiny_model(n_layers=4, seed=9),
        "wide": tiny_model(n_layers=4, width=64),
        "gpt2": tiny_model(architecture="gpt2", n_layers=4),
    }
    for name, model in family.items():
        model.save_pretrained(root / name)
    return root


@pytest.mark.parametrize("tensors", ["sample", "all"])
def test_a_judge_tuned_from_instruct_is_told_so(models, tensors):
    found = which_base(models / "judge", [models / n for n in ("base", "stranger", "instruct")], tensors=tensors)
    assert found.base == str(models / "instruct")
    assert [c.name.rpartition("/")[2] for c in found.candidates] == ["instruct", "base", "stranger"]
    distances = [c.distance for c in found.candidates]
    assert distances[0] == pytest.approx(0.05, rel=0.02)
    assert distances[1] == pytest.approx(0.21, rel=0.05)
    assert distances[2] > 1.2
    assert "was tuned from" in found.summary() and "times nearer than" in found.summary()
    assert found.compared == ("layers 0, 2, 3" if tensors == "sample" else "all tensors")
    assert found.compared in found.summary()
    assert list(found.to_frame()["candidate"]) == [c.name for c in found.candidates]


def test_strangers_are_none_of_them(models):
    found = which_base(models / "judge", [models / "stranger"])
    assert found.base is None
    assert "was tuned from none of them" in found.summary()


def test_two_that_are_equally_near_are_left_undecided(models):
    found = which_base(models / "judge", [models / "instruct", models / "instruct"])
    assert found.base is None
    assert found.summary().startswith("Undecided")


def test_the_judge_itself_is_recognised(models):
    found = which_base(models / "judge", [models / "base", models / "judge"])
    assert found.base == str(models / "judge")
    assert "no compared weight differs" in found.summary()


def test_models_of_other_shapes_come_last_with_the_reason(models):
    found = which_base(models / "judge", [models / "wide", models / "gpt2", models / "base"])
    assert found.base == str(models / "base")
    assert [bool(c.note) for c in found.candidates] == [False, True, True]
    assert "differ in the shape" in found.summary() and "no layer in common" in found.summary()
    assert "differ in the shape" in found._repr_html_()


def test_live_models_and_folders_mix(models):
    base = tiny_model(n_layers=4)
    found = which_base(tuned_copy(base, change=scaled_noise(0.03)), [models / "stranger", base])
    assert found.base == "candidates[1], LlamaForCausalLM"


def test_a_sample_reads_only_its_layers(models, monkeypatch):
    seen = set()
    whole = measure.FileStore.rows

    def rows(self, key, start, stop):
        seen.add(key)
        return whole(self, key, start, stop)

    monkeypatch.setattr(measure.FileStore, "rows", rows)
    which_base(models / "judge", [models / "base"])
    assert seen and all(key.startswith(("layers.0.", "layers.2.", "layers.3.")) for key in seen)


def test_an_adapter_is_refused_and_its_own_word_is_shown(models, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/the-base"}))
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="holds no weights of its base") as refused:
        which_base(tmp_path, [models / "base"])
    assert "owner/the-base" in refused.value.fix


def test_nonsense_is_refused(models):
    with pytest.raises(ParameterError, match="no candidate"):
        which_base(models / "judge", [])
    with pytest.raises((ParameterError, TypeError)):  # run-time type checks come first
        which_base(models / "judge", [models / "base"], tensors="few")


def test_one_changed_number_is_not_the_same_model(models, tmp_path):
    tiny_model(n_layers=4).save_pretrained(tmp_path / "near")
    stored = load_file(tmp_path / "near" / "model.safetensors")
    stored["model.layers.3.mlp.up_proj.weight"][5, 7] += 1e-3
    save_file(stored, tmp_path / "near" / "model.safetensors", {"format": "pt"})
    (candidate,) = which_base(tmp_path / "near", [models / "base"]).candidates
    assert candidate.same == candidate.tensors - 1


def test_repositories_are_compared_at_their_revision_and_file_by_file(models, tmp_path, monkeypatch):
    hub = use(monkeypatch, tmp_path / "cache")
    for name in ("base", "instruct"):
        shards = tmp_path / name
        AutoModelForCausalLM.from_pretrained(models / name).save_pretrained(shards, max_shard_size="60KB")
        hub.commit(f"owner/{name}", shards, commit=f"{name} one")
    hub.commit("owner/judge", models / "judge", commit="judge one", inside="final")
    hub.commit("owner/judge", models / "stranger", commit="judge two", branch="v2", inside="final")
    judge = Source(given="owner/judge", argument="judge", subfolder="final")
    found = which_base(judge, ["owner/base", "owner/instruct"])
    assert found.base == "owner/instruct"
    assert weight_delta("owner/instruct", judge).relative == pytest.approx(0.05, rel=0.02)
    other = Source(given="owner/judge", argument="judge", subfolder="final", revision="v2")
    assert which_base(other, ["owner/base", "owner/instruct"]).base is None
    with pytest.raises(CheckpointError, match="no such revision"):
        weight_delta("owner/base", Source(given="owner/judge", argument="judge", revision="v3"))
    shard = next((tmp_path / "cache").glob("models--owner--base/snapshots/*/model-00002*"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        weight_delta("owner/base", judge)
