"""An adapter on a fused projection: TransformerLens splits weights, and has to split the tuned ones."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.tiny_models import FUSED, random_batch, tiny_model, tiny_tokenizer
from workbench.hooks import Anatomy, BridgeBackend, HooksBackend, doctor

TARGETS = {"gpt2": "c_attn", "neox": "query_key_value", "phi3": "qkv_proj"}


PHI3_LINEAR = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def tuned(architecture, targets, **kwargs):
    config = LoraConfig(r=4, target_modules=targets, fan_in_fan_out=architecture == "gpt2", **kwargs)
    model = get_peft_model(tiny_model(architecture), config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.get_base_model()


@pytest.fixture(params=sorted(FUSED))
def judge(request):
    return tuned(request.param, [TARGETS[request.param]])


def test_the_doctor_passes_and_every_site_is_found(judge):
    before, state = {k: v.clone() for k, v in judge.state_dict().items()}, torch.get_rng_state()
    anatomy = Anatomy.of(judge, tiny_tokenizer())
    assert not anatomy.missing
    checks = doctor.examine(judge, tiny_tokenizer(), anatomy=anatomy)
    assert [(check.name, check.value) for check in checks if check.status != "ok"] == []
    assert torch.equal(torch.get_rng_state(), state), "booting draws what it then overwrites"
    assert all(torch.equal(tensor, before[name]) for name, tensor in judge.state_dict().items())


def test_the_bridge_follows_an_adapter_that_is_trained_on_or_switched_off(judge):
    anatomy, batch = Anatomy.of(judge), random_batch()
    hooks, lens = HooksBackend(judge, anatomy), BridgeBackend(anatomy)
    first = lens.run(batch).logits
    layers = [module for module in judge.modules() if hasattr(module, "lora_B")]
    with torch.no_grad():
        for layer in layers:
            layer.lora_B["default"].weight.mul_(2)
    trained = lens.run(batch).logits
    torch.testing.assert_close(trained, hooks.run(batch).logits, atol=2e-4, rtol=0)
    assert float((trained - first).abs().max()) > 1e-2
    for layer in layers:
        layer.enable_adapters(False)
    torch.testing.assert_close(lens.run(batch).logits, hooks.run(batch).logits, atol=2e-4, rtol=0)


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("targets", [["gate_up_proj"], PHI3_LINEAR], ids=["gate_up", "all"])
def test_a_fused_gate_and_up_projection_is_split_as_it_was_tuned(targets, use_dora):
    judge, batch = tuned("phi3", targets, use_dora=use_dora), random_batch()
    anatomy = Anatomy.of(judge, tiny_tokenizer())
    checks = doctor.examine(judge, tiny_tokenizer(), anatomy=anatomy)
    assert [(check.name, check.value) for check in checks if check.status != "ok"] == []
    lens = BridgeBackend(anatomy)
    tuned_logits = lens.run(batch).logits
    for layer in [module for module in judge.modules() if hasattr(module, "lora_B")]:
        layer.enable_adapters(False)
    assert float((lens.run(batch).logits - tuned_logits).abs().max()) > 1e-2
