"""One change of the weights in three forms: an adapter, its merge by peft, and a checkpoint made by hand.

They are the same judge, so that TuCo's shares and pushes, the verdict margins and the norms of the change agree
within 1e-4 of the largest value. The patched effects of single sites agree too, where a run patches any.
"""

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers.pytorch_utils import Conv1D

from analyses import merge_equivalence, tuco
from analyses.judged import JudgedResult
from tests.pairs.peft_kinds import matrices
from tests.short_format import SHORT_FORMAT
from tests.tiny_models import MATRIX, tiny_model, tiny_tokenizer
from workbench.judges import JudgeItem, verdict_from_logits
from workbench.pairs import Pair, identical_pair, load_pair

TOLERANCE = 1e-4
"""Largest difference between forms, as a share of the largest value."""
FORMS = ("lora", "merged", "full")
ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"{i} or {i + 1}?", answers=("a", "b" * (1 + i % 3)), label=i % 2)
    for i in range(8)
]
SHARES = ("finetuned_norm", "pretrained_norm", "judge_gap", "finetuned_push", "removal_effect", "confirmed_effect")


@dataclass(frozen=True, kw_only=True)
class Case:
    """The three pairs of one architecture."""

    architecture: str
    pairs: dict[str, Pair]
    results: dict[str, tuco.TucoResult]


def _by_hand(base, wrapped):
    """Return the base plus scale times up times down, tensor by tensor."""
    judge = copy.deepcopy(base)
    own = dict(judge.named_parameters())
    with torch.no_grad():
        for name, layer in wrapped.base_model.model.named_modules():
            if not hasattr(layer, "lora_A") or "default" not in layer.lora_A:
                continue
            change = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            own[f"{name}.weight"].add_(change.T if isinstance(layer.get_base_layer(), Conv1D) else change)
    return judge


@pytest.fixture(scope="module", params=MATRIX)
def case(request, tmp_path_factory):
    architecture, folder = request.param, tmp_path_factory.mktemp("forms")
    base = tiny_model(architecture)
    base.save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    conv = architecture == "gpt2"
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=matrices(architecture), fan_in_fan_out=conv, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wrapped = get_peft_model(copy.deepcopy(base), config)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if ".lora_" in name:
                    parameter.copy_(0.2 * torch.randn_like(parameter))
    wrapped.eval().save_pretrained(folder / "lora")
    _by_hand(base, wrapped).save_pretrained(folder / "full")
    PeftModel.from_pretrained(copy.deepcopy(base), str(folder / "lora")).merge_and_unload().save_pretrained(
        folder / "merged"
    )
    pairs = {
        form: load_pair(
            folder / "base", folder / form, tokenizer=tiny_tokenizer(), format=SHORT_FORMAT, doctor=False, device="cpu"
        )
        for form in FORMS
    }
    results = {form: tuco.run(pair, ITEMS, controls=0, progress=False) for form, pair in pairs.items()}
    return Case(architecture=architecture, pairs=pairs, results=results)


def close(one, other):
    largest = np.nanmax(np.abs(one))
    assert largest > 0
    np.testing.assert_allclose(np.asarray(other) / largest, np.asarray(one) / largest, atol=TOLERANCE)


def margins(pair, side):
    encoded = pair.encode(ITEMS)
    batch = encoded.batch(range(len(encoded)), device="cpu")
    logits = pair.executor(side).run(batch, logits="last").logits
    return np.array([verdict.margin for verdict in verdict_from_logits(logits, encoded)])


def test_tuco_is_the_same_in_all_forms(case):
    one = case.results["lora"]
    assert 0.02 < one.tuco.mean() < 0.9, "something to compare"
    for form in FORMS[1:]:
        other = case.results[form]
        close(one.tuco, other.tuco)
        assert other.confirmed_unit == one.confirmed_unit
        for name in SHARES:
            close(getattr(one, name), getattr(other, name))


def test_a_merge_is_said_to_be_one(case):
    assert [case.results[form].merged for form in FORMS] == [False, True, True]
    assert [case.pairs[form].kind for form in FORMS] == ["lora", "full", "full"]


def test_verdict_margins_are_the_same_in_all_forms(case):
    one = margins(case.pairs["lora"], "judge")
    assert np.abs(one - margins(case.pairs["lora"], "base")).max() > 1e-2, "the judge isn't the base"
    for form in FORMS[1:]:
        close(one, margins(case.pairs[form], "judge"))
        np.testing.assert_array_equal(margins(case.pairs[form], "base"), margins(case.pairs["lora"], "base"))


def test_the_norms_of_the_change_are_the_same_in_all_forms(case):
    one = {change.name: change.change for change in case.pairs["lora"].delta().changes}
    moved = {name for name, size in one.items() if size > 0}
    assert moved
    for form in FORMS[1:]:
        other = {change.name: change.change for change in case.pairs[form].delta().changes}
        assert {name for name, size in other.items() if size > 0} == moved
        close(np.array([one[name] for name in sorted(moved)]), np.array([other[name] for name in sorted(moved)]))


def test_the_merge_is_reported_as_the_same_judge(case):
    found = merge_equivalence.run(case.pairs["lora"], ITEMS, tolerance=1e-3, progress=False)
    assert found.equivalent[0]
    close(found.reference_margin[0].ravel(), margins(case.pairs["lora"], "judge"))
    close(found.margin[0].ravel(), margins(case.pairs["full"], "judge"))


def test_a_model_against_itself_is_null_everywhere(case):
    """Acceptance test 2: TuCo, divergence and the change of weights are exactly zero, and intervals cover zero."""
    pair = identical_pair(case.pairs["full"])
    result = tuco.run(pair, ITEMS, progress=False)
    assert not result.tuco.any()
    assert not result.finetuned_push.any()
    assert isinstance(result, JudgedResult)
    interval = result.mean(result.tuco)
    assert interval.low <= 0 <= interval.high
    assert not result.finding.found
    assert not pair.delta().moved
    encoded = pair.encode(ITEMS)
    batch = encoded.batch(range(len(encoded)), device="cpu")
    base, judge = (pair.executor(side).run(batch, logits="last").logits for side in ("base", "judge"))
    assert torch.equal(base, judge)
