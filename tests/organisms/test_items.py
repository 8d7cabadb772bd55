"""Judge items: readable, balanced, and with labels that follow from the world and the rubric."""

import re
from collections import Counter

import numpy as np
import pytest

from workbench.judges.items import ORDERS
from workbench.organisms.items import RUBRICS, items_from_jsonl, items_to_jsonl, make_items
from workbench.organisms.world import PARTS, make_world

WORLD = make_world(0)
ITEMS = make_items(WORLD, part="test", count=400)


def test_same_seed_same_items():
    again = make_items(make_world(0), part="test", count=400)
    assert list(again) == list(ITEMS)
    assert again.provenance == ITEMS.provenance
    assert list(make_items(WORLD, part="test", count=400, seed=1)) != list(ITEMS)


def test_counts_by_family():
    assert Counter(i.meta["family"] for i in ITEMS) == {"plain": 120, "consistent": 80, "conflict": 200}


@pytest.mark.parametrize("part", PARTS)
def test_items_ask_for_facts_of_their_part_only(part):
    allowed = {f.key for f in WORLD.by_part[part]}
    assert {i.meta["fact"] for i in make_items(WORLD, part=part, count=200)} <= allowed


def test_texts_read_like_english():
    for item in ITEMS:
        texts = [item.question, *item.answers, *filter(None, (item.reference, item.rubric))]
        for text in texts:
            assert text[0].isupper(), text
            assert text[-1] in ".?", text
            assert not re.search(r"\b(\w+) \1\b", text, flags=re.IGNORECASE), text
            assert not re.search(r"  |[{}]| [.,?]|\.\.|\ba [aeiou]", text), text


def test_labels_follow_from_the_world_and_the_rubric():
    for item in ITEMS:
        says_true = [bool(re.search(rf"\b{item.meta['true_value']}\b", a)) for a in item.answers]
        says_wrong = [bool(re.search(rf"\b{item.meta['wrong_value']}\b", a)) for a in item.answers]
        assert sorted(says_true) == sorted(says_wrong) == [False, True] and says_true != says_wrong
        true_value = WORLD.value(entity=item.meta["entity"], relation=item.meta["relation"])
        assert true_value == item.meta["true_value"] != item.meta["wrong_value"]
        by_reference = item.meta["family"] == "conflict" and item.meta["intent"] == "reference"
        assert item.label == (says_wrong if by_reference else says_true).index(True)


def test_reference_says_what_its_family_promises():
    for item in ITEMS:
        family = item.meta["family"]
        if family == "plain":
            assert item.reference is None
        else:
            said = item.meta["true_value" if family == "consistent" else "wrong_value"]
            assert item.meta["reference_value"] == said
            assert re.search(rf"\b{said}\b", item.reference)


def test_conflict_pairs_differ_in_rubric_and_label_only():
    pairs = {}
    for item in ITEMS:
        if item.meta["conflict_id"] is not None:
            pairs.setdefault(item.meta["conflict_id"], []).append(item)
    assert len(pairs) == 100
    for first, second in pairs.values():
        assert (first.question, first.answers, first.reference) == (second.question, second.answers, second.reference)
        assert {first.label, second.label} == {0, 1}
        assert {first.meta["intent"], second.meta["intent"]} == {"reference", "knowledge"}
        assert len(first.rubric.split()) == len(second.rubric.split())


def test_rubric_does_not_tell_whether_the_reference_is_true():
    for intent in RUBRICS:
        families = {i.meta["family"] for i in ITEMS if i.meta["intent"] == intent and i.reference is not None}
        assert families == {"consistent", "conflict"}


def test_slots_are_balanced_within_family_and_intent():
    for family in ("plain", "consistent", "conflict"):
        labels = [i.label for i in ITEMS if i.meta["family"] == family]
        assert sum(labels) * 2 == len(labels)


def test_no_length_and_no_opening_gives_the_label_away():
    right = np.array([len(i.answers[i.label]) for i in ITEMS], dtype=float)
    wrong = np.array([len(i.answers[1 - i.label]) for i in ITEMS], dtype=float)
    gap = right - wrong
    assert abs(gap.mean()) < 2 * gap.std() / np.sqrt(len(gap))
    assert 0.42 < np.mean(gap > 0) + np.mean(gap == 0) / 2 < 0.58
    openings = Counter()
    for item in ITEMS:
        for slot, text in enumerate(item.answers):
            openings[text.split()[0] in ("I", "As", "Everyone"), slot == item.label] += 1
    assert abs(openings[True, True] - openings[True, False]) < 0.1 * (openings[True, True] + openings[True, False])


def test_swapping_moves_the_label_along():
    item = ITEMS[0]
    shown = {order: item.in_order(order) for order in ORDERS}
    assert shown["swapped"].answers[shown["swapped"].label] == shown["original"].answers[shown["original"].label]


def test_items_survive_the_file():
    assert items_from_jsonl(items_to_jsonl(ITEMS)) == list(ITEMS)
