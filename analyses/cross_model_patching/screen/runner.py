"""Which text in the middle of a prompt does the judge's advantage pass through?

Patches of the last token are exact and nearly free; patches of an answer's body cost a whole forward each. They are
screened instead, by attribution patching:

    score(site, token) = <d margin / d activation, donor's activation - own activation>

(Nanda 2023; Syed et al. 2023; integrated gradients as in Hanna et al. 2024, but along the activations of one site),
and what the screen puts first is patched exactly. The screen is never believed: a cell is called found by its exact
effect on items it wasn't chosen on.

Steps: 1 one forward and one backward pass of each model give every token of every site a score, added up by part of
the prompt and by token from the end, 2 the same units at the last token are patched exactly, which says how far the
scores can be trusted, 3 the largest cells in front of it are named on one half of the items, 4 and patched exactly on
the other, beside the whole stream of every part, and beside what another item's change does in the same place, 5 the
same with judges moved as far in random directions.

What it can't do: find what a gradient doesn't see (a saturated softmax, two sites that only work together). Falsified
if a model against itself scores anything but 0, if tokens don't add up to their parts, or if the scores of a small
change aren't its exact effects.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from analyses.cross_model_patching.advantage import random_gaps
from analyses.cross_model_patching.directions import DIRECTIONS
from analyses.cross_model_patching.screen.attribution import METHODS, Method
from analyses.cross_model_patching.screen.choosing import Chosen, choose
from analyses.cross_model_patching.screen.regions import BACK, by_region, regions_of
from analyses.cross_model_patching.screen.result import ScreenResult
from analyses.cross_model_patching.screen.views import STREAM
from analyses.cross_model_patching.screen.work import Plan, Work, means, units_of
from analyses.cross_model_patching.sweeping import as_numpy
from analyses.cross_model_patching.verdicts import MODES, VerdictIds
from analyses.looping import FEWEST_TO_CONFIRM, Prompts, check_least, interruptible, progress_bar
from workbench.errors import ParameterError
from workbench.hooks import HooksBackend
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, run_meta

Direction = Literal["both", "judge_to_base", "base_to_judge"]


def screen(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    sites: Sequence[str] = ("resid_pre", "attn_out", "mlp_out", "z"),
    spans: Sequence[str] | None = None,
    method: Method = "atp",
    steps: int = 5,
    direction: Direction = "both",
    recheck: int = 10,
    last_k: int = 8,
    calibrate: int = 1,
    examples: int = 3,
    controls: int = 3,
    control_items: int | None = 16,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> ScreenResult:
    """Score what a patch of every token of every site would do, and patch the largest of them exactly.

    Args:
        pair: Base and judge.
        items: What to judge.
        sites: Components; ``q``, ``k``, ``v``, ``z`` head by head.
        spans: Named spans of the prompt; None for all of them and the template between.
        method: ``"atp"`` for one gradient at the target's own activations (about three forwards); ``"ig"`` for the mean
            gradient on the straight line between target's and donor's activations of each site (``steps`` forwards
            and backwards per site and block).
        steps: Gauss-Legendre nodes of a line; ``"ig"`` only.
        direction: Whose activations go where: ``"judge_to_base"``, ``"base_to_judge"`` or ``"both"``.
        recheck: How many cells a direction are patched exactly, on items they weren't named on.
        last_k: Tokens from the end that are scored one by one, 64 at most.
        calibrate: At how many of them every unit is patched exactly too.
        examples: Items that keep the scores of every token.
        controls: Number of random judges of equal norm; with fewer than three nothing can be told from chance.
        control_items: On how many items they are measured; None for all.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of halves, controls and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ParameterError: A choice is unknown or outside the prompts.
        UnknownSite: The model doesn't have a component.
        ItemError: There are no items.
        FormatError: The labels can't be told apart by their first tokens.
        ExecutorDisagreement: An exact patch differs from a full forward with the same patch.
    """
    started = time.perf_counter()
    check_least(
        steps=(steps, 1), recheck=(recheck, 0), calibrate=(calibrate, 1), last_k=(last_k, calibrate),
        examples=(examples, 0), controls=(controls, 0), control_items=(control_items, 2), batch_size=(batch_size, 1),
    )  # fmt: skip
    prompts = Prompts.of(pair, items, orders=orders, modes=MODES)
    _check_choices(prompts, method=method, direction=direction, last_k=last_k)
    whole, units = units_of(pair.executor("base"), sites)
    plan = Plan(
        sites=whole, units=units, regions=regions_of(prompts, spans),
        directions=DIRECTIONS if direction == "both" else (direction,), method=method, steps=steps, last_k=last_k,
        calibrate=calibrate, examples=examples,
    )  # fmt: skip
    run = _Run(Work.of(prompts, VerdictIds.of(prompts), plan), recheck=recheck, seed=seed, batch_size=batch_size)
    with interruptible(prompts):
        run.screen(progress=progress)
        run.choose()
        run.confirm(progress=progress)
        run.control(draws=controls, limit=control_items)
    parameters: dict[str, Any] = {
        "sites": list(sites), "spans": None if spans is None else list(spans), "method": method, "steps": steps,
        "direction": direction, "recheck": recheck, "last_k": last_k, "calibrate": calibrate, "examples": examples,
        "controls": controls, "control_items": control_items, "orders": list(prompts.orders), "batch_size": batch_size,
    }  # fmt: skip
    meta = run_meta(
        pair, prompts.kept_items(), analysis="cross_model_patching.screen", parameters=parameters, seed=seed,
        wall_time_s=time.perf_counter() - started, noise_floor=run.work.noise, warnings=prompts.warnings,
        not_measured=prompts.notes,
    )  # fmt: skip
    return ScreenResult(**prompts.axes(), **run.fields(), meta=meta)  # type: ignore[arg-type]


def _check_choices(prompts: Prompts, *, method: str, direction: str, last_k: int) -> None:
    if method not in METHODS:
        raise ParameterError("unknown way of taking gradients.", argument="method", got=method, allowed=METHODS)
    if direction not in ("both", *DIRECTIONS):
        raise ParameterError("unknown direction.", argument="direction", got=direction, allowed=("both", *DIRECTIONS))
    shortest = min(map(len, prompts.encoded.rows))
    if last_k > min(shortest, len(BACK)):
        raise ParameterError(
            "not every prompt has so many tokens.",
            argument="last_k",
            got=last_k,
            allowed=f"1 to {min(shortest, len(BACK))}",
        )


class _Run:
    """The steps of one screen, each leaving its numbers behind."""

    def __init__(self, work: Work, *, recheck: int, seed: int, batch_size: int) -> None:
        self.work, self.recheck, self.seed, self.batch_size = work, recheck, seed, batch_size
        prompts, plan = work.prompts, work.plan
        self.ranked: Bool[np.ndarray, " item"] = np.zeros(len(prompts), dtype=bool)
        self.chosen: Chosen = ((),) * len(plan.directions)
        shape = (len(plan.directions), len(prompts), len(prompts.orders))
        self.exact: Float[np.ndarray, "kind direction item order place"] = np.full((2, *shape, len(plan.held)), np.nan)
        self.random_gap: Float[np.ndarray, "draw item order"] = np.full((0, *shape[1:]), np.nan)
        self.drawn: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        """By draw and item: screened parts ``[direction order region unit]``, exact ``[direction order place]``."""

    def screen(self, *, progress: bool) -> None:
        """Steps 1 and 2: all scores, and the exact last tokens."""
        prompts = self.work.prompts
        with progress_bar(len(prompts), title="screening", shown=progress) as bar:
            for some, _ in prompts.each(prompts.batches(self.batch_size), self.work.screen):
                prompts.done[list(some)] = True
                bar.update(len(some))

    def choose(self) -> None:
        """Step 3: name the largest cells on one half."""
        work, plan, prompts = self.work, self.work.plan, self.work.prompts
        if self.recheck and prompts.n_clusters < FEWEST_TO_CONFIRM:
            prompts.notes.append(
                f"exact patches of screened cells (fewer than {FEWEST_TO_CONFIRM} independent items to name them on)."
            )
        elif self.recheck:
            half = prompts.halves(seed=self.seed)[0]
            self.ranked[half] = True
            sign = work.orientation()[half]
            self.chosen = tuple(
                choose(
                    means(work.screened[at][half], sign), means(work.back[at][half], sign),
                    regions=plan.regions, units=plan.units, calibrated=plan.calibrate, count=self.recheck,
                )
                for at in range(len(plan.directions))
            )  # fmt: skip
        most = max(map(len, self.chosen))
        self.exact = np.full((*self.exact.shape[:-1], len(plan.held) + most), np.nan)

    def confirm(self, *, progress: bool) -> None:
        """Step 4: patch them, and the stream of every part, on the other half."""
        prompts, places = self.work.prompts, self.work.all_places(self.chosen)
        tested = np.flatnonzero(~self.ranked).tolist()
        checks = iter([self.seed])
        with progress_bar(len(tested), title="exact patches", shown=progress) as bar:

            def measure(items: tuple[int, ...]) -> np.ndarray:
                return self.work.exact(items, places, check=next(checks, None), mismatched=True)

            for some, found in prompts.each(prompts.batches(self.batch_size, items=tested), measure):
                self.exact[:, :, list(some)] = found.swapaxes(0, 1)
                bar.update(len(some))

    def control(self, *, draws: int, limit: int | None) -> None:
        """Step 5: the same of judges moved as far at random."""
        work, places = self.work, self.work.all_places(self.chosen)

        def measure(draw: int, executor: HooksBackend, items: Sequence[int]) -> None:
            batch = work.prompts.batch(items)
            found, _ = work.scores(batch, work.executors(executor))
            parts = [work.prompts.by_item(as_numpy(by_region(scores, batch, work.plan.regions))) for scores in found]
            exact = work.exact(tuple(items), places, judge=executor)[:, 0]
            for at, item in enumerate(items):
                self.drawn[draw, item] = np.stack([part[at] for part in parts]), exact[:, at]

        self.random_gap = random_gaps(
            work.prompts, work.verdict, work.margins[0], draws=draws, limit=limit, batch_size=self.batch_size,
            seed=self.seed, measure=measure,
        )  # fmt: skip

    def fields(self) -> dict[str, object]:
        """Return the fields of the result, of the finished items."""
        work, plan, prompts = self.work, self.work.plan, self.work.prompts
        kept = {
            name: prompts.kept(array, axis=1)
            for name, array in (("screened", work.screened), ("back", work.back), ("exact_back", work.exact_back),
                                ("exact", self.exact[0]), ("mismatched", self.exact[1]),
                                ("random_gap", self.random_gap))
        }  # fmt: skip
        held = tuple((region, STREAM) for region in plan.held)
        described = asdict(plan)
        return {
            **kept,
            **{name: described[name] for name in ("units", "regions", "directions", "method", "steps")},
            **self._random_means(),
            **_examples(work),
            "places": tuple((*held, *cells) for cells in self.chosen),
            "unit": work.verdict.unit,
            "base_margin": prompts.kept(work.margins[0]),
            "judge_margin": prompts.kept(work.margins[1]),
            "ranked": prompts.kept(self.ranked),
        }

    def _random_means(self) -> dict[str, np.ndarray]:
        """Return means of the random judges that were asked on all control items, and which items these are."""
        plan, sign = self.work.plan, self.work.orientation()
        n_draws, asked = len(self.random_gap), sorted({item for _, item in self.drawn})
        whole = [draw for draw in range(n_draws) if asked and all((draw, item) in self.drawn for item in asked)]
        tested = [item for item in asked if not self.ranked[item]]
        items = np.zeros(len(self.ranked), dtype=bool)
        items[asked if whole else []] = True
        screened = np.zeros((len(whole), len(plan.directions), len(plan.regions), len(plan.units)))
        exact = np.full((len(whole), len(plan.directions), self.exact.shape[-1]), np.nan)
        for k, draw in enumerate(whole):
            for array, kind, chosen in ((screened, 0, asked), (exact, 1, tested)):
                for at in range(len(plan.directions) if chosen else 0):
                    values = np.stack([self.drawn[draw, item][kind][at] for item in chosen])
                    array[k, at] = _filled_means(values, sign[chosen])
        return {
            "random_screened": screened, "random_exact": exact, "random_items": self.work.prompts.kept(items)
        }  # fmt: skip


def _filled_means(values: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Return means over prompts; cells that exist in the other direction only stay NaN."""
    absent = np.isnan(values).all(axis=(0, 1))
    return np.where(absent, np.nan, means(np.where(absent, 0.0, values), sign))


def _examples(work: Work) -> dict[str, object]:
    """Return the token scores of the examples that were finished, padded on the right with NaN."""
    prompts, plan = work.prompts, work.plan
    items = sorted({item for item, _ in work.tokens if prompts.done[item]})
    columns = range(len(prompts.orders))
    longest = max((work.tokens[i, k].shape[1] for i in items for k in columns), default=0)
    scores = np.full((len(items), len(prompts.orders), len(plan.directions), longest, len(plan.units)), np.nan)
    texts = []
    for at, item in enumerate(items):
        rows = [prompts.encoded.rows[row] for row in prompts.rows_of([item])]
        texts.append(tuple(tuple(prompts.pair.tokenizer.decode([token]) for token in row) for row in rows))
        for k in columns:
            found = work.tokens[item, k]
            scores[at, k, :, : found.shape[1]] = found
    return {
        "example_scores": scores,
        "example_items": tuple(prompts.items[item].item_id for item in items),
        "example_tokens": tuple(texts),
        "example_regions": tuple(tuple(work.names[item, k] for k in columns) for item in items),
    }
