"""Which few heads and MLPs, holding the other model's values together, carry its verdict?

    value(c) = g_c * donor(c) + (1 - g_c) * own(c),   min over g in [0, 1]:   gap left + lambda * sum(g)

Desiderata-based component masking (Davies et al., arXiv 2307.03637) as in Prakash et al., ICLR 2024 (arXiv
2402.14811), with the other model on the same prompt as donor, MLPs beside heads, and lambda swept until the mask is
empty. At the last positions only, through :mod:`workbench.hooks.suffix`.

Steps: 1 both models once, and every cell alone on the training half, 2 random judges of equal norm: is there anything
to carry?, 3 gates learned on one half at rising lambda, 4 every mask rounded at one half and put in for real, beside
random masks of the same size, matched on layer, and the cells that are strongest alone, 5 the smallest mask that is
good enough on the training half, told by the other half.

What it can't do: tell the cells where something was tuned from those that pass it on. Cells in front of the first
tuned block are exactly 0, those behind it are not: at the last position a tuned block also reaches the verdict
through earlier tokens, which later heads read. One block's cells suffice where nothing lies behind them.
Falsified if identical models give anything but 0, or a rounded mask differs from a full forward with its patches.
"""

import time
from collections.abc import Sequence
from typing import Literal

from analyses.cross_model_patching.cells import grid
from analyses.cross_model_patching.directions import DIRECTIONS, Direction
from analyses.cross_model_patching.masks.learning import LOSSES, Loss
from analyses.cross_model_patching.masks.result import MaskResult
from analyses.cross_model_patching.masks.work import Choices, MaskWork, assemble
from analyses.cross_model_patching.verdicts import MODES
from analyses.looping import Prompts, check_least, interruptible
from workbench.errors import ParameterError
from workbench.hooks.suffix import Mode
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair

LAMBDAS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""What one gate costs, as a share of the (squared) gap that is to be closed."""

_SITES = ("z", "attn_out", "mlp_out")


def learn_mask(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    sites: Sequence[str] = ("z", "mlp_out"),
    last_k: int = 1,
    direction: Literal["both", "judge_to_base", "base_to_judge"] = "both",
    lambdas: Sequence[float] = LAMBDAS,
    steps: int = 60,
    lr: float = 0.1,
    loss: Loss = "squared",
    seeds: int = 1,
    share: float = 0.9,
    draws: int = 50,
    controls: int = 5,
    control_items: int | None = 32,
    cache_gb: float = 4.0,
    mode: Mode | None = None,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> MaskResult:
    """Learn which cells together carry one model's verdict into the other, and how few are enough.

    Args:
        pair: Base and judge.
        items: What to judge; one half of the clusters is learned on, the other told. Labels say which way an
            advantage points.
        sites: Components with a gate: heads (``z``), attention outputs, MLPs. A head's gate doesn't see a change of
            the output projection behind it; ``attn_out`` does.
        last_k: Positions from the end that have gates of their own.
        direction: Whose values go into whom.
        lambdas: What a gate costs, as a share of the gap; the sweep goes up and ends with the first empty mask.
        steps: Steps of every lambda, a batch each.
        lr: Adam's rate at the first step of every lambda, falling to 0.
        loss: ``"squared"``: what is left of the squared gap to the donor's margins; ``"signed"``: minus the share of
            the gap that is closed, which rewards going beyond it too.
        seeds: Independent runs; at each lambda the one with the lowest training loss counts.
        share: Which recovery is good enough for the smallest mask.
        draws: Random masks of each size; with 50 a p-value can get below 0.02.
        controls: Number of random judges of equal norm; with fewer than three no advantage can be told from chance.
        control_items: On how many items they are measured; None for all.
        cache_gb: How much of the target's runs on the training half is kept between steps, in 1e9 bytes; batches
            beyond it are run anew for every step, which the result says.
        mode: How patches run; None takes the fastest exact way, ``"plain"`` one full forward each.
        orders: Answer orders to show.
        batch_size: Prompts per forward and step.
        seed: Seed of the halves, of learning, controls and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items and lambdas finished so far, which it says.

    Raises:
        ParameterError: A choice isn't allowed.
        UnknownSite: The models have no such site.
        ItemError: There are no items.
        FormatError: The format shows several answers to be scored, or its labels begin alike.
        ContextWindowError: A prompt is longer than the models' window.
        ExecutorDisagreement: A patch behind cached prompts differs from a full forward with it.
    """
    started = time.perf_counter()
    check_least(
        last_k=(last_k, 1), steps=(steps, 1), seeds=(seeds, 1), draws=(draws, 0), controls=(controls, 0),
        control_items=(control_items, 2), batch_size=(batch_size, 1),
    )  # fmt: skip
    prices = _checked(sites, direction, lambdas, loss, lr=lr, share=share, cache_gb=cache_gb)
    cells = grid(pair.anatomy("base"), sites=sites, last_k=last_k, last_k_heads=last_k)
    choices = Choices(
        directions=DIRECTIONS if direction == "both" else (direction,), lambdas=prices, steps=steps, lr=lr, loss=loss,
        seeds=seeds, share=share, draws=draws, controls=controls, control_items=control_items, cache_gb=cache_gb,
        mode=mode, batch_size=batch_size, seed=seed, progress=progress,
    )  # fmt: skip
    work = MaskWork.plan(Prompts.of(pair, items, orders=orders, modes=MODES), cells, choices)
    with interruptible(work.prompts):
        work.measure()
        work.learn()
        work.evaluate()
        work.control()
    parameters = {"sites": list(sites), "last_k": last_k, "direction": direction, "orders": list(orders)}
    return assemble(work, parameters=parameters, started=started)


def _checked(
    sites: Sequence[str],
    direction: str,
    lambdas: Sequence[float],
    loss: str,
    *,
    lr: float,
    share: float,
    cache_gb: float,
) -> tuple[float, ...]:
    """Return ascending prices.

    Raises:
        ParameterError: A choice isn't allowed.
    """
    if set(sites) - set(_SITES):
        raise ParameterError("only writes to the stream have gates.", argument="sites", got=list(sites), allowed=_SITES)
    if {"z", "attn_out"} <= set(sites):
        raise ParameterError(
            "an attention output holds its heads: one of the two.", argument="sites", got=list(sites), allowed=_SITES
        )
    allowed: tuple[Direction | Literal["both"], ...] = ("both", *DIRECTIONS)
    if direction not in allowed:
        raise ParameterError("no such direction.", argument="direction", got=direction, allowed=allowed)
    if loss not in LOSSES:
        raise ParameterError("no such loss.", argument="loss", got=loss, allowed=LOSSES)
    if not lambdas or min(lambdas) < 0 or len(set(lambdas)) < len(lambdas):
        raise ParameterError(
            "prices of a gate.", argument="lambdas", got=list(lambdas), allowed="different numbers from 0 up"
        )
    for name, value in (("lr", lr), ("share", share)):
        if not 0 < value <= 1:
            raise ParameterError("out of range.", argument=name, got=value, allowed="above 0, up to 1")
    if cache_gb < 0:
        raise ParameterError("too small.", argument="cache_gb", got=cache_gb, allowed="0 or more")
    return tuple(sorted(float(price) for price in lambdas))
