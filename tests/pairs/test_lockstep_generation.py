"""Generation with two caches against plain generate at both ends and against full recomputation between them."""

from dataclasses import replace

import pytest
import torch

from tests.pairs.lockstep_pairs import FAMILIES, batch_with_spans, pair_of
from workbench.errors import ParameterError
from workbench.hooks import Component
from workbench.pairs import Scaling, identical_pair, scaled_generate, scaled_logits
from workbench.tokens import Span, TokenBatch

C = Component
BATCH = batch_with_spans()
NEW = 8
LOCAL = [
    Scaling(0.5, component=C.ATTN_OUT, layers=(0, 2), elsewhere=1.25),
    Scaling(0.0, component=C.Z, heads=(1, 2)),
    Scaling(0.0, spans=("rubric", "question")),
    Scaling(1.0, spans=("rubric",), elsewhere=0.0),
    Scaling(0.0, layers=(1,), spans=("completion",)),
    Scaling(1.0, layers=(0,), elsewhere=0.0),
]
FREE = {"eos_token_id": None, "pad_token_id": 0}
"""No early stop, so that every row has the same length."""


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    return pair_of(request.param)


def plain(module, **options):
    return module.generate(
        input_ids=BATCH.ids,
        attention_mask=BATCH.mask.long(),
        max_new_tokens=NEW,
        **({"do_sample": False} | FREE | options),
    )


def recomputed(pair, scaling, *, ends):
    """Return the greedy continuation of whole rows without any cache, the completion being one more span."""
    rows = [BATCH.row(i).ids[0].tolist() for i in range(len(BATCH))]
    prompts = [(len(row), BATCH.row(i).spans[0]) for i, row in enumerate(rows)]
    spans = scaling.spans and tuple("generated" if name == "completion" else name for name in scaling.spans)
    for _ in range(NEW):
        tables = [
            table | {"generated": Span(length, len(row))} for row, (length, table) in zip(rows, prompts, strict=True)
        ]
        whole = TokenBatch.from_rows(rows, pad_id=0, spans=tables)
        last = scaled_logits(pair, whole, scaling=replace(scaling, spans=spans), ends=ends, logits="last")
        for row, token in zip(rows, last.argmax(-1).tolist(), strict=True):
            row.append(token)
    return torch.tensor([row[-NEW:] for row in rows])


def test_both_ends_are_plain_generation(pair):
    judge = scaled_generate(pair, BATCH, scaling=Scaling(1.0), max_new_tokens=NEW, **FREE)
    assert torch.equal(judge, plain(pair.judge))
    base = scaled_generate(pair, BATCH, scaling=Scaling(0.0), ends="base", max_new_tokens=NEW, **FREE)
    assert torch.equal(base, plain(pair.base))
    assert not torch.equal(judge, base)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.25])
@pytest.mark.parametrize("ends", ["judge", "base"])
def test_caches_give_what_full_recomputation_gives(pair, alpha, ends):
    found = scaled_generate(pair, BATCH, scaling=Scaling(alpha), ends=ends, max_new_tokens=NEW, **FREE)
    assert torch.equal(found[:, -NEW:], recomputed(pair, Scaling(alpha), ends=ends))
    assert torch.equal(found[:, :-NEW], BATCH.ids)


@pytest.mark.parametrize("scaling", LOCAL, ids=lambda s: s.label())
def test_local_scalings_generate_what_full_recomputation_gives(pair, scaling):
    found = scaled_generate(pair, BATCH, scaling=scaling, max_new_tokens=NEW, **FREE)
    assert torch.equal(found[:, -NEW:], recomputed(pair, scaling, ends="judge"))


def test_sampling_is_hugging_faces_and_the_random_state_is_left_alone():
    pair = pair_of("llama")
    options = {"do_sample": True, "temperature": 0.7, "top_k": 20, "num_return_sequences": 2, **FREE}
    torch.manual_seed(3)
    expected = plain(pair.judge, **options)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    found = scaled_generate(pair, BATCH, scaling=Scaling(1.0), max_new_tokens=NEW, **options)
    assert torch.equal(found, expected)
    assert torch.equal(torch.random.get_rng_state(), before)
    mixed = scaled_generate(pair, BATCH, scaling=Scaling(0.5, spans=("rubric",)), max_new_tokens=NEW, **options)
    assert mixed.shape == expected.shape


def test_a_judge_against_itself_generates_as_ever(pair):
    found = scaled_generate(identical_pair(pair), BATCH, scaling=Scaling(0.5), max_new_tokens=NEW, **FREE)
    assert torch.equal(found, plain(pair.judge))


@pytest.mark.parametrize(
    "options", [{"num_beams": 2}, {"cache_implementation": "static"}, {"use_cache": False}, {"prefill_chunk_size": 4}]
)
def test_what_two_caches_cant_follow_is_refused_and_leaves_no_hook(options):
    pair = pair_of("llama")
    with pytest.raises(ParameterError, match="two caches"):
        scaled_generate(pair, BATCH, scaling=Scaling(0.5), max_new_tokens=2, **options)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in pair.judge.modules())
    assert not any("forward" in m.__dict__ for m in pair.judge.modules())
