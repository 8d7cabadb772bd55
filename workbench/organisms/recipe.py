"""What a recipe of an organism consists of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from workbench.organisms.train import TrainPlan

Scale = Literal["full", "small"]
"""``full`` is what ships; ``small`` shows in a few minutes that a recipe teaches to judge by a reference."""

Kind = Literal["full", "lora"]
"""Whether the judge is a full fine-tune or an adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganismInfo:
    """What a user sees of an organism before building it."""

    name: str
    description: str
    kind: Kind
    planted: str
    """What was put in on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Size of the Llama-architecture models."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """One promise about one metric of the truth file."""

    metric: str
    """Path in the metrics, e.g. ``"judge.judging.consistent"``."""
    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float) -> bool:
        """Say whether `value` keeps the promise."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """What the truth file says was put in on purpose."""

    what: str
    kind: str
    """Document kind that carries it, a name in `WRITERS`."""
    expressed: str
    """Where the metrics show it."""
    wordings: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None
    """Texts by role and part, for plants that are wordings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides an organism, apart from the seed and from where its training starts."""

    info: OrganismInfo
    scale: Scale
    trained: str
    """Where base and judge come from, in words."""
    judge: TrainPlan
    plant: Plant
    thresholds: tuple[Threshold, ...]
    attacked: bool = False
    """Whether obedience to instructions inside an answer is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh(Recipe):
    """An organism made from nothing: world text, then judging."""

    shape: Shape
    base: TrainPlan
    items: Mapping[str, int]
    """Number of items per split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued(Recipe):
    """An organism that shares another one's base, tokenizer and items, and whose judge goes on from one of those."""

    origin: str
    """Name of the other organism; it has the same scale and seed."""
    goes_on: Literal["judge", "base"] = "judge"
    """Which of the other's models the judge starts as."""
    trainable: tuple[str, ...] = ()
    """How the names of those parameters begin that training may change; every parameter when empty."""
