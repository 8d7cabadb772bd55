"""Asking a pair with another chat template: the same models, other words, another identity."""

import pytest

from tests.pairs.drift_pairs import CHATML, WORDS, grown_pair, items, template_pair
from workbench.errors import FormatError, ParameterError
from workbench.pairs import identical_pair, run_meta


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return template_pair(tmp_path_factory.mktemp("templates"))


def text(pair):
    return pair.encode(items(1)).prompts[0].text


def test_the_judges_template_is_the_default_and_both_tokenizers_are_kept(pair):
    assert "<|im_start|>user" in text(pair)
    assert pair.tokenizer.chat_template == CHATML
    assert pair.base_tokenizer.chat_template == WORDS
    assert any("chat template: they differ" in warning for warning in pair.report.warnings)


def test_another_template_changes_the_words_the_identity_and_the_table_and_nothing_else(pair):
    other = pair.with_template("base")
    assert "## user" in text(other)
    assert "<|im_start|>" not in text(other)
    assert other.judge is pair.judge
    assert other.executor("judge") is not None
    assert pair.tokenizer.chat_template == CHATML, "a copy was changed"
    assert other.identity()["chat_template"] != pair.identity()["chat_template"]
    assert other.identity()["judge"] == pair.identity()["judge"]
    meta = run_meta(other, items(), analysis="test", parameters={}, seed=0, wall_time_s=0.0)
    assert any("template in force: the base's" in warning for warning in meta.warnings)


def test_templates_can_be_taken_back_and_replaced(pair):
    other = pair.with_template("base").with_template("{{ messages[-1]['content'] }}")
    rows = [row for row in other.report.guards if row.name == "template in force"]
    assert [row.value.split(" (")[0] for row in rows] == ["the caller's"]
    back = other.with_template("judge")
    assert back.tokenizer is pair.tokenizer
    assert back.identity() == pair.identity()
    assert back.report.guards == pair.report.guards


def test_a_template_equal_to_the_judges_is_the_judges(pair):
    assert pair.with_template(CHATML).tokenizer is pair.tokenizer


def test_a_base_without_a_template_is_asked_in_plain_text(tmp_path):
    pair = template_pair(tmp_path, base_template=None).with_template("base")
    prompt = pair.encode(items(1)).prompts[0]
    assert not prompt.chat
    assert "<|im_start|>" not in prompt.text


def test_the_pair_of_a_judge_with_itself_keeps_its_templates(pair):
    itself = identical_pair(pair.with_template("base"))
    assert "## user" in text(itself)
    assert "<|im_start|>" in text(itself.with_template("judge"))


def test_what_changes_nothing_or_isnt_known_is_refused(pair):
    with pytest.raises(ParameterError, match="writes no chat"):
        grown_pair().with_template("base")
    one = grown_pair(format="bracket", added_tokens="mean")
    with pytest.raises(ParameterError, match="one tokenizer was given for both") as caught:
        one.with_template("base")
    assert "pass the template's text" in caught.value.fix
    with pytest.raises(ParameterError, match="writes no message"):
        pair.with_template("jugde")
    with pytest.raises(FormatError, match="template"):
        pair.with_template("{{ messages | nonsense }}").encode(items(1))
