"""Learning gates: projected Adam on the gap that is left plus a price per gate, through the suffix engine.

    loss(g) = mean((margin(g) - donor's)^2) / mean((own margin - donor's)^2) + price * sum(g)

The prompts' keys and values are computed once; a step runs forwards and backwards through the last tokens only.
Gates are put back into [0, 1] after every step, so that what is rounded is what was trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.cross_model_patching.masks.gates import HALF, Gates
from analyses.cross_model_patching.sweeping import entered
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import Prompts
from workbench.hooks import Component, HooksBackend, Site
from workbench.hooks.suffix import Mode, Suffix

Loss = Literal["squared", "signed"]
LOSSES: tuple[Loss, ...] = ("squared", "signed")
"""What is left of the squared gap; or minus the share of the gap that is closed, which also rewards overshooting."""

_GIGA = 1e9


@dataclass(slots=True, kw_only=True, eq=False)
class TrainingBatch:
    """Prompts of the training half, and what the donor holds on them."""

    items: tuple[int, ...]
    """Which items."""
    values: dict[Site, Tensor]
    """What the donor holds at the gated cells."""
    goal: Float[Tensor, " prompt"]
    """The donor's margins."""
    own: Float[Tensor, " prompt"]
    """The target's margins."""
    suffix: Suffix | None
    """The target, run once; None where it is run anew for every step, for want of memory."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Training:
    """The training half of one direction."""

    prompts: Prompts
    """The prompts of the run."""
    gates: Gates
    """What is learned."""
    verdict: VerdictIds
    """What is read."""
    target: HooksBackend
    """Who is patched."""
    donor: HooksBackend
    """Whose values are put there."""
    loss: Loss
    """What is made small."""
    mode: Mode | None
    """How rows run."""
    batches: list[TrainingBatch]
    """What steps are made on."""

    def fill(self, batches: Sequence[Sequence[int]], *, cache_gb: float) -> int:
        """Run both models once on every batch and return how many batches are run anew for every step.

        Args:
            batches: Items, batch by batch; halved where a step doesn't fit into memory.
            cache_gb: How much of the target may be kept, in 1e9 bytes.
        """
        room = cache_gb * _GIGA
        for _, made in self.prompts.each(batches, self._ready):
            room -= 0 if made.suffix is None else _size(made.suffix)
            if room < 0:
                made.suffix = None
            self.batches.append(made)
        return sum(batch.suffix is None for batch in self.batches)

    def _ready(self, items: tuple[int, ...]) -> TrainingBatch:
        target, donor = self._entered(self.target, items), self._entered(self.donor, items)
        goal, own = (self.verdict.of_vocabulary(suffix.logits)[0] for suffix in (donor, target))
        made = TrainingBatch(items=items, values=self.gates.donor(donor), goal=goal, own=own, suffix=target)
        # One step now: memory runs out here, where a batch can still be halved, or not at all.
        half = torch.full((len(self.gates.cells),), 0.5, dtype=torch.float64, requires_grad=True)
        self.gradient(made, half)
        return made

    def _entered(self, executor: HooksBackend, items: tuple[int, ...]) -> Suffix:
        batch = self.prompts.batch(items)
        return entered(executor, batch, self.gates.cells, mode=self.mode)

    def scale(self) -> float:
        """Return the mean gap there is to close, squared or in size; the unit of the loss."""
        gaps = torch.cat([(batch.goal - batch.own).cpu() for batch in self.batches])
        return float((gaps.square() if self.loss == "squared" else gaps.abs()).mean())

    def value(self, batch: TrainingBatch, gates: Float[Tensor, " cell"], *, grad: bool = True) -> Tensor:
        """Return what is to be made small on a batch, in the margin's unit (squared), differentiable in the gates."""
        suffix = self._entered(self.target, batch.items) if batch.suffix is None else batch.suffix
        row = self.gates.row(gates, suffix, batch.values)
        found = suffix.run([row], ids=self.verdict.ids, grad=grad)
        margin = self.verdict.margin(found.logits[:, 0])
        goal, own = batch.goal.to(margin), batch.own.to(margin)
        if self.loss == "squared":
            return (margin - goal).square().mean()
        return -(torch.sign(goal - own) * (margin - own)).mean()

    def gradient(
        self, batch: TrainingBatch, gates: Float[Tensor, " cell"], *, price: float = 0.0, scale: float = 1.0
    ) -> Float[Tensor, " cell"]:
        """Return the gradient of ``value / scale + price * sum(gates)`` in the gates, and in nothing else."""
        with torch.enable_grad():
            lost = (self.value(batch, gates) / scale).to(gates.device) + price * gates.sum()
            return torch.autograd.grad(lost, gates)[0]

    def left(self, gates: Float[Tensor, " cell"]) -> float:
        """Return the loss over the whole training half, without the price; the untouched target has 1 (or 0)."""
        sizes = [len(batch.goal) for batch in self.batches]
        with torch.no_grad():
            values = [float(self.value(batch, gates, grad=False)) for batch in self.batches]
        return float(np.average(values, weights=sizes)) / self.scale()


class Learned(NamedTuple):
    """Gates at every price, from low to high."""

    gates: Float[np.ndarray, "price cell"]
    """NaN behind the first price that left none."""
    left: Float[np.ndarray, " price"]
    """Loss over the training half, without the price."""


def learn(
    training: Training,
    prices: Sequence[float],
    *,
    steps: int,
    rate: float,
    seed: int,
    run: int,
    stepped: Callable[[], object],
) -> Learned:
    """Learn gates at rising prices, each starting from the last, until none is left.

    Args:
        training: What to learn on.
        prices: What a gate costs, as a share of the gap; ascending.
        steps: Steps per price.
        rate: Adam's rate at the first of them; it falls to 0 over the steps.
        seed: Seed of the order of batches, and of the first gates of later runs.
        run: The first one starts from the donor's value everywhere, others at random.
        stepped: Called after every step.
    """
    rng = np.random.default_rng([seed, run])
    count, scale = len(training.gates.cells), training.scale()
    start = np.ones(count) if run == 0 else rng.uniform(size=count)
    gates, left = np.full((len(prices), count), np.nan), np.full(len(prices), np.nan)
    current = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    for at, price in enumerate(prices):
        _descend(training, current, price=price, scale=scale, steps=steps, rate=rate, rng=rng, stepped=stepped)
        gates[at], left[at] = current.detach().numpy(), training.left(current.detach())
        if not (gates[at] >= HALF).any():
            break
    return Learned(gates, left)


def _descend(
    training: Training,
    gates: Tensor,
    *,
    price: float,
    scale: float,
    steps: int,
    rate: float,
    rng: np.random.Generator,
    stepped: Callable[[], object],
) -> None:
    optimiser = torch.optim.Adam([gates], lr=rate)
    queue: list[int] = []
    for step in range(steps):
        queue = queue or rng.permutation(len(training.batches)).tolist()
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        gates.grad = training.gradient(training.batches[queue.pop()], gates, price=price, scale=scale)
        optimiser.step()
        with torch.no_grad():
            gates.clamp_(0.0, 1.0)
        stepped()


def _size(suffix: Suffix) -> float:
    """Return about how many bytes a run keeps: keys and values, the kept streams, logits."""
    anatomy, batch = suffix.executor.anatomy, suffix.batch
    width = suffix.logits.element_size()
    keys = 2 * batch.ids.numel() * anatomy.n_layers * anatomy.heads(Component.K) * anatomy.d_head
    return width * (keys + suffix.logits.numel() + sum(value.numel() for value in suffix.values.values()))


def agreement_of(runs: Sequence[Float[np.ndarray, " cell"]]) -> float:
    """Return the mean Jaccard index of the rounded masks of independent runs; NaN for one."""
    masks = [gates >= HALF for gates in runs]
    found = [
        1.0 if not (one | other).any() else float((one & other).sum() / (one | other).sum())
        for k, one in enumerate(masks)
        for other in masks[:k]
    ]
    return float(np.mean(found)) if found else float("nan")
