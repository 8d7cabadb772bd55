"""Users go on in TransformerLens and nnsight: the same model, and nothing they do there reaches the pair."""

import importlib

import pytest
import torch

from workbench.errors import ExecutorDisagreement
from workbench.pairs import handing_out, load_pair
from workbench.pairs.tiny import tiny_pair


def save(value):
    """Keep a value of a trace; nnsight is imported as late as users of a pair import it."""
    return importlib.import_module("nnsight").save(value)


TEXT = "Which answer is better?"


@pytest.fixture(scope="module", params=["full", "lora"])
def pair(request):
    return tiny_pair(kind=request.param)


def ids_of(pair):
    return pair.tokenizer(TEXT, return_tensors="pt")["input_ids"]


@torch.no_grad()
def logits_of(pair, side):
    return pair.module(side)(ids_of(pair)).logits


def state(pair):
    return {
        (side, name): p.detach().clone()
        for side in ("base", "judge")
        for name, p in pair.module(side).named_parameters()
    }


def require_untouched(pair, before, logits):
    after = state(pair)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    for side in ("base", "judge"):
        assert torch.equal(logits_of(pair, side), logits[side])
        module = pair.module(side)
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())
        assert module.config._attn_implementation == pair.attention


@pytest.mark.parametrize("side", ["base", "judge"])
def test_a_bridge_says_what_the_model_says_from_text_too(pair, side):
    bridge = pair.bridge(side)
    torch.testing.assert_close(bridge(ids_of(pair)), logits_of(pair, side), atol=5e-5, rtol=1e-4)
    assert torch.equal(bridge.to_tokens(TEXT), ids_of(pair)), "no second beginning-of-text token"
    torch.testing.assert_close(bridge(TEXT), logits_of(pair, side), atol=5e-5, rtol=1e-4)


def test_a_bridge_of_an_adapter_shows_the_judges_weights():
    pair = tiny_pair(kind="lora")
    base, judge = pair.bridge("base"), pair.bridge("judge")
    assert not torch.equal(judge.blocks[0].attn.W_Q, base.blocks[0].attn.W_Q), "or it would show the base's"
    assert judge.blocks[0].attn.W_K.equal(base.blocks[0].attn.W_K)


@pytest.mark.parametrize("share", [True, False])
def test_compatibility_mode_and_hooks_on_a_bridge_leave_the_pair_bit_equal(pair, share):
    before, logits = state(pair), {side: logits_of(pair, side) for side in ("base", "judge")}
    bridge = pair.bridge("judge", share=share)
    bridge.enable_compatibility_mode()
    cached = bridge.run_with_cache(ids_of(pair))[1]
    assert cached["blocks.0.hook_resid_post"].shape[1] == ids_of(pair).shape[1]
    bridge.add_hook("blocks.0.hook_resid_post", lambda value, hook: value * 2)
    assert not torch.allclose(bridge(ids_of(pair)), logits["judge"], atol=1e-3)
    require_untouched(pair, before, logits)


def test_a_bridge_with_weights_of_its_own_may_be_edited_in_place(pair):
    before, logits = state(pair), {side: logits_of(pair, side) for side in ("base", "judge")}
    bridge = pair.bridge("judge", share=False)
    with torch.no_grad():
        for parameter in bridge.original_model.parameters():
            parameter.zero_()
    require_untouched(pair, before, logits)
    shared = pair.bridge("judge")
    own = {p.data_ptr() for p in pair.judge.parameters()}
    assert any(p.data_ptr() in own for p in shared.original_model.parameters()), "no second copy of the weights"


@pytest.mark.parametrize("side", ["base", "judge"])
def test_a_bridge_may_be_cast_moved_and_frozen_while_the_pair_stays_as_it_is(pair, side):
    before, logits = state(pair), {side: logits_of(pair, side) for side in ("base", "judge")}
    wanted = {name: p.requires_grad for name, p in pair.module(side).named_parameters()}
    bridge = pair.bridge(side)
    own = {p.data_ptr() for p in pair.module(side).parameters()}
    assert any(p.data_ptr() in own for p in bridge.original_model.parameters()), "no second copy of the weights"
    bridge.requires_grad_(not any(wanted.values()))
    bridge.to(torch.float16)
    assert {p.dtype for p in bridge.original_model.parameters()} == {torch.float16}
    assert pair.module(side).dtype == torch.float32
    assert {name: p.requires_grad for name, p in pair.module(side).named_parameters()} == wanted
    require_untouched(pair, before, logits)


def test_what_is_written_into_a_shared_weight_in_place_reaches_the_pair_as_documented():
    pair = tiny_pair()
    bridge, known = pair.bridge("base"), {p.data_ptr(): p for p in pair.base.parameters()}
    shared = next(p for p in bridge.original_model.parameters() if p.data_ptr() in known)
    with torch.no_grad():
        shared.add_(1)
    assert torch.equal(shared, known[shared.data_ptr()])


def test_a_bridge_of_a_float64_pair_is_held_to_the_float32_of_its_softmax():
    plain = tiny_pair()
    pair = load_pair(
        plain.base.double(), plain.judge.double(), tokenizer=plain.tokenizer, format="pairwise", dtype="float64"
    )
    torch.testing.assert_close(pair.bridge("judge")(ids_of(pair)), logits_of(pair, "judge"), atol=1e-5, rtol=0)


def test_a_bridge_that_disagrees_is_refused(pair, monkeypatch):
    plain = handing_out.boot_bridge

    def wrong(module):
        bridge, paths = plain(module)
        bridge.add_hook("blocks.0.hook_resid_post", lambda value, hook: value * 1.01)
        return bridge, paths

    monkeypatch.setattr(handing_out, "boot_bridge", wrong)
    with pytest.raises(ExecutorDisagreement, match="TransformerLens"):
        pair.bridge("judge")


def test_a_trace_opened_through_the_pair_runs_the_callers_own_block(pair):
    ids = ids_of(pair)
    model = pair.nnsight("judge")
    with pair.trace("judge", ids):
        hidden = save(model.model.layers[0].output)
        out = save(model.output.logits)
    assert torch.equal(out, logits_of(pair, "judge"))
    assert hidden.shape == (1, ids.shape[1], 32)
    with pair.trace("judge", TEXT) as tracer:
        again = save(tracer.envoy.output.logits)
    assert torch.equal(again, out)
    assert pair.nnsight("judge") is model


def test_an_edit_in_a_trace_works_and_never_reaches_the_pair(pair):
    before, logits = state(pair), {side: logits_of(pair, side) for side in ("base", "judge")}
    ids, model = ids_of(pair), pair.nnsight("judge")
    with pair.trace("judge", ids):
        model.model.layers[0].mlp.output = model.model.layers[0].mlp.output * 0
        edited = save(model.output.logits)

    def ablate(module, args, output):
        return output * 0

    with torch.no_grad():
        handle = pair.judge.model.layers[0].mlp.register_forward_hook(ablate)
        expected = pair.judge(ids).logits
        handle.remove()
    torch.testing.assert_close(edited, expected)
    require_untouched(pair, before, logits)


def test_one_session_goes_across_both_models(pair):
    """The judge's first block is put into the base: what one trace read, the next one uses."""
    ids = ids_of(pair)
    judge, base = pair.nnsight("judge"), pair.nnsight("base")
    with judge.session():
        with pair.trace("judge", ids):
            hidden = save(judge.model.layers[0].output)
        with pair.trace("base", ids):
            base.model.layers[0].output = hidden
            out = save(base.output.logits)
    with torch.no_grad():
        handle = pair.base.model.layers[0].register_forward_hook(lambda module, args, output: hidden)
        expected = pair.base(ids).logits
        handle.remove()
    torch.testing.assert_close(out, expected)
    assert not torch.allclose(out, logits_of(pair, "base"))


def test_a_trace_works_from_a_cell_of_a_notebook(pair, tmp_path):
    """What a notebook runs is compiled source whose lines are in linecache; nnsight reads the block from there."""
    import linecache

    source = "with pair.trace('judge', ids) as tracer:\n    out = save(tracer.envoy.output.logits)\n"
    name = "<ipython-input-1-cell>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space = {"pair": pair, "ids": ids_of(pair), "save": save}
    exec(compile(source, name, "exec"), space)
    assert torch.equal(space["out"], logits_of(pair, "judge"))
