"""Known truths of the split by head: sums, closed forms, and tensors that didn't move."""

import copy
from itertools import permutations

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM, Olmo2Config, Olmo2ForCausalLM

from analyses.readout import LabelGap, frozen_readout
from analyses.tuco.clamp import measure
from analyses.tuco.cuts import units
from analyses.tuco.evaluation import computes_in_half
from analyses.tuco.heads.glimpse import look, record_judge
from analyses.tuco.heads.projections import Projection
from analyses.tuco.heads.split import PARTS, _Layers, _shapley, rounding_push, split_batch
from tests.tiny_models import ARCHITECTURES, BUILDERS, HEADS, KV_HEADS, LAYERS, random_batch, tiny_model
from workbench.errors import ParameterError, UnknownSite
from workbench.hooks import Anatomy, Component, HooksBackend, Site

C = Component
READOUT = LabelGap(11, 17)
SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "vocab_size": 320, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip


def _noise(parameter, seed, scale=0.1):
    noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    return scale * noise * parameter.detach().norm() / noise.norm()


def tuned(base, *, only="", rows=None, scale=0.1, layer=None):
    """Copy a model and move the parameters whose name contains ``only`` (or some rows), in one or all layers."""
    judge = copy.deepcopy(base)
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(judge.named_parameters()):
            if only in name and (layer is None or f".{layer}." in name):
                change = _noise(parameter, seed, scale)
                if rows is not None:
                    change[: rows[0]] = 0
                    change[rows[1] :] = 0
                parameter.add_(change)
    return judge


def executors(base, judge):
    anatomy = Anatomy.of(base)
    return HooksBackend(judge, anatomy), HooksBackend(base, anatomy)


def regions_of(batch, n=3):
    """Cut every prompt into thirds by column; -1 on padding."""
    width = batch.ids.shape[1]
    cut = (torch.arange(width) * n // width).expand(len(batch), -1).clone()
    cut[~batch.mask] = -1
    return cut


def split(judge, base, batch=None, **options):
    batch = random_batch() if batch is None else batch
    return split_batch(
        judge, base, batch, readout=READOUT, regions=regions_of(batch), n_regions=3, **({"neurons": True} | options)
    )[0]


def olmo2():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Olmo2ForCausalLM(Olmo2Config(**SHAPE)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(5) if parameter.ndim > 1 else parameter.add_(0.3 * torch.randn_like(parameter))
    return model


MODELS = {name: (lambda name=name: tiny_model(name)) for name in ARCHITECTURES} | {"olmo2": olmo2}


@pytest.mark.parametrize("architecture", MODELS)
def test_everything_adds_up_to_what_the_clamp_measured(architecture):
    base = MODELS[architecture]()
    judge, base = executors(base, tuned(base))
    batch = random_batch()
    found = split(judge, base, batch)
    cut = units("sublayer", n_layers=LAYERS, parallel=judge.anatomy.parallel)
    plain = measure(judge, base, batch, parts=cut)
    norm, head = (judge.module.get_submodule(p) for p in (judge.anatomy.final_norm, judge.anatomy.unembed))
    frozen = frozen_readout(norm, head, plain.final, readout=READOUT)
    pushed = torch.einsum("pud,pd->pu", plain.finetuned.double(), frozen.direction).unflatten(1, (LAYERS, 2))
    near = {"rtol": 1e-5, "atol": 1e-5 * float(frozen.gap.abs().max().clamp(min=1))}
    torch.testing.assert_close(found.head_push.sum(-1) + found.attention_bias_push, pushed[..., 0], **near)
    torch.testing.assert_close(found.mlp_push, pushed[..., 1], **near)
    torch.testing.assert_close(found.region_push.sum(-1), found.head_push, **near)
    torch.testing.assert_close(found.part_push.sum(-1), found.head_push, **near)
    by_neuron = torch.stack([layer.sum(-1) for layer in found.neurons], dim=1)
    torch.testing.assert_close(by_neuron + found.mlp_bias_push, found.mlp_push, **near)
    whole = found.embedding_push + found.bias_push + found.pretrained_push.sum((1, 2)) + pushed.sum((1, 2))
    with torch.no_grad():
        logits = judge.module(**batch.forward_kwargs(), use_cache=False).logits[:, -1].double()
    if architecture != "gemma2":  # whose logits are capped after the gap is read
        torch.testing.assert_close(found.judge_gap, logits[:, READOUT.a] - logits[:, READOUT.b], **near)
    torch.testing.assert_close(whole, found.judge_gap, **near)
    assert found.head_push.abs().min() > 0
    assert found.attention_bias_push.any() == (architecture in {"llama", "gpt2", "neox"})


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "neox"])
def test_a_model_against_itself_is_exactly_zero_in_every_part(architecture):
    base = tiny_model(architecture)
    found = split(*executors(base, base))
    for part in (found.head_push, found.region_push, found.part_push, found.attention_bias_push, found.mlp_push):
        assert not part.any()
    assert not any(layer.any() for layer in found.neurons)
    assert found.pretrained_head_push.abs().min() > 0


def test_only_values_tuned_has_a_closed_form_by_head_and_by_token():
    """F_attn = W_O concat_h(pattern_h x dWv^T), and neither pattern nor output has a part in it."""
    base = tiny_model("llama")
    base.set_attn_implementation("eager")
    layer = 1
    judge = tuned(base, only="v_proj.weight", layer=layer)
    batch = random_batch()
    found = split(*executors(base, judge), batch)
    with torch.no_grad():
        out = judge(**batch.forward_kwargs(), output_attentions=True, output_hidden_states=True, use_cache=False)
    block = base.model.layers[layer]
    change = judge.model.layers[layer].self_attn.v_proj.weight - block.self_attn.v_proj.weight
    values = (block.input_layernorm(out.hidden_states[layer]) @ change.T).unflatten(-1, (KV_HEADS, -1))
    values = values.repeat_interleave(HEADS // KV_HEADS, dim=2)
    anatomy = Anatomy.of(base)
    final = HooksBackend(judge, anatomy).run(batch, capture=[Site(C.RESID_POST, LAYERS - 1)]).activations
    direction = frozen_readout(
        judge.model.norm, judge.lm_head, final[Site(C.RESID_POST, LAYERS - 1)][:, -1], readout=READOUT
    ).direction
    by_head = block.self_attn.o_proj.weight.double().unflatten(1, (HEADS, -1))
    tokens = torch.einsum(
        "bhs,bshd,mhd,bm->bhs", out.attentions[layer][:, :, -1].double(), values.double(), by_head, direction
    )
    torch.testing.assert_close(found.head_push[:, layer], tokens.sum(-1), rtol=1e-4, atol=1e-5)
    for region in range(3):
        inside = (regions_of(batch) == region).double()
        expected = torch.einsum("bhs,bs->bh", tokens, inside)
        torch.testing.assert_close(found.region_push[:, layer, :, region], expected, rtol=1e-4, atol=1e-5)
    assert not found.part_push[:, layer, :, PARTS.index("pattern")].any()
    assert not found.part_push[:, layer, :, PARTS.index("output")].any()
    assert not found.head_push[:, [0, 2]].any()
    assert not found.mlp_push.any()


@pytest.mark.parametrize(("tensor", "part"), [("q_proj", "pattern"), ("k_proj", "pattern"), ("v_proj", "value")])
def test_a_tuned_projection_has_only_its_own_part(tensor, part):
    base = tiny_model("qwen2")
    found = split(*executors(base, tuned(base, only=f"{tensor}.weight", layer=2)))
    others = [k for k, name in enumerate(PARTS) if name != part]
    assert found.part_push[:, 2, :, PARTS.index(part)].abs().min() > 0
    assert not found.part_push[..., others].any()
    assert not found.part_push[:, :2].any()


@pytest.mark.parametrize(("architecture", "tensor"), [("llama", "o_proj"), ("gemma2", "o_proj")])
def test_a_tuned_output_projection_has_only_the_output_part(architecture, tensor):
    base = tiny_model(architecture)
    found = split(*executors(base, tuned(base, only=tensor, layer=1)))
    assert found.part_push[:, 1, :, PARTS.index("output")].abs().min() > 0
    assert not found.part_push[..., :2].any()


@pytest.mark.parametrize(
    ("tensor", "rows", "heads"), [("q_proj.weight", (16, 32), {1}), ("v_proj.weight", (16, 32), {2, 3})]
)
def test_rows_of_one_head_move_only_that_head(tensor, rows, heads):
    """A key-value head is read by its group of query heads."""
    base = tiny_model("llama")
    found = split(*executors(base, tuned(base, only=tensor, rows=rows, layer=0)))
    moved = {h for h in range(HEADS) if found.head_push[:, 0, h].any()}
    assert moved == heads
    assert not found.head_push[:, 1:].any()


def test_columns_of_one_neuron_move_only_that_neuron():
    base = tiny_model("llama")
    judge = copy.deepcopy(base)
    with torch.no_grad():
        judge.model.layers[1].mlp.down_proj.weight[:, 7] += 0.3
    found = split(*executors(base, judge))
    assert [k for k in range(96) if found.neurons[1][:, k].any()] == [7]
    assert not found.neurons[0].any()
    torch.testing.assert_close(found.neurons[1][:, 7], found.mlp_push[:, 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "neox"])
def test_a_tuned_bias_is_nobodys_head(architecture):
    base = tiny_model(architecture)
    name = {"gpt2": "attn.c_proj.bias", "neox": "attention.dense.bias"}[architecture]
    found = split(*executors(base, tuned(base, only=name, layer=1)))
    assert not found.head_push.any()
    assert found.attention_bias_push[:, 1].abs().min() > 0
    assert not found.attention_bias_push[:, [0, 2]].any()


def test_both_attention_kernels_give_the_same_split():
    base = tiny_model("qwen3")
    found = {}
    for kernel in ("sdpa", "eager"):
        base.set_attn_implementation(kernel)
        found[kernel] = split(*executors(base, tuned(base)))
    for name in ("head_push", "region_push", "part_push"):
        torch.testing.assert_close(getattr(found["sdpa"], name), getattr(found["eager"], name), rtol=1e-4, atol=1e-5)


def test_half_precision_closes_within_its_rounding():
    base = tiny_model("llama").to(torch.bfloat16)
    found = split(*executors(base, tuned(base)))
    assert 0 < found.closing_error < 0.05 * float(found.judge_gap.abs().max().clamp(min=1))
    itself = split(*executors(base, base))
    assert not itself.region_push.any()


def _head_pushes(judge, base, record, direction, batch, **options):
    seen = [look(model, batch, neurons=False, record=record, **options) for model in (judge, base)]
    work = _Layers(*seen, direction, torch.ones(*batch.ids.shape, 1))
    for layer in range(LAYERS):
        work.attention(layer, judge, base)
    return torch.stack(work.rows["head_push"], dim=1)


def test_float32_blocks_see_what_half_precision_rounds_away():
    """A light tune in bfloat16: in float32 on the same stream its heads agree with a float64 copy of both models."""
    base = tiny_model("llama").to(torch.bfloat16)
    judge = tuned(base, only="self_attn", scale=0.01)
    executor, other = executors(base, judge)
    batch = random_batch()
    side = record_judge(executor, batch, neurons=False)
    direction = frozen_readout(judge.model.norm, judge.lm_head, side.final, readout=READOUT).direction.detach()
    doubles = [HooksBackend(copy.deepcopy(m).double(), Anatomy.of(copy.deepcopy(m).double())) for m in (judge, base)]
    record = {site: value.double() for site, value in side.record.items()}
    truth = _head_pushes(*doubles, record, direction, batch)
    errors = {
        wide: float((_head_pushes(executor, other, side.record, direction, batch, float32=wide) - truth).norm())
        for wide in (False, True)
    }
    assert errors[True] < 1e-4 * float(truth.norm())
    assert errors[False] > 20 * errors[True]
    assert computes_in_half(executor) and not computes_in_half(doubles[0])
    assert next(judge.parameters()).dtype == torch.bfloat16


def test_a_float32_run_is_exactly_zero_on_equal_models_and_closes():
    base = tiny_model("gemma2").to(torch.bfloat16)
    itself = split(*executors(base, base), float32=True)
    assert not itself.region_push.any() and not itself.mlp_push.any()
    found = split(*executors(base, tuned(base)), float32=True)
    assert found.closing_error < 1e-4 * float(found.judge_gap.abs().max().clamp(min=1))
    torch.testing.assert_close(found.part_push.sum(-1), found.head_push, rtol=1e-4, atol=1e-4)


def test_rounding_is_far_below_a_real_push():
    base = tiny_model("qwen2")
    judge, base = executors(base, tuned(base))
    floor = rounding_push(judge, random_batch(), readout=READOUT)
    assert 0 <= floor < 1e-3 * float(split(judge, base).head_push.abs().max())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "olmo2"])
def test_writes_of_all_heads_and_the_constant_are_what_attention_wrote(architecture):
    """Also through a post-norm, whose scale stays that of the whole write."""
    base = MODELS[architecture]()
    executor, _ = executors(base, base)
    seen = record_judge(executor, random_batch(), neurons=True).seen
    for site, outer in ((Site(C.Z, 1), Site(C.ATTN_OUT, 1)), (Site(C.NEURONS, 1), Site(C.MLP_OUT, 1))):
        inputs = seen.attention.z[1][:, 0].flatten(1) if site.component is C.Z else seen.last[site]
        projection = Projection.of(executor, site, dtype=torch.float32)
        assert (projection.norm is not None) == (architecture in {"gemma2", "olmo2"})
        blocks = torch.zeros(HEADS, *inputs.shape)
        width = inputs.shape[1] // HEADS
        for k in range(HEADS):
            blocks[k, :, k * width : (k + 1) * width] = inputs[:, k * width : (k + 1) * width]
        total = sum(projection.write(inputs, block) for block in blocks)
        direction = torch.randn(len(inputs), 64, generator=torch.Generator().manual_seed(0)).double()
        slope = projection.along(inputs, direction)
        for block in blocks:
            along = (projection.write(inputs, block).double() * direction).sum(-1)
            torch.testing.assert_close(along, (block.double() * slope.slope).sum(-1), rtol=1e-4, atol=1e-4)
        whole = (total.double() * direction).sum(-1) + slope.constant
        torch.testing.assert_close(whole, (seen.last[outer].double() * direction).sum(-1), rtol=1e-4, atol=1e-4)
    assert not projection.write(inputs, torch.zeros_like(inputs)).any()


def test_shapley_parts_are_the_mean_over_the_six_orders():
    generator = torch.Generator().manual_seed(0)
    corners = {f"{p}{v}{o}": torch.randn(2, 3, generator=generator) for p in "01" for v in "01" for o in "01"}
    expected = torch.zeros(2, 3, 3)
    for order in permutations(range(3)):
        state = ["0", "0", "0"]
        for player in order:
            before = corners["".join(state)]
            state[player] = "1"
            expected[..., player] += (corners["".join(state)] - before) / 6
    found = _shapley(corners)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(-1), corners["111"] - corners["000"])


def test_a_multiplier_between_write_and_stream_is_refused():
    model = GraniteForCausalLM(GraniteConfig(**SHAPE, residual_multiplier=0.5)).eval()
    with pytest.raises(UnknownSite, match="attn_out"):
        split(*executors(model, tuned(model)))


def test_a_write_that_isnt_all_of_its_projections_output_is_refused():
    model = tiny_model("llama")
    doubled = model.model.layers[1].self_attn.register_forward_hook(lambda _m, _a, out: (2 * out[0], *out[1:]))
    with pytest.raises(ParameterError, match="isn't all this sub-layer writes"):
        split(*executors(model, model))
    doubled.remove()


def test_mlps_are_left_whole_where_neurons_arent_asked_for():
    base = tiny_model("llama")
    found = split(*executors(base, tuned(base)), neurons=False)
    assert found.neurons == ()
    assert found.mlp_bias_push.isnan().all()
    assert found.mlp_push.abs().min() > 0


def test_every_architecture_of_the_matrix_is_tried():
    assert set(BUILDERS) < set(MODELS)
