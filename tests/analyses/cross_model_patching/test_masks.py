"""Learned masks: gradients and rounded masks against full forwards, planted blocks, exact nulls, words and files."""

import numpy as np
import pytest
import torch

from analyses.cross_model_patching.cells import grid, matched
from analyses.cross_model_patching.masks import MaskResult, learn_mask
from analyses.cross_model_patching.masks.gates import Gates
from analyses.cross_model_patching.masks.learning import Training, agreement_of, learn
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
QUIET = {
    "progress": False,
    "controls": 0,
    "draws": 4,
    "steps": 20,
    "lambdas": (0.005, 0.05, 0.3, 2.0),
    "batch_size": 32,
}
BLOCKS = ("attn_out", "mlp_out")


def pair_of(change, *, n_layers=3, dtype=None):
    base = tiny_model(n_layers=n_layers)
    judge = tuned_copy(base, change=change)
    return load_pair(
        base if dtype is None else base.to(dtype),
        judge if dtype is None else judge.to(dtype),
        tokenizer=byte_tokenizer(), format=SHORT_FORMAT, doctor=False, device="cpu", allow_identical=True,
    )  # fmt: skip


def labelled(pair):
    """Give each item the label the change itself moves its margins toward: there is an advantage then."""
    prompts = Prompts.of(pair, ITEMS)
    verdict = VerdictIds.of(prompts)
    margins = [
        prompts.by_item(
            verdict.of_vocabulary(pair.executor(side).run(prompts.batch(range(len(ITEMS)))).logits)[0].numpy()
        )
        for side in ("base", "judge")
    ]  # fmt: skip
    moved = margins[1] - margins[0]
    content = moved[:, 0] - moved[:, 1]
    return [
        JudgeItem(item_id=x.item_id, question=x.question, answers=x.answers, label=int(c < 0))
        for x, c in zip(ITEMS, content, strict=True)
    ]


@pytest.fixture(scope="module", autouse=True)
def small_gaps():
    """Let verdicts of random models count, which hardly depend on the items."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("masks.result", "advantage"):
            patch.setattr(f"analyses.cross_model_patching.{module}.LEAST_GAP", 1e-3)
        yield


@pytest.fixture(scope="module")
def tuned():
    return pair_of(scaled_noise(0.2, only="layers"))


@pytest.fixture(scope="module")
def result(tuned):
    return learn_mask(tuned, labelled(tuned), progress=False, controls=3, draws=6, steps=20, last_k=2, batch_size=32)


def training_on(pair, *, sites=("z", "mlp_out"), last_k=1, mode=None, loss="squared", cache_gb=4.0):
    prompts = Prompts.of(pair, ITEMS[:4])
    gates = Gates.of(grid(pair.anatomy("base"), sites=sites, last_k=last_k, last_k_heads=last_k))
    made = Training(
        prompts=prompts, gates=gates, verdict=VerdictIds.of(prompts), target=pair.executor("base"),
        donor=pair.executor("judge"), loss=loss, mode=mode, batches=[],
    )  # fmt: skip
    return made, made.fill([(0, 1, 2, 3)], cache_gb=cache_gb)


@pytest.mark.parametrize("sites", [("z", "mlp_out"), BLOCKS])
@pytest.mark.parametrize("last_k", [1, 3])
def test_gradients_are_those_of_full_forwards(sites, last_k):
    pair = pair_of(scaled_noise(0.2), dtype=torch.float64)
    values = []
    for mode in (None, "plain"):
        training, _ = training_on(pair, sites=sites, last_k=last_k, mode=mode)
        gates = torch.linspace(0.05, 0.95, len(training.gates.cells), dtype=torch.float64, requires_grad=True)
        values.append(training.gradient(training.batches[0], gates, price=0.3, scale=training.scale()))
    assert values[0].abs().min() > 0
    torch.testing.assert_close(values[0], values[1], atol=1e-10, rtol=0)


def test_gradients_are_those_of_finite_differences():
    training, _ = training_on(pair_of(scaled_noise(0.2), dtype=torch.float64))
    gates = torch.full((len(training.gates.cells),), 0.4, dtype=torch.float64, requires_grad=True)
    found, step = training.gradient(training.batches[0], gates), 1e-2  # norms compute in float32
    for i in (0, 5, len(gates) - 1):
        ends = []
        for sign in (1, -1):
            moved = gates.detach().clone()
            moved[i] += sign * step
            ends.append(float(training.value(training.batches[0], moved, grad=False)))
        assert float(found[i]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=5e-3, abs=1e-3)


def naive_margin(pair, verdict, batch, chosen, donor):
    """The base's margins with the judge's values in cells, by plain hooks written here, without the engine."""
    model, d_head = pair.base, pair.anatomy("base").d_head
    handles = []
    for cell in chosen:
        block = model.model.layers[cell.layer]

        def put(_module, args, cell=cell):
            x = args[0].clone()
            part = slice(cell.head * d_head, (cell.head + 1) * d_head)
            x[:, cell.position, part] = donor[cell.layer, "z"][:, cell.position, part]
            return (x, *args[1:])

        def swap(_module, _args, out, cell=cell):
            out = out.clone()
            out[:, cell.position] = donor[cell.layer, "mlp"][:, cell.position]
            return out

        if cell.component is Component.Z:
            handles.append(block.self_attn.o_proj.register_forward_pre_hook(put))
        else:
            handles.append(block.mlp.register_forward_hook(swap))
    try:
        return logits_margin(model, verdict, batch)
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def logits_margin(model, verdict, batch):
    kwargs = {"attention_mask": batch.mask.long(), "position_ids": batch.position_ids}
    return verdict.of_vocabulary(model(input_ids=batch.ids, **kwargs).logits[:, -1])[0].numpy()


def donor_values(pair, verdict, batch):
    """What the judge holds, recorded by plain hooks."""
    found, handles = {}, []
    for layer, block in enumerate(pair.judge.model.layers):
        handles.append(block.self_attn.o_proj.register_forward_pre_hook(
            lambda _m, args, layer=layer: found.__setitem__((layer, "z"), args[0])))  # fmt: skip
        handles.append(block.mlp.register_forward_hook(
            lambda _m, _a, out, layer=layer: found.__setitem__((layer, "mlp"), out)))  # fmt: skip
    logits_margin(pair.judge, verdict, batch)
    for handle in handles:
        handle.remove()
    return found


def test_a_rounded_mask_is_what_naive_hooks_give(tuned, result):
    """Every rounded mask of the run, each item alone, without our engine."""
    prompts = Prompts.of(tuned, ITEMS)
    verdict = VerdictIds.of(prompts)
    at = result.directions.index("judge_to_base")
    prices = [k for k in np.flatnonzero(result.trained[at]) if result.kept[at, k].any()][:3]
    for item in (0, 9):
        batch = prompts.batch([item])
        donor = donor_values(tuned, verdict, batch)
        clean = logits_margin(tuned.base, verdict, batch)
        np.testing.assert_allclose(clean, result.margins[0, item], atol=2e-5)
        for price in prices:
            patched = naive_margin(tuned, verdict, batch, result.mask("judge_to_base", price), donor)
            np.testing.assert_allclose(patched - clean, result.mask_effect[at, price, item], atol=2e-5)


def test_all_cells_of_equal_readouts_recover_everything():
    """Attention and MLP outputs of all blocks at the last position are the judge's whole stream there."""
    pair = pair_of(scaled_noise(0.2, only="layers"))
    found = learn_mask(pair, labelled(pair), sites=BLOCKS, **{**QUIET, "steps": 5, "lambdas": (0.0,)})
    for at, direction in enumerate(found.directions):
        assert found.set_sizes[-1] == len(found.cells)
        np.testing.assert_allclose(found.greedy_effect[at, -1], found.gap(direction), atol=1e-4)


@pytest.mark.parametrize("tensor", ["layers.2.mlp.down_proj", "layers.2.self_attn.o_proj"])
def test_a_tuned_last_block_is_all_the_mask_keeps(tensor):
    """Nothing lies behind the last block: its own cell suffices, and its MLP isn't needed to pass attention on."""
    pair = pair_of(scaled_noise(2.0, only=tensor))
    found = learn_mask(pair, labelled(pair), sites=BLOCKS, **QUIET | {"controls": 5, "draws": 50})
    planted = "mlp_out.2" if "mlp" in tensor else "attn_out.2"
    for direction in found.directions:
        chosen = found.chosen(direction)
        assert chosen is not None
        assert [str(cell.site) for cell in found.mask(direction, chosen.price)] == [planted]
        assert chosen.recovery.value == pytest.approx(1.0, abs=1e-3)
        assert found.explained(found.mask_effect[0, chosen.price], "judge_to_base").value == pytest.approx(1, abs=1e-3)
    untouched = [i for i, cell in enumerate(found.cells) if cell.layer < 2]
    assert not found.single_effect[:, found.training][..., untouched].any(), "cells in front of it are exactly 0"


def test_a_tuned_middle_block_is_passed_on_by_those_behind_it():
    """Its own cell is not enough at the last position: later heads read what it wrote at earlier tokens."""
    pair = pair_of(scaled_noise(0.5, only="layers.1.mlp.down_proj"))
    found = learn_mask(pair, labelled(pair), sites=BLOCKS, direction="judge_to_base", **QUIET)
    names = [str(cell.site) for cell in found.cells]
    front = [i for i, cell in enumerate(found.cells) if cell.layer < 1 or names[i] == "attn_out.1"]
    assert not found.single_effect[:, found.training][..., front].any()
    kept = found.kept[0][found.trained[0]]
    assert "mlp_out.1" in {names[i] for i in np.flatnonzero(kept.any(0))}
    own = found.explained(found.greedy_effect[0, 0] * np.nan, "judge_to_base")
    assert own.n == 0
    alone = found.single_effect[0][found.training][..., names.index("mlp_out.1")]
    assert not np.allclose(alone, found.gap("judge_to_base")[found.training], atol=1e-3)
    np.testing.assert_allclose(found.greedy_effect[0, -1], found.gap("judge_to_base"), atol=1e-4)


def test_heads_dont_see_a_tuned_output_projection_and_the_result_says_so():
    pair = pair_of(scaled_noise(0.5, only="layers.2.self_attn.o_proj"))
    found = learn_mask(pair, labelled(pair), **{**QUIET, "steps": 3})
    heads = [i for i, cell in enumerate(found.cells) if cell.component is Component.Z]
    assert not found.single_effect[:, found.training][..., heads].any()
    assert any("output projections of 1 blocks were tuned" in remark for remark in found.remarks)
    assert any("attn_out" in limit for limit in found.finding.limits)


def test_the_judge_against_itself_is_exactly_nothing(tuned):
    found = learn_mask(identical_pair(tuned), ITEMS, **QUIET)
    assert found.identical
    assert not found.single_effect[:, found.training].any()
    assert not found.trained.any()
    assert not len(found.set_sizes)
    assert found.chosen("judge_to_base") is None
    assert not found.finding.found
    assert found.finding.headline.startswith("Nothing found: ")
    assert found.panels() == ()
    assert len(found.to_frame())


def test_a_random_change_is_not_found():
    """Every tensor moved at random: masks carry that change too, but no advantage is told from chance."""
    pair = pair_of(scaled_noise(0.1))
    found = learn_mask(pair, ITEMS, **QUIET | {"controls": 4, "steps": 15})
    assert not found.finding.found
    assert found.finding.headline.startswith("Nothing found: ")


def test_the_sweep_shrinks_the_mask_until_it_is_empty(result):
    for at in range(2):
        sizes = result.kept[at][result.trained[at]].sum(-1)
        assert sizes[0] > sizes[-1] == 0
        assert (np.diff(sizes) <= 1).all()
        assert np.diff(result.left[at][result.trained[at]]).min() > -0.05, "fewer cells leave more of the gap"
        assert ((result.gates[at][result.trained[at]] >= 0) & (result.gates[at][result.trained[at]] <= 1)).all()
        empty = np.flatnonzero(result.trained[at])[-1]
        assert not result.mask_effect[at, empty].any()


def test_learned_masks_explain_more_than_random_ones(result):
    for at, direction in enumerate(result.directions):
        for k in np.flatnonzero(result.trained[at]):
            size = int(result.kept[at, k].sum())
            if 2 <= size < len(result.cells) // 2:
                draws = result.random_effect[at, result.set_sizes.tolist().index(size)]
                own = result.explained(result.mask_effect[at, k], direction, half="training").value
                random = [result.explained(draw, direction, half="training").value for draw in draws]
                assert own > np.mean(random)


def test_halves_share_no_cluster_and_recovery_is_a_ratio_of_means(result):
    held = ~result.training
    groups = [{c for c, out in zip(result.clusters, held, strict=True) if out == half} for half in (True, False)]
    assert not groups[0] & groups[1]
    at, direction = 0, "judge_to_base"
    sign = result.slot_sign()
    effect = result.mask_effect[at, 0]
    expected = (effect * sign)[held].mean() / (result.gap(direction) * sign)[held].mean()
    assert result.recovery(effect, direction).value == pytest.approx(expected)
    assert result._point(effect, direction, "held out") == pytest.approx(expected)


def test_without_labels_nothing_is_called_found(tuned):
    bare = [JudgeItem(item_id=x.item_id, question=x.question, answers=x.answers) for x in ITEMS]
    found = learn_mask(tuned, bare, direction="judge_to_base", **QUIET)
    assert not found.finding.found
    assert "no item says which answer is better" in found.finding.headline
    assert found.recovery(found.mask_effect[0, 0], "judge_to_base").n
    assert found.accuracy(found.mask_effect[0, 0], "judge_to_base").n == 0


def test_batches_that_are_run_anew_give_the_same_masks(tuned):
    options = {**QUIET, "steps": 4, "lambdas": (0.01, 0.1), "direction": "judge_to_base"}
    kept = learn_mask(tuned, ITEMS, **options)
    anew = learn_mask(tuned, ITEMS, cache_gb=0.0, **options)
    np.testing.assert_allclose(anew.gates, kept.gates, atol=1e-6)
    assert any("run anew" in remark for remark in anew.remarks)
    assert not any("run anew" in remark for remark in kept.remarks)


def test_seeds_keep_the_best_run_and_say_how_far_they_agree(tuned):
    found = learn_mask(
        tuned, ITEMS, seeds=2, direction="judge_to_base", **{**QUIET, "lambdas": (0.01, 0.1)}
    )  # fmt: skip
    assert ((found.stability >= 0) & (found.stability <= 1)).all()
    assert agreement_of([np.array([1.0, 0, 1]), np.array([1.0, 1, 0])]) == pytest.approx(1 / 3)
    assert np.isnan(agreement_of([np.ones(3)]))


def test_the_signed_loss_closes_the_gap_too(tuned):
    training, anew = training_on(tuned, loss="signed")
    assert anew == 0
    learned = learn(training, (0.0,), steps=10, rate=0.1, seed=0, run=1, stepped=lambda: None)
    none = torch.zeros(len(training.gates.cells), dtype=torch.float64)
    assert training.left(none) == pytest.approx(0, abs=1e-6)
    assert learned.left[0] < -0.5


def test_models_are_left_as_they_were(tuned):
    before = [{n: p.clone() for n, p in m.named_parameters()} for m in (tuned.base, tuned.judge)]
    learn_mask(tuned, ITEMS[:6], **{**QUIET, "steps": 2, "lambdas": (0.1,)})
    for module, kept in zip((tuned.base, tuned.judge), before, strict=True):
        assert all(torch.equal(p, kept[n]) and p.grad is None for n, p in module.named_parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_an_interrupted_run_keeps_what_it_has(tuned, monkeypatch):
    def stop(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("analyses.cross_model_patching.masks.work.learn", stop)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        found = learn_mask(tuned, ITEMS[:6], **QUIET)
    assert not found.trained.any()
    assert any("interrupted" in what for what in found.meta.not_measured)
    assert found.finding.headline.startswith("Nothing found")


def test_masks_that_were_never_put_in_are_said(tuned, monkeypatch):
    def stop(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("analyses.cross_model_patching.masks.work.MaskWork.evaluate", stop)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        found = learn_mask(tuned, ITEMS[:6], **{**QUIET, "steps": 2, "lambdas": (0.01,)})
    assert found.trained.any()
    assert not found.finding.found
    assert len(found.to_frame())
    assert found.panels() == ()


def test_same_seed_same_table(tuned):
    options = {**QUIET, "steps": 4, "lambdas": (0.01, 0.1)}
    first, again = (learn_mask(tuned, ITEMS[:6], **options) for _ in range(2))
    assert first.to_frame().equals(again.to_frame())


def test_tables_figures_and_files(result, tmp_path):
    assert isinstance(result, Result)
    frame = result.to_frame()
    assert set(frame.columns) <= set(TIDY_COLUMNS)
    sizes = frame[(frame.metric == "size") & (frame.direction == "judge_to_base")].set_index("dose").value
    for k in np.flatnonzero(result.trained[0]):
        assert sizes[result.lambdas[k]] == result.kept[0, k].sum()
    back = MaskResult.load(result.save(tmp_path / "saved"))
    assert back.summary() == result.summary()
    assert back.cells == result.cells
    assert back.to_frame().equals(frame)
    assert len(result.panels()) == 6
    for panel in result.panels():
        assert "n = " in panel.caption or "gates" in panel.caption
        assert panel.draw() is not None
    assert "MaskResult" in repr(result)
    assert result.checked < 1e-3


@pytest.mark.parametrize(
    "bad",
    [
        {"sites": ("resid_pre",)},
        {"sites": ("z", "attn_out")},
        {"direction": "up"},
        {"loss": "cubic"},
        {"lambdas": ()},
        {"lambdas": (0.1, -1.0)},
        {"steps": 0},
        {"share": 0.0},
        {"lr": 2.0},
        {"cache_gb": -1.0},
        {"last_k": 0},
    ],
)
def test_bad_choices_are_refused(tuned, bad):
    with pytest.raises(ParameterError, match=next(iter(bad))):
        learn_mask(tuned, ITEMS[:2], **{**QUIET, **bad})


def test_matched_cells_keep_kind_and_block(tuned):
    cells = grid(tuned.anatomy("base"), sites=("z", "mlp_out"), last_k=2, last_k_heads=2)
    chosen = [cell for cell in cells if cell.layer == 1 and cell.position == -1][:3]
    drawn = matched(chosen, cells, seed=(0, 1))
    assert sorted((c.component, c.position) for c in drawn) == sorted((c.component, c.position) for c in chosen)
    assert all(cell.layer == 1 for cell in drawn if cell.head is not None)
    assert len(set(drawn)) == len(drawn)
    assert drawn == matched(chosen, cells, seed=(0, 1))
