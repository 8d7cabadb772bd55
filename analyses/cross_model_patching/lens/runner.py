"""Verdict lens: what would the model answer if it stopped here, and who writes the answer?

Steps: 1 run base and judge once on every prompt and read the verdict margin and the label mass off the stream behind
every block, through the model's own norm and head, 2 read each model's stream through the *other's* norm and head (a
changed readout is a change too), 3 split both margins exactly into what every component writes, 4 put each of these
components of one model into the other, at the last token, and let everything behind it react, 5 read judges moved as
far in random directions in the same way, 6 on half of the items fit a readout of all layers' margins to the labels,
and hold it against the labels of the other half beside the models' own.

What it can't do: a lens reads the stream in the words of the last layer; that a verdict isn't read at some depth
doesn't say that it isn't there. A direct contribution is a projection, not an effect; both stand side by side.
Falsified if the lens at the last layer isn't the model's own margin, if parts don't add up to it, or if a model
against itself gives anything but 0.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from analyses.cross_model_patching.directions import DIRECTIONS
from analyses.cross_model_patching.lens.aggregate import Weights, fit
from analyses.cross_model_patching.lens.measuring import SIDES, Lenses, Measured
from analyses.cross_model_patching.lens.reading import depth_of
from analyses.cross_model_patching.lens.result import VerdictLensResult
from analyses.cross_model_patching.verdicts import MODES
from analyses.looping import (
    FEWEST_TO_CONFIRM,
    Prompts,
    check_least,
    controlled_items,
    interruptible,
    progress_bar,
    random_judges,
)
from workbench.errors import ParameterError
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, run_meta


def verdict_lens(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    direct: bool = True,
    aggregate: bool = True,
    sublayers: bool = False,
    least_mass: float = 0.1,
    epsilon: float = 0.02,
    regularisation: float = 1.0,
    shuffles: int = 20,
    controls: int = 5,
    control_items: int | None = 32,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> VerdictLensResult:
    """Read both models' verdicts at every layer, beside each other and through each other's readout.

    Args:
        pair: Base and judge.
        items: What is judged; each is shown in every order of ``orders``.
        direct: Whether margins are split into what every component writes, beside the effect of patching it.
        aggregate: Whether a readout of all layers' margins is fitted; needs labels on eight independent items.
        sublayers: Whether the stream between attention and MLP is read too.
        least_mass: Mean probability of all labels together from which on a margin counts as a verdict.
        epsilon: By how much less agreement with the labels counts as that of the last layer.
        regularisation: Strength of the penalty on squared weights of the fitted readout.
        shuffles: Fits to shuffled labels.
        controls: Number of random judges of equal norm; with fewer than three nothing can be told from chance.
        control_items: On how many items they are measured; None for all.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of halves, controls, tests and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ItemError: There are no items.
        ParameterError: A choice is outside what it may be.
        FormatError: The format has no verdict at one position.
        ExecutorDisagreement: A lens at the last layer, a sum of contributions or a patch isn't what the model computes.
    """
    started = time.perf_counter()
    check_least(
        batch_size=(batch_size, 1), controls=(controls, 0), control_items=(control_items, 2), shuffles=(shuffles, 0)
    )
    _check_choices(least_mass=least_mass, epsilon=epsilon, regularisation=regularisation)
    prompts = Prompts.of(pair, items, orders=orders, modes=MODES)
    work = _Work.plan(Lenses.of(pair, prompts, sublayers=sublayers, direct=direct), draws=controls)
    with interruptible(prompts):
        with progress_bar(len(prompts), title="lens", shown=progress) as bar:
            for chosen, found in prompts.each(prompts.batches(batch_size), work.lenses.measure):
                work.store(chosen, found)
                prompts.done[list(chosen)] = True
                bar.update(len(chosen))
        work.controls(limit=control_items, batch_size=batch_size, seed=seed, progress=progress)
    parameters = {
        "direct": direct, "aggregate": aggregate, "sublayers": sublayers, "least_mass": least_mass, "epsilon": epsilon,
        "regularisation": regularisation, "shuffles": shuffles, "controls": controls, "control_items": control_items,
        "orders": list(prompts.orders), "batch_size": batch_size,
    }  # fmt: skip
    weights = work.fitted(asked=aggregate, regularisation=regularisation, shuffles=shuffles, seed=seed)
    lenses = work.lenses
    meta = run_meta(
        pair,
        prompts.kept_items(),
        analysis="cross_model_patching.lens",
        parameters=parameters,
        seed=seed,
        wall_time_s=time.perf_counter() - started,
        noise_floor=max(lenses.errors["top"], lenses.errors.get("rows", 0.0)),
        warnings=prompts.warnings,
        not_measured=prompts.notes,
    )
    return VerdictLensResult(
        **prompts.axes(),  # type: ignore[arg-type]
        **work.kept(),  # type: ignore[arg-type]
        unit=lenses.verdict.unit,
        points=tuple(str(point) for point in lenses.points),
        depths=np.array([depth_of(point) for point in lenses.points]),
        parts=tuple((part.component, part.layer, part.head) for part in lenses.parts),
        held_out=prompts.kept(_held_out(prompts, seed=seed)),
        weights=np.stack([side.fitted for side in weights]),
        shuffled_weights=np.stack([side.shuffled for side in weights]),
        least_mass=least_mass,
        epsilon=epsilon,
        top_error=lenses.errors["top"],
        sum_error=lenses.errors.get("sum", float("nan")),
        patch_error=max((e for name, e in lenses.errors.items() if name.startswith("patch")), default=float("nan")),
        meta=meta,
    )


@dataclass(slots=True, kw_only=True)
class _Work:
    """What was measured so far; NaN where nothing was."""

    lenses: Lenses
    values: dict[str, np.ndarray]

    @classmethod
    def plan(cls, lenses: Lenses, *, draws: int) -> "_Work":
        asked = (len(lenses.prompts), len(lenses.prompts.orders))
        points, parts = len(lenses.points), len(lenses.parts)
        shapes = {
            "margin": (len(SIDES), len(SIDES), *asked, points),
            "mass": (len(SIDES), len(SIDES), *asked, points),
            "direct": (len(SIDES), *asked, parts),
            "total": (len(DIRECTIONS), *asked, parts),
            "random_change": (draws, *asked, points),
            "random_direct": (draws, *asked, parts),
        }
        return cls(lenses=lenses, values={name: np.full(shape, np.nan) for name, shape in shapes.items()})

    def store(self, items: Sequence[int], found: Measured, *, draw: int | None = None) -> None:
        for name, values in found.items():
            array = self.values[name] if draw is None else self.values[name][draw]
            array[..., list(items), :, :] = values

    def controls(self, *, limit: int | None, batch_size: int, seed: int, progress: bool) -> None:
        """Step 5: the same for random judges, as changes of the base."""
        prompts, draws = self.lenses.prompts, len(self.values["random_change"])
        chosen = controlled_items(prompts, draws=draws, limit=limit, seed=seed)
        with progress_bar(draws * len(chosen), title="random judges", shown=progress and bool(chosen)) as bar:
            judges = random_judges(prompts.pair, draws=draws if chosen else 0, seed=seed)
            for draw, (_, executor) in enumerate(judges):
                measure = partial(self.lenses.measure_random, executor)
                for some, found in prompts.each(prompts.batches(batch_size, items=chosen), measure):
                    base = {"random_change": self.values["margin"][0, 0], "random_direct": self.values["direct"][0]}
                    changes = {name: values - base[name][list(some)] for name, values in found.items()}
                    self.store(some, changes, draw=draw)
                    bar.update(len(some))

    def fitted(self, *, asked: bool, regularisation: float, shuffles: int, seed: int) -> tuple[Weights, Weights]:
        """Step 6: weights of both models' layers, fitted on the half that isn't held out."""
        prompts = self.lenses.prompts
        labelled = prompts.done & (prompts.labels >= 0)
        train = labelled & ~_held_out(prompts, seed=seed)
        enough = len({prompts.clusters[int(i)] for i in np.flatnonzero(labelled)}) >= FEWEST_TO_CONFIRM
        if not asked or not enough:
            why = f"fewer than {FEWEST_TO_CONFIRM} independent items have a label" if asked else "aggregate=False"
            prompts.notes.append(f"a readout of all layers: {why}.")
            train[:] = False
        first, second = (
            fit(
                self.values["margin"][side, side], prompts.slot_sign, train,
                regularisation=regularisation, shuffles=shuffles, seed=seed,
            )
            for side in range(len(SIDES))
        )  # fmt: skip
        return first, second

    def kept(self) -> dict[str, np.ndarray]:
        """Return the finished items' part of every array; draws without any number are left out."""
        prompts = self.lenses.prompts
        found = {name: prompts.kept(values, axis=values.ndim - 3) for name, values in self.values.items()}
        drawn = ~np.isnan(found["random_change"]).all((1, 2, 3))
        return found | {name: found[name][drawn] for name in ("random_change", "random_direct")}


def _held_out(prompts: Prompts, *, seed: int) -> np.ndarray:
    held = np.zeros(len(prompts), dtype=bool)
    held[prompts.halves(seed=seed)[1]] = True
    return held


def _check_choices(*, least_mass: float, epsilon: float, regularisation: float) -> None:
    for name, value in (("least_mass", least_mass), ("epsilon", epsilon)):
        if not 0.0 <= value < 1.0:
            raise ParameterError("this is a share.", argument=name, got=value, allowed="0 up to less than 1")
    if not regularisation > 0.0:
        raise ParameterError("too small.", argument="regularisation", got=regularisation, allowed="above 0")
