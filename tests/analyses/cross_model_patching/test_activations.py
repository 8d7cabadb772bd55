"""The main sweep: nulls, planted sites, naive hooks, shams, spans, controls, files."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from analyses import cross_model_patching
from analyses.cross_model_patching.activations import ActivationPatchingResult
from analyses.cross_model_patching.activations.sets import matched_set
from analyses.cross_model_patching.cells import grid
from analyses.looping import Prompts
from workbench import load_items, load_pair
from workbench.errors import FormatError, ParameterError, UnknownSite
from workbench.hooks import Component, Patch, Site
from workbench.judges import JudgeItem
from workbench.pairs import identical_pair, random_delta_pair
from workbench.pairs.tiny import tiny_pair

ALL = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v")


def items(count=10, *, label=True):
    return [
        JudgeItem(
            item_id=str(i),
            question=f"What is {i} and {i * 7}?",
            answers=("It is " + "ab" * (i % 3), "no"),
            label=i % 2 if label else None,
        )
        for i in range(count)
    ]


def only(layer, part, *, scale=1.0):
    """Return a change of one module's tensors in one block."""

    def change(name, parameter, generator):
        if f"layers.{layer}.{part}" not in name:
            return torch.zeros_like(parameter)
        return scale * parameter.std() * torch.randn(parameter.shape, generator=generator)

    return change


@pytest.fixture(scope="module")
def demo():
    return load_pair("demo"), load_items("demo:test", limit=24)


@pytest.fixture(scope="module")
def found(demo):
    return cross_model_patching.run(*demo, last_k=2, random_sets=6, named=3, control_items=12, progress=False)


def test_identical_models_give_exact_zeros(demo):
    pair, some = demo
    result = cross_model_patching.run(identical_pair(pair), some[:8], sites=ALL, spans=("answer_a",), progress=False)
    assert not result.effect.any()
    assert result.zero.all()
    assert not result.random_gap.size
    assert result.finding.headline.startswith("Nothing found")


def test_every_cell_equals_a_full_forward_with_the_same_patch():
    pair = tiny_pair(kind="lora", format="pairwise", doctor=False)
    some = items(3)
    result = cross_model_patching.run(
        pair, some, sites=ALL, last_k=2, last_k_heads=2, spans=("answer_a",), controls=0, named=0, progress=False
    )
    prompts = Prompts.of(pair, some)
    first, second = prompts.verdict_ids
    for at, (donor, target) in enumerate((("judge", "base"), ("base", "judge"))):
        for index in range(0, len(result.components), 5):
            site = Site(Component(result.components[index]), result.layers[index], result.heads[index])
            for row in range(2):
                batch = prompts.batch([0]).row(row)
                width = batch.ids.shape[1]
                span = result.spans[index]
                columns = [width + result.positions[index]] if span is None else range(*batch.spans[0][span])
                positions = torch.tensor([list(columns)])
                given = pair.executor(donor).run(batch, capture=[site], positions=positions).activations[site]
                run = pair.executor(target).run(
                    batch, edits=[Patch(site, given, positions=positions)], check_edits=False
                )
                gap = (run.logits[0, first] - run.logits[0, second]).item()
                own = result.target_margin(result.directions[at])[0, row]
                assert gap - own == pytest.approx(result.effect[at, 0, row, index], abs=2e-5)


def test_plain_mode_gives_the_same_numbers():
    pair, some = tiny_pair(format="pairwise", doctor=False), items(4)
    fast, plain = (
        cross_model_patching.run(pair, some, sites=ALL, controls=0, named=0, mode=mode, progress=False)
        for mode in (None, "plain")
    )
    assert fast.modes == ("wavefront", "wavefront")
    assert plain.modes == ("plain", "plain")
    assert plain.noise == 0
    np.testing.assert_allclose(fast.effect, plain.effect, atol=2e-5)
    np.testing.assert_allclose(fast.patched_mass, plain.patched_mass, atol=1e-6)


def test_a_slower_way_is_said_in_the_result(monkeypatch):
    from workbench.hooks.suffix import engine
    from workbench.hooks.suffix.ability import Ability

    monkeypatch.setattr(engine, "ability_of", lambda _executor: Ability(mode="plain", reason="it was told so"))
    pair = tiny_pair(format="pairwise", doctor=False)
    result = cross_model_patching.run(pair, items(4), sites=("attn_out",), controls=0, named=0, progress=False)
    said = [note for note in result.meta.not_measured if "it was told so; they ran as plain" in note]
    assert len(said) == 1


@pytest.mark.parametrize("part", ["self_attn", "mlp"])
def test_what_lies_below_the_tuned_block_is_exactly_zero(part):
    pair = tiny_pair(n_layers=4, change=only(2, part), format="pairwise", doctor=False)
    result = cross_model_patching.run(pair, items(6), sites=ALL, last_k=2, controls=0, named=0, progress=False)
    # Up to the tuned module both models hold the same bits, its own inputs included.
    before = {"resid_pre"} | ({"resid_mid", "attn_out", "z", "q", "k", "v"} if part == "mlp" else set())
    early = [
        i
        for i, (layer, name) in enumerate(zip(result.layers, result.components, strict=True))
        if layer < 2 or (layer == 2 and name in before)
    ]
    assert not result.effect[..., early].any()
    assert result.zero[..., early].all()
    site = result.components.index("attn_out" if part == "self_attn" else "mlp_out")
    name = result.components[site]
    tuned = [i for i, c in enumerate(result.components) if c == name and result.layers[i] == 2]
    assert np.abs(result.effect[..., tuned]).max() > 0
    assert result.finding.found is False  # no random judges, so nothing is called found


def test_last_stream_recovers_all_of_it_where_the_readout_is_the_same():
    pair = tiny_pair(n_layers=3, change=only(1, "self_attn"), format="pairwise", doctor=False)
    result = cross_model_patching.run(
        pair, items(6), sites=("resid_post",), last_k=1, controls=0, named=0, progress=False
    )
    last = result.layers.index(2)
    gap = result.judge_margin - result.base_margin
    np.testing.assert_allclose(result.effect[0, ..., last], gap, atol=1e-5)
    np.testing.assert_allclose(result.effect[1, ..., last], -gap, atol=1e-5)


def test_demo_judge_is_found_with_everything_beside_it(found):
    said = found.finding
    assert said.found
    assert "attn_out of block 4 at the last token" in said.headline
    assert all(estimate.control is not None for estimate in said.estimates)
    assert all(np.isfinite([estimate.value, estimate.low, estimate.high]).all() for estimate in said.estimates)
    sweep = found.sweep("judge_to_base")
    best = int(np.nanargmax(np.abs(np.where([c == "attn_out" for c in found.components], sweep.effect.value, 0))))
    assert sweep.found[best]
    assert abs(sweep.effect.value[best]) > 3 * abs(sweep.mismatched.value[best])
    assert found.self_test < 1e-3


def test_named_set_beats_random_sets_on_other_items(found):
    from analyses.cross_model_patching.activations.views import set_recovery

    confirmed = ~np.isnan(found.set_effect[0, 0]).any(1)
    assert (confirmed == (found.confirming == 1)).all()
    assert 0 < confirmed.sum() < len(confirmed)
    for at in range(2):
        own = set_recovery(found, at, 0).value
        others = [set_recovery(found, at, k).value for k in range(1, 7)]
        assert own > max(others)


@pytest.mark.parametrize("seed", [11, 12])
def test_random_change_of_equal_norm_has_nothing_to_find(demo, seed):
    pair, some = demo
    result = cross_model_patching.run(
        random_delta_pair(pair, seed=seed), some, last_k=1, named=0, control_items=12, progress=False
    )
    assert not result.finding.found
    assert result.finding.headline.startswith("Nothing found")


def test_without_labels_nothing_is_called_found(demo):
    pair, _ = demo
    result = cross_model_patching.run(
        pair, [JudgeItem(item_id=str(i), question="Who?", answers=("Runa", "Oskar")) for i in range(9)],
        last_k=1, controls=3, progress=False,
    )  # fmt: skip
    assert "no item says which answer is better" in result.finding.headline
    assert np.abs(result.effect).max() > 0
    assert len(result.to_frame()) > 0


def test_spans_are_patched_where_a_prompt_has_them(demo):
    pair, _ = demo
    mixed = [
        JudgeItem(item_id=str(i), question="Which town does Runa come from?", answers=("Lumby.", "Jossport."), label=0,
                  reference="Lumby." if i % 2 else None)
        for i in range(4)
    ]  # fmt: skip
    result = cross_model_patching.run(
        pair, mixed, sites=("attn_out",), last_k=0, spans=("reference",), controls=0, named=0, progress=False
    )
    known = ~np.isnan(result.effect).any((0, 2, 3))
    assert known.tolist() == [False, True, False, True]
    assert result.to_frame()["span"].dropna().eq("reference").all()


def test_position_and_content_parts_add_up(found):
    raw = found.effect[0]
    content = (raw * found.slot_sign()[..., None]).mean(1)
    position = raw.mean(1)
    rebuilt = np.stack(
        [position + content * found.slot_sign()[:, :1], position - content * found.slot_sign()[:, :1]], 1
    )
    np.testing.assert_allclose(rebuilt, raw, atol=1e-9)


def test_result_is_saved_loaded_drawn_and_tabled(found, tmp_path):
    loaded = ActivationPatchingResult.load(found.save(tmp_path / "patching"))
    assert loaded.finding == found.finding
    frame = loaded.to_frame()
    assert {"recovery", "effect", "flipped", "label_mass", "relative_size", "set_recovery"} <= set(frame["metric"])
    recovery = frame[(frame["metric"] == "recovery") & (frame["component"] == "attn_out")]
    assert set(recovery["direction"]) == {"judge_to_base", "base_to_judge"}
    assert len(recovery) == 2 * 5 * 2
    assert "head" in frame
    for panel in loaded.panels():
        assert panel.draw().axes
    assert loaded.plot().get_figure() is not None


def test_same_seed_same_numbers(demo):
    pair, some = demo
    one, two = (
        cross_model_patching.run(pair, some[:8], last_k=1, controls=3, control_items=4, random_sets=2, progress=False)
        for _ in range(2)
    )
    for name in ActivationPatchingResult.AXES:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_interrupted_run_keeps_finished_items(monkeypatch):
    from analyses.cross_model_patching.activations import work

    pair = tiny_pair(format="pairwise", doctor=False)
    own, calls = work.sweep, []

    def stops(*args, **kwargs):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return own(*args, **kwargs)

    monkeypatch.setattr(work, "sweep", stops)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        result = cross_model_patching.run(pair, items(4), batch_size=2, controls=0, progress=False)
    assert len(result.item_ids) == 1
    assert any("interrupted" in note for note in result.meta.not_measured)


@pytest.mark.parametrize(
    ("choice", "error", "words"),
    [
        ({"sites": ("stream",)}, ParameterError, "resid_pre"),
        ({"sites": ()}, ParameterError, "resid_pre"),
        ({"last_k": 0, "last_k_heads": 0}, ParameterError, "positions or spans"),
        ({"last_k": 4000}, ParameterError, "tokens"),
        ({"spans": ("rubric",)}, ParameterError, "answer_a"),
        ({"direction": "sideways"}, ParameterError, "both"),
        ({"layers": [7]}, UnknownSite, "layers 0 to 1"),
        ({"batch_size": 0}, ParameterError, "1 or more"),
        ({"mode": "flash"}, ParameterError, "plain"),
    ],
)
def test_bad_choices_are_refused_by_name(choice, error, words):
    pair = tiny_pair(format="pairwise", doctor=False)
    with pytest.raises((error, TypeCheckError), match=words):  # a type-checked run stops earlier
        cross_model_patching.run(pair, items(2), progress=False, **choice)


def test_formats_that_show_all_answers_are_refused():
    pair = tiny_pair(format="judgelm-multi", doctor=False)
    with pytest.raises(FormatError, match="multi"):
        cross_model_patching.run(pair, items(2), progress=False)


def test_matched_sets_keep_component_and_block():
    cells = grid(load_pair("demo").anatomy("base"), sites=("z", "mlp_out", "attn_out"), last_k=1)
    wanted = (Site(Component.Z, 2, 1), Site(Component.Z, 4, 0))
    own = [i for i, cell in enumerate(cells) if cell.site in wanted]
    drawn = [matched_set(cells, own, seed=[seed]) for seed in range(8)]
    for other in drawn:
        assert sorted(cells[i].layer for i in other) == [2, 4]
        assert all(cells[i].component is Component.Z for i in other)
        assert not set(other) & set(own)
    assert len(set(drawn)) > 3
    crowded = [i for i, cell in enumerate(cells) if cell.component is Component.Z and cell.layer == 2][:3]
    other = matched_set(cells, crowded, seed=[0])
    assert len(other) == 3
    assert not set(other) & set(crowded)
