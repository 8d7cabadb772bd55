"""State of one heads run: the prompts with their regions, what is measured so far, what was named."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.looping import FEWEST_TO_CONFIRM, Prompts
from analyses.readout import LabelGap, Readout
from analyses.tuco.evaluation import Evaluation
from analyses.tuco.heads.glimpse import Glimpse
from analyses.tuco.heads.split import HeadSplit, split_batch
from analyses.tuco.views import oriented, views_of
from workbench.hooks import Component, HooksBackend, Site
from workbench.tokens import TokenBatch


@dataclass(slots=True, kw_only=True, eq=False)
class HeadWork:
    """State of one run: what is planned, what is measured so far."""

    prompts: Prompts
    """The items as prompts."""
    readout: Readout
    """What is read at the last token."""
    float32: bool
    """Whether blocks compute in float32 on the judge's stream."""
    regions: tuple[str, ...]
    """Names of token regions."""
    region_rows: list[list[int]]
    """Region index of every token of every prompt."""
    neurons: int
    """How many neurons are named in each layer."""
    seed: int
    """Seed of the run."""
    confirm: bool
    """Whether the named head is replaced in real forwards."""
    halves: tuple[list[int], list[int]]
    """Items on which heads and neurons are named, and those they are tested on (none when nothing is confirmed)."""
    views: tuple[str, ...]
    """Orientations these items allow."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """What is measured, by field name of the result; all items, NaN where not yet."""
    neuron_sums: list[Float[np.ndarray, "view layer neuron"]] = field(default_factory=list)
    """Oriented pushes of all neurons, summed over each batch of the first half."""
    neuron_ids: Int[np.ndarray, "layer neuron"] = field(default_factory=lambda: np.zeros((0, 0), dtype=int))
    """Neurons named."""
    random_ids: Int[np.ndarray, "layer neuron"] = field(default_factory=lambda: np.zeros((0, 0), dtype=int))
    """As many others."""
    named: tuple[int, int] | None = None
    """(layer, head) named."""
    named_view: str = ""
    """View in which it pushed hardest."""
    other: tuple[int, int] | None = None
    """(layer, head) drawn at random."""
    draws: int = 0
    """Random changes measured on all of their items."""
    closing_error: float = 0.0
    """See :class:`analyses.tuco.heads.HeadsResult`."""
    region_error: float = 0.0
    """See :class:`analyses.tuco.heads.HeadsResult`."""
    identical: float = float("nan")
    """Largest push of the judge against itself."""
    noise: float | None = None
    """How far rounding moves a head's push."""

    @classmethod
    def plan(
        cls, prompts: Prompts, *, readout: Readout | None, precision: str, neurons: int, seed: int, confirm: bool
    ) -> "HeadWork":
        """Find the regions of all prompts, split the items and note what can't be measured.

        Args:
            prompts: The items as prompts.
            readout: What is read; None is the gap of the two verdict labels.
            precision: See :meth:`analyses.tuco.evaluation.Evaluation.best`.
            neurons: How many neurons to name in each layer.
            seed: Seed of the halves.
            confirm: Whether the named head will be replaced in real forwards.
        """
        rows = [prompts.encoded.span_names(row) for row in range(len(prompts.encoded))]
        regions = tuple(dict.fromkeys(name for row in rows for name in row))
        index = {name: k for k, name in enumerate(regions)}
        enough = prompts.n_clusters >= FEWEST_TO_CONFIRM
        halves = prompts.halves(seed=seed) if enough and (confirm or neurons) else (list(range(len(prompts))), [])
        if not enough:
            prompts.notes.append(f"named heads and neurons (fewer than {FEWEST_TO_CONFIRM} independent items).")
        elif not confirm:
            prompts.notes.append("replacing a head in a real forward (confirm=False).")
        anatomy = prompts.pair.anatomy("judge")
        missing = [layer for layer in range(anatomy.n_layers) if Site(Component.NEURONS, layer) not in anatomy.ports]
        if missing and neurons:
            prompts.notes.append(f"neurons: {anatomy.missing.get(Site(Component.NEURONS, missing[0]))}")
        return cls(
            prompts=prompts,
            readout=LabelGap(*prompts.verdict_ids) if readout is None else readout,
            float32=Evaluation.best(prompts, (), precision=precision, shortcut=False).float32,
            regions=regions,
            region_rows=[[index[name] for name in row] for row in rows],
            neurons=0 if missing or not enough else neurons,
            seed=seed,
            confirm=confirm and enough,
            halves=halves,
            views=views_of(prompts.labels, prompts.orders, gap=readout is None),
        )

    @property
    def judge(self) -> HooksBackend:
        """Return the executor of the fine-tuned model."""
        return self.prompts.pair.executor("judge")

    @property
    def base(self) -> HooksBackend:
        """Return the executor of the model before fine-tuning."""
        return self.prompts.pair.executor("base")

    def region_ids(self, items: Sequence[int], batch: TokenBatch) -> Int[Tensor, "prompt pos"]:
        """Return the region of every column; -1 on padding."""
        table = torch.full(tuple(batch.ids.shape), -1, dtype=torch.long)
        for k, row in enumerate(self.prompts.rows_of(items)):
            names = self.region_rows[row]
            table[k, -len(names) :] = torch.tensor(names)
        return table.to(batch.device)

    def split(
        self, judge: HooksBackend, base: HooksBackend, items: Sequence[int], *, neurons: bool = False
    ) -> tuple[HeadSplit, Glimpse, Glimpse]:
        """Split one batch of items.

        Args:
            judge: Executor of a fine-tuned model.
            base: Executor of the model before fine-tuning.
            items: Item indices; all their orders are in the batch.
            neurons: Whether to split MLPs too.
        """
        batch = self.prompts.batch(items)
        return split_batch(
            judge,
            base,
            batch,
            readout=self.readout,
            regions=self.region_ids(items, batch),
            n_regions=len(self.regions),
            neurons=neurons,
            float32=self.float32,
        )

    def store(self, name: str, items: Sequence[int], values: np.ndarray) -> None:
        """Write a batch's values, ``[prompt, ...]``, to their items."""
        shaped = self.prompts.by_item(values)
        blank = (len(self.prompts), *shaped.shape[1:])
        self.arrays.setdefault(name, np.full(blank, np.nan))[list(items)] = shaped

    def oriented(self, values: np.ndarray, view: str, items: Sequence[int] | None = None) -> np.ndarray:
        """Return a view of pushes ``[item, order, ...]`` of some items (all of them by default)."""
        sign = self.prompts.slot_sign if items is None else self.prompts.slot_sign[list(items)]
        return oriented(values, view, sign=sign)
