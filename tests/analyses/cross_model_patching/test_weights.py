"""Known truths of weight swaps and of patches of the same places, on toy models in float64 (T1, T2, T4, T5, T7, T8)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.cross_model_patching.weights.measuring import (
    Plan,
    checked,
    held,
    layer_swaps,
    measure,
    patched_logits,
    stitched_logits,
    swapped_logits,
)
from analyses.cross_model_patching.weights.parts import GRANULARITIES, Part, parts_of, unchanged
from analyses.cross_model_patching.weights.swapping import really_replaced
from tests.tiny_models import ARCHITECTURES, random_batch
from tests.tiny_models import tiny_model as conformance_model
from workbench.errors import ExecutorDisagreement, ParameterError
from workbench.hooks import Anatomy, Component, HooksBackend, Patch, Site
from workbench.pairs.tiny import scaled_noise, tiny_model, tuned_copy
from workbench.tokens import TokenBatch

K, LAYERS, D_HEAD = 3, 6, 8
VERDICT = VerdictIds((40,), (90,))
ROUNDING = 1e-6  # RMSNorm of transformers rounds to float32 in float64 models


@pytest.fixture(scope="module")
def base():
    model = tiny_model(n_layers=LAYERS).double()
    return HooksBackend(model, Anatomy.of(model))


@pytest.fixture(scope="module")
def batch():
    rows = [[(7 * i + 11 * j) % 250 + 3 for j in range(9 + i)] for i in range(3)]
    return TokenBatch.from_rows(rows, pad_id=0)


def judge_of(base, change, seed=0):
    """Return the executor of a judge that differs by ``change``."""
    module = tuned_copy(base.module, change=change, seed=seed)
    return HooksBackend(module, replace(base.anatomy, module=module))


def only(*rows_of, name, scale=1.0):
    """Change some rows of one matrix."""

    def change(each, parameter, generator):
        noise = torch.zeros_like(parameter)
        if name in each:
            chosen = slice(None) if not rows_of else slice(*rows_of)
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            noise[chosen] = (scale * drawn * parameter.std()).to(parameter)[chosen]
        return noise

    return change


def everything(base, judge, batch, granularity=GRANULARITIES, **options):
    parts = parts_of(base.anatomy, granularity)
    plan = Plan(
        verdict=VERDICT,
        parts=parts,
        unchanged=unchanged(base, judge, parts),
        directions=("judge_to_base", "base_to_judge"),
        **options,
    )
    return plan, measure(plan, base, judge, batch)


def by_part(plan, values, direction=0):
    """Return ``{part: effects of the prompts}`` of one direction."""
    return {str(part): values[:, direction, index] for index, part in enumerate(plan.parts)}


@pytest.fixture(scope="module")
def attention_tuned(base, batch):
    judge = judge_of(base, only(name=f"layers.{K}.self_attn"))
    return judge, *everything(base, judge, batch)


@pytest.fixture(scope="module")
def output_tuned(base, batch):
    judge = judge_of(base, only(name=f"layers.{K}.self_attn.o_proj"))
    return judge, *everything(base, judge, batch)


def test_attn_out_is_seen_where_attention_was_changed_and_after_it(attention_tuned):
    """T1a."""
    _, plan, found = attention_tuned
    seen, gap = by_part(plan, found.seen), found.judge - found.base
    for layer in range(K):
        assert not seen[f"attn {layer}"].any()
        assert not seen[f"mlp {layer}"].any()
    np.testing.assert_allclose(seen[f"attn {K}"], gap, atol=ROUNDING)
    assert all(np.abs(seen[f"attn {layer}"]).max() > 1e-4 for layer in range(K + 1, LAYERS))


def test_z_misses_what_the_output_projection_learned(attention_tuned):
    """T1b: all heads' z through the base's projection."""
    _, _, found = attention_tuned
    gap = found.judge - found.base
    assert np.isnan(found.all_z[:, 0, [0, 1, 2, 4, 5]]).all()  # same projection: all z are attn_out
    assert np.abs(found.all_z[:, 0, K] - gap).max() > 0.05 * np.abs(gap).max()


def test_z_is_blind_to_the_output_projection_and_attn_out_is_not(output_tuned):
    """T1c, T1d."""
    _, plan, found = output_tuned
    seen, through = by_part(plan, found.seen), by_part(plan, found.through)
    assert not found.all_z[:, :, K].any()
    assert not any(seen[f"head {layer}.{head}"].any() for layer in range(K + 1) for head in range(4))
    assert any(seen[f"head {K + 1}.{head}"].any() for head in range(4))
    np.testing.assert_allclose(seen[f"attn {K}"], found.judge - found.base, atol=ROUNDING)
    assert all(through[f"head {K}.{head}"].any() for head in range(4))


def test_heads_through_the_donors_projection_are_the_swaps_of_their_slices(output_tuned):
    """Only W_O differs, so that z is the same: the o_proj-aware patch is the weight swap of the head."""
    _, plan, found = output_tuned
    for direction in (0, 1):
        written, through = by_part(plan, found.written, direction), by_part(plan, found.through, direction)
        for head in range(4):
            np.testing.assert_allclose(through[f"head {K}.{head}"], written[f"head {K}.{head}"], atol=ROUNDING)


@pytest.mark.parametrize("direction", [0, 1])
def test_a_weight_swap_is_one_hot_on_what_was_changed(attention_tuned, direction):
    """T1e, both ways: everything else is exactly 0."""
    _, plan, found = attention_tuned
    written, gap = by_part(plan, found.written, direction), found.judge - found.base
    for name in (f"attn {K}", f"layer {K}"):
        np.testing.assert_allclose(written.pop(name), gap * (1 - 2 * direction), atol=ROUNDING)
    inside = [name for name in written if "head" in name and f" {K}." in name]
    assert all(written.pop(name).any() for name in inside)
    assert not any(values.any() for values in written.values())


def test_stitched_models_step_at_the_changed_block(attention_tuned):
    """T1f: resid_pre at all positions."""
    _, _, found = attention_tuned
    np.testing.assert_allclose(found.graft[:, : K + 1], np.repeat(found.base[:, None], K + 1, 1), atol=ROUNDING)
    np.testing.assert_allclose(found.graft[:, K + 1 :], np.repeat(found.judge[:, None], LAYERS - K, 1), atol=ROUNDING)


@pytest.fixture(scope="module")
def blocks_tuned(base):
    return judge_of(base, scaled_noise(0.3, only="layers."))


@pytest.mark.parametrize("count", [None, 1])
def test_all_writes_together_are_the_judge(base, batch, blocks_tuned, count):
    """T2a: with shared embedding, norm and head, at all positions and even at the last one only; T2b: z isn't."""
    sites = base.anatomy.sites(components=[Component.ATTN_OUT, Component.MLP_OUT])
    heads = base.anatomy.sites(components=[Component.Z])
    columns = None if count is None else torch.full((len(batch), 1), -1)
    donor = blocks_tuned.run(batch, capture=[*sites, *heads], positions=columns)

    def patched(chosen):
        edits = [Patch(site, donor.activations[site], columns) for site in chosen]
        return base.run(batch, edits=edits).logits

    torch.testing.assert_close(patched(sites), donor.logits, atol=ROUNDING, rtol=0)
    assert (patched(heads) - donor.logits).abs().max() > 0.01


def test_grafts_are_patches_of_the_whole_stream(base, batch, blocks_tuned):
    """T2c, by plain full forwards; the stitched model itself by a clone that holds the judge's blocks."""
    lower, upper = held(blocks_tuned, batch), held(base, batch)
    for depth in range(LAYERS):
        edits = [Patch(Site(Component.RESID_PRE, depth), lower.stream(depth))]
        plain = base.run(batch, edits=edits, check_edits=False).logits
        clone = really_replaced(base, blocks_tuned, [Part(kind="layer", layer=layer) for layer in range(depth)])
        stitched = stitched_logits(upper, lower, depth)
        torch.testing.assert_close(stitched, plain, atol=ROUNDING, rtol=0)
        torch.testing.assert_close(stitched, clone.run(batch).logits, atol=ROUNDING, rtol=0)


def test_all_z_of_a_block_are_attn_out_through_the_targets_projection(base, batch, blocks_tuned):
    """T2d."""
    site, out = Site(Component.Z, 2), Site(Component.ATTN_OUT, 2)
    target, donor = held(base, batch, sites=[site, out]), held(blocks_tuned, batch, sites=[site, out])
    project = base.module.get_submodule("model.layers.2.self_attn.o_proj")
    with torch.no_grad():
        written = project(donor.activations[site].flatten(-2))
    own = base.suffix(2, target.stream(2), batch, edits=[Patch(out, written)]).logits
    torch.testing.assert_close(patched_logits(target, donor, [site]), own, atol=ROUNDING, rtol=0)


def test_single_effects_do_not_add_up(base, batch, blocks_tuned):
    """T2e: there is no identity to present as shares."""
    plan, found = everything(base, blocks_tuned, batch, ("layer",), grafts=False)
    gap = (found.judge - found.base).mean()
    for values in (found.written, found.seen):
        sums = sum(v for name, v in by_part(plan, values).items() if name.startswith("layer")).mean()
        assert abs(sums / gap - 1) > 0.02


def test_one_heads_queries(base, batch):
    """T4: z is 1 at the changed head and 0 beside and below it; downstream heads light up; only its weights count."""
    judge = judge_of(base, only(D_HEAD, 2 * D_HEAD, name=f"layers.{K}.self_attn.q_proj", scale=3.0))
    plan, found = everything(base, judge, batch, ("head",), grafts=False)
    seen, written, gap = by_part(plan, found.seen), by_part(plan, found.written), found.judge - found.base
    np.testing.assert_allclose(seen[f"head {K}.1"], gap, atol=ROUNDING)
    np.testing.assert_allclose(written[f"head {K}.1"], gap, atol=ROUNDING)
    beside = [f"head {layer}.{head}" for layer in range(K + 1) for head in range(4) if (layer, head) != (K, 1)]
    assert not any(seen[name].any() for name in beside)
    assert any(seen[f"head {layer}.{head}"].any() for layer in range(K + 1, LAYERS) for head in range(4))
    assert [name for name, values in written.items() if "head" in name and values.any()] == [f"head {K}.1"]


def test_one_key_value_head_moves_its_group_of_query_heads(base, batch):
    """T5."""
    judge = judge_of(base, only(0, D_HEAD, name=f"layers.{K}.self_attn.v_proj"))
    plan, found = everything(base, judge, batch, ("head",), grafts=False)
    seen, written, gap = by_part(plan, found.seen), by_part(plan, found.written), found.judge - found.base
    assert [bool(seen[f"head {K}.{head}"].any()) for head in range(4)] == [True, True, False, False]
    assert [name for name, values in written.items() if "head" in name and values.any()] == [f"kv_head {K}.0"]
    np.testing.assert_allclose(written[f"kv_head {K}.0"], gap, atol=ROUNDING)
    np.testing.assert_allclose(seen[f"kv_head {K}.0"], gap, atol=ROUNDING)


def test_judge_under_base_is_base_over_judge(base, batch):
    """T7, with every tensor different: two ways to the same network, bit for bit at the blocks' own kernels."""
    judge = judge_of(base, scaled_noise(0.3))
    clean, other = held(base, batch), held(judge, batch)
    for depth in range(LAYERS + 1):
        rest = [Part(kind="layer", layer=layer) for layer in range(depth, LAYERS)]
        rest += [Part(kind="final_norm"), Part(kind="unembed")]
        left, right = stitched_logits(clean, other, depth), swapped_logits(other, base, rest)
        torch.testing.assert_close(left, right, atol=ROUNDING, rtol=0)


def test_small_changes_have_effects_in_proportion(base, batch):
    """T8: nothing at 0, linear near it."""
    found = []
    for share in (0.0, 0.01, 0.02):
        judge = judge_of(base, only(name=f"layers.{K}.mlp", scale=share))
        plan, measured = everything(base, judge, batch, ("module",), compare=False, grafts=False)
        found.append(by_part(plan, measured.written)[f"mlp {K}"])
    assert not found[0].any()
    np.testing.assert_allclose(found[2], 2 * found[1], rtol=0.1)


def test_the_same_model_is_exactly_zero_everywhere(base, batch):
    plan, found = everything(base, judge_of(base, scaled_noise(0.0)), batch)
    assert plan.unchanged.all()
    for values in (found.written, found.seen, found.through):
        assert not np.nan_to_num(values).any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_swaps_are_those_of_a_clone_that_holds_the_tensors(architecture):
    """Fused projections, grouped heads, sliding windows, parallel blocks, sandwich norms, biases; nothing is left."""
    model = conformance_model(architecture)
    base = HooksBackend(model, Anatomy.of(model))
    judge = judge_of(base, scaled_noise(0.3))
    batch = random_batch()
    before = {name: child.forward for name, child in model.named_modules()}, base.run(batch).logits
    clean, generator = held(base, batch), np.random.default_rng(0)
    parts = parts_of(base.anatomy, GRANULARITIES)
    kinds = sorted({part.kind for part in parts})
    for kind in kinds:
        some = [part for part in parts if part.kind == kind]
        part = some[int(generator.integers(len(some)))]
        truth = really_replaced(base, judge, [part]).run(batch).logits
        torch.testing.assert_close(swapped_logits(clean, judge, [part]), truth, atol=2e-5, rtol=1e-4)
    assert {"layer", "attn", "mlp", "embedding", "final_norm", "unembed", "head"} <= set(kinds)
    assert {name: child.forward for name, child in model.named_modules()} == before[0]
    assert torch.equal(base.run(batch).logits, before[1])


def test_a_layer_sweep_is_one_swap_after_another(base, batch, blocks_tuned):
    found = layer_swaps(base, blocks_tuned, batch)
    for layer in range(LAYERS):
        truth = really_replaced(base, blocks_tuned, [Part(kind="layer", layer=layer)]).run(batch).logits
        torch.testing.assert_close(found[layer], truth, atol=ROUNDING, rtol=0)


def test_the_self_test_refuses_another_models_numbers(base, batch, blocks_tuned, monkeypatch):
    plan, _ = everything(base, blocks_tuned, batch, ("layer",), compare=False)
    assert checked(plan, base, blocks_tuned, batch, seed=0) < ROUNDING
    module = "analyses.cross_model_patching.weights.measuring.really_replaced"
    monkeypatch.setattr(module, lambda _target, donor, _parts: donor)
    with pytest.raises(ExecutorDisagreement):
        checked(plan, base, blocks_tuned, batch, seed=0)


def test_an_error_inside_a_swap_leaves_the_models_as_they_were(base, batch, blocks_tuned, monkeypatch):
    clean = held(base, batch)
    kept = [(m, dict(m.__dict__), len(m._forward_hooks)) for e in (base, blocks_tuned) for m in e.module.modules()]
    mlp = blocks_tuned.module.get_submodule("model.layers.4.mlp")

    def broken(*_args, **_kwargs):
        raise KeyboardInterrupt

    for part in (Part(kind="mlp", layer=4), Part(kind="layer", layer=4)):
        with monkeypatch.context() as patch:
            patch.setitem(mlp.__dict__, "forward", broken)
            with pytest.raises(KeyboardInterrupt):
                swapped_logits(clean, blocks_tuned, [part])
    for module, state, hooks in kept:
        assert ("forward" in module.__dict__) == ("forward" in state)
        assert len(module._forward_hooks) == hooks
    assert torch.equal(held(base, batch).logits, clean.logits)


def test_parts_that_do_not_exist_are_refused(base):
    with pytest.raises(ParameterError, match="granularity"):
        parts_of(base.anatomy, ["neuron"])
    with pytest.raises(ParameterError, match="layers"):
        parts_of(base.anatomy, ["layer"], layers=[LAYERS])
