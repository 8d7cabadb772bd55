"""Weight swaps of judge pairs: planted and trained changes, adapters (T12, T13), nulls, interruption, displays."""

import copy
import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from peft import LoraConfig, get_peft_model

from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.cross_model_patching.weights import WeightSwapResult, runner, swap_weights
from analyses.looping import Prompts
from workbench.errors import ParameterError
from workbench.hooks import Component, Site, weight_sharing_shadow
from workbench.judges import JudgeItem
from workbench.pairs import identical_pair, load_pair, random_delta_pair
from workbench.pairs.tiny import byte_tokenizer, tiny_model, tiny_pair
from workbench.results import TIDY_COLUMNS

ITEMS = tuple(
    JudgeItem(item_id=f"i{i}", question=f"{i}+{i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(10)
)


def swap(pair, count=3, **options):
    return swap_weights(pair, ITEMS[:count], progress=False, **{"controls": 0, "grafts": False, **options})


def written(result, way="judge_to_base"):
    """Return which parts' weights move any margin."""
    moved = result.written[result.directions.index(way)].any((0, 1))
    return {str(part) for part, any_ in zip(result.parts, moved, strict=True) if any_}


@pytest.fixture(scope="module")
def trained():
    """T12: a model really fine-tuned for a few steps, with blocks 1 and 3 trainable."""
    base = tiny_model(n_layers=4, width=16)
    judge = copy.deepcopy(base)
    for name, parameter in judge.named_parameters():
        parameter.requires_grad_(".layers.1." in name or ".layers.3." in name)
    ids = torch.randint(3, 250, (4, 24), generator=torch.Generator().manual_seed(0))
    steps = torch.optim.SGD([p for p in judge.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        steps.zero_grad()
        judge(ids, labels=ids).loss.backward()
        steps.step()
    judge.requires_grad_(True)
    return load_pair(base, judge.eval(), tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu")


def test_training_two_blocks_is_written_in_these_and_seen_from_the_first_on(trained):
    result = swap(trained, granularity=("layer", "module"))
    for way in result.directions:
        names = written(result, way)
        assert {"layer 1", "layer 3", "attn 1", "mlp 3"} <= names
        assert all(name.endswith((" 1", " 3")) for name in names)
    seen = {str(part): result.seen[..., index] for index, part in enumerate(result.parts)}
    assert not any(seen[f"{kind} 0"].any() for kind in ("layer", "attn", "mlp"))
    assert seen["layer 2"].any()
    assert not seen["embedding"].any()
    assert any("nothing was written there" in limit for limit in result.finding.limits)
    assert np.isnan(seen["norms 1"]).all()


@pytest.fixture(scope="module")
def adapted():
    """T13: LoRA on one output projection."""
    base = tiny_model(n_layers=3)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["o_proj"], layers_to_transform=[1], task_type="CAUSAL_LM")
    wrapped = get_peft_model(weight_sharing_shadow(base), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return load_pair(
        base, wrapped.eval(), tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu"
    )  # fmt: skip


def test_an_adapter_on_an_output_projection_is_missed_by_z_and_said(adapted):
    result = swap(adapted, grafts=True)
    index = {str(part): k for k, part in enumerate(result.parts)}
    assert written(result) == {"layer 1", "attn 1", *(f"head 1.{head}" for head in range(4))}
    assert not result.seen[..., [index[f"head 1.{head}"] for head in range(4)]].any()
    assert result.seen[..., index["attn 1"]].all()
    heads = [index[f"head 1.{head}"] for head in range(4)]
    np.testing.assert_allclose(result.through[..., heads], result.written[..., heads], atol=2e-5)
    np.testing.assert_allclose(result.blind(), [[0, 1, 0]] * 2)
    assert sum("z and attn_out disagree in blocks 1" in limit for limit in result.finding.limits) == 2
    np.testing.assert_allclose(
        result.written[0, ..., index["attn 1"]], result.judge_margin - result.base_margin, atol=2e-5
    )
    np.testing.assert_allclose(result.graft[..., 2], result.judge_margin, atol=2e-5)


@pytest.fixture(scope="module")
def planted():
    """Block 1's attention speaks for the first slot: what its heads write at the last token is turned that way."""
    plain = tiny_pair(n_layers=2)
    prompts = Prompts.of(plain, ITEMS[:4])
    verdict, site = VerdictIds.of(prompts), Site(Component.Z, 1)
    z = plain.executor("base").run(prompts.batch(range(4)), capture=[site], logits="none").activations[site]
    rows = plain.base.get_output_embeddings().weight.detach()
    toward = rows[list(verdict.first)].mean(0) - rows[list(verdict.second)].mean(0)
    turned = torch.outer(toward / toward.norm(), z[:, -1].flatten(1).mean(0) / z[:, -1].flatten(1).mean(0).norm())

    def change(name, parameter, _generator):
        share = 0.3 * parameter.norm() if "layers.1.self_attn.o_proj" in name else 0.0
        return share * turned if share else torch.zeros_like(parameter)

    return tiny_pair(change=change, n_layers=2)


@pytest.fixture(scope="module")
def items():
    """Items whose better answer stands in the first slot, so that the planted change is an advantage."""
    return [dataclasses.replace(item, label=0) for item in ITEMS]


@pytest.fixture(scope="module")
def result(planted, items):
    return swap_weights(
        planted,
        items,
        controls=4,
        control_items=6,
        granularity=("layer", "module"),
        orders=("original",),
        seed=1,
        progress=False,
    )


def test_a_planted_part_recovers_all_of_the_advantage(result):
    assert {name for name in written(result) if "head" not in name} == {"layer 1", "attn 1"}
    for direction, way in enumerate(result.directions):
        cells = result.effects(way)
        gap = result.toward_label(result.judge_margin - result.base_margin).mean()
        at = result.kinds.index("attn") + 1
        assert result.tested().passes[direction, at]
        assert cells.value[at] == pytest.approx(gap, abs=1e-5)
        assert result.recoveries(way).value[at] == pytest.approx(1, abs=1e-3)
        assert not cells.value[[i for i, same in enumerate(result.unchanged) if same]].any()
        assert result.tested().passes[direction].sum() == 2
    assert result.finding.found
    assert "layer 1 100%" in result.finding.headline
    assert "attn 1" in result.finding.headline


def test_random_judges_have_the_same_parts_and_a_bound(result):
    assert result.random_written.shape == (4, *result.written.shape)
    assert int((~np.isnan(result.random_gap)).all((0, 2)).sum()) == 6
    moved = np.nan_to_num(result.random_written).any((0, 1, 2, 3))
    assert moved.tolist() == (~result.unchanged).tolist()
    assert not np.isnan(result.random_seen[:, 0, :, :, 0]).all()
    assert result.tested().bound > 0


@pytest.mark.parametrize("granularity", [("module", "head"), ("head",)])
def test_patches_of_random_heads_are_measured_where_nothing_larger_is(planted, granularity):
    result = swap(planted, 2, controls=1, granularity=granularity, direction="judge_to_base")
    kinds = np.array(result.kinds)
    known = ~np.isnan(result.random_seen).all((0, 1, 2, 3))
    assert known[kinds == "head"].any() == ("module" not in granularity)
    assert known[kinds == "attn"].all()
    assert not np.isnan(result.random_written[..., kinds == "head"]).all((0, 1, 2, 3)).any()


def test_identical_models_are_exact_zeros(planted):
    same = swap(identical_pair(planted), controls=3, grafts=True)
    assert same.unchanged.all()
    assert not same.written.any()
    assert not np.nan_to_num(same.seen).any()
    assert not (same.graft - same.base_margin[..., None]).any()
    assert same.finding.headline.startswith("Nothing found")


def test_a_random_judge_is_not_named(planted):
    sham = swap(random_delta_pair(planted, seed=11), 6, controls=3, granularity=("layer",), compare=False, seed=40)
    assert sham.written.any()
    assert not sham.finding.found
    assert sham.finding.headline.startswith("Nothing found")


def test_items_without_labels_are_measured_and_never_named(planted):
    bare = [JudgeItem(item_id=i.item_id, question=i.question, answers=i.answers) for i in ITEMS[:4]]
    result = swap_weights(
        planted, bare, granularity=("layer",), controls=0, compare=False, progress=False, direction="judge_to_base"
    )
    assert result.written.any()
    assert not result.finding.found
    assert any("No item says which answer is better" in limit for limit in result.finding.limits)
    assert np.isfinite(result.effects("judge_to_base").value).all()
    with pytest.raises(ParameterError, match="direction"):
        result.effects("base_to_judge")


def test_an_interrupted_run_keeps_what_is_finished(planted, monkeypatch):
    real, calls = runner.measure, []

    def interrupted(*args):
        if calls:
            raise KeyboardInterrupt
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(runner, "measure", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        result = swap(planted, 4, batch_size=4, granularity=("layer",), compare=False)
    assert len(result.item_ids) == 2
    assert not np.isnan(result.written).any()
    assert "interrupted" in result.summary()


def test_the_result_is_drawn_tabled_and_kept(result, tmp_path):
    table = result.to_frame()
    assert set(table.columns) <= set(TIDY_COLUMNS)
    assert {"written", "seen", "written_recovery", "graft", "verdict_margin"} <= set(table["metric"])
    again = WeightSwapResult.load(result.save(tmp_path / "swap"))
    assert again.summary() == result.summary()
    np.testing.assert_array_equal(again.random_seen, result.random_seen)
    assert result.plot().get_ylabel()
    for panel in result.panels():
        figure = panel.draw()
        figure.canvas.draw()
        plt.close(figure)
    assert len(result.panels()) == 3
    assert result.meta.analysis == "cross_model_patching.weights"


def test_heads_are_drawn_too(adapted):
    result = swap(adapted, 2, granularity=("head",), direction="judge_to_base")
    assert [panel.title for panel in result.panels()] == ["Seen here, written here: heads"]
    result.panels()[0].draw().canvas.draw()
    result.plot()


@pytest.mark.parametrize(
    "choice",
    [{"direction": "sideways"}, {"granularity": ("neuron",)}, {"controls": -1}],
    ids=lambda choice: str(*choice),
)
def test_choices_that_do_not_exist_are_refused(planted, choice):
    (name,) = choice
    with pytest.raises((ParameterError, TypeCheckError), match=name):  # a type-checked run stops earlier
        swap(planted, **choice)
