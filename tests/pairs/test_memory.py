"""What a pair takes is said before it is loaded, is what it then takes, and what won't fit is refused."""

import gc
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from analyses import tuco
from tests.tiny_models import BUILDERS, MATRIX, tiny_model
from workbench.errors import MemoryShortage, ParameterError
from workbench.judges import JudgeItem
from workbench.pairs import estimate_memory, free_memory, load_pair
from workbench.pairs.loading import hub
from workbench.pairs.loading.sources import Source
from workbench.pairs.memory import estimate
from workbench.pairs.memory.sizes import cache_bytes, checkpoint_size
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tuned_copy
from workbench.pairs.tiny import tiny_model as byte_model

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i}?", answers=("a", "b" * (1 + i)), label=i % 2) for i in range(4)
]


def held(module):
    return sum(p.numel() * p.element_size() for p in module.parameters())


def sizes(estimate, kind):
    return {part.name: part.size for part in estimate.parts if part.kind == kind}


@pytest.fixture
def folders(tmp_path):
    """A base and a judge in folders, with a tokenizer."""
    base = byte_model()
    judge = tuned_copy(base, change=scaled_noise(0.05))
    for name, module in (("base", base), ("judge", judge)):
        module.save_pretrained(tmp_path / name)
        byte_tokenizer().save_pretrained(tmp_path / name)
    return tmp_path / "base", tmp_path / "judge"


def room(monkeypatch, size):
    monkeypatch.setattr(estimate, "free_memory", lambda device: size)


@pytest.mark.parametrize("architecture", MATRIX)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_exact(architecture, dtype, tmp_path):
    tiny_model(architecture).save_pretrained(tmp_path / "base")
    tiny_model(architecture, seed=1).save_pretrained(tmp_path / "judge", max_shard_size="20KB")
    estimate = estimate_memory(tmp_path / "base", tmp_path / "judge", dtype=dtype, device="cpu")
    found = {part.name: part for part in estimate.parts}
    for side in ("base", "judge"):
        module = AutoModelForCausalLM.from_pretrained(tmp_path / side, dtype=getattr(torch, dtype))
        assert found[f"weights of the {side}"].size == held(module)
        assert found[f"weights of the {side}"].exact


@pytest.mark.parametrize("architecture", MATRIX)
@pytest.mark.parametrize("tokens", [1, 5, 20])
def test_keys_and_values_are_exact_windows_included(architecture, tokens):
    module = BUILDERS[architecture]().eval()
    with torch.no_grad():
        cache = module(torch.randint(3, 300, (2, tokens)), use_cache=True).past_key_values
    kept = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert 2 * cache_bytes(module.config, tokens=tokens, itemsize=4) == kept


def test_what_a_run_keeps_is_counted_by_site(folders):
    one, two = (estimate_memory(*folders, kept=kept, batch_size=3, prompt_tokens=10) for kept in (1, 2))
    assert sizes(one, "run")["kept activations"] == 3 * 10 * 32 * 4
    assert sizes(two, "run")["kept activations"] == 2 * 3 * 10 * 32 * 4
    default = estimate_memory(*folders, batch_size=3, prompt_tokens=10)
    assert sizes(default, "run")["kept activations"] == 3 * 3 * 10 * 32 * 4, "every block's input, and the last output"


def test_an_adapter_counts_once_beside_one_base(folders, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(folders[0])
    whole = held(base)
    wrapped = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    wrapped.save_pretrained(tmp_path / "adapter")
    factors = sum(p.numel() * 4 for n, p in wrapped.named_parameters() if "lora_" in n)
    estimate = estimate_memory(folders[0], tmp_path / "adapter", dtype="bfloat16", device="cpu")
    found = sizes(estimate, "weights")
    assert found == {"weights of the base": whole // 2, "the adapter, on the base's own weights": factors}


def test_on_a_cpu_weights_in_their_stored_type_stay_in_their_files(folders):
    estimate = estimate_memory(*folders, device="cpu")
    assert estimate.needed == {}
    assert set(sizes(estimate, "mapped")) == {"weights of the base", "weights of the judge"}
    converted = estimate_memory(*folders, device="cpu", dtype="bfloat16")
    assert sum(converted.needed.values()) > sum(sizes(converted, "weights").values()), "and a tensor on its way"


def test_a_pair_that_will_not_fit_is_refused_before_anything_is_loaded(folders, monkeypatch):
    room(monkeypatch, 1000)
    loaded = []
    plain = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: (loaded.append(a), plain(*a, **k))[1])
    with pytest.raises(MemoryShortage, match=r"free: 1 kB on cpu") as caught:
        load_pair(*folders, device="cpu", dtype="float64", doctor=False)
    assert not loaded
    for cure in ('dtype="bfloat16"', "quantization=", 'offload="disk"', "check_memory=False"):
        assert cure in str(caught.value)
    pair = load_pair(*folders, device="cpu", dtype="float64", doctor=False, check_memory=False)
    (row,) = [guard for guard in pair.report.guards if guard.name == "memory"]
    assert row.status == "warn"
    assert any(text.startswith("memory:") for text in pair.report.warnings)


def test_memory_that_runs_out_while_loading_is_said_so(folders, monkeypatch):
    def full(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(MemoryShortage, match="ran out while this model was loaded"):
        load_pair(*folders, device="cpu", doctor=False)


def test_only_cures_that_apply_are_named(folders, monkeypatch):
    room(monkeypatch, 1000)
    half = estimate_memory(*folders, dtype="float16", device="cpu")
    assert not any("bfloat16" in cure for cure in half.cures)
    assert not any("device_map" in cure for cure in half.cures), "there is one device only"
    gpu = " ".join(estimate_memory(*folders, dtype="float32", device="cuda").cures)
    for cure in ("bfloat16", "device_map", 'resident="cuda"', "offload"):
        assert cure in gpu
    with pytest.raises(MemoryShortage):
        estimate_memory(*folders, dtype="float32", device="cuda").require_fit()


def test_spread_over_devices_what_counts_is_all_of_them_together(folders, monkeypatch):
    room(monkeypatch, 10**9)
    whole = sum(sizes(estimate_memory(*folders, dtype="bfloat16", device="cpu"), "weights").values())
    limits = {0: "20KB", "cpu": "20KB"}
    estimate = estimate_memory(*folders, dtype="bfloat16", device_map="auto", max_memory=limits)
    assert estimate.free == {"cuda:0": 20_000, "cpu": 20_000}
    assert sum(sizes(estimate, "weights").values()) == whole
    assert estimate.fits == (sum(estimate.needed.values()) <= 40_000)


def test_live_modules_are_there_already():
    base = byte_model()
    pair = load_pair(base, tuned_copy(base, change=scaled_noise(0.1)), tokenizer=byte_tokenizer(), doctor=False)
    (row,) = [guard for guard in pair.report.guards if guard.name == "memory"]
    assert (row.status, row.value) == ("ok", "both models were loaded already")


def test_a_hub_repository_is_read_by_its_headers_alone(folders, monkeypatch):
    local = checkpoint_size(Source(given=folders[0], argument="base"))
    entries = {
        t.name: huggingface_hub.utils.TensorInfo(dtype="F32", shape=list(t.shape), data_offsets=(0, 0))
        for t in local.tensors
    }
    asked = []

    def metadata(repository, file, revision=None):
        asked.append((repository, file, revision))
        return huggingface_hub.utils.SafetensorsFileMetadata(metadata={}, tensors=entries)

    monkeypatch.setattr(hub, "snapshot_folder", lambda source: None)
    monkeypatch.setattr(
        hub, "file_names", lambda source: frozenset({"config.json", "v1/model.safetensors", "x/y.safetensors"})
    )
    monkeypatch.setattr(huggingface_hub, "parse_safetensors_file_metadata", metadata)
    source = Source(given="owner/judge", argument="judge", subfolder="v1", commit="c" * 40)
    assert checkpoint_size(source).in_memory(torch.bfloat16) == local.in_memory(torch.bfloat16)
    assert asked == [("owner/judge", "v1/model.safetensors", "c" * 40)]
    monkeypatch.setattr(
        huggingface_hub, "parse_safetensors_file_metadata", lambda *a, **k: (_ for _ in ()).throw(OSError)
    )
    assert checkpoint_size(source) is None


def test_an_estimate_is_a_table_a_text_and_a_page(folders):
    estimate = estimate_memory(*folders, dtype="bfloat16", device="cpu")
    frame = estimate.to_frame()
    assert list(frame) == ["part", "device", "bytes", "kind", "exact", "detail"]
    assert "weights of the base" in str(estimate)
    assert "keys and values" in estimate._repr_html_()
    assert free_memory("cpu") > 10**6
    assert free_memory("meta") is None


def test_weights_kept_in_files_are_the_same_weights(folders, tmp_path):
    plain = load_pair(*folders, device="cpu", dtype="float64", doctor=False, format="pairwise")
    scratch = tmp_path / "scratch"
    mapped = load_pair(
        *folders, device="cpu", dtype="float64", doctor=False, format="pairwise", offload="disk", offload_folder=scratch
    )
    assert len(list(scratch.iterdir())) == 2
    for side in ("base", "judge"):
        for own, other in zip(mapped.module(side).parameters(), plain.module(side).parameters(), strict=True):
            assert torch.equal(own, other)
    one, two = (tuco.run(pair, ITEMS, controls=0, progress=False) for pair in (plain, mapped))
    assert one.to_frame().to_csv() == two.to_frame().to_csv()
    del mapped, two
    gc.collect()
    assert list(scratch.iterdir()) == [], "the files go with the models"


@pytest.mark.parametrize(
    "options",
    [{"device": "cuda"}, {}, {"device": "cpu", "quantization": "4bit"}, {"device_map": "auto"}],
    ids=["gpu", "unsaid", "quantised", "spread"],
)
def test_weights_are_kept_in_files_in_host_memory_only(folders, options):
    with pytest.raises(ParameterError, match="offload"):
        load_pair(*folders, offload="disk", **options)
    with pytest.raises(ParameterError, match="disk"):
        load_pair(*folders, offload="tape", device="cpu")


_MEASURE = """
import sys
from workbench.pairs import load_pair
from workbench.pairs.tiny import byte_tokenizer
import transformers.models.llama.modeling_llama
def anonymous():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))
before = anonymous()
pair = load_pair(sys.argv[1], sys.argv[2], tokenizer=byte_tokenizer(), device="cpu", dtype="float32", doctor=False,
                 **({"offload": "disk"} if sys.argv[3] == "mapped" else {}))
print(anonymous() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_measured_memory_is_the_estimate(tmp_path):
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=6, num_attention_heads=8, vocab_size=20000
    )
    for side in ("base", "judge"):
        LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / side)
    estimate = estimate_memory(tmp_path / "base", tmp_path / "judge", device="cpu", dtype="float32")
    weights = sum(sizes(estimate, "weights").values())

    def measured(how):
        command = [sys.executable, "-c", _MEASURE, str(tmp_path / "base"), str(tmp_path / "judge"), how]
        out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        return int(out.stdout.split()[-1])

    assert weights <= measured("plain") <= 1.15 * weights + 6e7
    assert measured("mapped") <= 0.25 * weights
