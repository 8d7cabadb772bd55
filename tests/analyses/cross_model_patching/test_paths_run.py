"""Paths followed hop by hop: a planted one is named, shams and identical models name nothing, runs can be cut short."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from analyses.cross_model_patching.paths import PathPatchingResult, trace_paths
from workbench import load_items, load_pair
from workbench.errors import ParameterError, UnknownSite
from workbench.hooks import Component, Site
from workbench.judges import JudgeItem
from workbench.pairs import identical_pair, random_delta_pair
from workbench.pairs.tiny import byte_tokenizer, tiny_model, tiny_pair, tuned_copy
from workbench.results import Result
from workbench.tokens import TokenBatch

D, J = 16, 63
"""Width of a head, and the dimension of the stream that the planted path uses."""

QUIET = {"progress": False, "orders": ("original",), "batch_size": 8}


def _items(count, labels=None):
    words = "stone river lamp grass wheel bread cloud tower".split()
    return [
        JudgeItem(
            item_id=f"i{i}",
            question=f"{words[i % 8]} {i * 7 % 13}?",
            answers=(words[(3 * i + 1) % 8] * (1 + i % 2), words[(5 * i + 2) % 8]),
            label=i % 2 if labels is None else labels[i],
        )
        for i in range(count)
    ]


def _planted():
    """Return a pair in which head 1.2 of the judge writes where only the query of head 3.1 reads."""
    base = tiny_model(n_layers=4, width=4 * D, seed=5)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        base.model.embed_tokens.weight[:, J] = 0
        base.lm_head.weight[:, J] = 0
        for layer, block in enumerate(base.model.layers):
            attention, mlp = block.self_attn, block.mlp
            for reader in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                reader.weight[:, J] = 0
            attention.o_proj.weight[J] = 0
            mlp.down_proj.weight[J] = 0
            if layer == 1:
                attention.v_proj.weight[D:] *= 4
                attention.o_proj.weight[:, 2 * D :] /= 4
            if layer == 3:
                attention.q_proj.weight[D : 2 * D, J] = 40 * torch.randn(D, generator=generator)
                attention.o_proj.weight[:, D : 2 * D] *= 8

    usual = _usual_values(base)

    def change(name, parameter, generator):
        del generator
        moved = torch.zeros_like(parameter)
        if name.endswith("layers.1.self_attn.o_proj.weight"):
            # Along what the head usually holds: a random row of the same length hardly reads it.
            moved[J, 2 * D : 3 * D] = 0.05 * usual / usual.norm()
        return moved

    judge = tuned_copy(base, change=change)
    return load_pair(base, judge, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu")


def _usual_values(base):
    """Return what head 1.2 holds at the last token, on average."""
    rows = tiny_pair().encode(_items(8), orders=("original",)).rows
    seen = []
    hook = base.model.layers[1].self_attn.o_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        base(**TokenBatch.from_rows(rows, pad_id=0).forward_kwargs())
    hook.remove()
    return seen[0][:, -1, 2 * D : 3 * D].mean(0)


def _labelled_by_change(pair, count):
    """Return items labelled the way the judge moved: what it gained is its advantage by construction."""
    items = _items(count)
    encoded = pair.encode(items, orders=("original",))
    a, b = encoded.first_token_ids
    batch = TokenBatch.from_rows(encoded.rows, pad_id=0)
    with torch.no_grad():
        judge, base = (m(**batch.forward_kwargs()).logits[:, -1] for m in (pair.judge, pair.base))
    moved = (judge - base)[:, a] - (judge - base)[:, b]
    return _items(count, labels=[0 if m > 0 else 1 for m in moved.tolist()])


@pytest.fixture(scope="module")
def planted():
    """Run once on the planted pair."""
    pair = _planted()
    items = _labelled_by_change(pair, 16)
    return trace_paths(pair, items, control_items=4, controls=5, **QUIET)


def test_the_planted_path_is_named(planted):
    assert isinstance(planted, Result)
    edges = planted.edges()
    named = {
        (planted.edge_senders[i], planted.edge_receivers[i])
        for i in np.flatnonzero(edges.found)
        if planted.edge_directions[i] == "judge_to_base"
    }
    assert ("z.1.h2", "q.3.h1") in named
    second = {pair for pair in named if pair[1] != "verdict"}
    assert all(sender == "z.1.h2" for sender, _ in second)
    assert planted.finding.found
    assert "head 1.2 → the query of head 3.1" in planted.summary()


def test_what_cannot_carry_the_plant_is_exactly_zero(planted):
    for i, (sender, receiver) in enumerate(zip(planted.edge_senders, planted.edge_receivers, strict=True)):
        layer = int(sender.split(".")[1])
        if layer == 0 or (layer == 1 and sender.startswith("z") and sender != "z.1.h2"):
            assert not planted.effect[..., i].any(), (sender, receiver)
    assert np.abs(planted.effect[..., planted.at(sender="z.1.h2", receiver="q.3.h1")]).min() > 0


def test_the_two_halves_share_no_cluster_and_chosen_paths_are_tested_on_the_other(planted):
    assert 0 < planted.confirming.sum() < 16
    edges = planted.edges()
    chosen = np.flatnonzero(planted.selected)
    assert len(chosen) and np.isfinite(edges.p[chosen]).all()
    own = planted.toward_label(planted.effect[..., chosen[0]])[planted.confirming == 1]
    np.testing.assert_allclose(edges.effect.value[chosen[0]], own.mean())


def test_result_is_saved_drawn_and_tabulated(planted, tmp_path):
    loaded = PathPatchingResult.load(planted.save(tmp_path / "paths"))
    assert loaded.summary() == planted.summary()
    frame = planted.to_frame()
    assert set(frame.metric) == {"verdict_margin", "path_effect", "path_recovery", "total_effect"}
    row = frame[(frame.metric == "path_effect") & (frame.layer == 1) & (frame["head"] == 2) & (frame.span == "q.3.h1")]
    assert "judge_to_base" in set(row.direction) and row.value.notna().all()
    assert len(planted.panels()) >= 3
    for panel in planted.panels():
        assert panel.draw().axes
    labels = [text.get_text() for text in planted.plot().texts]
    assert "1.2" in labels and "3.1" in labels
    assert planted.panels()[-1].title.startswith("Direct paths")
    with pytest.raises(ParameterError, match="wasn't followed"):
        planted.at(sender="z.3.h1", receiver="q.3.h1")


def test_identical_models_give_exact_zeros_and_say_so():
    pair = identical_pair(tiny_pair(seed=2))
    found = trace_paths(pair, _items(10), **QUIET)
    assert not found.effect.any() and not found.total_effect.any()
    assert found.finding.headline.startswith("Nothing found: base and judge decide alike")


def test_a_random_change_in_the_confined_place_names_nothing():
    pair = random_delta_pair(load_pair("confined", doctor=False, device="cpu"), seed=100)  # none of its own draws
    found = trace_paths(
        pair, load_items("demo:test")[:12], controls=3, control_items=4, progress=False, orders=("original",)
    )
    assert not found.finding.found and found.finding.headline.startswith("Nothing found")
    assert np.abs(found.effect).max() > 0
    below = [i for i, name in enumerate(found.senders) if int(name.split(".")[1]) < 2]
    assert not found.total_effect[..., below].any()


def test_named_receivers_are_followed_and_no_others():
    sites = (Site(Component.Q, 1, 0), Site(Component.MLP_OUT, 1))
    found = trace_paths(tiny_pair(), _items(4), receivers=sites, controls=0, direction="base_to_judge", **QUIET)
    assert set(found.edge_receivers) == {"verdict", "q.1.h0", "mlp_out.1"}
    assert set(found.edge_directions) == {"base_to_judge"}
    # Nothing in block 1 but its heads, through the stream between attention and MLP, reaches what is named there.
    assert {s for s, r in zip(found.edge_senders, found.edge_receivers, strict=True) if r == "q.1.h0"} == {
        "z.0.h0", "z.0.h1", "z.0.h2", "z.0.h3", "mlp_out.0",
    }  # fmt: skip
    assert found.at(sender="z.1.h0", receiver="mlp_out.1", direction="base_to_judge") > 0
    assert any("independent items" in note for note in found.meta.not_measured)


def test_items_without_labels_are_measured_and_nothing_is_called_found():
    items = [JudgeItem(item_id=i.item_id, question=i.question, answers=i.answers) for i in _items(10)]
    found = trace_paths(tiny_pair(), items, controls=3, control_items=4, **QUIET)
    assert not found.finding.found and "no item says" in found.finding.headline
    assert np.abs(found.effect).max() > 0 and set(found.edge_hops) == {0}
    assert found.summary() and [panel.draw() for panel in found.panels()] and len(found.to_frame())


def test_ctrl_c_keeps_finished_items(monkeypatch):
    from analyses.cross_model_patching.paths import work

    measure, calls = work.Work.measure, []

    def stop(self, hops, items):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(items)
        return measure(self, hops, items)

    monkeypatch.setattr(work.Work, "measure", stop)
    pair = tiny_pair()
    before = [p.detach().clone() for p in pair.base.parameters()]
    with pytest.warns(RuntimeWarning, match="interrupted"):
        found = trace_paths(pair, _items(12), **QUIET)
    assert len(found.item_ids) == 8 and np.isfinite(found.effect).all()
    assert any("interrupted" in note for note in found.meta.not_measured) and found.summary()
    assert all(torch.equal(p, q) for p, q in zip(pair.base.parameters(), before, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pair.base.modules())


@pytest.mark.parametrize(
    ("choice", "error"),
    [
        ({"receivers": "stream"}, ParameterError),
        ({"receivers": ()}, ParameterError),
        ({"receivers": (Site(Component.Z, 1, 0),)}, ParameterError),
        ({"receivers": (Site(Component.Q, 1),)}, ParameterError),
        ({"receivers": (Site(Component.Q, 9, 0),)}, UnknownSite),
        ({"receivers": (Site(Component.Q, 1, 0), Site(Component.Q, 1, 0))}, ParameterError),
        ({"senders": "neurons"}, ParameterError),
        ({"direction": "sideways"}, ParameterError),
        ({"frozen": "mlp"}, ParameterError),
        ({"n_receivers": 0}, ParameterError),
        ({"hops": 0}, ParameterError),
    ],
)
def test_choices_that_make_no_sense_are_refused(choice, error):
    with pytest.raises((error, TypeCheckError)):  # a type-checked run stops earlier
        trace_paths(tiny_pair(), _items(2), **QUIET, **choice)
