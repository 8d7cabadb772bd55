"""The anatomy is learned on a shadow: same weights, no trace on the user's module, adapters included."""

import logging
import subprocess
import sys
import warnings

import pytest
import torch
from huggingface_hub import dataclasses as hub
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, MixtralConfig, MixtralForCausalLM

from tests.tiny_models import ARCHITECTURES, FUSED, random_batch, tiny_model, tiny_tokenizer
from workbench.errors import ParameterError, UnknownSite
from workbench.hooks import (
    Anatomy,
    BridgeBackend,
    Component,
    HooksBackend,
    NNsightBackend,
    Scale,
    Site,
    weight_sharing_shadow,
)
from workbench.hooks.shadow import quiet_process_state

C = Component


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shapes_and_layouts(labs, architecture):
    anatomy = labs(architecture).anatomy
    assert (anatomy.n_layers, anatomy.d_model, anatomy.n_heads) == (3, 64, 4)
    assert anatomy.n_kv_heads == (4 if architecture in {"gpt2", "neox"} else 2)
    assert anatomy.d_head == (24 if architecture == "qwen3" else 16)
    assert anatomy.parallel == (architecture == "neox")
    assert anatomy.additive
    assert anatomy.missing == {}
    fused = {site.component for site, port in anatomy.ports.items() if port.fused is not None}
    assert fused == ({C.Q, C.K, C.V} if architecture in FUSED else set())
    assert anatomy.feature(Site(C.K, 1)) == (anatomy.n_kv_heads, anatomy.d_head)
    assert anatomy.feature(Site(C.Z, 1, 3)) == (anatomy.d_head,)
    assert anatomy.feature(Site(C.NEURONS, 1)) == ((256,) if architecture == "gpt2" else (96,))


def test_parallel_blocks_have_no_middle(labs):
    with pytest.raises(UnknownSite, match=r"resid_mid\.0.*resid_pre"):
        labs("neox").anatomy.check(Site(C.RESID_MID, 0))


def test_a_mixture_of_experts_has_no_neurons_of_its_own():
    config = MixtralConfig(
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=2,
        vocab_size=40,
    )
    anatomy = Anatomy.of(MixtralForCausalLM(config).eval())
    with pytest.raises(UnknownSite, match="single down projection"):
        anatomy.check(Site(C.NEURONS, 1))
    assert not anatomy.sites(components=[C.NEURONS])


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "phi3"])
def test_fused_parts_are_written_where_they_are_read(labs, architecture):
    anatomy = labs(architecture).anatomy
    ports = [anatomy.port(Site(component, 1)) for component in (C.Q, C.K, C.V)]
    raw = torch.randn(2, 3, sum(port.feature[0] * port.feature[1] for port in ports))
    assert len({port.path for port in ports}) == 1
    for index, port in enumerate(ports):
        new = torch.randn(2, 3, *port.feature)
        written = port.write(raw, new)
        for other, view in enumerate(ports):
            assert torch.equal(view.read(written), new if other == index else view.read(raw))


def test_the_users_module_is_untouched():
    model = tiny_model("llama").train()
    batch = random_batch()
    tokenizer = tiny_tokenizer()

    def portrait():
        return (
            list(model.state_dict()),
            [(name, type(module), module.training, sorted(module.__dict__)) for name, module in model.named_modules()],
            [(tensor.data_ptr(), tensor._version) for tensor in model.state_dict().values()],
            model.config._attn_implementation,
            model.config.to_dict(),
            tokenizer.padding_side,
        )

    before, logits = portrait(), model.eval()(**batch.forward_kwargs()).logits
    model.train()
    anatomy = Anatomy.of(model, tokenizer)
    BridgeBackend(anatomy).run(batch)
    assert portrait() == before
    assert torch.equal(model.eval()(**batch.forward_kwargs()).logits, logits)


def test_a_shadow_shares_every_weight_and_the_anatomy_keeps_no_other():
    model = tiny_model("neox")
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    shadow = weight_sharing_shadow(model)
    assert {tensor.untyped_storage().data_ptr() for tensor in [*shadow.parameters(), *shadow.buffers()]} == own
    assert not {id(module) for module in shadow.modules()} & {id(module) for module in model.modules()}
    anatomy = Anatomy.of(model)
    assert anatomy.module is model
    assert not hasattr(anatomy, "bridge")


def test_a_bridge_on_separate_projections_copies_no_weight():
    model = tiny_model("qwen2")
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    bridge = BridgeBackend(Anatomy.of(model)).bridge
    extra = [tensor for tensor in bridge.parameters() if tensor.untyped_storage().data_ptr() not in own]
    assert sum(tensor.numel() for tensor in extra) <= model.config.vocab_size  # a zero bias of the unembedding


def test_a_lora_judge_is_entered_with_its_adapter():
    model = tiny_model("llama")
    peft = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "o_proj", "down_proj"], init_lora_weights=False)
    )
    judge, batch = peft.base_model.model.eval(), random_batch()
    anatomy = Anatomy.of(judge, tiny_tokenizer())
    with torch.no_grad():
        expected = peft(**batch.forward_kwargs()).logits
    sites = anatomy.sites()
    hooks, lens = HooksBackend(judge, anatomy), BridgeBackend(anatomy)
    ours = hooks.run(batch, capture=sites, logits="all")
    assert torch.equal(ours.logits, expected)
    for backend in (NNsightBackend(judge, anatomy, tokenizer=tiny_tokenizer()), lens):
        theirs = backend.run(batch, capture=sites, logits="all")
        gaps = [(theirs.activations[site] - ours.activations[site])[batch.mask].abs().max() for site in sites]
        assert float(max(gaps)) < 5e-5
    with peft.disable_adapter():
        base = hooks.run(batch, logits="all").logits
        again = lens.run(batch, logits="all").logits
        switched = HooksBackend(judge, anatomy).run(batch, logits="all").logits
    assert float((base - expected)[batch.mask].abs().max()) > 0.01
    assert float((again - base)[batch.mask].abs().max()) < 5e-5
    around = HooksBackend(judge, anatomy, around=peft.disable_adapter)
    assert torch.equal(around.run(batch, logits="all").logits, switched)
    assert torch.equal(hooks.run(batch, logits="all").logits, expected)


def test_the_bridge_follows_a_module_whose_weights_moved():
    model, batch = tiny_model("llama"), random_batch()
    lens = BridgeBackend(Anatomy.of(model))
    lens.run(batch)
    model.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(model.model.layers[0].mlp.down_proj.weight * 2)
    expected = model(**batch.forward_kwargs()).logits[:, -1].detach()
    assert float((lens.run(batch).logits - expected).abs().max()) < 5e-5


def test_a_peft_wrapper_is_sent_to_its_inner_model():
    peft = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ParameterError, match="base_model.model"):
        Anatomy.of(peft)


def test_a_class_without_a_map_is_refused():
    with pytest.raises(ParameterError, match="torch.nn|Linear"):
        Anatomy.of(torch.nn.Linear(2, 2))
    model = LlamaModel(LlamaConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=8))
    with pytest.raises(ParameterError, match="LlamaModel"):
        Anatomy.of(model)


def test_a_subclass_is_entered_as_its_base():
    class HouseLlama(LlamaForCausalLM):
        pass

    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_attention_heads=2, num_hidden_layers=2, vocab_size=40
    )
    model = HouseLlama(config).eval()
    run = HooksBackend(model, Anatomy.of(model)).run(random_batch_in(40), edits=[Scale(Site(C.Z, 0, 1), 0.0)])
    assert run.logits.shape == (2, 40)


def random_batch_in(vocab):
    from workbench.tokens import TokenBatch

    return TokenBatch.from_rows([[3, 9, 4], [vocab - 1, 5]], pad_id=0)


def test_what_an_import_changes_is_put_back():
    logger, filters = logging.getLogger("transformers"), list(warnings.filters)
    level, validator = logger.level, hub._validate_simple_type
    with quiet_process_state():
        logger.setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")
        hub._validate_simple_type = print
    assert (logger.level, list(warnings.filters), hub._validate_simple_type) == (level, filters, validator)


@pytest.mark.slow
def test_learning_an_anatomy_leaves_log_level_and_warning_filters():
    code = """
import logging, warnings, transformers
from huggingface_hub import dataclasses as hub
from tests.tiny_models import tiny_model
from workbench.hooks import Anatomy
import sys
assert "transformer_lens" not in sys.modules and "nnsight" not in sys.modules
model = tiny_model("gpt2")
logging.getLogger("transformers").setLevel(logging.INFO)
state = lambda: (logging.getLogger("transformers").level, list(warnings.filters), hub._validate_simple_type)
before = state()
Anatomy.of(model)
assert "transformer_lens" in sys.modules
assert state() == before, (state(), before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
