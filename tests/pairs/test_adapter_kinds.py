"""Every kind of adapter on every architecture of the matrix: the judge is peft's own, and the base is untouched."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel, PeftType, PrefixTuningConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from tests.pairs.peft_kinds import BATCH, KINDS, configuration, fits, saved
from tests.tiny_models import MATRIX, tiny_model
from workbench.errors import CheckpointError, PairMismatch
from workbench.pairs.adapters import (
    adapter_kind,
    adapter_kinds,
    adapter_type,
    attach_adapter,
    live_adapter_type,
    live_judge,
    merged_copy,
    split_peft,
    tuned_parameters,
    tuner_layers,
    untuned_name,
    weight_change,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One adapter, attached by us and loaded by peft on a copy of the base."""

    base: PreTrainedModel
    before: dict[str, Tensor]
    folder: Path
    judge: PreTrainedModel
    peft: PeftModel


@pytest.fixture(
    scope="module", params=[(a, k) for a in MATRIX for k in KINDS if fits(k, a)], ids=lambda p: f"{p[0]}, {p[1]}"
)
def case(request, tmp_path_factory):
    architecture, kind = request.param
    base = tiny_model(architecture)
    folder = saved(base, kind, architecture, tmp_path_factory.mktemp("adapter"))
    before = {name: p.detach().clone() for name, p in base.named_parameters(remove_duplicate=False)}
    reference = PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
    return Case(base=base, before=before, folder=folder, judge=attach_adapter(base, folder), peft=reference)


def _logits(model) -> Tensor:
    with torch.no_grad():
        return model(**BATCH.forward_kwargs()).logits


def test_the_judge_is_pefts_and_the_base_is_untouched(case):
    expected = copy.deepcopy(case.base)
    torch.testing.assert_close(_logits(case.judge), _logits(case.peft), atol=5e-5, rtol=0)
    assert (_logits(case.judge) - _logits(expected)).abs().max() > 1e-4, "the adapter does something"
    assert torch.equal(_logits(case.base), _logits(expected))
    for name, parameter in case.base.named_parameters(remove_duplicate=False):
        assert torch.equal(parameter, case.before[name])
        assert parameter.requires_grad
    held = {id(p) for p in case.judge.parameters()}
    kept = {untuned_name(n): p for n, p in case.judge.named_parameters(remove_duplicate=False)}
    apart = [n for n, p in case.base.named_parameters() if id(p) not in held and torch.equal(kept[n], p)]
    assert not apart, "every tensor the adapter leaves alone is the base's own object"


def test_every_change_is_what_merging_by_peft_makes_of_the_tensor(case):
    merged = copy.deepcopy(case.peft)
    merged.merge_adapter()
    by_peft = {untuned_name(n): p.detach() for n, p in merged.get_base_model().named_parameters(remove_duplicate=False)}
    if any(PeftType.LN_TUNING == config.peft_type for config in merged.peft_config.values()):
        by_peft = {n: p.detach() for n, p in merged.merge_and_unload().named_parameters()}
    ends = [id(p) for _, p in case.base.named_parameters(remove_duplicate=False)]
    tied, seen = {end for end in ends if ends.count(end) > 1}, 0
    for name, tuned in tuned_parameters(case.judge).items():
        change = tuned.change(case.base.get_parameter(name))
        other_end = tuned.layer is None and id(case.base.get_parameter(name)) in tied  # peft merges into both
        if change is None or other_end:
            continue
        torch.testing.assert_close(change, by_peft[name] - case.before[name], atol=2e-5, rtol=1e-4)
        seen += bool(change.any())
        if tuned.layer is not None and tuned.leaf == "weight":
            whole = weight_change(tuned.layer, original=case.base.get_parameter(name))
            torch.testing.assert_close(whole, change, atol=1e-6, rtol=0)
    assert seen


def test_the_merged_copy_is_the_same_function_in_a_plain_module(case):
    merged = merged_copy(case.judge)
    assert type(merged) is type(case.base)
    assert {n for n, _ in merged.named_parameters()} >= {n for n, _ in case.base.named_parameters()}
    assert not list(tuner_layers(merged))
    torch.testing.assert_close(_logits(merged), _logits(case.judge), atol=5e-5, rtol=0)
    assert torch.equal(_logits(case.judge), _logits(case.judge))
    mine = {id(p) for p in case.base.parameters()}
    changed = {n for n, t in tuned_parameters(case.judge).items() if t.change(case.base.get_parameter(n)) is not None}
    apart = {n for n, p in merged.named_parameters(remove_duplicate=False) if id(p) not in mine}
    assert apart <= changed, "what no adapter acts on is shared"


def test_a_live_model_splits_into_its_base_and_itself(case):
    assert live_adapter_type(case.peft) == adapter_type(case.folder)
    written = case.peft.peft_config["default"]
    if isinstance(getattr(written, "init_lora_weights", None), str) and written.init_lora_weights in ("pissa", "olora"):
        with pytest.raises(PairMismatch, match="wrote into the weights"):
            split_peft(case.peft)
    elif getattr(written, "bias", "none") == "all" and any("bias" in name for name in case.before):
        with pytest.raises(PairMismatch, match="wrote into the biases"):
            split_peft(case.peft)
    else:
        base, _ = split_peft(case.peft)
        assert torch.equal(_logits(base), _logits(case.base))
        assert not list(tuner_layers(base))
    assert torch.equal(_logits(live_judge(case.peft)), _logits(case.peft))


def test_the_table_knows_every_type_of_the_installed_peft_and_the_matrix_proves_what_it_supports():
    rows = {row.peft_type: row for row in adapter_kinds()}
    assert set(rows) == {kind.value for kind in PeftType}
    assert all(row.what and (row.supported or row.cure) for row in rows.values())
    proven = {configuration(kind, "llama").peft_type.value for kind in KINDS}
    assert proven == {name for name, row in rows.items() if row.supported}


@pytest.mark.parametrize("peft_type", [row.peft_type for row in adapter_kinds() if not row.supported] + ["NEWER"])
def test_what_cant_be_a_judge_is_refused_by_name_with_its_reason(peft_type, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": peft_type}))
    save_file({"nothing": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    row = adapter_kind(peft_type)
    with pytest.raises(CheckpointError, match="this kind of adapter can't be a judge") as caught:
        attach_adapter(tiny_model("llama"), tmp_path)
    assert row.what in str(caught.value)
    assert caught.value.got == peft_type
    assert caught.value.fix == row.cure


@pytest.mark.parametrize("option", ["alora_invocation_tokens", "arrow_config", "layer_replication", "use_bdlora"])
def test_variants_of_lora_that_arent_weights_are_refused_by_name(option, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", option: [1]}))
    save_file({"nothing": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="this kind of adapter can't be a judge") as caught:
        attach_adapter(tiny_model("llama"), tmp_path)
    assert caught.value.got == f"LORA with {option}"
    assert caught.value.fix


def test_a_live_prompt_is_refused_by_name():
    live = get_peft_model(tiny_model("llama"), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(CheckpointError, match="positions that exist in the judge only"):
        split_peft(live)
