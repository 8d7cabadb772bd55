"""How a TuCo run behaves: tables, files, seeds, interruptions, refusals, and the models it was given."""

import numpy as np
import pytest
import torch

from analyses import tuco
from analyses.tuco import prompts
from workbench import Report
from workbench.errors import ContextWindowError, ItemError, ParameterError
from workbench.judges import JudgeItem
from workbench.pairs.tiny import scaled_noise, tiny_pair
from workbench.results import TIDY_COLUMNS, Result

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(12)
]


@pytest.fixture(scope="module")
def pair():
    return tiny_pair()


@pytest.fixture(scope="module")
def result(pair):
    return tuco.run(pair, ITEMS, progress=False)


def test_the_result_keeps_the_protocol_and_the_shared_vocabulary(result):
    assert isinstance(result, Result)
    frame = result.to_frame()
    assert set(frame.columns) <= set(TIDY_COLUMNS)
    per_prompt = frame[frame["metric"] == "tuco"]
    assert len(per_prompt) == len(ITEMS) * 2
    assert per_prompt["control"].notna().all()
    shares = frame[(frame["metric"] == "share") & (frame["model"] == "finetuned")]
    summed = shares.groupby(["item", "order"], sort=False)["value"].sum()
    tuco_values = per_prompt.set_index(["item", "order"])["value"]
    np.testing.assert_allclose(summed.loc[tuco_values.index], tuco_values, rtol=1e-9)


def test_every_headline_number_has_an_interval_and_a_control(result):
    named = [e for e in result.finding.estimates if not e.name.startswith("share of verdicts")]
    assert len(named) >= 5
    for estimate in named:
        assert estimate.low <= estimate.value <= estimate.high, estimate
        assert estimate.control is not None, estimate.name


def test_same_inputs_and_seed_give_the_same_bytes(pair, result):
    again = tuco.run(pair, ITEMS, progress=False)
    assert result.to_frame().to_csv() == again.to_frame().to_csv()
    assert result.summary() == again.summary()
    other = tuco.run(pair, ITEMS, seed=5, progress=False)
    np.testing.assert_allclose(result.tuco, other.tuco, atol=1e-6)  # other batches, other rounding
    assert not np.array_equal(result.control_share, other.control_share)


def test_saved_and_loaded_is_the_same_result(result, tmp_path):
    loaded = tuco.TucoResult.load(result.save(tmp_path / "r"))
    assert loaded.to_frame().to_csv() == result.to_frame().to_csv()
    assert loaded.summary() == result.summary()
    assert loaded.meta.pair["judge"]["fingerprint"] == result.meta.pair["judge"]["fingerprint"]
    assert Report([loaded]).html() == Report([result]).html()


def test_arrays_are_read_only(result):
    with pytest.raises(ValueError, match="read-only"):
        result.finetuned_push[0] = 0


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_models_hooks_modes_and_random_state_are_as_found(kind):
    pair = tiny_pair(kind=kind)
    before = {name: p.clone() for side in ("base", "judge") for name, p in pair.module(side).named_parameters()}
    state = torch.random.get_rng_state()
    tuco.run(pair, ITEMS, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    for side in ("base", "judge"):
        module = pair.module(side)
        assert not module.training
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())
        assert all("forward" not in m.__dict__ for m in module.modules())
    after = {name: p for side in ("base", "judge") for name, p in pair.module(side).named_parameters()}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_interrupted_run_keeps_what_was_finished(pair, monkeypatch):
    plain, calls = prompts.measure_prompts, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr("analyses.tuco.turns.measure_prompts", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        partial = tuco.run(pair, ITEMS, batch_size=4, progress=False)
    assert len(partial.item_ids) == 4
    assert partial.meta.n_items == 4
    assert any("interrupted" in what for what in partial.meta.not_measured)
    monkeypatch.setattr("analyses.tuco.turns.measure_prompts", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tuco.run(pair, ITEMS, progress=False)


def test_items_without_labels_are_oriented_to_the_judges_own_verdict(pair):
    items = [JudgeItem(item_id=i.item_id, question=i.question, answers=i.answers) for i in ITEMS]
    result = tuco.run(pair, items, progress=False)
    assert np.isnan(result.toward_label(result.judge_gap)).all()
    assert not any("labelled" in e.name for e in result.finding.estimates)
    assert len(result.panels()) == 7
    for panel in result.panels():
        assert panel.draw().axes


def test_leaving_things_out_is_said(pair):
    result = tuco.run(
        pair, ITEMS, readout=None, output_share=False, controls=0, confirm=False, numerics=False, progress=False
    )
    said = " ".join(result.meta.not_measured)
    for what in ("readout=None", "output_share=False", "controls=0", "confirm=False", "numerics=False"):
        assert what in said
    assert np.isnan(result.judge_gap).all()
    assert not result.finding.found
    assert result.to_frame()["value"].notna().any()
    assert [p.title for p in result.panels()] == [
        "How much of each verdict fine-tuning wrote", "Who made the share", "Where the share builds up",
    ]  # fmt: skip
    assert "<svg" in Report([result]).html()


@pytest.mark.parametrize(
    ("choices", "argument"),
    [
        ({"granularity": 0}, "granularity"),
        ({"granularity": 3}, "granularity"),
        ({"granularity": True}, "granularity"),
        ({"orders": ()}, "orders"),
        ({"orders": ("original", "original")}, "orders"),
        ({"batch_size": 0}, "batch_size"),
        ({"controls": -1}, "controls"),
    ],
)
def test_bad_choices_are_refused_by_name(pair, choices, argument):
    with pytest.raises(ParameterError) as caught:
        tuco.run(pair, ITEMS, progress=False, **choices)
    assert caught.value.argument == argument
    assert caught.value.allowed


def test_no_items_and_too_long_items_are_refused(pair):
    with pytest.raises(ItemError, match="nothing to judge"):
        tuco.run(pair, [], progress=False)
    with pytest.raises(ContextWindowError):
        tuco.run(pair, [JudgeItem(item_id="x", question="long " * 300, answers=("a", "b"))], progress=False)


def test_hostile_text_is_shown_as_text(pair):
    items = [
        JudgeItem(
            item_id=f"<script>alert({i})</script>", question="<img src=x onerror=alert(1)>", answers=("a", "b"), label=0
        )
        for i in range(3)
    ]
    result = tuco.run(pair, items, progress=False)
    page = Report([result]).html()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>" not in result._repr_html_()


def test_the_named_unit_is_tested_on_items_it_was_not_named_on(pair):
    result = tuco.run(pair, ITEMS, progress=False)
    tested = ~np.isnan(result.confirmed_effect).any(axis=1)
    assert tested.sum() == len(ITEMS) // 2
    assert result.confirmed_unit in result.units


def test_taking_out_the_only_tuned_block_gives_back_the_base():
    """Independent check of the confirmation: where only the last block is tuned, no F means the base's verdict."""
    pair = tiny_pair(change=scaled_noise(0.3, only="layers.1."), n_layers=2)
    result = tuco.run(pair, ITEMS, progress=False)
    assert result.confirmed_unit == "block 1"
    tested = ~np.isnan(result.confirmed_effect).any(axis=1)
    expected = (result.judge_gap - result.base_gap)[tested]
    np.testing.assert_allclose(result.confirmed_effect[tested], expected, atol=1e-5)
    np.testing.assert_allclose(result.removal_effect[..., 1], result.judge_gap - result.base_gap, atol=1e-5)


def test_variants_of_one_question_are_one_item_to_every_statistic(pair):
    """Variants share a cluster: they count once and never lie on both sides of the selection split."""
    items = [
        JudgeItem(
            item_id=f"{i}-{k}", question=f"What is {i}?", answers=(str(i), "x" * (k + 1)), label=0, meta={"cluster": i}
        )
        for i in range(10)
        for k in range(3)
    ]
    result = tuco.run(pair, items, progress=False)
    assert result.meta.n_items == 10
    assert result.finding.estimates[0].n == 10
    tested = {
        c for c, effect in zip(result.clusters, result.confirmed_effect[:, 0], strict=True) if not np.isnan(effect)
    }
    named = {c for c, effect in zip(result.clusters, result.confirmed_effect[:, 0], strict=True) if np.isnan(effect)}
    assert tested
    assert named
    assert not tested & named
