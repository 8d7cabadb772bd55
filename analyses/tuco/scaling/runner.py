"""How does the judge change when fine-tuning's contribution is scaled, and how far until a verdict flips?

    x_{l+1} = x_l + PTC(x_l, l) + alpha FTC(x_l, l)

in every block at every token, or in chosen blocks, sub-layers, heads or spans only; both models read the
scaled run's own stream. Paper: Nuti, Franzmeyer, Henriques, "TuCo", ICML 2025 (arXiv 2506.23423), Definition 5.1.

Steps: 1 the two ends are the two models to the bit, 2 verdicts of every prompt at every alpha, 3 the same with
weights interpolated (optional), 4 the same for judges moved as far in random directions, 5 curves, flip alphas,
and an alpha chosen on one half of the items and tested on the other.

What it can't do: say what a judge trained less would have said. Falsified if identical models give a curve that
isn't flat.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from analyses.looping import Prompts, check_least, controlled_items, interruptible, progress_bar, random_judges
from analyses.tuco.scaling.points import Point, check_ends, noise_gap, own_point, scaled_points
from analyses.tuco.scaling.regions import EVERYWHERE, WEIGHTS
from analyses.tuco.scaling.result import ScalingResult
from analyses.tuco.scaling.weights import interpolated_judge
from workbench.errors import ParameterError
from workbench.hooks import HooksBackend
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, Scaling, Side, run_meta
from workbench.tokens import TokenBatch

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""The grid: from no fine-tuning in any block to half as much again."""
_SIDES: tuple[Side, Side] = ("judge", "base")
_HALVES = 7919


def scale(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    alphas: Sequence[float] = ALPHAS,
    scalings: Mapping[str, Scaling] | None = None,
    ends: Side = "judge",
    weights: bool = False,
    answer_length: Callable[[str], float] | None = None,
    controls: int = 5,
    control_items: int | None = 32,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> ScalingResult:
    """Judge every item at every alpha, and beside it with random changes scaled the same way.

    Args:
        pair: Base and judge.
        items: What to judge; each is shown in every order of ``orders``.
        alphas: Scales; 1 must be among them.
        scalings: What each curve scales, by name, e.g. :func:`by_layer` or :func:`by_span`; their own alpha is
            replaced by each value of the grid. Headline numbers are about the first. Every block at every token by
            default.
        ends: Whose embedding, final norm and head are used.
        weights: Whether to add a curve along the line between the two models' block weights (one forward per alpha).
        answer_length: Length of an answer, a positive number or NaN; tokens by default. Length bias is about this.
        controls: Number of random changes of equal norm that are scaled too; with fewer than three no effect can be
            told from chance.
        control_items: On how many items they are measured; None for all.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of controls, halves and intervals.
        progress: Whether to show progress bars.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ParameterError: A choice isn't allowed.
        ItemError: There are no items.
        ContextWindowError: A prompt is longer than the models' window.
        FormatError: The labels of A and B don't differ in their first token.
        PairMismatch: ``weights`` of an adapter that isn't plain LoRA.
        ExecutorDisagreement: The ends of the curve aren't the two models to the bit.
    """
    started = time.perf_counter()
    check_least(batch_size=(batch_size, 1), controls=(controls, 0), control_items=(control_items, 2))
    grid = _grid(alphas)
    curves = dict(scalings) if scalings is not None else {EVERYWHERE: Scaling()}
    _check_curves(curves, ends=ends)
    prompts = Prompts.of(pair, items, orders=orders)
    lengths = _lengths(prompts, answer_length)
    work = _Work.plan(
        prompts, curves=curves, alphas=grid, ends=ends, weights=weights, batch_size=batch_size, progress=progress
    )
    with interruptible(prompts):
        work.check()
        work.measure_items()
        work.measure_weights()
        work.measure_controls(draws=controls, limit=control_items, seed=seed)
    parameters = {
        "alphas": list(grid),
        "scalings": {name: scaling.label() for name, scaling in curves.items()},
        "ends": ends,
        "weights": weights,
        "answer_length": "tokens" if answer_length is None else _name(answer_length),
        "controls": controls,
        "control_items": control_items,
        "orders": list(orders),
        "batch_size": batch_size,
    }
    fields: dict[str, Any] = prompts.axes() | work.fields(lengths, seed=seed)
    return ScalingResult(
        **fields,
        length_name="length in tokens" if answer_length is None else _name(answer_length),
        meta=run_meta(
            pair,
            prompts.kept_items(),
            analysis="tuco.scaling",
            parameters=parameters,
            seed=seed,
            wall_time_s=time.perf_counter() - started,
            noise_floor=work.noise,
            edits=[f"{name}: {scaling.label()} ({scaling.fingerprint()})" for name, scaling in curves.items()],
            warnings=prompts.warnings,
            not_measured=prompts.notes,
        ),
    )


@dataclass(slots=True, kw_only=True, eq=False)
class _Work:
    """State of one run: what is planned, what is measured so far."""

    prompts: Prompts
    curves: dict[str, Scaling]
    alphas: tuple[float, ...]
    ends: Side
    weights: bool
    batch_size: int
    progress: bool
    points: np.ndarray
    """Gap and mass, ``[number curve alpha item order]``."""
    own: np.ndarray
    """Gap and mass of judge and base, ``[side number item order]``."""
    controls: list[np.ndarray]
    """Gaps of the finished draws, ``[curve alpha item order]``."""
    control_own: list[np.ndarray]
    """Gaps of those judges themselves, ``[item order]``."""
    noise: float | None = None

    @classmethod
    def plan(
        cls,
        prompts: Prompts,
        *,
        curves: dict[str, Scaling],
        alphas: tuple[float, ...],
        ends: Side,
        weights: bool,
        batch_size: int,
        progress: bool,
    ) -> "_Work":
        shape = (len(prompts), len(prompts.orders))
        if not weights:
            prompts.notes.append("the same curve with weights interpolated (weights=False).")
        return cls(
            prompts=prompts,
            curves=curves,
            alphas=alphas,
            ends=ends,
            weights=weights,
            batch_size=batch_size,
            progress=progress,
            points=np.full((2, len(curves) + weights, len(alphas), *shape), np.nan),
            own=np.full((2, 2, *shape), np.nan),
            controls=[],
            control_own=[],
        )

    @property
    def pair(self) -> Pair:
        """Return the real pair."""
        return self.prompts.pair

    @property
    def ids(self) -> tuple[int, int]:
        """Return the verdict tokens."""
        return self.prompts.verdict_ids

    def batches(self, items: Sequence[int] | None = None) -> list[tuple[int, ...]]:
        """Return the batches of some items, all of them by default."""
        return list(self.prompts.batches(self.batch_size, items=items))

    def bar(self, total: int, title: str) -> tqdm:
        """Return a progress bar."""
        return progress_bar(total, title=title, shown=self.progress)

    def check(self) -> None:
        """Step 1: the ends are the models, and what rounding does to a gap."""
        self.prompts.on_some(self.batches()[0], self._check)

    def _check(self, items: Sequence[int]) -> None:
        batch = self.prompts.batch(items)
        check_ends(self.pair, batch, ids=self.ids)
        try:
            self.noise = noise_gap(self.pair, batch, alphas=self.alphas, ids=self.ids)
        except ParameterError as err:
            self.prompts.notes.append(f"how far rounding moves a gap ({err.what})")

    def measure_items(self) -> None:
        """Step 2 on every item."""
        with self.bar(len(self.prompts), "scaling") as bar:
            for chosen, (ends, points) in self.prompts.each(self.batches(), self._item_points):
                for k, side in enumerate(_SIDES):
                    self.own[k][:, list(chosen)] = self._by_item(np.array(ends[side]))
                self._store(self.points, chosen, points)
                self.prompts.done[list(chosen)] = True
                bar.update(len(chosen))

    def _item_points(self, chosen: Sequence[int]) -> tuple[dict[Side, Point], np.ndarray]:
        batch = self.prompts.batch(chosen)
        ends: dict[Side, Point] = {s: own_point(self.pair.executor(s), batch, ids=self.ids) for s in _SIDES}
        return ends, self._curves(self.pair, batch, own=ends[self.ends])

    def measure_weights(self) -> None:
        """Step 3: the line between the weights, alpha by alpha, so that one model more is in memory at a time."""
        if self.weights:
            with self.bar(len(self.prompts) * len(self.alphas), "interpolating weights") as bar:
                self._along_weights(self.pair, self.points, bar=bar)

    def measure_controls(self, *, draws: int, limit: int | None, seed: int) -> None:
        """Step 4: judges moved as far in random directions; a draw counts when it is finished."""
        chosen = controlled_items(self.prompts, draws=draws, limit=limit, seed=seed)
        if not chosen:
            return
        with self.bar(draws * len(chosen), "scaling random changes") as bar:
            for control, executor in random_judges(self.pair, draws=draws, seed=seed):
                self._measure_control(control, executor, chosen, bar=bar)

    def _measure_control(self, control: Pair, executor: HooksBackend, items: Sequence[int], *, bar: tqdm) -> None:
        points, own = np.full_like(self.points, np.nan), np.full_like(self.own[0], np.nan)

        def run(chosen: Sequence[int]) -> tuple[Point, np.ndarray]:
            batch = self.prompts.batch(chosen)
            judge = own_point(executor, batch, ids=self.ids)
            known = judge if self.ends == "judge" else own_point(self.pair.executor("base"), batch, ids=self.ids)
            return judge, self._curves(control, batch, own=known)

        for chosen, (judge, values) in self.prompts.each(self.batches(items), run):
            own[:, list(chosen)] = self._by_item(np.array(judge))
            self._store(points, chosen, values)
            bar.update(len(chosen))
        if self.weights:
            self._along_weights(control, points, items=items)
        self.controls.append(points[0])
        self.control_own.append(own[0])

    def fields(self, lengths: np.ndarray, *, seed: int) -> dict[str, object]:
        """Return the result's own fields, of the finished items."""
        kept, shape = self.prompts.kept, self.points.shape[1:]
        none = np.zeros((0, *shape))
        # Another seed than that of the control items, or all of those could fall into one half.
        first_half, _ = self.prompts.halves(seed=seed + _HALVES)
        names = (*self.curves, WEIGHTS) if self.weights else tuple(self.curves)
        off = [dataclasses.replace(scaling, alpha=0.0).label() for scaling in self.curves.values()]
        return {
            "curves": tuple(names),
            "described": (*off, "the base's weights in every block")[: len(names)],
            "ends": self.ends,
            "choices": self.prompts.choices,
            "alphas": np.array(self.alphas),
            "gap": kept(self.points[0], axis=2),
            "mass": kept(self.points[1], axis=2),
            "judge_gap": kept(self.own[0, 0]),
            "judge_mass": kept(self.own[0, 1]),
            "base_gap": kept(self.own[1, 0]),
            "base_mass": kept(self.own[1, 1]),
            "control_gap": kept(np.stack(self.controls) if self.controls else none, axis=3),
            "control_judge_gap": kept(np.stack(self.control_own) if self.controls else none[:, 0, 0], axis=1),
            "lengths": kept(lengths),
            "chosen_on": kept(np.isin(np.arange(len(self.prompts)), first_half).astype(int)),
        }

    def _curves(self, pair: Pair, batch: TokenBatch, *, own: Point) -> np.ndarray:
        return scaled_points(
            pair, batch, scalings=self.curves, alphas=self.alphas, ends=self.ends, ids=self.ids, own=own
        )

    def _along_weights(
        self, pair: Pair, points: np.ndarray, *, items: Sequence[int] | None = None, bar: tqdm | None = None
    ) -> None:
        for k, alpha in enumerate(self.alphas):
            model = interpolated_judge(pair, alpha=alpha, ends=self.ends)
            executor = HooksBackend(model, self.pair.anatomy("judge"))
            for chosen, point in self.prompts.each(self.batches(items), partial(self._own_point, executor)):
                points[:, -1, k, list(chosen)] = self._by_item(np.array(point))
                if bar is not None:
                    bar.update(len(chosen))

    def _own_point(self, executor: HooksBackend, chosen: Sequence[int]) -> Point:
        return own_point(executor, self.prompts.batch(chosen), ids=self.ids)

    def _store(self, points: np.ndarray, chosen: Sequence[int], values: np.ndarray) -> None:
        """Write ``[number curve alpha prompt]`` to its items."""
        points[:, : len(self.curves), :, list(chosen)] = self._by_item(values)

    def _by_item(self, values: np.ndarray) -> np.ndarray:
        """Return ``[..., prompt]`` as ``[..., item, order]``."""
        return values.reshape(*values.shape[:-1], -1, len(self.prompts.orders))


def _grid(alphas: Sequence[float]) -> tuple[float, ...]:
    grid = tuple(sorted({float(alpha) for alpha in alphas}))
    if len(grid) < 2 or 1.0 not in grid or not all(0.0 <= alpha < np.inf for alpha in grid):
        raise ParameterError(
            "a curve needs alpha 1, the judge, and at least one more.",
            argument="alphas",
            got=list(alphas),
            allowed="two or more different numbers of 0 or more, 1 among them",
        )
    return grid


def _check_curves(curves: Mapping[str, Scaling], *, ends: Side) -> None:
    if ends not in _SIDES:
        raise ParameterError("no such side of a pair.", argument="ends", got=ends, allowed=_SIDES)
    if not curves or WEIGHTS in curves:
        raise ParameterError(
            f"name at least one curve; {WEIGHTS!r} is what weights=True adds.", argument="scalings", got=list(curves)
        )


def _lengths(prompts: Prompts, answer_length: Callable[[str], float] | None) -> np.ndarray:
    """Return the length of both answers of every item."""
    tokenizer = prompts.pair.tokenizer

    def tokens(text: str) -> float:
        return float(len(tokenizer(text, add_special_tokens=False)["input_ids"])) or np.nan

    measure = tokens if answer_length is None else answer_length
    found = np.array([[float(measure(answer)) for answer in item.answers] for item in prompts.items])
    bad = np.flatnonzero(((found <= 0) | np.isinf(found)).any(1))
    if len(bad):
        raise ParameterError(
            "an answer's length must be a positive number, or NaN where it isn't known.",
            argument="answer_length",
            got=f"{found[bad[0]].tolist()} for item {prompts.items[int(bad[0])].item_id!r}",
        )
    return found


def _name(answer_length: Callable[[str], float]) -> str:
    return str(getattr(answer_length, "__name__", "length of an answer"))
