"""Scores of texts and chats, and what TuCo says of a reward judge."""

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from analyses.readout import ScalarHead
from analyses.tuco.cuts import units
from analyses.tuco.evaluation import Evaluation
from analyses.tuco.prompts import Choices, measure_prompts
from tests.pairs.head_pairs import LABELS, TEXTS, random_headed, saved, write_folders
from tests.tiny_models import LAYERS, tiny_classifier, tiny_tokenizer
from workbench.errors import ContextWindowError, FormatError, ItemError, ParameterError
from workbench.pairs import load_pair, scaled_logits
from workbench.pairs.loading.heads import active_head
from workbench.pairs.tiny import scaled_noise, tiny_pair, tuned_copy
from workbench.tokens import TokenBatch

CHATS = [
    [{"role": "user", "content": "What is 2 plus 2?"}, {"role": "assistant", "content": answer}]
    for answer in ("4", "five, or so I was told")
]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pairs(request, tmp_path_factory):
    """One reward adapter as it is, and merged into a full judge."""
    here = write_folders(request.param, tmp_path_factory.mktemp(request.param))
    merged = PeftModel.from_pretrained(random_headed(here.base), here.adapter).merge_and_unload().eval()
    folder = saved(merged, tmp_path_factory.mktemp("merged"))
    return [load_pair(here.base, judge, device="cpu", doctor=False) for judge in (here.adapter, folder)]


@pytest.fixture(scope="module")
def reward(pairs):
    return pairs[0]


def test_chats_are_written_in_the_judges_template(reward):
    scores = reward.scores(CHATS, prompt_ids=["four", "five"])
    written = [
        "<user>What is 2 plus 2?\n<assistant>4\n",
        "<user>What is 2 plus 2?\n<assistant>five, or so I was told\n",
    ]
    rows = [tiny_tokenizer()(text, add_special_tokens=False)["input_ids"] for text in written]
    with torch.no_grad():
        expected = torch.cat([reward.judge(torch.tensor([row])).logits for row in rows])
    np.testing.assert_allclose(scores.values[:, 1], expected.numpy(), atol=5e-5)
    assert scores.prompt_ids == ("four", "five")
    np.testing.assert_array_equal(scores.of("judge", label=1), scores.values[:, 1, 1])


def test_the_table_is_tidy_and_calls_a_probe_a_probe(reward):
    scores = reward.scores(TEXTS, prompt_ids=[f"t{i}" for i in range(len(TEXTS))])
    frame = scores.to_frame()
    assert list(frame.columns) == ["item", "model", "metric", "value"]
    assert len(frame) == len(TEXTS) * 2 * LABELS
    assert set(frame["model"]) == {"base (probe)", "judge"}
    assert set(frame["metric"]) == {"score of LABEL_0", "score of LABEL_1"}
    assert "base (probe)" in repr(scores)
    with pytest.raises(ValueError, match="read-only"):
        scores.values[0] = 0
    one = reward.scores(TEXTS, sides=["judge"])
    assert one.models == ("judge",)
    with pytest.raises(ParameterError, match="wasn't asked"):
        one.of("base")


def test_order_and_batch_size_dont_matter(reward):
    forwards = reward.scores(TEXTS, batch_size=2).values
    backwards = reward.scores(TEXTS[::-1], batch_size=5).values[::-1]
    np.testing.assert_allclose(forwards, backwards, atol=5e-5)


@pytest.mark.parametrize(
    ("texts", "options", "error", "words"),
    [
        ([], {}, ItemError, "nothing to score"),
        ("one text", {}, ParameterError, "list of texts"),
        (["word " * 400], {}, ContextWindowError, "longer than the models' window"),
        (TEXTS, {"prompt_ids": ["a"]}, ParameterError, "one label per text"),
        (TEXTS, {"batch_size": 0}, ParameterError, "too small"),
    ],
)
def test_bad_input_is_refused(reward, texts, options, error, words):
    with pytest.raises(error, match=words):
        reward.scores(texts, **options)


def test_a_chat_without_a_template_is_refused():
    pair = load_pair(
        tiny_classifier("llama"), tiny_classifier("llama", seed=1), tokenizer=tiny_tokenizer(), doctor=False,
        device="cpu",
    )  # fmt: skip
    with pytest.raises(FormatError, match="no chat template"):
        pair.scores(CHATS)
    assert set(pair.scores(TEXTS).to_frame()["model"]) == {"base", "judge"}


def test_a_broken_chat_template_is_named_as_where_items_are_written():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}"
    pair = load_pair(
        tiny_classifier("llama"), tiny_classifier("llama", seed=1), tokenizer=tokenizer, doctor=False, device="cpu"
    )
    with pytest.raises(FormatError, match="chat template can't write this chat"):
        pair.scores(CHATS)


def test_a_pair_that_writes_text_has_no_scores():
    with pytest.raises(ParameterError, match="no classification head"):
        tiny_pair().scores(TEXTS)


def _measured(pair, *, judge="judge", base="base", **how):
    rows = [tiny_tokenizer()(text)["input_ids"] for text in TEXTS]
    batch = TokenBatch.from_rows(rows, pad_id=0)
    parts = units("block", n_layers=LAYERS, parallel=pair.anatomy("judge").parallel)
    readout = ScalarHead(active_head(pair.module(judge)), index=1)
    choices = Choices(parts=parts, norm="l1", readout=readout, free_base=True, how=Evaluation(**how))
    return measure_prompts(pair.executor(judge), pair.executor(base), batch, choices=choices).row


@pytest.mark.parametrize("last_only", [False, True])
def test_tuco_splits_a_reward_exactly(pairs, last_only):
    for pair in pairs:
        row = _measured(pair, last_only=last_only)
        scores = pair.scores(TEXTS)
        np.testing.assert_allclose(row["judge_gap"], scores.of("judge", label=1), atol=5e-5)
        np.testing.assert_allclose(row["base_gap"], scores.of("base", label=1), atol=5e-5)
        whole = row["embedding_push"] + row["embedding_change_push"] + row["bias_push"]
        whole = whole + row["pretrained_push"].sum(-1) + row["finetuned_push"].sum(-1)
        np.testing.assert_allclose(whole, row["judge_gap"], atol=5e-5)


def test_adapter_and_merged_form_have_the_same_shares(pairs):
    lora, full = (_measured(pair) for pair in pairs)
    for name in ("finetuned_norm", "pretrained_norm", "profile", "finetuned_push"):
        np.testing.assert_allclose(lora[name], full[name], rtol=1e-4, atol=1e-4)
    assert (lora["finetuned_norm"] > 0).all()


def test_a_judge_against_itself_is_exactly_nothing(reward):
    assert not _measured(reward, base="judge")["finetuned_parts"].any()


def test_what_was_tuned_in_one_block_is_found_there(tmp_path):
    base = tiny_classifier("llama", labels=2)
    tuned = tuned_copy(base, change=scaled_noise(0.3, only="layers.2."))
    pair = load_pair(saved(base, tmp_path / "base"), saved(tuned, tmp_path / "judge"), device="cpu", doctor=False)
    parts = _measured(pair)["finetuned_parts"]
    assert not parts[:, :2].any()
    assert parts[:, 2].all()
    assert isinstance(pair.judge, type(AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge")))


def test_scaled_fine_tuning_reads_the_head_at_every_position(reward):
    rows = [tiny_tokenizer()(text)["input_ids"] for text in TEXTS]
    batch = TokenBatch.from_rows(rows, pad_id=0)
    for alpha, side in ((1.0, "judge"), (0.0, "base")):
        plain = reward.executor(side).run(batch, logits="all").logits
        scaled = scaled_logits(reward, batch, alpha=alpha, ends=side)
        assert scaled.shape == plain.shape
        torch.testing.assert_close(scaled[batch.mask], plain[batch.mask], atol=5e-5, rtol=0)
        last = scaled_logits(reward, batch, alpha=alpha, ends=side, logits="last")
        torch.testing.assert_close(last, plain[:, -1], atol=5e-5, rtol=0)
