"""The shortcut, precision and readouts of TuCo: cheaper, finer and other numbers that have to agree with plain ones."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from analyses import tuco
from analyses.readout import ExpectedScore, LabelGap, ScalarHead, frozen_readout, read
from analyses.tuco.clamp import measure, shortcut_error
from analyses.tuco.cuts import units
from analyses.tuco.evaluation import PLAIN, Evaluation, shortcut_applies
from tests.tiny_models import ARCHITECTURES, random_batch, saved_and_loaded, tiny_tokenizer
from workbench.errors import ParameterError
from workbench.hooks import Anatomy, HooksBackend
from workbench.judges import JudgeItem
from workbench.pairs import load_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tiny_pair, tuned_copy

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(10)
]
QUIET = {"progress": False, "controls": 0, "confirm": False}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def executors(request, tmp_path_factory):
    """Judge and base of every architecture."""
    base = saved_and_loaded(request.param, tmp_path_factory.mktemp("base"))
    judge = tuned_copy(base, change=scaled_noise(0.1))
    anatomy = Anatomy.of(base, tiny_tokenizer())
    return HooksBackend(judge, anatomy), HooksBackend(base, anatomy)


@pytest.mark.parametrize("granularity", ["block", "sublayer"])
def test_the_shortcut_is_the_full_clamp(executors, granularity):
    """Truth 13, in every architecture: to 1e-6 of the largest write, in float32."""
    judge, base = executors
    if granularity == "sublayer" and not judge.anatomy.additive:
        pytest.skip("sub-layers don't add up here")
    parts = units(granularity, n_layers=judge.anatomy.n_layers, parallel=judge.anatomy.parallel)
    assert shortcut_applies(parts, n_layers=judge.anatomy.n_layers)
    error = shortcut_error(judge, base, random_batch(), parts=parts, how=Evaluation(last_only=True))
    assert error <= 1e-6


def test_equal_models_give_exactly_nothing_by_the_shortcut(executors):
    judge, _ = executors
    parts = units("block", n_layers=judge.anatomy.n_layers, parallel=judge.anatomy.parallel)
    found = measure(judge, judge, random_batch(), parts=parts, how=Evaluation(last_only=True))
    assert not found.finetuned.any()


@pytest.mark.parametrize("changed", ["mask", "rotary"])
def test_the_base_keeps_its_own_mask_and_rotary_table(changed, tmp_path):
    """Truth 15, for the mask too and under the shortcut: same weights, so that all of F is the configuration's."""
    judge = saved_and_loaded("mistral", tmp_path)
    config = copy.deepcopy(judge.config)
    if changed == "mask":
        config.sliding_window = 3
    else:
        config.rope_parameters["rope_theta"] = 50.0
    base = type(judge)(config).eval()
    base.load_state_dict(judge.state_dict())
    anatomy = Anatomy.of(judge, tiny_tokenizer())
    executors = [HooksBackend(m, anatomy) for m in (judge, base)]
    parts = units("block", n_layers=anatomy.n_layers, parallel=False)
    fast = measure(*executors, random_batch(), parts=parts, how=Evaluation(last_only=True))
    full = measure(*executors, random_batch(), parts=parts)
    assert fast.finetuned.abs().max() > 1e-2
    torch.testing.assert_close(fast.finetuned, full.finetuned, atol=1e-5, rtol=1e-4)
    itself = measure(executors[1], executors[1], random_batch(), parts=parts, how=Evaluation(last_only=True))
    assert not itself.finetuned.any()


def test_the_shortcut_is_refused_where_it_would_be_wrong():
    pair = tiny_pair()
    batch = pair.encode(ITEMS).batch([0, 1])
    for parts, column in (
        (units("model", n_layers=2, parallel=False), -1),
        (units("block", n_layers=2, parallel=False), 3),
    ):
        with pytest.raises(ParameterError, match="shortcut"):
            measure(
                pair.executor("judge"), pair.executor("base"), batch, parts=parts, column=column,
                how=Evaluation(last_only=True),
            )  # fmt: skip


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_run_by_the_shortcut_says_so_and_gives_the_same_numbers(kind):
    pair = tiny_pair(kind=kind)
    fast, full = (tuco.run(pair, ITEMS, shortcut=shortcut, **QUIET) for shortcut in (True, False))
    assert fast.shortcut_error <= 1e-6
    assert np.isnan(full.shortcut_error)
    assert "last token only" in fast.summary()
    for name in ("tuco", "finetuned_push", "judge_gap", "base_gap", "output_share", "removal_effect"):
        np.testing.assert_allclose(getattr(fast, name), getattr(full, name), atol=1e-5, err_msg=name)


def test_an_adapter_pair_runs_without_the_numerics_step_too():
    """The shortcut's plan is then first made inside the doubled batch."""
    result = tuco.run(tiny_pair(kind="lora", seed=5), ITEMS, numerics=False, **QUIET)
    assert result.shortcut_error <= 1e-6


def test_a_shortcut_that_differs_is_given_up_and_said(monkeypatch):
    pair = tiny_pair()
    monkeypatch.setattr("analyses.tuco.checks.shortcut_error", lambda *_a, **_k: 0.5)
    with pytest.warns(RuntimeWarning, match="shortcut"):
        result = tuco.run(pair, ITEMS, **QUIET)
    assert any("shortcut" in what for what in result.meta.not_measured)
    full = tuco.run(pair, ITEMS, shortcut=False, **QUIET)
    np.testing.assert_array_equal(result.tuco, full.tuco)


@pytest.fixture(scope="module")
def half():
    """A lightly tuned pair in bfloat16 and the same weights in float64."""
    base = tiny_model(n_layers=4, width=64)
    judge = tuned_copy(base, change=scaled_noise(0.003))
    rounded = [copy.deepcopy(m).bfloat16() for m in (base, judge)]
    exact = [copy.deepcopy(m).double() for m in rounded]
    return [
        load_pair(*m, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu")
        for m in (rounded, exact)
    ]


def test_float32_blocks_take_out_the_rounding_of_a_half_precision_pair(half):
    rounded, exact = half
    truth = tuco.run(exact, ITEMS, shortcut=False, **QUIET).tuco
    fine = tuco.run(rounded, ITEMS, **QUIET)
    coarse = tuco.run(rounded, ITEMS, precision="model", **QUIET)
    off = [abs(r.tuco.mean() / truth.mean() - 1) for r in (fine, coarse)]
    assert off[0] < 0.02, "the stream itself is still rounded"
    assert off[1] > 3 * off[0]
    assert fine.meta.noise_floor < coarse.meta.noise_floor / 100
    assert coarse.under_floor.any()
    assert not fine.under_floor.any()
    assert "rounding" in coarse.summary()
    assert fine.to_frame().query("metric == 'tuco_under_floor'")["value"].eq(0).all()


def test_three_norms_stand_beside_each_other():
    pair = tiny_pair()
    runs = {norm: tuco.run(pair, ITEMS, norm=norm, **QUIET) for norm in ("l1", "l2", "final_norm")}
    for k, (norm, result) in enumerate(runs.items()):
        assert result.norms[k] == norm
        np.testing.assert_allclose(result.tuco_by_norm[..., k], result.tuco)
        np.testing.assert_allclose(result.tuco_by_norm, runs["l1"].tuco_by_norm)
        np.testing.assert_allclose(result.finetuned_parts.sum(-1), result.finetuned_norm, rtol=1e-9)
    # A gain of zero hides a dimension from the logits, and from this norm only.
    with torch.no_grad():
        for model in (pair.base, pair.judge):
            model.model.norm.weight.zero_()
            model.model.norm.weight[3] = 1.0
    pair = load_pair(pair.base, pair.judge, tokenizer=pair.tokenizer, format="pairwise", doctor=False, device="cpu")
    hidden = tuco.run(pair, ITEMS, norm="final_norm", **QUIET)
    parts = units("block", n_layers=2, parallel=False)
    found = measure(pair.executor("judge"), pair.executor("base"), pair.encode(ITEMS).batch(), parts=parts)
    seen = found.finetuned.sum(1)[:, 3].abs(), found.pretrained.sum(1)[:, 3].abs()
    np.testing.assert_allclose(hidden.tuco.ravel(), (seen[0] / (seen[0] + seen[1])).numpy(), atol=1e-4)


def test_a_scalar_head_splits_exactly():
    pair = tiny_pair()
    torch.manual_seed(0)
    head = nn.Linear(pair.anatomy("judge").d_model, 2)
    result = tuco.run(pair, ITEMS, readout=ScalarHead(head, index=1), **QUIET)
    batch = pair.encode(ITEMS).batch()
    with torch.no_grad():
        score = head(pair.judge.model(**batch.forward_kwargs()).last_hidden_state[:, -1])[:, 1]
    np.testing.assert_allclose(result.judge_gap.ravel(), score.numpy(), atol=1e-5)
    whole = result.embedding_push + result.embedding_change_push + result.bias_push
    whole = whole + result.pretrained_push.sum(-1) + result.finetuned_push.sum(-1)
    np.testing.assert_allclose(whole, result.judge_gap, atol=1e-5)
    assert result.unit == "reward"
    assert result.exact


def test_an_expected_score_is_split_to_first_order_and_says_so():
    pair = tiny_pair()
    rating = ExpectedScore(ids=tuple(range(50, 60)), values=tuple(float(k) for k in range(1, 11)))
    result = tuco.run(pair, ITEMS, readout=rating, **QUIET)
    batch = pair.encode(ITEMS).batch()
    with torch.no_grad():
        logits = pair.judge(**batch.forward_kwargs()).logits[:, -1, 50:60].double()
    expected = (logits.softmax(-1) * torch.arange(1, 11)).sum(-1)
    np.testing.assert_allclose(result.judge_gap.ravel(), expected.numpy(), atol=1e-5)
    assert not result.exact
    assert "first-order" in result.summary()
    # To first order: a small step along the direction moves the score by its inner product.
    norm, head = pair.judge.model.norm, pair.judge.lm_head
    torch.manual_seed(0)
    final = torch.randn(3, 32)
    frozen = frozen_readout(norm, head, final, readout=rating)
    np.testing.assert_allclose(
        ((final.double() * frozen.direction).sum(-1) + frozen.bias).detach(), frozen.gap.detach(), atol=1e-6
    )


@pytest.mark.parametrize(("ids", "values"), [((5,), (1.0,)), ((5, 5), (1.0, 2.0)), ((5, 6), (1.0,))])
def test_scores_that_cant_be_told_apart_are_refused(ids, values):
    with pytest.raises(ParameterError, match="readout"):
        ExpectedScore(ids=ids, values=values)


def test_a_changed_final_norm_is_told_apart_from_changed_blocks():
    """The final-norm trap: with norm and head tuned alone every F is 0, and the whole change of the gap is theirs."""
    base = tiny_model()
    pair = load_pair(
        base, tuned_copy(base, change=scaled_noise(0.3, only="lm_head")),
        tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu",
    )  # fmt: skip
    result = tuco.run(pair, ITEMS, **QUIET)
    assert not result.finetuned_push.any()
    np.testing.assert_allclose(result.head_change_effect, result.judge_gap - result.base_gap, atol=1e-5)
    assert np.abs(result.head_change_effect).mean() > 1e-2
    lora = tuco.run(tiny_pair(kind="lora"), ITEMS, **QUIET)
    assert not lora.head_change_effect.any()


def test_label_gap_is_the_difference_of_two_logits():
    pair = tiny_pair()
    norm, head = pair.judge.model.norm, pair.judge.lm_head
    final = torch.randn(2, 3, 32)
    with torch.no_grad():
        logits = head(norm(final)).double()
    torch.testing.assert_close(read(norm, head, final, readout=LabelGap(4, 9)), logits[..., 4] - logits[..., 9])


def test_plain_is_the_default_of_the_clamp():
    assert Evaluation() == PLAIN
    assert not PLAIN.last_only
    for choice in ({"norm": "l3"}, {"precision": "half"}, {"resident": "none"}):
        with pytest.raises(ParameterError, match=next(iter(choice))):
            tuco.run(tiny_pair(), ITEMS, **choice)
