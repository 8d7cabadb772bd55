"""Two models under two templates: exact nulls, a planted token, an independent repair, refusals, displays."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from analyses import template_drift
from analyses.template_drift import TEMPLATES, TemplateDriftResult
from tests.pairs.drift_pairs import ADDED, CHATML, WORDS, grown_pair, items, template_pair, tokenizer_with
from workbench.errors import ItemError, MemoryShortage, PairMismatch, ParameterError
from workbench.judges import get_format
from workbench.pairs import identical_pair, random_delta_pair

BASE, SPACE = TEMPLATES.index("base"), TEMPLATES.index("white space")


def run(pair, count=10, **options):
    return template_drift.run(pair, items(count), progress=False, **{"controls": 0, **options})


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return template_pair(tmp_path_factory.mktemp("planted"), planted=1.0)


@pytest.fixture(scope="module")
def result(pair):
    return run(pair, controls=3)


def test_a_planted_template_token_is_all_there_is(pair, result):
    """Without the token the two models are one: their difference under the base's template is exactly 0."""
    assert not (result.judge_margin - result.base_margin)[BASE].any()
    assert (result.judge_margin - result.base_margin)[0].all()
    np.testing.assert_array_equal(result.drift(), (result.judge_margin - result.base_margin)[0])
    size = result.effects()[-1]
    assert size.way == "in size"
    assert size.holds
    assert size.drift.value > size.control.value > 0


def test_putting_the_token_back_takes_the_drift_away(pair):
    row = pair.tokenizer.convert_tokens_to_ids("<|im_start|>")
    own, base = (m.get_input_embeddings().weight for m in (pair.judge, pair.base))
    with torch.no_grad():
        kept = own[row].clone()
        own[row] = base[row]
        try:
            repaired = run(pair, 4)
        finally:
            own[row] = kept
    assert not repaired.drift().any()


@torch.no_grad()
def _score(module, row, tail):
    """Log-probability of a label after a prompt, from one plain forward."""
    logprobs = module(torch.tensor([row + tail])).logits[0].log_softmax(-1)
    return sum(float(logprobs[len(row) - 1 + j, token]) for j, token in enumerate(tail))


def test_margins_are_those_of_the_models_alone(pair, result):
    """An independent reading: whole labels scored one by one without batches, executors or our readout."""
    for at, name in enumerate(("judge", "base")):
        asked = pair.with_template(name)
        encoded = asked.encode(items(2))
        for side in ("judge", "base"):
            for k, (row, tails) in enumerate(zip(encoded.rows, encoded.tails, strict=True)):
                scores = [_score(asked.module(side), row, tail) for tail in tails]
                item, order = divmod(k, 2)
                assert result.margins(side)[at, item, order] == pytest.approx(scores[0] - scores[1], abs=1e-4)
                mass = (result.judge_mass if side == "judge" else result.base_mass)[at, item, order]
                assert mass == pytest.approx(np.exp(scores).sum(), rel=1e-3)


@pytest.mark.parametrize("against", ["base", "{{ bos_token }}" + WORDS])
def test_a_model_against_itself_is_exactly_zero(pair, against):
    found = run(identical_pair(pair), 4, against=against)
    assert not found.drift().any()
    assert not found.drift("white space").any()
    assert found.finding.headline.startswith("Nothing found: judge and base differ under both templates by exactly")
    assert found.judge_margin[0].std() > 0, "the templates do move both"


def test_tuning_that_hardly_moved_anything_shows_hardly_any_drift(tmp_path):
    found = run(template_pair(tmp_path, planted=0.0, tuned=1e-5), 8)
    assert not [effect for effect in found.effects() if effect.holds and abs(effect.drift.value) > 1e-2]


def test_white_space_is_one_line_break_more(pair):
    spaced = pair.with_template(CHATML + "{{ '\\n' }}").encode(items(1)).prompts[0].text
    plain = pair.encode(items(1)).prompts[0].text
    assert spaced.replace("assistant\n\n", "assistant\n") == plain
    assert len(spaced) == len(plain) + 1


def test_the_base_without_a_template_is_asked_plainly(tmp_path):
    found = run(template_pair(tmp_path, base_template=None), 4)
    assert not (found.judge_margin - found.base_margin)[BASE].any()


def test_label_mass_is_shown_and_said_where_a_model_leaves_its_format(result):
    assert any("of its probability on the labels" in limit for limit in result.finding.limits)
    assert any("puts on the labels" in estimate.name and estimate.control for estimate in result.finding.estimates)


def test_flips_and_agreement_follow_the_margins(result):
    frame = result.to_frame()
    flipped = frame[(frame.metric == "flipped") & (frame.model == "judge")]
    expected = np.mean((result.judge_margin[0] > 0) != (result.judge_margin[BASE] > 0))
    assert flipped.value.item() == pytest.approx(expected)
    agreed = frame[(frame.metric == "agreement") & (frame.model == "base") & (frame.direction == "judge")]
    assert agreed.value.item() == pytest.approx((result.toward_label(result.base_margin)[0] > 0).mean())


def test_one_order_without_labels_has_no_direction_but_a_size(pair):
    bare = [dataclasses.replace(item, label=None) for item in items(6)]
    found = template_drift.run(pair, bare, orders=["original"], progress=False)
    assert [effect.way for effect in found.effects()] == ["in size"]
    assert found.summary()
    assert found.plot().get_ylabel() == "nats toward the first slot"


def test_batches_and_seeds_dont_matter(pair, result):
    again = run(pair, batch_size=3)
    np.testing.assert_allclose(again.judge_margin, result.judge_margin, atol=2e-5)
    same = run(pair, controls=3)
    np.testing.assert_array_equal(same.judge_margin, result.judge_margin)
    assert same.to_frame().equals(result.to_frame())


def test_the_result_knows_the_templates_and_comes_back_from_disk(pair, result, tmp_path):
    assert result.excerpt[0].startswith("-{% for m in messages %}## ")
    assert len(set(result.meta.edits)) == 3
    assert result.against == "the base's template"
    assert 0 <= result.meta.noise_floor < 1e-4
    back = TemplateDriftResult.load(result.save(tmp_path / "saved"))
    assert back.summary() == result.summary()
    assert back.to_frame().equals(result.to_frame())
    assert "TemplateDriftResult" in repr(back)
    assert "<strong>" in back._repr_html_()


def test_every_panel_draws(result):
    captions = [panel.caption for panel in result.panels()]
    assert len(captions) == 3
    assert all("n = 10 items" in caption for caption in captions)
    for panel in result.panels():
        assert panel.draw().axes


def test_tokens_of_the_base_that_the_judge_never_had_are_said(pair):
    base = copy.deepcopy(pair.base_tokenizer)
    base.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    found = run(dataclasses.replace(pair, base_tokenizer=base), 2, against=WORDS.replace("## ", "<|turn|>"))
    assert any("<|turn|>" in warning and "plain text" in warning for warning in found.meta.warnings)


def test_ctrl_c_keeps_what_is_finished(pair, monkeypatch):
    from analyses.template_drift import runner

    calls = []
    measure = runner._Work.measure

    def interrupted(work, chosen):
        calls.append(chosen)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return measure(work, chosen)

    monkeypatch.setattr(runner._Work, "measure", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        found = run(pair, batch_size=4)
    assert len(found.item_ids) == 4
    assert any("interrupted" in note for note in found.meta.not_measured)


def test_memory_that_runs_out_halves_the_batch(pair, result, monkeypatch):
    from analyses.template_drift import runner

    measure = runner._Work.measure

    def tight(work, chosen):
        if len(chosen) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return measure(work, chosen)

    monkeypatch.setattr(runner._Work, "measure", tight)
    found = run(pair)
    assert any("memory ran out" in warning for warning in found.meta.warnings)
    np.testing.assert_allclose(found.judge_margin, result.judge_margin, atol=2e-5)
    monkeypatch.setattr(runner._Work, "measure", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("x")))
    with pytest.raises(MemoryShortage):
        run(pair)


def test_refusals(pair, tmp_path):
    with pytest.raises(ParameterError, match="nothing to compare"):
        run(pair, against="judge")
    with pytest.raises(ParameterError, match="nothing to compare"):
        run(template_pair(tmp_path, base_template=CHATML))
    with pytest.raises(ParameterError, match="nothing to compare"):
        run(pair, against=CHATML + "{# a remark writes nothing #}")
    with pytest.raises(ParameterError, match="writes no chat"):
        run(dataclasses.replace(pair, format=get_format("pairwise")))
    with pytest.raises(ParameterError, match="one tokenizer was given"):
        run(grown_pair(format="bracket", added_tokens="mean"))
    with pytest.raises(PairMismatch, match="no row for"):
        run(grown_pair(format="bracket"), against=WORDS)
    with pytest.raises(ItemError):
        template_drift.run(pair, [], progress=False)
    with pytest.raises(ParameterError, match="batch_size"):
        run(pair, batch_size=0)
    with pytest.raises(ParameterError, match="no chat template"):
        run(dataclasses.replace(pair, tokenizer=tokenizer_with(*ADDED)))


def test_models_are_left_as_found(pair):
    before = {name: p.clone() for name, p in pair.judge.named_parameters()}
    state = torch.random.get_rng_state()
    run(pair, 2)
    assert all(torch.equal(p, before[name]) for name, p in pair.judge.named_parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module._forward_hooks for module in pair.judge.modules())


def test_random_judges_stand_beside_the_drift_and_say_whether_it_is_more_than_any_change_does(result):
    """In a random network one planted row does no more than the same norm anywhere, which has to be said."""
    size = result.effects()[-1]
    assert not size.beyond_chance
    assert size.chance.low < size.drift.value < size.chance.high
    assert not result.finding.found
    assert "judges moved as far at random answer to it as much" in result.finding.headline
    assert any("95% of further ones" in estimate.name for estimate in result.finding.estimates)
    noise = 1e-3 * np.random.default_rng(0).standard_normal((3, *result.base_margin.shape))
    quiet = dataclasses.replace(result, random_margin=result.base_margin + noise)
    assert quiet.effects()[-1].beyond_chance
    assert quiet.finding.found
    assert quiet.finding.headline.startswith("What tells judge from base hangs on the template")
    assert "further than in judges moved as far at random" in quiet.finding.headline
    frame = quiet.to_frame()
    assert (frame.model == "random judge - base").sum() == len(quiet.effects())


def test_margins_of_random_judges_are_those_of_their_models(pair, result):
    assert not np.isnan(result.random_margin).any()
    own = random_delta_pair(pair.with_template("judge"), seed=0)
    encoded = own.encode(items(1), orders=["original"])
    labels = [_score(own.judge, encoded.rows[0], tail) for tail in encoded.tails[0]]
    assert result.random_margin[0, 0, 0, 0] == pytest.approx(labels[0] - labels[1], abs=1e-4)


def test_a_judge_that_moved_at_random_is_not_beyond_chance(pair):
    sham = pair.with_judge(random_delta_pair(pair, seed=99).judge, name="sham")
    found = run(sham, controls=5)
    assert not any(effect.beyond_chance for effect in found.effects())
    assert not found.finding.found
    assert "further than" not in found.finding.headline


def test_controls_can_be_left_out_or_kept_to_some_items(pair):
    none = run(pair, 4)
    assert none.random_margin.shape[0] == 0
    assert any("controls=0" in note for note in none.meta.not_measured)
    assert all(effect.chance is None for effect in none.effects())
    some = run(pair, 6, controls=3, control_items=2)
    assert (~np.isnan(some.random_margin).all((0, 1, 3))).sum() == 2
    assert any("control_items" in note for note in some.meta.not_measured)
    itself = run(identical_pair(pair), 2, against=WORDS, controls=3)
    assert np.isnan(itself.random_margin).all()
    assert any("same model" in note for note in itself.meta.not_measured)
