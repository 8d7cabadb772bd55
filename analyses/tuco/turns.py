"""Batches through both models: side by side, or one model in memory at a time; smaller ones when memory runs out."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from analyses.looping import Prompts
from analyses.tuco.clamp import JudgeSide, judge_side
from analyses.tuco.prompts import Choices, Measured, measure_prompts
from workbench.hooks import HooksBackend
from workbench.pairs import Pair, Switch, one_resident

RECORD_BYTES = 2**30
"""How much of the judge's stream waits for the base, with one model resident at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """How batches of one run go through judge and base."""

    prompts: Prompts
    """The prompts of the run."""
    judge: HooksBackend
    """Executor of the fine-tuned model."""
    base: HooksBackend
    """Executor of the model before fine-tuning."""
    choices: Choices
    """What is measured."""
    switch: Switch
    """Makes one side the resident one."""
    apart: bool
    """Whether only one model is in memory at a time: several batches through the judge, then through the base."""

    def measured(self, batches: Iterable[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], Measured]]:
        """Yield every batch measured."""
        if not self.apart:
            yield from self.prompts.each(batches, self._together)
            return
        for some in self._runs(batches):
            self.switch("judge")
            sides = list(self.prompts.each(some, self._judge_side))
            self.switch("base")
            # All of them before anything else: what the caller does next may need the judge again.
            yield from [done for items, side in sides for done in self._after(items, side)]

    def _together(self, chosen: Sequence[int]) -> Measured:
        return measure_prompts(self.judge, self.base, self.prompts.batch(chosen), choices=self.choices)

    def _judge_side(self, chosen: Sequence[int]) -> JudgeSide:
        parts, how = self.choices.parts, self.choices.how
        return judge_side(self.judge, self.prompts.batch(chosen), parts=parts, how=how).to("cpu")

    def _after(self, items: Sequence[int], side: JudgeSide) -> Iterator[tuple[tuple[int, ...], Measured]]:
        """Yield a batch on what was recorded of the judge; in parts where the base needs more room than the judge."""

        def run(chosen: Sequence[int]) -> Measured:
            batch = self.prompts.batch(chosen)
            own = side.rows(self.prompts.within(items, chosen), width=batch.ids.shape[1]).to(batch.device)
            return measure_prompts(self.judge, self.base, batch, choices=self.choices, side=own)

        return self.prompts.each([items], run)

    def _runs(self, batches: Iterable[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """Yield as many batches as the record of the judge's stream may hold while it waits."""
        pair, waiting, held = self.prompts.pair, [], 0
        sites = len({unit.start for unit in self.choices.parts}) + 1
        for chosen in batches:
            rows = self.prompts.rows_of(chosen)
            tokens = len(rows) * max(len(self.prompts.encoded.rows[row]) for row in rows)
            size = tokens * sites * pair.anatomy("judge").d_model * pair.dtype.itemsize
            if waiting and held + size > RECORD_BYTES:
                yield waiting
                waiting, held = [], 0
            waiting.append(chosen)
            held += size
        if waiting:
            yield waiting


@contextmanager
def taking_turns(pair: Pair, resident: str) -> Iterator[Switch]:
    """While open, models take turns as ``resident`` says: both where they are, one in files, or one on a device."""
    if resident == "both":
        yield lambda _side: None
        return
    with one_resident(pair, device=None if resident == "one" else resident) as switch:
        yield switch
