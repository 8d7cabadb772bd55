"""Scaled forwards against models assembled by hand: hybrid checkpoints, patched streams, finite differences."""

import copy

import pytest
import torch

from tests.pairs.lockstep_pairs import FAMILIES, batch_with_spans, pair_of
from workbench.errors import ParameterError
from workbench.hooks import Component, Patch, Site
from workbench.pairs import Scaling, gated_stream, identical_pair, load_pair, scaled_logits, scaled_stream
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tiny_pair, tuned_copy

C = Component
BATCH = batch_with_spans()
CUTS = [C.RESID_POST, C.ATTN_OUT, C.MLP_OUT, C.Z]
READ = {
    C.ATTN_OUT: ("input_layernorm", "self_attn"),
    C.MLP_OUT: ("post_attention_layernorm", "mlp"),
    C.RESID_POST: ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    return pair_of(request.param)


def plain(module, batch=BATCH):
    with torch.no_grad():
        return module(**batch.forward_kwargs(), use_cache=False).logits


def far(left, right):
    return float((left - right)[BATCH.mask].abs().max())


@pytest.mark.parametrize("component", CUTS)
def test_both_ends_are_exact_to_the_bit_however_the_network_is_cut(pair, component):
    judge, base = plain(pair.judge), plain(pair.base)
    assert torch.equal(scaled_logits(pair, BATCH, scaling=Scaling(1.0, component=component)), judge)
    off = Scaling(0.0, component=component, elsewhere=0.0)
    assert torch.equal(scaled_logits(pair, BATCH, scaling=off, ends="base"), base)
    on = Scaling(1.0, component=component, elsewhere=0.0)
    assert far(scaled_logits(pair, BATCH, scaling=on, ends="base"), base) > 1e-3


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "lora"])
def test_with_equal_ends_either_model_may_be_the_outer_one(family):
    """The inner model's blocks get its own masks, windows and tables, layer by layer."""
    base = pair_of(family).base
    noise = scaled_noise(0.2)

    def in_blocks(name, parameter, generator):
        return noise(name, parameter, generator) if "layers." in name or ".h." in name else torch.zeros_like(parameter)

    options = {"tokenizer": byte_tokenizer(), "format": "pairwise", "doctor": False, "device": "cpu"}
    pair = load_pair(base, tuned_copy(base, change=in_blocks), **options)
    assert torch.equal(scaled_logits(pair, BATCH, alpha=0.0, ends="judge"), plain(pair.base))
    assert torch.equal(scaled_logits(pair, BATCH, alpha=1.0, ends="base"), plain(pair.judge))
    for component in CUTS:
        scaling = Scaling(0.25, component=component, layers=(1, 2), spans=("question", "template"), elsewhere=1.0)
        one, two = (scaled_logits(pair, BATCH, scaling=scaling, ends=ends) for ends in ("judge", "base"))
        assert far(one, two) < 5e-5
        assert far(one, plain(pair.judge)) > 1e-3


def test_both_ends_are_exact_in_half_precision_too():
    base = tiny_model().bfloat16()
    judge = tuned_copy(base, change=scaled_noise(0.1))
    options = {"tokenizer": byte_tokenizer(), "format": "pairwise", "doctor": False, "device": "cpu"}
    half = load_pair(base, judge, dtype=torch.bfloat16, **options)
    for component in CUTS:
        on, off = Scaling(1.0, component=component), Scaling(0.0, component=component, elsewhere=0.0)
        assert torch.equal(scaled_logits(half, BATCH, scaling=on), plain(half.judge))
        assert torch.equal(scaled_logits(half, BATCH, scaling=off, ends="base"), plain(half.base))


def test_blocks_whose_writes_nobody_takes_dont_run():
    pair, ran = tiny_pair(n_layers=3), []
    scaled_logits(pair, BATCH, alpha=1.0)  # learns the anatomies, which takes forwards of its own
    handles = [
        block.self_attn.register_forward_hook(lambda *_, place=(side, layer): ran.append(place))
        for side in ("base", "judge")
        for layer, block in enumerate(pair.module(side).model.layers)
    ]
    try:
        scaled_logits(pair, BATCH, scaling=Scaling(0.0, layers=(1,)))
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [("judge", 0), ("base", 1), ("judge", 2)]


def test_half_way_lies_neither_at_base_nor_at_judge(pair):
    judge, base = plain(pair.judge), plain(pair.base)
    for half in (
        scaled_logits(pair, BATCH, alpha=0.5),
        scaled_logits(pair, BATCH, scaling=Scaling(0.5, component=C.ATTN_OUT, elsewhere=0.5)),
    ):
        assert min(far(half, judge), far(half, base)) > 1e-3
    last = scaled_logits(pair, BATCH, alpha=0.5, logits="last")
    assert float((last - scaled_logits(pair, BATCH, alpha=0.5)[:, -1]).abs().max()) < 1e-5


def test_the_scale_is_taken_in_every_block_of_one_stream():
    """Written out for one row: each block of both models reads the same x."""
    pair, alpha = tiny_pair(n_layers=3), 1.25
    row = batch_with_spans().row(1)
    with torch.no_grad():
        x = pair.judge.model.embed_tokens(row.ids)
        positions = torch.arange(row.ids.shape[1])[None]
        for own, other in zip(pair.judge.model.layers, pair.base.model.layers, strict=True):
            tables = pair.base.model.rotary_emb(x, positions)
            ptc, ftc = (block(x, position_embeddings=tables) for block in (other, own))
            x = x + (ptc - x) + alpha * (ftc - ptc)
        by_hand = pair.judge.lm_head(pair.judge.model.norm(x))
    torch.testing.assert_close(scaled_logits(pair, row, alpha=alpha), by_hand, atol=2e-5, rtol=0)


@pytest.mark.parametrize("component", list(READ))
@pytest.mark.parametrize("layer", [0, 2])
def test_taking_one_place_out_is_the_judge_with_the_bases_modules_there(component, layer):
    pair = tiny_pair(n_layers=3)
    hybrid = copy.deepcopy(pair.judge)
    for name in READ[component]:
        setattr(hybrid.model.layers[layer], name, copy.deepcopy(getattr(pair.base.model.layers[layer], name)))
    found = scaled_logits(pair, BATCH, scaling=Scaling(0.0, component=component, layers=(layer,)))
    assert torch.equal(found, plain(hybrid))
    assert far(found, plain(pair.judge)) > 1e-3


def test_spans_limit_the_tokens_and_the_innermost_span_wins(pair):
    """One block at one span: the judge with that block's output patched in there from a hybrid run."""
    layer, site = 1, Site(C.RESID_POST, 1)
    off = scaled_logits(pair, BATCH, scaling=Scaling(0.0, layers=(layer,), spans=("rubric",)))
    rubric = torch.zeros_like(BATCH.mask)
    for row, table in enumerate(BATCH.spans):
        rubric[row, [table["rubric"].start, table["rubric"].stop - 1]] = True
    assert torch.equal(BATCH.span_mask(["rubric"]), rubric)
    judge = pair.executor("judge")
    base_block = _block_output(pair, layer)
    kept = judge.run(BATCH, capture=[site]).activations[site]
    patch = Patch(site, torch.where(rubric[..., None], base_block, kept))
    expected = judge.run(BATCH, edits=[patch], logits="all").logits
    assert far(off, expected) < 2e-5
    assert far(off, plain(pair.judge)) > 1e-4


def _block_output(pair, layer):
    """Return what the base's block writes when it reads the judge's stream, by the base's own clamped forward."""
    pre, post = Site(C.RESID_PRE, layer), Site(C.RESID_POST, layer)
    stream = pair.executor("judge").run(BATCH, capture=[pre]).activations[pre]
    return pair.executor("base").run(BATCH, edits=[Patch(pre, stream)], capture=[post]).activations[post]


def test_all_spans_together_are_everywhere():
    pair = tiny_pair()
    names = ("question", "rubric", "answer_a", "template")
    all_of_them = scaled_logits(pair, BATCH, scaling=Scaling(0.5, spans=names, elsewhere=0.0))
    assert far(all_of_them, scaled_logits(pair, BATCH, alpha=0.5)) < 1e-5
    outside = scaled_logits(pair, BATCH, scaling=Scaling(0.5, spans=names[:3]))
    inside = scaled_logits(pair, BATCH, scaling=Scaling(1.0, spans=names[3:], elsewhere=0.5))
    assert far(outside, inside) == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_heads_carry_their_columns_of_the_output_matrix(family):
    """Tuning confined to one head's columns: without that head the base is left, without the others the judge."""
    base = pair_of(family).base
    d_head, head = pair_of(family).anatomy("base").d_head, 2
    columns = slice(head * d_head, (head + 1) * d_head)

    def change(name, parameter, generator):
        out = torch.zeros_like(parameter)
        if "1." in name and name.endswith(("o_proj.weight", "attn.c_proj.weight", "attention.dense.weight")):
            noise = torch.randn(parameter.shape, generator=generator)
            (out if family == "gpt2" else out.T)[columns] = (noise if family == "gpt2" else noise.T)[columns]
        return out

    pair = load_pair(
        base, tuned_copy(base, change=change), tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu"
    )
    on, off = plain(pair.judge), plain(pair.base)
    without = scaled_logits(pair, BATCH, scaling=Scaling(0.0, component=C.Z, layers=(1,), heads=(head,)))
    others = scaled_logits(pair, BATCH, scaling=Scaling(0.0, component=C.Z, layers=(1,), heads=(0, 1, 3)))
    assert far(on, off) > 1e-2
    assert far(without, off) < 2e-5
    assert far(others, on) < 2e-5


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_the_output_bias_belongs_to_no_head(family):
    """All heads off and the rest on: attention's write without its tuned heads, but with the judge's own bias."""
    base = pair_of(family).base

    def bias_only(name, parameter, generator):
        moved = "attn" in name and name.endswith(("o_proj.bias", "attn.c_proj.bias"))
        return torch.randn(parameter.shape, generator=generator) if moved else torch.zeros_like(parameter)

    judge = tuned_copy(base, change=bias_only)
    options = {"tokenizer": byte_tokenizer(), "format": "pairwise", "doctor": False, "device": "cpu"}
    pair = load_pair(base, judge, allow_identical=family == "gemma2", **options)  # Gemma 2 has no such bias
    found = scaled_logits(pair, BATCH, scaling=Scaling(0.0, component=C.Z))
    assert far(found, plain(judge)) < 2e-5
    gone = scaled_logits(pair, BATCH, scaling=Scaling(0.0, component=C.ATTN_OUT))
    assert far(gone, plain(base)) < 2e-5


def test_between_base_and_judge_a_norm_after_the_heads_has_no_one_value():
    with pytest.raises(ParameterError, match="a norm follows the heads"):
        scaled_logits(pair_of("gemma2"), BATCH, scaling=Scaling(0.0, component=C.Z, heads=(1,), elsewhere=0.5))


def test_each_model_keeps_its_own_rotary_table():
    base, other = tiny_model(), tiny_model()
    other.config.rope_parameters["rope_theta"] = 50.0
    other = type(base)(other.config).eval()
    other.load_state_dict(base.state_dict())
    pair = load_pair(
        other, base, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu", allow_identical=True
    )
    assert torch.equal(scaled_logits(pair, BATCH, alpha=0.0), plain(other))
    assert torch.equal(scaled_logits(pair, BATCH, alpha=1.0), plain(base))
    assert far(plain(other), plain(base)) > 1e-3


def test_a_judge_against_itself_is_itself_at_any_scale(pair):
    same = identical_pair(pair)
    for scaling in (Scaling(0.3), Scaling(1.7, component=C.MLP_OUT, spans=("question",))):
        assert torch.equal(scaled_logits(same, BATCH, scaling=scaling), plain(pair.judge))


def test_padding_and_other_rows_dont_matter(pair):
    scaling = Scaling(0.5, component=C.ATTN_OUT, spans=("question",), elsewhere=1.25)
    together = scaled_logits(pair, BATCH, scaling=scaling)
    for row in range(len(BATCH)):
        alone = scaled_logits(pair, BATCH.row(row), scaling=scaling)
        assert float((together[row, -alone.shape[1] :] - alone[0]).abs().max()) < 5e-5


def test_the_final_stream_is_what_norm_and_head_read(pair):
    for side, alpha in (("judge", 1.0), ("base", 0.0)):
        last = Site(C.RESID_POST, pair.n_layers - 1)
        own = pair.executor(side).run(BATCH, capture=[last]).activations[last]
        assert torch.equal(scaled_stream(pair, BATCH, scaling=Scaling(alpha), ends=side), own)


@pytest.mark.parametrize("ends", ["judge", "base"])
@pytest.mark.parametrize("granularity", ["block", "sublayer"])
def test_gates_at_alpha_are_the_scaled_model_and_their_gradients_are_differences(pair, ends, granularity):
    units = pair.n_layers * (1 if granularity == "block" else 2)
    gates = torch.full((units, *BATCH.ids.shape), 0.5, requires_grad=True)
    stream = gated_stream(pair, BATCH, gates, ends=ends, granularity=granularity)
    direction = torch.randn(stream.shape[-1], generator=torch.Generator().manual_seed(0))
    value = (stream[:, -1] @ direction).sum()
    (found,) = torch.autograd.grad(value, gates)
    module = pair.module(ends)
    norm, head = (module.get_submodule(getattr(pair.anatomy(ends), name)) for name in ("final_norm", "unembed"))
    cut = {} if granularity == "block" else {"component": C.ATTN_OUT, "elsewhere": 0.5}
    scaled = scaled_logits(pair, BATCH, scaling=Scaling(0.5, **cut), ends=ends, logits="last")
    with torch.no_grad():
        logits = head(norm(stream[:, -1]))
    cap = getattr(module.config, "final_logit_softcapping", None)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    assert float((logits - scaled).abs().max()) < 5e-5
    for unit, row, column in ((0, 0, 10), (units - 1, 1, 18), (1, 2, 18)):
        values = []
        for step in (0.02, -0.02):
            moved = gates.detach().clone()
            moved[unit, row, column] += step
            with torch.no_grad():
                values.append(gated_stream(pair, BATCH, moved, ends=ends, granularity=granularity)[:, -1] @ direction)
        slope = float((values[0] - values[1]).sum()) / 0.04
        assert slope == pytest.approx(float(found[unit, row, column]), abs=2e-3 + 0.02 * abs(slope))


def test_gates_leave_parameters_as_they_were(pair):
    next(pair.base.parameters()).requires_grad_(False)
    asking = [p.requires_grad for m in (pair.base, pair.judge) for p in m.parameters()]
    gates = torch.ones((pair.n_layers, *BATCH.ids.shape), requires_grad=True)
    gated_stream(pair, BATCH, gates).sum().backward()
    assert asking == [p.requires_grad for m in (pair.base, pair.judge) for p in m.parameters()]
    assert all(p.grad is None for m in (pair.base, pair.judge) for p in m.parameters())
    assert gates.grad is not None
    next(pair.base.parameters()).requires_grad_(True)


def test_gates_of_identical_models_have_gradient_exactly_zero(pair):
    for granularity, factor in (("block", 1), ("sublayer", 2)):
        gates = torch.full((factor * pair.n_layers, *BATCH.ids.shape), 0.3, requires_grad=True)
        gated_stream(identical_pair(pair), BATCH, gates, granularity=granularity)[:, -1].sum().backward()
        assert not gates.grad.any()


@pytest.mark.parametrize("component", CUTS)
def test_both_models_are_left_as_found_also_when_a_forward_raises(pair, component):
    def state():
        return [
            (name, "forward" in module.__dict__, len(module._forward_hooks), len(module._forward_pre_hooks))
            for model in (pair.base, pair.judge)
            for name, module in model.named_modules()
        ]

    before, rng = state(), torch.random.get_rng_state()
    handle = pair.base.get_submodule(pair.anatomy("base").blocks_path)[1].register_forward_hook(_interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            scaled_logits(pair, BATCH, scaling=Scaling(0.5, component=component))
    finally:
        handle.remove()
    assert state() == before
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert torch.equal(scaled_logits(pair, BATCH, alpha=1.0), plain(pair.judge))


def _interrupt(*_args):
    raise KeyboardInterrupt


def test_what_is_not_a_scaling_is_refused():
    pair = tiny_pair()
    wrong = [
        ({"alpha": -0.1}, "not a scale"),
        ({"elsewhere": float("nan")}, "not a scale"),
        ({"component": C.Q}, "no scale acts there"),
        ({"heads": (1,)}, "only component Z"),
        ({"layers": (1, 1)}, "each once"),
        ({"spans": ()}, "as a tuple"),
    ]
    for parts, message in wrong:
        with pytest.raises(ParameterError, match=message):
            Scaling(**parts)
    for scaling in (Scaling(0.0, layers=(2,)), Scaling(0.0, component=C.Z, heads=(4,)), Scaling(0.0, spans=("rubik",))):
        with pytest.raises(ParameterError, match="fewer|no such span"):
            scaled_logits(pair, BATCH, scaling=scaling)
    for options in ({}, {"alpha": 0.5, "scaling": Scaling(0.5)}):
        with pytest.raises(ParameterError, match="one of"):
            scaled_logits(pair, BATCH, **options)
    with pytest.raises(ParameterError, match="gates and batch differ"):
        gated_stream(pair, BATCH, torch.ones(3, *BATCH.ids.shape))


def test_a_label_says_what_is_scaled_and_a_fingerprint_tells_scalings_apart():
    assert Scaling(0.5).label() == "alpha 0.5"
    parts = {"component": C.Z, "layers": (3, 4), "heads": (1,), "spans": ("rubric",)}
    local = Scaling(0.0, **parts)
    assert local.label() == "alpha 0 in heads 1 of blocks 3, 4 at rubric, 1 elsewhere"
    assert local.fingerprint() == Scaling(0.0, **parts).fingerprint()
    assert len({s.fingerprint() for s in (local, Scaling(0.0), Scaling(0.0, layers=(3,)), Scaling(0.5))}) == 4


def test_a_tuned_block_alone_moves_only_from_there_on():
    base = tiny_model(n_layers=3)
    judge = tuned_copy(base, change=scaled_noise(0.3, only="layers.1."))
    pair = load_pair(base, judge, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu")
    assert torch.equal(scaled_logits(pair, BATCH, scaling=Scaling(0.0, layers=(1,))), plain(base))
    assert torch.equal(scaled_logits(pair, BATCH, scaling=Scaling(0.0, layers=(0, 2))), plain(judge))
