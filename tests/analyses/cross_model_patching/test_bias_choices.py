"""Position, the other choices of a located bias, alignment, and runs that are interrupted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analyses.cross_model_patching.bias import locate_bias, locate_biases
from analyses.cross_model_patching.bias.measuring import Work
from analyses.cross_model_patching.bias.sets import named_sites, random_sets_of
from analyses.cross_model_patching.cells import grid
from analyses.looping import Prompts
from tests.analyses.cross_model_patching.test_bias_planted import COUNT, HEAD, LAYER, cued, located, planted_pair
from tests.pairs.drift_pairs import items
from workbench.errors import ParameterError
from workbench.pairs import Pair, load_pair
from workbench.pairs.tiny import byte_tokenizer, tiny_model, tuned_copy


def slot_pair(strength: float = 3.0) -> Pair:
    """Return a judge that writes the first slot's label from one MLP's bias, whatever it is shown."""
    base = tiny_model(architecture="gpt2", n_layers=3)

    def change(name, parameter, generator):
        del generator
        added = torch.zeros_like(parameter)
        if name.endswith("h.2.mlp.c_proj.bias"):
            rows = base.get_output_embeddings().weight.detach()
            gap = rows[labels[0]] - rows[labels[1]]
            added += strength * gap / gap.norm()
        return added

    labels = (68, 69)
    options = {"tokenizer": byte_tokenizer(), "format": "demo", "doctor": False, "device": "cpu"}
    labels = Prompts.of(load_pair(base, tuned_copy(base, change=change), **options), items(2)).verdict_ids
    return load_pair(base, tuned_copy(base, change=change), **options)


@pytest.fixture(scope="module")
def planted():
    return planted_pair("z")


def test_a_preference_for_a_slot_is_named_where_it_was_written():
    result = located(slot_pair(), "position")
    assert result.finding.found, result.summary()
    assert result.cell_name(result.named[0]) == "mlp_out.2 @ -1"
    held = result.confirmation()
    made = result.bias().made.value / result.bias().own.value
    assert 0.5 < made < 0.9, "the base has a preference of its own"
    assert held.patched.share.value == pytest.approx(made, abs=0.15)
    assert held.ablated.share.value == pytest.approx(made, abs=0.15)
    assert np.isnan(held.induced.share.value)
    swapped = result.patched_map().share.value[result.named[0]]
    assert abs(swapped) < 0.1, "what a site adds in either order isn't turned by swapping them"


def test_ablations_agree_on_a_site_that_does_nothing_else(planted):
    shares = []
    for ablation in ("zero", "clean"):
        result = located(planted, ablation=ablation, controls=0)
        held = result.confirmation()
        assert held.ablated.share.low > 0.5, result.summary()
        assert "without 3 random judges" in result.finding.headline
        shares.append(held.ablated.share.value)
    assert shares[0] == pytest.approx(shares[1], abs=0.4)


def test_the_base_can_be_looked_at(planted):
    result = located(planted, model="base", controls=0)
    assert result.other_side == "judge"
    np.testing.assert_allclose(result.bias().own.value, result.bias().shift.value)
    assert result.bias().made.value == pytest.approx(result.bias().other.value - result.bias().own.value)


def test_the_two_ways_of_running_patches_agree(planted):
    fast, plain = (
        located(planted, count=8, mode=mode, controls=0, random_sets=2, last_k=2) for mode in (None, "plain")
    )
    np.testing.assert_allclose(fast.effect, plain.effect, atol=1e-4)
    np.testing.assert_allclose(fast.other_effect, plain.other_effect, atol=1e-4)
    assert fast.named == plain.named
    np.testing.assert_allclose(fast.set_shift, plain.set_shift, atol=1e-4)
    assert plain.ran_as == "plain"


def test_a_placebo_of_equal_length_is_patched_from(planted):
    result = located(planted, cued(8, placebo=" %%%%%%%%"), count=8, controls=0)
    assert result.donor == "placebo"
    moved = result.judge_margin[0] - result.judge_margin[result.conditions.index("placebo")]
    assert result.bias().own.value == pytest.approx(moved.mean(), abs=1e-9)
    other = located(planted, cued(8, placebo=" %%%%%%%%"), count=8, controls=0, donor="unperturbed")
    assert other.donor == "unperturbed"
    assert other.bias().own.value == pytest.approx(result.bias().own.value, abs=1e-5)


def test_an_interrupted_run_keeps_what_is_finished(planted, monkeypatch):
    whole, calls = Work.measure, []

    def measure(self, some):
        calls.append(some)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, some)

    monkeypatch.setattr(Work, "measure", measure)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        result = located(planted)
    assert 0 < len(result.item_ids) < COUNT
    assert "Nothing found" in result.finding.headline
    assert any("interrupted" in note for note in result.meta.not_measured)


def test_items_without_labels_are_judged_by_the_models_own_verdict():
    plain = [replace(item, label=None) for item in items(COUNT)]
    result = locate_bias(slot_pair(), plain, "position", last_k=1, n_named=1, controls=0, batch_size=16, progress=False)
    assert result.confirmation().side.labelled is False
    assert result.confirmation().side.right.value == 1
    assert any("toward the model's own verdicts" in limit for limit in result.finding.limits)
    assert not result.finding.found


def test_named_sites_hold_no_other_and_random_sets_are_other_sites(planted):
    cells = grid(planted.anatomy("base"), sites=("attn_out", "mlp_out", "z"), last_k=2)
    names = [str(cell) for cell in cells]
    removed = np.random.default_rng(0).normal(0, 0.01, (16, len(cells)))
    removed[:, names.index(f"z.{LAYER}.h{HEAD} @ -1")] += 1.0
    removed[:, names.index(f"attn_out.{LAYER} @ -1")] += 1.1
    removed[:, names.index("mlp_out.0 @ -1")] += 0.5
    own = named_sites(cells, removed, clusters=[str(k) for k in range(16)], count=5, seed=0)
    assert [names[i] for i in own] == [f"z.{LAYER}.h{HEAD} @ -1", "mlp_out.0 @ -1"]
    drawn = random_sets_of(cells, own, count=20, seed=0)
    assert len(set(drawn)) == len(drawn) == 20
    assert not {i for group in drawn for i in group} & set(own)
    assert all(sorted(cells[i].component for i in group) == ["mlp_out", "z"] for group in drawn)


def test_several_refuse_what_makes_no_sense(planted):
    with pytest.raises(ParameterError, match="repeated"):
        locate_biases(planted, items(8), probes=["position", "position"], progress=False)
    with pytest.raises(ParameterError, match="spans"):
        locate_bias(planted, items(8), cued(8), spans=("nowhere",), progress=False)
