"""Tokenizers that drifted: what each guard says, and what only looks like drift."""

import json

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.pairs.drift_pairs import CHATML, WORDS, tokenizer_with
from workbench.pairs import PairReport
from workbench.pairs.guards.tokens import template_excerpt, tokenizer_guards
from workbench.pairs.tiny import byte_tokenizer
from workbench.pairs.vocabulary import Vocabulary

SAME = Vocabulary(base_rows=300, judge_rows=300, beyond_base=(), beyond_judge=())


def rows(base, judge):
    return {guard.name: guard for guard in tokenizer_guards(base, judge, SAME)}


def wrapped(core: Tokenizer, **options) -> PreTrainedTokenizerFast:
    settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} | options
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **settings)


def edited(change) -> PreTrainedTokenizerFast:
    data = json.loads(byte_tokenizer().backend_tokenizer.to_str())
    change(data)
    return wrapped(Tokenizer.from_str(json.dumps(data)))


def test_equal_tokenizers_warn_of_nothing():
    found = rows(byte_tokenizer(), byte_tokenizer())
    assert {guard.status for guard in found.values()} == {"ok"}
    assert found["vocabulary"].value == "259 tokens, same ids"
    assert found["tokens put around a text"].value == "<s> text"
    assert "several scripts" in found["same text, same ids"].value


def test_one_tokenizer_for_both_is_said():
    guards = tokenizer_guards(None, byte_tokenizer(), SAME)
    assert "one tokenizer serves both" in {guard.value for guard in guards}


def test_added_tokens_are_named():
    found = rows(byte_tokenizer(), tokenizer_with("<|im_start|>", "[PAD]"))["vocabulary"]
    assert (found.status, found.value) == ("warn", "the judge adds 2 tokens ('<|im_start|>', '[PAD]')")


def test_a_reserved_token_that_got_a_new_name_is_said():
    base, judge = tokenizer_with("<|reserved_0|>"), tokenizer_with("[PAD]")
    found = rows(base, judge)["vocabulary"]
    assert (found.status, found.value) == ("warn", "the judge renames 1 token ('<|reserved_0|> -> [PAD]')")


def test_an_added_token_the_judge_dropped_is_said():
    found = rows(tokenizer_with("<|tool|>"), byte_tokenizer())["vocabulary"]
    assert (found.status, found.value) == ("warn", "the judge's tokenizer lacks 1 token ('<|tool|>')")


def test_a_plain_token_under_another_id_is_refused():
    def swap(data):
        vocabulary = data["model"]["vocab"]
        vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]

    found = rows(byte_tokenizer(), edited(swap))["vocabulary"]
    assert found.status == "fail"
    assert "2 tokens have other ids" in found.value


def test_a_plain_token_that_is_gone_is_refused_unless_the_judge_made_it_special():
    def lose(data):
        data["model"]["vocab"]["zz"] = data["model"]["vocab"].pop("Z")

    assert rows(byte_tokenizer(), edited(lose))["vocabulary"].status == "fail"

    def reuse(data):
        index = data["model"]["vocab"].pop("Z")
        data["model"]["vocab"]["[PAD]"] = index
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        data["added_tokens"].append({"id": index, "content": "[PAD]", **flags})

    found = rows(byte_tokenizer(), edited(reuse))["vocabulary"]
    assert (found.status, found.value) == ("warn", "the judge renames 1 token ('Z -> [PAD]')")


def test_changed_special_tokens_are_named():
    judge = byte_tokenizer()
    judge.pad_token = "</s>"
    found = rows(byte_tokenizer(), judge)["special tokens"]
    assert (found.status, found.value) == ("warn", "pad_token: <pad> -> </s>")


def test_a_bos_only_one_of_them_writes_is_seen_on_a_text():
    core = byte_tokenizer().backend_tokenizer
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    found = rows(byte_tokenizer(), wrapped(core))["tokens put around a text"]
    assert (found.status, found.value) == ("warn", "base <s> text, judge text </s>")


@pytest.mark.parametrize(
    "change",
    [
        lambda core: setattr(core, "normalizer", normalizers.NFKC()),
        lambda core: setattr(core, "normalizer", normalizers.Lowercase()),
        lambda core: setattr(core, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)),
    ],
)
def test_the_same_text_under_other_ids_is_seen_where_the_vocabulary_is_the_same(change):
    core = byte_tokenizer().backend_tokenizer
    change(core)
    found = rows(byte_tokenizer(), wrapped(core))
    assert found["vocabulary"].status == "ok"
    assert found["same text, same ids"].status == "warn"
    assert "probe texts differ, e.g." in found["same text, same ids"].value


def test_the_padding_side_is_no_drift():
    judge = byte_tokenizer()
    judge.padding_side = "left"
    assert {guard.status for guard in rows(byte_tokenizer(), judge).values()} == {"ok"}


def test_other_templates_are_shown_line_by_line():
    found = rows(tokenizer_with(template=WORDS), tokenizer_with(template=CHATML))["chat template"]
    assert found.status == "warn"
    assert "they differ: -{% for m in messages %}## " in found.value
    assert "+{% for m in messages %}<|im_start|>" in found.value
    assert "template_drift" in found.detail


@pytest.mark.parametrize(("base", "judge", "words"), [(None, CHATML, "the base has none"), (CHATML, None, "the judge")])
def test_a_missing_template_is_said(base, judge, words):
    found = rows(tokenizer_with(template=base), tokenizer_with(template=judge))["chat template"]
    assert found.status == "warn"
    assert words in found.value


def test_excerpts_are_short_and_printable():
    left = "{% if a %}x\x1b[31m{% endif %}" + "y" * 500
    lines = template_excerpt(left, "\n".join(f"line {k}" for k in range(40)))
    assert all(line.isprintable() and len(line) < 100 for line in lines)
    assert len(lines) <= 7
    assert lines[-1].startswith("... ")
    assert any("\\x1b" in line for line in lines)


def test_hostile_templates_are_escaped_in_the_report():

    guards = tokenizer_guards(
        tokenizer_with(template="<script>a</script>{{ x }}"), tokenizer_with(template=CHATML), SAME
    )
    page = PairReport(name="x", guards=tuple(guards))._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
