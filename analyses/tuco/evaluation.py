"""How outputs on a recorded stream are computed: the last token alone or all, in which precision, in what batches."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch

from analyses.looping import Prompts
from analyses.tuco.cuts import Unit
from workbench.errors import ParameterError
from workbench.hooks import Component, HooksBackend, Site, float32_blocks, last_tokens_only
from workbench.pairs import can_mix
from workbench.pairs.loading.quantised import is_quantised

PRECISIONS = ("auto", "model", "float32")
"""Names of precisions; see :meth:`Evaluation.best`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How outputs on a recorded stream are computed, by both models alike, so that equal models give exactly 0."""

    last_only: bool = False
    """Compute only what the last token needs (the shortcut): keys and values of all tokens, the rest of one."""
    float32: bool = False
    """Compute blocks in float32 on the stream as the model rounded it."""
    group: int = 1
    """Rows in a run of so many begin alike (answer orders of one item); their common prefix is run once."""
    doubled: bool = False
    """Clamp both sides of an adapter pair in one batch of twice the rows, which reads the shared weights once."""

    @classmethod
    def best(
        cls, prompts: Prompts, parts: Sequence[Unit], *, precision: str = "auto", shortcut: bool = True
    ) -> "Evaluation":
        """Return the quickest exact way for a run's pair and prompts; half-precision blocks in float32.

        Args:
            prompts: The prompts of the run, which are told what can't be had.
            parts: How the network is cut.
            precision: ``"float32"`` computes the blocks of a half-precision pair in float32 on the stream as it is;
                ``"model"`` leaves the models' own type; ``"auto"`` is float32 unless weights are quantised.
            shortcut: Whether to compute only what the last token needs, and the common beginning of all orders once.

        Raises:
            ParameterError: There is no such precision.
        """
        fast = shortcut and shortcut_applies(parts, n_layers=prompts.pair.n_layers)
        return cls(
            last_only=fast,
            float32=_widened(prompts, precision),
            group=len(prompts.orders) if fast else 1,
            doubled=fast and can_mix(prompts.pair.base, prompts.pair.judge),
        )

    @property
    def alone(self) -> "Evaluation":
        """Return this way for models one by one: doubled, the second half is the base, whichever model is asked."""
        return replace(self, doubled=False)

    @contextmanager
    def entered(self, executor: HooksBackend) -> Iterator[None]:
        """While open, the executor's model computes this way."""
        with ExitStack() as stack:
            if self.last_only:
                stack.enter_context(last_tokens_only(executor))
            if self.float32:
                stack.enter_context(float32_blocks(executor))
            yield


PLAIN = Evaluation()
"""The models' own full forwards."""


def shortcut_applies(parts: Sequence[Unit], *, n_layers: int, column: int = -1) -> bool:
    """Return whether the last-token shortcut is exact here: every block's stream is given, the last token is read."""
    given = {unit.start for unit in parts}
    return column == -1 and all(Site(Component.RESID_PRE, layer) in given for layer in range(n_layers))


def computes_in_half(executor: HooksBackend) -> bool:
    """Return whether a model's blocks compute in half precision and have a float32 copy (plain ones in place)."""
    blocks = executor.module.get_submodule(executor.anatomy.blocks_path)
    kinds = {parameter.dtype for parameter in blocks.parameters()}
    if any(is_quantised(parameter) or parameter.is_meta for parameter in blocks.parameters()):
        return False
    return bool(kinds & {torch.float16, torch.bfloat16}) and all(
        kind.is_floating_point and kind.itemsize > 1 for kind in kinds
    )


def _widened(prompts: Prompts, precision: str) -> bool:
    if precision not in PRECISIONS:
        raise ParameterError("unknown choice.", argument="precision", got=precision, allowed=PRECISIONS)
    half = prompts.pair.dtype.itemsize < torch.float32.itemsize
    if precision != "auto" or not half:
        return precision == "float32" and half
    found = all(computes_in_half(prompts.pair.executor(side)) for side in ("base", "judge"))
    if not found:
        prompts.notes.append("blocks in float32: quantised and offloaded weights have no float32 copy.")
    return found
