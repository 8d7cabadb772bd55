"""The weight difference: exact where it must be, alike from files and from memory, and never silent about a gap."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from tests.pairs.peft_kinds import saved
from tests.tiny_models import ARCHITECTURES, FUSED, tiny_model
from workbench.errors import CheckpointError, PairMismatch, ParameterError
from workbench.hooks import weight_sharing_shadow
from workbench.pairs import identical_pair, load_pair, random_delta_pair, weight_delta
from workbench.pairs.adapters import Factors
from workbench.pairs.delta import measure, stores
from workbench.pairs.delta.naming import kind_of, layer_of
from workbench.pairs.delta.spectrum import factor_spectrum, gaussian_rank, matrix_spectral_norm, spectral_norm
from workbench.pairs.tiny import scaled_noise, tiny_pair, tuned_copy

KINDS = {"embedding", "position", "q", "k", "v", "fused qkv", "o", "gate", "up", "fused gate and up", "down", "norm"}
KINDS |= {"bias", "head"}


def oracle(base, judge):
    """Norms, spectral norms and stable ranks by the plainest means, in double precision."""
    other = dict(judge.named_parameters())
    for name, parameter in base.named_parameters():
        change = other[name].detach().double() - parameter.detach().double()
        top = float(torch.linalg.svdvals(change)[0]) if change.ndim == 2 else float("nan")
        yield name, float(change.norm()), float(parameter.detach().double().norm()), top


def assert_equals_oracle(delta, base, judge, *, rtol=1e-5):
    expected = {name: numbers for name, *numbers in oracle(base, judge)}
    assert {c.name for c in delta.changes} == set(expected)
    for change in delta.changes:
        moved, norm, top = expected[change.name]
        assert change.change == pytest.approx(moved, rel=rtol)
        assert change.base_norm == pytest.approx(norm, rel=rtol)
        assert change.spectral_norm == pytest.approx(top, rel=rtol, nan_ok=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_files_and_memory_give_the_plain_difference_on_every_architecture(architecture, tmp_path):
    base = tiny_model(architecture)
    judge = tuned_copy(base, change=scaled_noise(0.05))
    for name, model in (("base", base), ("judge", judge)):
        model.save_pretrained(tmp_path / name)
    live = weight_delta(base, judge)
    assert_equals_oracle(live, base, judge)
    for sides in ((tmp_path / "base", tmp_path / "judge"), (base, str(tmp_path / "judge"))):
        filed = weight_delta(*sides)
        by_name = {c.name.replace("embed_out", "lm_head"): c for c in filed.changes}  # GPT-NeoX files
        assert set(by_name) == {c.name for c in live.changes}
        for change in live.changes:
            assert by_name[change.name].change == pytest.approx(change.change, rel=1e-12)
            assert by_name[change.name].spectral_norm == pytest.approx(change.spectral_norm, rel=1e-12, nan_ok=True)
        assert not filed.only_base and not filed.only_judge
    kinds = {c.kind for c in live.changes}
    assert kinds <= KINDS
    assert ("fused qkv" in kinds) == (architecture in FUSED)
    assert {c.layer for c in live.changes} == {None, 0, 1, 2}
    assert {c.kind for c in live.changes if c.layer is None} <= {"embedding", "position", "norm", "head"}


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.7.self_attn.q_norm.weight", 7, "norm"),
        ("h.3.attn.c_proj.weight", 3, "o"),
        ("h.3.mlp.c_proj.weight", 3, "down"),
        ("gpt_neox.layers.1.attention.dense.bias", 1, "bias"),
        ("model.layers.12.mlp.experts.5.gate_proj.weight", 12, "gate"),
        ("gpt_neox.embed_in.weight", None, "embedding"),
        ("model.layers.2.mixer.A_log", 2, "A_log"),
        ("score.weight", None, "head"),
    ],
)
def test_a_name_says_layer_and_kind(name, layer, kind):
    assert (layer_of(name), kind_of(name)) == (layer, kind)


def test_the_same_model_is_exactly_zero_from_memory_and_from_two_copies(tmp_path):
    base = tiny_model("llama")
    base.save_pretrained(tmp_path / "one")
    base.save_pretrained(tmp_path / "two")
    for sides in ((base, base), (tmp_path / "one", tmp_path / "two"), (tmp_path / "one", tmp_path / "one")):
        delta = weight_delta(*sides)
        assert not delta.moved
        assert delta.relative == 0.0
        assert all(c.change == 0.0 and np.isnan(c.stable_rank) for c in delta.changes)
        assert delta.summary().startswith("Nothing moved: all")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_adapter_judge_against_itself_its_base_and_another_adapter(architecture):
    pair = tiny_pair(kind="lora", architecture=architecture)
    own = identical_pair(pair).delta()
    assert not own.moved and own.relative == 0.0
    back = {c.name: c for c in weight_delta(pair.judge, pair.base).changes}
    other = random_delta_pair(pair, seed=5)
    between = {c.name: c for c in weight_delta(other.judge, pair.judge).changes}
    layers = {n: m for n, m in pair.judge.named_modules() if hasattr(m, "get_delta_weight")}
    drawn = dict(other.judge.named_modules())
    assert {c.name for c in pair.delta().moved} == {f"{name}.weight" for name in layers}
    for c in pair.delta().moved:
        name = c.name.removesuffix(".weight")
        assert back[c.name].change == pytest.approx(c.change, rel=1e-6)
        step = layers[name].get_delta_weight("default") - drawn[name].get_delta_weight("default")
        assert between[c.name].change == pytest.approx(float(step.detach().norm()), rel=1e-5)


def test_only_what_was_planted_moves_and_its_rank_is_seen():
    base = tiny_model("llama")
    plant = {"model.layers.1.mlp.down_proj.weight": 1, "model.layers.2.self_attn.q_proj.weight": 3}

    def change(name, parameter, generator):
        rank = plant.get(name, 0)
        b = torch.randn(parameter.shape[0], rank, generator=generator)
        a = torch.randn(rank, parameter.shape[-1], generator=generator)
        return 0.01 * b @ a if rank else torch.zeros_like(parameter)

    delta = weight_delta(base, tuned_copy(base, change=change))
    assert {c.name for c in delta.moved} == set(plant)
    for moved in delta.moved:
        assert moved.stable_rank <= plant[moved.name] * (1 + 1e-4)
        assert moved.gaussian_rank > 4 * moved.stable_rank
    table = delta.by("layer").set_index("layer")
    assert table["share"].sum() == pytest.approx(1)
    assert table.loc[[-1, 0], "share"].sum() == 0
    assert "concentrated" in delta.summary()
    assert "spread" in weight_delta(base, tuned_copy(base, change=scaled_noise(0.01))).summary()


def test_a_known_spectrum_is_recovered_by_every_route():
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(700, 300, generator=generator, dtype=torch.float64))
    p, _ = torch.linalg.qr(torch.randn(300, 300, generator=generator, dtype=torch.float64))
    values = torch.linspace(0.1, 7.0, 300, dtype=torch.float64)
    matrix = q * values @ p
    for candidate in (matrix, matrix.T, matrix.float()):
        assert matrix_spectral_norm(candidate) == pytest.approx(7.0, rel=1e-3)
        for side in (256, 1000):
            streamed = spectral_norm(lambda m=candidate: iter(m.split(64)), columns=candidate.shape[1], gram=side)
            assert streamed == pytest.approx(7.0, rel=1e-3)
    small = torch.randn(900, 64, generator=generator)
    exact = float(torch.linalg.svdvals(small.double())[0])
    assert spectral_norm(lambda: iter(small.split(100)), columns=64) == pytest.approx(exact, rel=1e-6)


def test_the_control_of_stable_rank_is_what_a_gaussian_has():
    draw = torch.randn(400, 300, generator=torch.Generator().manual_seed(1))
    own = float(draw.norm()) ** 2 / matrix_spectral_norm(draw) ** 2
    assert own == pytest.approx(gaussian_rank((400, 300)), rel=0.06)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streaming_in_small_chunks_changes_nothing(dtype, tmp_path, monkeypatch):
    base = tiny_model("llama").to(dtype)
    judge = tuned_copy(base, change=lambda n, p, g: scaled_noise(0.05)(n, torch.nn.Parameter(p.float()), g).to(p.dtype))
    for name, model in (("base", base), ("judge", judge)):
        model.save_pretrained(tmp_path / name, max_shard_size="60KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 2
    whole = weight_delta(tmp_path / "base", tmp_path / "judge")
    monkeypatch.setattr(stores, "CHUNK", 500)
    monkeypatch.setattr(measure, "HELD", 0.0)  # no difference is held: every product reads the files
    pieces = weight_delta(tmp_path / "base", tmp_path / "judge")
    for one, other in zip(whole.changes, pieces.changes, strict=True):
        assert one.change == pytest.approx(other.change, rel=1e-6)
        assert one.spectral_norm == pytest.approx(other.spectral_norm, rel=1e-6, nan_ok=True)
    assert_equals_oracle(whole, base, judge)
    assert whole.base_precision == whole.judge_precision == str(dtype).removeprefix("torch.")


def test_saving_a_model_in_another_precision_is_no_finding(tmp_path):
    base = tiny_model("llama")
    base.save_pretrained(tmp_path / "base")
    base.to(torch.bfloat16).save_pretrained(tmp_path / "judge")
    filed = weight_delta(tmp_path / "base", tmp_path / "judge")
    assert (filed.base_precision, filed.judge_precision) == ("float32", "bfloat16")
    assert filed.moved and not filed.beyond_rounding
    assert filed.summary().startswith("Nothing moved beyond rounding")
    assert all(0 < c.relative < filed.rounding(c) for c in filed.moved)
    upcast = tiny_model("llama").to(torch.bfloat16).float()
    held_wider = weight_delta(tiny_model("llama"), upcast)
    assert held_wider.judge_precision == "bfloat16", "what the numbers are, not what type they lie in"
    assert not held_wider.beyond_rounding


def lora_folder(base, folder, *, architecture="llama", **choices):
    targets = {"gpt2": ["c_attn", "c_proj"], "neox": ["query_key_value", "dense"], "phi3": ["qkv_proj", "o_proj"]}
    settings = {"r": 3, "lora_alpha": 5, "target_modules": targets.get(architecture, ["q_proj", "down_proj"])} | choices
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings)
        wrapped = get_peft_model(weight_sharing_shadow(base), config)
    wrapped.save_pretrained(folder)
    return folder


LORAS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"layers.1.self_attn.q_proj": 5}, "alpha_pattern": {"down_proj": 11}},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"]},
    "head": {"modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("case", LORAS)
def test_factors_in_a_folder_equal_the_merged_product(case, tmp_path):
    base = tiny_model("llama")
    base.save_pretrained(tmp_path / "base")
    folder = lora_folder(base, tmp_path / "adapter", **LORAS[case])
    if case == "head":
        stored = load_file(folder / "adapter_model.safetensors")
        key = next(k for k in stored if "lm_head" in k)
        save_file(stored | {key: stored[key] * 1.5}, folder / "adapter_model.safetensors", {"format": "pt"})
    merged = PeftModel.from_pretrained(tiny_model("llama"), folder).merge_and_unload()
    expected = {name: (change, top) for name, change, _, top in oracle(base, merged)}
    pair = load_pair(tmp_path / "base", folder, tokenizer=tiny_pair().tokenizer, format="pairwise", doctor=False)
    for delta in (weight_delta(tmp_path / "base", folder), weight_delta(base, folder), pair.delta()):
        assert {c.name for c in delta.changes} == set(expected)
        assert {c.name for c in delta.moved} == {name for name, (change, _) in expected.items() if change > 0}
        for c in delta.changes:
            assert c.change == pytest.approx(expected[c.name][0], rel=1e-4)
            if c.change and len(c.shape) == 2:
                assert c.spectral_norm == pytest.approx(expected[c.name][1], rel=1e-4)
        ranks = {c.rank_bound for c in delta.moved if "lm_head" not in c.name}
        assert ranks == ({3, 5} if case == "patterns" else {3})
        assert all(c.stable_rank <= c.rank_bound for c in delta.moved if c.rank_bound)
        assert not delta.only_base and not delta.only_judge


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "phi3", "gemma2", "mistral", "qwen3"])
def test_adapter_folders_measure_like_loaded_adapters(architecture, tmp_path):
    base = tiny_model(architecture)
    base.save_pretrained(tmp_path / "base")
    folder = lora_folder(base, tmp_path / "adapter", architecture=architecture)
    merged = PeftModel.from_pretrained(tiny_model(architecture), folder).merge_and_unload()
    delta = weight_delta(tmp_path / "base", folder)
    expected = {name: change for name, change, *_ in oracle(base, merged)}
    assert {c.name for c in delta.moved} == {name for name, change in expected.items() if change > 0}
    for c in delta.moved:
        assert c.change == pytest.approx(expected[c.name], rel=1e-4)


def test_no_product_is_formed_for_lora_factors(tmp_path, monkeypatch):
    base = tiny_model("llama")
    base.save_pretrained(tmp_path / "base")
    folder = lora_folder(base, tmp_path / "adapter")
    monkeypatch.setattr(measure, "matrix_spectral_norm", lambda *_: pytest.fail("a product was formed"))
    assert weight_delta(tmp_path / "base", folder).moved


def test_several_products_on_one_matrix_add_up():
    generator = torch.Generator().manual_seed(2)
    parts = [
        Factors(torch.randn(r, 40, generator=generator), torch.randn(30, r, generator=generator), scale)
        for r, scale in ((2, 0.5), (3, -1.5))
    ]
    product = sum(f.scale * f.b.double() @ f.a.double() for f in parts)
    found = factor_spectrum(parts)
    assert found.change == pytest.approx(float(product.norm()), rel=1e-10)
    assert found.spectral_norm == pytest.approx(float(torch.linalg.svdvals(product)[0]), rel=1e-10)


@pytest.mark.parametrize(
    ("config", "words"),
    [({"use_dora": True}, "DoRA"), ({"peft_type": "LOHA"}, "LOHA"), ({"init_lora_weights": "pissa"}, "pissa")],
)
def test_adapters_that_files_dont_tell_are_refused_with_the_cure(config, words, tmp_path):
    base = tiny_model("llama")
    base.save_pretrained(tmp_path / "base")
    folder = lora_folder(base, tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(CheckpointError, match=words) as refused:
        weight_delta(tmp_path / "base", folder)
    assert "load_pair(base, adapter).delta()" in refused.value.fix


def test_an_adapter_of_another_base_is_refused(tmp_path):
    lora_folder(tiny_model("llama"), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="doesn't fit the base"):
        weight_delta(tiny_model("gpt2"), tmp_path / "adapter")


def test_an_adapter_as_base_is_refused(tmp_path):
    lora_folder(tiny_model("llama"), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="adapter"):
        weight_delta(tmp_path / "adapter", tiny_model("llama"))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_rows_of_added_tokens_are_counted_and_not_compared(architecture, tmp_path):
    base = tiny_model(architecture)
    judge = tuned_copy(base, change=scaled_noise(0.05))
    with torch.random.fork_rng(devices=[]):
        judge.resize_token_embeddings(base.config.vocab_size + 3, mean_resizing=False)
    for name, model in (("base", base), ("judge", judge)):
        model.save_pretrained(tmp_path / name)
    for sides in ((base, judge), (judge, base), (tmp_path / "base", tmp_path / "judge")):
        delta = weight_delta(*sides)
        grown = [c for c in delta.changes if c.uncompared_rows]
        assert {c.kind for c in grown} == ({"embedding", "head"} if architecture == "llama" else {"embedding"})
        for c in grown:
            assert c.uncompared_rows == 3
            assert c.shape[0] == base.config.vocab_size
            rows = base.config.vocab_size
            change = (
                dict(judge.named_parameters())[c.name][:rows].detach() - dict(base.named_parameters())[c.name].detach()
            )
            assert c.change == pytest.approx(float(change.norm()), rel=1e-6)
        assert "3 rows of" in delta.summary()


def test_a_tied_head_is_compared_with_the_embedding_it_is(tmp_path):
    tied = tiny_model("gpt2")
    untied = tuned_copy(tied, change=scaled_noise(0.0))
    untied.config.tie_word_embeddings = False
    untied.lm_head.weight = torch.nn.Parameter(tied.transformer.wte.weight.detach().clone() * 1.5)
    tied.save_pretrained(tmp_path / "tied")
    untied.save_pretrained(tmp_path / "untied")
    for sides in ((tied, untied), (tmp_path / "tied", tmp_path / "untied")):
        (moved,) = weight_delta(*sides).moved
        assert (moved.name, moved.kind) == ("lm_head.weight", "head")
        assert moved.relative == pytest.approx(0.5, rel=1e-6)
        assert "tied" in moved.note
    for sides in ((untied, tied), (tmp_path / "untied", tmp_path / "tied")):
        (moved,) = weight_delta(*sides).moved
        assert moved.name == "lm_head.weight"
        assert moved.relative == pytest.approx(1 / 3, rel=1e-6)
    both = weight_delta(tmp_path / "tied", tmp_path / "tied")
    assert not any(c.kind == "head" for c in both.changes), "one tensor, counted once"


def test_names_without_the_backbones_prefix_are_the_same_tensors(tmp_path):
    base = tiny_model("gpt2")
    base.save_pretrained(tmp_path / "base")
    judge = tuned_copy(base, change=scaled_noise(0.05))
    judge.save_pretrained(tmp_path / "judge")
    bare = {k.removeprefix("transformer."): v for k, v in load_file(tmp_path / "judge" / "model.safetensors").items()}
    mask = {"h.0.attn.bias": torch.ones(1, 1, 4, 4)}  # old GPT-2 files hold the causal mask
    save_file(bare | mask, tmp_path / "judge" / "model.safetensors", {"format": "pt"})
    delta = weight_delta(tmp_path / "base", tmp_path / "judge")
    assert_equals_oracle(delta, base, judge)
    assert not delta.only_base and not delta.only_judge


def test_tensors_of_one_side_are_named(tmp_path):
    base = tiny_model("llama")
    base.save_pretrained(tmp_path / "base")
    stored = load_file(tmp_path / "base" / "model.safetensors")
    base.save_pretrained(tmp_path / "judge")
    lost = "model.layers.0.mlp.up_proj.weight"
    save_file(
        {k: v for k, v in stored.items() if k != lost}, tmp_path / "judge" / "model.safetensors", {"format": "pt"}
    )
    delta = weight_delta(tmp_path / "base", tmp_path / "judge")
    assert delta.only_base == (lost,)
    assert lost in delta.summary()


def test_other_shapes_and_other_architectures_are_refused():
    from workbench.pairs.tiny import tiny_model as random_model

    with pytest.raises(PairMismatch, match="differ in the shape") as refused:
        weight_delta(random_model(), random_model(width=64))
    assert "which_base" in refused.value.fix
    with pytest.raises(PairMismatch, match="no layer in common"):
        weight_delta(tiny_model("llama"), tiny_model("gpt2"))


def test_a_damaged_or_missing_shard_is_refused_by_name(tmp_path):
    base = tiny_model("llama")
    base.save_pretrained(tmp_path / "base", max_shard_size="60KB")
    shard = sorted((tmp_path / "base").glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-64])
    with pytest.raises(CheckpointError, match=shard.name):
        weight_delta(base, tmp_path / "base")
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        weight_delta(base, tmp_path / "base")


def test_offloaded_weights_are_read_from_where_they_are_kept(tmp_path):
    from accelerate import disk_offload, init_empty_weights
    from transformers import AutoModelForCausalLM

    base = tiny_model("llama")
    judge = tuned_copy(base, change=scaled_noise(0.05))
    judge.save_pretrained(tmp_path / "judge")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "judge").eval()
    disk_offload(loaded, tmp_path / "offload", execution_device=torch.device("cpu"))
    assert all(p.is_meta for p in loaded.parameters())
    assert_equals_oracle(weight_delta(base, loaded), base, judge)
    with init_empty_weights():
        hollow = AutoModelForCausalLM.from_config(base.config)
    with pytest.raises(CheckpointError, match="holds no weights"):
        weight_delta(base, hollow)


def test_grouping_is_tidy_and_adds_up():
    pair = tiny_pair()
    delta = pair.delta()
    frame = delta.to_frame()
    assert len(frame) == len(delta.changes)
    assert {"name", "layer", "kind", "change", "relative", "rounding", "stable_rank", "gaussian_rank"} <= set(frame)
    for groups in (("layer",), ("kind",), (("layer", "kind"),), ("layer", "kind")):
        table = delta.by(*groups)
        assert table["tensors"].sum() == len(frame)
        assert (table["change"] ** 2).sum() == pytest.approx((frame["change"] ** 2).sum())
        assert table["share"].sum() == pytest.approx(1)
        assert table["even_share"].sum() == pytest.approx(1)
    with pytest.raises(ParameterError, match="no such group"):
        delta.by()
    json.dumps(delta.to_json(), allow_nan=False)


def test_the_figure_holds_one_cell_per_kind_and_layer_and_the_totals():
    delta = tiny_pair().delta()
    rows, columns, values = delta.grid()
    assert (rows[-1], columns[-1]) == ("all kinds", "all layers")
    assert values[-1, -1] == pytest.approx(delta.relative)
    q = next(c for c in delta.changes if c.kind == "q" and c.layer == 1)
    assert values[rows.index("q"), columns.index("1")] == pytest.approx(q.relative)
    drawn = delta.plot()
    np.testing.assert_allclose(drawn.images[0].get_array().filled(np.nan), values)
    page = delta._repr_html_()
    assert "<svg" in page and "http" not in page.replace("http://www.w3.org", "")
    assert delta.summary().split(":")[0] in page


def test_names_are_escaped_on_the_page():
    from dataclasses import replace

    delta = replace(tiny_pair().delta(), judge="<script>alert(1)</script>")
    assert "<script>" not in delta._repr_html_()


def test_measuring_leaves_both_models_as_found():
    base = tiny_model("llama")
    judge = tuned_copy(base, change=scaled_noise(0.05))
    before = [p.detach().clone() for m in (base, judge) for p in m.parameters()]
    state = torch.get_rng_state()
    weight_delta(base, judge)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(p, q) for p, q in zip(before, [p for m in (base, judge) for p in m.parameters()], strict=True)
    )


@pytest.mark.parametrize("kind", ["dora", "ia3", "oft", "loha", "ln_tuning", "pissa", "lora with trained tokens"])
def test_every_kind_of_adapter_is_measured_like_its_merged_form(kind, tmp_path):
    base = tiny_model("llama")
    folder = saved(base, kind, "llama", tmp_path / "adapter")
    pair = load_pair(tiny_model("llama"), folder, tokenizer=tiny_pair().tokenizer, format="pairwise", doctor=False)
    merged = PeftModel.from_pretrained(tiny_model("llama"), folder).merge_and_unload()
    delta = pair.delta()
    expected = {name: (change, top) for name, change, _, top in oracle(base, merged)}
    assert {c.name for c in delta.changes} == set(expected)
    for c in delta.changes:
        assert c.change == pytest.approx(expected[c.name][0], rel=1e-3, abs=1e-4)
        if c.change > 1e-3 and len(c.shape) == 2:
            assert c.spectral_norm == pytest.approx(expected[c.name][1], rel=1e-3)
