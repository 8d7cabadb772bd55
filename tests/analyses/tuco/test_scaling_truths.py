"""Known truths of scaling: flat where nothing was tuned, the two models at the ends, flips known in closed form."""

import copy

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from analyses import tuco
from analyses.tuco.scaling import by_layer, by_span, scale
from analyses.tuco.scaling.regions import EVERYWHERE, WEIGHTS
from analyses.tuco.scaling.weights import interpolated_judge
from workbench import load_items, load_pair
from workbench.hooks import Component, Site
from workbench.judges import JudgeItem
from workbench.pairs import Scaling, identical_pair, random_delta_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tiny_pair, tuned_copy

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(10)
]
QUIET = {"progress": False, "controls": 0}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request):
    return tiny_pair(architecture=request.param)


def last_logits(pair, side, rows):
    batch = pair.encode(ITEMS).batch(rows)
    with torch.no_grad():
        return pair.module(side)(**batch.forward_kwargs()).logits[:, -1]


@pytest.mark.parametrize("ends", ["judge", "base"])
def test_identical_models_give_curves_that_are_flat_to_the_bit(pair, ends):
    same = identical_pair(pair)
    scalings = {EVERYWHERE: Scaling(), "attention": Scaling(component=Component.ATTN_OUT, elsewhere=0.0)}
    result = scale(same, ITEMS, scalings=scalings, weights=True, ends=ends, progress=False)
    assert (result.gap == result.judge_gap).all()
    assert np.isnan(result.flips()).all()
    assert np.isinf(result.robustness()).all()
    assert not result.finding.found
    assert result.finding.headline.startswith("Nothing found: every curve is flat")
    assert any("same model" in what for what in result.meta.not_measured)


def test_the_same_model_saved_twice_is_flat_within_rounding():
    base = tiny_model()
    options = {"tokenizer": byte_tokenizer(), "format": "pairwise", "doctor": False, "device": "cpu"}
    twin = load_pair(base, copy.deepcopy(base), allow_identical=True, **options)
    result = scale(twin, ITEMS, progress=False)
    np.testing.assert_allclose(result.gap[0], np.broadcast_to(result.judge_gap, result.gap[0].shape), atol=1e-5)
    assert not result.finding.found
    assert "flat" in result.finding.headline


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_ends_of_the_curve_are_the_two_models(kind):
    """Alpha 1 is the judge and alpha 0 with the base's ends the base: to the bit, and as TuCo sees them."""
    pair = tiny_pair(kind=kind)
    by_ends = {ends: scale(pair, ITEMS, ends=ends, **QUIET) for ends in ("judge", "base")}
    judge, base = by_ends["judge"], by_ends["base"]
    np.testing.assert_array_equal(judge.gap[0, judge.at_one], judge.judge_gap)
    np.testing.assert_array_equal(base.gap[0, 0], base.base_gap)
    assert (judge.gap[0, 0] != judge.base_gap).any() == (kind == "full"), "the judge's embedding and head stay"
    seen = tuco.run(pair, ITEMS, confirm=False, **QUIET)
    np.testing.assert_allclose(judge.judge_gap, seen.judge_gap, atol=1e-5)
    np.testing.assert_allclose(judge.base_gap, seen.base_gap, atol=1e-5)


def test_gap_and_mass_are_read_off_the_models_own_logits(pair):
    result = scale(pair, ITEMS, **QUIET)
    encoded = pair.encode(ITEMS)
    logits = last_logits(pair, "judge", [6, 7]).double()
    a, b = encoded.first_token_ids
    np.testing.assert_allclose(result.judge_gap[3], logits[:, a] - logits[:, b], atol=1e-5)
    np.testing.assert_allclose(result.judge_mass[3], torch.softmax(logits, -1)[:, [a, b]].sum(-1), atol=1e-6)


def test_flip_alphas_are_those_of_a_pair_whose_stream_is_linear_in_alpha():
    """Where only the last down projection was tuned the final stream is u + alpha v: the gap's sign turns at a root."""
    pair = tiny_pair(change=scaled_noise(3.0, only="layers.1.mlp.down_proj"), seed=2)
    grid = np.linspace(0, 1, 21).tolist()
    result = scale(pair, ITEMS, alphas=grid, orders=("original",), **QUIET)
    norms = {side: _final_norm(pair, side) for side in ("base", "judge")}
    start, end = result.base_gap[:, 0] * norms["base"], result.judge_gap[:, 0] * norms["judge"]
    root = start / (start - end)
    turns = np.sign(start) != np.sign(end)
    found = result.flips()[0]
    assert turns.sum() >= 5
    np.testing.assert_array_equal(~np.isnan(found), turns)
    np.testing.assert_allclose(found[turns], root[turns], atol=2e-3)
    np.testing.assert_allclose(result.robustness()[0][turns], 1 - root[turns], atol=2e-3)


def _final_norm(pair, side):
    """Return the length of the final stream, which is what the norm divides by, up to a constant."""
    site = Site(Component.RESID_POST, pair.n_layers - 1)
    batch = pair.encode(ITEMS, orders=("original",)).batch()
    stream = pair.executor(side).run(batch, capture=[site], logits="none").activations[site][:, -1]
    return stream.double().norm(dim=-1).numpy()


def test_weights_and_contributions_agree_where_the_change_is_linear_and_at_the_ends(pair):
    linear = tiny_pair(change=scaled_noise(0.5, only="layers.1.mlp.down_proj"))
    result = scale(linear, ITEMS, weights=True, **QUIET)
    assert result.curves == (EVERYWHERE, WEIGHTS)
    np.testing.assert_allclose(result.gap[0], result.gap[1], atol=1e-4)
    other = scale(pair, ITEMS, weights=True, **QUIET)
    ends = [0, other.at_one]
    np.testing.assert_array_equal(other.gap[0, ends], other.gap[1, ends])
    assert np.abs(other.gap[0] - other.gap[1]).max() > 1e-3, "between the ends they are different functions"


@pytest.mark.parametrize("ends", ["judge", "base"])
def test_an_adapter_is_interpolated_by_its_scale_and_left_as_found(ends):
    pair = tiny_pair(kind="lora")
    before = last_logits(pair, "judge", [0, 1])
    result = scale(pair, ITEMS, weights=True, ends=ends, **QUIET)
    np.testing.assert_array_equal(result.gap[1, 0], result.base_gap)
    np.testing.assert_array_equal(result.gap[1, result.at_one], result.judge_gap)
    assert torch.equal(last_logits(pair, "judge", [0, 1]), before)
    half = interpolated_judge(pair, alpha=0.5)
    scales, own = (
        [m.scaling["default"] for m in module.modules() if isinstance(m, LoraLayer)] for module in (half, pair.judge)
    )
    np.testing.assert_allclose(scales, 0.5 * np.array(own))


def test_only_the_tuned_block_matters_and_parts_meet_at_the_judge():
    tuned = tiny_pair(change=scaled_noise(0.5, only="layers.1."))
    result = scale(tuned, ITEMS, scalings=by_layer(tuned), **QUIET)
    assert result.curves == (EVERYWHERE, "block 0", "block 1")
    untouched, block = result.gap[1], result.gap[2]
    np.testing.assert_allclose(untouched, np.broadcast_to(result.judge_gap, untouched.shape), atol=1e-5)
    assert (untouched[[0, result.at_one]] == result.judge_gap).all(), "the base's block is the judge's, to the bit"
    np.testing.assert_allclose(block, result.gap[0], atol=1e-5)
    assert np.isnan(result.flips()[1]).all()


def test_spans_cover_the_prompt(pair):
    """Tuning on inside every span at once is tuning on everywhere; off in all of them is off."""
    spans = by_span(pair, ITEMS)
    names = tuple(name for name in spans if name != EVERYWHERE)
    assert {"question", "answer_a", "answer_b"} <= set(names)
    scalings = {EVERYWHERE: Scaling(), "all spans": Scaling(spans=names)} | spans
    result = scale(pair, ITEMS[:4], scalings=scalings, alphas=(0.0, 0.5, 1.0), **QUIET)
    np.testing.assert_allclose(result.gap[1], result.gap[0], atol=1e-6)
    assert (result.gap[:, result.at_one] == result.judge_gap).all()
    only = scale(pair, ITEMS[:4], scalings=by_span(pair, ITEMS, elsewhere=0.0), alphas=(0.0, 1.0), **QUIET)
    assert (only.gap[:, 0] == only.gap[0, 0]).all()


def test_half_precision_keeps_the_ends_and_says_what_rounding_does():
    models = [tiny_model(), tuned_copy(tiny_model(), change=scaled_noise(0.05))]
    wide, half = (
        load_pair(
            *(copy.deepcopy(m).to(dtype) for m in models),
            tokenizer=byte_tokenizer(),
            format="pairwise",
            dtype=dtype,
            doctor=False,
            device="cpu",
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    weights = {name: p.clone() for name, p in half.judge.named_parameters()}
    fine, rough = (scale(pair, ITEMS, weights=True, **QUIET) for pair in (wide, half))
    np.testing.assert_array_equal(rough.gap[:, rough.at_one], np.stack([rough.judge_gap] * 2))
    assert rough.meta.noise_floor > 100 * fine.meta.noise_floor > 0
    assert np.abs(rough.judge_gap - fine.judge_gap).max() < 10 * rough.meta.noise_floor
    assert all(torch.equal(weights[name], p) for name, p in half.judge.named_parameters())
    assert any("Rounding moves a gap" in limit for limit in rough.finding.limits)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_sham_judges_that_moved_at_random_are_not_findings(kind):
    pair = tiny_pair(kind=kind)
    items = [
        JudgeItem(item_id=str(i), question=f"Which is {i}?", answers=(f"{i * 7}", f"{i * 5}"), label=(i * 3) % 2)
        for i in range(16)
    ]
    found, flips = [], []
    for seed in range(100, 104):
        result = scale(random_delta_pair(pair, seed=seed), items, alphas=(0.0, 1.0), batch_size=16, progress=False)
        found.append(result.finding.found)
        flips.append(result.finding.headline)
    assert sum(found) <= 1, flips


@pytest.fixture(scope="module")
def demo():
    pair = load_pair("demo", device="cpu")
    items = load_items("demo:test", limit=40)
    return scale(pair, items, alphas=(0.0, 0.5, 1.0, 1.5), control_items=16, weights=True, progress=False)


def test_the_demo_judge_needs_its_fine_tuning(demo):
    from analyses.tuco.scaling.measures import AGREEMENT, LABEL_MASS, MARGIN

    said = demo.finding
    assert said.found, said.text()
    assert "margin toward the labelled answer" in said.headline
    agreement = demo.curve(AGREEMENT)
    assert agreement[demo.at_one].value > 0.95 > 0.8 > agreement[0].value
    assert abs(agreement[0].value - demo.at_base(AGREEMENT).value) < 0.15
    margin = next(e for e in said.estimates if e.name.startswith("margin toward the labelled answer, lost"))
    assert margin.low > 5.0 > margin.control.high
    assert demo.curve(MARGIN)[demo.at_one].value > 7.0
    assert demo.curve(LABEL_MASS)[demo.at_one].low > 0.99
    flips = next(e for e in said.estimates if e.name.startswith("verdicts (mean of both orders) that flip"))
    assert flips.value > flips.control.value, "a random change flips many verdicts of a base that hardly decides"


def test_the_demo_is_confirmed_along_its_weights_and_finds_no_better_alpha(demo):
    between = next(e for e in demo.finding.estimates if "weights interpolated" in e.name)
    assert between.control.value > between.value > 0.5, "half the weights give less than half the contributions"
    np.testing.assert_array_equal(demo.gap[0, 0], demo.gap[1, 0])
    assert not any("agrees more often than 1" in limit for limit in demo.finding.limits)


def test_a_random_change_of_the_demo_is_no_finding(demo):
    pair = random_delta_pair(load_pair("demo", device="cpu"), seed=77)
    items = load_items("demo:test", limit=24)
    sham = scale(pair, items, alphas=(0.0, 1.0), control_items=16, progress=False)
    assert not sham.finding.found, sham.finding.text()
    assert sham.finding.headline.startswith("Nothing found")
