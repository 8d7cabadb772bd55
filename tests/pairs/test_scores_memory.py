"""Memory that runs out over scores: batches are halved, finished texts are kept, and the error is one of ours."""

import numpy as np
import pytest
import torch

from tests.pairs.head_pairs import TEXTS
from tests.tiny_models import tiny_classifier, tiny_tokenizer
from workbench.errors import MemoryShortage
from workbench.hooks import Anatomy, HooksBackend
from workbench.pairs import BatchSizes, load_pair
from workbench.pairs.tiny import tiny_pair
from workbench.tokens import TokenBatch


@pytest.fixture(scope="module")
def reward():
    base, judge = tiny_classifier("llama"), tiny_classifier("llama", seed=1)
    return load_pair(base, judge, tokenizer=tiny_tokenizer(), doctor=False, device="cpu")


@pytest.fixture
def room(monkeypatch):
    """Let memory run out on batches with more texts, or longer ones, than this."""
    limit, plain = {"texts": 10**9, "tokens": 10**9}, HooksBackend.run

    def run(self, batch: TokenBatch, **kwargs):
        if len(batch) > limit["texts"] or batch.ids.shape[1] > limit["tokens"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(self, batch, **kwargs)

    monkeypatch.setattr(HooksBackend, "run", run)
    return limit


def test_scores_in_halved_batches_are_the_same(reward, room):
    whole = reward.scores(TEXTS, batch_size=len(TEXTS)).values
    room["texts"] = 1
    np.testing.assert_allclose(reward.scores(TEXTS, batch_size=len(TEXTS)).values, whole, atol=5e-5)


def test_a_text_that_does_not_fit_is_named_and_the_others_are_kept(reward, room):
    whole = reward.scores(TEXTS)
    lengths = [len(tiny_tokenizer()(text)["input_ids"]) for text in TEXTS]
    longest = int(np.argmax(lengths))
    room["tokens"] = max(lengths) - 1
    with pytest.raises(MemoryShortage, match=f"'{longest}' with {max(lengths)} tokens") as shortage:
        reward.scores(TEXTS)
    finished = shortage.value.finished
    kept = [index for index in range(len(TEXTS)) if lengths[index] < max(lengths)]
    assert finished.prompt_ids == tuple(map(str, kept))
    np.testing.assert_allclose(finished.values, whole.values[kept], atol=5e-5)


def test_where_nothing_fits_nothing_is_finished(reward, room):
    room["texts"] = 0
    with pytest.raises(MemoryShortage) as shortage:
        reward.scores(TEXTS)
    assert shortage.value.finished is None


def test_another_error_is_not_taken_for_exhaustion(reward, monkeypatch):
    def run(self, batch, **kwargs):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(HooksBackend, "run", run)
    with pytest.raises(RuntimeError, match="shapes differ"):
        reward.scores(TEXTS)


def test_entries_left_out_alone_do_not_stop_the_rest():
    sizes, left = BatchSizes(), []

    def run(chosen):
        if 2 in chosen:
            raise MemoryError
        return sum(chosen)

    assert list(sizes.each([range(4), (4, 5)], run, alone=lambda index, _err: left.append(index))) == [
        ((0, 1), 1), ((3,), 3), ((4,), 4), ((5,), 5),
    ]  # fmt: skip
    assert left == [2]
    assert (sizes.most, sizes.ran_out_at) == (1, 4)


def test_exhaustion_while_a_model_is_taken_apart_is_explained(monkeypatch):
    pair = tiny_pair()

    def of(module, tokenizer=None):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Anatomy, "of", of)
    fresh = load_pair(pair.base, pair.judge, tokenizer=pair.tokenizer, format="pairwise", doctor=False, device="cpu")
    with pytest.raises(MemoryShortage, match="the judge on cpu"):
        fresh.executor("judge")
