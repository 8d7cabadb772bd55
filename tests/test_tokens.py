"""Named spans of a batch, token by token."""

import pytest
import torch

from workbench.errors import ParameterError
from workbench.tokens import Span, TokenBatch, innermost_names

SPANS = ({"instruction": Span(0, 4), "question": Span(1, 3)}, {"question": Span(0, 2)})
BATCH = TokenBatch.from_rows([[5, 6, 7, 8, 9], [5, 6, 7]], pad_id=0, spans=SPANS)


def test_the_innermost_span_wins():
    assert innermost_names(SPANS[0], length=5) == ("instruction", "question", "question", "instruction", "template")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["question"], [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]),
        (["instruction"], [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]]),
        (["template"], [[0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]),
        (["question", "instruction", "template"], [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]),
    ],
)
def test_a_mask_follows_the_padding_which_lies_in_no_span(names, expected):
    assert torch.equal(BATCH.span_mask(names), torch.tensor(expected, dtype=torch.bool))


def test_right_padding_is_refused_since_the_last_column_has_to_be_every_prompts_last_token():
    ids = torch.tensor([[5, 6, 7], [5, 6, 0]])
    with pytest.raises(ParameterError, match="right padding") as refused:
        TokenBatch(ids=ids, mask=ids != 0, prompt_ids=("long", "short"))
    assert "pads on the left" in str(refused.value)
    left = TokenBatch.from_rows([[5, 6, 7], [5, 6]], pad_id=0)
    assert left.ids.tolist() == [[5, 6, 7], [0, 5, 6]]
    assert left.ids[:, -1].tolist() == [7, 6]


def test_a_batch_nobody_named_spans_in_is_refused():
    with pytest.raises(ParameterError, match="no named spans"):
        TokenBatch.from_rows([[5, 6]], pad_id=0).span_mask(["question"])


def test_chosen_rows_keep_their_spans_and_lose_padding_nobody_needs():
    short = BATCH.select([1])
    assert short.ids.tolist() == [[5, 6, 7]]
    assert short.spans == (SPANS[1],)
    turned = BATCH.select([1, 0])
    assert turned.ids.tolist() == [[0, 0, 5, 6, 7], [5, 6, 7, 8, 9]]
    assert turned.prompt_ids == ("1", "0")
    assert torch.equal(turned.span_mask(["question"]), BATCH.span_mask(["question"])[[1, 0]])
    with pytest.raises(ParameterError, match="at least one"):
        BATCH.select([])
