"""Hub places: a revision is resolved once, sub-folders stay apart, and what isn't there is said in words."""

import json
from dataclasses import replace
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from peft import LoraConfig, get_peft_model

from tests.pairs.fake_hub import commit_hash, use
from workbench.errors import CheckpointError, PairMismatch
from workbench.hooks import weight_sharing_shadow
from workbench.pairs import load_pair
from workbench.pairs.loading import hub
from workbench.pairs.loading.sources import Source
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tuned_copy

IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base, two states of one judge, and two adapters, as folders."""
    root = tmp_path_factory.mktemp("checkpoints")
    base = tiny_model()
    base.save_pretrained(root / "base")
    tuned_copy(base, change=scaled_noise(0.05), seed=1).save_pretrained(root / "old")
    tuned_copy(base, change=scaled_noise(0.05), seed=2).save_pretrained(root / "new")
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
        get_peft_model(weight_sharing_shadow(base), config).save_pretrained(root / f"adapter{seed}")
    byte_tokenizer().save_pretrained(root / "tokenizer")
    return root


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return use(monkeypatch, tmp_path / "cache")


def _repository(fake, folders, name, folder, *, commit, **options):
    digest = fake.commit(name, folders / folder, commit=commit, **options)
    fake.commit(name, folders / "tokenizer", commit=commit, **options)
    return digest


def _load(base, judge, **options):
    return load_pair(base, judge, format="pairwise", device="cpu", doctor=False, **options)


def _row(pair, name):
    return next(guard for guard in pair.report.guards if guard.name == name)


def _logits(module):
    with torch.no_grad():
        return module(IDS).logits


def test_a_branch_that_moves_half_way_cant_mix_two_models(fake, folders, monkeypatch):
    """The branch moves after the configuration was read: weights and tokenizer still come from the first commit."""
    from workbench.pairs.loading import checkpoints

    _repository(fake, folders, "lab/base", "base", commit="b1")
    first = _repository(fake, folders, "lab/judge", "old", commit="j1")
    plain = checkpoints.read_config

    def moving(source, place):
        config = plain(source, place)
        _repository(fake, folders, "lab/judge", "new", commit="j2")
        return config

    monkeypatch.setattr(checkpoints, "read_config", moving)
    pair = _load("lab/base", "lab/judge")
    assert torch.equal(_logits(pair.judge), _logits(_local(folders / "old")))
    assert pair.sources["judge"]["revision"] == first
    assert pair.identity()["judge"]["revision"] == first


def _local(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_a_branch_is_said_with_its_commit_and_how_to_pin_it(fake, folders):
    _repository(fake, folders, "lab/base", "base", commit="b1")
    commit = _repository(fake, folders, "lab/judge", "old", commit="j1", branch="v2")
    pair = _load("lab/base", "lab/judge", revision={"judge": "v2"})
    row = _row(pair, "judge revision")
    assert row.status == "ok"
    assert row.value == f'v2 = {commit}; pin it with revision="{commit}"'
    assert _row(pair, "base revision").value.startswith("main = ")
    assert pair.sources["judge"] == {
        "source": "lab/judge",
        "revision": commit,
        "repository": "lab/judge",
        "asked_revision": "v2",
    }
    assert pair.sources["tokenizer"]["revision"] == commit


def test_a_revision_that_moved_is_a_warning_naming_both_commits(fake, folders):
    _repository(fake, folders, "lab/base", "base", commit="b1")
    first = _repository(fake, folders, "lab/judge", "old", commit="j1")
    second = _repository(fake, folders, "lab/judge", "new", commit="j2")
    pair = _load("lab/base", "lab/judge")
    row = _row(pair, "judge revision")
    assert row.status == "warn"
    assert first in row.value and second in row.value
    assert any(first in warning for warning in pair.report.warnings)
    pinned = _load("lab/base", "lab/judge", revision={"judge": first})
    assert _row(pinned, "judge revision").status == "ok"
    assert _row(pinned, "judge revision").value == f"pinned to {first}"
    assert torch.equal(_logits(pinned.judge), _logits(_local(folders / "old")))
    assert pinned.identity()["judge"]["fingerprint"] != pair.identity()["judge"]["fingerprint"]


@pytest.mark.parametrize("revision", ["nowhere", commit_hash("never made")])
def test_an_unknown_revision_lists_what_exists(fake, folders, revision):
    _repository(fake, folders, "lab/base", "base", commit="b1")
    commit = _repository(fake, folders, "lab/judge", "old", commit="j1")
    with pytest.raises(CheckpointError, match="no such revision") as caught:
        _load("lab/base", "lab/judge", revision={"judge": revision})
    assert caught.value.argument == "judge"
    assert f"main = {commit}" in str(caught.value)


def test_a_repository_that_isnt_there_says_so_and_how_to_get_it(fake, folders):
    with pytest.raises(CheckpointError, match="isn't in the local cache") as caught:
        _load(folders / "base", "lab/absent")
    assert caught.value.argument == "judge"
    assert "hf download lab/absent" in str(caught.value)


def test_another_spelling_of_a_cached_repository_is_offered(fake, folders):
    _repository(fake, folders, "Lab/Judge", "old", commit="j1")
    with pytest.raises(CheckpointError, match="Did you mean 'Lab/Judge'"):
        _load(folders / "base", "lab/judge")


def test_a_name_that_is_neither_path_nor_id_is_refused(fake, folders):
    with pytest.raises(CheckpointError, match="neither a folder nor a Hub id") as caught:
        _load("no spaces allowed", folders / "new")
    assert caught.value.argument == "base"


def test_a_repository_can_hold_base_and_judge_in_sub_folders(fake, folders):
    for inside, folder in (("sft", "base"), ("judge", "old")):
        fake.commit("lab/all", folders / folder, commit="c1", inside=inside)
    fake.commit("lab/all", folders / "tokenizer", commit="c1")
    pair = _load("lab/all", "lab/all", subfolder={"base": "sft", "judge": "judge"})
    assert torch.equal(_logits(pair.base), _logits(_local(folders / "base")))
    assert torch.equal(_logits(pair.judge), _logits(_local(folders / "old")))
    row = _row(pair, "judge tokenizer")
    assert row.value == "none in lab/all/judge, so that of lab/all"
    assert pair.sources["judge"]["source"] == "lab/all"
    assert pair.sources["judge"]["subfolder"] == "judge"


def test_two_adapters_of_one_repository_share_nothing(fake, folders):
    _repository(fake, folders, "lab/base", "base", commit="b1")
    for seed in (0, 1):
        fake.commit("lab/adapters", folders / f"adapter{seed}", commit="a1", inside=f"run{seed}")
    pairs = [_load("lab/base", "lab/adapters", subfolder={"judge": f"run{seed}"}) for seed in (0, 1)]
    alone = [_load("lab/base", folders / f"adapter{seed}") for seed in (0, 1)]
    for pair, expected in zip(pairs, alone, strict=True):
        assert torch.equal(_logits(pair.judge), _logits(expected.judge))
        assert torch.equal(_logits(pair.base), _logits(_local(folders / "base")))
    assert not torch.equal(_logits(pairs[0].judge), _logits(pairs[1].judge))
    tensors = [{p.data_ptr() for n, p in pair.judge.named_parameters() if "lora_" in n} for pair in pairs]
    assert not tensors[0] & tensors[1]


def _adapter_of(folders, target, **settings):
    target.mkdir()
    for path in (folders / "adapter0").iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(config | settings))
    return target


def test_an_adapter_trained_on_another_commit_of_its_base_is_refused(fake, folders, tmp_path):
    old = _repository(fake, folders, "lab/base", "base", commit="b1")
    _repository(fake, folders, "lab/base", "base", commit="b2")
    adapter = _adapter_of(folders, tmp_path / "a", base_model_name_or_path="lab/base", revision=old)
    with pytest.raises(PairMismatch, match="adapter's base revision") as caught:
        _load("lab/base", adapter)
    assert old in str(caught.value)
    assert _load("lab/base", adapter, revision={"base": old}).report.comparable


def test_an_adapter_that_names_a_branch_of_its_base_is_a_warning(fake, folders, tmp_path):
    _repository(fake, folders, "lab/base", "base", commit="b1")
    adapter = _adapter_of(folders, tmp_path / "a", base_model_name_or_path="lab/base", revision="v1")
    assert _row(_load("lab/base", adapter), "adapter's base revision").status == "warn"


def test_an_adapters_commit_of_a_base_in_a_folder_cant_be_checked(fake, folders, tmp_path):
    adapter = _adapter_of(folders, tmp_path / "a", base_model_name_or_path="lab/base", revision=commit_hash("b1"))
    pair = _load(folders / "base", adapter, tokenizer=folders / "tokenizer")
    assert _row(pair, "adapter's base revision").status == "warn"


def test_a_folder_of_the_cache_knows_its_commit(fake, folders):
    commit = _repository(fake, folders, "lab/judge", "old", commit="j1")
    folder = fake.cache / "models--lab--judge" / "snapshots" / commit
    assert hub.resolved(Source(given=folder, argument="judge")).commit == commit


def test_a_damaged_snapshot_is_named_by_file(fake, folders, tmp_path):
    _repository(fake, folders, "lab/base", "base", commit="b1")
    commit = _repository(fake, folders, "lab/judge", "old", commit="j1")
    link = fake.cache / "models--lab--judge" / "snapshots" / commit / "model.safetensors"
    blob = link.resolve()
    blob.write_bytes(blob.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short or damaged") as caught:
        _load("lab/base", "lab/judge")
    assert "model.safetensors" in str(caught.value)


def test_a_resolved_source_stays_as_it_is(fake, folders):
    _repository(fake, folders, "lab/judge", "old", commit="j1")
    source = hub.resolved(Source(given="lab/judge", argument="judge"))
    _repository(fake, folders, "lab/judge", "new", commit="j2")
    assert hub.resolved(source).commit == source.commit
    assert hub.resolved(replace(source, commit=None)).commit == commit_hash("j2")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError, "access to this repository must be asked for"),
        (RepositoryNotFoundError, "the Hub has no such repository, or it is private"),
    ],
)
def test_what_the_hub_refuses_is_said_with_how_to_log_in(fake, folders, monkeypatch, error, words):
    def refuse(*_args, **_options):
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "resolve_revision", refuse)
    with pytest.raises(CheckpointError, match=words) as caught:
        _load(folders / "base", "lab/judge")
    assert "hf auth login" in str(caught.value)


def test_online_an_unknown_revision_lists_branches_and_tags(fake, folders, monkeypatch):
    def refuse(*_args, **_options):
        raise RevisionNotFoundError.__new__(RevisionNotFoundError)

    refs = SimpleNamespace(
        branches=[SimpleNamespace(name="main", target_commit="1" * 40)],
        tags=[SimpleNamespace(name="v1", target_commit="2" * 40)],
    )
    monkeypatch.setattr(huggingface_hub, "resolve_revision", refuse)
    monkeypatch.setattr(hub, "HfApi", lambda: SimpleNamespace(list_repo_refs=lambda name: refs))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(CheckpointError, match="this repository has no such revision") as caught:
        _load(folders / "base", "lab/judge", revision={"judge": "v9"})
    assert f"main = {'1' * 40}; v1 = {'2' * 40}" in str(caught.value)
