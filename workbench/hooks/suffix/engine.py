"""The exact suffix engine: any number of patches of late tokens for about the price of one forward.

A patch at (block, column) changes nothing below that block and, by causality, nothing before that column. So

    prefill once -> keys and values, clean streams            1 forward
    every patch is a row of the tokens from its column on     one token per patch at the last position
    all rows go behind the same cached prompts at once        about (n_layers + 1) / 2 blocks per row

and nothing is approximated. Beside the rows of every birth block runs a *null row* that writes nothing; an effect is
a row minus its null row, so that what another kernel shape rounds differently is subtracted, and how far null rows
are from the prompts' own logits is the noise floor. :meth:`Suffix.check` re-runs random rows as full forwards.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import ExecutorDisagreement, MemoryShortage, ParameterError
from workbench.hooks.anatomy import module_lock
from workbench.hooks.executor import entered
from workbench.hooks.observe import at_input
from workbench.hooks.sites import Site
from workbench.hooks.suffix.ability import Ability, Mode, ability_of, tolerance
from workbench.hooks.suffix.collected import Collected, Rows
from workbench.hooks.suffix.pieces import unmoved
from workbench.hooks.suffix.plain import forward_plain
from workbench.hooks.suffix.prefill import Prefill
from workbench.hooks.suffix.rows import Layout, Row, checked_rows, chunks, places_of
from workbench.hooks.suffix.wavefront import Answer, forward_rows
from workbench.hooks.torch_backend import HooksBackend
from workbench.tokens import TokenBatch

MAX_TOKENS = 4096
"""Flat tokens of a forward, all prompts of the batch together."""


_ASKED = "asked for"
_listeners: ContextVar[tuple[list[str], ...]] = ContextVar("listeners", default=())


@contextmanager
def notes_into(notes: list[str]) -> Iterator[None]:
    """While open, what any engine has to say (a slower way taken, memory that ran out) is added to a list, each once.

    Args:
        notes: The notes of a run.
    """
    token = _listeners.set((*_listeners.get(), notes))
    try:
        yield
    finally:
        _listeners.reset(token)


def _tell(text: str) -> None:
    for notes in _listeners.get():
        if text not in notes:
            notes.append(text)


class Suffix:
    """One model and one batch of prompts, run once and ready for patches of their last tokens.

    Args:
        executor: Whose model runs.
        batch: Left-padded prompts.
        capture: Sites whose clean activations are kept, at the last ``tokens`` columns: donors for patches, and what
            structural zeros are told by.
        tokens: How many last columns are kept; rows can write no earlier ones. All columns of the longest prompt's
            padded row for None.
        mode: The way rows run; None takes the fastest that the model can.

    Raises:
        ParameterError: ``tokens`` is outside the prompts, or the model can't run rows the way asked for.
        UnknownSite: A site doesn't exist in this model.
    """

    def __init__(
        self,
        executor: HooksBackend,
        batch: TokenBatch,
        *,
        capture: Sequence[Site] = (),
        tokens: int | None = 1,
        mode: Mode | None = None,
    ) -> None:
        batch = at_input(executor.module, batch)
        width, shortest = batch.ids.shape[1], int(batch.lengths.min())
        kept = width if tokens is None else tokens
        if not 1 <= kept <= width or (tokens is not None and tokens > shortest):
            raise ParameterError(
                "rows can write only tokens that every prompt has.",
                argument="tokens",
                got=tokens,
                allowed=f"1 to {shortest}",
            )
        self.executor, self.batch, self.tokens = executor, batch, kept
        self.ability = _chosen(executor, mode)
        if self.ability.reason not in (None, _ASKED):
            _tell(f"patches the fastest way: {self.ability.reason}; they ran as {self.ability.mode}.")
        self.notes: tuple[str, ...] = ()
        """What happened on the way that a reader should know: memory that ran out, another way taken."""
        with module_lock(executor.module):
            self._prefill = Prefill.of(
                executor, batch, capture=capture, tokens=kept, cached=self.ability.mode != "plain"
            )

    @property
    def mode(self) -> Mode:
        """Return how rows run: ``"wavefront"``, ``"tree"`` or ``"plain"``."""
        return self.ability.mode

    @property
    def reason(self) -> str | None:
        """Return why rows don't run the fastest way; None where they do."""
        return self.ability.reason

    @property
    def values(self) -> Mapping[Site, Float[Tensor, "prompt token *feature"]]:
        """Return the clean activations of the captured sites at the last ``tokens`` columns."""
        return self._prefill.values

    @property
    def logits(self) -> Float[Tensor, "prompt vocab"]:
        """Return the prompts' own logits at the last column."""
        return self._prefill.logits

    def columns(self, count: int = 1) -> Tensor:
        """Return the last ``count`` columns of every prompt, ``[prompt, count]``."""
        width = self.batch.ids.shape[1]
        return torch.arange(width - count, width).expand(len(self.batch), -1)

    def clean(self, site: Site, columns: Tensor) -> Float[Tensor, "prompt k *feature"]:
        """Return captured activations at columns of the padded batch.

        Args:
            site: A captured site, or a head of one.
            columns: ``[prompt, k]``.

        Raises:
            ParameterError: The site wasn't captured.
        """
        return at_columns(self._value(site), columns, first=self.batch.ids.shape[1] - self.tokens)

    def run(
        self,
        rows: Iterable[Row],
        *,
        ids: Sequence[int] | None = None,
        mass: bool = False,
        read: Sequence[Site] = (),
        grad: bool = False,
        max_tokens: int = MAX_TOKENS,
    ) -> Rows:
        """Run every row from the block and column it begins to differ.

        Args:
            rows: What is written; no earlier than the kept columns.
            ids: Token ids (or labels of a classification head) whose logits are wanted; None for the vocabulary.
            mass: Whether the log-sum-exp over the vocabulary is wanted too; it costs the whole unembedding.
            read: Captured sites to read at the last token of every row.
            grad: Whether gradients flow from the logits to values and weights of the rows; columns of a write mustn't
                repeat then.
            max_tokens: Flat tokens of one forward over all prompts of the batch; more rows run in several, and a row
                that is longer runs alone.

        Raises:
            UnknownSite: A site doesn't exist in this model.
            EditError: A row writes nothing, or values that don't fit.
            ParameterError: There are no rows, one writes before the kept columns or twice into one column though
                gradients are wanted, or a site to read wasn't captured.
            MemoryShortage: Not even one row fits; more of them are halved until they do, and :attr:`notes` says so.
        """
        if max_tokens < 1:
            raise ParameterError("too small.", argument="max_tokens", got=max_tokens, allowed="1 or more")
        for site in read:
            self._value(site)
        first = self.batch.ids.shape[1] - self.tokens
        ready = checked_rows(self.executor.anatomy, self.batch, rows, first=first, distinct=grad)
        same = torch.zeros(len(self.batch), len(ready), dtype=torch.bool)
        if not grad:  # gradients also flow where nothing has moved yet
            same = unmoved(ready, self.values, prompts=len(self.batch), first=first)
        chosen = [i for i, zero in enumerate(same.all(0).tolist()) if read or not zero]
        found: Collected | None = None
        if self.mode != "plain":
            found = self._rows(ready, chosen, Collected(len(ready), ids=ids, mass=mass), read, grad, max_tokens)
        if found is None:
            found = self._plain(ready, chosen, Collected(len(ready), ids=ids, mass=mass), read, grad)
        return found.finish(self._prefill.logits, same)

    def check(
        self, rows: Sequence[Row], *, ids: Sequence[int] | None = None, count: int = 3, seed: int = 0, prompt: int = 0
    ) -> float:
        """Re-run random rows of one prompt as full forwards with plain hooks and return the largest difference, logits.

        Args:
            rows: The rows of a sweep.
            ids: Token ids that are compared; None for the vocabulary.
            count: How many rows.
            seed: Seed of their choice.
            prompt: Index of the prompt.

        Raises:
            ExecutorDisagreement: A row differs by more than rounding in this data type does.
        """
        drawn = np.random.default_rng(seed).permutation(len(rows))[:count]
        some = [rows[int(i)] for i in drawn]
        if self.mode == "plain" or not some:
            return 0.0
        found = self.run(some, ids=ids)
        batch, shift = _alone(self.batch, prompt)
        ready = checked_rows(self.executor.anatomy, self.batch, some)
        clean = forward_plain(self.executor, batch, None).logits
        worst = 0.0
        for index, row in enumerate(ready):
            truth = forward_plain(self.executor, batch, _of_prompt(row, prompt, shift)).logits - clean
            effect = found.logits[prompt, index] - found.null[prompt, index]
            picked = truth[0] if ids is None else truth[0, list(ids)]
            worst = max(worst, float((effect.double() - picked.double()).abs().max()))
        allowed = 2 * tolerance(clean)
        if worst > allowed:
            raise ExecutorDisagreement(
                "patches behind cached prompts differ from full forwards with the same patches.",
                argument="executor",
                got=f"{worst:.3g} logits over {len(some)} rows, {self.mode} form",
                allowed=f"{allowed:.2g} in {clean.dtype}",
                fix="Pass mode='plain', and report this architecture.",
            )
        return worst

    def noise(self, rows: Rows, *, ids: Sequence[int] | None = None) -> float:
        """Return how far null rows are from the prompts' own logits, at most: what rounding alone does here.

        Args:
            rows: Of :meth:`run`, with the same ``ids``.
            ids: Token ids they hold.
        """
        own = self.logits if ids is None else self.logits[:, list(ids)]
        return float((rows.null.double() - own[:, None].double()).abs().max())

    def _rows(
        self, ready: Sequence[Row], chosen: Sequence[int], found: Collected, read: Sequence[Site], grad: bool,
        max_tokens: int,
    ) -> Collected | None:  # fmt: skip
        """Run rows behind the prompts; None where they turn out not to give full forwards' numbers."""
        places, width = places_of(ready), self.batch.ids.shape[1]
        most = max(max_tokens // len(self.batch), 1)
        queue = chunks(places, chosen, width=width, most=most)
        while queue:
            part = queue[0]
            layout = Layout.of(places, part, width=width, n_layers=self.executor.anatomy.n_layers)
            answer = self._forward(ready, layout, found, read, grad)
            if answer is None:
                most = len(layout) // 2
                self._note(f"memory ran out: rows ran {most * len(self.batch)} tokens at a time.")
                queue = chunks(places, [index for run in queue for index in run], width=width, most=most)
                continue
            nulls = [at for at, index in enumerate(layout.order) if index < 0]
            if not self._reliable(answer.logits[:, nulls], found):
                return None
            real = [at for at, index in enumerate(layout.order) if index >= 0]
            of_birth = {layout.places[at].birth: at for at in nulls}
            own = [of_birth[layout.places[at].birth] for at in real]
            found.put(
                [layout.order[at] for at in real],
                answer.logits[:, real],
                answer.logits[:, own],
                {site: answer.read[site][:, real] for site in read},
            )
            queue.pop(0)
        return found

    def _forward(
        self, ready: Sequence[Row], layout: Layout, found: Collected, read: Sequence[Site], grad: bool
    ) -> Answer | None:
        """Run one layout; None where memory ran out and fewer rows may fit."""
        module, narrow = self.executor.module, self.mode == "wavefront"
        try:
            with entered(module, around=self.executor.around, grad=grad):
                return forward_rows(
                    self.executor, self._prefill, ready, layout, ids=found.computed, read=read, narrow=narrow
                )
        except (torch.OutOfMemoryError, MemoryError) as err:
            if sum(index >= 0 for index in layout.order) == 1:
                raise MemoryShortage(
                    "one row doesn't fit into memory beside its prompts.",
                    argument="batch",
                    got=f"{len(self.batch)} prompts, {len(layout)} tokens each",
                    fix="Take fewer prompts in a batch.",
                ) from err
        return None

    def _reliable(self, nulls: Tensor, found: Collected) -> bool:
        """Whether null rows are where their prompts are; rows run as full forwards from now on if they aren't."""
        own = self._prefill.logits
        gap = float((nulls.detach().double() - found.select(own)[:, None].to(nulls.device).double()).abs().max())
        allowed = tolerance(own)
        if gap <= allowed:
            return True
        reason = f"behind these prompts, rows that write nothing differ from them by {gap:.2g} logits"
        self.ability = Ability(mode="plain", reason=reason)
        self._note(f"{reason}: rows ran as full forwards.")
        return False

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes = (*self.notes, text)
            _tell(text)

    def _plain(
        self, ready: Sequence[Row], chosen: Sequence[int], found: Collected, read: Sequence[Site], grad: bool
    ) -> Collected:
        null = found.select(self._prefill.logits)[:, None]
        for index in chosen:
            answer = forward_plain(self.executor, self.batch, ready[index], read=read, grad=grad)
            values = {site: value[:, None] for site, value in answer.read.items()}
            found.put([index], found.select(answer.logits)[:, None], null, values)
        return found

    def _value(self, site: Site) -> Tensor:
        if site in self.values:
            return self.values[site]
        if site.whole in self.values:
            return self.values[site.whole][:, :, cast(int, site.head)]
        raise ParameterError(
            "this site wasn't captured.", argument="capture", got=str(site), allowed=[str(s) for s in self.values]
        )


def at_columns(values: Tensor, columns: Tensor, *, first: int) -> Tensor:
    """Return activations at columns of the padded batch.

    Args:
        values: ``[prompt, token, *feature]``, whose first token is column ``first``.
        columns: ``[prompt, k]``.
        first: Column of the first kept token.

    Raises:
        ParameterError: A column isn't among the kept ones.
    """
    at = columns - first
    if columns.shape[0] != len(values) or bool(((at < 0) | (at >= values.shape[1])).any()):
        raise ParameterError(
            "these columns weren't kept.",
            argument="columns",
            got=columns.tolist() if columns.numel() < 20 else f"shape {tuple(columns.shape)}",
            allowed=f"{first} to {first + values.shape[1] - 1} for each of {len(values)} prompts",
            fix="Make the Suffix with more tokens.",
        )
    at = at.to(values.device)
    return values[torch.arange(len(values), device=values.device)[:, None], at]


def _chosen(executor: HooksBackend, mode: Mode | None) -> Ability:
    if mode == "plain":
        return Ability(mode="plain", reason=_ASKED)
    able = ability_of(executor)
    if mode is None or mode == able.mode:
        return able
    if able.mode == "wavefront" and mode == "tree":
        return Ability(mode="tree", reason=_ASKED)
    raise ParameterError(
        f"this model can't run rows this way: {able.reason}.", argument="mode", got=mode, allowed=(able.mode, "plain")
    )


def _alone(batch: TokenBatch, prompt: int) -> tuple[TokenBatch, int]:
    one = batch.row(prompt)
    return one, batch.ids.shape[1] - one.ids.shape[1]


def _of_prompt(row: Row, prompt: int, shift: int) -> Row:
    """Return what a row writes into one prompt that stands alone, without its padding."""
    part = slice(prompt, prompt + 1)
    return Row(
        tuple(
            write._replace(
                columns=write.columns[part] - shift,
                values=write.values[part],
                weight=None if write.weight is None else write.weight.expand_as(write.values)[part],
            )
            for write in row.writes
        )
    )
