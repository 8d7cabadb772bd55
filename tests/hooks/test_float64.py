"""What float64 can't do is refused in words: padding under eager attention, and kernels without it."""

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from tests.tiny_models import VOCAB, random_batch, tiny_model
from workbench.errors import ParameterError
from workbench.hooks import Anatomy, BridgeBackend, HooksBackend


def eager(architecture):
    model = tiny_model(architecture).double()
    model.set_attn_implementation("eager")
    return model


def test_padding_under_eager_attention_would_be_nan_and_is_refused():
    model, batch = eager("gemma2"), random_batch((12, 7))
    with torch.no_grad():
        plain = model(**batch.forward_kwargs()).logits
    assert bool(plain[batch.mask].isnan().any()), "or there is nothing to refuse"
    hooks = HooksBackend(model, Anatomy.of(model))
    with pytest.raises(ParameterError, match="overflows to NaN") as refused:
        hooks.run(batch)
    assert "rows of [12, 7] tokens" in str(refused.value)
    with pytest.raises(ParameterError, match="overflows to NaN"):
        hooks.generate(batch, max_new_tokens=2)
    for row in range(len(batch)):
        assert bool(hooks.run(batch.row(row)).logits.isfinite().all())


def test_a_bridge_is_eager_whatever_the_model_is():
    model, batch = tiny_model("llama").double(), random_batch((12, 7))
    anatomy = Anatomy.of(model)
    assert bool(HooksBackend(model, anatomy).run(batch).logits.isfinite().all())
    with pytest.raises(ParameterError, match="overflows to NaN"):
        BridgeBackend(anatomy).run(batch)
    assert bool(BridgeBackend(anatomy).run(batch.row(1)).logits.isfinite().all())


def test_an_architecture_whose_kernel_has_no_float64_is_refused_by_name():
    ids = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = MixtralConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=128, **ids,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = MixtralForCausalLM(config).eval()
    Anatomy.of(model)
    with pytest.raises(ParameterError, match="MixtralForCausalLM in torch.float64"):
        Anatomy.of(model.double())
