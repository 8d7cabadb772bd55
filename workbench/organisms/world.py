"""A small invented world: people, towns, and facts about them, the same for the same seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Literal

from workbench.errors import ParameterError
from workbench.organisms.relations import PEOPLE, RELATIONS, TOWNS, Relation

Part = Literal["train", "validation", "test"]
"""Which judge items a fact may appear in."""

PARTS: tuple[Part, ...] = ("train", "validation", "test")
PART_SHARES: dict[Part, float] = {"train": 0.65, "validation": 0.1, "test": 0.25}
"""Share of each relation's facts per part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One true statement about one entity."""

    entity: str
    relation: Relation
    value: str
    part: Part
    """Facts outside ``train`` never appear in a judge item of the fine-tuning mix."""

    @property
    def key(self) -> str:
        """Name of the fact without its value, e.g. ``"Mira.home"``."""
        return f"{self.entity}.{self.relation.name}"


@dataclass(frozen=True, kw_only=True)
class World:
    """All facts; immutable."""

    seed: int
    facts: tuple[Fact, ...]

    @cached_property
    def by_part(self) -> dict[Part, tuple[Fact, ...]]:
        """Facts by the part their judge items belong to."""
        return {part: tuple(f for f in self.facts if f.part == part) for part in PARTS}

    @cached_property
    def by_entity(self) -> dict[str, tuple[Fact, ...]]:
        """Facts by entity, in relation order."""
        return {name: tuple(f for f in self.facts if f.entity == name) for name in (*PEOPLE, *TOWNS)}

    def value(self, *, entity: str, relation: str) -> str:
        """Return what is true of `entity`.

        Raises:
            ParameterError: The world holds no such fact.
        """
        for fact in self.by_entity.get(entity, ()):
            if fact.relation.name == relation:
                return fact.value
        raise ParameterError(
            "the world holds no such fact.",
            argument="entity",
            got=f"{entity}.{relation}",
            allowed=f"people with {', '.join(r.name for r in RELATIONS if r.kind == 'person')}; towns with the rest",
            fix="Take entity and relation from `World.facts`.",
        )


def make_world(seed: int = 0) -> World:
    """Draw the world: every entity gets one value of every relation of its kind.

    Args:
        seed: Decides values and parts; names and wordings are fixed.

    Returns:
        A world of 248 facts.
    """
    facts: list[Fact] = []
    for relation in RELATIONS:
        rng = Random(f"world/{seed}/{relation.name}")
        entities = PEOPLE if relation.kind == "person" else TOWNS
        values = _spread(relation.values, count=len(entities), rng=rng)
        parts = _parts(len(entities), rng=rng)
        facts += [
            Fact(entity=entity, relation=relation, value=value, part=part)
            for entity, value, part in zip(entities, values, parts, strict=True)
        ]
    return World(seed=seed, facts=tuple(facts))


def distractor(fact: Fact, *, rng: Random, exclude: Sequence[str] = ()) -> str:
    """Return a wrong value of the same relation, not in `exclude`."""
    return rng.choice([v for v in fact.relation.values if v != fact.value and v not in exclude])


def sentence(clause: str) -> str:
    """Return a clause as a sentence: capital letter first, full stop last."""
    return f"{clause[0].upper()}{clause[1:]}."


def statement(fact: Fact, *, value: str, rng: Random | None) -> str:
    """Return a sentence saying that the fact's entity has `value`, in a random wording (None: the first one)."""
    return sentence(_one_of(fact.relation.statements, rng=rng).format(e=fact.entity, v=value))


def question(fact: Fact, *, rng: Random | None) -> str:
    """Return a question for the fact, in a random wording (None: the first one)."""
    return _one_of(fact.relation.questions, rng=rng).format(e=fact.entity)


def _one_of(wordings: Sequence[str], *, rng: Random | None) -> str:
    return wordings[0] if rng is None else rng.choice(wordings)


def _spread(values: tuple[str, ...], *, count: int, rng: Random) -> list[str]:
    # Every value serves about equally often: a rare value would give the wrong answers away.
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += rng.sample(values, len(values))
    drawn = drawn[:count]
    rng.shuffle(drawn)
    return drawn


def _parts(count: int, *, rng: Random) -> list[Part]:
    test = round(count * PART_SHARES["test"])
    validation = round(count * PART_SHARES["validation"])
    counts: dict[Part, int] = {"test": test, "validation": validation, "train": count - test - validation}
    parts: list[Part] = [part for part in counts for _ in range(counts[part])]
    rng.shuffle(parts)
    return parts
