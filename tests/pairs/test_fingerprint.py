"""One function, one fingerprint: what no parameter holds counts too, and how a judge was loaded doesn't."""

import json
import shutil

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.pairs.peft_kinds import BATCH, own_copy, trained
from tests.tiny_models import tiny_model
from workbench.pairs.adapters import attach_adapter, live_judge, tuner_layers
from workbench.pairs.fingerprint import model_fingerprint


def logits(model):
    with torch.no_grad():
        return model(**BATCH.forward_kwargs()).logits


def wrapped(base, config):
    """Return a live adapter with the same trained tensors whatever else its configuration says."""
    torch.manual_seed(0)
    model = peft.get_peft_model(own_copy(base), config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def assert_told_apart(left, right):
    assert not torch.equal(logits(left), logits(right)), "they are different judges"
    assert model_fingerprint(left.get_base_model()) != model_fingerprint(right.get_base_model())


@pytest.mark.parametrize(
    ("config", "one", "other"),
    [
        (peft.LoraConfig, {"lora_alpha": 8}, {"lora_alpha": 16}),
        (peft.LoraConfig, {"use_rslora": False}, {"use_rslora": True}),
        (peft.VeraConfig, {"projection_prng_key": 0}, {"projection_prng_key": 1}),
        (peft.FourierFTConfig, {"random_loc_seed": 0}, {"random_loc_seed": 1}),
    ],
)
def test_judges_that_differ_in_no_parameter_are_told_apart(config, one, other):
    base = tiny_model("llama")
    assert_told_apart(*(wrapped(base, config(target_modules=["q_proj"], **options)) for options in (one, other)))


def test_the_scale_and_the_active_adapter_of_a_live_model_count():
    base, config = tiny_model("llama"), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    model = wrapped(base, config)
    model.add_adapter("second", config)
    model.set_adapter("default")
    inner = model.get_base_model()
    prints = [model_fingerprint(inner)]
    for _, layer in tuner_layers(inner):
        layer.set_scale("default", 3.0)
    prints.append(model_fingerprint(inner))
    model.set_adapter("second")
    prints.append(model_fingerprint(inner))
    model.base_model.disable_adapter_layers()
    prints.append(model_fingerprint(inner))
    assert len(set(prints)) == 4


def test_a_folder_with_another_alpha_is_another_judge(tmp_path):
    base = tiny_model("llama")
    trained(base, "lora", "llama").save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "adapter_config.json").read_text())
    (tmp_path / "other" / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 64}))
    prints = [model_fingerprint(attach_adapter(base, tmp_path / name)) for name in ("one", "other", "one")]
    assert prints[0] == prints[2] != prints[1]


@pytest.mark.parametrize(
    "kind", ["lora", "lora with a saved norm", "lora with trained tokens", "ia3", "vera", "ln_tuning"]
)
def test_a_live_adapter_and_its_folder_are_one_judge(kind, tmp_path):
    base = tiny_model("llama")
    live = trained(base, kind, "llama")
    live.save_pretrained(tmp_path / "here" / "adapter", save_embedding_layers=False)
    shutil.copytree(tmp_path / "here" / "adapter", tmp_path / "elsewhere")
    folders = (tmp_path / "here" / "adapter", tmp_path / "elsewhere")
    prints = {model_fingerprint(attach_adapter(base, folder)) for folder in folders}
    assert prints == {model_fingerprint(live_judge(live))}


def test_buffers_count_but_not_what_running_renews():
    model = tiny_model("llama")
    before = model_fingerprint(model)
    logits(model)
    assert model_fingerprint(model) == before
    model.model.rotary_emb.inv_freq[3] *= 1.01
    assert model_fingerprint(model) != before
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    longer = LlamaForCausalLM(
        LlamaConfig(vocab_size=300, max_position_embeddings=16, rope_parameters=rope, **sizes)
    ).eval()
    before, frequencies = model_fingerprint(longer), longer.model.rotary_emb.inv_freq.clone()
    with torch.no_grad():
        longer(torch.arange(3, 43)[None])
    assert not torch.equal(longer.model.rotary_emb.inv_freq, frequencies)
    assert model_fingerprint(longer) == before
