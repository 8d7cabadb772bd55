"""Circuits: ablations against full forwards with naive hooks, exact nulls, planted circuits, words and files."""

import numpy as np
import pytest
import torch

from analyses.cross_model_patching.cells import Cell
from analyses.cross_model_patching.circuits import CircuitResult, circuit
from analyses.cross_model_patching.circuits.result import jaccard
from analyses.cross_model_patching.circuits.search import nested_sizes, prefix, pruned, smallest
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import Prompts
from tests.short_format import SHORT_FORMAT
from workbench.errors import ParameterError
from workbench.hooks import Component
from workbench.judges import JudgeItem
from workbench.pairs import identical_pair, load_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tuned_copy
from workbench.results import TIDY_COLUMNS, Result

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(16)
]
QUIET = {"progress": False, "controls": 0, "draws": 3, "batch_size": 32}


def pair_of(change):
    base = tiny_model(n_layers=2)
    judge = tuned_copy(base, change=change)
    return load_pair(
        base, judge, tokenizer=byte_tokenizer(), format=SHORT_FORMAT, doctor=False, device="cpu", allow_identical=True
    )


@pytest.fixture(scope="module", autouse=True)
def small_gaps():
    """Let verdicts of random models count, which hardly depend on the items."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("circuits.result", "circuits.work", "advantage"):
            patch.setattr(f"analyses.cross_model_patching.{module}.LEAST_GAP", 1e-3)
        yield


@pytest.fixture(scope="module")
def pair():
    return pair_of(scaled_noise(0.2, only="layers"))


@pytest.fixture(scope="module")
def items(pair):
    """Labels that the base's own content part agrees with: it has a verdict whose circuit can be looked for."""
    prompts = Prompts.of(pair, ITEMS)
    logits = pair.executor("base").run(prompts.batch(range(len(ITEMS)))).logits
    margins = prompts.by_item(VerdictIds.of(prompts).of_vocabulary(logits)[0].numpy())
    return [
        JudgeItem(item_id=x.item_id, question=x.question, answers=x.answers, label=int(m[0] < m[1]))
        for x, m in zip(ITEMS, margins, strict=True)
    ]


@pytest.fixture(scope="module")
def result(pair, items):
    return circuit(pair, items, **QUIET)


def sites_of(model, d_head):
    """Return, for each cell name, the module and how to read and write it at the last token."""
    return [
        (layer, kind, block.self_attn.o_proj if kind == "z" else block.mlp)
        for layer, block in enumerate(model.model.layers)
        for kind in ("z", "mlp_out")
    ]


@torch.no_grad()
def margins_of(model, verdict, batch, hooks=()):
    handles = [module.register_forward_pre_hook(f) if kind == "z" else module.register_forward_hook(f)
               for kind, module, f in hooks]  # fmt: skip
    try:
        kwargs = {"attention_mask": batch.mask.long(), "position_ids": batch.position_ids}
        return verdict.of_vocabulary(model(input_ids=batch.ids, **kwargs).logits[:, -1])[0].numpy()
    finally:
        for handle in handles:
            handle.remove()


def recorded(model, verdict, batch):
    """Return what a model holds at the last token, by plain hooks."""
    found, hooks = {}, []
    for layer, kind, module in sites_of(model, 0):

        def keep(_module, args, out=None, key=(layer, kind), kind=kind):
            found[key] = (args[0] if kind == "z" else out)[:, -1].clone()

        hooks.append((kind, module, keep))
    margins_of(model, verdict, batch, hooks)
    return found


def ablated(model, verdict, batch, alive, values, d_head):
    """Return margins with every cell but some replaced at the last token, by plain hooks."""
    hooks = []
    for layer, kind, module in sites_of(model, d_head):

        def put(_module, args, out=None, layer=layer, kind=kind):
            x = (args[0] if kind == "z" else out).clone()
            if kind == "mlp_out":
                if (layer, kind, None) not in alive:
                    x[:, -1] = values[layer, kind]
                return x
            for head in range(x.shape[-1] // d_head):
                if (layer, kind, head) not in alive:
                    part = slice(head * d_head, (head + 1) * d_head)
                    x[:, -1, part] = values[layer, kind][..., part]
            return (x, *args[1:])

        hooks.append((kind, module, put))
    return margins_of(model, verdict, batch, hooks)


def names(cells):
    return {(cell.layer, cell.component.value, cell.head) for cell in cells}


@pytest.mark.parametrize("ablation", ["mean", "other_model"])
def test_circuits_are_what_naive_hooks_give(pair, items, result, ablation):
    """Everything outside the circuit replaced by hand, held-out items and training items, in both models."""
    found = result if ablation == "mean" else circuit(pair, items, cells=result.circuit(), ablation=ablation, **QUIET)
    prompts = Prompts.of(pair, items)
    verdict = VerdictIds.of(prompts)
    d_head = pair.anatomy("base").d_head
    every = {side: recorded(pair.module(side), verdict, prompts.batch(range(len(items)))) for side in ("base", "judge")}
    for item in (int(np.flatnonzero(found.training)[1]), int(np.flatnonzero(~found.training)[0])):
        batch = prompts.batch([item])
        for at, side in enumerate(("base", "judge")):
            if ablation == "mean":
                others = [i for i in np.flatnonzero(found.training) if i != item]
                values = {key: x[prompts.rows_of(others)].mean(0) for key, x in every[side].items()}
            else:
                other = every["judge" if side == "base" else "base"]
                values = {key: x[prompts.rows_of([item])] for key, x in other.items()}
            for alive, measured in ((found.circuit(), found.alive[found.main]), ((), found.empty)):
                naive = ablated(pair.module(side), verdict, batch, names(alive), values, d_head)
                np.testing.assert_allclose(measured[at, item], naive, atol=5e-5)


def test_a_circuit_is_faithful_where_it_was_found_and_told_elsewhere(result):
    way = np.where(result.training[:, None], result.slot_sign(), np.nan)
    for at in range(2):
        if result.members[at].any():
            kept, span = (np.nanmean((x - result.empty[at]) * way) for x in (result.alive[at, at], result.margins[at]))
            assert kept / span >= result.threshold - 1e-6
    held = ~result.training
    groups = [{c for c, out in zip(result.clusters, held, strict=True) if out == half} for half in (True, False)]
    assert not groups[0] & groups[1]
    side = result.side
    if result._defined(side):
        sign = result.slot_sign()[held]
        kept = ((result.alive[result.main, side] - result.empty[side])[held] * sign).mean()
        whole = ((result.margins[side] - result.empty[side])[held] * sign).mean()
        found = result.faithfulness(result.alive[result.main, side], side)
        assert found.value == pytest.approx(kept / whole)


def test_everything_alive_is_the_model_and_nothing_alive_is_empty(pair, items, result):
    found = circuit(pair, items, cells=result.cells, **QUIET)
    np.testing.assert_array_equal(found.alive[0], found.margins)
    np.testing.assert_allclose(found.empty, result.empty, atol=1e-5)
    assert not found.finding.found
    for side in range(2):
        if found._defined(side):
            assert found.faithfulness(found.alive[0, side], side).value == pytest.approx(1)
    np.testing.assert_array_equal(found.whole_without, found.circuit_without)
    assert found.circuit_names == ("given",)
    assert found.overlap() is None


def test_the_judge_against_itself(pair, items):
    """Both models are one: one circuit, no gain, and with the other model's values nothing is ablated at all."""
    same = identical_pair(pair)
    found = circuit(same, items, **QUIET)
    assert found.identical
    np.testing.assert_array_equal(found.members[0], found.members[1])
    np.testing.assert_array_equal(found.alive[:, 0], found.alive[:, 1])
    assert not found.finding.found
    assert found.finding.headline.startswith("Nothing found: ")
    other = circuit(same, items, ablation="other_model", **QUIET)
    np.testing.assert_array_equal(other.empty, other.margins)
    assert not other.members.any()
    assert other.finding.headline.startswith("Nothing found: ")
    assert other.panels() == ()
    assert len(other.to_frame())


def test_a_planted_block_is_the_whole_circuit_of_the_difference(items):
    """Outside stands the base: the judge's circuit is then the one cell that was tuned, in the last block."""
    pair = pair_of(scaled_noise(2.0, only="layers.1.mlp.down_proj"))
    prompts = Prompts.of(pair, ITEMS)
    verdict = VerdictIds.of(prompts)
    batch = prompts.batch(range(len(ITEMS)))
    base, judge = (
        prompts.by_item(verdict.of_vocabulary(pair.executor(side).run(batch).logits)[0].numpy())
        for side in ("base", "judge")
    )
    content = (judge - base)[:, 0] - (judge - base)[:, 1]
    ours = [
        JudgeItem(item_id=x.item_id, question=x.question, answers=x.answers, label=int(c < 0))
        for x, c in zip(ITEMS, content, strict=True)
    ]
    found = circuit(pair, ours, ablation="other_model", **QUIET)
    np.testing.assert_allclose(found.empty[1], base, atol=1e-5)
    assert [str(cell.site) for cell in found.circuit("judge")] == ["mlp_out.1"]
    kept = found.faithfulness(found.alive[1, 1], 1)
    assert kept.value == pytest.approx(1, abs=1e-3)
    worth, _ = found.minimality()
    assert worth.value == pytest.approx([1.0], abs=1e-3)


def test_without_labels_nothing_is_called_found(pair):
    bare = [JudgeItem(item_id=x.item_id, question=x.question, answers=x.answers) for x in ITEMS]
    found = circuit(pair, bare, **QUIET)
    assert not found.finding.found
    assert "no item says which answer is better" in found.finding.headline
    assert found.accuracy(found.margins[1]).n == 0


def test_completeness_and_minimality_follow_from_the_margins(result):
    span = np.nanmean(result.span(result.side))
    found, way = result.completeness(), result.way()
    expected = [np.nanmean(x * way) / span for x in result.whole_without - result.circuit_without]
    np.testing.assert_allclose(found.difference.value, expected, rtol=1e-6)
    random = [abs(x) for x, name in zip(expected, result.subset_names, strict=True) if name.startswith("random")]
    if random:
        assert found.mean_size.value == pytest.approx(np.mean(random))
    worth, p = result.minimality()
    lost = [
        np.nanmean((result.alive[result.main, result.side] - result.without[i]) * way) / span
        for i in np.flatnonzero(result.members[result.main])
    ]
    np.testing.assert_allclose(worth.value, lost, rtol=1e-6)
    assert len(p) == len(lost)
    assert np.isnan(result.without[~result.members[result.main]]).all()


def test_growing_and_pruning():
    """Cells 0 and 3 are all that matters, and 1 stands in for 0."""

    def measure(sets):
        return np.array([0.5 * bool({0, 1} & set(s)) + 0.5 * (3 in s) for s in sets])

    sizes = nested_sizes(5)
    order = [0, 1, 2, 3, 4]
    at = smallest(measure([prefix(order, int(size)) for size in sizes]), 0.9)
    assert sizes[at] == 4
    left = pruned(prefix(order, 4), threshold=0.9, measure=measure)
    assert len(left) == 2
    assert 3 in left
    assert {0, 1} & set(left)
    assert smallest(np.array([0.1, 0.2]), 0.9) is None
    assert len(nested_sizes(1056)) <= 48
    assert nested_sizes(1056)[-1] == 1056
    assert jaccard((0, 1), (1, 2)) == pytest.approx(1 / 3)


def test_models_are_left_as_they_were(pair, result):
    for module in (pair.base, pair.judge):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
        assert all(p.grad is None for p in module.parameters())


def test_an_interrupted_run_keeps_what_it_has(pair, items, monkeypatch):
    def stop(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("analyses.cross_model_patching.circuits.work.pruned", stop)
    monkeypatch.setattr("analyses.cross_model_patching.circuits.work.LEAST_GAP", -np.inf)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        found = circuit(pair, items, **QUIET)
    assert not found.members.any()
    assert any("interrupted" in what for what in found.meta.not_measured)
    assert found.summary()


def test_tables_figures_and_files(result, tmp_path):
    assert isinstance(result, Result)
    frame = result.to_frame()
    assert set(frame.columns) <= set(TIDY_COLUMNS)
    assert frame[frame.metric == "member"].value.sum() == result.members.sum()
    back = CircuitResult.load(result.save(tmp_path / "saved"))
    assert back.summary() == result.summary()
    assert back.circuit() == result.circuit()
    assert back.to_frame().equals(frame)
    for panel in result.panels():
        assert "n = " in panel.caption
        assert panel.draw() is not None
    assert "CircuitResult" in repr(result)
    assert result.checked < 1e-3


@pytest.mark.parametrize(
    "bad",
    [
        {"model": "both"},
        {"ablation": "zero"},
        {"sites": ("resid_pre",)},
        {"sites": ("z", "attn_out")},
        {"threshold": 0.0},
        {"cells": ()},
        {"cells": (Cell(component=Component.MLP_OUT, layer=9, position=-1),)},
        {"last_k": 0},
    ],
)
def test_bad_choices_are_refused(pair, bad):
    with pytest.raises(ParameterError, match=next(iter(bad))):
        circuit(pair, ITEMS[:2], **{**QUIET, **bad})
