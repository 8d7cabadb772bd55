"""Does giving the attacked run the clean run's fine-tuning take the attack back?

At the last prompt token of the attacked run a unit wrote ``P + F``. It is made to write ``P + F_clean`` instead, with
F_clean from the same item without the attack, and the judge runs on from there:

- one unit: its output is replaced, and every later block reacts;
- the first k units: the base's own blocks, reading the judge's stream at all earlier tokens and the new stream at the
  last one, write P, and F_clean is added to each; after unit k the judge runs on.

Falsified if putting a run's own F back changes its verdict.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.readout import Readout, read
from analyses.tuco.clamp import Contributions, last_column, to_numpy
from analyses.tuco.cuts import Unit
from analyses.tuco.prompts import readout_modules
from workbench.hooks import Component, Custom, Edit, HooksBackend, Patch, Site, Steer
from workbench.tokens import TokenBatch

CONTROLS = ("random change of equal length", "clean component of another item")
"""What is put in place of the clean component, to be compared with it."""


class PatchedGaps(NamedTuple):
    """Verdict gaps of attacked runs with other fine-tuned components; slots as shown, logits."""

    one: Float[np.ndarray, "prompt unit"]
    """With this unit's clean component."""
    first: Float[np.ndarray, "prompt unit"]
    """With the clean component of this unit and all before; NaN where the stream after it isn't a place of its own."""
    one_control: Float[np.ndarray, "control prompt"]
    """The chosen unit with each control."""
    all_control: Float[np.ndarray, "control prompt"]
    """All units with each control."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttackedRun:
    """One batch of attacked prompts, ready to be run with other fine-tuned components."""

    judge: HooksBackend
    """Executor of the fine-tuned model."""
    base: HooksBackend
    """Executor of the model before fine-tuning."""
    batch: TokenBatch
    """The attacked prompts."""
    parts: tuple[Unit, ...]
    """How the network is cut."""
    found: Contributions
    """What was written on these prompts."""
    record: Mapping[Site, Float[Tensor, "prompt pos d_model"]]
    """The judge's stream where units and their blocks begin."""
    readout: Readout
    """What is read."""

    @classmethod
    def of(
        cls,
        judge: HooksBackend,
        base: HooksBackend,
        batch: TokenBatch,
        *,
        parts: Sequence[Unit],
        found: Contributions,
        readout: Readout,
    ) -> "AttackedRun":
        """Record the judge's stream on these prompts."""
        blocks = [Site(Component.RESID_PRE, unit.layer) for unit in parts]
        sites = list(dict.fromkeys([*(unit.start for unit in parts), *blocks]))
        record = judge.run(batch, capture=sites, logits="none").activations
        return cls(
            judge=judge,
            base=base,
            batch=batch,
            parts=tuple(parts),
            found=found,
            record={site: record[site] for site in sites},
            readout=readout,
        )

    def with_one(self, index: int, finetuned: Float[Tensor, "prompt d_model"]) -> Float[np.ndarray, " prompt"]:
        """Return the gap when one unit writes its P and this F, the blocks above reacting."""
        written = self.found.base_outputs[:, index].float() + finetuned.float()
        return self._resumed(self.parts[index].layer, self.parts[index].end, written)

    def with_first(self, finetuned: Float[Tensor, "prompt unit d_model"]) -> Float[np.ndarray, "prompt unit"]:
        """Return the gap when the first k units write the base's own P and these F, for every k."""
        places = [self._after(unit) for unit in self.parts]
        streams = self._rebuilt(finetuned, places=places)
        gaps = [
            np.full(len(self.batch), np.nan) if place is None else self._resumed(unit.layer, place, streams[place])
            for unit, place in zip(self.parts, places, strict=True)
        ]
        return np.stack(gaps, axis=1)

    def with_all(self, finetuned: Float[Tensor, "prompt unit d_model"]) -> Float[np.ndarray, " prompt"]:
        """Return the gap when all units write the base's own P and these F; only norm and head are the judge's."""
        last = Site(Component.RESID_POST, self.judge.anatomy.n_layers - 1)
        return self._gap(self._rebuilt(finetuned, places=[last])[last])

    def _rebuilt(
        self, finetuned: Float[Tensor, "prompt unit d_model"], *, places: Sequence[Site | None]
    ) -> dict[Site, Float[Tensor, "prompt d_model"]]:
        """Run the base on the judge's stream at earlier tokens and on the rebuilt stream at the last one."""
        batch, last = self.batch, last_column(self.batch)
        starts = list(dict.fromkeys(unit.start for unit in self.parts))
        edits: list[Edit] = [Patch(site=starts[0], values=self.record[starts[0]])]
        edits += [
            Custom(site=start, fn=_earlier_tokens(self.record[start]), label="the judge's stream before the last token")
            for start in starts[1:]
        ]
        edits += [
            Steer(site=unit.end, vector=finetuned[:, index], positions=last) for index, unit in enumerate(self.parts)
        ]
        wanted = list(dict.fromkeys(place for place in places if place is not None))
        end = max(wanted, key=lambda site: self.base.anatomy.order[site])
        run = self.base.run(
            batch, edits=edits, capture=wanted, positions=last, logits="none", stop_after=end, check_edits=False
        )
        return {place: run.activations[place][:, 0] for place in wanted}

    def _after(self, unit: Unit) -> Site | None:
        """Return where the stream stands once a unit has written; None inside a parallel block."""
        if unit.component is Component.RESID_POST:
            return unit.end
        if unit.component is Component.MLP_OUT:
            return Site(Component.RESID_POST, unit.layer)
        return None if self.judge.anatomy.parallel else Site(Component.RESID_MID, unit.layer)

    def _resumed(self, layer: int, site: Site, values: Float[Tensor, "prompt d_model"]) -> np.ndarray:
        """Replace one site at the last token and let the judge run on from that block."""
        last = Site(Component.RESID_POST, self.judge.anatomy.n_layers - 1)
        column = last_column(self.batch)
        run = self.judge.suffix(
            layer,
            self.record[Site(Component.RESID_PRE, layer)],
            self.batch,
            edits=[Patch(site=site, values=values[:, None], positions=column)],
            capture=[last],
            positions=column,
            logits="none",
            check_edits=False,
        )
        return self._gap(run.activations[last][:, 0])

    def _gap(self, final: Float[Tensor, "prompt d_model"]) -> np.ndarray:
        return to_numpy(read(*readout_modules(self.judge), final, readout=self.readout))


def _earlier_tokens(stream: Tensor) -> Callable[[Tensor], Tensor]:
    def keep_last(target: Tensor) -> Tensor:
        return torch.cat([stream[:, :-1].to(target), target[:, -1:]], dim=1)

    return keep_last


def patched_gaps(
    run: AttackedRun,
    *,
    clean: Contributions,
    other: Contributions,
    chosen: int,
    noise: Float[np.ndarray, "prompt unit d_model"],
) -> PatchedGaps:
    """Put the clean component into attacked runs: unit by unit, the first k units, and the controls.

    Args:
        run: The attacked prompts.
        clean: Writes on the same items without the attack.
        other: Writes on other items without the attack.
        chosen: Unit the controls are for.
        noise: Standard normal numbers, which become the random change.
    """
    own = run.found.finetuned
    change = clean.finetuned - own
    random = torch.from_numpy(noise).to(change)
    random *= change.norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True)
    swaps = (own + random, other.finetuned)
    return PatchedGaps(
        one=np.stack([run.with_one(k, clean.finetuned[:, k]) for k in range(len(run.parts))], axis=1),
        first=run.with_first(clean.finetuned),
        one_control=np.stack([run.with_one(chosen, swap[:, chosen]) for swap in swaps]),
        all_control=np.stack([run.with_all(swap) for swap in swaps]),
    )


def null_error(run: AttackedRun, *, gap: Float[np.ndarray, " prompt"]) -> float:
    """Return how far the verdict moves when every run gets its own F back, all units at once; 0 but for rounding.

    Args:
        run: The attacked prompts.
        gap: Their verdict gap as the judge gave it.
    """
    return float(np.abs(run.with_all(run.found.finetuned) - gap).max())
