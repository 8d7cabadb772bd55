"""The exact suffix engine: any number of patches of late tokens for about the price of one forward.

A patch at (block, column) changes nothing below that block and, by causality, nothing before that column. So

    prefill once -> keys and values, clean streams            1 forward
    every patch is a row of the tokens from its column on     one token per patch at the last position
    all rows go behind the same cached prompts at once        about (n_layers + 1) / 2 blocks per row

and nothing is approximated. Beside the rows of every birth block runs a *null row* that writes nothing; an effect is
a row minus its null row, so that what another kernel shape rounds differently is subtracted, and how far null rows
are from the prompts' own logits is the noise floor. :meth:`Suffix.check` re-runs random rows as full forwards.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import ExecutorDisagreement, ParameterError
from workbench.hooks.anatomy import module_lock
from workbench.hooks.executor import entered
from workbench.hooks.observe import at_input
from workbench.hooks.sites import Site
from workbench.hooks.suffix.ability import Ability, Mode, ability_of, tolerance
from workbench.hooks.suffix.plain import forward_plain
from workbench.hooks.suffix.prefill import Prefill
from workbench.hooks.suffix.rows import Layout, Row, checked_rows, chunks, place_of
from workbench.hooks.suffix.wavefront import forward_rows
from workbench.hooks.torch_backend import HooksBackend
from workbench.tokens import TokenBatch

MAX_TOKENS = 4096
"""Flat tokens of a forward, all prompts of the batch together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """What the rows gave, in the order they came in."""

    logits: Float[Tensor, "prompt row option"]
    """Logits at the prompts' last token; exactly the null row's where a row writes what is already there."""
    null: Float[Tensor, "prompt row option"]
    """Logits of the null row of the same birth block: the clean prompts through the same kernels."""
    logsumexp: Float[Tensor, "prompt row"] | None
    """Log of the summed exponentials over the whole vocabulary; None unless asked for."""
    null_logsumexp: Float[Tensor, "prompt row"] | None
    """The same of the null rows."""
    same: Bool[Tensor, "prompt row"]
    """Where a row writes, bit for bit, what is already there: structural zeros. They are not computed."""
    read: Mapping[Site, Float[Tensor, "prompt row *feature"]]
    """Sites that were asked for, at the last token of every row."""


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
            max_tokens: Flat tokens of one forward over all prompts of the batch; more rows run in several.

        Raises:
            UnknownSite: A site doesn't exist in this model.
            EditError: A row writes nothing, or values that don't fit.
            ParameterError: A row writes before the kept columns, a site to read wasn't captured, or ``max_tokens``
                is too small for one row.
        """
        for site in read:
            self._value(site)
        ready = checked_rows(self.executor.anatomy, self.batch, rows)
        same = torch.stack([self._same(row) for row in ready], dim=1)
        # Gradients also flow where nothing has moved yet.
        chosen = [i for i in range(len(ready)) if grad or bool(read) or not bool(same[:, i].all())]
        found = _Collected(len(ready), torch.logsumexp if mass else None, ids)
        own = self._prefill.logits[:, None]
        if self.mode == "plain":
            self._plain(ready, chosen, found, read=read, grad=grad)
        else:
            self._rows(ready, chosen, found, read=read, grad=grad, most=max_tokens // len(self.batch))
        return found.finish(own, same if not grad else torch.zeros_like(same), read, self._prefill.values)

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
        self, ready: Sequence[Row], chosen: Sequence[int], found: "_Collected", *, read: Sequence[Site], grad: bool,
        most: int,
    ) -> None:  # fmt: skip
        places = [place_of(row) for row in ready]
        width = self.batch.ids.shape[1]
        early = min((places[i].start for i in chosen), default=width)
        if early < width - self.tokens:
            raise ParameterError(
                "a row writes before the kept columns.",
                argument="rows",
                got=f"column {early}",
                allowed=f"{width - self.tokens} to {width - 1}",
                fix=f"Make the Suffix with tokens={width - early} or more.",
            )
        for part in chunks(places, chosen, width=width, most=max(most, 1)):
            layout = Layout.of(places, part, width=width, n_layers=self.executor.anatomy.n_layers)
            with entered(self.executor.module, around=self.executor.around, grad=grad):
                answer = forward_rows(
                    self.executor, self._prefill, ready, layout,
                    ids=found.computed, read=read, narrow=self.mode == "wavefront",
                )  # fmt: skip
            nulls = {place.birth: at for at, place in enumerate(layout.places) if layout.order[at] < 0}
            for at, (place, index) in enumerate(zip(layout.places, layout.order, strict=True)):
                if index < 0:
                    continue
                found.put(index, answer.logits[:, at], answer.logits[:, nulls[place.birth]])
                for site in read:
                    found.keep(site, index, answer.read[site][:, at])

    def _plain(
        self, ready: Sequence[Row], chosen: Sequence[int], found: "_Collected", *, read: Sequence[Site], grad: bool
    ) -> None:
        for index in chosen:
            answer = forward_plain(self.executor, self.batch, ready[index], read=read, grad=grad)
            found.put(index, found.select(answer.logits), found.select(self._prefill.logits))
            for site in read:
                found.keep(site, index, answer.read[site])

    def _same(self, row: Row) -> Bool[Tensor, " prompt"]:
        """Return for which prompts a row writes, bit for bit, what is there; never where that isn't known."""
        every = torch.ones(len(self.batch), dtype=torch.bool)
        for write in row.writes:
            if write.add:
                every &= ~(write.values.detach() != 0).flatten(1).any(1).cpu()
                continue
            if write.site not in self.values and write.site.whole not in self.values:
                return torch.zeros_like(every)
            if int(write.columns.min()) < self.batch.ids.shape[1] - self.tokens:
                return torch.zeros_like(every)
            there = self.clean(write.site, write.columns)
            every &= ~(there != write.values.detach().to(there)).flatten(1).any(1).cpu()
        return every

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
    """
    at = (columns - first).to(values.device)
    return values[torch.arange(len(values), device=values.device)[:, None], at]


def _chosen(executor: HooksBackend, mode: Mode | None) -> Ability:
    if mode == "plain":
        return Ability(mode="plain", reason="asked for")
    able = ability_of(executor)
    if mode is None or mode == able.mode:
        return able
    if able.mode == "wavefront" and mode == "tree":
        return Ability(mode="tree", reason="asked for")
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


class _Collected:
    """Rows' answers as they come, in the order the rows came in."""

    def __init__(self, count: int, logsumexp: Any, ids: Sequence[int] | None) -> None:
        self.count, self.logsumexp, self.ids = count, logsumexp, None if ids is None else list(ids)
        self._logits: dict[int, tuple[Tensor, Tensor]] = {}
        self._mass: dict[int, tuple[Tensor, Tensor]] = {}
        self._read: dict[Site, dict[int, Tensor]] = {}

    @property
    def computed(self) -> list[int] | None:
        """Return which rows of the unembedding a forward has to compute; None for all."""
        return None if self.logsumexp is not None else self.ids

    def select(self, logits: Tensor) -> Tensor:
        """Return the logits a forward would have computed."""
        return logits if self.computed is None else logits[..., self.computed]

    def put(self, index: int, logits: Tensor, null: Tensor) -> None:
        """Take in one row and its null row, ``[prompt, computed]``."""
        if self.logsumexp is not None:
            self._mass[index] = tuple(torch.logsumexp(x.float(), dim=-1) for x in (logits, null))  # type: ignore[assignment]
            if self.ids is not None:
                logits, null = logits[..., self.ids], null[..., self.ids]
        self._logits[index] = logits, null

    def keep(self, site: Site, index: int, value: Tensor) -> None:
        """Take in what one row had at a site."""
        self._read.setdefault(site, {})[index] = value

    def finish(self, own: Tensor, same: Tensor, read: Sequence[Site], clean: Mapping[Site, Tensor]) -> Rows:
        """Return everything, structural zeros put exactly where their null row is."""
        del clean
        picked = own[:, 0] if self.ids is None else own[:, 0, self.ids]
        missing = picked, picked
        logits, null = (
            torch.stack([self._logits.get(i, missing)[k] for i in range(self.count)], dim=1) for k in (0, 1)
        )
        zero = same.to(logits.device)
        mass: list[Tensor | None] = [None, None]
        if self.logsumexp is not None:
            there = torch.logsumexp(own[:, 0].float(), dim=-1)
            mass = [
                torch.stack([self._mass.get(i, (there, there))[k] for i in range(self.count)], dim=1) for k in (0, 1)
            ]
            mass[0] = torch.where(zero, cast(Tensor, mass[1]), cast(Tensor, mass[0]))
        return Rows(
            logits=torch.where(zero[..., None], null, logits),
            null=null,
            logsumexp=mass[0],
            null_logsumexp=mass[1],
            same=same,
            read={site: torch.stack([self._read[site][i] for i in range(self.count)], dim=1) for site in read},
        )
