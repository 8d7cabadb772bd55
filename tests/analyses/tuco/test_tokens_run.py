"""How a token map behaves: tables, files, figures, seeds, interruptions, refusals, and the models it was given."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from analyses.tuco.tokens import TokenMapResult, map_tokens
from analyses.tuco.tokens import runner as tokens_runner
from workbench import Report
from workbench.errors import ContextWindowError, ExecutorDisagreement, ItemError, ParameterError
from workbench.hooks import HooksBackend
from workbench.judges import JudgeItem
from workbench.pairs.tiny import tiny_pair
from workbench.results import TIDY_COLUMNS, Result

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(6)
]
REASONS = [f" because {k} is longer. [[{'AB'[k % 2]}]]" for k in range(12)]
QUIET = {"progress": False, "controls": 0}


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(format="bracket")


@pytest.fixture(scope="module")
def result(pair):
    return map_tokens(pair, ITEMS, completions=REASONS, controls=3, examples=2, progress=False)


def test_the_result_keeps_the_protocol_and_the_shared_vocabulary(result):
    assert isinstance(result, Result)
    frame = result.to_frame()
    assert set(frame.columns) <= set(TIDY_COLUMNS)
    per_region = frame[frame["metric"] == "tuco"]
    assert per_region["control"].notna().all()
    summed = frame[(frame["metric"] == "share") & (frame["model"] == "finetuned")]
    added = summed.groupby(["item", "order", "span"], sort=False)["value"].sum()
    values = per_region.set_index(["item", "order", "span"])["value"]
    np.testing.assert_allclose(added.loc[values.index], values, rtol=1e-5)
    tokens = frame[(frame["metric"] == "token_tuco") & (frame["item"] == "i0") & (frame["order"] == "original")]
    assert "".join(tokens["token"]).endswith("[[")
    assert tokens["value"].notna().all()
    along = frame[frame["metric"] == "completion_tuco"]
    assert along.groupby(["item", "order"])["position"].max().min() > 10
    assert frame[frame["metric"] == "concentration"]["p"].notna().any()


def test_every_headline_number_has_an_interval_and_a_control(result):
    names = [estimate.name for estimate in result.finding.estimates]
    for start in (
        "TuCo over tokens",
        "TuCo at the last prompt token",
        "TuCo over the reasoning",
        "TuCo at the verdict",
    ):
        assert any(name.startswith(start) for name in names)
    for estimate in result.finding.estimates:
        assert estimate.low <= estimate.value <= estimate.high, estimate
        assert estimate.control is not None, estimate.name


def test_saved_and_loaded_is_the_same_result(result, tmp_path):
    loaded = TokenMapResult.load(result.save(tmp_path / "r"))
    assert loaded.to_frame().to_csv() == result.to_frame().to_csv()
    assert loaded.summary() == result.summary()
    assert loaded.strip("i1", "swapped") == result.strip("i1", "swapped")
    assert Report([loaded]).html() == Report([result]).html()


def test_same_inputs_and_seed_give_the_same_bytes(pair, result):
    again = map_tokens(pair, ITEMS, completions=REASONS, controls=3, examples=2, progress=False)
    assert again.to_frame().to_csv() == result.to_frame().to_csv()
    other = map_tokens(pair, ITEMS, completions=REASONS, batch_size=1, **QUIET)
    np.testing.assert_allclose(other.tuco, result.tuco, atol=2e-6)


def test_all_figures_are_drawn_and_named(result):
    panels = result.panels()
    assert len(panels) == 5
    for panel in panels:
        assert panel.draw().axes
        assert panel.caption
    assert [t.get_text() for t in result.plot().get_yticklabels()][-1] == "verdict token"
    plain = map_tokens(tiny_pair(), ITEMS[:2], examples=0, **QUIET)
    titles = [panel.title for panel in plain.panels()]
    assert "Through the completion" not in titles
    assert "Unit by token" not in titles
    assert "Where the share stands out" not in titles


def test_the_strip_shows_hostile_text_as_text(pair):
    items = [JudgeItem(item_id="<b>", question="<script>alert(1)</script>", answers=("\u202ea", "b"), label=0)]
    result = map_tokens(pair, items, **QUIET)
    strip = result.strip("<b>")
    assert "<script>" not in strip
    assert "&lt;b&gt;" in strip
    assert 'class="span">answer_a' in strip
    assert "<script>alert" not in result._repr_html_()
    with pytest.raises(ParameterError, match="not kept"):
        result.strip(item="nobody")


def test_an_interrupted_run_keeps_what_was_finished(pair, monkeypatch):
    plain, calls = tokens_runner.measure_tokens, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(tokens_runner, "measure_tokens", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        partial = map_tokens(pair, ITEMS, batch_size=4, examples=6, progress=False)
    assert len(partial.item_ids) == len(partial.example_items) == 4
    assert partial.meta.n_items == 4
    assert any("interrupted" in what for what in partial.meta.not_measured)
    assert not partial.finding.found


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_models_hooks_modes_and_random_state_are_as_found(kind):
    pair = tiny_pair(kind=kind)
    before = {name: p.clone() for side in ("base", "judge") for name, p in pair.module(side).named_parameters()}
    state = torch.random.get_rng_state()
    map_tokens(pair, ITEMS[:2], completions="generate", max_new_tokens=3, controls=1, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    for side in ("base", "judge"):
        module = pair.module(side)
        assert not module.training
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())
    after = {name: p for side in ("base", "judge") for name, p in pair.module(side).named_parameters()}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_chosen_positions_have_the_values_they_have_among_all(pair):
    whole = map_tokens(pair, ITEMS[:2], **QUIET)
    some = map_tokens(pair, ITEMS[:2], positions=["answer_a", -1], **QUIET)
    assert some.regions == ("answer_a", "verdict")
    for name in some.regions:
        np.testing.assert_allclose(some.at(name, some.tuco), whole.at(name, whole.tuco), rtol=1e-6)
    known = ~np.isnan(some.example_finetuned)
    np.testing.assert_allclose(some.example_finetuned[known], whole.example_finetuned[known], rtol=1e-6)
    assert known.sum() == some.n_tokens.sum()
    with pytest.raises(ParameterError, match="select no token"):
        map_tokens(pair, ITEMS[:2], positions=["rubric"], **QUIET)


def test_a_batch_without_any_chosen_token_has_none(pair):
    items = [JudgeItem(item_id="r", question="q", reference="ref", answers=("a", "b"), label=0), *ITEMS[:2]]
    for granularity in ("block", "sublayer"):
        some = map_tokens(pair, items, positions=["reference"], granularity=granularity, batch_size=2, **QUIET)
        assert some.regions == ("reference",)
        assert np.isfinite(some.tuco[0]).all()
        assert np.isnan(some.tuco[1:]).all()


def test_leaving_controls_out_is_said_and_nothing_is_found(pair):
    result = map_tokens(pair, ITEMS[:3], **QUIET)
    assert any("controls=0" in what for what in result.meta.not_measured)
    assert not result.finding.found
    few = map_tokens(pair, ITEMS[:3], controls=2, progress=False)
    assert "3 random changes" in few.finding.headline


@pytest.mark.parametrize(
    ("choices", "argument"),
    [
        ({"granularity": 0}, "granularity"),
        ({"orders": ()}, "orders"),
        ({"batch_size": 0}, "batch_size"),
        ({"examples": -1}, "examples"),
        ({"completions": "write"}, "completions"),
        ({"completions": ["one"]}, "completions"),
        ({"completions": {"i0/original": " [[A]]"}}, "completions"),
    ],
)
def test_bad_choices_are_refused_by_name(pair, choices, argument):
    with pytest.raises(ParameterError) as caught:
        map_tokens(pair, ITEMS, **{**QUIET, **choices})
    assert caught.value.argument == argument
    assert caught.value.allowed


def test_an_unknown_norm_is_refused(pair):
    with pytest.raises((ParameterError, TypeCheckError), match="norm"):
        map_tokens(pair, ITEMS, norm="l3", **QUIET)


def test_no_items_and_too_long_completions_are_refused(pair):
    with pytest.raises(ItemError, match="nothing to judge"):
        map_tokens(pair, [], **QUIET)
    with pytest.raises(ContextWindowError):
        map_tokens(pair, ITEMS[:1], completions="generate", max_new_tokens=900, **QUIET)
    with pytest.raises(ContextWindowError):
        map_tokens(pair, ITEMS[:1], completions=["word " * 300] * 2, **QUIET)


def test_a_judge_that_doesnt_repeat_itself_is_refused(monkeypatch):
    calls = iter(range(1000))
    plain = HooksBackend.run

    def drifting(self, batch, **options):
        out = plain(self, batch, **options)
        for value in out.activations.values():
            value.add_(1e-3 * next(calls))
        return out

    monkeypatch.setattr(HooksBackend, "run", drifting)
    with pytest.raises(ExecutorDisagreement, match="doesn't repeat itself"):
        map_tokens(tiny_pair(), ITEMS, **QUIET)


def test_variants_of_one_question_are_one_item_to_every_statistic(pair):
    items = [
        JudgeItem(
            item_id=f"{i}-{k}", question=f"What is {i}?", answers=(str(i), "x" * (k + 1)), label=0, meta={"cluster": i}
        )
        for i in range(3)
        for k in range(2)
    ]
    result = map_tokens(pair, items, controls=3, progress=False)
    assert {estimate.n for estimate in result.finding.estimates} == {3}
