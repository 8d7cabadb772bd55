"""Which heads and MLPs are enough for the verdict, and is the judge's circuit the base's, enhanced?

    F(C) = (margin(C) - margin(nothing)) / (margin(model) - margin(nothing)),

margins toward the label, ratio of means; "C" is the model with every head and MLP outside C replaced at the last
positions, by its mean over other items or by the other model's value. Earlier positions are untouched, so that what
is told is which cells at the last positions *use* the prompt, given all that earlier tokens computed.
Wang et al., ICLR 2023 (arXiv 2211.00593); across models Prakash et al., ICLR 2024 (arXiv 2402.14811).

Steps, for both models: 1 margins, and means over one half of the items, 2 every cell ablated alone on that half: the
ranking, 3 the smallest circuit of the ranking that is faithful enough there, from which members are taken out, the
least needed first in the circuit's own company, while it stays so, 4 on all items: faithfulness and accuracy, each
member left out (minimality), random parts and whole kinds left out of circuit and model (completeness), random
circuits, and each model's circuit in the other, 5 random judges of equal norm. Told by the other half throughout.

What it can't do: find circuits at earlier positions; tell cells that only back each other up (ablated one by one
they look unneeded). Falsified if identical models differ, or a row differs from a full forward.
"""

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np

from analyses.cross_model_patching.cells import Cell, grid
from analyses.cross_model_patching.circuits.ablation import ABLATIONS, Ablation
from analyses.cross_model_patching.circuits.result import CircuitResult
from analyses.cross_model_patching.circuits.work import Choices, CircuitWork, assemble
from analyses.cross_model_patching.verdicts import MODES
from analyses.looping import Prompts, check_least, interruptible
from workbench.errors import ParameterError
from workbench.hooks.suffix import Mode
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair

_SITES = ("z", "attn_out", "mlp_out")


def circuit(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    cells: Sequence[Cell] | None = None,
    model: Literal["base", "judge"] = "judge",
    ablation: Ablation = "mean",
    sites: Sequence[str] = ("z", "mlp_out"),
    last_k: int = 1,
    threshold: float = 0.9,
    draws: int = 20,
    controls: int = 5,
    control_items: int | None = 32,
    mode: Mode | None = None,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> CircuitResult:
    """Find the circuit of each model's verdict, or take one, and test it: in its model, and in the other.

    Args:
        pair: Base and judge.
        items: What to judge; circuits are found on one half of the clusters and told by the other.
        cells: A circuit to test, e.g. ``MaskResult.mask(...)``; None finds that of each model.
        model: Whose circuit is taken apart (completeness, minimality).
        ablation: What stands outside the circuit: ``"mean"`` over other items of the half circuits are found on, or
            ``"other_model"``: the other model's value on the same prompt.
        sites: Components a circuit is made of: heads (``z``) or attention outputs, and MLPs.
        last_k: Positions from the end that are ablated; each position's cells are its own.
        threshold: Faithfulness a found circuit has on the half it is found on.
        draws: Random circuits, and random parts for completeness.
        controls: Number of random judges of equal norm; with fewer than three no advantage can be told from chance.
        control_items: On how many items they are measured; None for all.
        mode: How ablations run; None takes the fastest exact way, ``"plain"`` one full forward each.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of the halves, of draws, controls and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of what was finished so far, which it says.

    Raises:
        ParameterError: A choice isn't allowed, or a given cell isn't one of these components at these positions.
        UnknownSite: The models have no such site.
        ItemError: There are no items.
        FormatError: The format shows several answers to be scored, or its labels begin alike.
        ContextWindowError: A prompt is longer than the models' window.
        ExecutorDisagreement: A row behind cached prompts differs from a full forward with it.
    """
    started = time.perf_counter()
    check_least(
        last_k=(last_k, 1), draws=(draws, 0), controls=(controls, 0), control_items=(control_items, 2),
        batch_size=(batch_size, 1),
    )  # fmt: skip
    for name, value, allowed in (("model", model, ("base", "judge")), ("ablation", ablation, ABLATIONS)):
        if value not in allowed:
            raise ParameterError("no such choice.", argument=name, got=value, allowed=allowed)
    if set(sites) - set(_SITES) or {"z", "attn_out"} <= set(sites):
        raise ParameterError(
            "circuits are made of writes to the stream that don't hold each other.",
            argument="sites",
            got=list(sites),
            allowed="z or attn_out, and mlp_out",
        )
    if not 0 < threshold <= 1:
        raise ParameterError("out of range.", argument="threshold", got=threshold, allowed="above 0, up to 1")
    every = grid(pair.anatomy("base"), sites=sites, last_k=last_k, last_k_heads=last_k)
    given = None if cells is None else _indices(cells, every)
    choices = Choices(
        model=model, ablation=ablation, last_k=last_k, threshold=threshold, draws=draws, controls=controls,
        control_items=control_items, mode=mode, batch_size=batch_size, seed=seed, progress=progress,
    )  # fmt: skip
    work = CircuitWork.plan(Prompts.of(pair, items, orders=orders, modes=MODES), every, choices, given=given)
    with interruptible(work.prompts):
        work.measure()
        work.find()
        work.evaluate()
        work.control()
    parameters = {
        "sites": list(sites),
        "orders": list(orders),
        "cells": None if cells is None else [str(cell) for cell in cells],
    }
    return assemble(work, parameters=parameters, started=started)


def _indices(cells: Sequence[Cell], every: Sequence[Cell]) -> np.ndarray:
    """Return which cells of the grid are given.

    Raises:
        ParameterError: None is, or one isn't in the grid.
    """
    unknown = [str(cell) for cell in cells if cell not in every]
    if unknown or not cells:
        raise ParameterError(
            "a circuit needs cells of the ablated components and positions.",
            argument="cells",
            got=unknown or "no cells",
            allowed=f"{every[0]} to {every[-1]}",
            fix="Set sites= and last_k= to what the cells are of.",
        )
    return np.array([cell in set(cells) for cell in every])
