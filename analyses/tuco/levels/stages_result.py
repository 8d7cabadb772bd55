"""StagesResult: the last judge's writes and verdicts, split among the base and the stages of training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from analyses.judged import JudgedResult, estimate, figure_of
from analyses.metrics import FEWEST_DRAWS, LEVEL, Interval, against_draws
from analyses.tuco.levels.pushes import UNTOLD, PushTest, adjusted, over_items, ways
from analyses.tuco.naming import with_sample
from workbench import plotting
from workbench.results import Estimate, Finding, Panel, tidy

if TYPE_CHECKING:
    import pandas as pd

_PRETRAINED = "base"
_ITEM = ("item", "order")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class StagesResult(JudgedResult):
    """Contribution of each stage at the last prompt token, on the last judge's stream.

    Pushes are oriented first minus second slot.
    """

    stages: tuple[str, ...]
    """Stages of training, in order."""
    units: tuple[str, ...]
    """Label of each residual write."""
    unit_layers: tuple[int, ...]
    """Block (last block) of each unit."""
    unit_components: tuple[str, ...]
    """``resid_post`` for whole blocks, ``attn_out`` or ``mlp_out`` for sub-layers."""
    granularity: str
    """How the network was cut."""
    norm: str
    """Norm of the shares."""
    choices: tuple[str, str]
    """Text of the two verdict labels whose logits make the gap."""
    gap: Float[np.ndarray, "item order"]
    """The last judge's verdict gap, before any logit cap."""
    embedding_push: Float[np.ndarray, "item order"]
    """Part of it due to the last judge's token embedding."""
    bias_push: Float[np.ndarray, "item order"]
    """Part no stream decides."""
    pretrained_norm: Float[np.ndarray, "item order"]
    """|P|: norm of what the base writes on that stream."""
    pretrained_push: Float[np.ndarray, "item order unit"]
    """Part of the gap it writes, by unit."""
    stage_norm: Float[np.ndarray, "stage item order"]
    """|F_k|: norm of what each stage added to its predecessor's writes."""
    stage_parts: Float[np.ndarray, "stage item order unit"]
    """Signed parts of |F_k| by unit; they add up to it."""
    stage_push: Float[np.ndarray, "stage item order unit"]
    """Part of the gap each stage wrote, by unit."""
    stage_alignment: Float[np.ndarray, "stage item order"]
    """Cosine of F_k with what all earlier stages wrote; below 0 a stage undoes them. NaN for the first."""
    control_norm: Float[np.ndarray, "stage draw item order"]
    """|F_k| of random changes of the stage's norm, from where it began, on the same stream."""
    control_push: Float[np.ndarray, "stage draw item order"]
    """Gap they wrote."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(("gap", "embedding_push", "bias_push", "pretrained_norm"), _ITEM),
        "pretrained_push": (*_ITEM, "unit"),
        **dict.fromkeys(("stage_norm", "stage_alignment"), ("stage", *_ITEM)),
        **dict.fromkeys(("stage_parts", "stage_push"), ("stage", *_ITEM, "unit")),
        **dict.fromkeys(("control_norm", "control_push"), ("stage", "draw", *_ITEM)),
    }

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        own = {"item": len(self.item_ids), "order": len(self.orders), "unit": len(self.units)}
        return own | {"stage": len(self.stages), "draw": self.control_push.shape[1]}

    @property
    def shares(self) -> Float[np.ndarray, "source item order"]:
        """Return the share of the base and of each stage; they add up to 1."""
        sizes = np.concatenate([self.pretrained_norm[None], self.stage_norm])
        whole = sizes.sum(0)
        return np.divide(sizes, whole, out=np.zeros_like(sizes), where=np.broadcast_to(whole > 0, sizes.shape))

    @property
    def tests(self) -> tuple[PushTest, ...]:
        """Return each stage's pushes held against random changes of its norm, Holm over stages and directions.

        The p-value is the larger of that over draws and that over items (paired sign flips); 1 where a
        stage has no random changes or wrote nothing.
        """
        found = []
        for way, pushes in ways(self, self.stage_push.sum(-1)):
            controls = dict(ways(self, self.control_push))[way]
            found += [self._test(name, way, pushes[k], controls[k]) for k, name in enumerate(self.stages)]
        return adjusted(found)

    @property
    def finding(self) -> Finding:
        """Return which stages pushed the verdict beyond chance, verdict first."""
        tests = self.tests
        out = [test for test in tests if test.p < LEVEL]
        estimates = [self._share(k) for k in range(len(self.stages))]
        estimates += [self._push_estimate(test) for test in tests]
        headline = self._headline(out) if out else self._nothing()
        return Finding(headline=headline, found=bool(out), estimates=tuple(estimates), limits=self._limits())

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table; ``model`` is the stage, or ``base``.

        Per prompt: ``share`` (adds up to 1 over ``model``), ``verdict_push`` (adds up to ``verdict_gap`` with
        ``embedding_push`` and ``bias_push``), ``alignment``. Per unit: ``unit_push`` and ``unit_share``.
        """
        import pandas as pd

        return pd.concat([self._per_prompt(), self._per_unit()], ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw each stage's share of the last judge's writes, into ``ax`` or a new one."""
        found = {name: self._pooled(k) for k, name in enumerate(self.stages)}
        controls = {name: control for k, name in enumerate(self.stages) if not np.isnan(control := self._control(k))}
        return plotting.bars(
            {name: interval.value for name, interval in found.items()},
            intervals={name: (interval.low, interval.high) for name, interval in found.items()},
            controls=controls,
            control_label="random change of the stage's norm",
            value_label=f"share of the last judge's writes ({self.granularity}, {self.norm})",
            ax=ax,
        )

    def push_by_stage(self, ax: Axes | None = None) -> Axes:
        """Draw what the verdict gap is made of, toward the label where there is one."""
        pieces = {"embedding and bias": self.embedding_push + self.bias_push, _PRETRAINED: self.pretrained_push.sum(-1)}
        pieces |= dict(zip(self.stages, self.stage_push.sum(-1), strict=True))
        pieces["= the last judge's gap"] = self.gap
        means = {name: self.mean(self._oriented(values)) for name, values in pieces.items()}
        drawn = zip(self.stages, self.control_push, strict=True) if self.control_push.shape[1] else ()
        controls = {name: self.mean(self._oriented(values.mean(0))).value for name, values in drawn}
        return plotting.bars(
            {name: interval.value for name, interval in means.items()},
            intervals={name: (interval.low, interval.high) for name, interval in means.items()},
            controls={name: value for name, value in controls.items() if not np.isnan(value)},
            control_label="random change of the stage's norm",
            value_label=self._way,
            ax=ax,
        )

    def push_by_unit(self, ax: Axes | None = None) -> Axes:
        """Draw each stage's push by unit."""
        values = [
            [self.mean(self._oriented(self.stage_push[k, ..., u])).value for u in range(len(self.units))]
            for k in range(len(self.stages))
        ]
        return plotting.heatmap(
            np.array(values), rows=self.stages, columns=self.units, column_label="unit", value_label=self._way, ax=ax
        )

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""
        drawn = (
            (
                "How much each stage wrote",
                "Share of all writes at the verdict token on the last judge's stream, 95% over items; the rest is the "
                "base's. The mark is a random change of the stage's norm.",
                self.plot,
            ),
            (
                "Which stage pushed the verdict",
                "Exact parts of the last judge's mean verdict gap; they add up to it. The mark is a random change of "
                "the stage's norm.",
                self.push_by_stage,
            ),
            ("Where each stage pushed", "Push of each stage by unit; a row adds up to the stage's.", self.push_by_unit),
        )
        return with_sample(self, tuple(Panel(title, caption, figure_of(draw)) for title, caption, draw in drawn))

    @property
    def _labelled(self) -> bool:
        return bool((self.labels >= 0).any())

    @property
    def _way(self) -> str:
        return f"logits {'toward the labelled answer' if self._labelled else 'along the verdict'}"

    def _oriented(self, values: np.ndarray) -> np.ndarray:
        return self.toward_label(values) if self._labelled else values * np.sign(self.gap)

    def _test(self, name: str, way: str, push: np.ndarray, controls: np.ndarray) -> PushTest:
        own = self.mean(push)
        measured = len(controls) > 0 and not np.isnan(controls).all()
        if not measured or not np.nan_to_num(push).any():
            return PushTest(name, way, own, self.mean(np.full_like(push, np.nan)), None, 1.0)
        mean = controls.mean(0)
        same_items = self.mean(np.where(np.isnan(mean), np.nan, push)).value
        chance = against_draws(same_items, np.array([self.mean(draw).value for draw in controls]))
        p = max(over_items(self, push - mean), chance.p)
        return PushTest(name, way, own, self.mean(push - mean), chance, p)

    def _pooled(self, k: int) -> Interval:
        return self.ratio(self.stage_norm[k], self.pretrained_norm + self.stage_norm.sum(0))

    def _control(self, k: int) -> float:
        """Return the share a random change in place of the stage would have."""
        if not self.control_norm.shape[1]:
            return float("nan")
        own = self.control_norm[k].mean(0)
        whole = self.pretrained_norm + self.stage_norm.sum(0) - self.stage_norm[k] + own
        return self.ratio(own, whole).value

    def _share(self, k: int) -> Estimate:
        control = None
        if not np.isnan(self._control(k)):
            own = self.control_norm[k].mean(0)
            whole = self.pretrained_norm + self.stage_norm.sum(0) - self.stage_norm[k] + own
            control = estimate("a random change of its norm", self.ratio(own, whole))
        return estimate(
            f"share of {self.stages[k]} ({self.granularity}, {self.norm})", self._pooled(k), control=control
        )

    def _push_estimate(self, test: PushTest) -> Estimate:
        control = None
        if test.chance is not None:
            control = Estimate(
                name="where 95% of random changes of its norm fall",
                value=test.chance.value,
                low=test.chance.low,
                high=test.chance.high,
                n=test.difference.n,
                unit="logits",
            )
        name = f"push of {test.name} {test.way} (p = {test.p:.2g}, Holm)"
        return estimate(name, test.own, unit="logits", control=control)

    def _headline(self, out: list[PushTest]) -> str:
        said = [f"during {test.name} by {test.own.value:+.3g} logits {test.way}" for test in out]
        return f"Fine-tuning pushed the verdict {', '.join(said)}, further than random changes of equal norm do."

    def _nothing(self) -> str:
        if not self.stage_norm.any():
            return "Nothing found: no stage wrote anything at the last prompt token."
        if self.control_push.shape[1] < FEWEST_DRAWS:
            return (
                f"Nothing found: it takes {FEWEST_DRAWS} random changes or more to tell a push from chance (controls)."
            )
        if not self.tests:
            return UNTOLD
        return "Nothing found: no stage pushed the verdict beyond what random changes of its norm do."

    def _limits(self) -> tuple[str, ...]:
        own = (
            "On the last judge's stream: what an earlier stage did that the last judge undid shows as two opposite "
            "writes, and what its writes cause in later blocks is booked as the base's.",
            f"At the last prompt token ({self.granularity}, {self.norm}); the gap compares {self.choices[0]!r} and "
            f"{self.choices[1]!r}. Not comparable across bases.",
        )
        return (*own, *(f"Not measured: {what}" for what in self.meta.not_measured))

    def _per_prompt(self) -> "pd.DataFrame":
        push = self.stage_push.sum(-1)
        rows = [(_PRETRAINED, "share", self.shares[0]), (_PRETRAINED, "verdict_push", self.pretrained_push.sum(-1))]
        for k, name in enumerate(self.stages):
            rows += [
                (name, "share", self.shares[k + 1]),
                (name, "verdict_push", push[k]),
                (name, "alignment", self.stage_alignment[k]),
            ]
        last = self.stages[-1]
        rows += [(last, "verdict_gap", self.gap), (last, "embedding_push", self.embedding_push)]
        rows.append((last, "bias_push", self.bias_push))
        items, orders = (axis.ravel() for axis in self._grid(self.item_ids, self.orders))
        return tidy(
            {
                "item": np.tile(items, len(rows)),
                "order": np.tile(orders, len(rows)),
                "model": np.repeat([model for model, _, _ in rows], items.size),
                "metric": np.repeat([metric for _, metric, _ in rows], items.size),
                "value": np.concatenate([values.ravel() for _, _, values in rows]),
            }
        )

    def _per_unit(self) -> "pd.DataFrame":
        whole = (self.pretrained_norm + self.stage_norm.sum(0))[None, ..., None]
        parts = np.divide(
            self.stage_parts,
            whole,
            out=np.zeros_like(self.stage_parts),
            where=np.broadcast_to(whole > 0, self.stage_parts.shape),
        )
        metrics = {"unit_share": parts, "unit_push": self.stage_push}
        grid = self._grid(self.stages, self.item_ids, self.orders, tuple(range(len(self.units))))
        stages, items, orders, units = (axis.ravel() for axis in grid)
        chosen = units.astype(int)
        return tidy(
            {
                "item": np.tile(items, len(metrics)),
                "order": np.tile(orders, len(metrics)),
                "model": np.tile(stages, len(metrics)),
                "component": np.tile(np.asarray(self.unit_components, dtype=object)[chosen], len(metrics)),
                "layer": np.tile(np.asarray(self.unit_layers)[chosen], len(metrics)),
                "metric": np.repeat(list(metrics), stages.size),
                "value": np.concatenate([values.ravel() for values in metrics.values()]),
            }
        )

    @staticmethod
    def _grid(*labels: tuple[object, ...]) -> list[np.ndarray]:
        return list(np.meshgrid(*[np.asarray(label, dtype=object) for label in labels], indexing="ij"))
