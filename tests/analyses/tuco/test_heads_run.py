"""A heads run from items to finding: nothing where nothing is, a planted head found, and its words and files."""

import numpy as np
import pytest
import torch

from analyses import looping
from analyses.looping import Prompts
from analyses.readout import ExpectedScore
from analyses.tuco import heads
from analyses.tuco.evaluation import Evaluation
from analyses.tuco.heads import HeadsResult, naming, runner, split_heads
from workbench import html
from workbench.errors import ExecutorDisagreement, ItemError, ParameterError
from workbench.hooks import Component, HooksBackend, Site
from workbench.judges import JudgeItem
from workbench.pairs import identical_pair, load_pair, random_delta_pair
from workbench.pairs.tiny import byte_tokenizer, tiny_model, tiny_pair, tuned_copy
from workbench.results import TIDY_COLUMNS, Result
from workbench.widgets import explore

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(12)
]
QUIET = {"progress": False, "controls": 0}


def loaded(base, judge):
    return load_pair(
        base, judge, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu", allow_identical=True
    )


@pytest.fixture(scope="module")
def pair():
    return tiny_pair()


@pytest.fixture(scope="module")
def result(pair):
    return split_heads(pair, ITEMS, progress=False, controls=3, neurons=4)


@pytest.fixture(scope="module")
def planted():
    """A judge whose head 1.2 writes toward the first slot, whatever it reads."""
    base = tiny_model()
    pair = loaded(base, base)
    encoded = pair.encode(ITEMS)
    batch, ids = encoded.batch(), encoded.first_token_ids
    z = pair.executor("base").run(batch, capture=[Site(Component.Z, 1)]).activations[Site(Component.Z, 1, 2)][:, -1]
    mean, width = z.mean(0), z.shape[-1]
    toward = base.lm_head.weight[ids.a] - base.lm_head.weight[ids.b]

    def change(name, parameter, _generator):
        out = torch.zeros_like(parameter)
        if name.endswith("layers.1.self_attn.o_proj.weight"):
            out[:, 2 * width : 3 * width] = torch.outer(toward, mean / mean.square().sum()).detach()
        return out

    return loaded(base, tuned_copy(base, change=change))


def test_the_judge_against_itself_is_nothing_found(pair):
    found = split_heads(identical_pair(pair), ITEMS, progress=False)
    for values in (found.head_push, found.region_push, found.part_push, found.mlp_push, found.attention_bias_push):
        assert not values.any()
    assert found.identical_push == 0
    assert not found.finding.found
    assert found.finding.headline.startswith("Nothing found: fine-tuning wrote exactly nothing")
    assert found.named_head is None
    assert found.judge_gap.all()


def test_a_planted_head_is_found_named_and_confirmed(planted):
    found = split_heads(planted, ITEMS, progress=False, controls=4)
    assert found.named_head == (1, 2)
    assert found.named_view == "position"
    assert found.passing("position")[1, 2]
    assert found.passing("position").sum() == 1
    assert found.finding.found
    assert "toward the first slot through 1 head, most of all head 1.2" in found.finding.headline
    assert "changed output" in found.finding.headline
    others = np.delete(found.head_push.reshape(len(ITEMS), 2, -1), 4 + 2, axis=-1)
    assert not others.any(), "no other head moved"
    tested = np.isfinite(found.confirmed_effect).all(1)
    assert tested.sum() == 6
    direct, real = found.head_push[tested, :, 1, 2].mean(), found.confirmed_effect[tested].mean()
    assert real == pytest.approx(direct, rel=0.35), "removing it in a real forward costs what it pushed, norm aside"
    assert abs(found.confirmed_control[tested].mean()) < 0.5 * real
    assert np.isnan(found.confirmed_other).all(), "there is no other head whose write changed"


def test_sham_judges_that_moved_at_random_are_not_findings(pair):
    items = ITEMS[:6]
    found = [
        split_heads(random_delta_pair(pair, seed=seed), items, progress=False, neurons=0, confirm=False).finding.found
        for seed in range(100, 106)
    ]
    assert sum(found) <= 1, "5% are allowed to be"


def test_too_few_random_changes_can_tell_no_head_from_chance(planted):
    found = split_heads(planted, ITEMS, progress=False, controls=2, confirm=False, neurons=0)
    assert not found.finding.found
    assert "three random changes" in found.finding.headline


def test_parts_of_the_gap_add_up(result):
    whole = result.embedding_push + result.bias_push + (result.pretrained_push + result.finetuned_push).sum((2, 3))
    np.testing.assert_allclose(whole, result.judge_gap, atol=1e-5)
    np.testing.assert_allclose(result.region_push.sum(-1), result.head_push, atol=1e-5)
    np.testing.assert_allclose(result.part_push.sum(-1), result.head_push, atol=1e-5)
    assert max(result.closing_error, result.region_error, result.gap_error) < 1e-5
    assert result.gap_error == pytest.approx(np.abs(whole - result.judge_gap).max())


def test_heads_and_neurons_are_named_and_tested_on_different_items(result):
    tested = np.isfinite(result.confirmed_effect).all(1)
    assert tested.sum() == len(ITEMS) // 2
    assert np.array_equal(np.isfinite(result.neuron_push).all((1, 2, 3)), tested)
    assert result.other_head != result.named_head
    rest = [set(ids) for ids in result.neuron_ids]
    assert all(len(ids) == 4 for ids in rest)
    chosen, random = (
        np.abs(result.cells(x, "position").value).sum() for x in (result.neuron_push, result.neuron_control_push)
    )
    assert chosen > random


def test_orientation_of_regions_by_role(result):
    names, values = result.by_role(result.region_push)
    a, b = result.regions.index("answer_a"), result.regions.index("answer_b")
    assert names[a] == "labelled answer" and names[b] == "other answer"
    second = ITEMS[1].label == 1
    assert second
    np.testing.assert_array_equal(values[1, 0, ..., a], result.region_push[1, 0, ..., b])
    np.testing.assert_array_equal(values[0, 0, ..., a], result.region_push[0, 0, ..., a])
    np.testing.assert_array_equal(values[0, 1, ..., a], result.region_push[0, 1, ..., b])
    np.testing.assert_allclose(values.sum(-1), result.region_push.sum(-1))
    content, position = result.oriented(result.head_push, "content"), result.oriented(result.head_push, "position")
    np.testing.assert_allclose(content[0], (result.head_push[0, 0] - result.head_push[0, 1]) / 2)
    np.testing.assert_allclose(content[1], -(result.head_push[1, 0] - result.head_push[1, 1]) / 2)
    np.testing.assert_allclose(position, result.head_push.mean(1))


def test_the_table_is_tidy_and_holds_every_cell(result):
    frame = result.to_frame()
    assert set(frame.columns) <= set(TIDY_COLUMNS)
    heads = frame[(frame.metric == "position_push") & (frame.component == "z")]
    assert len(heads) == 2 * 4
    row = heads[(heads.layer == 1) & (heads["head"] == 3)].iloc[0]
    assert row.value == pytest.approx(result.head_push.mean((0, 1))[1, 3])
    assert row.low <= row.value <= row.high
    assert row.p == result.head_p[1, 1, 3]
    assert np.isfinite(row.control)
    spans = frame[(frame.metric == "content_region_push") & (frame.layer == 0) & (frame["head"] == 0)]
    assert {"labelled answer", "other answer", "question", "template"} <= set(spans.span)
    content = frame[(frame.metric == "content_push") & (frame.component == "z")]
    assert spans.value.sum() == pytest.approx(content.value.iloc[0], abs=1e-6)
    single = frame[(frame.metric == "verdict_push") & (frame.component == "z") & (frame.item == "i3")]
    assert len(single) == 2 * 2 * 4 * 2
    neurons = frame[frame.component.astype(str).str.startswith("neuron ")]
    assert len(neurons) == 2 * 2 * 4


def test_it_is_a_result_with_figures_files_and_an_explorer(result, tmp_path):
    assert isinstance(result, Result)
    again = HeadsResult.load(result.save(tmp_path / "heads"))
    assert again.named_head == result.named_head
    assert again.regions == result.regions
    for name in HeadsResult.AXES:
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))
    assert again.summary() == result.summary()
    panels = result.panels()
    assert len(panels) == 2 * 4 + 1
    for panel in panels:
        assert panel.draw().axes
    assert result.plot().get_xlabel() == "head"
    assert "sub-layer granularity" in result.summary()
    assert html.escape(result.finding.headline) in result._repr_html_()
    explorer = explore(result)
    explorer.selection.layer, explorer.selection.head = 1, 2
    assert set(explorer.table().layer.dropna()) == {1}


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_models_alone(pair, result):
    def hooks():
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pair.judge.modules()]

    before = hooks(), [p._version for p in pair.judge.parameters()], torch.random.get_rng_state()
    again = split_heads(pair, ITEMS, progress=False, controls=3, neurons=4)
    for name in HeadsResult.AXES:
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))
    after = hooks(), [p._version for p in pair.judge.parameters()], torch.random.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


@pytest.mark.parametrize(("kind", "architecture"), [("lora", "llama"), ("full", "gpt2")])
def test_adapters_and_fused_projections_are_entered_like_any_other(kind, architecture):
    pair = tiny_pair(kind=kind, architecture=architecture)
    found = split_heads(pair, ITEMS[:4], neurons=2, **QUIET)
    whole = found.embedding_push + found.bias_push + (found.pretrained_push + found.finetuned_push).sum((2, 3))
    np.testing.assert_allclose(whole, found.judge_gap, atol=1e-5)
    assert np.abs(found.head_push).min() > 0
    if kind == "lora":  # the output projection has no adapter
        assert not found.part_push[..., 2].any()


def test_a_merged_adapter_splits_the_same(pair):
    import copy

    from peft.tuners.tuners_utils import BaseTunerLayer

    lora = tiny_pair(kind="lora")
    merged = copy.deepcopy(lora.base)
    with torch.no_grad():
        for name, module in lora.judge.named_modules():
            if isinstance(module, BaseTunerLayer):
                merged.get_submodule(name).weight.add_(module.get_delta_weight("default"))
    one, two = (split_heads(p, ITEMS[:4], **QUIET) for p in (lora, loaded(lora.base, merged)))
    np.testing.assert_allclose(one.head_push, two.head_push, atol=1e-5)
    np.testing.assert_allclose(one.part_push, two.part_push, atol=1e-5)


def test_batch_order_and_padding_dont_matter(pair, result):
    alone = split_heads(pair, ITEMS[::-1], batch_size=1, confirm=False, neurons=0, **QUIET)
    np.testing.assert_allclose(alone.head_push[::-1], result.head_push, atol=1e-6)
    ours = [alone.regions.index(name) for name in result.regions]
    np.testing.assert_allclose(alone.region_push[::-1][..., ours], result.region_push, atol=1e-6)


def test_views_follow_labels_and_orders(pair):
    unlabelled = [JudgeItem(item_id=i.item_id, question=i.question, answers=i.answers) for i in ITEMS]
    assert split_heads(pair, unlabelled, **QUIET).views == ("position",)
    assert split_heads(pair, ITEMS, orders=("original",), **QUIET).views == ("content",)
    mixed = split_heads(pair, unlabelled, orders=("original",), **QUIET)
    assert mixed.views == ("slot",)
    assert not mixed.passing("slot").any()
    assert mixed.to_frame().metric.str.startswith("slot_push").any()


def test_some_items_without_a_label_are_left_out_of_the_content_view(pair):
    items = [
        JudgeItem(item_id=i.item_id, question=i.question, answers=i.answers, label=i.label if k < 3 else None)
        for k, i in enumerate(ITEMS)
    ]
    found = split_heads(pair, items, **QUIET)
    assert found.views == ("content", "position")
    assert found.cells(found.head_push, "content").n == 3
    assert found.cells(found.head_push, "position").n == 12


def test_a_score_can_be_read_in_place_of_a_gap(pair):
    ids = tuple(pair.tokenizer.encode(str(k), add_special_tokens=False)[-1] for k in range(1, 6))
    found = split_heads(pair, ITEMS, readout=ExpectedScore(ids, (1.0, 2.0, 3.0, 4.0, 5.0)), **QUIET)
    assert found.unit == "points"
    assert found.views == ("value",)
    assert ((found.judge_gap > 1) & (found.judge_gap < 5)).all()
    whole = found.embedding_push + found.bias_push + (found.pretrained_push + found.finetuned_push).sum((2, 3))
    np.testing.assert_allclose(whole, found.judge_gap, atol=1e-5)
    assert "points" in found.summary()


def test_an_interrupted_run_keeps_what_is_finished(pair, monkeypatch):
    calls = iter(range(100))
    plain = runner._keep

    def interrupted(work, chosen, found):
        if next(calls) == 1:
            raise KeyboardInterrupt
        plain(work, chosen, found)

    monkeypatch.setattr(runner, "_keep", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        found = split_heads(pair, ITEMS, batch_size=4, **QUIET)
    assert len(found.item_ids) == 2
    assert any("interrupted" in note for note in found.meta.not_measured)


def test_an_interrupted_control_is_dropped_whole(pair, monkeypatch):
    calls = iter(range(100))
    plain = looping.random_delta_pair

    def interrupted(*args, **kwargs):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(looping, "random_delta_pair", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        found = split_heads(pair, ITEMS[:4], progress=False, controls=4)
    assert len(found.control_head_push) == 2
    assert np.isnan(found.head_bound).all()


def test_a_judge_that_doesnt_repeat_itself_is_refused(pair, monkeypatch):
    calls = iter(range(1000))
    plain = HooksBackend.run

    def drifting(self, batch, *, edits=(), **options):
        out = plain(self, batch, edits=edits, **options)
        for edit in edits:  # readers keep what they saw
            values = getattr(getattr(edit, "fn", None), "args", None)
            if values:
                reader = edit.fn.func.__self__
                reader.values[values[0]] = reader.values[values[0]] * (1 + 1e-6 * next(calls))
        return out

    monkeypatch.setattr(HooksBackend, "run", drifting)
    with pytest.raises(ExecutorDisagreement, match="doesn't repeat itself"):
        split_heads(pair, ITEMS, **QUIET)


def test_choices_are_checked(pair):
    with pytest.raises(ItemError):
        split_heads(pair, [])
    with pytest.raises(ParameterError, match="neurons"):
        split_heads(pair, ITEMS, neurons=-1)
    with pytest.raises(ParameterError, match="precision"):
        Evaluation.best(Prompts.of(pair, ITEMS), (), precision="half")
    with pytest.raises(ParameterError, match="order"):
        split_heads(pair, ITEMS, orders=())


def test_random_neurons_are_others_than_the_named():
    rng = np.random.default_rng(0)
    named = np.array([3, 1, 4])
    assert not set(naming._others(rng, named, width=8)) & set(named)
    assert len(naming._others(rng, np.arange(6), width=8)) == 6


def test_public_names():
    assert heads.__all__ == ["HeadsResult", "split_heads"]


@pytest.mark.slow
def test_the_shipped_judge_decides_in_heads_that_read_the_answers():
    """The demo judge learned to judge: what it writes at the verdict comes from the answers, and really matters."""
    from workbench import load_items, load_pair

    found = split_heads(load_pair("demo"), load_items("demo:test", limit=32), progress=False, controls=3)
    assert found.passing("content").any()
    assert "toward the labelled answer" in found.finding.headline
    effect, random = (found.cells(x, found.named_view) for x in (found.confirmed_effect, found.confirmed_control))
    assert abs(effect.value) > 2 * abs(random.value)
    names, values = found.by_role(found.region_push.sum((2, 3)))
    taken = dict(zip(names, found.cells(values, "content").value, strict=True))
    answers = taken["labelled answer"] + taken["other answer"]
    assert answers > 0.5 * sum(taken.values())
    named = found.cells(found.neuron_push.sum((2, 3)), "content").value
    assert named > 3 * abs(found.cells(found.neuron_control_push.sum((2, 3)), "content").value)
