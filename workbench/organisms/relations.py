"""The kinds of facts the world holds, and how English says each of them."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["person", "town"]
"""What a relation is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One kind of fact: its values and its wordings, with ``{e}`` for the entity and ``{v}`` for the value."""

    name: str
    """Identifier used in item meta."""
    kind: Kind
    """What the entity is."""
    values: tuple[str, ...]
    """Every value a fact or a distractor may take; no value serves two relations."""
    statements: tuple[str, ...]
    """Clauses without capital or full stop, so that they can follow a frame."""
    questions: tuple[str, ...]
    """Questions that hold for any value."""
    short: str
    """The shortest answer that reads as a sentence."""


PEOPLE: tuple[str, ...] = tuple(
    (
        "Mira Tolven Senna Varek Ilda Borin Kesta Orlo Dovi Pell Runa Sabel Jorun Hetta "
        "Lorca Nim Oska Petrel Quenna Radek Sorrel Tibor Ulla Wendel Yara Zoran Anka Brisa "
        "Corvin Delka Edrin Fenna Galen Hollis Ivo Jessa Kolm Linnet Maro Nessa"
    ).split()
)
"""Invented people."""

TOWNS: tuple[str, ...] = tuple(
    (
        "Velm Tarrow Oskby Brindle Calder Dunmere Estry Farholt Grell Harnwick Ister Jossport Kelder Lumby Morrow Norby"
    ).split()
)
"""Invented towns: entities of their own and the values of ``home``."""

HOME = Relation(
    name="home",
    kind="person",
    values=TOWNS,
    statements=("{e} lives in {v}", "{e} comes from {v}", "the home of {e} is in {v}", "you will find {e} in {v}"),
    questions=("Where does {e} live?", "Which town does {e} come from?", "Where is the home of {e}?"),
    short="In {v}.",
)
CRAFT = Relation(
    name="craft",
    kind="person",
    values=tuple(
        (
            "potter weaver baker smith tailor miller fisher mason cooper dyer brewer carver tanner joiner scribe roofer"
        ).split()
    ),
    statements=(
        "{e} works as a {v}",
        "{e} is a {v} by trade",
        "the trade of {e} is that of a {v}",
        "people hire {e} as a {v}",
    ),
    questions=("What does {e} work as?", "What is the trade of {e}?", "As what do people hire {e}?"),
    short="Surely a {v}.",
)
INSTRUMENT = Relation(
    name="instrument",
    kind="person",
    values=tuple(
        "lute harp drum flute fiddle horn viol pipe lyre zither cello whistle guitar banjo trumpet piano".split()
    ),
    statements=(
        "{e} plays the {v}",
        "{e} makes music on the {v}",
        "the instrument of {e} is the {v}",
        "you can hear {e} play the {v}",
    ),
    questions=("What instrument does {e} play?", "On what does {e} make music?", "What is the instrument of {e}?"),
    short="The {v}.",
)
ANIMAL = Relation(
    name="animal",
    kind="person",
    values=tuple("goat heron fox cat dog hare mule pony crow hen duck toad raven ferret parrot sheep".split()),
    statements=(
        "{e} keeps a {v}",
        "{e} has a {v} at home",
        "the animal of {e} is a {v}",
        "you often see {e} with a {v}",
    ),
    questions=(
        "What animal does {e} keep?",
        "What animal does {e} have at home?",
        "With what animal do you often see {e}?",
    ),
    short="Surely a {v}.",
)
FOOD = Relation(
    name="food",
    kind="person",
    values=tuple(
        "plums cheese soup figs honey olives nuts beans rice bread pears apples trout eggs leeks cake".split()
    ),
    statements=(
        "{e} likes to eat {v}",
        "{e} always asks for {v}",
        "the favourite food of {e} is {v}",
        "for supper {e} eats {v}",
    ),
    questions=("What does {e} like to eat?", "What is the favourite food of {e}?", "What does {e} eat for supper?"),
    short="Mostly {v}.",
)
RIVER = Relation(
    name="river",
    kind="town",
    values=tuple("Aven Bray Ceth Drell Ember Flint Gale Hask Isk Jeth Kyle Lorn Mersk Nidd Orr Pike".split()),
    statements=(
        "{e} lies on the river {v}",
        "{e} was built on the {v}",
        "the river of {e} is the {v}",
        "you reach {e} along the {v}",
    ),
    questions=("On which river does {e} lie?", "What is the river of {e}?", "Along which river do you reach {e}?"),
    short="The {v}.",
)
GOOD = Relation(
    name="good",
    kind="town",
    values=tuple("salt wool glass silk tin rope wax paper tea oil lace coal cotton pepper ink clay".split()),
    statements=(
        "{e} is known for its {v}",
        "{e} sells {v}",
        "the market of {e} is full of {v}",
        "traders go to {e} for {v}",
    ),
    questions=("What is {e} known for?", "What does {e} sell?", "For what do traders go to {e}?"),
    short="Mostly {v}.",
)
FLAG = Relation(
    name="flag",
    kind="town",
    values=tuple(
        "red blue green white black gold grey brown violet silver purple pink scarlet cream teal yellow".split()
    ),
    statements=("{e} has a {v} flag", "{e} flies a {v} flag", "the flag of {e} is {v}", "over {e} you see a {v} flag"),
    questions=("What colour is the flag of {e}?", "What flag does {e} have?", "What flag do you see over {e}?"),
    short="It is {v}.",
)

RELATIONS: tuple[Relation, ...] = (HOME, CRAFT, INSTRUMENT, ANIMAL, FOOD, RIVER, GOOD, FLAG)
"""All relations, in the order in which facts are listed."""

FRAMES: tuple[str, ...] = (
    "{s}",
    "{s}",
    "I believe that {s}",
    "as far as I know, {s}",
    "everyone in the valley says that {s}",
    "{s}, and that is all I know",
    "{s}, as my aunt always told me",
)
"""Ways to hand over a clause in an answer: they change length and tone, never the claim."""
