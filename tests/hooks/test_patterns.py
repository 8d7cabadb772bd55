"""Attention patterns: those of plain Hugging Face, at chosen columns, checked against what attention gave."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from tests.hooks.conftest import TOLERANCE
from tests.tiny_models import random_batch, tiny_model
from workbench.errors import ExecutorDisagreement, ParameterError
from workbench.hooks import Anatomy, Component, HooksBackend, Patch, Reader, Scale, Site, attention_patterns
from workbench.hooks.patterns import mixed_values

C = Component
LAST = torch.tensor([[-1, -4]] * 3)


def _plain_weights(lab, batch):
    """Attention weights of the same model run eagerly by plain Hugging Face."""
    before = lab.model.config._attn_implementation
    lab.model.set_attn_implementation("eager")
    with torch.no_grad():
        out = lab.model(**batch.forward_kwargs(), output_attentions=True, use_cache=False)
    lab.model.set_attn_implementation(before)
    return out.attentions


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_patterns_are_those_of_plain_hugging_face(lab, kernel):
    if kernel == "sdpa" and not lab.model._supports_sdpa:
        pytest.skip("soft-capped scores run eagerly only")
    expected = _plain_weights(lab, lab.batch)
    before = lab.model.config._attn_implementation
    lab.model.set_attn_implementation(kernel)
    try:
        found = attention_patterns(lab.hooks, lab.batch, columns=LAST.to(lab.batch.device))
    finally:
        lab.model.set_attn_implementation(before)
    assert found.error < TOLERANCE
    for layer, weights in enumerate(expected):
        pattern = found.patterns[layer]
        assert pattern.shape == (3, lab.anatomy.n_heads, 2, lab.batch.ids.shape[1])
        assert float((pattern.sum(-1) - 1).abs().max()) < 1e-5
        assert not pattern.movedim(-1, 1)[~lab.batch.mask].any(), "nothing is taken from padding"
        for k, column in enumerate((-1, -4)):
            assert float((pattern[:, :, k] - weights[:, :, column]).abs().max()) < TOLERANCE


def test_a_pattern_goes_with_the_values_and_captures_of_its_own_run(llama):
    capture = [Site(C.RESID_PRE, 1), Site(C.RESID_POST, 2)]
    edit = Scale(Site(C.RESID_MID, 0), 0.5)
    found = attention_patterns(llama.hooks, llama.batch, columns=LAST[:, :1], edits=[edit], capture=capture, layers=[2])
    plain = llama.hooks.run(llama.batch, edits=[edit], capture=[*capture, Site(C.V, 2), Site(C.Z, 2)]).activations
    assert set(found.patterns) == set(found.values) == {2}
    for site in capture:
        assert torch.equal(found.run.activations[site], plain[site])
    assert torch.equal(found.values[2], plain[Site(C.V, 2)])
    assert torch.equal(found.z[2], plain[Site(C.Z, 2)][:, -1:])


def test_an_edited_value_is_the_value_that_is_used(llama):
    donor = llama.donor[Site(C.V, 1)]
    found = attention_patterns(llama.hooks, llama.batch, columns=LAST, edits=[Patch(Site(C.V, 1), donor)])
    assert torch.equal(found.values[1], donor)
    assert found.error < TOLERANCE


def test_heads_share_their_values_in_order():
    pattern, values = torch.rand(2, 4, 1, 5), torch.rand(2, 5, 2, 3)
    repeated = values.repeat_interleave(2, dim=2)
    expected = torch.stack([pattern[:, h] @ repeated[:, :, h] for h in range(4)], dim=2)
    torch.testing.assert_close(mixed_values(pattern, values), expected)


def test_the_kernels_own_scale_mask_and_causality_are_used():
    from workbench.hooks.patterns import _softmax_rows

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, 6, 8, generator=generator) for _ in range(3))
    columns = torch.tensor([[5, 2], [4, 3]])
    mask = torch.rand(2, 1, 6, 6, generator=generator) > 0.3
    mask |= torch.eye(6, dtype=torch.bool)
    additive = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    for options in (
        {"attn_mask": mask},
        {"attn_mask": additive, "scale": 0.7},
        {"is_causal": True},
        {"is_causal": True, "scale": 2.0},
    ):
        rows = _softmax_rows(columns, query, key, value, **options)
        whole = F.scaled_dot_product_attention(query, key, value, **options)
        for prompt in range(2):
            expected = whole[prompt, :, columns[prompt]]
            torch.testing.assert_close(rows[prompt] @ value[prompt], expected, atol=1e-5, rtol=1e-5)


def _lab_with(function, name):
    AttentionInterface.register(name, function)
    model = tiny_model("llama")
    anatomy = Anatomy.of(model)
    model.config._attn_implementation = name
    return HooksBackend(model, anatomy)


def _grouped(query, key, value, mask):
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True)


def test_attention_that_does_more_than_mix_values_is_refused():
    def gated(module, query, key, value, attention_mask, **_):
        return 1.1 * _grouped(query, key, value, attention_mask).transpose(1, 2).contiguous(), None

    with pytest.raises(ExecutorDisagreement, match="isn't what the model's attention gave"):
        attention_patterns(_lab_with(gated, "gated_test"), random_batch(), columns=LAST)


def test_attention_nobody_can_see_is_refused():
    def hidden(module, query, key, value, attention_mask, **_):
        groups = query.shape[1] // key.shape[1]
        scores = query @ key.repeat_interleave(groups, 1).mT
        return (scores.softmax(-1) @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), None

    with pytest.raises(ParameterError, match="can't be seen"):
        attention_patterns(_lab_with(hidden, "hidden_test"), random_batch(), columns=LAST)


def test_nothing_stays_behind_also_after_a_refusal(llama):
    def hooks():
        return [(name, len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in llama.model.named_modules()]

    before, logits = hooks(), llama.hooks.run(llama.batch).logits
    attention_patterns(llama.hooks, llama.batch, columns=LAST)
    with pytest.raises(ParameterError, match="padding"):
        attention_patterns(llama.hooks, llama.batch, columns=torch.zeros(3, 1, dtype=torch.long))
    assert hooks() == before
    assert torch.overrides._get_current_function_mode() is None
    assert torch.equal(llama.hooks.run(llama.batch).logits, logits)


def test_a_reader_keeps_its_own_columns_and_changes_nothing(lab):
    sites = [site for site in lab.anatomy.sites(layers=[1]) if site.component is not C.RESID_MID]
    last = torch.full((3, 1), -1, device=lab.batch.device)
    whole, tail = Reader(sites), Reader(sites, positions=last)
    run = lab.hooks.run(lab.batch, edits=[*whole.edits, *tail.edits], capture=sites, logits="all", check_edits=False)
    assert torch.equal(run.logits, lab.hooks.run(lab.batch, logits="all").logits)
    for site in sites:
        assert torch.equal(whole.values[site], run.activations[site])
        assert torch.equal(tail.values[site], run.activations[site][:, -1:])
    if lab.architecture == "phi3":
        value = whole.values[Site(C.V, 1)]
        assert value.untyped_storage().nbytes() == value.nbytes, "the fused projection isn't kept alive"


def test_a_reader_is_told_of_every_site_in_turn(llama):
    reached: list[Site] = []
    reader = Reader([Site(C.V, layer) for layer in range(3)], on_read=reached.append)
    llama.hooks.run(llama.batch, edits=reader.edits, check_edits=False)
    assert [site.layer for site in reached] == [0, 1, 2]
