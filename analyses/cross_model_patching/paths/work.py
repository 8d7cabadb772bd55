"""State of one run: what is planned, what each hop measured, and which paths go on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from analyses.cells import family_p
from analyses.cross_model_patching.advantage import (
    FEWEST_SHARED,
    Advantage,
    advantage,
    against_largest,
    means_on_same_items,
    random_gaps,
)
from analyses.cross_model_patching.directions import Direction, ends, others
from analyses.cross_model_patching.paths.tracing import Frozen, check_rows, effects_by_item, trace
from analyses.cross_model_patching.paths.writes import Writes, changes, inputs_of, opened, upstream
from analyses.cross_model_patching.sweeping import own_margin
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import FEWEST_TO_CONFIRM, Prompts, random_judges
from analyses.metrics import FEWEST_DRAWS, FLOORS, LEVEL
from workbench.hooks import HooksBackend, Site
from workbench.hooks.suffix import Mode, Suffix
from workbench.pairs import Side

_SIDES: tuple[Side, ...] = ("base", "judge")

VERDICT = "verdict"
"""Name of the receiver that isn't a site."""


@dataclass(slots=True, kw_only=True, eq=False)
class Hop:
    """Every sender's paths to some receivers, in one direction."""

    direction: Direction
    number: int
    """0 for the direct paths."""
    receivers: tuple[Site | None, ...]
    """None is the verdict."""
    effect: Float[np.ndarray, "item order receiver sender"]
    mismatched: Float[np.ndarray, "item order receiver sender"]
    random: Float[np.ndarray, "draw asked receiver sender"]
    """Toward the label with random judges in the judge's place, both orders averaged; of :attr:`Work.asked`."""
    chosen: tuple[tuple[int, int], ...] = ()
    """(receiver, sender) of the paths that go on, the strongest first."""


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """One run."""

    prompts: Prompts
    verdict: VerdictIds
    senders: tuple[Site, ...]
    directions: tuple[Direction, ...]
    frozen: Frozen
    n_receivers: int
    draws: int
    limit: int | None
    mode: Mode | None
    batch_size: int
    seed: int
    margins: Float[np.ndarray, "model item order"]
    total: Float[np.ndarray, "direction item order sender"]
    hops: list[Hop] = field(default_factory=list)
    random_gap: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    asked: list[int] = field(default_factory=list)
    """Items random judges were asked on."""
    first_half: list[int] = field(default_factory=list)
    noise: float = 0.0
    self_test: float = 0.0
    modes: tuple[str, ...] = ()

    @classmethod
    def plan(
        cls, prompts: Prompts, *, senders: tuple[Site, ...], directions: tuple[Direction, ...], **choices: Any
    ) -> "Work":
        """Make room for everything."""
        shape = (len(prompts), len(prompts.orders))
        return cls(
            prompts=prompts,
            verdict=VerdictIds.of(prompts),
            senders=senders,
            directions=directions,
            margins=np.full((2, *shape), np.nan),
            total=np.full((len(directions), *shape, len(senders)), np.nan),
            random_gap=np.zeros((0, *shape)),
            **choices,
        )

    def room(self, direction: Direction, number: int, receivers: Sequence[Site | None]) -> Hop:
        """Return an empty hop."""
        cells = (len(receivers), len(self.senders))
        shape = (len(self.prompts), len(self.prompts.orders), *cells)
        return Hop(
            direction=direction,
            number=number,
            receivers=tuple(receivers),
            effect=np.full(shape, np.nan),
            mismatched=np.full(shape, np.nan),
            random=np.zeros((0, 0, *cells)),
        )

    def models(self, items: Sequence[int], judge: HooksBackend | None = None) -> dict[str, Suffix]:
        """Run both models once on some items; ``judge`` takes the judge's place."""
        batch, pair = self.prompts.batch(items), self.prompts.pair
        executors = {"base": pair.executor("base"), "judge": judge or pair.executor("judge")}
        return {side: opened(executor, batch, mode=self.mode) for side, executor in executors.items()}

    def measure(self, hops: Sequence[Hop], items: tuple[int, ...]) -> None:
        """Follow the senders of one batch; safe to be called again on a part of it."""
        models, rows = self.models(items), list(items)
        writes = {side: Writes.of(models[side]) for side in _SIDES}
        for index, side in enumerate(_SIDES):
            self.margins[index, rows] = self.prompts.by_item(own_margin(models[side], self.verdict)[0])
        for hop in hops:
            donor, target = ends(hop.direction)
            change = changes(models[target], writes[target], writes[donor], self.senders)
            self._tested(models[target], change)
            traced = trace(
                models[target], change, hop.receivers, self.verdict, frozen=self.frozen, total=hop.number == 0
            )
            self.noise = max(self.noise, traced.noise)
            hop.effect[rows] = effects_by_item(traced, orders=len(self.prompts.orders))
            if hop.number == 0:
                self.total[self.directions.index(hop.direction), rows] = self.prompts.by_item(traced.total)

    def mislead(self, hops: Sequence[Hop]) -> None:
        """Send another item's writes, on the control items."""
        chosen = self._control_items()
        if left := int(self.prompts.done.sum()) - len(chosen):
            note = f"another item's writes on {left} items (control_items)."
            if note not in self.prompts.notes:
                self.prompts.notes.append(note)
        for _ in self.prompts.each(
            self.prompts.batches(self.batch_size, items=chosen), lambda some: self._mislead(hops, some)
        ):
            pass

    def _mislead(self, hops: Sequence[Hop], items: tuple[int, ...]) -> None:
        rows, n_orders = list(items), len(self.prompts.orders)
        other = others([self.prompts.clusters[i] for i in rows])
        apart = np.array([j != i for i, j in enumerate(other)])
        if not apart.any():
            return
        models = self.models(items)
        writes = {side: Writes.of(models[side]) for side in _SIDES}
        order = [j * n_orders + k for j in other for k in range(n_orders)]
        for hop in hops:
            donor, target = ends(hop.direction)
            change = changes(models[target], writes[target], writes[donor].of_others(order), self.senders)
            traced = trace(models[target], change, hop.receivers, self.verdict, frozen=self.frozen)
            values = effects_by_item(traced, orders=n_orders)
            values[~apart] = np.nan
            hop.mismatched[rows] = values

    def random_judges(self, hops: Sequence[Hop], *, gaps: bool) -> None:
        """Follow the same paths with random judges of equal norm in the judge's place.

        Args:
            hops: Which paths.
            gaps: Whether this is the first time, so that their margins are kept too.
        """
        chosen = self._control_items()
        place = {item: k for k, item in enumerate(chosen)}
        found = [np.full((self.draws, len(chosen), *hop.effect.shape[1:]), np.nan) for hop in hops]

        def measure(draw: int, executor: HooksBackend, items: Sequence[int]) -> None:
            models = self.models(items, executor)
            writes = {side: Writes.of(models[side]) for side in _SIDES}
            for values, hop in zip(found, hops, strict=True):
                donor, target = ends(hop.direction)
                change = changes(models[target], writes[target], writes[donor], self.senders)
                traced = trace(models[target], change, hop.receivers, self.verdict, frozen=self.frozen)
                values[draw, [place[i] for i in items]] = effects_by_item(traced, orders=len(self.prompts.orders))

        if gaps:
            self.random_gap = random_gaps(
                self.prompts, self.verdict, self.margins[0], draws=self.draws, limit=self.limit,
                batch_size=self.batch_size, seed=self.seed, measure=measure, items=chosen,
            )  # fmt: skip
            self.asked = chosen if len(self.random_gap) else []
        else:
            self._again(chosen, measure)
        sign = self.prompts.slot_sign[chosen][None, :, :, None, None]
        for values, hop in zip(found, hops, strict=True) if self.asked else ():
            hop.random = (values[: len(self.random_gap)] * sign).mean(2)

    def _again(self, chosen: Sequence[int], measure: Any) -> None:
        for draw, (_, executor) in enumerate(
            random_judges(self.prompts.pair, draws=len(self.random_gap), seed=self.seed)
        ):

            def ask(items: tuple[int, ...], draw: int = draw, executor: HooksBackend = executor) -> None:
                measure(draw, executor, items)

            for _ in self.prompts.each(self.prompts.batches(self.batch_size, items=chosen), ask):
                pass

    def choose(self, hop: Hop) -> None:
        """Choose, on one half of the items, the paths that are told from chance; at most ``n_receivers``."""
        if self.prompts.n_clusters < FEWEST_TO_CONFIRM:
            note = f"which paths survive: fewer than {FEWEST_TO_CONFIRM} independent items."
            if note not in self.prompts.notes:
                self.prompts.notes.append(note)
            return
        self.first_half = sorted(self.prompts.halves(seed=self.seed)[0])
        first = [i for i in self.first_half if self.prompts.done[i] and self.prompts.labels[i] >= 0]
        told = self.advantage()
        if not first or not (told.found if self.draws >= FEWEST_DRAWS else told.labelled and told.defined):
            return
        sign = self.prompts.slot_sign[first][:, :, None, None]
        toward = (hop.effect[first] * sign).mean(1).reshape(len(first), -1)
        means = toward.mean(0)
        p = family_p(toward, clusters=[self.prompts.clusters[i] for i in first], seed=self.seed)
        survive = (p < LEVEL) & (np.abs(means) > FLOORS * self.noise) & (means != 0)
        if len(hop.random) >= FEWEST_DRAWS:
            survive &= self._beyond_random(hop, first, toward)
        ranked = [int(i) for i in np.argsort(-np.abs(means), kind="stable") if survive[i]][: self.n_receivers]
        hop.chosen = tuple(divmod(i, len(self.senders)) for i in ranked)  # type: ignore[assignment]

    def _beyond_random(
        self, hop: Hop, first: Sequence[int], toward: Float[np.ndarray, "first path"]
    ) -> Bool[np.ndarray, " path"]:
        """Return which paths are larger than the largest of random judges, over the items both were asked on."""
        shared = [i for i in first if i in set(self.asked)]
        if len({self.prompts.clusters[i] for i in shared}) < FEWEST_SHARED:
            note = "random judges on the half paths are chosen on: these were chosen over items alone (control_items)."
            if note not in self.prompts.notes:
                self.prompts.notes.append(note)
            return np.ones(toward.shape[1], dtype=bool)
        draws = hop.random[:, [self.asked.index(i) for i in shared]].reshape(len(hop.random), len(shared), -1)
        means, same = means_on_same_items(draws, toward[[list(first).index(i) for i in shared]])
        return against_largest(same, means)[0] < LEVEL

    def next_receivers(self, hop: Hop) -> tuple[Site, ...]:
        """Return where the chosen senders themselves receive, without what was followed before."""
        anatomy = self.prompts.pair.anatomy("base")
        before = {r for other in self.hops if other.direction == hop.direction for r in other.receivers}
        wanted = [site for _, s in hop.chosen for site in inputs_of(anatomy, self.senders[s])]
        return tuple(
            site
            for site in dict.fromkeys(wanted)
            if site not in before and any(upstream(anatomy, sender, site) for sender in self.senders)
        )

    def advantage(self) -> Advantage:
        """Return what there is to recover, over the items finished so far."""
        done = self.prompts.done
        sign = self.prompts.slot_sign
        return advantage(
            ((self.margins[1] - self.margins[0]) * sign)[done],
            (self.random_gap * sign)[:, done],
            clusters=[c for c, kept in zip(self.prompts.clusters, done, strict=True) if kept],
            seed=self.seed,
        )

    def edges(self) -> dict[str, Any]:
        """Return every path of every hop side by side, of the finished items."""
        anatomy, names = self.prompts.pair.anatomy("base"), []
        effect, mismatched, random, selected = [], [], [], []
        for hop in self.hops:
            cells = [(r, s) for r in range(len(hop.receivers)) for s in range(len(self.senders))]
            kept = [k for k, (r, s) in enumerate(cells) if upstream(anatomy, self.senders[s], hop.receivers[r])]
            draws = np.full((len(self.random_gap), len(self.asked), *hop.random.shape[2:]), np.nan)
            if len(hop.random):
                draws[:] = hop.random
            for array, parts in ((hop.effect, effect), (hop.mismatched, mismatched), (draws, random)):
                parts.append(array.reshape(*array.shape[:-2], len(cells))[..., kept])
            for r, s in (cells[k] for k in kept):
                receiver = hop.receivers[r]
                names.append(
                    (hop.direction, hop.number, VERDICT if receiver is None else str(receiver), str(self.senders[s]))
                )
                selected.append(float((r, s) in hop.chosen))
        direction, number, receiver, sender = (tuple(column) for column in zip(*names, strict=True))
        return {
            "edge_directions": direction,
            "edge_hops": number,
            "edge_receivers": receiver,
            "edge_senders": sender,
            "effect": self.prompts.kept(np.concatenate(effect, axis=-1)),
            "mismatched_effect": self.prompts.kept(np.concatenate(mismatched, axis=-1)),
            "random_effect": np.concatenate(random, axis=-1),
            "random_items": self.prompts.kept(np.isin(np.arange(len(self.prompts)), self.asked)),
            "selected": np.array(selected),
        }

    def _control_items(self) -> list[int]:
        return [i for i in self.prompts.sample(self.limit, seed=self.seed) if self.prompts.done[i]]

    def _tested(self, target: Suffix, change: dict[Site, Any]) -> None:
        """Once per direction: random rows of the first prompt as full forwards."""
        if len(self.modes) >= len(self.directions):
            return
        self.modes = (*self.modes, target.mode)
        worst = check_rows(target, change, self.verdict, frozen=self.frozen, seed=self.seed)
        self.self_test = max(worst, self.self_test)
