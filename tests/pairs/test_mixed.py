"""Rows of an adapter's judge and of its base in one batch."""

import pytest
import torch
from peft.tuners.lora import LoraLayer

from workbench.errors import ParameterError
from workbench.pairs import adapter_on_first_rows, can_mix, identical_pair
from workbench.pairs.tiny import tiny_pair
from workbench.tokens import TokenBatch

ROWS = [[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]]


def test_first_rows_are_the_judges_and_the_rest_the_bases():
    for architecture in ("llama", "gpt2"):
        pair = tiny_pair(kind="lora", architecture=architecture)
        batch = TokenBatch.from_rows(ROWS, pad_id=0)
        twice = TokenBatch.from_rows(ROWS + ROWS, pad_id=0)
        with torch.no_grad():
            judge, base = (m(**batch.forward_kwargs()).logits for m in (pair.judge, pair.base))
            with adapter_on_first_rows(pair.judge, rows=2):
                both = pair.judge(**twice.forward_kwargs()).logits
            after = pair.judge(**batch.forward_kwargs()).logits
        torch.testing.assert_close(both[:2], judge, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(both[2:], base, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(judge, base, atol=1e-3)
        assert torch.equal(after, judge), "the hooks are gone"


def test_only_a_plain_adapter_over_its_own_base_can_be_mixed():
    lora, full = tiny_pair(kind="lora"), tiny_pair()
    assert can_mix(lora.base, lora.judge)
    assert not can_mix(full.base, full.judge)
    assert not can_mix(lora.judge, lora.judge), "both sides have the adapter"
    assert not can_mix(identical_pair(lora).base, identical_pair(lora).judge)
    assert not can_mix(tiny_pair(seed=1).base, lora.judge), "another base"
    layer = next(m for m in lora.judge.modules() if isinstance(m, LoraLayer))
    layer.use_dora["default"] = True
    assert not can_mix(lora.base, lora.judge)


def test_a_model_without_an_adapter_is_refused():
    with pytest.raises(ParameterError, match="no adapter"), adapter_on_first_rows(tiny_pair().judge, rows=1):
        pass
