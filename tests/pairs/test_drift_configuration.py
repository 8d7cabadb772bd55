"""Configurations that differ: each kind has its own row, and what it does to a run is what the row says."""

import copy

import pytest
import torch

from analyses import tuco
from tests.pairs.drift_pairs import items
from workbench.errors import PairMismatch
from workbench.pairs import load_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tuned_copy


def rebuilt(model, **changes):
    """The same weights under another configuration."""
    config = copy.deepcopy(model.config)
    for key, value in changes.items():
        setattr(config, key, value)
    other = type(model)(config).eval()
    other.load_state_dict(model.state_dict(), strict=False)
    return other


def tuned(model, scale=0.05):
    return tuned_copy(model, change=scaled_noise(scale), seed=1)


def load(base, judge):
    return load_pair(base, judge, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu")


def guard(pair, name):
    return next(row for row in pair.report.guards if row.name == name)


ROPE = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}


@pytest.mark.parametrize(
    ("name", "changes", "status", "value"),
    [
        ("rotary positions", {"rope_parameters": ROPE}, "warn", "rope_parameters.rope_theta: 10000.0 -> 500.0"),
        ("rotary positions", {"rope_parameters": ROPE}, "warn", "rope_parameters.rope_type: default -> linear"),
        ("rotary positions", {"rope_parameters": ROPE}, "warn", "rope_parameters.factor: None -> 4.0"),
        ("context window", {"max_position_embeddings": 4096}, "warn", "max_position_embeddings: 1024 -> 4096"),
        ("sliding window", {"sliding_window": 64}, "warn", "sliding_window: None -> 64"),
        ("activation", {"hidden_act": "gelu"}, "warn", "hidden_act: silu -> gelu"),
        ("norm epsilon", {"rms_norm_eps": 1e-5}, "warn", "rms_norm_eps: 1e-06 -> 1e-05"),
        ("dropout", {"attention_dropout": 0.1}, "ok", "attention_dropout: 0.0 -> 0.1"),
        ("token ids of the configuration", {"pad_token_id": 2}, "ok", "pad_token_id: 0 -> 2"),
        ("other configuration", {"pretraining_tp": 2}, "warn", "pretraining_tp: 1 -> 2"),
    ],
)
def test_every_kind_of_drift_has_its_row(name, changes, status, value):
    base = tiny_model()
    row = guard(load(base, rebuilt(tuned(base), **changes)), name)
    assert row.status == status
    assert value in row.value
    assert row.detail


def test_equal_configurations_warn_of_nothing():
    base = tiny_model()
    pair = load(base, tuned(base))
    assert not pair.report.warnings
    assert guard(pair, "rotary positions").value == "rope_theta 10000.0, rope_type default"


def test_generation_settings_are_not_compared():
    base = tiny_model()
    judge = tuned(base)
    judge.generation_config.temperature = 0.3
    assert not load(base, judge).report.warnings


def test_each_model_runs_with_its_own_rope_so_that_positions_count_as_fine_tuning():
    """Weights that hardly moved: what TuCo finds is the angles."""
    base = tiny_model()
    plain = load(base, tuned(base, 1e-4))
    turned = load(base, rebuilt(tuned(base, 1e-4), rope_parameters=ROPE))
    shares = [tuco.run(pair, items(4), progress=False).tuco.mean() for pair in (plain, turned)]
    assert shares[0] < 1e-3
    assert shares[1] > 0.05
    batch = turned.encode(items(1)).batch()
    with torch.no_grad():
        assert torch.equal(turned.executor("base").run(batch).logits, plain.executor("base").run(batch).logits)


def test_prompts_must_fit_the_smaller_window():
    base = tiny_model()
    assert load(base, rebuilt(tuned(base), max_position_embeddings=300)).max_length == 300
    assert load(base, rebuilt(tuned(base), max_position_embeddings=9000)).max_length == 1024


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("untied", ["judge", "base"])
def test_tied_and_untied_heads_load_side_by_side_and_are_right(architecture, untied):
    tied = rebuilt(tiny_model(architecture=architecture), tie_word_embeddings=True)
    tied.tie_weights()
    loose = rebuilt(tied, tie_word_embeddings=False)
    loose.lm_head.weight = torch.nn.Parameter(tied.get_input_embeddings().weight.detach().clone())
    loose.lm_head.weight.data[5] += 1.0
    base, judge = (tied, loose) if untied == "judge" else (loose, tied)
    if untied == "base":
        with torch.no_grad():
            judge.get_input_embeddings().weight[7] += 1.0
    pair = load(base, judge)
    row = guard(pair, "output head")
    assert row.status == "warn"
    assert f"{untied} a matrix of its own" in row.value
    batch = pair.encode(items(2)).batch()
    for side, module in (("base", base), ("judge", judge)):
        with torch.no_grad():
            logits = module(**batch.forward_kwargs()).logits[:, -1]
        torch.testing.assert_close(pair.executor(side).run(batch).logits, logits, atol=1e-5, rtol=1e-5)
    moved = {change.name: change.change for change in pair.delta().moved}
    row = 32**0.5  # one row of 32 numbers moved by 1
    embedding = next(name for name in moved if "lm_head" not in name) if untied == "base" else None
    expected = {"lm_head.weight": row} if untied == "judge" else {"lm_head.weight": row * 2**0.5, embedding: row}
    assert moved == pytest.approx(expected, rel=1e-4)
    assert tuco.run(pair, items(2), controls=1, progress=False).finding.headline


def test_other_shapes_are_refused_whatever_the_configuration_calls_them():
    base = tiny_model()
    config = copy.deepcopy(base.config)
    config.intermediate_size = 96
    wide = type(base)(config).eval()
    with pytest.raises(PairMismatch, match="tensor shapes: 6 differ"):
        load(base, wide)


def test_another_architecture_of_the_same_shape_is_refused():
    with pytest.raises(PairMismatch, match="architecture: base GPT2LMHeadModel, judge LlamaForCausalLM"):
        load(tiny_model(architecture="gpt2"), tiny_model())
