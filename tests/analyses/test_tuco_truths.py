"""Known truths of TuCo: what the number must be when we made the pair ourselves."""

import numpy as np
import pytest
import torch

from analyses import tuco
from analyses.tuco import shares
from analyses.tuco.clamp import clamp, measure, to_numpy
from analyses.tuco.cuts import units
from workbench.errors import ExecutorDisagreement
from workbench.hooks import Component, HooksBackend, Site
from workbench.judges import JudgeItem
from workbench.pairs import identical_pair, random_delta_pair, scaled_logits
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tiny_pair, tuned_copy
from workbench.tokens import TokenBatch

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(10)
]
QUIET = {"progress": False, "controls": 0, "confirm": False}


def batch_of(pair, *, indices=(0, 1, 5, 8)):
    return pair.encode(ITEMS).batch(list(indices))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request):
    return tiny_pair(architecture=request.param)


@pytest.fixture(scope="module")
def lora():
    return tiny_pair(kind="lora")


@pytest.mark.parametrize("granularity", ["block", "sublayer", "model"])
def test_identical_models_give_exactly_zero(pair, granularity):
    """Truth 1: every F is bitwise 0, and the result says that nothing was found."""
    result = tuco.run(identical_pair(pair), ITEMS, granularity=granularity, progress=False)
    assert not result.finetuned_parts.any()
    assert not result.finetuned_push.any()
    assert (result.tuco == 0).all()
    assert (result.output_share == 0).all()
    assert (result.pretrained_norm > 0).all()
    assert not result.finding.found
    assert result.finding.headline.startswith("Nothing found")


def test_clamping_a_model_to_its_own_stream_repeats_it_bit_for_bit(pair):
    """Truth 2, the real test of the clamp: block outputs equal a free run of the same model."""
    base, batch = pair.executor("base"), batch_of(pair)
    layers = range(pair.n_layers)
    record = base.run(batch, capture=[Site(Component.RESID_PRE, layer) for layer in layers]).activations
    ends = [Site(Component.RESID_POST, layer) for layer in layers]
    clamped = clamp(base, batch, record=dict(record), read=ends)
    with torch.no_grad():
        plain = pair.base(**batch.forward_kwargs(), output_hidden_states=True)
    streams = {ends[layer]: plain.hidden_states[layer + 1] for layer in layers if layer + 1 < pair.n_layers}
    assert streams
    for site, stream in streams.items():
        assert torch.equal(clamped[site], stream[:, -1])
    free = base.run(batch, capture=ends).activations
    assert all(torch.equal(clamped[site], free[site][:, -1]) for site in ends)


def test_the_clamp_uses_the_base_models_own_rotary_table():
    """Truth 15: a base with other rotary angles repeats itself clamped to itself, not clamped to the judge."""
    base = tiny_model()
    other = tiny_model()
    other.config.rope_parameters["rope_theta"] = 50.0
    other = type(base)(other.config).eval()
    other.load_state_dict(base.state_dict())
    from workbench.pairs import load_pair

    pair = load_pair(
        other, base, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu", allow_identical=True
    )
    found = measure(
        pair.executor("judge"), pair.executor("base"), batch_of(pair), parts=units("block", n_layers=2, parallel=False)
    )
    assert found.finetuned.abs().max() > 1e-3, "same weights, another rotary table: the difference is fine-tuning's"
    itself = measure(
        pair.executor("base"), pair.executor("base"), batch_of(pair), parts=units("block", n_layers=2, parallel=False)
    )
    assert not itself.finetuned.any()


@pytest.mark.parametrize("granularity", ["block", "sublayer", 2, "model"])
def test_parts_add_up_to_the_stream_and_to_the_gap(pair, granularity):
    """Truth 3 (weak, it telescopes for blocks) and the exact split of the verdict gap (truth 10, first half)."""
    result = tuco.run(pair, ITEMS, granularity=granularity, **QUIET)
    np.testing.assert_allclose(result.finetuned_parts.sum(-1), result.finetuned_norm, rtol=1e-9)
    np.testing.assert_allclose(result.pretrained_parts.sum(-1), result.pretrained_norm, rtol=1e-9)
    np.testing.assert_allclose(result.finetuned_shares.sum(-1), result.tuco, rtol=1e-9)
    np.testing.assert_allclose(result.profile[..., -1], result.tuco, rtol=1e-9)
    whole = result.embedding_push + result.embedding_change_push + result.bias_push
    whole = whole + result.pretrained_push.sum(-1) + result.finetuned_push.sum(-1)
    np.testing.assert_allclose(whole, result.judge_gap, atol=2e-5)
    batch, ids = pair.encode(ITEMS).batch(), pair.encode(ITEMS).first_token_ids
    with torch.no_grad():
        logits = pair.judge(**batch.forward_kwargs()).logits[:, -1].double().numpy()
    np.testing.assert_allclose(result.judge_gap.ravel(), logits[:, ids.a] - logits[:, ids.b], atol=2e-5)


@pytest.mark.parametrize("layer", [0, 2])
def test_one_tuned_block_is_the_only_one_that_writes(layer):
    """Truth 4: F of every other block is bitwise 0 although later blocks read a changed stream."""
    base = tiny_model(n_layers=3)
    judge = tuned_copy(base, change=scaled_noise(0.3, only=f"layers.{layer}."))
    pair = _loaded(base, judge)
    result = tuco.run(pair, ITEMS, **QUIET)
    others = [k for k in range(3) if k != layer]
    assert not result.finetuned_parts[..., others].any()
    assert not result.finetuned_push[..., others].any()
    assert (np.abs(result.finetuned_push[..., layer]) > 0).all()
    assert (result.tuco > 0.01).all()


def test_attention_only_tuning_leaves_the_mlp_writes_alone():
    """Truth 4 at sub-layer granularity."""
    base = tiny_model()
    pair = _loaded(base, tuned_copy(base, change=scaled_noise(0.3, only="self_attn")))
    result = tuco.run(pair, ITEMS, granularity="sublayer", **QUIET)
    mlp = [k for k, name in enumerate(result.unit_components) if name == "mlp_out"]
    attention = [k for k, name in enumerate(result.unit_components) if name == "attn_out"]
    assert not result.finetuned_push[..., mlp].any()
    assert result.finetuned_push[..., attention].any()


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_scaling_is_bit_exact_at_both_ends_and_moves_between(kind):
    """Truth 6: alpha 1 is the judge; alpha 0 with the base's embedding, norm and head is the base."""
    pair = tiny_pair(kind=kind)
    batch = batch_of(pair)
    with torch.no_grad():
        judge, base = (m(**batch.forward_kwargs()).logits for m in (pair.judge, pair.base))
    assert torch.equal(scaled_logits(pair, batch, alpha=1.0), judge)
    assert torch.equal(scaled_logits(pair, batch, alpha=1.0, ends="base"), judge) == (kind == "lora")
    assert torch.equal(scaled_logits(pair, batch, alpha=0.0, ends="base"), base)
    half = scaled_logits(pair, batch, alpha=0.5)
    assert not torch.allclose(half, judge, atol=1e-3)
    assert not torch.allclose(half, base, atol=1e-3)


def test_toy_networks_have_the_shares_worked_out_by_hand():
    """Truth 7: Example B.1 as corrected (TuCo 1/4 although outputs agree), and a network with beta 1 and TuCo 1/2."""
    h = np.array([1.0, -2.0, 3.0])
    pretrained, finetuned = _toy(base=(lambda x: h, lambda x: x), judge=(lambda x: 2 * h, lambda x: 0 * x), start=0 * h)
    sizes = [shares.vector_norm(v.sum(0), norm="l1") for v in (finetuned, pretrained)]
    assert shares.share(*sizes) == pytest.approx(0.25)
    outputs = [_free(layers, 0 * h) for layers in ((lambda x: h, lambda x: x), (lambda x: 2 * h, lambda x: 0 * x))]
    np.testing.assert_array_equal(*outputs)
    pretrained, finetuned = _toy(base=(lambda x: 0 * x, lambda x: h), judge=(lambda x: h, lambda x: h), start=0 * h)
    profile = shares.depth_profile(pretrained, finetuned, norm="l1")
    np.testing.assert_allclose(profile, [1.0, 0.5])


def test_one_segment_of_all_blocks_is_the_change_of_the_output(lora):
    """Truth 8: with k = L the numerator is |x_L^judge - x_L^base|, here in a pair with one embedding."""
    result = tuco.run(lora, ITEMS, granularity="model", **QUIET)
    np.testing.assert_allclose(result.finetuned_norm, result.output_change_norm, rtol=1e-6)
    assert (result.embedding_norm == 0).all()


@pytest.mark.parametrize("c", [0.1, 0.5])
def test_scaled_writes_have_a_share_known_in_closed_form(c):
    """Truth 9: output matrices times (1 + c) give F = c P at every write, so TuCo = c / (1 + c) for any prompt."""
    base = tiny_model(n_layers=3)

    def scaled(name, parameter, _generator):
        return c * parameter.detach() if "o_proj" in name or "down_proj" in name else torch.zeros_like(parameter)

    pair = _loaded(base, tuned_copy(base, change=scaled))
    result = tuco.run(pair, ITEMS, granularity="sublayer", **QUIET)
    np.testing.assert_allclose(result.tuco, c / (1 + c), atol=1e-6)
    np.testing.assert_allclose(result.preco, 1 - result.tuco, atol=1e-12)
    np.testing.assert_allclose(result.alignment, 1.0, atol=1e-6)
    blocks = tuco.run(pair, ITEMS, granularity="block", **QUIET)
    assert np.abs(blocks.tuco - c / (1 + c)).max() > 1e-3, "at block granularity the number is another one"


def test_later_tokens_dont_change_an_earlier_tokens_contributions(pair):
    """Truth 11: the share at a token is that of the prompt cut off after it."""
    row = pair.encode(ITEMS).rows[4]
    parts = units("block", n_layers=pair.n_layers, parallel=False)
    judge, base = pair.executor("judge"), pair.executor("base")
    whole = TokenBatch.from_rows([row], pad_id=0)
    for cut in (5, 40):
        prefix = TokenBatch.from_rows([row[:cut]], pad_id=0)
        early = measure(judge, base, whole, parts=parts, column=cut - 1)
        alone = measure(judge, base, prefix, parts=parts)
        np.testing.assert_allclose(to_numpy(early.finetuned), to_numpy(alone.finetuned), atol=5e-6)
        np.testing.assert_allclose(to_numpy(early.pretrained), to_numpy(alone.pretrained), atol=5e-6)


def test_batch_order_and_padding_dont_matter(pair):
    """Truth 14: reversing the items, and one prompt per forward, change nothing beyond the noise floor."""
    together = tuco.run(pair, ITEMS, batch_size=16, **QUIET)
    alone = tuco.run(pair, ITEMS[::-1], batch_size=1, **QUIET)
    np.testing.assert_allclose(together.tuco, alone.tuco[::-1], atol=1e-6)
    np.testing.assert_allclose(together.finetuned_push, alone.finetuned_push[::-1], atol=1e-5)


def test_a_lora_judge_equals_its_merged_twin_and_its_disabled_self_is_the_base(lora):
    """Truth 12: two modules over shared weights do what peft's own switch does; merging moves TuCo by rounding only."""
    import copy

    from peft.tuners.tuners_utils import BaseTunerLayer

    from workbench.pairs import load_pair

    batch = batch_of(lora)
    layers = [m for m in lora.judge.modules() if isinstance(m, BaseTunerLayer)]
    switched = copy.deepcopy(lora.judge)
    for layer in switched.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.enable_adapters(False)
    with torch.no_grad():
        assert torch.equal(switched(**batch.forward_kwargs()).logits, lora.base(**batch.forward_kwargs()).logits)
    merged = copy.deepcopy(lora.base)
    with torch.no_grad():
        for name, module in lora.judge.named_modules():
            if isinstance(module, BaseTunerLayer):
                merged.get_submodule(name).weight.add_(module.get_delta_weight("default"))
    twin = load_pair(lora.base, merged, tokenizer=lora.tokenizer, format="pairwise", doctor=False, device="cpu")
    one, two = (tuco.run(p, ITEMS, **QUIET) for p in (lora, twin))
    assert layers
    np.testing.assert_allclose(one.tuco, two.tuco, atol=1e-5)
    np.testing.assert_allclose(one.finetuned_push, two.finetuned_push, atol=1e-4)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_random_control_moves_exactly_as_far_tensor_by_tensor(kind):
    pair = tiny_pair(kind=kind)
    control = random_delta_pair(pair, seed=3)
    own, other = (sorted(p.delta().moved) for p in (pair, control))
    assert [c.name for c in own] == [c.name for c in other]
    np.testing.assert_allclose([c.change for c in own], [c.change for c in other], rtol=1e-5)
    again = random_delta_pair(pair, seed=3)
    batch = batch_of(pair)
    with torch.no_grad():
        first, second, real = (p.judge(**batch.forward_kwargs()).logits for p in (control, again, pair))
    assert torch.equal(first, second)
    assert not torch.allclose(first, real, atol=1e-3)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_sham_judges_that_moved_at_random_are_not_findings(kind):
    """A random judge is its own control: a large TuCo, a push of its own on every item, and still nothing found."""
    pair = tiny_pair(kind=kind)
    items = [
        JudgeItem(item_id=str(i), question=f"Which is {i}?", answers=(f"{i * 7}", f"{i * 5}"), label=(i * 3) % 2)
        for i in range(20)
    ]
    found = []
    for seed in range(100, 108):
        result = tuco.run(random_delta_pair(pair, seed=seed), items, confirm=False, progress=False)
        assert result.tuco.mean() > 0.05
        found.append(result.finding.found)
    assert sum(found) <= 1, "5% are allowed to be"


def test_a_judge_that_doesnt_repeat_itself_is_refused(monkeypatch):
    pair = tiny_pair()
    calls = iter(range(1000))
    plain = HooksBackend.run

    def drifting(self, batch, **options):
        out = plain(self, batch, **options)
        for value in out.activations.values():
            value.add_(1e-3 * next(calls))
        return out

    monkeypatch.setattr(HooksBackend, "run", drifting)
    with pytest.raises(ExecutorDisagreement, match="doesn't repeat itself"):
        tuco.run(pair, ITEMS, progress=False)


def test_shares_stay_between_zero_and_one_whatever_the_writes():
    rng = np.random.default_rng(0)
    writes = rng.standard_normal((2, 50, 4, 6)) * rng.exponential(10, size=(2, 50, 1, 1))
    found = shares.depth_profile(writes[0], writes[1], norm="l2")
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(
        shares.additive_parts(writes[1], norm="l2").sum(-1), shares.vector_norm(writes[1].sum(-2), norm="l2")
    )


def _toy(*, base, judge, start):
    """Run the judge's stream through both lists of layers and return the writes (P, F) of each layer."""
    x, pretrained, finetuned = start, [], []
    for own, other in zip(judge, base, strict=True):
        pretrained.append(other(x))
        finetuned.append(own(x) - other(x))
        x = x + own(x)
    return np.array(pretrained), np.array(finetuned)


def _free(layers, x):
    for layer in layers:
        x = x + layer(x)
    return x


def _loaded(base, judge):
    from workbench.pairs import load_pair

    return load_pair(base, judge, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu")
