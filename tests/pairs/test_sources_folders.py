"""Folders: incomplete, damaged, mistaken and dangerous ones are refused by name before anything is loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from workbench.errors import CheckpointError, ParameterError
from workbench.hooks import weight_sharing_shadow
from workbench.pairs import load_pair
from workbench.pairs.loading import stored
from workbench.pairs.loading.sources import Source
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tuned_copy

IDS = torch.arange(3, 40)[None]
MODELING = """
from transformers import LlamaForCausalLM

from .configuration_ours import OursConfig


class OursForCausalLM(LlamaForCausalLM):
    config_class = OursConfig

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = 2 * out.logits
        return out
"""
CONFIGURATION = """
from transformers import LlamaConfig


class OursConfig(LlamaConfig):
    model_type = "ours"
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base, a judge in one file and in shards, and an adapter."""
    root = tmp_path_factory.mktemp("checkpoints")
    base = tiny_model()
    judge = tuned_copy(base, change=scaled_noise(0.05))
    base.save_pretrained(root / "base")
    judge.save_pretrained(root / "judge")
    judge.save_pretrained(root / "sharded", max_shard_size="40KB")
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(0)
    get_peft_model(weight_sharing_shadow(base), config).save_pretrained(root / "adapter")
    for name in ("base", "judge", "sharded"):
        byte_tokenizer().save_pretrained(root / name)
    return root


@pytest.fixture
def copied(folders, tmp_path):
    """Returns a copy of one of the folders, free to be damaged."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(folders / name, tmp_path / name))

    return copy


def _load(base, judge, **options):
    return load_pair(base, judge, format="pairwise", device="cpu", doctor=False, **options)


def _row(pair, name):
    return next(guard for guard in pair.report.guards if guard.name == name)


def _logits(module):
    with torch.no_grad():
        return module(IDS).logits


def test_shards_hold_the_same_judge(folders):
    assert len(list((folders / "sharded").glob("model-*.safetensors"))) > 2
    whole, parts = _load(folders / "base", folders / "judge"), _load(folders / "base", folders / "sharded")
    assert torch.equal(_logits(whole.judge), _logits(parts.judge))
    assert whole.identity()["judge"]["fingerprint"] == parts.identity()["judge"]["fingerprint"]


def test_a_missing_shard_is_named(folders, copied):
    folder = copied("sharded")
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match="named by model.safetensors.index.json are missing") as caught:
        _load(folders / "base", folder)
    assert gone.name in str(caught.value)
    assert caught.value.argument == "judge"


@pytest.mark.parametrize("name", ["judge", "sharded"])
@pytest.mark.parametrize("left", [0, 4, 60, -8])
def test_a_file_cut_short_is_named(folders, copied, name, left):
    folder = copied(name)
    short = sorted(folder.glob("*.safetensors"))[0]
    short.write_bytes(short.read_bytes()[:left])
    with pytest.raises(CheckpointError, match="cut short or damaged") as caught:
        _load(folders / "base", folder)
    assert short.name in str(caught.value)


def test_an_index_that_names_an_absent_tensor_is_refused(folders, copied):
    folder = copied("sharded")
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    tensors = load_file(shard)
    lost = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != lost}, shard, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"names 1 tensors that {shard.name} doesn't hold") as caught:
        _load(folders / "base", folder)
    assert lost in str(caught.value)


def test_an_index_that_isnt_json_is_refused(folders, copied):
    folder = copied("sharded")
    (folder / stored.INDEX).write_text("not json")
    with pytest.raises(CheckpointError, match="index of weights can't be read"):
        _load(folders / "base", folder)


def test_shards_without_their_index_are_refused(folders, copied):
    folder = copied("sharded")
    (folder / stored.INDEX).unlink()
    with pytest.raises(CheckpointError, match="neither model.safetensors nor model.safetensors.index.json"):
        _load(folders / "base", folder)


def test_a_git_lfs_pointer_is_recognised(folders, copied):
    folder = copied("judge")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="git-lfs pointer") as caught:
        _load(folders / "base", folder)
    assert "git lfs pull" in str(caught.value)


def test_a_pickle_beside_safetensors_is_never_opened(folders, copied):
    folder = copied("judge")
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert torch.equal(_logits(_load(folders / "base", folder).judge), _logits(_plain(folders / "judge")))


def _plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _only(folder: Path, names: dict[str, str]) -> None:
    folder.mkdir()
    for name, text in names.items():
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "words", "cure"),
    [
        ({}, "this folder is empty", "Check the path"),
        ({"judge-q4.gguf": "GGUF"}, "made for llama.cpp", "safetensors checkpoint they were converted from"),
        ({"tokenizer.json": "{}"}, "holds no safetensors weights", "save_pretrained"),
        ({"model.fp16.safetensors": ""}, "neither model.safetensors nor", "index.json"),
    ],
)
def test_folders_without_a_model_say_what_they_hold(folders, tmp_path, files, words, cure):
    _only(tmp_path / "judge", files)
    with pytest.raises(CheckpointError, match=words) as caught:
        _load(folders / "base", tmp_path / "judge")
    assert cure in str(caught.value)


def test_weights_in_a_sub_folder_are_pointed_at(folders, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copytree(folders / "judge", tmp_path / "run" / "checkpoint-500")
    with pytest.raises(CheckpointError, match="subfolder='checkpoint-500'"):
        _load(folders / "base", tmp_path / "run")
    pair = _load(folders / "base", tmp_path / "run", subfolder={"judge": "checkpoint-500"})
    assert torch.equal(_logits(pair.judge), _logits(_plain(folders / "judge")))


def test_the_tokenizer_of_a_sub_folder_comes_before_that_of_the_root(folders, tmp_path):
    root = tmp_path / "run"
    root.mkdir()
    shutil.copytree(folders / "judge", root / "checkpoint-500")
    other = byte_tokenizer()
    other.chat_template = "root {{ messages[0]['content'] }}"
    other.save_pretrained(root)
    options = {"subfolder": {"judge": "checkpoint-500"}}
    assert _load(folders / "base", root, **options).tokenizer.chat_template is None
    for name in stored.TOKENIZER_FILES:
        (root / "checkpoint-500" / name).unlink(missing_ok=True)
    pair = _load(folders / "base", root, **options)
    assert pair.tokenizer.chat_template.startswith("root")
    assert f"so that of {root}" in _row(pair, "judge tokenizer").value


def test_a_file_is_no_folder(folders, tmp_path):
    for name, words in (("judge.gguf", "GGUF file"), ("model.safetensors", "a file, not a folder")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(CheckpointError, match=words):
            _load(folders / "base", tmp_path / name)


def test_another_spelling_of_a_folder_is_offered(folders):
    with pytest.raises(CheckpointError, match="Did you mean") as caught:
        _load(folders / "base", folders / "Judge")
    assert repr(str(folders / "judge")) in str(caught.value)


def test_weights_without_a_config_are_refused(folders, copied):
    folder = copied("judge")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config.json"):
        _load(folders / "base", folder)


@pytest.mark.parametrize("text", ["{ not json", "", "[1]"])
def test_an_adapters_damaged_configuration_is_named(folders, copied, text):
    folder = copied("adapter")
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match="adapter's configuration can't be read") as caught:
        _load(folders / "base", folder)
    assert caught.value.argument == "judge"
    assert str(folder / "adapter_config.json") in str(caught.value)


def test_an_adapter_is_no_base(folders, copied):
    with pytest.raises(CheckpointError, match="holds an adapter, not a model") as caught:
        _load(folders / "adapter", folders / "judge")
    assert caught.value.argument == "base"


def test_a_base_with_an_adapter_beside_it_is_refused(folders, copied):
    """Transformers would load both and call it the base."""
    folder = copied("base")
    for path in (folders / "adapter").glob("adapter_*"):
        shutil.copy(path, folder)
    with pytest.raises(CheckpointError, match="adapter beside its weights"):
        _load(folder, folders / "judge")


def test_left_over_tensors_are_named(folders, copied):
    folder = copied("judge")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"extra.probe.weight": torch.ones(3)}, folder / "model.safetensors", {"format": "pt"})
    row = _row(_load(folders / "base", folder), "judge weights left out")
    assert row.status == "warn"
    assert "extra.probe.weight" in row.value


def test_two_stored_types_are_said(folders, copied):
    folder = copied("judge")
    _plain(folder).to(torch.bfloat16).save_pretrained(folder)
    pair = _load(folders / "base", folder)
    assert _row(pair, "stored data type").value == "base float32, judge bfloat16"
    assert _row(pair, "stored data type").status == "warn"
    assert {p.dtype for p in pair.judge.parameters()} == {torch.float32}
    assert _row(_load(folders / "base", folders / "judge"), "stored data type").status == "ok"


def _with_code(folder: Path, *, model_type: str = "ours") -> Path:
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": model_type,
        "architectures": ["OursForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_ours.OursConfig",
            "AutoModelForCausalLM": "modeling_ours.OursForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_ours.py").write_text(MODELING)
    (folder / "configuration_ours.py").write_text(CONFIGURATION)
    return folder


@pytest.fixture
def code_cache(tmp_path, monkeypatch):
    """Keep the copies transformers makes of a repository's code out of the user's cache."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


def test_a_checkpoints_own_code_doesnt_run_unless_asked(folders, copied):
    base = _with_code(copied("base"))
    (base / "modeling_ours.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(CheckpointError, match="isn't run unless asked for") as caught:
        _load(base, folders / "judge")
    assert "configuration_ours.py, modeling_ours.py" in str(caught.value)
    assert "trust_remote_code=True" in str(caught.value)


def test_with_permission_it_runs_and_every_result_says_so(copied, code_cache):
    base, judge = _with_code(copied("base")), _with_code(copied("judge"))
    pair = load_pair(base, judge, format="pairwise", device="cpu", trust_remote_code=True)
    assert type(pair.judge).__name__ == "OursForCausalLM"
    assert _row(pair, "judge code").value == "ran configuration_ours.py, modeling_ours.py"
    assert any("judge code" in warning for warning in pair.report.warnings)
    assert any("judge code" in row["name"] for row in pair.identity()["guards"])
    assert _row(pair, "doctor, judge: logits, nnsight").status == "ok"


def test_where_transformers_has_the_class_its_own_is_used_and_said(folders, copied):
    judge = _with_code(copied("judge"), model_type="llama")
    (judge / "modeling_ours.py").write_text("raise SystemExit('this ran')")
    pair = _load(folders / "base", judge)
    assert type(pair.judge).__name__ == "LlamaForCausalLM"
    assert _row(pair, "judge code").value.startswith("transformers' own class, not the repository's")


def test_code_of_another_repository_is_named(tmp_path):
    from workbench.pairs.loading.remote_code import code_files

    _only(tmp_path / "m", {"config.json": json.dumps({"auto_map": {"AutoModelForCausalLM": "a/b--modeling.X"}})})
    assert code_files(Source(given=tmp_path / "m", argument="judge")) == ("a/b: modeling.py",)


def test_offloading_needs_a_map(folders):
    for option in ({"max_memory": {"cpu": "1GB"}}, {"offload_folder": "x"}):
        with pytest.raises(ParameterError, match="spread over devices"):
            _load(folders / "base", folders / "judge", **option)


def test_loading_is_quiet(folders, capfd):
    _load(folders / "base", folders / "sharded")
    assert capfd.readouterr().err == ""
