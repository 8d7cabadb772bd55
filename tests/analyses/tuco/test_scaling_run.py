"""How a scaling run behaves: tables, files, figures, interruptions, refusals, and the models it was given."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from analyses.tuco.scaling import ScalingResult, by_layer, by_span, scale
from analyses.tuco.scaling import runner as runner_module
from workbench import Report
from workbench.errors import ExecutorDisagreement, ItemError, ParameterError
from workbench.hooks import Component
from workbench.judges import JudgeItem
from workbench.pairs import Scaling, random_delta_pair
from workbench.pairs.tiny import tiny_pair
from workbench.results import TIDY_COLUMNS, Result

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(10)
]
GRID = (0.0, 0.5, 1.0, 1.5)


@pytest.fixture(scope="module")
def pair():
    return tiny_pair()


@pytest.fixture(scope="module")
def result(pair):
    return scale(pair, ITEMS, alphas=GRID, weights=True, scalings=by_layer(pair), controls=3, progress=False)


def test_the_result_keeps_the_protocol_and_the_shared_vocabulary(result):
    assert isinstance(result, Result)
    frame = result.to_frame()
    assert set(frame.columns) <= set(TIDY_COLUMNS)
    gaps = frame[(frame["metric"] == "verdict_gap") & frame["dose"].notna()]
    assert len(gaps) == 4 * 4 * len(ITEMS) * 2
    assert gaps["control"].notna().all()
    whole = frame[(frame["metric"] == "agreement") & (frame["component"] == "every block")]
    assert whole["dose"].tolist() == list(GRID)
    assert (whole["low"] <= whole["value"]).all() and (whole["value"] <= whole["high"]).all()
    assert whole["control"].notna().all()
    flips = frame[frame["metric"] == "flip_below"]
    assert len(flips) == 4 * len(ITEMS)


def test_every_headline_number_has_an_interval_and_a_control(result):
    assert len(result.finding.estimates) >= 7
    for estimate in result.finding.estimates:
        assert estimate.low <= estimate.value <= estimate.high, estimate
        assert estimate.control is not None, estimate.name


def test_saved_and_loaded_is_the_same_result(result, tmp_path):
    loaded = ScalingResult.load(result.save(tmp_path / "r"))
    assert loaded.to_frame().to_csv() == result.to_frame().to_csv()
    assert loaded.summary() == result.summary()
    with pytest.raises(ValueError, match="read-only"):
        loaded.gap[0] = 0


def test_same_inputs_and_seed_give_the_same_bytes(pair):
    options = {"alphas": (0.0, 1.0), "controls": 3, "progress": False}
    first, again, other = (scale(pair, ITEMS, seed=seed, **options) for seed in (0, 0, 5))
    assert first.to_frame().to_csv() == again.to_frame().to_csv()
    assert first.summary() == again.summary()
    np.testing.assert_allclose(first.gap, other.gap, atol=1e-5)
    assert not np.array_equal(first.control_gap, other.control_gap)


def test_batches_and_padding_dont_matter(pair):
    options = {"alphas": (0.0, 0.5, 1.0), "controls": 0, "progress": False, "weights": True}
    together, alone = scale(pair, ITEMS, batch_size=20, **options), scale(pair, ITEMS[::-1], batch_size=1, **options)
    np.testing.assert_allclose(together.gap, alone.gap[:, :, ::-1], atol=1e-5)


def test_every_panel_draws_and_the_page_holds_them(result):
    panels = result.panels()
    assert len(panels) == 10
    for panel in panels:
        assert panel.draw().axes
        assert panel.caption
    assert result.plot().get_xlabel()
    assert "<svg" in Report([result]).html()


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_models_hooks_modes_and_random_state_are_as_found(kind):
    pair = tiny_pair(kind=kind)
    before = {name: p.clone() for side in ("base", "judge") for name, p in pair.module(side).named_parameters()}
    state = torch.random.get_rng_state()
    scale(pair, ITEMS[:4], alphas=GRID, weights=True, scalings=by_span(pair, ITEMS), controls=1, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    for side in ("base", "judge"):
        module = pair.module(side)
        assert not module.training
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())
        assert all("forward" not in m.__dict__ for m in module.modules())
    after = {name: p for side in ("base", "judge") for name, p in pair.module(side).named_parameters()}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_interrupted_run_keeps_what_was_finished(pair, monkeypatch):
    plain, calls = runner_module.scaled_points, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(runner_module, "scaled_points", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        partial = scale(pair, ITEMS, alphas=(0.0, 1.0), batch_size=4, weights=True, progress=False)
    assert len(partial.item_ids) == partial.meta.n_items == 4
    assert any("interrupted" in what for what in partial.meta.not_measured)
    assert np.isnan(partial.gap[1]).all(), "the weights' curve came later"
    assert not np.isnan(partial.gap[0]).any()
    assert partial.to_frame()["value"].notna().any()
    assert not partial.finding.found
    assert all(panel.draw().axes for panel in partial.panels())


def test_an_interrupted_control_leaves_the_finished_draws(pair, monkeypatch):
    plain, draws = random_delta_pair, []

    def interrupted(*args, **kwargs):
        draws.append(1)
        if len(draws) == 3:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr("analyses.looping.random_delta_pair", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        partial = scale(pair, ITEMS, alphas=(0.0, 1.0), progress=False)
    assert len(partial.item_ids) == len(ITEMS)
    assert len(partial.control_gap) == 2
    assert "it takes 3 random changes" in partial.finding.headline


def test_without_labels_only_position_and_length_are_told(pair):
    items = [JudgeItem(item_id=i.item_id, question=i.question, answers=i.answers) for i in ITEMS]
    result = scale(pair, items, alphas=(0.0, 1.0), controls=3, progress=False)
    assert not any("labelled" in e.name or "agree with the labels" in e.name for e in result.finding.estimates)
    assert result.best_alpha() is None
    assert all(panel.draw().axes for panel in result.panels())
    assert "agreement" not in set(result.to_frame()["metric"])


def test_one_order_has_neither_consistency_nor_position(pair):
    result = scale(pair, ITEMS, alphas=(0.0, 1.0), orders=("swapped",), controls=3, progress=False)
    metrics = set(result.to_frame()["metric"])
    assert not metrics & {"consistency", "position", "right_in_both", "first_slot"}
    both = scale(pair, ITEMS, alphas=(0.0, 1.0), controls=0, progress=False)
    np.testing.assert_allclose(result.judge_gap[:, 0], both.judge_gap[:, 1], atol=1e-5)
    np.testing.assert_allclose(result.content()[0, 0], -result.gap[0, 0, :, 0])
    assert all(panel.draw().axes for panel in result.panels())


def test_above_one_only_the_far_end_is_the_largest(pair):
    result = scale(pair, ITEMS, alphas=(1.0, 1.5, 2.0), controls=3, progress=False)
    assert result.far == 2
    assert any("from alpha 1 to 2" in e.name for e in result.finding.estimates)


def test_leaving_things_out_is_said(pair):
    result = scale(pair, ITEMS, alphas=(0.0, 1.0), controls=0, progress=False)
    said = " ".join(result.meta.not_measured)
    assert "controls=0" in said
    assert "weights=False" in said
    assert not result.finding.found


def test_another_length_may_be_followed(pair):
    def characters(text: str) -> float:
        return float(len(text))

    items = [JudgeItem(item_id=i.item_id, question=i.question, answers=i.answers) for i in ITEMS]
    result = scale(pair, items, alphas=(0.0, 1.0), controls=0, answer_length=characters, progress=False)
    np.testing.assert_array_equal(result.lengths, [[len(a) for a in i.answers] for i in ITEMS])
    assert result.length_name == "characters"
    with pytest.raises(ParameterError, match="positive"):
        scale(pair, items, answer_length=lambda text: -1.0, progress=False)


def test_variants_of_one_question_are_one_item_to_every_statistic(pair):
    items = [
        JudgeItem(
            item_id=f"{i}-{k}", question=f"What is {i}?", answers=(str(i), "x" * (k + 1)), label=0, meta={"cluster": i}
        )
        for i in range(6)
        for k in range(3)
    ]
    result = scale(pair, items, alphas=(0.0, 1.0), controls=3, progress=False)
    assert result.meta.n_items == result.finding.estimates[0].n == 6
    halves = [{c for c, on in zip(result.clusters, result.chosen_on, strict=True) if on == k} for k in (0, 1)]
    assert all(halves)
    assert not halves[0] & halves[1]


@pytest.mark.parametrize(
    ("choices", "argument"),
    [
        ({"alphas": (0.0, 0.5)}, "alphas"),
        ({"alphas": (1.0,)}, "alphas"),
        ({"alphas": (-1.0, 1.0)}, "alphas"),
        ({"alphas": (1.0, float("inf"))}, "alphas"),
        ({"scalings": {}}, "scalings"),
        ({"scalings": {"weights interpolated": Scaling()}}, "scalings"),
        ({"scalings": {"x": Scaling(layers=(7,))}}, "layers"),
        ({"orders": ()}, "orders"),
        ({"batch_size": 0}, "batch_size"),
        ({"controls": -1}, "controls"),
    ],
)
def test_bad_choices_are_refused_by_name(pair, choices, argument):
    with pytest.raises(ParameterError) as caught:
        scale(pair, ITEMS, progress=False, **choices)
    assert caught.value.argument == argument


def test_an_unknown_side_is_refused(pair):
    with pytest.raises((ParameterError, TypeCheckError)):
        scale(pair, ITEMS, ends="both", progress=False)  # pyright: ignore[reportArgumentType]


def test_no_items_are_refused(pair):
    with pytest.raises(ItemError):
        scale(pair, [], progress=False)
    with pytest.raises(ItemError):
        by_span(pair, [])
    with pytest.raises(ParameterError):
        by_layer(pair, size=0)


def test_blocks_may_be_scaled_in_runs():
    pair = tiny_pair(n_layers=5)
    assert list(by_layer(pair, size=2)) == ["every block", "blocks 0-1", "blocks 2-3", "block 4"]
    attention = by_layer(pair, component=Component.ATTN_OUT, elsewhere=0.0)
    assert attention["attn_out, block 3"] == Scaling(component=Component.ATTN_OUT, layers=(3,), elsewhere=0.0)


def test_the_curves_are_told_apart_in_the_limits(result):
    said = next(limit for limit in result.finding.limits if limit.startswith("The curves"))
    assert "block 1: alpha 0 in blocks 1, 1 elsewhere" in said
    assert "weights interpolated: the base's weights in every block" in said


def test_a_lockstep_that_doesnt_repeat_the_judge_is_refused(pair, monkeypatch):
    from analyses.tuco.scaling import points

    plain = points.scaled_logits
    monkeypatch.setattr(points, "scaled_logits", lambda *a, **k: plain(*a, **k) + torch.arange(260) * 1e-3)
    with pytest.raises(ExecutorDisagreement, match="alpha 1 isn't the judge"):
        scale(pair, ITEMS, progress=False)
