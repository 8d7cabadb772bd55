"""Merged and unmerged: equal in float32, told apart where merging in half precision loses a small change."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from analyses import merge_equivalence
from analyses.looping import Prompts
from analyses.merge_equivalence import FORMS, MergeEquivalenceResult, forms
from tests.short_format import SHORT_FORMAT
from tests.tiny_models import MATRIX, tiny_model, tiny_tokenizer
from workbench.errors import MemoryShortage, ParameterError
from workbench.judges import JudgeItem
from workbench.pairs import load_pair
from workbench.pairs.adapters import merged_copy
from workbench.pairs.tiny import byte_tokenizer, tiny_pair
from workbench.pairs.tiny import tiny_model as byte_model

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(10)
]
SHORT = [JudgeItem(item_id=f"i{i}", question="?", answers=("a", "b"), label=0) for i in range(2)]


def adapter_pair(
    tmp_path, *, dtype, size, base=None, tokenizer=None, targets=("q_proj", "v_proj", "down_proj"), form="pairwise"
):
    """A base in a folder and a LoRA whose factors have this size, loaded in a data type."""
    base = base or byte_model()
    base.save_pretrained(tmp_path / "base")
    (tokenizer or byte_tokenizer()).save_pretrained(tmp_path / "base")
    wrapped = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=list(targets), task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_" in name:
                parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    wrapped.save_pretrained(tmp_path / "adapter")
    return load_pair(tmp_path / "base", tmp_path / "adapter", dtype=dtype, device="cpu", format=form, doctor=False)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    return adapter_pair(tmp_path_factory.mktemp("half"), dtype="bfloat16", size=0.03)


@pytest.fixture(scope="module")
def result(half):
    return merge_equivalence.run(half, ITEMS, tolerance=1e-3, progress=False, batch_size=4)


def test_in_float32_merged_is_the_same_judge():
    found = merge_equivalence.run(tiny_pair(kind="lora"), ITEMS, progress=False)
    assert found.forms == FORMS[:2]
    assert found.equivalent.all()
    assert not found.finding.found
    assert "equivalent within 0.01 nats" in found.finding.headline
    assert np.abs(found.change).max() < 1e-4
    assert found.stream_drift.max() < 1e-5
    assert (np.abs(found.margin) > 1e-3).any(), "or there is no verdict to keep"


@pytest.mark.parametrize("float32", [True, False])
def test_memory_that_runs_out_while_the_judge_is_merged_is_explained(half, monkeypatch, float32):
    def full(judge):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(forms, "merged_copy", full)
    with pytest.raises(MemoryShortage, match="while the judge was merged") as shortage:
        merge_equivalence.run(half, ITEMS, float32=float32, progress=False)
    assert ("Pass float32=False" in str(shortage.value)) == float32


def test_merging_in_bfloat16_shows_its_loss_and_float32_is_equivalent(result):
    merged, again, rounded, control = range(4)
    assert result.forms == FORMS
    assert result.finding.found
    assert result.finding.headline.startswith("Not equivalent: merged in bfloat16")
    assert list(result.equivalent[[merged, rounded, control]]) == [False, False, True]
    assert np.abs(result.change[control]).max() < 1e-4
    assert np.abs(result.change[rounded]).mean() > 100 * np.abs(result.change[control]).mean()
    assert (result.stream_drift[rounded] > result.stream_drift[control]).all()


def test_every_number_is_what_two_plain_forwards_give(half, result):
    merged = merged_copy(half.judge)
    encoded = half.encode(ITEMS)
    a, b = encoded.first_token_ids.a, encoded.first_token_ids.b
    for row, ids in enumerate(encoded.rows[:4]):
        with torch.no_grad():
            own, other = (m(torch.tensor([ids])).logits[0, -1].double() for m in (half.judge, merged))
        item, order = divmod(row, 2)
        assert result.reference_margin[1, item, order] == pytest.approx(float(own[a] - own[b]), abs=0.15)
        assert result.margin[1, item, order] == pytest.approx(float(own[a] - own[b]), abs=1e-6), "alone, as here"
        assert result.margin[0, item, order] == pytest.approx(float(other[a] - other[b]), abs=0.15)


def test_a_form_that_changes_nothing_is_exactly_zero(monkeypatch):
    monkeypatch.setattr("analyses.merge_equivalence.forms.merged_copy", lambda judge: judge)
    found = merge_equivalence.run(tiny_pair(kind="lora"), ITEMS[:3], progress=False)
    for name in ("logit_difference", "divergence", "stream_drift"):
        assert not getattr(found, name)[0].any()
    assert not found.change[0].any()
    assert found.equivalent[0]


def test_verdicts_that_flip_are_counted(result):
    flipped = result.reference_margin.copy()
    flipped[0, :3] = -result.margin[0, :3]
    changed = dataclasses.replace(result, reference_margin=flipped)
    count = int(changed.flips[0].sum())
    assert count >= 6
    assert f"{count} verdicts flip of 20" in changed.finding.headline
    assert changed.finding.found


@pytest.mark.parametrize("architecture", MATRIX)
def test_every_architecture_is_compared(architecture, tmp_path):
    targets = {"gpt2": ("c_attn",), "neox": ("query_key_value",)}.get(architecture, ("q_proj", "down_proj"))
    model, tokenizer = tiny_model(architecture), tiny_tokenizer()
    pair = adapter_pair(
        tmp_path, dtype="float32", size=0.1, base=model, tokenizer=tokenizer, targets=targets, form=SHORT_FORMAT
    )
    found = merge_equivalence.run(pair, SHORT, progress=False, tolerance=1e-3)
    assert found.equivalent[0]


def test_without_float32_the_control_is_said_to_be_missing(half):
    found = merge_equivalence.run(half, ITEMS[:2], float32=False, progress=False)
    assert found.forms == FORMS[:2]
    assert any("float32=False" in text for text in found.meta.not_measured)


def test_a_checkpoint_is_refused_with_the_reason():
    with pytest.raises(ParameterError, match="no adapter"):
        merge_equivalence.run(tiny_pair(), ITEMS, progress=False)
    with pytest.raises(ParameterError, match="tolerance"):
        merge_equivalence.run(tiny_pair(kind="lora"), ITEMS, tolerance=0.0, progress=False)


def test_the_pair_is_left_as_found(half):
    before = {name: p.detach().clone() for name, p in half.judge.named_parameters()}
    state = torch.random.get_rng_state()
    merge_equivalence.run(half, ITEMS[:2], progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    after = dict(half.judge.named_parameters())
    assert all(torch.equal(after[name], p) and after[name].dtype == p.dtype for name, p in before.items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in half.judge.modules())


def test_the_same_call_gives_the_same_bytes_and_a_saved_result_comes_back(half, result, tmp_path):
    again = merge_equivalence.run(half, ITEMS, tolerance=1e-3, progress=False, batch_size=4)
    assert again.to_frame().to_csv() == result.to_frame().to_csv()
    loaded = MergeEquivalenceResult.load(result.save(tmp_path / "r"))
    assert loaded.summary() == result.summary()
    assert loaded.to_frame().to_csv() == result.to_frame().to_csv()


def test_figures_table_and_page_are_drawn(result):
    frame = result.to_frame()
    assert set(frame["model"]) == set(FORMS)
    assert len(frame[frame["metric"] == "stream_drift"]) == 4 * 20 * 2
    assert result.plot().get_xlabel()
    for panel in result.panels():
        plt.close(panel.draw())
        assert "n = 10 items" in panel.caption
    assert "Not equivalent" in result._repr_html_()
    plt.close("all")


def test_memory_that_runs_out_halves_the_batch(half, result, monkeypatch):
    plain = Prompts.batch

    def batch(self, items):
        chosen = list(items)
        if len(chosen) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(self, chosen)

    monkeypatch.setattr(Prompts, "batch", batch)
    found = merge_equivalence.run(half, ITEMS, progress=False, batch_size=4)
    assert found.item_ids == result.item_ids
    assert "memory ran out with batches of 4; continued with 2." in found.meta.warnings
