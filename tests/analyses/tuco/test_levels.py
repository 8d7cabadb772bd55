"""Reference levels and staged training: exact nulls, planted stages, sums, refusals, files."""

import numpy as np
import pytest
import torch

from analyses import tuco
from analyses.tuco.levels import LevelsResult, StagesResult, compare_levels, compare_stages
from analyses.tuco.levels.pushes import TOWARD_FIRST_SLOT
from workbench import Report
from workbench.errors import PairMismatch, ParameterError
from workbench.judges import JudgeItem
from workbench.pairs import identical_pair, load_pair, random_delta_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tiny_pair, tuned_copy
from workbench.results import TIDY_COLUMNS, Result

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(10)
]
QUIET = {"progress": False}


def _loaded(base, judge, **options):
    return load_pair(base, judge, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu", **options)


@pytest.fixture(scope="module")
def pair():
    return tiny_pair()


@pytest.fixture(scope="module")
def levels(pair):
    other = _loaded(pair.base, tuned_copy(pair.base, change=scaled_noise(0.02), seed=9))
    return compare_levels(pair, ITEMS, others={"another tune": other}, draws=3, **QUIET)


@pytest.fixture(scope="module")
def staged():
    """Stage 1 tunes block 0, stage 2 block 2 of three."""
    base = tiny_model(n_layers=3)
    first = tuned_copy(base, change=scaled_noise(0.2, only="layers.0."), seed=1)
    second = tuned_copy(first, change=scaled_noise(0.2, only="layers.2."), seed=2)
    return {"sft": _loaded(base, first), "rl": _loaded(base, second)}


@pytest.fixture(scope="module")
def stages(staged):
    return compare_stages(staged, ITEMS, controls=3, **QUIET)


def test_the_judge_against_itself_is_exactly_zero_and_the_pair_is_what_tuco_says(pair, levels):
    itself = levels.levels.index("judge against itself")
    assert not levels.finetuned_norm[itself].any()
    assert not levels.push[itself].any()
    plain = tuco.run(pair, ITEMS, progress=False, controls=0, confirm=False, output_share=False)
    np.testing.assert_allclose(levels.tuco[0], plain.tuco, atol=2e-6)
    np.testing.assert_allclose(levels.push[0], plain.finetuned_push.sum(-1), atol=1e-5)
    assert levels.kinds == ("pair", "judge against itself", "other", *["random change"] * 3)


def test_another_tune_has_the_value_of_its_own_run(pair, levels):
    judge = tuned_copy(pair.base, change=scaled_noise(0.02), seed=9)
    alone = tuco.run(_loaded(pair.base, judge), ITEMS, progress=False, controls=0, confirm=False, output_share=False)
    np.testing.assert_allclose(levels.tuco[2], alone.tuco, atol=2e-6)
    assert (levels.tuco[2] < levels.tuco[0]).all(), "less than half the norm was moved"


def test_a_pair_in_which_nothing_was_tuned_finds_nothing(pair):
    result = compare_levels(identical_pair(pair), ITEMS[:4], **QUIET)
    assert not result.finetuned_norm.any()
    assert not result.finding.found
    assert "exactly nothing" in result.finding.headline
    assert any("same model" in what for what in result.meta.not_measured)


def test_a_planted_push_toward_the_first_slot_is_unlike_every_reference_level():
    """Planted: the head reads the last block's output along (A - B); tuning adds that direction to every write."""
    pair = _pushes_first_slot()
    sham = random_delta_pair(pair, seed=77)
    result = compare_levels(pair, ITEMS, others={"sham": sham}, **QUIET)
    assert result.finding.found
    assert TOWARD_FIRST_SLOT in result.finding.headline
    tests = {test.name: test for test in result.tests if test.way == TOWARD_FIRST_SLOT}
    assert set(tests) == {"judge against itself", "sham", "random changes of equal norm"}
    assert all(test.p < 0.05 and test.difference.low > 0 for test in tests.values())
    swapped = compare_levels(sham, ITEMS, others={"planted": pair}, **QUIET)
    assert not swapped.finding.found
    assert swapped.finding.headline.startswith("Nothing found")


def test_an_adapter_on_the_same_base_is_a_level_too(pair):
    lora = tiny_pair(kind="lora")
    result = compare_levels(pair, ITEMS[:3], others={"lora": lora}, draws=0, **QUIET)
    alone = tuco.run(lora, ITEMS[:3], progress=False, controls=0, confirm=False, output_share=False)
    np.testing.assert_allclose(result.tuco[result.levels.index("lora")], alone.tuco, atol=2e-6)
    assert any("draws=0" in what for what in result.meta.not_measured)


def test_without_labels_and_with_one_order_no_direction_can_be_told(pair, staged):
    items = [JudgeItem(item_id=i.item_id, question=i.question, answers=i.answers) for i in ITEMS[:3]]
    for result in (
        compare_levels(pair, items, orders=["original"], draws=3, **QUIET),
        compare_stages(staged, items, orders=["original"], controls=3, **QUIET),
    ):
        assert "no direction" in result.finding.headline
        assert all(panel.draw().axes for panel in result.panels())
        assert len(result.to_frame())


@pytest.mark.slow
def test_random_judges_are_rarely_found():
    found = 0
    for seed in range(20):
        sham = random_delta_pair(tiny_pair(seed=seed % 4), seed=300 + seed)
        found += compare_levels(sham, ITEMS, **QUIET).finding.found
    assert found <= 3


def test_other_bases_tokenizers_and_formats_are_refused(pair):
    stranger = tiny_pair(seed=5)
    with pytest.raises(PairMismatch, match="base weights"):
        compare_levels(pair, ITEMS, others={"stranger": stranger}, **QUIET)
    with pytest.raises(PairMismatch, match="base weights"):
        compare_stages([pair, stranger], ITEMS, **QUIET)
    elsewhere = load_pair(
        pair.base, pair.judge, tokenizer=byte_tokenizer(), format="bracket", doctor=False, device="cpu"
    )
    with pytest.raises(PairMismatch, match="format"):
        compare_levels(pair, ITEMS, others={"other format": elsewhere}, **QUIET)
    with pytest.raises(ParameterError, match="taken"):
        compare_levels(pair, ITEMS, others={"pair": pair}, **QUIET)
    with pytest.raises(ParameterError, match="at least one stage"):
        compare_stages([], ITEMS, **QUIET)


def test_each_stage_wrote_only_where_it_was_tuned(stages):
    assert stages.stages == ("sft", "rl")
    sft, rl = stages.stage_parts
    assert not sft[..., 1:].any()
    assert not rl[..., :2].any()
    assert (sft[..., 0] > 0).all()
    assert (rl[..., 2] > 0).all()
    assert not stages.stage_push[0][..., 1:].any()


@pytest.mark.parametrize("granularity", ["block", "sublayer", "model"])
def test_shares_add_up_to_one_and_pushes_to_the_gap(staged, granularity):
    result = compare_stages(staged, ITEMS[:4], granularity=granularity, controls=0, **QUIET)
    np.testing.assert_allclose(result.shares.sum(0), 1.0)
    total = result.embedding_push + result.bias_push + result.pretrained_push.sum(-1) + result.stage_push.sum((0, -1))
    np.testing.assert_allclose(total, result.gap, atol=1e-5)
    np.testing.assert_allclose(result.stage_parts.sum(-1), result.stage_norm, rtol=1e-9)


def test_the_gap_is_the_last_judges_own_and_stages_sum_to_its_tuning(staged, stages):
    plain = tuco.run(staged["rl"], ITEMS, progress=False, controls=0, confirm=False)
    np.testing.assert_allclose(stages.gap, plain.judge_gap, atol=1e-5)
    np.testing.assert_allclose(stages.stage_push.sum(0), plain.finetuned_push, atol=1e-5)
    np.testing.assert_allclose(stages.pretrained_push, plain.pretrained_push, atol=1e-5)


def test_one_stage_is_tuco(pair):
    result = compare_stages({"tune": pair}, ITEMS[:4], controls=0, **QUIET)
    plain = tuco.run(pair, ITEMS[:4], progress=False, controls=0, confirm=False)
    np.testing.assert_allclose(result.shares[1], plain.tuco, atol=2e-6)
    np.testing.assert_allclose(result.shares[0], plain.preco, atol=2e-6)


def test_a_stage_that_changed_nothing_wrote_exactly_nothing(staged):
    same = {"sft": staged["sft"], "again": _loaded(staged["sft"].base, staged["sft"].judge), "rl": staged["rl"]}
    result = compare_stages(same, ITEMS[:4], controls=3, **QUIET)
    assert not result.stage_norm[1].any()
    assert not result.stage_push[1].any()
    assert any("again: it changed nothing" in what for what in result.meta.not_measured)
    last = compare_stages({"rl": staged["rl"], "again": staged["rl"]}, ITEMS[:4], controls=0, **QUIET)
    assert not last.stage_norm[1].any(), "nor at the end, where the judge itself is the last model"


def test_a_stage_that_undoes_another_points_against_it():
    base = tiny_model(n_layers=2)
    tuned = tuned_copy(base, change=scaled_noise(0.2, only="layers.1."), seed=1)
    result = compare_stages(
        [_loaded(base, tuned), _loaded(base, tuned_copy(base, change=scaled_noise(1e-4)))],
        ITEMS[:4],
        controls=0,
        **QUIET,
    )
    assert (result.stage_alignment[1] < -0.9).all()
    assert np.isnan(result.stage_alignment[0]).all()


def test_the_stage_with_the_planted_push_is_the_one_found():
    planted = _pushes_first_slot()
    quiet = tuned_copy(planted.base, change=scaled_noise(0.02, only="mlp"), seed=4)
    both = tuned_copy(quiet, change=_first_slot_change(planted.base))
    result = compare_stages(
        {"sft": _loaded(planted.base, quiet), "rl": _loaded(planted.base, both)}, ITEMS, control_items=None, **QUIET
    )
    assert result.finding.found
    assert "rl by" in result.finding.headline
    assert "sft by" not in result.finding.headline
    reversed_order = {test.name: test.p for test in result.tests if test.way == TOWARD_FIRST_SLOT}
    assert reversed_order["rl"] < 0.05 < reversed_order["sft"]


def test_adapters_in_stages_say_what_has_no_control():
    lora = tiny_pair(kind="lora")
    result = compare_stages({"one": lora, "two": lora}, ITEMS[:4], controls=3, **QUIET)
    assert not result.stage_norm[1].any()
    assert any("adapters have no common start" in what for what in result.meta.not_measured)


@pytest.mark.parametrize("kind", ["levels", "stages"])
def test_results_keep_the_protocol_files_and_figures(kind, request, tmp_path):
    result = request.getfixturevalue(kind)
    assert isinstance(result, Result)
    frame = result.to_frame()
    assert set(frame.columns) <= set(TIDY_COLUMNS)
    assert len(result.panels()) == 3
    for panel in result.panels():
        assert panel.draw().axes
    loaded = (LevelsResult if kind == "levels" else StagesResult).load(result.save(tmp_path / "r"))
    assert loaded.summary() == result.summary()
    assert loaded.to_frame().to_csv() == frame.to_csv()
    assert Report([loaded]).html() == Report([result]).html()
    for estimate in result.finding.estimates:
        assert estimate.low <= estimate.value <= estimate.high, estimate
        assert estimate.control is not None, estimate.name


def test_tables_add_up(levels, stages):
    frame = stages.to_frame()
    shares = frame[frame["metric"] == "share"].groupby(["item", "order"])["value"].sum()
    np.testing.assert_allclose(shares, 1.0)
    units = frame[frame["metric"] == "unit_push"].groupby(["model", "item", "order"], sort=False)["value"].sum()
    pushes = frame[(frame["metric"] == "verdict_push") & (frame["model"] != "base")]
    pushes = pushes.set_index(["model", "item", "order"])["value"]
    np.testing.assert_allclose(units.loc[pushes.index], pushes)
    table = levels.to_frame()
    assert set(table[table["metric"] == "tuco"]["model"]) == set(levels.levels)
    assert table[table["metric"] == "difference_toward_label"]["p"].notna().all()
    apart = table[(table["metric"] == "tuco_difference") & (table["model"] == "judge against itself")].iloc[0]
    assert apart["value"] == pytest.approx(levels.tuco[0].mean())
    assert apart["low"] > 0


def test_interrupted_runs_stay_paired(pair, staged, monkeypatch):
    from analyses.tuco.levels import compare, stages

    for module, name, run, axis in (
        (compare, "measure_prompts", lambda: compare_levels(pair, ITEMS, draws=1, batch_size=4, **QUIET), 1),
        (stages, "_clamped", lambda: compare_stages(staged, ITEMS, batch_size=4, **QUIET), 1),
    ):
        plain, calls = getattr(module, name), []

        def interrupted(*args, plain=plain, calls=calls, **options):
            calls.append(1)
            if len(calls) == 5:
                raise KeyboardInterrupt
            return plain(*args, **options)

        with monkeypatch.context() as patch, pytest.warns(RuntimeWarning, match="interrupted"):
            patch.setattr(module, name, interrupted)
            partial = run()
        assert 0 < len(partial.item_ids) < len(ITEMS)
        numbers = partial.finetuned_norm if module is compare else partial.stage_norm
        assert numbers.shape[axis] == len(partial.item_ids)
        assert not np.isnan(numbers).any()


def test_models_are_as_found(pair, staged):
    modules = [pair.base, pair.judge, staged["sft"].judge, staged["rl"].judge]
    before = [[p.clone() for p in module.parameters()] for module in modules]
    compare_levels(pair, ITEMS[:2], draws=1, **QUIET)
    compare_stages(staged, ITEMS[:2], controls=1, **QUIET)
    for module, kept in zip(modules, before, strict=True):
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())
        assert all(torch.equal(p, old) for p, old in zip(module.parameters(), kept, strict=True))


def _first_slot_change(base):
    """Return a change of the last block that writes the difference of the two labels' rows at every token."""
    tokenizer = byte_tokenizer()
    a, b = (tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in "AB")
    row = (base.lm_head.weight[a] - base.lm_head.weight[b]) * base.model.norm.weight
    direction = (row / row.norm()).detach()
    down = base.model.layers[-1].mlp.down_proj
    inputs: list[torch.Tensor] = []
    handle = down.register_forward_pre_hook(lambda _module, args: inputs.append(args[0].detach()[0]))
    text = tiny_pair().encode(ITEMS[:3]).rows
    with torch.no_grad():
        for ids in text:
            base(torch.tensor([ids]))
    handle.remove()
    reads = torch.stack([x[-1] for x in inputs]).mean(0)
    size = 1.5 / float(reads.square().sum())

    def change(name, parameter, _generator):
        if name != f"model.layers.{len(base.model.layers) - 1}.mlp.down_proj.weight":
            return torch.zeros_like(parameter)
        return size * torch.outer(direction, reads)

    return change


def _pushes_first_slot():
    base = tiny_model()
    return _loaded(base, tuned_copy(base, change=_first_slot_change(base)))
