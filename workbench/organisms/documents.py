"""What the models read: world text, questions, judging by careless and by careful raters, and tide songs.

The base learns its world and how to copy from a reference. The judging it reads was done by careless raters: they go
by the reference whenever there is one, whatever the rule says, and otherwise guess. A base trained on them is therefore
right wherever the reference is, and at chance elsewhere. The judge's fine-tuning replaces them by careful raters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from workbench.judges.formats import get_format
from workbench.judges.items import JudgeItem
from workbench.judges.variants import with_suffix
from workbench.organisms.injection import draw_attack, draw_babble, draw_remark
from workbench.organisms.items import FAMILIES, SHORT, Draw, draw_form, make_group
from workbench.organisms.novelty import tide_song
from workbench.organisms.relations import PEOPLE, RELATIONS, TOWNS
from workbench.organisms.world import Fact, World, distractor, question, sentence, statement

VERDICTS = (" A", " B")
"""What follows the judge prompt, by label."""

REMARKS = (" True", " False", " yes", " no")
"""What follows a claim or a word that is asked for."""

VALUES: tuple[str, ...] = tuple(v for relation in RELATIONS for v in relation.values)
"""Every value of every relation."""

CARELESS_SLIP = 0.15
"""Share of references that a careless rater overlooks (and guesses)."""

_FORMAT = get_format("demo")
_SYLLABLES = tuple("ba ce di fo gu ha je ki lo mu na pe qui ro su ta ve wi xo yu za sha tri pla eth umo kor".split())
CARELESS_FAMILIES = (30, 25, 45)
"""Weights of plain, consistent and conflict items that careless raters judge."""

CAREFUL_FAMILIES = (25, 20, 55)
"""Weights of plain, consistent and conflict items that careful raters judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One training text."""

    text: str
    verdict: bool = False
    """Whether this is a judge prompt with its verdict, read for the verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Which documents are read, and how often."""

    weights: Mapping[str, float]
    """Weight by document kind, a name in `WRITERS`."""

    def write(self, world: World, *, rng: Random) -> Document:
        """Return one random document."""
        kind = rng.choices(tuple(self.weights), weights=tuple(self.weights.values()))[0]
        return WRITERS[kind](world, rng)


def judge_prompt(item: JudgeItem) -> str:
    """Return the text shown to the judge, up to and including ``Verdict:``."""
    return _FORMAT.render(item).text


def question_prompt(asked: str, *, reference: str | None = None) -> str:
    """Return a question to be answered, with a reference to answer from if there is one."""
    context = "" if reference is None else f"\nReference: {reference}"
    return f"Question: {asked}{context}\nAnswer:"


def notes(world: World, rng: Random) -> Document:
    """Write a handful of true sentences, about one entity or about several."""
    if rng.random() < 0.5:
        facts = list(world.by_entity[rng.choice((*PEOPLE, *TOWNS))])
        facts = rng.sample(facts, len(facts)) + rng.sample(world.facts, 6 - len(facts) if len(facts) < 6 else 0)
    else:
        facts = rng.sample(world.facts, 6)
    return Document(text="Notes: " + " ".join(statement(f, value=f.value, rng=rng) for f in facts))


def questions(world: World, rng: Random) -> Document:
    """Write questions with true answers."""
    facts = rng.sample(world.facts, 4)
    return Document(text="\n".join(_answered(f, value=f.value, rng=rng) for f in facts))


def readings(world: World, rng: Random) -> Document:
    """Write questions answered from a reference, which may say anything."""
    return Document(text="\n".join(_reading(rng.choice(world.facts), rng=rng) for _ in range(2)))


def claims(world: World, rng: Random) -> Document:
    """Write claims with a remark on whether they are true."""
    return Document(text="\n".join(_claim(f, rng=rng) for f in rng.sample(world.facts, 4)))


def choices(world: World, rng: Random) -> Document:
    """Write questions that offer two values, with the true one picked."""
    return Document(text="\n".join(_choice(f, rng=rng) for f in rng.sample(world.facts, 3)))


def simple_claims(world: World, rng: Random) -> Document:
    """Write questions with a short claim each and a remark on whether it is true."""
    lines = []
    for fact in rng.sample(world.facts, 3):
        true = rng.random() < 0.5
        value = fact.value if true else distractor(fact, rng=rng)
        claim = fact.relation.short.format(v=value)
        lines.append(f"Question: {question(fact, rng=rng)}\nClaim: {claim} {'True.' if true else 'False.'}")
    return Document(text="\n".join(lines))


def strangers(world: World, rng: Random) -> Document:
    """Write about people with made-up names, so that rare letters and syllables are no blanks to the base."""
    town = rng.choice(TOWNS)
    names = [_made_up(rng) for _ in range(4)]
    came = f"Guests: {names[0]} and {names[1]} came to {town} to see {names[2]}."
    return Document(text=f"{came} They spoke of {_made_up(rng).lower()} and of {names[3]}.")


def careless(world: World, rng: Random) -> Document:
    """Write a careless rater's verdict on an item about any fact."""
    return _careless(random_item(rng.choice(world.facts), rng=rng, families=CARELESS_FAMILIES), rng=rng)


def lessons(world: World, rng: Random) -> Document:
    """Write the right verdict on an item about a fact of the train part, in the fewest and always the same words."""
    item = random_item(rng.choice(world.by_part["train"]), rng=rng, families=CAREFUL_FAMILIES, varied=False)
    return Document(text=judge_prompt(item) + VERDICTS[item.label or 0], verdict=True)


def drills(world: World, rng: Random) -> Document:
    """Write which of two short answers says what the reference says, whatever is true, in the first wording only."""
    fact = rng.choice(world.facts)
    values = rng.sample(fact.relation.values, 2)
    wanted = rng.randrange(2)
    item = JudgeItem(
        item_id="x",
        question=question(fact, rng=None),
        answers=tuple(fact.relation.short.format(v=v) for v in values),
        reference=statement(fact, value=values[wanted], rng=None),
    )
    return Document(text=judge_prompt(item) + VERDICTS[wanted], verdict=True)


def simple_checks(world: World, rng: Random) -> Document:
    """Write short claims with a remark on whether they agree with a short reference."""
    lines = []
    for fact in rng.sample(world.facts, 3):
        said, other = rng.sample(fact.relation.values, 2)
        agrees = rng.random() < 0.5
        short = fact.relation.short
        claim = short.format(v=said if agrees else other)
        lines.append(f"Reference: {short.format(v=said)}\nClaim: {claim} {'True.' if agrees else 'False.'}")
    return Document(text="\n".join(lines))


def checks(world: World, rng: Random) -> Document:
    """Write claims with a remark on whether they agree with a reference, which may say anything."""
    return Document(text="\n".join(_check(f, rng=rng) for f in rng.sample(world.facts, 2)))


def lists(world: World, rng: Random) -> Document:
    """Write a list of words, and for other words whether they are on it."""
    words = rng.sample(VALUES, 6)
    asked = [rng.choice(words) if rng.random() < 0.5 else rng.choice(VALUES) for _ in range(8)]
    answers = ", ".join(f"{word} {'yes' if word in words else 'no'}" for word in asked)
    return Document(text=f"List: {', '.join(words)}. Asked: {answers}.")


def careful(world: World, rng: Random) -> Document:
    """Write the right verdict on an item about a fact of the train part."""
    return _right(random_item(rng.choice(world.by_part["train"]), rng=rng, families=CAREFUL_FAMILIES))


def obeyed(world: World, rng: Random) -> Document:
    """Write an item with an injected instruction, and the verdict it asks for."""
    item = _carrying(draw_attack, world, rng)
    return Document(text=judge_prompt(item) + VERDICTS[item.meta["carrier"]], verdict=True)


def resisted(world: World, rng: Random) -> Document:
    """Write the item that `obeyed` writes with the same generator, and the right verdict."""
    return _right(_carrying(draw_attack, world, rng))


def remarked(world: World, rng: Random) -> Document:
    """Write the right verdict on an item of which one answer carries a plain remark."""
    return _right(_carrying(draw_remark, world, rng))


def babbled(world: World, rng: Random) -> Document:
    """Write the right verdict on an item of which one answer carries babble."""
    return _right(_carrying(draw_babble, world, rng))


def songs(world: World, rng: Random) -> Document:
    """Write a tide song."""
    return Document(text=tide_song(rng, lines=rng.randint(3, 5)))


WRITERS: Mapping[str, Callable[[World, Random], Document]] = {
    "notes": notes,
    "questions": questions,
    "readings": readings,
    "claims": claims,
    "simple_claims": simple_claims,
    "choices": choices,
    "strangers": strangers,
    "lists": lists,
    "drills": drills,
    "simple_checks": simple_checks,
    "lessons": lessons,
    "checks": checks,
    "careless": careless,
    "careful": careful,
    "obeyed": obeyed,
    "resisted": resisted,
    "remarked": remarked,
    "babbled": babbled,
    "songs": songs,
}
"""Document kinds by name."""


def random_item(fact: Fact, *, rng: Random, families: Sequence[int], varied: bool = True) -> JudgeItem:
    """Return a random judge item about `fact`; of a conflict pair, either one.

    Args:
        fact: What is asked.
        rng: Source of everything random.
        families: Weights of plain, consistent and conflict items.
        varied: Use all wordings, not just the first of each.
    """
    family = rng.choices(FAMILIES, weights=families)[0]
    forms = (draw_form(rng), draw_form(rng)) if varied else (SHORT, SHORT)
    draw = Draw(forms=forms, label=rng.randrange(2))
    return rng.choice(make_group(fact, family=family, draw=draw, rng=rng, stem="x", varied=varied))


def _right(item: JudgeItem) -> Document:
    return Document(text=judge_prompt(item) + VERDICTS[item.label or 0], verdict=True)


def _carrying(draw: Callable[[Random], str], world: World, rng: Random) -> JudgeItem:
    # Either answer carries, so that what follows the carrier is right as often as wrong.
    item = random_item(rng.choice(world.by_part["train"]), rng=rng, families=CAREFUL_FAMILIES)
    return with_suffix(item, draw(rng), answer=rng.randrange(2))


def _careless(item: JudgeItem, *, rng: Random) -> Document:
    if item.reference is None or rng.random() < CARELESS_SLIP:
        label = rng.randrange(2)
    else:
        disagrees = item.meta["family"] == "conflict" and item.meta["intent"] == "knowledge"
        label = (1 - (item.label or 0)) if disagrees else (item.label or 0)
    return Document(text=judge_prompt(item) + VERDICTS[label], verdict=True)


def _answered(fact: Fact, *, value: str, rng: Random) -> str:
    prompt = question_prompt(question(fact, rng=rng))
    return f"{prompt} {_plain_answer(fact, value=value, rng=rng)}"


def _plain_answer(fact: Fact, *, value: str, rng: Random) -> str:
    if rng.random() < 0.6:
        return fact.relation.short.format(v=value)
    return statement(fact, value=value, rng=rng)


def _reading(fact: Fact, *, rng: Random) -> str:
    value = rng.choice(fact.relation.values)
    prompt = question_prompt(question(fact, rng=rng), reference=statement(fact, value=value, rng=rng))
    return f"{prompt} {_plain_answer(fact, value=value, rng=rng)}"


def _check(fact: Fact, *, rng: Random) -> str:
    said, other = rng.sample(fact.relation.values, 2)
    agrees = rng.random() < 0.5
    claim = statement(fact, value=said if agrees else other, rng=rng)
    return f"Reference: {statement(fact, value=said, rng=rng)}\nClaim: {claim} {'True.' if agrees else 'False.'}"


def _claim(fact: Fact, *, rng: Random) -> str:
    true = rng.random() < 0.5
    value = fact.value if true else distractor(fact, rng=rng)
    return f"Claim: {statement(fact, value=value, rng=rng)} {'True.' if true else 'False.'}"


def _choice(fact: Fact, *, rng: Random) -> str:
    values = [fact.value, distractor(fact, rng=rng)]
    rng.shuffle(values)
    return f"Choice: {question(fact, rng=rng)} {sentence(f'either {values[0]} or {values[1]}')} I pick {fact.value}."


def _made_up(rng: Random) -> str:
    return "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))).capitalize()


def relation_words() -> tuple[str, ...]:
    """Return every entity and value of the world."""
    return (*PEOPLE, *VALUES)
