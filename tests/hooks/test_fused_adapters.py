"""An adapter on a fused query-key-value projection: TransformerLens splits weights, and has to split the tuned ones."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.tiny_models import FUSED, random_batch, tiny_model, tiny_tokenizer
from workbench.hooks import Anatomy, BridgeBackend, HooksBackend, doctor

TARGETS = {"gpt2": "c_attn", "neox": "query_key_value", "phi3": "qkv_proj"}


@pytest.fixture(params=sorted(FUSED))
def judge(request):
    config = LoraConfig(r=4, target_modules=[TARGETS[request.param]], fan_in_fan_out=request.param == "gpt2")
    model = get_peft_model(tiny_model(request.param), config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.get_base_model()


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
