"""LevelsResult: a pair's share and pushes beside reference levels of the same base."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from analyses.judged import JudgedResult, estimate, figure_of
from analyses.metrics import FEWEST_DRAWS, LEVEL, Chance, Interval, against_draws
from analyses.tuco.levels.pushes import UNTOLD, PushTest, adjusted, over_items, ways
from analyses.tuco.naming import with_sample
from analyses.tuco.shares import share
from workbench import plotting
from workbench.results import Estimate, Finding, Panel, tidy

if TYPE_CHECKING:
    import pandas as pd

PAIR, ITSELF, RANDOM, OTHER = "pair", "judge against itself", "random change", "other"
"""Kinds of levels; random changes are numbered in :attr:`LevelsResult.levels`."""

_AXES = ("level", "item", "order")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class LevelsResult(JudgedResult):
    """Share of fine-tuning and its push on the verdict for every level; pushes are first minus second slot."""

    levels: tuple[str, ...]
    """Name of each level; the first is the pair's."""
    kinds: tuple[str, ...]
    """``pair``, ``judge against itself``, ``random change`` or ``other``."""
    granularity: str
    """How the network was cut."""
    norm: str
    """Norm of the shares."""
    choices: tuple[str, str]
    """Text of the two verdict labels whose logits make the gap."""
    finetuned_norm: Float[np.ndarray, "level item order"]
    """|F| at the last prompt token, each level on its own judge's stream."""
    pretrained_norm: Float[np.ndarray, "level item order"]
    """|P| there."""
    push: Float[np.ndarray, "level item order"]
    """Verdict gap fine-tuning wrote, logits."""
    gap: Float[np.ndarray, "level item order"]
    """Verdict gap of the level's judge, logits."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
        ("finetuned_norm", "pretrained_norm", "push", "gap"), _AXES
    )

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        return {"item": len(self.item_ids), "order": len(self.orders), "level": len(self.levels)}

    @property
    def tuco(self) -> Float[np.ndarray, "level item order"]:
        """Return TuCo of each prompt under each level."""
        return share(self.finetuned_norm, self.pretrained_norm)

    @property
    def tests(self) -> tuple[PushTest, ...]:
        """Return the pair's pushes held against each reference level, Holm over all of them.

        Against a named judge and against itself the p-value is over items (paired sign flips). Against
        random changes it is the larger of that and the p-value over draws.
        """
        found = []
        for way, values in ways(self, self.push):
            own = self.mean(values[0])
            for name, reference, draws in self._references(values):
                difference = values[0] - reference
                p, chance = over_items(self, difference), None
                if draws is not None:
                    chance = against_draws(own.value, draws)
                    p = max(p, chance.p)
                found.append(PushTest(name, way, own, self.mean(difference), chance, p))
        return adjusted(found)

    @property
    def finding(self) -> Finding:
        """Return whether the pair's push differs from that of every reference level, verdict first."""
        by_way: dict[str, list[PushTest]] = {}
        for test in self.tests:
            by_way.setdefault(test.way, []).append(test)
        random = RANDOM in self.kinds
        out = [way for way, tests in by_way.items() if random and all(test.p < LEVEL for test in tests)]
        estimates = (self._share_estimate(), *(self._push_estimate(tests) for tests in by_way.values()))
        headline = self._headline(out, by_way) if out else self._nothing(by_way)
        return Finding(headline=headline, found=bool(out), estimates=estimates, limits=self._limits())

    def pooled(self, level: int) -> Interval:
        """Return TuCo of a level over all prompts, a ratio of means."""
        return self.ratio(self.finetuned_norm[level], self.finetuned_norm[level] + self.pretrained_norm[level])

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; ``model`` is the level.

        Per prompt: ``tuco, verdict_push, verdict_gap``. Per level: ``push_toward_label`` and
        ``push_toward_first_slot`` with intervals, and the pair's paired differences from each reference, of its share
        (``tuco_difference``) and of its pushes (``difference_toward_...``, with p-value).
        """
        import pandas as pd

        return pd.concat([self._per_prompt(), self._per_level()], ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw TuCo of every level with its interval, into ``ax`` or a new one."""
        return self._dots([self.pooled(k) for k in range(len(self.levels))], label="TuCo, ratio of means", ax=ax)

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        shown = [
            Panel(
                "Share of fine-tuning, level by level",
                "TuCo with 95% over items. Blue: this pair; orange: other judges of the same base; grey: the judge "
                "against itself and random changes of equal norm. A share alone is no finding, and none can be "
                "compared across bases.",
                figure_of(self.plot),
            )
        ]
        for way, values in ways(self, self.push):
            intervals = [self.mean(value) for value in values]
            draw = partial(self._dots, intervals, label=f"push of fine-tuning {way}, logits")
            shown.append(
                Panel(
                    f"Push {way}, level by level",
                    "Verdict logit gap fine-tuning wrote, mean over items with 95%; grey are the judge "
                    "against itself and random changes of equal norm. A random change pushes all items alike: look at "
                    "how far those changes lie apart, not at their bars.",
                    figure_of(draw),
                )
            )
        return with_sample(self, tuple(shown))

    def _references(
        self, values: Float[np.ndarray, "level item *order"]
    ) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
        """Return (name, value per item, means of the random draws) of each reference level."""
        found: list[tuple[str, np.ndarray, np.ndarray | None]] = [
            (name, values[k], None)
            for k, (name, kind) in enumerate(zip(self.levels, self.kinds, strict=True))
            if kind in (ITSELF, OTHER)
        ]
        drawn = [k for k, kind in enumerate(self.kinds) if kind == RANDOM]
        if drawn:
            means = np.array([self.mean(values[k]).value for k in drawn])
            found.append((f"{RANDOM}s of equal norm", values[drawn].mean(0), means))
        return found

    def _share_estimate(self) -> Estimate:
        drawn = [k for k, kind in enumerate(self.kinds) if kind == RANDOM]
        control = None
        if drawn:
            top, bottom = self.finetuned_norm[drawn].mean(0), self.pretrained_norm[drawn].mean(0)
            control = estimate(f"{RANDOM}s of equal norm", self.ratio(top, top + bottom))
        return estimate(f"TuCo of the pair ({self.granularity}, {self.norm})", self.pooled(0), control=control)

    def _push_estimate(self, tests: list[PushTest]) -> Estimate:
        own, way = tests[0].own, tests[0].way
        control = None
        random = [test.chance for test in tests if test.chance is not None]
        if random:
            drawn: Chance = random[0]
            name = "where 95% of random changes of equal norm fall"
            control = Estimate(name=name, value=drawn.value, low=drawn.low, high=drawn.high, n=own.n, unit="logits")
        worst = max(tests, key=lambda test: test.p)
        name = f"push {way} (least apart from: {worst.name}, p = {worst.p:.2g}, Holm)"
        return estimate(name, own, unit="logits", control=control)

    def _headline(self, out: list[str], by_way: Mapping[str, list[PushTest]]) -> str:
        said = [f"by {by_way[way][0].own.value:+.3g} logits {way}" for way in out]
        names = ", ".join(test.name for test in by_way[out[0]])
        return f"Fine-tuning pushed the verdict {' and '.join(said)}, unlike every reference level ({names})."

    def _nothing(self, by_way: Mapping[str, list[PushTest]]) -> str:
        if not self.finetuned_norm[0].any():
            return "Nothing found: fine-tuning wrote exactly nothing, as the judge against itself."
        if self.kinds.count(RANDOM) < FEWEST_DRAWS:
            return f"Nothing found: it takes {FEWEST_DRAWS} random changes or more to tell a push from chance (draws)."
        if not by_way:
            return UNTOLD
        same = {test.name for tests in by_way.values() for test in tests if test.p >= LEVEL}
        names = ", ".join(name for name, _, _ in self._references(self.push) if name in same)
        return f"Nothing found: no push of fine-tuning differs from that of every reference level (alike: {names})."

    def _limits(self) -> tuple[str, ...]:
        own = (
            "Values hold for this base only; TuCo can't be compared across bases.",
            "That two judges push differently doesn't say which of them was meant to.",
            f"At the last prompt token, direct writes only ({self.granularity}, {self.norm}); the gap compares "
            f"{self.choices[0]!r} and {self.choices[1]!r}.",
        )
        return (*own, *(f"Not measured: {what}" for what in self.meta.not_measured))

    def _per_prompt(self) -> "pd.DataFrame":
        metrics = {"tuco": self.tuco, "verdict_push": self.push, "verdict_gap": self.gap}
        grid = np.meshgrid(
            *[np.asarray(labels, dtype=object) for labels in (self.levels, self.item_ids, self.orders)], indexing="ij"
        )
        levels, items, orders = (axis.ravel() for axis in grid)
        return tidy(
            {
                "item": np.tile(items, len(metrics)),
                "order": np.tile(orders, len(metrics)),
                "model": np.tile(levels, len(metrics)),
                "metric": np.repeat(list(metrics), levels.size),
                "value": np.concatenate([values.ravel() for values in metrics.values()]),
            }
        )

    def _per_level(self) -> "pd.DataFrame":
        rows: list[tuple[str, str, Interval, float]] = []
        short = {way: f"toward_{'label' if 'label' in way else 'first_slot'}" for way, _ in ways(self, self.push)}
        for way, values in ways(self, self.push):
            rows += [
                (name, f"push_{short[way]}", self.mean(value), np.nan)
                for name, value in zip(self.levels, values, strict=True)
            ]
        rows += [
            (name, "tuco_difference", self.mean(self.tuco[0] - tuco), np.nan)
            for name, tuco in zip(self.levels[1:], self.tuco[1:], strict=True)
        ]
        rows += [(test.name, f"difference_{short[test.way]}", test.difference, test.p) for test in self.tests]
        return tidy(
            {
                "model": [name for name, _, _, _ in rows],
                "metric": [metric for _, metric, _, _ in rows],
                "value": [interval.value for _, _, interval, _ in rows],
                "low": [interval.low for _, _, interval, _ in rows],
                "high": [interval.high for _, _, interval, _ in rows],
                "p": [p for _, _, _, p in rows],
                "n": [interval.n for _, _, interval, _ in rows],
            }
        )

    def _dots(self, intervals: list[Interval], *, label: str, ax: Axes | None = None) -> Axes:
        ax = ax or plotting.new_axes(height=1.2 + 0.28 * len(self.levels))
        rows = np.arange(len(self.levels))[::-1]
        with plotting.style():
            ax.axvline(0.0, color=plotting.INK, linewidth=0.8, alpha=0.6)
            for row, interval, kind in zip(rows, intervals, self.kinds, strict=True):
                colour = {PAIR: plotting.PALETTE[0], OTHER: plotting.PALETTE[1]}.get(kind, plotting.CONTROL)
                ax.plot([interval.low, interval.high], [row, row], color=colour, linewidth=2)
                ax.plot([interval.value], [row], "o", color=colour, markersize=5)
            ax.set_yticks(rows, [plotting.label_text(name) for name in self.levels])
            ax.set_xlabel(label)
        return ax
