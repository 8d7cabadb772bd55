"""What every result of an analysis over judged items has in common: its axes, orientation, means, files and words.

A result is a frozen dataclass of numpy arrays beside the labels of their axes. A subclass says in
``AXES`` which axes each of its arrays has and in :meth:`sizes` how long they are; checking, saving
and loading follow from that. Its decorator says ``repr=False``, or it loses the one-line repr.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from analyses.metrics import Interval, mean_interval, ratio_interval, slot_sign
from workbench import html
from workbench.errors import ParameterError
from workbench.results import Estimate, Finding, Panel, RunMeta, load_folder, save_folder

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Not `Self`: the run-time checks of the tests decorate functions, not classes.
_Loaded = TypeVar("_Loaded", bound="JudgedResult")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class JudgedResult(ABC):
    """Numbers about judged items; quantities of a prompt are oriented first slot minus second slot as shown."""

    item_ids: tuple[str, ...]
    """Label of each item."""
    clusters: tuple[str, ...]
    """What each item is independent by; intervals are over clusters."""
    orders: tuple[str, ...]
    """Answer orders: ``original``, ``swapped``."""
    questions: tuple[str, ...]
    """Question of each item."""
    labels: Int[np.ndarray, " item"]
    """Index of the better answer in the item's own order; -1 where nobody said."""
    meta: RunMeta
    """Models, items, choices, seed and versions behind these numbers."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Axes of each array field, by name; an axis is a key of :meth:`sizes`."""

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis; subclasses add theirs."""
        return {"item": len(self.item_ids), "order": len(self.orders)}

    def __post_init__(self) -> None:
        """Check that arrays and labels agree, and make the arrays read-only.

        Raises:
            ParameterError: An array has another shape than its labels say.
        """
        sizes = self.sizes()
        for name, axes in {**self.AXES, "labels": ("item",)}.items():
            array, expected = getattr(self, name), tuple(sizes[axis] for axis in axes)
            if array.shape != expected:
                raise ParameterError(
                    "array and labels differ in size.", argument=name, got=array.shape, allowed=str(expected)
                )
            array.setflags(write=False)

    @property
    @abstractmethod
    def finding(self) -> Finding:
        """Return what the run says, verdict first."""

    @abstractmethod
    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy table."""

    @abstractmethod
    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the main figure, into ``ax`` or new axes."""

    @abstractmethod
    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report."""

    def slot_sign(self) -> Float[np.ndarray, "item order"]:
        """Return +1 where the labelled answer stands in the first slot, -1 in the second, NaN without a label."""
        return slot_sign(self.labels, self.orders)

    def toward_label(self, gap: Float[np.ndarray, "*lead item order"]) -> Float[np.ndarray, "*lead item order"]:
        """Orient a slot-oriented gap to the labelled answer; NaN for items without a label.

        Args:
            gap: Any array of this result whose last axes are item and order.
        """
        return gap * self.slot_sign()

    def toward_first_slot(self, gap: Float[np.ndarray, "*lead item order"]) -> Float[np.ndarray, "*lead item"]:
        """Return the position part of a gap: the mean over both orders, what an order swap doesn't turn round."""
        return gap.mean(-1)

    def mean(self, values: Float[np.ndarray, "item *order"], *, level: float = 0.95) -> Interval:
        """Return the mean of any of this result's per-item values, with its interval over clusters of items."""
        return mean_interval(values, seed=self.meta.seed, clusters=self.clusters, level=level)

    def ratio(
        self, numerator: Float[np.ndarray, "item *order"], denominator: Float[np.ndarray, "item *order"]
    ) -> Interval:
        """Return the ratio of two means, with its interval over clusters of items."""
        return ratio_interval(numerator, denominator, seed=self.meta.seed, clusters=self.clusters)

    def summary(self) -> str:
        """Return the finding as text: headline, effects with interval and control, limits."""
        return self.finding.text()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result as a folder of npz and JSON; returns the folder."""
        arrays: dict[str, np.ndarray] = {name: getattr(self, name) for name in (*self.AXES, "labels")}
        labels: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in arrays or field.name == "meta":
                continue
            if isinstance(value, float):
                arrays[field.name] = np.asarray(value)  # JSON has no NaN
            else:
                labels[field.name] = value
        return save_folder(path, kind=type(self).__name__, arrays=arrays, labels=labels, meta=self.meta)

    @classmethod
    def load(cls: type[_Loaded], path: str | os.PathLike[str]) -> _Loaded:
        """Read a result that :meth:`save` wrote.

        Raises:
            ResultError: The folder is incomplete or holds another kind of result.
        """
        stored = load_folder(path, kind=cls.__name__)
        labels: dict[str, Any] = {name: _tuples(value) for name, value in stored.labels.items()}
        arrays: dict[str, Any] = {
            name: float(array) if array.ndim == 0 and name not in cls.AXES else array
            for name, array in stored.arrays.items()
        }
        return cls(**labels, **arrays, meta=stored.meta)

    def __repr__(self) -> str:
        """Return one line: pair, size and the headline."""
        pair = self.meta.pair.get("name")
        return f"{type(self).__name__}({pair!r}, {len(self.item_ids)} items): {self.finding.headline}"

    def _repr_html_(self) -> str:
        return finding_html(self.finding)


def estimate(name: str, interval: Interval, *, unit: str = "", control: Estimate | None = None) -> Estimate:
    """Return an interval as a headline number.

    Args:
        name: What was measured, in words.
        interval: Value, ends and number of independent items.
        unit: Unit of all three; empty for shares.
        control: The same number where nothing should be found.
    """
    return Estimate(
        name=name, value=interval.value, low=interval.low, high=interval.high, n=interval.n, unit=unit, control=control
    )


class Drawing(NamedTuple):
    """One figure a kind of result can have."""

    title: str
    """Short title above it."""
    caption: Callable[[Any], str]
    """Says of a result what the figure shows and how to read it."""
    draw: "Callable[[Any], Figure]"
    """Makes a new figure of a result."""
    applies: Callable[[Any], bool] = lambda _result: True
    """Whether what is drawn was measured in a result."""


def drawn_panels(result: JudgedResult, drawings: Iterable[Drawing]) -> tuple[Panel, ...]:
    """Return the panels of those figures that a result has the data for."""
    return tuple(
        Panel(drawing.title, drawing.caption(result), partial(drawing.draw, result))
        for drawing in drawings
        if drawing.applies(result)
    )


def figure_of(draw: "Callable[..., Axes]", **options: object) -> "Callable[..., Figure]":
    """Return what makes a new figure of a drawing, for a panel.

    Args:
        draw: Draws a result into new axes; what is returned takes the same positional arguments.
        options: Keyword arguments of the drawing.
    """

    def make(*drawn: object) -> "Figure":
        figure = draw(*drawn, **options).get_figure(root=True)
        if figure is None:
            raise RuntimeError("axes without a figure")
        return figure

    return make


def finding_html(said: Finding) -> str:
    """Return a finding as an escaped HTML fragment for notebooks."""
    return html.fragment(
        html.badge("found" if said.found else "nothing"),
        Markup("<p><strong>{}</strong></p>").format(html.visible(said.headline)),
        html.item_list([number.text() for number in said.estimates]),
        Markup("<details><summary>Limits</summary>{}</details>").format(html.item_list(said.limits)),
    )


def _tuples(value: Any) -> Any:
    """Return JSON lists as the tuples they were saved from."""
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
