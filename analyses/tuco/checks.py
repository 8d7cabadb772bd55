"""What a run holds against itself before it is believed: the shortcut, and the judge against itself."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch

from analyses.looping import Prompts
from analyses.tuco.clamp import no_turns, shortcut_error
from analyses.tuco.cuts import Unit
from analyses.tuco.evaluation import Evaluation
from workbench.errors import ExecutorDisagreement
from workbench.pairs import Switch

_SHORTCUT_TOLERANCE, _SHORTCUT_TOLERANCE_HALF = 1e-5, 2e-2
"""Largest allowed difference of the shortcut, relative to the largest write."""


def settle(
    prompts: Prompts, items: Sequence[int], *, parts: Sequence[Unit], how: Evaluation, switch: Switch = no_turns
) -> tuple[Evaluation, float]:
    """Hold the shortcut against full forwards on a few items, and give it up, which is said, where it isn't the same.

    Args:
        prompts: The prompts of the run.
        items: Which to try.
        parts: How the network is cut.
        how: The evaluation planned.
        switch: Told which model is needed next, where they take turns.

    Returns:
        The evaluation to go on with, and the shortcut's error as :func:`shortcut_error` says (NaN: not used).
    """
    if not how.last_only:
        return how, float("nan")
    pair = prompts.pair
    judge, base = pair.executor("judge"), pair.executor("base")
    error = prompts.on_some(
        items,
        lambda some: shortcut_error(judge, base, prompts.batch(some), parts=parts, how=how, switch=switch),
    )
    exact = how.float32 or pair.dtype.itemsize >= torch.float32.itemsize
    tolerance = _SHORTCUT_TOLERANCE if exact else _SHORTCUT_TOLERANCE_HALF
    if error <= tolerance:
        return how, error
    said = (
        f"the last-token shortcut: it differs from full forwards by {error:.2g} of the largest write here "
        f"(allowed {tolerance:.0e}), so full forwards were run."
    )
    prompts.notes.append(said)
    warnings.warn(said, RuntimeWarning, stacklevel=4)
    return replace(how, last_only=False, group=1, doubled=False), error


def check_null(size: float, *, name: str = "|F|") -> None:
    """Refuse a pair whose judge against itself isn't exactly 0.

    Args:
        size: Largest of what was measured there.
        name: What that is.

    Raises:
        ExecutorDisagreement: It isn't 0.
    """
    if size != 0.0:
        raise ExecutorDisagreement(
            "the judge clamped to its own stream doesn't repeat itself, so a contribution can't be told from noise.",
            argument="pair",
            got=f"{name} = {size:.3g} where 0 was due",
            fix="Use deterministic kernels (torch.use_deterministic_algorithms) or attention='eager'.",
        )
