"""Alignment of two versions of prompts: what may be moved where, donors against plain forwards, refusals."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from analyses.cross_model_patching.cells import Cell, cell_columns
from analyses.cross_model_patching.prompt_pairs import MOVED_KEYS, PromptPairs
from analyses.cross_model_patching.sweeping import entered, sizes, sweep
from analyses.cross_model_patching.verdicts import VerdictIds
from tests.pairs.drift_pairs import template_pair
from workbench.errors import FormatError, ItemError, ParameterError
from workbench.hooks import Component, HooksBackend, Patch
from workbench.judges import JudgeItem
from workbench.pairs.tiny import tiny_pair


def items(*answers, reference=None):
    """Return one item per pair of answers."""
    return [
        JudgeItem(item_id=f"i{k}", question=f"What is {k}?", answers=two, label=0, reference=reference)
        for k, two in enumerate(answers)
    ]


def cell(component="resid_pre", layer=1, **place):
    return Cell(component=Component(component), layer=layer, **place)


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(n_layers=2)


def test_equal_places_align_by_design(pair):
    pairs = PromptPairs.of(pair, items(("four", "five"), ("oak", "elm")), items(("nine", "five"), ("ash", "elm")))
    assert set(pairs.kinds) == {"design"}
    lengths = [len(row) for row in pairs.clean.encoded.rows]
    assert pairs.tails.tolist() == lengths
    cells = [cell(position=-1), cell(position=-min(lengths)), cell(span="answer_a")]
    assert pairs.aligned(cells).all()
    for row, head in enumerate(pairs.heads):
        mine, its = pairs.clean.encoded.rows[row], pairs.other.encoded.rows[row]
        assert mine[:head] == its[:head]
        assert mine[head] != its[head]


def test_a_longer_answer_leaves_only_the_common_tail_and_equal_spans(pair):
    pairs = PromptPairs.of(pair, items(("four", "five")), items(("fourteen", "five")))
    assert pairs.kinds == ("right", "right")
    assert "answer_a" not in pairs.matched[0]
    assert {"question", "answer_b", "verdict"} <= pairs.matched[0]
    # In the swapped order the changed answer stands second, so that the tail begins behind it.
    assert "answer_b" not in pairs.matched[1]
    assert pairs.tails[1] < pairs.tails[0]
    for row, tail in enumerate(pairs.tails):
        assert pairs.clean.encoded.rows[row][-tail:] == pairs.other.encoded.rows[row][-tail:]
    assert pairs.shifted == 2
    assert MOVED_KEYS in pairs.said()


def test_a_swap_of_unequal_answers_is_of_equal_length_but_not_aligned_by_column(pair):
    pairs = PromptPairs.swapped(pair, items(("four", "fourteen")))
    assert pairs.kinds == ("right", "right")
    assert pairs.shifted == 0
    assert pairs.clean.orders == ("original", "swapped")
    assert pairs.other.orders == ("swapped", "original")
    assert pairs.clean.encoded.rows[0] == pairs.other.encoded.rows[1]
    assert not {"answer_a", "answer_b"} & pairs.matched[0]
    assert "question" in pairs.matched[0]
    assert PromptPairs.swapped(pair, items(("four", "five"))).kinds == ("design", "design")


def test_design_only_leaves_others_out_and_counts_them(pair):
    clean = items(("four", "five"), ("oak", "elm"), ("tin", "iron"))
    other = items(("nine", "five"), ("birch", "elm"), ("tin", "iron"))
    pairs = PromptPairs.of(pair, clean, other, align="design")
    assert pairs.chosen == (0,)
    assert sum(pairs.left_out.values()) == 2
    assert any("same prompt" in note for note in pairs.notes)
    assert any("align='design'" in note for note in pairs.notes)
    assert [item.item_id for item in pairs.clean.items] == ["i0"]


def test_by_spans_no_position_is_moved(pair):
    pairs = PromptPairs.of(pair, items(("four", "five")), items(("fourteen", "five")), align="spans")
    assert set(pairs.kinds) == {"spans"}
    assert not pairs.aligned([cell(position=-1)]).any()
    assert pairs.aligned([cell(span="question")]).all()


def test_nothing_to_align_is_refused(pair):
    with pytest.raises(FormatError, match="align") as caught:
        PromptPairs.of(pair, items(("four", "five")), items(("fourteen", "five")), align="design")
    assert "1 items: nothing" in str(caught.value)
    with pytest.raises(FormatError, match="same prompt"):
        PromptPairs.of(pair, items(("four", "five")), items(("four", "five")))
    with pytest.raises(ItemError, match="other_items"):
        PromptPairs.of(pair, items(("four", "five")), items(("a", "b"), ("c", "d")))
    with pytest.raises((ParameterError, TypeCheckError), match="align"):  # a type-checked run stops earlier
        PromptPairs.of(pair, items(("four", "five")), items(("nine", "five")), align="left")


def test_cells_that_no_pair_has_are_refused(pair):
    pairs = PromptPairs.of(pair, items(("four", "five")), items(("fourteen", "fifteen")))
    with pytest.raises(ParameterError, match="no prompt has this span"):
        pairs.check([cell(span="rubric")])
    with pytest.raises(ParameterError, match="same number of tokens"):
        pairs.check([cell(span="answer_a")])
    with pytest.raises(ParameterError, match="last tokens in common"):
        pairs.check([cell(position=-int(pairs.tails.max()) - 1)])
    pairs.check([cell(span="question"), cell(position=-1)])


@pytest.mark.parametrize("component", ["resid_pre", "mlp_out", "z", "k"])
@pytest.mark.parametrize("place", [{"position": -2}, {"span": "answer_b"}])
def test_patches_are_those_of_plain_forwards_one_prompt_at_a_time(pair, component, place):
    """An independent reading: each prompt alone, the donor's value read and written by plain hooks."""
    clean = items(("four", "five"), ("oak or beech", "elm!!"), ("tin", "iron ore"))
    other = items(("fourteen", "nine"), ("ash", "fir!!"), ("a", "zinc ore"))
    pairs = PromptPairs.of(pair, clean, other)
    executor = HooksBackend(pair.judge, pair.anatomy("judge"))
    verdict = VerdictIds.of(pairs.clean)
    chosen = cell(component, head=0 if Component(component).per_head else None, **place)
    mine, its = pairs.batch([2, 0, 1])
    assert mine.ids.shape[1] != its.ids.shape[1]
    target, donor = entered(executor, mine, [chosen]), entered(executor, its, [chosen])
    found = sweep(target, [[chosen]], pairs.donor([2, 0, 1], target=target, donor=donor), verdict)
    usable = pairs.aligned([chosen], [2, 0, 1])[:, 0]
    assert usable.any()
    for at, row in enumerate(pairs.clean.rows_of([2, 0, 1])):
        alone, source = (p.encoded.batch([row]) for p in (pairs.clean, pairs.other))
        if not usable[at]:
            continue
        columns, from_where = cell_columns(chosen, alone)[0], cell_columns(chosen, source)[0]
        site = chosen.site
        given = executor.run(source, capture=[site], positions=from_where).activations[site]
        own = executor.run(alone).logits
        patched = executor.run(alone, edits=[Patch(site=site, values=given, positions=columns)]).logits
        effect = float(verdict.of_vocabulary(patched)[0] - verdict.of_vocabulary(own)[0])
        assert found.effect[at, 0] == pytest.approx(effect, abs=2e-5)
    assert np.abs(found.effect[usable]).max() > 0


def test_what_stands_for_nothing_keeps_its_own_value(pair):
    pairs = PromptPairs.of(pair, items(("four", "five"), ("oak", "elm")), items(("fourteen", "five"), ("ash", "elm")))
    executor = HooksBackend(pair.judge, pair.anatomy("judge"))
    chosen = [cell(span="answer_a"), cell(span="question")]
    mine, its = pairs.batch([0, 1])
    target, donor = entered(executor, mine, chosen), entered(executor, its, chosen)
    give = pairs.donor([0, 1], target=target, donor=donor)
    moved = sizes(target, chosen, give)
    usable = pairs.aligned(chosen, [0, 1])
    assert usable[:, 0].tolist() == [False, True, True, True]
    assert moved[0, 0] == 0
    assert moved[2, 0] > 0
    assert not moved[:, 1].any(), "the question stands before the first token that differs"
    short = entered(executor, its, [cell(position=-1)])
    with pytest.raises(ParameterError, match="doesn't keep"):
        pairs.donor([0, 1], target=target, donor=short)(chosen[1].site, cell_columns(chosen[1], mine)[0])


def test_flipping_exchanges_the_versions(pair):
    pairs = PromptPairs.of(pair, items(("four", "five")), items(("fourteen", "five")))
    turned = pairs.flipped()
    assert turned.clean is pairs.other
    assert turned.tails.tolist() == pairs.tails.tolist()
    assert turned.flipped().clean is pairs.clean


def test_another_template_aligns_by_its_tail_or_by_spans(tmp_path):
    pair = template_pair(tmp_path)
    clean = items(("four", "five"), ("oak", "elm"))
    pairs = PromptPairs.of(pair, clean, clean, other_pair=pair.with_template("base"))
    assert set(pairs.kinds) <= {"right", "spans"}
    assert pairs.aligned([cell(span="question"), cell(span="answer_a")]).all()
    assert pairs.shifted == 4
