"""Where was the judge's advantage written? Swap weights part by part, and patch the same places beside it.

Activation patching says where a difference is *seen*: sites downstream of a change light up without having changed.
A weight swap says where it was *written*: one model runs with one part's weights taken from the other, and a part
that fine-tuning left alone does exactly nothing.

Steps: 1 tell which parts hold the same bits in both models, 2 swap every other part, restarting from the cached
stream that enters its block, and read the margin, 3 patch the activations of the same places at all positions, heads
also through the donor's own output projection, 4 stitch the models at every depth, 5 do 2 and 3 with judges moved as
far in random directions (3 for blocks and modules only: a patched head is held against the largest of these), 6 redo
a few swaps in a clone that holds the other's tensors.

What it can't do: say what a part computes; add effects up (parts depend on each other).
Falsified if a part that wasn't tuned has an effect, or identical models anything but exactly 0.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from analyses.cross_model_patching.advantage import random_gaps
from analyses.cross_model_patching.directions import DIRECTIONS
from analyses.cross_model_patching.verdicts import MODES, VerdictIds
from analyses.cross_model_patching.weights.measuring import Measured, Plan, checked, measure
from analyses.cross_model_patching.weights.parts import (
    GRANULARITIES,
    HEADS,
    Granularity,
    Part,
    parts_of,
    paths_of,
    unchanged,
)
from analyses.cross_model_patching.weights.result import WeightSwapResult
from analyses.looping import Prompts, check_least, interruptible, progress_bar
from workbench.errors import ParameterError
from workbench.hooks import HooksBackend
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, run_meta

Direction = Literal["both", "judge_to_base", "base_to_judge"]

_CHECKED = 2


def swap_weights(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    granularity: Sequence[Granularity] = GRANULARITIES,
    direction: Direction = "both",
    layers: Sequence[int] | None = None,
    controls: int = 5,
    control_items: int | None = 32,
    compare: bool = True,
    grafts: bool = True,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> WeightSwapResult:
    """Run one model with one part's weights taken from the other, part by part; and patch the same places.

    Args:
        pair: Base and judge; both left as they are, no weight is copied.
        items: What is judged.
        granularity: Some of ``layer`` (whole blocks), ``module`` (attention, MLP and norms of each block; embedding,
            final norm and unembedding), ``head`` (query heads, key-value heads as groups).
        direction: ``judge_to_base`` (what the base gains), ``base_to_judge`` (what the judge loses), or both.
        layers: Which blocks; all by default.
        controls: Number of random judges of equal norm; with fewer than three nothing can be told from chance.
        control_items: On how many items they are measured; None for all.
        compare: Whether activations of the same places are patched too.
        grafts: Whether the judge's first blocks are stitched under the base's others, at every depth.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of controls, tests and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ParameterError: A choice doesn't exist.
        ItemError: There are no items.
        FormatError: The format is of another mode, or its labels begin alike.
        ExecutorDisagreement: A swap differs from the same swap in a clone of the model.
    """
    started = time.perf_counter()
    check_least(batch_size=(batch_size, 1), controls=(controls, 0), control_items=(control_items, 2))
    if direction not in ("both", *DIRECTIONS):
        raise ParameterError("no such direction.", argument="direction", got=direction, allowed=["both", *DIRECTIONS])
    prompts = Prompts.of(pair, items, orders=orders, modes=MODES)
    base, judge = pair.executor("base"), pair.executor("judge")
    parts = parts_of(base.anatomy, granularity, layers=layers)
    plan = Plan(
        verdict=VerdictIds.of(prompts),
        parts=parts,
        unchanged=unchanged(base, judge, parts),
        directions=DIRECTIONS if direction == "both" else (direction,),
        compare=compare,
        through=compare,
        grafts=grafts,
    )
    work = _Work.of(prompts, plan, draws=controls)
    noise = work.run(base, judge, limit=control_items, batch_size=batch_size, seed=seed, progress=progress)
    if "head" in granularity and not any(part.kind in HEADS for part in parts):
        prompts.notes.append("heads: this architecture's projections can't be told apart.")
    meta = run_meta(
        pair,
        prompts.kept_items(),
        analysis="cross_model_patching.weights",
        parameters={
            "granularity": list(granularity),
            "direction": direction,
            "layers": None if layers is None else list(layers),
            "controls": controls,
            "control_items": control_items,
            "compare": compare,
            "grafts": grafts,
            "orders": list(prompts.orders),
            "batch_size": batch_size,
        },
        seed=seed,
        wall_time_s=time.perf_counter() - started,
        noise_floor=noise,
        warnings=prompts.warnings,
        not_measured=prompts.notes,
    )
    return WeightSwapResult(
        **prompts.axes(),  # type: ignore[arg-type]
        directions=plan.directions,
        kinds=tuple(part.kind for part in parts),
        layers=tuple(-1 if part.layer is None else part.layer for part in parts),
        heads=tuple(-1 if part.head is None else part.head for part in parts),
        n_layers=base.anatomy.n_layers,
        unit=plan.verdict.unit,
        tied=_tied(base),
        unchanged=plan.unchanged.numpy(),
        **work.arrays(),
        meta=meta,
    )


@dataclass(slots=True, kw_only=True)
class _Work:
    """What was measured so far, item first."""

    prompts: Prompts
    plan: Plan
    draws: int
    own: dict[str, np.ndarray]
    """Fields of :class:`Measured` as ``[item order ...]``."""
    random: dict[str, np.ndarray]
    """Gap, written and seen of random judges, ``[draw item order ...]``."""

    @classmethod
    def of(cls, prompts: Prompts, plan: Plan, *, draws: int) -> "_Work":
        """Make room."""
        lead = (len(prompts), len(prompts.orders))
        cells = (len(plan.directions), len(plan.parts))
        depth = prompts.pair.n_layers
        shapes = dict.fromkeys(("written", "seen", "through"), cells) | {
            "base": (), "judge": (), "all_z": (cells[0], depth), "graft": (depth + 1,)
        }  # fmt: skip
        own = {name: np.full((*lead, *shape), np.nan) for name, shape in shapes.items()}
        kinds = {"gap": (), "written": cells, "seen": cells}
        kept = draws if prompts.pair.delta(spectrum=False).moved else 0
        random = {name: np.full((kept, *lead, *shape), np.nan) for name, shape in kinds.items()}
        return cls(prompts=prompts, plan=plan, draws=draws, own=own, random=random)

    def run(
        self, base: HooksBackend, judge: HooksBackend, *, limit: int | None, batch_size: int, seed: int, progress: bool
    ) -> float:
        """Measure all items, then random judges; return how far swaps are from swaps done the plain way, logits."""
        prompts, noise = self.prompts, float("nan")
        with interruptible(prompts):
            first = next(prompts.batches(batch_size))[:_CHECKED]
            noise = prompts.on_some(first, lambda some: checked(self.plan, base, judge, prompts.batch(some), seed=seed))
            with progress_bar(len(prompts), title="weight swaps", shown=progress) as bar:
                batches = prompts.batches(batch_size)
                for some, found in prompts.each(batches, lambda s: measure(self.plan, base, judge, prompts.batch(s))):
                    self._keep(some, found)
                    bar.update(len(some))
            self._controls(base, limit=limit, batch_size=batch_size, seed=seed)
        return noise

    def _keep(self, some: Sequence[int], found: Measured) -> None:
        for name, values in found._asdict().items():
            self.own[name][list(some)] = self.prompts.by_item(values)
        self.prompts.done[list(some)] = True

    def _controls(self, base: HooksBackend, *, limit: int | None, batch_size: int, seed: int) -> None:
        """Step 5: the same parts of judges moved as far in random directions; patches of heads only where alone."""
        alone = all(part.kind in HEADS for part in self.plan.parts)
        plan = replace(self.plan, heads=alone, through=False, grafts=False)
        same: dict[int, Plan] = {}

        def on_random(draw: int, executor: HooksBackend, some: Sequence[int]) -> None:
            if draw not in same:
                same[draw] = replace(plan, unchanged=unchanged(base, executor, plan.parts))
            found = measure(same[draw], base, executor, self.prompts.batch(some))
            for name, values in (("gap", found.judge - found.base), ("written", found.written), ("seen", found.seen)):
                self.random[name][draw, list(some)] = self.prompts.by_item(values)

        random_gaps(
            self.prompts,
            self.plan.verdict,
            self.own["base"],
            draws=self.draws,
            limit=limit,
            batch_size=batch_size,
            seed=seed,
            measure=on_random,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the result, of the finished items."""
        own = {name: self.prompts.kept(values) for name, values in self.own.items()}
        random = {name: self.prompts.kept(values, axis=1) for name, values in self.random.items()}
        by_direction = ("written", "seen", "through", "all_z")
        return {
            "base_margin": own["base"],
            "judge_margin": own["judge"],
            "graft": own["graft"],
            **{name: np.moveaxis(own[name], 2, 0) for name in by_direction},
            "random_gap": random["gap"],
            **{f"random_{name}": np.moveaxis(random[name], 3, 1) for name in ("written", "seen")},
        }


def _tied(executor: HooksBackend) -> bool:
    ends = [paths_of(executor.anatomy, Part(kind=kind)) for kind in ("embedding", "unembed")]
    tensors = [{id(p) for path in paths for p in executor.module.get_submodule(path).parameters()} for paths in ends]
    return bool(tensors[0] & tensors[1])
