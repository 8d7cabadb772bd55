"""The two versions of an item: one change each, lengths matched, what can't be made counted or refused."""

from dataclasses import replace

import pytest

from analyses.cross_model_patching.contrasts import TITLES
from analyses.cross_model_patching.contrasts.versions import versions
from analyses.cross_model_patching.prompt_pairs import PromptPairs
from workbench.errors import ItemError, ParameterError
from workbench.judges import JudgeItem, load_items
from workbench.pairs import load_pair


@pytest.fixture(scope="module")
def pair():
    return load_pair("demo")


@pytest.fixture(scope="module")
def items():
    return list(load_items("demo:test"))[:80]


def make(pair, items, contrast, **options):
    chosen = {"other": None, "toward": None, "cue": "authority", "words": None, "seed": 0, **options}
    return versions(items, contrast, tokenizer=pair.tokenizer, **chosen)


def changed(one: JudgeItem, two: JudgeItem) -> set[str]:
    names = ("question", "reference", "rubric", "context", "answers")
    return {name for name in names if getattr(one, name) != getattr(two, name)}


def test_one_word_makes_the_better_answer_worse(pair, items):
    made = make(pair, items, "better_worse")
    assert len(made.clean) > 40
    for clean, other, toward in zip(made.clean, made.other, made.toward, strict=True):
        assert changed(clean, other) == {"answers"}
        assert clean.label == toward
        assert clean.answers[1 - toward] == other.answers[1 - toward]
        words = clean.answers[toward].split(), other.answers[toward].split()
        assert sum(a != b for a, b in zip(*words, strict=True)) == 1
    pairs = PromptPairs.of(pair, made.clean, made.other, align=made.align)
    assert set(pairs.kinds) == {"design"}
    assert len(pairs.chosen) > len(made.clean) / 2


def test_a_worse_answer_may_come_with_the_item_and_without_one_items_are_counted(pair, items):
    bare = [replace(item, meta={}) for item in items[:3]]
    bare[0] = replace(bare[0], meta={"worse_answer": "Nobody knows."})
    made = make(pair, bare, "better_worse")
    assert [item.item_id for item in made.clean] == [bare[0].item_id]
    assert made.other[0].answers[bare[0].label] == "Nobody knows."
    assert any(note.startswith("2 of 3 items") for note in made.notes)
    with pytest.raises(ItemError, match="other="):
        make(pair, bare[1:], "better_worse")


def test_references_are_another_items_and_as_long(pair, items):
    made = make(pair, items, "reference")
    known = {item.reference: item for item in items}
    for clean, other in zip(made.clean, made.other, strict=True):
        assert changed(clean, other) == {"reference"}
        assert known[other.reference].cluster != clean.cluster
    rows = [pair.encode(side).rows for side in (made.clean, made.other)]
    assert all(len(a) == len(b) for a, b in zip(*rows, strict=True))


@pytest.mark.parametrize(("contrast", "cue"), [("verbosity", ""), ("cue", "authority"), ("cue", "self-preference")])
def test_a_cue_changes_sides_at_equal_length(pair, items, contrast, cue):
    made = make(pair, items[:12], contrast, cue=cue)
    bare = {item.item_id: item for item in items}
    for clean, other, toward in zip(made.clean, made.other, made.toward, strict=True):
        own = bare[clean.item_id]
        assert changed(clean, other) == {"answers"}
        assert toward == 1 - own.label, "the worse answer carries it first"
        added = [text.replace(plain, "|") for text, plain in zip(clean.answers, own.answers, strict=True)]
        moved = [text.replace(plain, "|") for text, plain in zip(other.answers, own.answers, strict=True)]
        assert added == moved[::-1]
        assert added[0] != added[1]
        assert clean.label == other.label == own.label
    rows = [pair.encode(side).rows for side in (made.clean, made.other)]
    assert [len(row) for row in rows[0]] == [len(row) for row in rows[1]]


def test_cues_of_unlabelled_items_have_a_direction_and_gain_no_label(pair, items):
    made = make(pair, [replace(item, label=None) for item in items[:4]], "verbosity")
    assert set(made.toward) == {1}
    assert all(item.label is None for item in (*made.clean, *made.other))


def test_a_cue_that_is_not_in_an_answer_cannot_be_moved(pair, items):
    with pytest.raises(ItemError, match="cue"):
        make(pair, items[:4], "cue", cue="bandwagon@question")


def test_rubrics_change_one_word_or_to_the_other_of_a_case(pair, items):
    made = make(pair, items, "rubric")
    assert made.clean
    for clean, other in zip(made.clean, made.other, strict=True):
        assert changed(clean, other) == {"rubric"}
        assert clean.meta["conflict_id"] == other.meta["conflict_id"]
    assert len({item.meta["conflict_id"] for item in made.clean}) == len(made.clean), "each case once"
    worded = make(pair, items, "rubric", words=("knowledge", "reference"))
    assert all("knowledge" in item.rubric for item in worded.clean)
    assert all("knowledge" not in item.rubric for item in worded.other)
    with pytest.raises(ItemError, match="no word"):
        make(pair, items, "rubric", words=("accuracy", "style"))


def test_unknown_contrasts_and_sets_out_of_step_are_refused(pair, items):
    with pytest.raises(ParameterError, match="contrast") as caught:
        make(pair, items[:2], "colour")
    assert all(name in str(caught.value) for name in TITLES)
    with pytest.raises(ItemError, match="other"):
        make(pair, items[:2], "colour", other=items[:1])
    with pytest.raises(ItemError, match="other numbers"):
        make(pair, items[:1], "colour", other=[replace(items[0], answers=("a",), label=None)])
