"""Path attribution against truths: completeness, places that can't carry anything, brute force, plants and shams."""

import dataclasses

import numpy as np
import pytest
import torch

from analyses.readout import ExpectedScore, LabelGap
from analyses.tuco.paths import PathsResult, attribute_paths, measure
from analyses.tuco.paths.measure import Precision, attribute, measure_ends, read_under
from analyses.tuco.paths.quadrature import position, rule
from workbench.errors import ExecutorDisagreement, ParameterError
from workbench.hooks import Component
from workbench.judges import JudgeItem, load_items
from workbench.pairs import Scaling, gated_stream, identical_pair, load_pair, random_delta_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tiny_pair, tuned_copy

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"{i}+{i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(12)
]
QUIET = {"progress": False, "controls": 0, "confirm": False, "batch_size": 24}


def loaded(base, judge):
    return load_pair(base, judge, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu")


def tuned(change, **shape):
    base = tiny_model(**shape)
    return loaded(base, tuned_copy(base, change=change))


@pytest.fixture(scope="module", params=["llama", "gpt2", "lora"])
def pair(request):
    return tiny_pair(kind="lora") if request.param == "lora" else tiny_pair(architecture=request.param)


@pytest.fixture(scope="module")
def result():
    return attribute_paths(tiny_pair(), ITEMS, controls=3, control_items=4, batch_size=24, progress=False)


@pytest.mark.parametrize("n", [1, 2, 5, 8, 16])
def test_a_rule_is_exact_for_polynomials_of_its_degree_and_part_of_the_doubled_one(n):
    points = rule(n)
    for degree in range(n + 1):
        assert sum(w * position(x) ** degree for x, w in points.items()) == pytest.approx(1 / (degree + 1), abs=1e-12)
    assert set(points) <= set(rule(2 * n))
    assert (position(min(points)), position(max(points))) == (0.0, 1.0)
    exponential = sum(w * np.exp(position(x)) for x, w in rule(16).items())
    assert exponential == pytest.approx(np.e - 1, abs=1e-13)


@pytest.mark.parametrize("granularity", ["block", "sublayer"])
def test_everything_adds_up_to_judge_minus_base(pair, granularity):
    found = attribute_paths(pair, ITEMS[:4], granularity=granularity, **QUIET)
    assert np.abs(found.completeness_error).max() <= 1e-5
    whole = found.attribution.sum((2, 3)) + found.embedding_part + found.head_part
    np.testing.assert_allclose(whole, found.change, atol=1e-5)
    assert len(found.units) == (2 if granularity == "block" else 4)
    batch, ids = pair.encode(ITEMS[:4]).batch(), pair.encode(ITEMS[:4]).first_token_ids
    for module, gap in ((pair.judge, found.judge_gap), (pair.base, found.base_gap)):
        with torch.no_grad():
            logits = module(**batch.forward_kwargs()).logits[:, -1].double().numpy()
        np.testing.assert_allclose(gap.ravel(), logits[:, ids.a] - logits[:, ids.b], atol=1e-5)


def test_tokens_add_up_to_regions(result):
    for e in range(len(result.example_items)):
        for k in range(len(result.orders)):
            names = np.array(result.example_regions[e][k])
            values = result.example_attribution[e, k, :, : len(names)]
            assert np.isnan(result.example_attribution[e, k, :, len(names) :]).all()
            for r, region in enumerate(result.regions):
                np.testing.assert_allclose(
                    values[:, names == region].sum(-1), result.attribution[e, k, :, r], atol=1e-9
                )


def test_identical_models_carry_exactly_nothing(pair):
    found = attribute_paths(identical_pair(pair), ITEMS, batch_size=24, progress=False)
    assert not found.attribution.any()
    assert not found.change.any()
    assert not found.finding.found
    assert found.finding.headline.startswith("Nothing found: fine-tuning of the blocks changed exactly nothing")


@pytest.mark.parametrize("layer", [0, 2])
def test_only_the_tuned_block_carries_anything(layer):
    found = attribute_paths(tuned(scaled_noise(0.3, only=f"layers.{layer}."), n_layers=3), ITEMS[:3], **QUIET)
    others = [k for k in range(3) if k != layer]
    assert not found.attribution[:, :, others].any()
    assert not found.embedding_part.any()
    assert not found.head_part.any()
    np.testing.assert_allclose(found.attribution.sum((2, 3)), found.change, atol=2e-5)
    away = found.example_attribution[:, :, layer]
    last = np.array([[len(tokens) - 1 for tokens in both] for both in found.example_tokens])
    at_last = np.take_along_axis(away, last[..., None], axis=-1)[..., 0]
    assert np.abs(at_last).min() > 0
    if layer == 2:
        np.testing.assert_array_equal(np.nansum(away, axis=-1), at_last)
    else:
        assert np.abs(np.nansum(away, axis=-1) - at_last).max() > 1e-4, "earlier tokens reach the verdict by attention"


@pytest.mark.parametrize("sublayer", ["self_attn", "mlp"])
def test_only_the_tuned_sublayer_carries_anything(sublayer):
    found = attribute_paths(tuned(scaled_noise(0.3, only=sublayer)), ITEMS[:3], granularity="sublayer", **QUIET)
    untouched = [k for k, name in enumerate(found.unit_components) if (name == "attn_out") == (sublayer == "mlp")]
    assert not found.attribution[:, :, untouched].any()
    assert found.attribution.any()


@pytest.mark.parametrize(("tensor", "carrier"), [("embed_tokens", "embedding_part"), ("lm_head", "head_part")])
def test_what_lies_outside_the_blocks_has_rows_of_its_own(tensor, carrier):
    found = attribute_paths(tuned(scaled_noise(0.3, only=tensor)), ITEMS[:3], **QUIET)
    assert not found.attribution.any()
    other = "head_part" if carrier == "embedding_part" else "embedding_part"
    np.testing.assert_allclose(getattr(found, other), 0.0, atol=1e-6)
    np.testing.assert_allclose(getattr(found, carrier), found.change, atol=1e-6)
    assert np.abs(found.change).min() > 1e-3


def test_a_linear_path_has_the_attribution_worked_out_by_hand():
    """A constant added to the last block's write, read without a norm: the attribution is <F, w>, and linear."""
    base = tiny_model(architecture="gpt2")
    change = torch.randn(32, generator=torch.Generator().manual_seed(5))
    judge = tuned_copy(
        base, change=lambda name, p, _: change.clone() if name.endswith("h.1.mlp.c_proj.bias") else torch.zeros_like(p)
    )
    pair = loaded(base, judge)
    assert pair.executor("judge") is not pair.executor("base"), "anatomies are learned before the norm goes"
    for module in (pair.judge, pair.base):
        module.transformer.ln_f = torch.nn.Identity()
    known = {key: value for key, value in pair._cache.items() if key.startswith(("anatomy", "executor"))}
    pair = dataclasses.replace(pair, _cache=known)  # a pair refuses a base that changed after it was loaded
    batch, ids = pair.encode(ITEMS[:2]).batch(), pair.encode(ITEMS).first_token_ids
    precision = Precision(nodes=1, max_nodes=1, tolerance=1e-5)
    readout = LabelGap(ids.a, ids.b)
    moved = measure_ends(pair, batch, readout=readout).change
    found = attribute(pair, batch, change=moved, readout=readout, cut="block", precision=precision)
    rows = judge.lm_head.weight.detach()
    by_hand = float(change @ (rows[ids.a] - rows[ids.b]))
    np.testing.assert_allclose(found.by_token[:, 1, -1], by_hand, atol=1e-5)
    assert not found.by_token[:, 0].any()
    assert not found.by_token[:, 1, :-1].any()


def test_one_cell_agrees_with_finite_differences_along_another_rule(pair):
    batch, ids = pair.encode(ITEMS[:1]).batch(), pair.encode(ITEMS).first_token_ids
    readout, cell = LabelGap(ids.a, ids.b), (0, 1, -1)
    change = measure_ends(pair, batch, readout=readout).change
    precision = Precision(nodes=8, max_nodes=16, tolerance=1e-5)
    found = attribute(pair, batch, change=change, readout=readout, cut="block", precision=precision).by_token
    module, anatomy = pair.judge, pair.anatomy("judge")
    norm, head = (module.get_submodule(path) for path in (anatomy.final_norm, anatomy.unembed))
    total, step = 0.0, 0.03
    for x, weight in zip(*np.polynomial.legendre.leggauss(6), strict=True):
        values = []
        for sign in (1, -1):
            gates = torch.full((pair.n_layers, *batch.ids.shape), (x + 1) / 2, dtype=torch.float64)
            gates[cell] += sign * step
            with torch.no_grad():
                logits = head(norm(gated_stream(pair, batch, gates)[:, -1])).double()
            values.append(float(logits[cell[1], ids.a] - logits[cell[1], ids.b]))
        total += weight / 2 * (values[0] - values[1]) / (2 * step)
    assert total == pytest.approx(float(found[cell[1], cell[0], cell[2]]), abs=5e-5, rel=0.01)


def test_prompts_are_refined_apart_and_points_are_kept(monkeypatch):
    """Rows that are done leave the batch; the others come out as they do alone, at no more points than one rule has."""
    pair = tuned(scaled_noise(0.2))
    encoded = pair.encode(ITEMS)
    batch, readout = encoded.batch([0, 5, 10, 19]), LabelGap(*encoded.first_token_ids)
    looked: list[int] = []
    plain = measure.gated_stream

    def counting(own, rows, gates, **options):
        looked.append(len(rows))
        return plain(own, rows, gates, **options)

    change = measure_ends(pair, batch, readout=readout).change
    rough = Precision(nodes=4, max_nodes=4, tolerance=1.0)
    coarse = attribute(pair, batch, change=change, readout=readout, cut="block", precision=rough)
    precision = Precision(nodes=2, max_nodes=64, tolerance=float(np.median(np.abs(coarse.completeness_error))))
    monkeypatch.setattr(measure, "gated_stream", counting)
    together = attribute(pair, batch, change=change, readout=readout, cut="block", precision=precision)
    assert len(set(together.nodes.tolist())) > 1, "the test needs prompts of different difficulty"
    assert len(looked) == together.nodes.max() + 1
    assert sum(looked) == (together.nodes + 1).sum()
    for row in range(len(batch)):
        single = batch.row(row)
        alone = attribute(pair, single, change=change[row : row + 1], readout=readout, cut="block", precision=precision)
        assert alone.nodes[0] == together.nodes[row]
        width = single.ids.shape[1]
        np.testing.assert_allclose(alone.by_token[0], together.by_token[row, :, -width:], atol=2e-5)
        assert not together.by_token[row, :, :-width].any()


def test_an_integral_that_stays_incomplete_is_said():
    found = attribute_paths(tuned(scaled_noise(0.6)), ITEMS[:3], nodes=1, max_nodes=1, **QUIET)
    outside = found.embedding_part + found.head_part
    missing = found.completeness_error * np.maximum(1.0, np.abs(found.change - outside))
    np.testing.assert_allclose(found.attribution.sum((2, 3)) + outside - missing, found.change, atol=1e-5)
    assert np.abs(found.completeness_error).max() > 1e-4
    assert any("stay above the tolerance" in limit for limit in found.finding.limits)


def test_half_precision_ends_where_rounding_does_and_says_so():
    base = tiny_model().bfloat16()
    judge = tuned_copy(base, change=scaled_noise(0.1))
    options = {"tokenizer": byte_tokenizer(), "format": "pairwise", "doctor": False, "device": "cpu"}
    pair = load_pair(base, judge, dtype=torch.bfloat16, **options)
    found = attribute_paths(pair, ITEMS[:2], **QUIET)
    assert found.nodes.max() <= 32
    assert np.abs(found.completeness_error).max() < 0.1
    assert any("load the pair in float32" in limit for limit in found.finding.limits)


def toward_first_slot(name, parameter, _generator):
    """Write the direction that separates the two labels, in the second block of GPT-2."""
    if not name.endswith("h.1.mlp.c_proj.bias"):
        return torch.zeros_like(parameter)
    rows = tiny_model(architecture="gpt2").lm_head.weight.detach()
    ids = loaded_ids()
    direction = rows[ids.a] - rows[ids.b]
    return 8 * direction / direction.norm()


def loaded_ids():
    return tiny_pair(architecture="gpt2").encode(ITEMS[:1]).first_token_ids


def test_a_planted_push_is_found_where_it_was_planted_and_confirmed_on_other_items():
    found = attribute_paths(
        tuned(toward_first_slot, architecture="gpt2"), ITEMS, control_items=6, batch_size=24, progress=False
    )
    assert found.finding.found, found.summary()
    assert "toward the first slot most of all by block 1" in found.finding.headline
    assert found.named_place is not None
    assert found.named_place[0] == "block 1"
    named = ~np.isnan(found.confirmed_effect).any(1)
    assert named.any() and not named.all()
    assert not np.isnan(found.attribution).any()
    np.testing.assert_allclose(found.removed_unit[named][..., 1], found.change[named], atol=1e-4)
    assert found.confirmed_effect[named].mean() > 0.5 * found.change[named].mean()
    clusters = np.array(found.clusters)
    assert not set(clusters[named]) & set(clusters[~named])


def test_judges_that_moved_at_random_are_not_findings():
    pair = tiny_pair()
    options = QUIET | {"controls": 5, "control_items": 3, "nodes": 2, "tolerance": 1e-2, "examples": 0}
    found = [
        attribute_paths(random_delta_pair(pair, seed=seed), ITEMS[:8], **options).finding.found
        for seed in range(100, 104)
    ]
    assert sum(found) <= 1


def test_in_the_content_view_answers_are_told_by_role(result):
    names, values = result.in_view(result.attribution, "content")
    assert set(names) >= {"labelled answer", "other answer"}
    a, b = (result.regions.index(name) for name in ("answer_a", "answer_b"))
    for item, label in enumerate(result.labels):
        for k, order in enumerate(result.orders):
            shown_first = (label == 0) == (order == "original")
            expected = result.attribution[item, k, :, a if shown_first else b]
            np.testing.assert_array_equal(values[item, k, :, names.index("labelled answer")], expected)
    assert result.in_view(result.attribution, "position")[0] == result.regions


def test_another_readout_has_one_view_and_is_as_complete():
    pair = tiny_pair()
    readout = ExpectedScore(ids=(40, 41, 42), values=(1.0, 2.0, 3.0))
    found = attribute_paths(pair, ITEMS[:4], readout=readout, **QUIET)
    assert (found.views, found.unit, found.choices) == (("value",), "points", ())
    assert np.abs(found.completeness_error).max() <= 1e-5
    assert "points" in found.summary()


def test_removal_really_runs_without_fine_tuning_there(result):
    pair, tested = tiny_pair(), np.flatnonzero(~np.isnan(result.removed_unit).any((1, 2)))
    readout = LabelGap(*pair.encode(ITEMS).first_token_ids)
    item = int(tested[0])
    batch = pair.encode([ITEMS[item]]).batch()
    own = read_under(pair, batch, scaling=Scaling(1.0), readout=readout)
    off = Scaling(0.0, component=Component.RESID_POST, layers=(1,))
    without = read_under(pair, batch, scaling=off, readout=readout)
    np.testing.assert_allclose(result.removed_unit[item, :, 1], own - without, atol=1e-5)


def test_a_result_survives_a_round_trip_and_shows_itself(result, tmp_path):
    again = PathsResult.load(result.save(tmp_path / "paths"))
    assert again.summary() == result.summary()
    frame = result.to_frame()
    by_prompt = frame[(frame.metric == "attribution")].groupby(["item", "order"], sort=False).value.sum()
    np.testing.assert_allclose(by_prompt.to_numpy().reshape(result.change.shape), result.attribution.sum((2, 3)))
    assert {"content_attribution", "position_attribution", "content_lost", "token_attribution"} <= set(frame.metric)
    for panel in result.panels():
        assert panel.draw().axes
    assert "Spearman" in result.summary()
    assert "attribution at each token of i0" in result._repr_html_()
    with pytest.raises(ParameterError, match="not kept"):
        result.strip(item="nobody")


def test_an_interrupted_run_keeps_what_is_done_and_leaves_the_models_as_found(monkeypatch):
    pair, calls = tiny_pair(), iter(range(1000))
    plain = measure.gated_stream

    def interrupted(*args, **options):
        if next(calls) == 14:
            raise KeyboardInterrupt
        return plain(*args, **options)

    asking = [p.requires_grad for m in (pair.base, pair.judge) for p in m.parameters()]
    monkeypatch.setattr(measure, "gated_stream", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        found = attribute_paths(pair, ITEMS, batch_size=4, nodes=4, max_nodes=4, progress=False)
    assert 0 < len(found.item_ids) < len(ITEMS)
    assert not np.isnan(found.attribution).any()
    assert any("interrupted" in note for note in found.meta.not_measured)
    assert asking == [p.requires_grad for m in (pair.base, pair.judge) for p in m.parameters()]
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in pair.judge.modules())


def test_a_block_that_doesnt_repeat_itself_is_refused():
    pair = tiny_pair()
    drift = iter(range(10_000))
    handle = pair.judge.model.layers[1].mlp.register_forward_hook(lambda _m, _a, out: out + 1e-3 * next(drift))
    try:
        with pytest.raises(ExecutorDisagreement, match="doesn't repeat itself"):
            attribute_paths(pair, ITEMS[:2], **QUIET)
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tolerance": 0.0}, "no such tolerance"), ({"nodes": 0}, "too small"), ({"max_nodes": 4}, "too small")],
)
def test_what_cant_be_integrated_is_refused(options, message):
    with pytest.raises(ParameterError, match=message):
        attribute_paths(tiny_pair(), ITEMS[:2], **QUIET, **options)


@pytest.mark.slow
def test_the_demo_judge_is_attributed_completely_and_random_judges_like_it_are_not_findings():
    pair, items = load_pair("demo"), load_items("demo:test", limit=12)
    options = {"controls": 3, "control_items": 6, "batch_size": 24, "progress": False}
    found = attribute_paths(pair, items, **options)
    assert found.finding.found
    assert np.abs(found.completeness_error).max() <= 1e-5
    assert "toward the labelled answer" in found.finding.headline
    shams = [
        attribute_paths(random_delta_pair(pair, seed=seed), items, tolerance=1e-2, confirm=False, **options)
        for seed in (50, 51, 52)
    ]
    assert not any(sham.finding.found for sham in shams), [sham.finding.headline for sham in shams]
