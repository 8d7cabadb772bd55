"""The forms of an adapter judge that are compared, and what one batch shows of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.hooks import Component, HooksBackend, Site, weight_sharing_shadow
from workbench.judges import EncodedPrompts, label_logprobs, verdicts_from_logprobs
from workbench.pairs import Pair, shortage_explained
from workbench.pairs.adapters import merged_copy
from workbench.tokens import TokenBatch

MERGED, AGAIN, ROUNDED, FLOAT32 = "merged", "unmerged, alone", "merged weights in float32", "merged in float32"
FORMS = (MERGED, AGAIN, ROUNDED, FLOAT32)
"""What is held against the judge as it is, in this order.

``merged`` and ``unmerged, alone`` compute in the pair's data type; the second is the judge itself, prompt by prompt,
and shows what rounding alone does. The last two compute in float32 and are held against the unmerged judge in float32:
weights that were merged in the pair's type, which shows what merging lost, and weights merged in float32, the control.
"""


class Reading(NamedTuple):
    """What one form says at the last token of some prompts."""

    margin: Float[np.ndarray, " prompt"]
    """Verdict margin, nats."""
    mass: Float[np.ndarray, " prompt"]
    """Probability of all labels together."""
    logits: Float[Tensor, "prompt vocab"]
    """Logits, float32."""
    streams: Float[Tensor, "prompt layer d_model"]
    """Residual stream after every block, float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """The judge in every form."""

    own: HooksBackend
    """As it is: unmerged."""
    merged: HooksBackend
    """Merged in the pair's data type."""
    wide: tuple[HooksBackend, HooksBackend, HooksBackend] | None
    """In float32: unmerged, with the weights merged in the pair's type, merged in float32; None where left out."""

    @classmethod
    def of(cls, pair: Pair, *, float32: bool) -> "Forms":
        """Merge the judge of a pair.

        Args:
            pair: An adapter pair.
            float32: Whether the float32 forms are made, which takes another copy of all weights.

        Raises:
            PairMismatch: The adapter can't be merged exactly.
            MemoryShortage: There is no room for another form of the judge.
        """
        with shortage_explained(
            "memory ran out while the judge was merged.",
            argument="float32",
            got=f"{float32}, on {pair.device}",
            fix="Pass float32=False, which saves a copy of all weights." if float32 else "Free memory on this device.",
        ):
            return cls._made(pair, float32=float32)

    @classmethod
    def _made(cls, pair: Pair, *, float32: bool) -> "Forms":
        merged = merged_copy(pair.judge)
        if not float32:
            return cls(own=pair.executor("judge"), merged=_executor(pair, merged, MERGED), wide=None)
        known: dict[Tensor, nn.Parameter] = {}
        plain = _widened(pair.judge, known)
        wide = (
            _executor(pair, plain, "unmerged in float32"),
            _executor(pair, _widened(merged, known), ROUNDED),
            _executor(pair, merged_copy(plain), FLOAT32),
        )
        return cls(own=pair.executor("judge"), merged=_executor(pair, merged, MERGED), wide=wide)

    @property
    def names(self) -> tuple[str, ...]:
        """Return which forms are compared."""
        return FORMS if self.wide is not None else FORMS[:2]

    def compared(self, encoded: EncodedPrompts, batch: TokenBatch) -> list[tuple[Reading, Reading]]:
        """Return (reference, form) for every form, on one batch.

        Args:
            encoded: The prompts.
            batch: The same prompts as tokens.
        """
        own = read(self.own, encoded, batch)
        pairs = [(own, read(self.merged, encoded, batch)), (own, self._alone(encoded, batch))]
        if self.wide is not None:
            plain = read(self.wide[0], encoded, batch)
            pairs += [(plain, read(executor, encoded, batch)) for executor in self.wide[1:]]
        return pairs

    def _alone(self, encoded: EncodedPrompts, batch: TokenBatch) -> Reading:
        rows = [read(self.own, encoded.select([row]), batch.row(row)) for row in range(len(batch))]
        return Reading(
            np.concatenate([row.margin for row in rows]),
            np.concatenate([row.mass for row in rows]),
            torch.cat([row.logits for row in rows]),
            torch.cat([row.streams for row in rows]),
        )


@torch.no_grad()
def read(executor: HooksBackend, encoded: EncodedPrompts, batch: TokenBatch) -> Reading:
    """Run one form on a batch.

    Args:
        executor: Executor of the form.
        encoded: The prompts.
        batch: The same prompts as tokens.
    """
    sites = [Site(Component.RESID_POST, layer) for layer in range(executor.anatomy.n_layers)]
    last = torch.full((len(batch), 1), batch.ids.shape[1] - 1, device=batch.device)
    run = executor.run(batch, capture=sites, positions=last, logits="last")
    logits = cast(Tensor, run.logits)
    if encoded.single_token:
        ids = torch.tensor([[tail[0] for tail in tails] for tails in encoded.tails], device=logits.device)
        logprobs = torch.log_softmax(logits.float(), dim=-1).gather(-1, ids).double().cpu().numpy()
    else:
        logprobs = label_logprobs(lambda rows: _all_logits(executor, rows), encoded, batch_size=len(batch))
    verdicts = verdicts_from_logprobs(logprobs, encoded)
    return Reading(
        np.array([verdict.margin for verdict in verdicts]),
        np.array([verdict.label_mass for verdict in verdicts]),
        logits.float(),
        torch.stack([run.activations[site][:, 0].float() for site in sites], dim=1),
    )


def logit_difference(reference: Reading, form: Reading) -> Float[np.ndarray, " prompt"]:
    """Return the largest difference of any logit."""
    return (form.logits - reference.logits).abs().amax(-1).double().cpu().numpy()


def divergence(reference: Reading, form: Reading) -> Float[np.ndarray, " prompt"]:
    """Return the Kullback-Leibler divergence of a form's next token from the reference's, nats."""
    own, other = (torch.log_softmax(reading.logits.double(), dim=-1) for reading in (reference, form))
    return (own.exp() * (own - other)).sum(-1).clamp(min=0.0).cpu().numpy()


def stream_drift(reference: Reading, form: Reading) -> Float[np.ndarray, "prompt layer"]:
    """Return how far the stream after every block is from the reference's, as a share of its norm."""
    away = (form.streams.double() - reference.streams.double()).norm(dim=-1)
    return (away / reference.streams.double().norm(dim=-1).clamp(min=1e-30)).cpu().numpy()


def _all_logits(executor: HooksBackend, batch: TokenBatch) -> Tensor:
    return cast(Tensor, executor.run(batch, logits="all").logits)


def _executor(pair: Pair, module: PreTrainedModel, name: str) -> HooksBackend:
    return pair.with_judge(module, name=name).executor("judge")


def _widened(module: PreTrainedModel, known: dict[Tensor, nn.Parameter]) -> PreTrainedModel:
    """Return a clone with every half-precision parameter in float32; what is in ``known`` is shared, not made again."""
    own: Sequence[nn.Parameter] = [p for p in module.parameters() if p.is_floating_point() and p.dtype.itemsize < 4]
    for parameter in own:
        if parameter not in known:
            known[parameter] = nn.Parameter(parameter.detach().float(), requires_grad=parameter.requires_grad)
    return weight_sharing_shadow(module, replace={parameter: known[parameter] for parameter in own})
