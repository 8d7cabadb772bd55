"""What can't run behind a cache runs as full forwards and says why; abilities follow the model's state."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from tests.hooks.suffix_draws import drawn_rows, naive
from tests.tiny_models import VOCAB, random_batch, tiny_model
from workbench.errors import ParameterError, UnknownSite
from workbench.hooks import Anatomy, Component, HooksBackend, Site
from workbench.hooks.suffix import Row, Suffix, Write, ability, ability_of

IDS = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2, **IDS}
DENSE = {**SHAPE, "intermediate_size": 40}

MODELS = {
    "opt": lambda: OPTForCausalLM(OPTConfig(**SHAPE, ffn_dim=40, word_embed_proj_dim=32, init_std=0.2)),
    "falcon": lambda: FalconForCausalLM(FalconConfig(**SHAPE, alibi=True, parallel_attn=False)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**DENSE, logits_scaling=3.0, residual_multiplier=0.5)),
    "mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(**DENSE, num_key_value_heads=2, num_local_experts=4, sliding_window=8)
    ),
    "yarn": lambda: LlamaForCausalLM(
        LlamaConfig(
            **DENSE,
            rope_parameters={
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 32,
            },
        )
    ),
    "bloom": lambda: BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2, **IDS)),
    "neo": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(
            hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=64,
            max_position_embeddings=128, initializer_range=0.2, **IDS,
        )
    ),
    "lfm2": lambda: Lfm2ForCausalLM(Lfm2Config(**DENSE, num_key_value_heads=2, layer_types=["conv", "full_attention"])),
    "dynamic": lambda: LlamaForCausalLM(
        LlamaConfig(**DENSE, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    ),
}  # fmt: skip
WHY = {
    "bloom": "its forward takes no position_ids",
    "neo": "masks of their own",
    "lfm2": "blocks of kind conv keep more than keys and values",
    "dynamic": "depend on the length of the whole row (dynamic)",
}


def built(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, name)))
        model = MODELS[name]().eval()
    return HooksBackend(model, Anatomy.of(model))


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_exact_or_say_why_they_are_full_forwards(name):
    executor, batch = built(name), random_batch((16, 16), seed=1)
    suffix = Suffix(executor, batch, tokens=3)
    if name in WHY:
        assert suffix.mode == "plain"
        assert WHY[name] in str(suffix.reason)
    else:
        assert (suffix.mode, suffix.reason) == ("wavefront", None)
    rows = drawn_rows(executor.anatomy, batch, count=5, reach=3, seed=4)
    found = suffix.run(rows)
    scale = max(1.0, float(suffix.logits.abs().max()))
    for index, row in enumerate(rows):
        assert float((found.logits[:, index] - naive(executor, batch, row).logits).abs().max()) <= 2e-5 * scale


def test_a_part_that_runs_without_an_axis_of_prompts_is_no_site():
    """OPT folds prompts and tokens into one axis in its MLP: indexing it by prompt gave features."""
    executor = built("opt")
    with pytest.raises(UnknownSite, match="without an axis of prompts"):
        executor.run(random_batch(), capture=[Site(Component.MLP_OUT, 0)])


def test_an_ability_is_asked_again_when_the_model_is_another():
    executor = HooksBackend(model := tiny_model("llama"), Anatomy.of(model))
    assert ability_of(executor).mode == "wavefront"
    model.set_attn_implementation("eager")
    model.double()
    assert "softmax in float32" in str(ability_of(executor).reason)
    model.float()
    model.config._attn_implementation = "flash_attention_2"
    assert "'flash_attention_2' takes no mask of single queries" in str(ability_of(executor).reason)
    model.config._attn_implementation = "sdpa"
    model.config.rope_parameters = {"rope_type": "longrope"}
    assert "longrope" in str(ability_of(executor).reason)


def test_an_ability_is_asked_once(monkeypatch):
    executor = HooksBackend(model := tiny_model("llama"), Anatomy.of(model))
    asked, own = [], ability._asked
    monkeypatch.setattr(ability, "_asked", lambda one: (asked.append(one), own(one))[1])
    for _ in range(3):
        Suffix(executor, random_batch())
    assert len(asked) == 1


def test_a_way_a_model_has_not_is_refused():
    executor = built("dynamic")
    with pytest.raises(ParameterError, match="rotary frequencies"):
        Suffix(executor, random_batch(), mode="wavefront")


@pytest.mark.parametrize("target", ["o_proj", "q_proj", "lm_head"])
def test_an_adapter_acts_as_it_does_in_full_forwards(target):
    model = tiny_model("llama")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=[target], init_lora_weights=False))
    inner = wrapped.get_base_model()
    batch = random_batch()
    for around in (None, wrapped.disable_adapter):
        executor = HooksBackend(inner, Anatomy.of(inner), around=around)
        rows = drawn_rows(executor.anatomy, batch, count=4, reach=2, seed=3)
        z = Site(Component.Z, 1)
        rows.append(Row((Write(z, torch.full((3, 1), 18), torch.ones(3, 1, *executor.anatomy.feature(z))),)))
        suffix = Suffix(executor, batch, tokens=2)
        assert suffix.mode == "wavefront"
        found = suffix.run(rows, ids=[5, 9])
        for index, row in enumerate(rows):
            truth = naive(executor, batch, row).logits[:, [5, 9]]
            torch.testing.assert_close(found.logits[:, index], truth, atol=3e-5, rtol=1e-5)


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    effects = []
    for device in ("cpu", "cuda"):
        executor = HooksBackend(model := tiny_model("llama").to(device), Anatomy.of(model))
        rows = drawn_rows(executor.anatomy, random_batch(), count=8, reach=3, seed=2)
        suffix = Suffix(executor, random_batch(), tokens=3)
        assert suffix.mode == "wavefront"
        found = suffix.run(rows)
        effects.append((found.logits - found.null).cpu())
    torch.testing.assert_close(effects[1], effects[0], atol=1e-4, rtol=1e-4)
