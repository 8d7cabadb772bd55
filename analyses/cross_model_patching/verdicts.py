"""The verdict as patching reads it: a margin of logits at the last prompt token, and what share the labels have."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.looping import Prompts
from workbench.errors import FormatError
from workbench.judges import EncodedPrompts
from workbench.pairs.scores import score_index

MODES = ("pair", "single")
"""Formats these analyses can read; where a prompt shows one answer, "first slot" means "speaks well of it"."""


class VerdictIds(NamedTuple):
    """Which logits a verdict is read from.

    ``margin = favours * (logsumexp(logits[first]) - logsumexp(logits[second]))``; without a second group (a
    classification head) it is the score itself.
    """

    first: tuple[int, ...]
    """First tokens of the labels for the first slot (or for a good answer), or the output of a head."""
    second: tuple[int, ...]
    """First tokens of the labels for the second slot (or for a bad answer)."""
    others: tuple[int, ...] = ()
    """First tokens of all other labels (a tie): they count for the label mass only."""
    favours: float = 1.0
    """-1 where the first group of the contrast speaks against the answer shown."""

    @classmethod
    def of(cls, prompts: Prompts) -> "VerdictIds":
        """Return where the verdicts of a run are read.

        Raises:
            FormatError: Labels of different groups begin with the same token, or the format has none.
        """
        judged = prompts.pair.format
        if judged.reads == "scalar":
            return cls((score_index(prompts.pair.judge, judged),), ())
        firsts = _first_tokens(prompts.encoded)
        first, second = prompts.encoded.prompts[0].contrast
        others = sorted({i for group, ids in firsts.items() if group not in (first, second) for i in ids})
        sign = -1.0 if judged.mode == "single" and judged.favours == "second" else 1.0
        return cls(tuple(sorted(firsts[first])), tuple(sorted(firsts[second])), tuple(others), sign)

    @property
    def ids(self) -> tuple[int, ...]:
        """Return every id that is read, in the order the methods here take them."""
        return (*self.first, *self.second, *self.others)

    @property
    def scalar(self) -> bool:
        """Whether the margin is a head's score; there is no label mass then."""
        return not self.second

    @property
    def unit(self) -> str:
        """Return the unit of the margin."""
        return "score" if self.scalar else "logits"

    def margin(self, logits: Float[Tensor, "*lead option"]) -> Float[Tensor, "*lead"]:
        """Return the margin, first slot minus second; float64, differentiable.

        Args:
            logits: Logits of :attr:`ids`, in their order.
        """
        chosen = logits.double()
        top = torch.logsumexp(chosen[..., : len(self.first)], dim=-1)
        if self.scalar:
            return self.favours * top
        end = len(self.first) + len(self.second)
        return self.favours * (top - torch.logsumexp(chosen[..., len(self.first) : end], dim=-1))

    def mass(self, logits: Float[Tensor, "*lead option"], logsumexp: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
        """Return the probability of all labels' first tokens together; NaN for a head's score.

        Args:
            logits: Logits of :attr:`ids`, in their order.
            logsumexp: Log-sum-exp over the whole vocabulary.
        """
        if self.scalar:
            return torch.full_like(logsumexp, torch.nan, dtype=torch.float64)
        return (torch.logsumexp(logits.double(), dim=-1) - logsumexp.double()).exp()

    def of_vocabulary(self, logits: Float[Tensor, "*lead vocab"]) -> tuple[Tensor, Tensor]:
        """Return margin and label mass from whole rows of logits."""
        chosen = logits[..., list(self.ids)]
        return self.margin(chosen), self.mass(chosen, torch.logsumexp(logits.double(), dim=-1))


def _first_tokens(encoded: EncodedPrompts) -> dict[str, set[int]]:
    groups = encoded.groups
    firsts = {group: {tails[i][0] for tails in encoded.tails for i in indices} for group, indices in groups.items()}
    every = [token for ids in firsts.values() for token in ids]
    if not firsts or len(every) != len(set(every)):
        raise FormatError(
            "labels of different groups begin with the same token, so that no margin can be read at one position.",
            argument="format",
            got={group: sorted(ids) for group, ids in firsts.items()},
            fix="Use a format whose labels begin differently, or whose verdict stem reaches up to where they do.",
        )
    return firsts
