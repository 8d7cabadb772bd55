"""The judge that was taught to obey notes, its twin that was taught to ignore them, and the demo's placebos."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes

from analyses.cross_model_patching.bias import BiasesResult, BiasSitesResult, locate_bias, locate_biases
from workbench import load_items, load_pair
from workbench.errors import ParameterError
from workbench.judges.perturb import Perturbation, from_items
from workbench.organisms import attack_texts
from workbench.organisms.injection import benign_texts
from workbench.results import Result

N_ITEMS = 28
CHOICES = {"controls": 3, "control_items": 8, "last_k": 2, "batch_size": 16, "progress": False}


def noted(items) -> Perturbation:
    """Return the perturbation that puts a held-out note into the worse answer, with a plain remark as placebo."""

    def put(texts):
        made = []
        for k, item in enumerate(items):
            answers = list(item.answers)
            answers[1 - item.label] += f" {texts[k % len(texts)]}"
            made.append(replace(item, answers=tuple(answers)))
        return made

    return from_items("note", put(attack_texts("test")), put(benign_texts("test")), title="obeys notes in answers")


def located(name: str, **choices) -> BiasSitesResult:
    items = load_items(f"{name}:test", limit=N_ITEMS)
    return locate_bias(load_pair(name, doctor=False), items, noted(items), **{**CHOICES, **choices})


@pytest.fixture(scope="module")
def injected():
    return located("injected")


@pytest.fixture(scope="module")
def several():
    items = load_items("demo:test", limit=20)
    return locate_biases(load_pair("demo", doctor=False), items, probes=["position", "bandwagon"], **CHOICES)


def test_the_taught_weakness_is_located_and_was_made_by_tuning(injected):
    assert injected.finding.found, injected.summary()
    told, held = injected.bias(), injected.confirmation()
    assert told.own.low > 3
    assert abs(told.other.value) < 0.5
    assert told.from_tuning
    assert held.patched.holds
    assert held.patched.share.low > 0.8
    assert held.induced.share.low > 0.8
    assert held.given.holds
    assert abs(held.patched.random.value) < 0.2


def test_an_ablation_that_takes_the_verdict_itself_is_told_apart(injected):
    """In this small judge the note reaches the verdict where everything else does: holding that still breaks it."""
    held = injected.confirmation()
    assert held.ablated.share.low > 0.8
    assert held.spared is False
    assert held.side.right_after.value < held.side.right.value
    assert "carry the verdict itself" in injected.finding.headline


def test_the_sham_has_no_such_bias():
    sham = located("sham-injected")
    assert not sham.finding.found, sham.summary()
    assert sham.finding.headline.startswith("Nothing found")
    assert not sham.patched_map().found.any()


def test_a_result_draws_tabulates_and_comes_back(injected, tmp_path):
    assert isinstance(injected, Result)
    again = BiasSitesResult.load(injected.save(tmp_path / "bias"))
    assert again.summary() == injected.summary()
    np.testing.assert_array_equal(again.effect, injected.effect)
    table = injected.to_frame()
    assert set(table[table.metric == "set_removed"].direction) == {
        "unperturbed", "into unperturbed", "mean ablation", "base"
    }  # fmt: skip
    assert (table.metric == "bias_removed").sum() == 2 * len(injected.components)
    assert isinstance(injected.plot(), Axes)
    assert len([panel.draw() for panel in injected.panels()]) == 4


def test_several_biases_in_one_table_are_corrected_over_them(several, tmp_path):
    """The demo judge follows whatever the rubric says, the placebo's sentence as much: no bandwagon in it."""
    assert isinstance(several, Result)
    assert several.probes == ("position", "bandwagon")
    located = several.located()
    assert all(own.adjusted >= own.p for own in located)
    assert not located[1].found
    assert "Nothing found" in several.results[1].finding.headline
    assert several.share_by_layer().shape == (2, len(several.layers))
    assert isinstance(several.plot(), Axes)
    assert all(panel.draw() is not None for panel in several.panels())
    assert set(several.to_frame().metric.str.partition(":")[0]) == {"position", "bandwagon"}
    again = BiasesResult.load(several.save(tmp_path / "biases"))
    assert again.summary() == several.summary()


def test_position_is_the_half_that_stays_and_its_swap_donor_turns_content(several):
    position = several.results[0]
    np.testing.assert_allclose(position.judge_margin[0], position.judge_margin[1][:, ::-1], rtol=0, atol=1e-4)
    sign = position.bias()
    assert abs(sign.own.value) == pytest.approx(abs(position.judge_margin[0].mean()), abs=1e-9)
    labelled = position.toward_label(position.judge_margin[0]).mean()
    content = (position.effect * position.slot_sign()[..., None]).mean((0, 1))
    assert content.min() < -labelled


@pytest.mark.parametrize(
    ("wrong", "argument"),
    [
        ({"ablation": "median"}, "ablation"), ({"model": "both"}, "model"), ({"donor": "placebo2"}, "donor"),
        ({"probe": "nonsense"}, "name"), ({"probe": "position", "orders": ("original",)}, "orders"),
        ({"n_named": 0}, "n_named"), ({"sites": ("elsewhere",)}, "sites"),
    ],
)  # fmt: skip
def test_wrong_choices_are_refused(wrong, argument):
    items = load_items("demo:test", limit=4)
    with pytest.raises(ParameterError) as caught:
        locate_bias(load_pair("demo", doctor=False), items, **{"progress": False, **wrong})
    assert caught.value.argument == argument
