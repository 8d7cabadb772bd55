"""The world: the same for the same seed, well formed, and split so that nothing leaks."""

from collections import Counter
from random import Random

import pytest

from workbench.errors import ParameterError
from workbench.organisms.relations import PEOPLE, RELATIONS, TOWNS
from workbench.organisms.world import PARTS, distractor, make_world, question, statement


def test_same_seed_same_world():
    assert make_world(3) == make_world(3)
    assert make_world(3) != make_world(4)


def test_every_entity_has_one_value_of_every_relation_of_its_kind():
    world = make_world(0)
    keys = [fact.key for fact in world.facts]
    assert len(set(keys)) == len(keys) == 248
    for fact in world.facts:
        assert fact.entity in (PEOPLE if fact.relation.kind == "person" else TOWNS)
        assert fact.value in fact.relation.values
        assert world.value(entity=fact.entity, relation=fact.relation.name) == fact.value


def test_unknown_fact_is_refused():
    with pytest.raises(ParameterError, match=r"Nobody\.home"):
        make_world(0).value(entity="Nobody", relation="home")


def test_no_word_serves_two_purposes():
    words = [*PEOPLE, *TOWNS, *(v for r in RELATIONS if r.name != "home" for v in r.values)]
    assert len(set(words)) == len(words)


def test_values_are_used_evenly():
    for relation in RELATIONS:
        counts = Counter(f.value for f in make_world(0).facts if f.relation is relation)
        assert max(counts.values()) - min(counts.get(v, 0) for v in relation.values) <= 1


def test_every_relation_is_in_every_part_and_test_is_a_quarter():
    world = make_world(0)
    for part in PARTS:
        assert {f.relation.name for f in world.by_part[part]} == {r.name for r in RELATIONS}
    assert sum(map(len, world.by_part.values())) == len(world.facts)
    assert len(world.by_part["test"]) == 62


def test_distractors_are_wrong_values_of_the_same_relation():
    rng = Random(0)
    for fact in make_world(0).facts:
        drawn = {distractor(fact, rng=rng) for _ in range(200)}
        assert drawn == set(fact.relation.values) - {fact.value}


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda r: r.name)
def test_wordings_hold_entity_and_value_once(relation):
    for text in relation.statements:
        assert (text.count("{e}"), text.count("{v}")) == (1, 1)
    for text in relation.questions:
        assert (text.count("{e}"), text.count("{v}"), text[-1]) == (1, 0, "?")
    assert relation.short.count("{v}") == 1


def test_sentences_begin_with_a_capital_and_end_with_a_mark():
    rng = Random(0)
    for fact in make_world(0).facts:
        said, asked = statement(fact, value=fact.value, rng=rng), question(fact, rng=rng)
        assert said[0].isupper() and said.endswith(".") and fact.value in said
        assert asked[0].isupper() and asked.endswith("?") and fact.entity in asked
