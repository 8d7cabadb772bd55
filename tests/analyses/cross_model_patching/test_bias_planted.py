"""A bias planted in one head of a tiny judge is found there, by every intervention; what isn't planted is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analyses.cross_model_patching.bias import BiasSitesResult, locate_bias
from analyses.cross_model_patching.cells import grid
from analyses.cross_model_patching.sweeping import entered
from analyses.looping import Prompts
from tests.pairs.drift_pairs import items
from workbench.hooks import HooksBackend
from workbench.judges.perturb import Perturbation, from_items
from workbench.pairs import Pair, identical_pair, load_pair, random_delta_pair
from workbench.pairs.tiny import byte_tokenizer, tiny_model, tuned_copy

DEPTH, LAYER, HEAD, WIDTH = 4, 3, 2, 8
COUNT = 24


def cued(count: int = COUNT, *, cue: str = " ########", placebo: str | None = None) -> Perturbation:
    """Return a perturbation that puts a cue behind the question, said to favour the first slot."""
    shown = items(count)

    def put(text):
        return [replace(item, question=f"{item.question}{text}") for item in shown]

    return from_items("cue", put(cue), None if placebo is None else put(placebo), toward="first slot")


def direction_of(pair: Pair, site: str) -> torch.Tensor:
    """Return along which direction the cue moves what the base has at the last token."""
    cells = [cell for cell in grid(pair.anatomy("base"), sites=(site,)) if cell.layer == LAYER]
    cell = next(cell for cell in cells if cell.head in (None, HEAD))
    made = cued().apply(items(COUNT), 0, None)
    executor = HooksBackend(pair.base, pair.anatomy("base"))
    held = []
    for shown in (made.perturbed, made.items):
        batch = Prompts.of(pair, shown).batch(range(COUNT))
        suffix = entered(executor, batch, [cell])
        held.append(suffix.clean(cell.site, suffix.columns(1))[:, 0])
    return telling(held[0] - held[1])


def telling(gaps: torch.Tensor) -> torch.Tensor:
    """Return the direction along which every prompt's gap is as near to 1 as can be, damped."""
    damped = gaps.T @ gaps + 0.1 * len(gaps) * gaps.square().mean() * torch.eye(gaps.shape[1])
    return torch.linalg.solve(damped, gaps.sum(0))


def planted_pair(site: str = "z", *, strength: float = 3.0) -> Pair:
    """Return a judge whose only change writes a reaction to the cue into the verdict, in one head or one MLP.

    The change is of the weights behind the site (the head's slice of the output projection), so that both models hold
    the same there, or of the MLP's last matrix.
    """
    base = tiny_model(seed=0, n_layers=DEPTH)
    plain = pair_of(base, tuned_copy(base, change=nothing), allow_identical=True)
    first, second = Prompts.of(plain, items(2)).verdict_ids
    unembedding = base.get_output_embeddings().weight
    verdict = (unembedding[first] - unembedding[second]).detach()
    verdict = verdict / verdict.norm()
    if site == "z":
        name, towards = f"layers.{LAYER}.self_attn.o_proj.weight", direction_of(plain, "z")
    else:
        name, towards = f"layers.{LAYER}.mlp.down_proj.weight", hidden_direction(plain)

    def change(own, parameter, generator):
        del generator
        added = torch.zeros_like(parameter)
        if own.endswith(name):
            columns = slice(HEAD * WIDTH, (HEAD + 1) * WIDTH) if site == "z" else slice(None)
            added[:, columns] = strength * torch.outer(verdict, towards)
        return added

    return pair_of(base, tuned_copy(base, change=change))


def pair_of(base, judge, **options) -> Pair:
    return load_pair(base, judge, tokenizer=byte_tokenizer(), format="demo", doctor=False, device="cpu", **options)


def nothing(name, parameter, generator):
    del name, generator
    return torch.zeros_like(parameter)


@torch.no_grad()
def hidden_direction(pair: Pair) -> torch.Tensor:
    """Return how the cue moves the hidden layer of the base's MLP at the last token."""
    made = cued().apply(items(COUNT), 0, None)
    held: list[torch.Tensor] = []
    module = pair.base.get_submodule(f"model.layers.{LAYER}.mlp.down_proj")
    handle = module.register_forward_pre_hook(lambda _, given: held.append(given[0][:, -1]))
    for shown in (made.perturbed, made.items):
        batch = Prompts.of(pair, shown).batch(range(COUNT))
        pair.base(input_ids=batch.ids, attention_mask=batch.mask.long(), position_ids=batch.position_ids)
    handle.remove()
    return telling(held[0] - held[1])


def located(pair: Pair, probe=None, *, count: int = COUNT, **choices) -> BiasSitesResult:
    options = {"controls": 5, "control_items": 6, "last_k": 3, "n_named": 1, "batch_size": 16, **choices}
    return locate_bias(pair, items(count), probe or cued(count), progress=False, **options)


@pytest.fixture(scope="module")
def planted():
    return planted_pair("z")


@pytest.fixture(scope="module")
def head(planted):
    return located(planted)


@pytest.fixture(scope="module")
def mlp():
    return located(planted_pair("mlp"))


def test_a_bias_in_one_head_is_named_there(head):
    assert head.finding.found, head.summary()
    assert head.cell_name(head.named[0]) == f"z.{LAYER}.h{HEAD} @ -1", head.summary()
    held = head.confirmation()
    assert held.patched.share.low > 0.7
    assert held.induced.share.low > 0.7
    assert abs(held.patched.random.value) < 0.3


def test_a_head_whose_output_projection_changed_holds_what_the_base_holds(head):
    """Both models give it the same values; only what it writes is new. Its layer's attention output shows that."""
    names = [head.cell_name(i) for i in range(len(head.components))]
    at = names.index(f"z.{LAYER}.h{HEAD} @ -1")
    assert not head.other_effect[..., at].any()
    assert head.given_map().share.value[names.index(f"attn_out.{LAYER} @ -1")] > 0.7


def test_a_bias_in_one_mlp_is_named_there_and_was_made_by_tuning(mlp):
    assert mlp.finding.found, mlp.summary()
    assert mlp.cell_name(mlp.named[0]) == f"mlp_out.{LAYER} @ -1", mlp.summary()
    assert mlp.confirmation().given.share.value == pytest.approx(1, abs=0.3)
    assert "Fine-tuning made" in mlp.finding.headline


def test_a_judge_without_the_bias_has_no_site_of_it(planted):
    """What moves toward one answer in one item and toward the other in the next is no bias."""
    shown = items(COUNT)
    probe = from_items(
        "cue", [replace(item, question=f"{item.question} ########") for item in shown],
        toward={item.item_id: k // 2 % 2 for k, item in enumerate(shown)},
    )  # fmt: skip
    result = located(planted, probe)
    assert not result.finding.found
    assert result.finding.headline.startswith("Nothing found"), result.summary()


def test_identical_models_have_nothing_to_give_each_other(planted):
    result = located(identical_pair(planted), count=12, last_k=1)
    assert not result.other_effect.any()
    assert not result.set_other_effect[:, result.naming == 0].any()
    np.testing.assert_array_equal(result.judge_margin, result.base_margin)
    assert result.bias().made.value == 0
    assert result.finding.headline.startswith("Nothing found")


def test_a_random_change_makes_no_carrier(planted):
    result = located(random_delta_pair(planted, seed=9), last_k=1)
    assert not result.given_map().found.any()
    assert not result.finding.found, result.summary()
