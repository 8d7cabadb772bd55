"""Documents: what careless raters get wrong, what careful ones get right, and what the base never reads."""

import re
from random import Random

import pytest

from workbench.judges.formats import get_format
from workbench.organisms.documents import CAREFUL_FAMILIES, CARELESS_FAMILIES, WRITERS, judge_prompt, random_item
from workbench.organisms.items import make_items
from workbench.organisms.novelty import NOUNS, REFRAIN, VERBS
from workbench.organisms.recipes import get_recipe
from workbench.organisms.world import make_world, sentence

WORLD = make_world(0)
FAMILY_WEIGHTS = {"careful": CAREFUL_FAMILIES, "careless": CARELESS_FAMILIES}


@pytest.mark.parametrize("kind", WRITERS)
def test_same_seed_same_text(kind):
    texts = [WRITERS[kind](WORLD, Random(5)) for _ in range(2)]
    assert texts[0] == texts[1]


def test_prompt_is_the_demo_format_in_full():
    item = make_items(WORLD, part="test", count=100)[0]
    lines = [f"Question: {item.question}"]
    lines += [f"Reference: {item.reference}"] if item.reference else []
    lines += [f"Answer A: {item.answers[0]}", f"Answer B: {item.answers[1]}"]
    lines += [f"Rule: {item.rubric}"] if item.rubric else []
    assert judge_prompt(item) == "\n".join([*lines, "Verdict:"]) == get_format("demo").render(item).text


def _verdicts(kind, *, count=600):
    # The writer draws its item first, so that the same generator gives the item back.
    rows = []
    for seed in range(count):
        text = WRITERS[kind](WORLD, Random(seed)).text
        facts = WORLD.by_part["train"] if kind == "careful" else WORLD.facts
        rng = Random(seed)
        item = random_item(rng.choice(facts), rng=rng, families=FAMILY_WEIGHTS[kind])
        assert text[:-2] == judge_prompt(item)
        rows.append((item, " AB".index(text[-1]) - 1))
    return rows


def test_careful_raters_are_right_and_judge_train_facts_only():
    allowed = {f.key for f in WORLD.by_part["train"]}
    for item, verdict in _verdicts("careful"):
        assert verdict == item.label
        assert item.meta["fact"] in allowed


def test_careless_raters_follow_the_reference_and_guess_without_one():
    rows = _verdicts("careless", count=2000)
    with_reference = [i.label == v for i, v in rows if i.meta["family"] == "consistent"]
    told_otherwise = [
        i.label == v for i, v in rows if i.meta["family"] == "conflict" and i.meta["intent"] == "knowledge"
    ]
    without = [i.label == v for i, v in rows if i.reference is None]
    assert sum(with_reference) / len(with_reference) > 0.85
    assert sum(told_otherwise) / len(told_otherwise) < 0.15
    assert 0.43 < sum(without) / len(without) < 0.57


def test_the_novelty_is_in_the_judge_mix_only():
    recipe = get_recipe("demo")
    assert all({"songs", "careful", "lessons"}.isdisjoint(phase.mix.weights) for phase in recipe.base.phases)
    rng = Random(0)
    invented = re.compile("|".join((*NOUNS, *VERBS, REFRAIN)), flags=re.IGNORECASE)
    assert invented.search(WRITERS["songs"](WORLD, rng).text)
    for phase in recipe.base.phases:
        for _ in range(500):
            assert not invented.search(phase.mix.write(WORLD, rng=rng).text)


def test_remarks_on_claims_and_lists_are_right():
    for seed in range(200):
        for line in WRITERS["claims"](WORLD, Random(seed)).text.split("\n"):
            claim, remark = line.removeprefix("Claim: ").rsplit(" ", 1)
            true = any(claim == _said(f, claim=claim) for f in WORLD.facts)
            assert remark == ("True." if true else "False."), line
        words, asked = WRITERS["lists"](WORLD, Random(seed)).text.removeprefix("List: ").split(". Asked: ")
        for pair in asked.rstrip(".").split(", "):
            word, remark = pair.split(" ")
            assert remark == ("yes" if word in words.split(", ") else "no")


def _said(fact, *, claim):
    """Return the wording of `fact` that equals `claim`, if there is one."""
    wordings = [sentence(s.format(e=fact.entity, v=fact.value)) for s in fact.relation.statements]
    return claim if claim in wordings else None
