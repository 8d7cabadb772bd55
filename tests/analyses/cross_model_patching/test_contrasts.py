"""Contrasts: exact nulls, known recoveries, planted changes, shams, the demo judge, displays, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analyses.cross_model_patching.contrasts import ContrastResult, contrast, views
from analyses.cross_model_patching.contrasts.work import Work
from tests.pairs.drift_pairs import template_pair
from workbench.errors import FormatError, ParameterError
from workbench.judges import JudgeItem, load_items
from workbench.pairs import identical_pair, load_pair, random_delta_pair
from workbench.pairs.tiny import byte_tokenizer, tiny_model, tiny_pair, tuned_copy

WORDS = ("oak", "elm", "ash", "fir", "tin", "ore", "tea", "sea", "hat", "map", "jam", "sun", "fog", "ivy", "owl", "ink")
HEAD, WIDTH = 1, 8


def items(count=12, *, label=True):
    """Return items with answers of equal length, each its own cluster."""
    return [
        JudgeItem(
            item_id=f"i{k}", question=f"What is {WORDS[k]}?", answers=(WORDS[k - 1], WORDS[k - 2]),
            label=k % 2 if label else None,
        )
        for k in range(count)
    ]  # fmt: skip


def run(pair, some=None, name="order", **options):
    chosen = {"sites": ("z", "attn_out"), "last_k": 1, "controls": 0, "progress": False, **options}
    return contrast(pair, items() if some is None else some, name, **chosen)


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(n_layers=3)


@pytest.fixture(scope="module")
def demo():
    found = [item for item in load_items("demo:test") if item.meta["family"] == "plain"]
    return load_pair("demo"), found


@pytest.fixture(scope="module")
def result(demo):
    pair, found = demo
    return run(pair, found[:24], "better_worse", layers=(3, 4), controls=4, control_items=16)


@pytest.mark.parametrize("name", ["order", "verbosity", "cue"])
def test_identical_models_add_exactly_nothing(pair, name):
    found = run(identical_pair(pair), items(4), name, last_k=3, spans=("question",))
    assert not (found.margin[1] - found.margin[0]).any()
    assert not views.of_model(np.nan_to_num(found.effect), "judge - base").any()
    assert np.nan_to_num(found.effect).any(), "the contrast itself does something"
    assert found.finding.headline.startswith("Nothing found")
    assert not found.finding.found


def test_templates_do_exactly_the_same_to_identical_models(tmp_path):
    """T6: another template moves both models a lot, and the difference in differences not at all."""
    pair = identical_pair(template_pair(tmp_path))
    found = run(pair, items(4), "template", spans=("question", "answer_a"), layers=(1,))
    assert np.abs(found.sensitivity("base")).min() > 0
    assert not found.sensitivity("judge - base").any()
    spans = [i for i, span in enumerate(found.spans) if span]
    assert found.effect[0][..., spans].any()
    np.testing.assert_array_equal(found.effect[0], found.effect[1])


@pytest.mark.parametrize("direction", ["other_to_clean", "clean_to_other"])
def test_the_last_stream_holds_the_whole_contrast(pair, direction):
    found = run(pair, sites=("resid_post",), layers=(2,), direction=direction)
    for at, side in enumerate(("base", "judge")):
        np.testing.assert_allclose(found.effect[at, ..., 0], found.sensitivity(side), atol=1e-5)


def test_nothing_differs_before_the_first_changed_token(pair):
    found = run(pair, spans=("question", "answer_a"), sites=("resid_pre", "mlp_out"))
    question = [i for i, span in enumerate(found.spans) if span == "question"]
    other = [i for i, span in enumerate(found.spans) if span == "answer_a" and found.layers[i] == 1]
    assert not found.effect[..., question].any()
    assert (found.zero[..., question] == 1).all()
    assert (found.size[..., question] == 0).all()
    assert found.effect[..., other].all()


def test_spans_of_other_lengths_are_no_effect_not_an_effect_of_zero(pair):
    some = items(2)
    longer = JudgeItem(item_id="long", question="What is it?", answers=("sea", "a much longer answer"), label=0)
    found = run(pair, [*some, longer], spans=("answer_a",), sites=("resid_pre",), layers=(1,), last_k=0)
    assert np.isnan(found.effect[:, 2]).all()
    assert not np.isnan(found.effect[:, :2]).any()
    assert found.cells("judge").effect.n == 2
    with pytest.raises(ParameterError, match="same number of tokens"):
        run(pair, [longer], spans=("answer_a",))


def test_content_and_position_are_all_of_an_effect(result):
    content, position = (views.in_view(result, result.effect[1], view) for view in ("content", "position"))
    for k, sign in enumerate((1.0, -1.0)):
        again = sign * result.toward[:, None] * content + position
        np.testing.assert_allclose(again, result.effect[1][:, k], atol=1e-9)


def _planted(write):
    """Return a pair whose judge writes along the verdict what one head reads, times a row that ``write`` makes."""
    base = tiny_model(n_layers=3)
    tokenizer = byte_tokenizer()
    rows = base.get_output_embeddings().weight.detach()
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
    along = rows[letters[0]] - rows[letters[1]]
    plain = load_pair(
        base, base, tokenizer=tokenizer, format="pairwise", doctor=False, device="cpu", allow_identical=True
    )
    row = write(plain)

    def change(name, parameter, _generator):
        added = torch.zeros_like(parameter)
        if name.endswith("layers.1.self_attn.o_proj.weight"):
            added[:, HEAD * WIDTH : (HEAD + 1) * WIDTH] = torch.outer(along / along.norm(), row)
        return added

    judge = tuned_copy(base, change=change)
    return load_pair(base, judge, tokenizer=tokenizer, format="pairwise", doctor=False, device="cpu")


def _reads(pair):
    """Return what the head holds at the last token, [prompt, d_head]."""
    from workbench.hooks import Component, Site  # noqa: PLC0415

    site = Site(Component.Z, 1)
    batch = pair.encode(items(16), orders=("original", "swapped")).batch()
    return pair.executor("base").run(batch, capture=[site]).activations[site][:, -1, HEAD]


def test_a_head_that_learned_to_tell_the_slots_is_named_on_other_items():
    """The head's new write follows what differs between an item's two orders, so that its sign turns with the slots."""

    def write(plain):
        held = _reads(plain).unflatten(0, (-1, 2))
        sign = torch.tensor([1.0 if item.label == 0 else -1.0 for item in items(16)])
        turned = ((held[:, 0] - held[:, 1]) * sign[:, None]).mean(0)
        return 40 * turned / turned.norm() ** 1.0

    found = run(_planted(write), items(16), sites=("z",), controls=4)
    best = int(np.nanargmax(np.abs(found.cells("judge - base").effect.value)))
    assert (found.layers[best], found.heads[best]) == (1, HEAD)
    total = found.totals()[0]
    assert total.found
    named = found.named_cells()
    assert (found.layers[named[0].cell], found.heads[named[0].cell]) == (1, HEAD)
    assert named[0].found
    assert "head 1 of block 1 (z) at -1" in found.finding.headline


def test_a_constant_push_to_a_slot_is_a_bias_and_no_contrast():
    def write(plain):
        mean = _reads(plain).mean(0)
        return 20 * mean / mean.norm() ** 2

    found = run(_planted(write), items(16), sites=("z",), controls=4)
    content, position, bias = found.totals()
    assert bias.part == "bias"
    assert bias.found
    assert bias.added.value > 1
    assert not position.found
    assert abs(content.added.value) < bias.added.value / 3
    assert "position bias" in found.finding.headline
    direct = (found.margin[1, 0] - found.margin[0, 0]).mean()
    assert bias.added.value == pytest.approx(direct)


@pytest.mark.parametrize("name", ["order", "better_worse"])
def test_random_changes_are_no_finding(demo, name):
    pair, found = demo
    sham = random_delta_pair(pair, seed=100)
    said = run(sham, found[:16], name, sites=("z",), layers=(4,), controls=5).finding
    assert not said.found
    assert said.headline.startswith("Nothing found")


def test_random_changes_pass_for_findings_no_oftener_than_the_level_says(demo):
    """Each of ten random judges in the judge's place, held against the nine others."""
    pair, found = demo
    whole = run(pair, found[:10], sites=("z",), layers=(4,), controls=10)
    found_in = 0
    for draw in range(10):
        others = [k for k in range(10) if k != draw]
        margin = np.stack([whole.margin[0], whole.random_margin[draw]])
        effect = np.stack([whole.effect[0], whole.random_effect[draw]])
        sham = replace(whole, margin=margin, effect=effect, random_margin=whole.random_margin[others],
                       random_effect=whole.random_effect[others])  # fmt: skip
        found_in += sham.finding.found
    assert whole.finding.found
    assert found_in <= 2


def test_the_demo_judge_tells_the_better_answer_and_its_head_is_named(result):
    assert set(result.kinds) == {"design"}
    total = result.totals()[0]
    assert total.found
    assert total.added.value > 3
    assert abs(total.base.value) < 0.3
    held = [cell for cell in result.named_cells() if cell.found]
    assert {(result.components[c.cell], result.layers[c.cell]) for c in held} >= {("attn_out", 4), ("z", 4)}
    assert held[0].share.value == pytest.approx(1.0, abs=0.35)


def test_margins_that_barely_differ_give_no_recovery_and_say_so(result):
    assert np.isnan(result.cells("base").recovery.value).all()
    assert not np.isnan(result.cells("base").effect.value).any()
    assert not np.isnan(result.cells("judge").recovery.value).any()
    assert any("recovery isn't defined there" in limit and "base (content" in limit for limit in result.finding.limits)


def test_controls_are_measured_and_smaller_than_the_cell_that_carries(result):
    numbers = result.cells("judge")
    best = int(np.nanargmax(np.abs(numbers.effect.value)))
    assert abs(numbers.noise.value[best]) < abs(numbers.effect.value[best]) / 2
    assert not np.isnan(numbers.mismatched.value).any()
    assert len(result.random_margin) == 4
    assert result.self_test < 1e-3
    assert all(entry.control for entry in result.finding.estimates if entry.name.startswith("interaction"))


def test_items_without_labels_tell_no_direction(pair):
    found = run(pair, items(8, label=False))
    assert np.isnan(found.toward).all()
    assert found.totals()[0].added.n == 0
    assert not found.finding.found
    assert run(pair, items(8, label=False), "verbosity").totals()[0].added.n == 8, "padding has a direction of its own"


def test_one_order_is_said_not_to_split(pair):
    found = run(pair, items(8), "verbosity", orders=("original",))
    assert found.totals()[1].added.n == 0
    assert any("Only one order" in limit for limit in found.finding.limits)


def test_versions_of_the_callers_own(pair):
    some = items(4)
    other = [JudgeItem(item_id=i.item_id, question=f"{i.question} Now?", answers=i.answers) for i in some]
    found = run(pair, some, "who", other=other, toward=[0, 1, 0, -1])
    assert found.title == "who"
    assert set(found.kinds) == {"right"}
    np.testing.assert_array_equal(found.toward, [1, -1, 1, np.nan])
    with pytest.raises(ParameterError, match="contrast"):
        run(pair, some, "who")
    with pytest.raises(ParameterError, match="toward"):
        run(pair, some, toward=[0])
    with pytest.raises(FormatError, match="align"):
        run(pair, some, "who", other=other, align="design")


def test_an_interrupted_run_keeps_what_is_finished(pair, monkeypatch):
    whole, asked = Work.measure, []

    def measure(self, chosen):
        asked.append(chosen)
        if len(asked) == 2:
            raise KeyboardInterrupt
        whole(self, chosen)

    monkeypatch.setattr(Work, "measure", measure)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        found = run(pair, items(8), batch_size=8)
    assert len(found.item_ids) == 4
    assert not np.isnan(found.margin).any()
    assert any("4 of 8 items" in what for what in found.meta.not_measured)


def test_saved_tabled_and_drawn(result, tmp_path):
    again = ContrastResult.load(result.save(tmp_path / "kept"))
    np.testing.assert_array_equal(again.effect, result.effect)
    assert again.finding == result.finding
    table = result.to_frame()
    assert {"sensitivity", "effect", "recovery", "named", "verdict_margin"} <= set(table["metric"])
    row = table[(table["metric"] == "sensitivity") & (table["model"] == "judge - base")].iloc[0]
    assert row["value"] == pytest.approx(result.totals()[0].added.value)
    panels = result.panels()
    assert len(panels) == 2 + 2 * len(set(result.components))
    for panel in panels:
        figure = panel.draw()
        assert figure.axes
    three = panels[-1].draw()
    limits = [image.get_clim() for ax in three.axes for image in ax.get_images()]
    assert len(set(limits)) == 1
    assert len(limits) == 3
