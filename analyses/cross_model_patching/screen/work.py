"""What a screen measures, batch by batch: scores of every token, exact last tokens, exact re-checks, random judges."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from torch import Tensor

from analyses.cross_model_patching.cells import grid, sites_of
from analyses.cross_model_patching.directions import ends, others
from analyses.cross_model_patching.screen.attribution import Method, attributed, trace, traced_sites
from analyses.cross_model_patching.screen.choosing import Chosen
from analyses.cross_model_patching.screen.exact import (
    Place,
    entered,
    exact_effects,
    held_stream,
    last_effects,
    of_change_elsewhere,
    of_model_at,
)
from analyses.cross_model_patching.screen.regions import BEFORE, LAST, by_region, names_of
from analyses.cross_model_patching.sweeping import as_numpy
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import Prompts
from workbench.hooks import HooksBackend, Site
from workbench.hooks.suffix import Suffix
from workbench.tokens import TokenBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is screened, and how."""

    sites: tuple[Site, ...]
    """Whole components, component by component and block by block."""
    units: tuple[str, ...]
    """Sites, or heads of them, in the same order: what has a score of its own."""
    regions: tuple[str, ...]
    """Parts of the prompt; the last token is the last of them."""
    directions: tuple[str, ...]
    """Whose activations go where."""
    method: Method
    """How gradients are taken."""
    steps: int
    """Nodes of a line."""
    last_k: int
    """Tokens from the end that are scored one by one."""
    calibrate: int
    """How many of them are patched exactly too."""
    examples: int
    """Items that keep the scores of every token."""

    @property
    def held(self) -> tuple[str, ...]:
        """Return the parts whose whole stream is patched: every part before the last token, then all together."""
        return (*(region for region in self.regions if region != LAST), BEFORE)


def units_of(executor: HooksBackend, sites: Sequence[str]) -> tuple[tuple[Site, ...], tuple[str, ...]]:
    """Return sites and units of some components.

    Raises:
        ParameterError: A component is unknown.
        UnknownSite: This model doesn't have it.
    """
    cells = grid(executor.anatomy, sites=tuple(sites))
    return sites_of(cells), tuple(str(cell.site) for cell in cells)


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """The prompts of a run and what was measured of them so far; NaN where nothing was."""

    prompts: Prompts
    verdict: VerdictIds
    plan: Plan
    margins: Float[np.ndarray, "side item order"]
    """Base, then judge."""
    screened: Float[np.ndarray, "direction item order region unit"]
    back: Float[np.ndarray, "direction item order back unit"]
    exact_back: Float[np.ndarray, "direction item order calibrated unit"]
    tokens: dict[tuple[int, int], Float[np.ndarray, "direction token unit"]] = field(default_factory=dict)
    """By item and order: scores of every token of the examples."""
    names: dict[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    """By item and order: the part each of these tokens lies in."""
    noise: float = 0.0

    @classmethod
    def of(cls, prompts: Prompts, verdict: VerdictIds, plan: Plan) -> "Work":
        """Return empty arrays."""
        shape = (len(plan.directions), len(prompts), len(prompts.orders))
        n = len(plan.units)
        return cls(
            prompts=prompts,
            verdict=verdict,
            plan=plan,
            margins=np.full((2, *shape[1:]), np.nan),
            screened=np.full((*shape, len(plan.regions), n), np.nan),
            back=np.full((*shape, plan.last_k, n), np.nan),
            exact_back=np.full((*shape, plan.calibrate, n), np.nan),
        )

    def executors(self, judge: HooksBackend | None = None) -> dict[str, HooksBackend]:
        """Return the models by side, or the base beside another judge."""
        pair = self.prompts.pair
        return {"base": pair.executor("base"), "judge": judge or pair.executor("judge")}

    def scores(self, batch: TokenBatch, models: dict[str, HooksBackend]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the scores of every token by direction, and both models' margins (base first)."""
        plan, wanted = self.plan, traced_sites(self.plan.sites, self.plan.method)
        targets = {ends(direction)[1] for direction in plan.directions}
        traces = {
            side: trace(
                executor, batch, wanted, self.verdict, grad=plan.method == "atp" and side in targets
            )  # fmt: skip
            for side, executor in models.items()
        }
        found = []
        for direction in plan.directions:
            donor, target = ends(direction)
            found.append(
                attributed(
                    models[target], batch, self.verdict, sites=plan.sites, ends=(traces[target], traces[donor]),
                    method=plan.method, steps=plan.steps,
                )
            )  # fmt: skip
        return found, [traces[side].margin for side in ("base", "judge")]

    def screen(self, items: tuple[int, ...]) -> None:
        """Score every token of some items, and patch their last tokens exactly."""
        batch, chosen, models = self.prompts.batch(items), list(items), self.executors()
        found, margins = self.scores(batch, models)
        for side, margin in enumerate(margins):
            self.margins[side][chosen] = self.prompts.by_item(as_numpy(margin))
        for at, scores in enumerate(found):
            self.screened[at][chosen] = self.prompts.by_item(as_numpy(by_region(scores, batch, self.plan.regions)))
            tail = scores[:, -self.plan.last_k :].flip(1)
            self.back[at][chosen] = self.prompts.by_item(as_numpy(tail))
        self._keep_examples(items, batch, found)
        suffixes = {
            side: Suffix(executor, batch, capture=self.plan.sites, tokens=self.plan.calibrate)
            for side, executor in models.items()
        }
        for at, direction in enumerate(self.plan.directions):
            donor, target = (suffixes[side] for side in ends(direction))
            effects, noise = last_effects(target, donor, self.plan.sites, self.verdict, count=self.plan.calibrate)
            self.exact_back[at][chosen] = self.prompts.by_item(effects.transpose(0, 2, 1))
            self.noise = max(self.noise, noise)

    def _keep_examples(self, items: tuple[int, ...], batch: TokenBatch, found: Sequence[Tensor]) -> None:
        names, lengths = names_of(batch), batch.lengths.tolist()
        for row, (item, order) in enumerate((i, k) for i in items for k in range(len(self.prompts.orders))):
            if item < self.plan.examples:
                self.tokens[item, order] = np.stack([as_numpy(scores[row, -lengths[row] :]) for scores in found])
                self.names[item, order] = names[row][-lengths[row] :]

    def all_places(self, chosen: Chosen) -> tuple[tuple[Place, ...], ...]:
        """Return by direction what is patched exactly: the stream of each part, then the chosen cells."""
        n_layers = self.prompts.pair.anatomy("base").n_layers
        held = tuple(held_stream(n_layers, region) for region in self.plan.held)
        return tuple((*held, *(Place((Site.parse(unit),), region) for region, unit in cells)) for cells in chosen)

    def exact(
        self, items: tuple[int, ...], places: Sequence[Sequence[Place]], *, judge: HooksBackend | None = None,
        check: int | None = None, mismatched: bool = False,
    ) -> Float[np.ndarray, "direction kind item order place"]:  # fmt: skip
        """Return the exact effects of places on some items, and of another item's change in the same place.

        Args:
            items: Which items.
            places: By direction.
            judge: Another judge; the pair's by default.
            check: Seed of the rows that are run again as full forwards.
            mismatched: Whether the second kind is measured; NaN where it isn't, or has no other item.
        """
        prompts, batch = self.prompts, self.prompts.batch(items)
        every = [place for some in places for place in some]
        suffixes = {side: entered(executor, batch, every) for side, executor in self.executors(judge).items()}
        most = max(len(some) for some in places)
        found = np.full((len(places), 2, len(items), len(prompts.orders), most), np.nan)
        other, n_orders = others([prompts.clusters[i] for i in items]), len(prompts.orders)
        # A prompt is given the change of the other item in the same answer order.
        order = [j * n_orders + k for j in other for k in range(n_orders)]
        for at, direction in enumerate(self.plan.directions):
            donor, target = (suffixes[side] for side in ends(direction))
            own = exact_effects(target, places[at], of_model_at(donor), self.verdict, check=check)
            found[at, 0, ..., : len(places[at])] = prompts.by_item(own.effect)
            self.noise = max(self.noise, own.noise)
            if mismatched:
                give = of_change_elsewhere(donor, target, order)
                effect = prompts.by_item(exact_effects(target, places[at], give, self.verdict).effect)
                alone = np.array([j == i for i, j in enumerate(other)])[:, None, None]
                found[at, 1, ..., : len(places[at])] = np.where(alone, np.nan, effect)
        return found

    def orientation(self) -> Float[np.ndarray, "item order"]:
        """Return the sign that turns slots toward the label; 1 everywhere where nothing is labelled."""
        sign = self.prompts.slot_sign
        return np.ones_like(sign) if np.isnan(sign).all() else sign


def means(values: Float[np.ndarray, "item order *cell"], sign: Float[np.ndarray, "item order"]) -> np.ndarray:
    """Return the mean over prompts of values turned by a sign; prompts with a NaN in either are left out."""
    turned = values * sign.reshape(*sign.shape, *([1] * (values.ndim - 2)))
    known = np.asarray(~np.isnan(turned).any(axis=tuple(range(2, turned.ndim))))
    return turned[known].mean(0) if known.any() else np.full(values.shape[2:], np.nan)
