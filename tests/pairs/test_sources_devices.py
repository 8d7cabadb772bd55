"""Models spread over devices and the disk by accelerate: the same numbers, the same guards, nothing mixed up."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from analyses import tuco
from workbench.errors import CheckpointError, PairMismatch
from workbench.hooks import weight_sharing_shadow
from workbench.judges import JudgeItem
from workbench.pairs import load_pair
from workbench.pairs.controls import random_delta_pair
from workbench.pairs.memory.offloaded import is_offloaded, value_of
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tuned_copy

IDS = torch.arange(3, 40)[None]
ITEMS = [
    JudgeItem(item_id=f"i{n}", question=f"What is {n}+{n}?", answers=(str(2 * n), str(2 * n + 1)), label=0)
    for n in range(2)
]
ON_DISK = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "disk",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base stored in float32, a judge stored in bfloat16, and two adapters."""
    root = tmp_path_factory.mktemp("checkpoints")
    base = tiny_model()
    base.save_pretrained(root / "base")
    tuned_copy(base, change=scaled_noise(0.05)).to(torch.bfloat16).save_pretrained(root / "judge")
    byte_tokenizer().save_pretrained(root / "base")
    for name, options in (("adapter", {}), ("dora", {"use_dora": True})):
        torch.manual_seed(0)
        config = LoraConfig(
            r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", init_lora_weights=False, **options
        )
        get_peft_model(weight_sharing_shadow(base), config).save_pretrained(root / name)
    return root


def _logits(module):
    with torch.no_grad():
        return module(IDS).logits


def _plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _statuses(pair):
    return {guard.name: guard.status for guard in pair.report.guards if guard.name.startswith("doctor")}


@pytest.mark.parametrize("judge", ["judge", "adapter"])
def test_weights_on_disk_change_no_number(folders, tmp_path, judge):
    """Both models use the same tensor names, so that one offload folder for both would mix them."""
    place = {"device_map": ON_DISK, "offload_folder": tmp_path / "off", "format": "pairwise"}
    pair = load_pair(folders / "base", folders / judge, **place)
    near = load_pair(folders / "base", folders / judge, device="cpu", format="pairwise")
    assert is_offloaded(pair.base) and is_offloaded(pair.judge)
    for side in ("base", "judge"):
        assert torch.equal(_logits(pair.module(side)), _logits(near.module(side)))
        assert pair.identity()[side]["fingerprint"] == near.identity()[side]["fingerprint"]
    assert set(_statuses(pair).values()) == {"ok"}
    assert pair.device == torch.device("cpu")
    far, here = ({c.name: c.change for c in p.delta().changes} for p in (pair, near))
    assert far == pytest.approx(here, rel=1e-6)
    assert pair.delta().relative > 0


def test_an_offloaded_lora_judge_equals_peft(folders, tmp_path):
    pair = load_pair(
        folders / "base", folders / "adapter", device_map=ON_DISK, offload_folder=tmp_path, format="pairwise"
    )
    expected = PeftModel.from_pretrained(_plain(folders / "base"), folders / "adapter")
    torch.testing.assert_close(_logits(pair.judge), _logits(expected), atol=5e-5, rtol=0)
    assert torch.equal(_logits(pair.base), _logits(_plain(folders / "base")))


def test_tuco_runs_on_offloaded_models(folders, tmp_path):
    options = {"format": "pairwise", "doctor": False}
    far = load_pair(folders / "base", folders / "adapter", device_map=ON_DISK, offload_folder=tmp_path, **options)
    near = load_pair(folders / "base", folders / "adapter", device="cpu", **options)
    left, right = (tuco.run(pair, ITEMS, controls=1, numerics=False, progress=False).to_frame() for pair in (far, near))
    assert left["value"].to_numpy() == pytest.approx(right["value"].to_numpy(), rel=1e-5, abs=1e-7, nan_ok=True)


def test_random_controls_are_refused_where_weights_cant_be_replaced(folders, tmp_path):
    """accelerate would lend the judge's own weights again, and the control would be the judge."""
    pair = load_pair(
        folders / "base",
        folders / "judge",
        device_map=ON_DISK,
        offload_folder=tmp_path,
        format="pairwise",
        doctor=False,
    )
    with pytest.raises(PairMismatch, match="can't be replaced by others"):
        random_delta_pair(pair, seed=0)


def test_little_memory_sends_the_rest_to_disk(folders, tmp_path):
    whole = sum(p.numel() * 4 for p in tiny_model().parameters())
    pair = load_pair(
        folders / "base",
        folders / "judge",
        device_map="auto",
        max_memory={"cpu": int(0.7 * whole)},
        offload_folder=tmp_path / "off",
        format="pairwise",
        doctor=False,
    )
    assert is_offloaded(pair.base)
    assert torch.equal(_logits(pair.base), _logits(_plain(folders / "base")))
    assert torch.equal(_logits(pair.judge), _logits(_plain(folders / "judge")))


def test_auto_with_room_keeps_everything_in_memory(folders):
    pair = load_pair(folders / "base", folders / "judge", device_map="auto", format="pairwise", doctor=False)
    assert not is_offloaded(pair.base)
    assert torch.equal(_logits(pair.judge), _logits(_plain(folders / "judge")))


def test_embeddings_on_disk_are_refused(folders, tmp_path):
    with pytest.raises(CheckpointError, match="embeddings are kept outside") as caught:
        load_pair(
            folders / "base",
            folders / "judge",
            device_map=ON_DISK | {"model.embed_tokens": "disk"},
            offload_folder=tmp_path,
            format="pairwise",
        )
    assert caught.value.argument == "device_map"


def test_an_adapter_that_reads_the_weights_is_refused_on_offloaded_ones(folders, tmp_path):
    with pytest.raises(PairMismatch, match="kept outside the model") as caught:
        load_pair(folders / "base", folders / "dora", device_map=ON_DISK, offload_folder=tmp_path, format="pairwise")
    assert "merge the adapter" in str(caught.value)


def test_a_clone_of_an_offloaded_model_copies_no_weights(folders, tmp_path):
    pair = load_pair(
        folders / "base",
        folders / "judge",
        device_map=ON_DISK,
        offload_folder=tmp_path,
        format="pairwise",
        doctor=False,
    )
    clone = weight_sharing_shadow(pair.base)
    assert torch.equal(_logits(clone), _logits(pair.base))
    name = "lm_head.weight"
    assert torch.equal(value_of(clone, name), value_of(pair.base, name))
    assert clone.lm_head._hf_hook.weights_map is pair.base.lm_head._hf_hook.weights_map
