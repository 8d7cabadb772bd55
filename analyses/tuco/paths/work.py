"""State of a path attribution: its plan, and the arrays it fills."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from analyses.looping import FEWEST_TO_CONFIRM, Prompts
from analyses.readout import LabelGap, Readout
from analyses.tuco.cuts import Unit, units
from analyses.tuco.paths.measure import Attribution, Cut, Ends, Precision, attribute, measure_ends
from analyses.tuco.paths.result import PathsResult
from analyses.tuco.views import views_of
from workbench.pairs import Pair, Scaling


@dataclass(slots=True, kw_only=True, eq=False)
class PathWork:
    """What is planned, and what is measured so far."""

    prompts: Prompts
    readout: Readout
    cut: Cut
    parts: tuple[Unit, ...]
    regions: tuple[str, ...]
    region_rows: list[np.ndarray]
    """Region index of every token of every prompt."""
    precision: Precision
    views: tuple[str, ...]
    halves: tuple[list[int], list[int]]
    """Items on which places are named, and those they are tested on (none when nothing is confirmed)."""
    n_examples: int
    seed: int
    arrays: dict[str, np.ndarray]
    maps: dict[int, list[np.ndarray]] = field(default_factory=dict)
    """Unit by token of the example items, order by order."""
    named: tuple[int, int] | None = None
    """Unit and region named on the first half."""
    other: tuple[int, int] | None = None
    """Unit and region drawn at random beside it."""
    named_view: str = ""
    draws: int = 0
    """Random changes measured on all of their items."""

    @classmethod
    def plan(
        cls,
        prompts: Prompts,
        *,
        readout: Readout,
        cut: Cut,
        precision: Precision,
        confirm: bool,
        examples: int,
        seed: int,
    ) -> "PathWork":
        """Plan a run; see :func:`analyses.tuco.paths.attribute_paths`."""
        rows = [prompts.encoded.span_names(row) for row in range(len(prompts.encoded))]
        regions = tuple(dict.fromkeys(name for row in rows for name in row))
        index = {name: k for k, name in enumerate(regions)}
        pair = prompts.pair
        parts = units(cut, n_layers=pair.n_layers, parallel=pair.anatomy("judge").parallel)
        enough = prompts.n_clusters >= FEWEST_TO_CONFIRM
        if not confirm:
            prompts.notes.append("taking fine-tuning out of places in real forwards (confirm=False).")
        elif not enough:
            prompts.notes.append(
                f"taking fine-tuning out of places in real forwards (fewer than {FEWEST_TO_CONFIRM} independent items)."
            )
        sizes = {"item": len(prompts), "order": len(prompts.orders), "unit": len(parts), "region": len(regions)}
        arrays = {
            name: np.full(tuple({**sizes, "draw": 0}[axis] for axis in axes), np.nan)
            for name, axes in PathsResult.AXES.items()
            if "example" not in axes
        }
        return cls(
            prompts=prompts,
            readout=readout,
            cut=cut,
            parts=parts,
            regions=regions,
            region_rows=[np.array([index[name] for name in row]) for row in rows],
            precision=precision,
            views=views_of(prompts.labels, prompts.orders, gap=isinstance(readout, LabelGap)),
            halves=prompts.halves(seed=seed) if confirm and enough else (list(range(len(prompts))), []),
            n_examples=min(examples, len(prompts)),
            seed=seed,
            arrays=arrays,
        )

    def measure(self, pair: Pair, items: Sequence[int], *, precision: Precision) -> tuple[Ends, Attribution]:
        """Measure one batch of items in any pair of this shape."""
        batch = self.prompts.batch(items)
        ends = measure_ends(pair, batch, readout=self.readout)
        found = attribute(pair, batch, change=ends.change, readout=self.readout, cut=self.cut, precision=precision)
        return ends, found

    def by_region(self, items: Sequence[int], by_token: np.ndarray) -> np.ndarray:
        """Sum a batch's ``[prompt, unit, pos]`` over the tokens of each region: ``[item, order, unit, region]``."""
        out = np.zeros((*by_token.shape[:2], len(self.regions)))
        for line, row in enumerate(self.prompts.rows_of(items)):
            names = self.region_rows[row]
            for k in range(len(self.regions)):
                out[line, :, k] = by_token[line, :, -len(names) :][:, names == k].sum(-1)
        return self.prompts.by_item(out)

    def store(self, name: str, items: Sequence[int], values: np.ndarray) -> None:
        """Write a batch's values, ``[prompt, ...]``, to their items."""
        self.arrays[name][list(items)] = self.prompts.by_item(values)

    def scaling(self, *, unit: int | None = None, region: int | None = None) -> Scaling:
        """Return the judge without fine-tuning in a unit, at a region, or where they meet."""
        spans = None if region is None else (self.regions[region],)
        if unit is None:
            return Scaling(0.0, spans=spans)
        part = self.parts[unit]
        return Scaling(0.0, component=part.component, layers=(part.layer,), spans=spans)
