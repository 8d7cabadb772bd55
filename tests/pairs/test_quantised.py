"""Quantised bases: the same function as PEFT's, one set of codes for both sides, and nothing counted twice."""

import json
from importlib.util import find_spec

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from analyses import tuco
from analyses.tuco.scaling.weights import interpolated_judge
from tests.tiny_models import tiny_model as other_model
from workbench.errors import CheckpointError, PairMismatch, ParameterError
from workbench.hooks import float32_blocks, weight_sharing_shadow
from workbench.judges import JudgeItem
from workbench.pairs import load_pair
from workbench.pairs.controls import random_delta_pair
from workbench.pairs.fingerprint import model_fingerprint
from workbench.pairs.loading import quantised
from workbench.pairs.loading.sources import Source
from workbench.pairs.memory.resident import one_resident
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tuned_copy

IDS = torch.arange(3, 40)[None]
LAYER = "model.layers.0.self_attn.q_proj"
ITEMS = [
    JudgeItem(item_id=f"i{n}", question=f"What is {n}+{n}?", answers=(str(2 * n), str(2 * n + 1)), label=0)
    for n in range(2)
]


def _needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def _torchao() -> object:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


bitsandbytes = _needs("bitsandbytes")
KINDS = {
    "8bit": (lambda: "8bit", "bitsandbytes int8", 0.01),
    "4bit": (lambda: "4bit", "bitsandbytes nf4", 0.15),
    "nested": (
        lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True),
        "bitsandbytes fp4",
        0.2,
    ),
    "quanto": (lambda: {"quant_method": "quanto", "weights": "int8"}, "quanto int8", 0.01),
    "torchao": (_torchao, "torchao Int8WeightOnlyConfig", 0.01),
}
"""How it is asked for, what it is called, and the largest relative error of a matrix."""
EVERY = [
    pytest.param("8bit", marks=bitsandbytes),
    pytest.param("4bit", marks=bitsandbytes),
    pytest.param("nested", marks=bitsandbytes),
    pytest.param("quanto", marks=_needs("optimum")),
    pytest.param("torchao", marks=_needs("torchao")),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base whose matrices divide into quantisation blocks, a full judge and a LoRA judge."""
    root = tmp_path_factory.mktemp("checkpoints")
    base = tiny_model(width=64)
    base.save_pretrained(root / "base")
    tuned_copy(base, change=scaled_noise(0.05)).save_pretrained(root / "judge")
    byte_tokenizer().save_pretrained(root / "base")
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(weight_sharing_shadow(base), config).save_pretrained(root / "adapter")
    return root


def _load(folders, judge, **options):
    return load_pair(folders / "base", folders / judge, format="pairwise", device="cpu", **options)


def _row(pair, name):
    return next(guard for guard in pair.report.guards if guard.name == name)


def _logits(module):
    with torch.no_grad():
        return module(IDS).logits


def _alone(folder, asked) -> PreTrainedModel:
    """Load a quantised model by transformers alone, settled as ours are."""
    settings = quantised._settings(asked, torch.float32)
    module = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, dtype=torch.float32, device_map={"": "cpu"}
    ).eval()
    quantised.settle(module)
    return module


@pytest.mark.parametrize("kind", EVERY)
def test_lora_on_a_quantised_base_equals_peft(folders, kind):
    asked, called, error = KINDS[kind]
    pair = _load(folders, "adapter", quantization=asked())
    plain = _alone(folders / "base", asked())
    assert torch.equal(_logits(pair.base), _logits(plain)), "the base is the quantised base, bit for bit"
    theirs = PeftModel.from_pretrained(plain, folders / "adapter")
    # An 8-bit layer rounds what comes in: a last bit of the layer before may become a step of 1/127.
    torch.testing.assert_close(
        _logits(pair.judge), _logits(theirs), atol=5e-5 if quantised.rounding(plain) is None else 1e-2, rtol=0
    )
    assert not torch.allclose(_logits(pair.judge), _logits(pair.base), atol=1e-2)
    assert quantised.quantisation_of(pair.judge) == called
    assert _row(pair, "quantisation").value == f"both {called}"
    full = tiny_model(width=64).get_submodule(LAYER).weight
    read = quantised.dequantised(pair.base.get_submodule(LAYER))
    assert read.shape == full.shape
    assert 0 < float((read - full).norm() / full.norm()) < error
    doctor = {g.name: g.status for g in pair.report.guards if g.name.startswith("doctor")}
    assert set(doctor.values()) == {"ok"}
    assert any("transformer_lens" in name for name in doctor)


@pytest.mark.parametrize("kind", EVERY)
def test_the_matrix_read_is_the_matrix_that_acts(folders, kind):
    base = _load(folders, "adapter", quantization=KINDS[kind][0](), doctor=False).base
    layer = base.get_submodule(LAYER)
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = layer(x)
    expected = x @ quantised.dequantised(layer).T
    share = 2e-2 if quantised.rounding(base) is not None else 1e-5
    assert float((out - expected).norm() / expected.norm()) < share


@pytest.mark.parametrize("kind", EVERY)
def test_clones_share_codes_and_scales_whoever_runs_first(folders, kind):
    """bitsandbytes moves the scales of an 8-bit weight off the parameter in the first forward."""
    base = _load(folders, "adapter", quantization=KINDS[kind][0](), doctor=False).base
    clone = weight_sharing_shadow(base)
    first = _logits(clone)
    assert torch.equal(_logits(base), first)
    for (_, left), (_, right) in zip(quantised.quantised_layers(base), quantised.quantised_layers(clone), strict=True):
        assert left.weight is right.weight
        parts = zip(quantised.coded_parts(left), quantised.coded_parts(right), strict=True)
        assert all(a.data_ptr() == b.data_ptr() for (_, a), (_, b) in parts)


@pytest.mark.parametrize("kind", EVERY)
def test_a_fingerprint_sees_codes_and_scales(folders, kind):
    base = _load(folders, "adapter", quantization=KINDS[kind][0](), doctor=False).base
    before = model_fingerprint(base)
    _logits(base)
    assert model_fingerprint(base) == before, "running a model doesn't make it another"
    parts = dict(quantised.coded_parts(base.get_submodule(LAYER)))
    assert len(parts) >= 2
    for name, part in parts.items():
        flat = part.view(-1)
        kept = flat[0].clone()
        flat[0] = kept + 1
        assert model_fingerprint(base) != before, name
        flat[0] = kept
        assert model_fingerprint(base) == before


@bitsandbytes
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
@pytest.mark.parametrize("bias", ["none", "lora_only"])
def test_lora_beside_biases_is_read_without_merging(tmp_path, kind, bias):
    """Qwen2's projections have biases; LoRA leaves them alone, or trained them as they are."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(Qwen2Config(vocab_size=260, num_key_value_heads=2, **sizes)).eval()
    base.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["q_proj"], bias=bias, task_type="CAUSAL_LM", init_lora_weights=False)
    live = get_peft_model(weight_sharing_shadow(base, replace=_own(base)), config)
    with torch.no_grad():
        for name, parameter in live.named_parameters():
            if bias != "none" and name.endswith("q_proj.base_layer.bias"):
                parameter.add_(0.5)
    live.save_pretrained(tmp_path / "adapter")
    deltas = [
        {c.name: c.change for c in _load(tmp_path, "adapter", doctor=False, **asked).delta().moved}
        for asked in ({"quantization": kind}, {})
    ]
    assert deltas[0] == pytest.approx(deltas[1], rel=1e-4)
    assert len(deltas[0]) == (2 if bias == "none" else 4)


def _own(model):
    return {p: torch.nn.Parameter(p.detach().clone()) for p in model.parameters()}


@bitsandbytes
def test_the_delta_of_lora_is_its_factors_and_the_base_norm_that_of_the_decoded_weight(folders):
    pair = _load(folders, "adapter", quantization="4bit", doctor=False)
    plain = _load(folders, "adapter", doctor=False)
    coded, whole = ({c.name: c for c in p.delta().changes} for p in (pair, plain))
    for name, change in coded.items():
        assert change.change == pytest.approx(whole[name].change, rel=1e-5), name
    name = f"{LAYER}.weight"
    decoded = quantised.dequantised(pair.base.get_submodule(LAYER))
    assert coded[name].base_norm == pytest.approx(float(decoded.norm()), rel=1e-6)
    assert coded[name].base_norm != pytest.approx(whole[name].base_norm, rel=1e-6)


@bitsandbytes
def test_tuco_runs_on_a_quantised_pair_and_gives_zero_without_a_change(folders):
    pair = _load(folders, "adapter", quantization="4bit", doctor=False)
    result = tuco.run(pair, ITEMS, controls=1, progress=False)
    assert result.to_frame()["value"].notna().any()
    still = _load(folders, "adapter", quantization="4bit", doctor=False)
    with torch.no_grad():
        for name, parameter in still.judge.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    assert torch.equal(_logits(still.judge), _logits(still.base))


@pytest.mark.parametrize("kind", EVERY)
def test_nothing_computes_weights_from_codes(folders, kind):
    """A random control, an interpolation or a parked model would take the codes for numbers."""
    asked = KINDS[kind][0]()
    full = _load(folders, "judge", quantization=asked, doctor=False)
    with pytest.raises(PairMismatch, match="quantised weights are codes"):
        random_delta_pair(full, seed=0)
    with pytest.raises(PairMismatch, match="quantised weights are codes"):
        interpolated_judge(full, alpha=0.5)
    with pytest.raises(ParameterError, match="can't take turns"), one_resident(full):
        pass
    with pytest.raises(ParameterError, match="no float32 copy"), float32_blocks(full.executor("base")):
        pass
    adapted = _load(folders, "adapter", quantization=asked, doctor=False)
    assert random_delta_pair(adapted, seed=0).delta().relative == pytest.approx(adapted.delta().relative, rel=1e-4)
    half = interpolated_judge(adapted, alpha=0.0)
    assert torch.equal(_logits(half), _logits(adapted.base))


@bitsandbytes
def test_one_quantised_side_is_a_warning_every_result_carries(folders):
    pair = _load(folders, "judge", quantization={"base": "8bit"}, doctor=False)
    row = _row(pair, "quantisation")
    assert row.status == "warn"
    assert row.value == "base bitsandbytes int8, judge not quantised"
    assert any("counts as fine-tuning" in warning for warning in pair.report.warnings)
    both = _load(folders, "judge", quantization={"base": "8bit", "judge": "4bit"}, doctor=False)
    assert _row(both, "quantisation").value == "base bitsandbytes int8, judge bitsandbytes nf4"
    assert 0.04 < both.delta().relative < 0.2


@bitsandbytes
def test_a_checkpoint_that_carries_codes_needs_no_argument(folders, tmp_path):
    _alone(folders / "base", "8bit").save_pretrained(tmp_path / "coded")
    byte_tokenizer().save_pretrained(tmp_path / "coded")
    pair = load_pair(tmp_path / "coded", folders / "adapter", format="pairwise", device="cpu")
    asked = _load(folders, "adapter", quantization="8bit")
    assert torch.equal(_logits(pair.base), _logits(asked.base))
    with pytest.raises(ParameterError, match="quantised already") as caught:
        load_pair(tmp_path / "coded", folders / "adapter", format="pairwise", device="cpu", quantization="4bit")
    assert caught.value.argument == "quantization"


@bitsandbytes
def test_a_live_model_that_ran_before_is_read_right(folders):
    """On some CPUs the first forward interleaves the codes of 4-bit weights in place."""
    settings = quantised._settings("4bit", torch.float32)
    live = AutoModelForCausalLM.from_pretrained(
        folders / "base", quantization_config=settings, dtype=torch.float32, device_map={"": "cpu"}
    ).eval()
    before = quantised.dequantised(live.get_submodule(LAYER))
    _logits(live)
    after = quantised.dequantised(live.get_submodule(LAYER))
    assert float((after - before).norm() / before.norm()) < 4e-3, "scales may have been rounded to bfloat16"
    pair = load_pair(live, folders / "adapter", tokenizer=byte_tokenizer(), format="pairwise", doctor=False)
    assert torch.equal(_logits(pair.base), _logits(live))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A base and a judge whose matrices are stored transposed, and q, k and v fused."""
    root = tmp_path_factory.mktemp("gpt2")
    base = other_model("gpt2")
    base.save_pretrained(root / "base")
    tuned_copy(base, change=scaled_noise(0.05)).save_pretrained(root / "judge")
    return root


@bitsandbytes
def test_quantised_fused_projections_are_refused_in_words(gpt2):
    with pytest.raises(ParameterError, match="TransformerLens can't take this model apart") as caught:
        load_pair(
            gpt2 / "base",
            gpt2 / "judge",
            tokenizer=byte_tokenizer(),
            format="pairwise",
            device="cpu",
            quantization="8bit",
        )
    assert "without quantisation" in str(caught.value)


@bitsandbytes
def test_rows_that_dont_divide_into_blocks_are_refused(tmp_path):
    """On CPUs with AVX-512, bitsandbytes 0.50 decodes such rows with a wrong scale: three times the error."""
    base = other_model("llama")  # its down projections have 96 columns
    base.save_pretrained(tmp_path / "base")
    tuned_copy(base, change=scaled_noise(0.05)).save_pretrained(tmp_path / "judge")
    for asked, words in (("4bit", "don't divide into blocks"), ("8bit", None)):
        options = {"tokenizer": byte_tokenizer(), "format": "pairwise", "device": "cpu", "doctor": False}
        if words is None:
            assert load_pair(tmp_path / "base", tmp_path / "judge", quantization=asked, **options).report.comparable
            continue
        with pytest.raises(CheckpointError, match=words) as caught:
            load_pair(tmp_path / "base", tmp_path / "judge", quantization=asked, **options)
        assert caught.value.argument == "base"


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind.values[0] in ("quanto", "torchao")])
def test_a_quantiser_that_leaves_everything_alone_is_noticed(gpt2, kind):
    with pytest.raises(CheckpointError, match="no layer of this model was quantised"):
        load_pair(
            gpt2 / "base",
            gpt2 / "judge",
            tokenizer=byte_tokenizer(),
            format="pairwise",
            device="cpu",
            quantization=KINDS[kind][0](),
        )


@pytest.mark.parametrize("asked", ["2bit", 4, {"bits": 4}, {"quant_method": "nonsense"}])
def test_an_unknown_quantisation_lists_what_there_is(folders, asked):
    with pytest.raises(ParameterError, match="no such quantisation") as caught:
        _load(folders, "adapter", quantization=asked)
    assert "'8bit', '4bit'" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq .its kernels need a GPU"),
        ({"quant_method": "awq", "bits": 4}, "awq .its kernels need a GPU"),
        ({"quant_method": "hqq"}, "can't load HQQ weights"),
        ({"quant_method": "compressed-tensors"}, "packed parts and no weight"),
        ({"quant_method": "mxfp4"}, "it has not been tried"),
    ],
)
def test_kinds_that_cant_run_here_say_why(folders, tmp_path, settings, words):
    from shutil import copytree

    folder = copytree(folders / "judge", tmp_path / "coded")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    with pytest.raises(CheckpointError, match=words) as caught:
        load_pair(folders / "base", folder, format="pairwise", device="cpu")
    assert caught.value.argument == "judge"
    assert caught.value.fix


def test_a_missing_package_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    for method, line in (("bitsandbytes", "judge-workbench[quantized]"), ("quanto", "pip install optimum-quanto")):
        with pytest.raises(CheckpointError, match="isn't installed") as caught:
            quantised._require_runnable(method, source=Source(given="a/b", argument="base"))
        assert line in str(caught.value)


def test_plain_models_know_of_no_quantisation():
    module = tiny_model()
    assert quantised.quantisation_of(module) is None
    assert not list(quantised.quantised_layers(module))
    assert torch.equal(quantised.dequantised(module.lm_head), module.lm_head.weight)
