"""Adapters trained after tokens were added: the judge's vocabulary is larger than that of the base it sits on."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from analyses import tuco
from tests.pairs.drift_pairs import ADDED, CHATML, ROWS, items, resized, tokenizer_with
from workbench.errors import PairMismatch
from workbench.pairs import identical_pair, load_pair, random_delta_pair
from workbench.pairs.tiny import tiny_model

TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"]}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folders(request, tmp_path_factory):
    """A base of 260 rows and an adapter saved with the 263 rows it was trained on; embeddings moved as well."""
    root = tmp_path_factory.mktemp(request.param)
    base = tiny_model(architecture=request.param)
    base.save_pretrained(root / "base")
    saved = ["embed_tokens", "lm_head"] if request.param == "llama" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(
            r=2,
            target_modules=TARGETS[request.param],
            modules_to_save=saved,
            init_lora_weights=False,
            fan_in_fan_out=request.param == "gpt2",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(resized(base, ROWS + 3), config)
    model.save_pretrained(root / "judge", save_embedding_layers=saved is None)
    tokenizer_with(*ADDED, template=CHATML).save_pretrained(root / "judge")
    return root, model.eval()


def load(folders, **options):
    return load_pair(folders / "base", folders / "judge", device="cpu", **{"format": "bracket", **options})


@pytest.mark.parametrize("policy", ["refuse", "mean", "judge"])
def test_the_judge_is_the_trained_model_and_the_base_stays_the_base(folders, policy):
    root, trained = folders
    pair = load(root, added_tokens=policy)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(pair.judge(ids).logits, trained(ids).logits, atol=5e-5, rtol=0)
        plain = tiny_model(architecture="gpt2" if "gpt2" in root.name else "llama")(ids).logits
        torch.testing.assert_close(
            pair.base(ids).logits[..., :ROWS], plain, atol=0 if policy == "refuse" else 1e-6, rtol=0
        )
    own, tuned = (m.get_input_embeddings().weight for m in (pair.base, pair.judge))
    assert own.shape[0] == (ROWS if policy == "refuse" else ROWS + 3)
    if policy == "judge":
        assert torch.equal(own[ROWS:], tuned[ROWS:])
    blocks = {id(p) for name, p in pair.base.named_parameters() if "mlp" in name}
    assert blocks & {id(p) for p in pair.judge.parameters()}, "blocks are shared all the same"
    assert pair.shared_rows == ROWS


def test_what_follows_runs(folders):
    root, _ = folders
    with pytest.raises(PairMismatch, match="no row for"):
        load(root, doctor=False).encode(items(1))
    plain = load(root, format="pairwise", doctor=False)
    assert tuco.run(plain, items(2), controls=1, progress=False).tuco.mean() > 0
    pair = load(root, added_tokens="mean", doctor=False)
    assert tuco.run(pair, items(8), controls=1, progress=False).identical_share == 0.0
    assert not tuco.run(identical_pair(pair), items(2), progress=False).finetuned_norm.any()
    assert tuco.run(random_delta_pair(pair, seed=0), items(2), controls=0, progress=False).tuco.mean() > 0
    delta = pair.delta()
    assert delta.moved


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [ROWS, ROWS + 1, ROWS + 2]}},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
    ],
    ids=["trained tokens", "factors on the embedding", "factors on the head"],
)
def test_the_judges_rows_are_those_it_uses_whatever_adapter_sits_on_them(options):
    """Both models know 263 ids in the end; the base has to read the three as the adapted judge does."""
    base = tiny_model()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(resized(base, ROWS + 3), LoraConfig(r=2, task_type="CAUSAL_LM", **options)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name or "trainable_tokens" in name:
                    parameter.copy_(torch.randn_like(parameter))
    choices = {"format": "pairwise", "doctor": False, "device": "cpu", "added_tokens": "judge"}
    pair = load_pair(base, model, tokenizer=tokenizer_with(*ADDED), **choices)
    ids = torch.arange(ROWS, ROWS + 3)
    streams = torch.randn(4, 32)
    with torch.no_grad():
        own, tuned = (m.get_input_embeddings()(ids) for m in (pair.base, pair.judge))
        heads = [m.get_output_embeddings()(streams)[:, ROWS:] for m in (pair.base, pair.judge)]
    torch.testing.assert_close(own, tuned, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(heads[0], heads[1], atol=1e-4, rtol=1e-4)
