"""Rows behind cached prompts give what full forwards with the same writes give, whatever is drawn."""

import threading
from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.hooks.suffix_draws import drawn_rows, naive
from tests.tiny_models import ARCHITECTURES, VOCAB, random_batch, tiny_classifier, tiny_model
from workbench.errors import EditError, ExecutorDisagreement, MemoryShortage, ParameterError, UnknownSite
from workbench.hooks import Anatomy, Component, HooksBackend, Site
from workbench.hooks.suffix import Row, Suffix, Write, ability_of, engine

LENGTHS = ((12, 19, 15), (14, 14), (23,), (10, 26))


def executor_of(model):
    return HooksBackend(model, Anatomy.of(model))


@pytest.fixture(scope="module")
def built(labs):
    made = {}

    def build(architecture, attention="sdpa"):
        if attention == "sdpa":  # or the only one it has
            return labs(architecture).hooks
        if architecture not in made:
            model = tiny_model(architecture)
            model.set_attn_implementation(attention)
            made[architecture] = executor_of(model)
        return made[architecture]

    return build


@pytest.fixture
def llama_rows(built):
    executor = built("llama")
    return executor, random_batch()


def worst_gap(executor, batch, rows, found, *, ids=None):
    gaps = []
    for index, row in enumerate(rows):
        truth = naive(executor, batch, row).logits
        truth = truth if ids is None else truth[:, ids]
        gaps.append(float((found.logits[:, index] - truth).detach().abs().max()))
    return max(gaps)


@pytest.mark.parametrize("case", range(18))
def test_random_rows_are_full_forwards(built, case):
    architecture = ARCHITECTURES[case % len(ARCHITECTURES)]
    executor = built(architecture, "eager" if architecture in ("llama", "mistral") and case > 8 else "sdpa")
    batch = random_batch(LENGTHS[case % 4], seed=case)
    reach = (1, 4, 9, 30)[case // 2 % 4]
    tokens = None if reach > 9 else reach
    rows = drawn_rows(executor.anatomy, batch, count=6, reach=reach, seed=case)
    suffix = Suffix(executor, batch, tokens=tokens, mode=("wavefront", "tree")[case % 2])
    assert suffix.reason in (None, "asked for")
    found = suffix.run(rows, max_tokens=(1, 40, 4096)[case % 3])
    scale = max(1.0, float(suffix.logits.abs().max()))
    assert worst_gap(executor, batch, rows, found) <= 1e-5 * scale
    assert 0 <= suffix.noise(found) <= 1e-5 * scale
    assert suffix.notes == ()


class _Norm(torch.nn.Module):
    """A norm in float64: the model's own takes float32."""

    def __init__(self, own):
        super().__init__()
        self.weight, self.eps = own.weight, own.variance_epsilon

    def forward(self, hidden):
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps)


def drawn_llama(seed):
    generator = torch.Generator().manual_seed(seed)

    def one(*choices):
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    kv = one(1, 2)
    heads = kv * one(1, 2, 3)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=one(1, 2, 5), num_key_value_heads=kv,
        num_attention_heads=heads, head_dim=one(4, 10), attention_bias=bool(one(0, 1)), pad_token_id=0,
        tie_word_embeddings=bool(one(0, 1)), initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).double().eval()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, LlamaRMSNorm):
                setattr(parent, name, _Norm(child))
    return model


@pytest.mark.parametrize("seed", range(4))
def test_in_float64_they_are_the_same_to_twelve_digits(seed):
    model = drawn_llama(seed)
    executor, batch = executor_of(model), random_batch(LENGTHS[seed % 4], seed=seed)
    rows = drawn_rows(executor.anatomy, batch, count=12, reach=6, seed=seed)
    suffix = Suffix(executor, batch, tokens=6)
    assert suffix.mode == "wavefront"
    assert worst_gap(executor, batch, rows, suffix.run(rows, max_tokens=(30, 4096)[seed % 2])) <= 1e-12
    assert suffix.noise(suffix.run(rows)) <= 1e-12


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_in_bfloat16_an_effect_is_right_to_its_noise(built, architecture):
    precise = built(architecture)
    executor = executor_of(tiny_model(architecture).bfloat16())
    batch = random_batch()
    rows = drawn_rows(executor.anatomy, batch, count=8, reach=3, seed=3)
    suffix = Suffix(executor, batch, tokens=3)
    assert suffix.mode == "wavefront"
    found, sharp = suffix.run(rows), Suffix(precise, batch, tokens=3).run(rows)
    effect, truth = (found.logits - found.null).float(), sharp.logits - sharp.null
    assert (effect - truth).abs().mean() <= 0.05 * truth.abs().mean()
    assert suffix.check(rows, count=3) <= 0.1 * float(suffix.logits.abs().max())


def test_a_head_written_by_a_hand_made_hook(llama_rows):
    """Nothing of ours in the oracle: a pre-hook on o_proj, without padding."""
    executor, batch = llama_rows
    one, width = batch.row(0), executor.anatomy.d_head
    value = torch.randn(1, 1, width, generator=torch.Generator().manual_seed(0))

    def hook(_module, args):
        changed = args[0].clone()
        changed[:, -1, 2 * width : 3 * width] = value[:, 0]
        return (changed,)

    handle = executor.module.model.layers[1].self_attn.o_proj.register_forward_pre_hook(hook)
    try:
        truth = executor.module(input_ids=one.ids, use_cache=False).logits[:, -1]
    finally:
        handle.remove()
    suffix = Suffix(executor, one)
    found = suffix.run([Row((Write(Site(Component.Z, 1, 2), suffix.columns(), value),))])
    torch.testing.assert_close(found.logits[:, 0], truth, atol=2e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "neox"])
def test_padded_prompts_are_prompts_alone(built, architecture):
    executor, batch = built(architecture), random_batch((9, 21, 15))
    rows = drawn_rows(executor.anatomy, batch, count=6, reach=4, seed=5)
    together = Suffix(executor, batch, tokens=4).run(rows)
    for prompt in range(3):
        one, part = batch.row(prompt), slice(prompt, prompt + 1)
        shift = batch.ids.shape[1] - one.ids.shape[1]
        own = [Row(tuple(_of_one(w, part, shift) for w in row.writes)) for row in rows]
        alone = Suffix(executor, one, tokens=4).run(own)
        effect, truth = together.logits[prompt] - together.null[prompt], alone.logits[0] - alone.null[0]
        assert float((effect - truth).abs().max()) <= 3e-5


def _of_one(write, part, shift):
    weight = None if write.weight is None else write.weight[part]
    return write._replace(columns=write.columns[part] - shift, values=write.values[part], weight=weight)


def test_what_is_already_there_is_an_exact_zero_for_its_prompts_only(llama_rows):
    executor, batch = llama_rows
    site, head = Site(Component.RESID_PRE, 1), Site(Component.Z, 2, 1)
    suffix = Suffix(executor, batch, capture=[site, head.whole], tokens=2)
    columns = suffix.columns(2)
    own = suffix.clean(site, columns)
    half = own.clone()
    half[1] += 1
    rows = [
        Row((Write(site, columns, own), Write(head, columns, suffix.clean(head, columns)))),
        Row((Write(site, columns, half),)),
        Row((Write(site, columns, torch.zeros_like(own), add=True),)),
        Row((Write(Site(Component.MLP_OUT, 0), columns, torch.zeros_like(own)),)),
    ]
    found = suffix.run(rows, mass=True)
    assert found.same.T.tolist() == [[True] * 3, [True, False, True], [True] * 3, [False] * 3]
    zero = found.same[..., None].expand_as(found.logits)
    assert torch.equal(found.logits[zero], found.null[zero])
    assert torch.equal(found.logsumexp[found.same], found.null_logsumexp[found.same])
    assert bool((found.logits[:, 3] != found.null[:, 3]).any(-1).all())
    assert torch.equal(found.null[:, 0], suffix.logits), "rows that need no forward have the prompts' own logits"


def test_mass_and_ids_are_parts_of_the_whole_vocabulary(llama_rows):
    executor, batch = llama_rows
    rows = drawn_rows(executor.anatomy, batch, count=5, reach=2, seed=1)
    suffix = Suffix(executor, batch, tokens=2)
    whole, some = suffix.run(rows), suffix.run(rows, ids=[7, 3], mass=True)
    few = suffix.run(rows, ids=[7, 3])
    assert few.logsumexp is None
    torch.testing.assert_close(some.logits, whole.logits[..., [7, 3]])
    torch.testing.assert_close(few.logits, some.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(some.logsumexp, whole.logits.logsumexp(-1))
    torch.testing.assert_close(some.null_logsumexp, whole.null.logsumexp(-1))


@pytest.mark.parametrize("mode", ["wavefront", "tree", "plain"])
def test_sites_read_are_those_of_full_forwards(built, mode):
    executor, batch = built("gemma2"), random_batch()
    read = [Site(Component.RESID_POST, 2), Site(Component.Z, 1, 3), Site(Component.RESID_PRE, 0)]
    suffix = Suffix(executor, batch, capture=[site.whole for site in read], tokens=3, mode=mode)
    rows = drawn_rows(executor.anatomy, batch, count=6, reach=3, seed=9)
    found = suffix.run(rows, ids=[5], read=read, max_tokens=30)
    for index, row in enumerate(rows):
        truth = naive(executor, batch, row, capture=read).activations
        for site in read:
            torch.testing.assert_close(found.read[site][:, index], truth[site][:, 0], atol=3e-5, rtol=0)


@pytest.fixture(scope="module")
def double_gpt2():
    return executor_of(tiny_model("gpt2").double())


@pytest.mark.parametrize("mode", ["wavefront", "tree", "plain"])
def test_gradients_are_those_of_full_forwards(double_gpt2, mode):
    executor, batch = double_gpt2, random_batch((11, 14))
    columns, generator = torch.tensor([[12, 13], [11, 13]]), torch.Generator().manual_seed(0)
    values = torch.randn(2, 2, 4, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, 1, 4, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    stream = torch.randn(2, 2, 64, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = [
        Row((Write(Site(Component.Z, 0), columns, values, weight), Write(Site(Component.V, 1), columns, 2 * values))),
        Row((Write(Site(Component.RESID_MID, 1), columns, stream, add=True),)),
    ]
    suffix = Suffix(executor, batch, tokens=4, mode=mode)
    found = suffix.run(rows, ids=[5, 9], grad=True)
    given = values, weight, stream
    gap = found.logits[..., 0] - found.logits[..., 1]
    fast = torch.autograd.grad(gap.square().sum(), given, retain_graph=True)
    slow = [naive(executor, batch, row, grad=True).logits for row in rows]
    truth = torch.autograd.grad(sum((x[:, 5] - x[:, 9]).square().sum() for x in slow), given)
    for one, other in zip(fast, truth, strict=True):
        assert float(other.abs().max()) > 1e-3
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-10)
    assert all(parameter.grad is None for parameter in executor.module.parameters())


def test_writes_of_a_row_follow_each_other(built):
    """A head and then all heads is another row than all heads and then one."""
    executor, batch = built("qwen2"), random_batch((13, 13))
    suffix = Suffix(executor, batch)
    generator = torch.Generator().manual_seed(4)
    whole, head = Site(Component.Z, 1), Site(Component.Z, 1, 2)
    all_heads = Write(whole, suffix.columns(), torch.randn(2, 1, 4, 16, generator=generator))
    one = Write(head, suffix.columns(), torch.randn(2, 1, 16, generator=generator))
    more, weighed = one._replace(add=True), one._replace(weight=torch.full((1, 1, 1), 0.3))
    orders = [(one, all_heads), (all_heads, one), (all_heads, more, weighed), (all_heads, weighed, more), (all_heads,)]
    rows = [Row(writes) for writes in orders]
    for mode in ("wavefront", "plain"):
        found = Suffix(executor, batch, mode=mode).run(rows)
        assert worst_gap(executor, batch, rows, found) <= 1e-5
        torch.testing.assert_close(found.logits[:, 0], found.logits[:, 4], atol=1e-5, rtol=0)
        assert min(float((a - b).abs().max()) for a, b in pairwise(found.logits[:, :4].unbind(1))) > 1e-3


@pytest.mark.parametrize("labels", [1, 3])
def test_a_classification_heads_scores(labels):
    executor, batch = executor_of(tiny_classifier("llama", labels=labels)), random_batch()
    rows = drawn_rows(executor.anatomy, batch, count=6, reach=3, seed=2)
    suffix = Suffix(executor, batch, tokens=3)
    assert suffix.mode == "wavefront"
    found = suffix.run(rows)
    assert found.logits.shape == (3, 6, labels)
    assert worst_gap(executor, batch, rows, found) <= 2e-5
    assert worst_gap(executor, batch, rows, suffix.run(rows, ids=[labels - 1]), ids=[labels - 1]) <= 2e-5


def state_of(model):
    return [
        (m.__dict__.get("forward"), len(m._forward_hooks), len(m._forward_pre_hooks), m.training)
        for m in model.modules()
    ]


@pytest.mark.parametrize("fails", [None, RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError])
def test_the_model_is_left_as_it_was_found(double_gpt2, fails):
    executor, batch = double_gpt2, random_batch((9, 12))
    model = executor.module.train()
    model.transformer.h[1].eval()
    rows = drawn_rows(executor.anatomy, batch, count=5, reach=3, seed=0)
    suffix = Suffix(executor, batch, tokens=3)
    before, random = state_of(model), torch.get_rng_state()
    keys = [layer.keys.clone() for layer in suffix._prefill.cache.layers]
    calls = []
    handle = model.transformer.h[2].mlp.register_forward_pre_hook(lambda *_: calls.append(raise_(fails)))
    within = state_of(model)
    if fails is None:
        suffix.run(rows)
    else:
        with pytest.raises((fails, MemoryShortage)):
            suffix.run(rows)
    assert state_of(model) == within
    handle.remove()
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(a, layer.keys) for a, layer in zip(keys, suffix._prefill.cache.layers, strict=True))
    assert worst_gap(executor, batch, rows, suffix.run(rows)) <= 1e-5


def raise_(kind):
    if kind is not None:
        raise kind("on purpose")


def test_two_threads_take_turns(built):
    executor, batch = built("llama"), random_batch()
    rows = drawn_rows(executor.anatomy, batch, count=6, reach=3, seed=6)
    suffix = Suffix(executor, batch, tokens=3)
    truth, found = suffix.run(rows).logits, []
    threads = [threading.Thread(target=lambda: found.append(suffix.run(rows).logits)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(torch.equal(truth, other) for other in found)


def test_memory_that_runs_out_halves_the_rows_and_says_so(llama_rows, monkeypatch):
    executor, batch = llama_rows
    rows = drawn_rows(executor.anatomy, batch, count=12, reach=2, seed=8)
    suffix = Suffix(executor, batch, tokens=2)
    truth, tried, own = suffix.run(rows).logits, [], engine.forward_rows

    def small(executor, prefill, rows, layout, **more):
        tried.append(len(layout))
        if len(layout) > 8:
            raise torch.OutOfMemoryError("out of memory")
        return own(executor, prefill, rows, layout, **more)

    monkeypatch.setattr(engine, "forward_rows", small)
    torch.testing.assert_close(suffix.run(rows).logits, truth, atol=1e-5, rtol=0)
    assert max(tried) > 16
    assert any("memory ran out" in note for note in suffix.notes)
    monkeypatch.setattr(engine, "forward_rows", lambda *_a, **_k: raise_(torch.OutOfMemoryError))
    with pytest.raises(MemoryShortage, match="one row doesn't fit"):
        suffix.run(rows)


def test_prompts_behind_which_null_rows_drift_run_as_full_forwards(llama_rows, monkeypatch):
    """A mask that is wrong with distance only: the null row is the farthest of its block and shows it."""
    executor, batch = llama_rows
    rows = drawn_rows(executor.anatomy, batch, count=6, reach=2, seed=7)
    suffix, own = Suffix(executor, batch, tokens=2), engine.forward_rows

    def drifting(*args, **more):
        answer = own(*args, **more)
        return answer._replace(logits=answer.logits + 0.01)

    monkeypatch.setattr(engine, "forward_rows", drifting)
    found = suffix.run(rows)
    assert suffix.mode == "plain"
    assert "rows that write nothing differ" in suffix.reason
    assert any("full forwards" in note for note in suffix.notes)
    assert worst_gap(executor, batch, rows, found) <= 1e-5


def test_a_check_finds_rows_that_are_wrong(llama_rows, monkeypatch):
    executor, batch = llama_rows
    rows = drawn_rows(executor.anatomy, batch, count=4, reach=2, seed=7)
    suffix, own = Suffix(executor, batch, tokens=2), Suffix.run
    assert suffix.check(rows, ids=[4], count=4) <= 1e-5

    def wrong(self, rows, **more):
        found = own(self, rows, **more)
        found.logits.add_(0.1)
        return found

    monkeypatch.setattr(Suffix, "run", wrong)
    with pytest.raises(ExecutorDisagreement, match="patches behind cached prompts differ"):
        suffix.check(rows)


def test_what_is_refused(llama_rows):
    executor, batch = llama_rows
    site = Site(Component.RESID_PRE, 1)
    suffix = Suffix(executor, batch, capture=[site], tokens=3)
    last, value = suffix.columns(), torch.zeros(3, 1, 64)
    width = batch.ids.shape[1]

    def refused(error, match, *writes, **more):
        with pytest.raises(error, match=match):
            suffix.run([Row(writes)], **more)

    with pytest.raises(ParameterError, match="nothing to run"):
        suffix.run([])
    refused(EditError, "something to write")
    refused(UnknownSite, "fewer blocks", Write(Site(Component.Z, 9), last, value))
    refused(UnknownSite, "fewer heads", Write(Site(Component.K, 0, 3), last, torch.zeros(3, 1, 16)))
    refused(EditError, "don't fit resid_pre.1", Write(site, last, torch.zeros(3, 1, 32)))
    refused(EditError, "don't fit", Write(site, last, torch.zeros(3, 1, 64, dtype=torch.long)))
    refused(EditError, "weights don't fit", Write(site, last, value, torch.ones(3, 2, 1)))
    refused(EditError, "needs a column", Write(site, last[:, :0], value[:, :0]))
    refused(ParameterError, "must be integers", Write(site, last.float(), value))
    refused(ParameterError, "outside the batch", Write(site, last + 1, value))
    refused(ParameterError, "before the kept columns", Write(site, last - 3, value))
    refused(ParameterError, "too small", Write(site, last, value), max_tokens=0)
    refused(ParameterError, "wasn't captured", Write(site, last, value), read=[Site(Component.MLP_OUT, 1)])
    twice = Write(site, last.repeat(1, 2), value.repeat(1, 2, 1))
    refused(ParameterError, "named twice", twice, grad=True)
    early = Suffix(executor, batch, tokens=None)
    with pytest.raises(ParameterError, match="padding"):
        early.run([Row((Write(site, torch.full((3, 1), width - 15), value),))])
    for columns in (last - 3, last + 1, -torch.ones(3, 1, dtype=torch.long), last[:2]):
        with pytest.raises(ParameterError, match="weren't kept"):
            suffix.clean(site, columns)
    with pytest.raises(ParameterError, match="wasn't captured"):
        suffix.clean(Site(Component.Z, 0), last)
    for tokens in (0, 13, 99):
        with pytest.raises(ParameterError, match="every prompt has"):
            Suffix(executor, batch, tokens=tokens)
    assert Suffix(executor, batch, mode="plain").reason == "asked for"
    assert ability_of(executor).mode == "wavefront"
