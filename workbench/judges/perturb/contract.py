"""What a perturbation is: the same items in another dress, a placebo beside them, and what a bias would do.

A bias probe asks whether a change that says nothing about the answers moves the verdict. Whatever
it adds also makes the prompt longer or odder, so that every perturbation brings a placebo of the
same size and place: what the change does beyond its placebo is the bias.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.errors import ParameterError
from workbench.judges.chat import Tokenizer
from workbench.judges.items import JudgeItem

Target = Literal["answer", "first slot", "none"]
"""What a biased judge would move toward: a named answer of each item, whatever is shown first, or nothing known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbedItems:
    """Item sets in step: entry k of each is the same item, unchanged, perturbed, and with the placebo."""

    items: tuple[JudgeItem, ...]
    """The items the perturbation applies to, as they came."""
    perturbed: tuple[JudgeItem, ...]
    """The same items perturbed: same ids, ``meta["variant"]`` is the perturbation's name; labels as in truth."""
    placebo: tuple[JudgeItem, ...] | None
    """The same items with a change of like size that can't carry the bias; None where there is none (notes say why)."""
    toward: tuple[int, ...]
    """Index of the answer a biased judge would move to, in the item's own order; -1 where the target is no answer."""
    notes: tuple[str, ...] = ()
    """What was left out and why, and how the placebo was made."""

    def __post_init__(self) -> None:
        """Check that the sets are in step.

        Raises:
            ParameterError: Lengths or ids differ.
        """
        ids = [item.item_id for item in self.items]
        for name, other in (("perturbed", self.perturbed), ("placebo", self.placebo)):
            if other is not None and [item.item_id for item in other] != ids:
                raise ParameterError("not the same items in the same order.", argument=name, got=len(other))
        if len(self.toward) != len(ids):
            raise ParameterError("one entry per item.", argument="toward", got=len(self.toward), allowed=str(len(ids)))

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)


Apply = Callable[[Sequence[JudgeItem], int, Tokenizer | None], PerturbedItems]
"""Makes the variants of items: ``apply(items, seed, tokenizer)``; the tokenizer matches lengths, where given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """One way of changing items without changing which answer is better."""

    name: str
    """Short name, as in ``behavior.probe(pair, items, "bandwagon")``."""
    title: str
    """What is probed, in words, e.g. ``"follows the majority"``."""
    description: str
    """What is changed, what the placebo is, and where the definition comes from (paper, section)."""
    apply: Apply
    """Makes the variants."""
    target: Target = "answer"
    """What a biased judge would move toward."""
    keeps_label: bool = True
    """Whether the better answer stays the better one; False where the perturbation makes an answer wrong on purpose."""
    expected: Literal["still", "moves"] = "still"
    """What a good judge does: stay where it was (most probes), or move toward the target (injected errors)."""
    placebo_in_both: bool = False
    """Whether the placebo makes the change in both answers, so that it holds it twice: a verdict that only blurs blurs
    twice there, and half of the placebo's shift is what compares."""
