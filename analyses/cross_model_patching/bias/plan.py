"""What a bias is measured on: the same items perturbed, unperturbed and with the placebo, and which way it points.

    bias = margin(perturbed) - margin(unperturbed) - share * (margin(placebo) - margin(unperturbed)),  toward its side

For ``"position"`` there is no run without the bias: it is the half of the margin that stays when the answers change
places, and the other order is what a prompt is held against.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from analyses.cross_model_patching.prompt_pairs import PromptPairs
from analyses.cross_model_patching.verdicts import MODES
from analyses.looping import Prompts
from workbench.errors import ItemError, ParameterError
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.judges.perturb import Perturbation, PerturbedItems, Target, get_perturbation
from workbench.pairs import Pair

Donor = Literal["auto", "unperturbed", "placebo"]
DONORS: tuple[Donor, ...] = ("auto", "unperturbed", "placebo")
POSITION = "position"
PERTURBED, UNPERTURBED, PLACEBO, SWAPPED = "perturbed", "unperturbed", "placebo", "swapped"
_MOSTLY = 0.9
"""A placebo as long as the perturbation in so many prompts is the nearer run to patch from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """The prompts of one bias."""

    name: str
    """Name of the probe."""
    title: str
    """What is probed, in words."""
    target: Target
    """What a biased judge moves toward."""
    pairs: PromptPairs
    """The prompts that show the bias beside those they are patched from."""
    conditions: tuple[str, ...]
    """What is asked; the first shows the bias."""
    prompts: Mapping[str, Prompts]
    """Prompts of every condition, in step."""
    weights: tuple[float, ...]
    """What the margin of each condition counts for in the bias."""
    donor: str
    """Condition that is patched from."""
    reference: str | None
    """Condition a shift is held against when something is done to both; None for position."""
    plain: str
    """Condition in which judging itself is looked at: nothing perturbed."""
    sign: Float[np.ndarray, "item order"]
    """+1 where the biased side is the first slot, -1 the second; NaN where the model's own shift decides."""
    said: tuple[str, ...]
    """What a reader has to know of the perturbation and of how its prompts are aligned."""

    @property
    def shown(self) -> Prompts:
        """Return the prompts that show the bias; they keep track of what is done."""
        return self.pairs.clean

    @property
    def placed(self) -> bool:
        """Whether this is the preference for a slot."""
        return self.donor == SWAPPED

    @property
    def weighed(self) -> dict[str, float]:
        """Return the weight of every condition by name."""
        return dict(zip(self.conditions, self.weights, strict=True))


def plan_of(
    pair: Pair,
    items: Sequence[JudgeItem],
    probe: str | Perturbation,
    *,
    orders: Sequence[Order] = ORDERS,
    donor: Donor = "auto",
    seed: int = 0,
) -> Plan:
    """Return the prompts of a bias.

    Args:
        pair: The pair.
        items: What is judged.
        probe: A shipped perturbation by name, one of your own, or ``"position"``.
        orders: Answer orders shown.
        donor: What perturbed prompts are patched from.
        seed: Seed of the perturbation.

    Raises:
        ParameterError: The probe is unknown, fits no item, or has no placebo to patch from; position in one order.
        FormatError: The format doesn't show the perturbation.
        ItemError: There are no items.
    """
    if donor not in DONORS:
        raise ParameterError("nothing to patch from.", argument="donor", got=donor, allowed=DONORS)
    if not len(items):
        raise ItemError("there is nothing to judge.", argument="items", got="no items")
    if probe == POSITION:
        return _position(pair, items, orders)
    perturbation = get_perturbation(probe) if isinstance(probe, str) else probe
    made = perturbation.apply(items, seed, pair.tokenizer)
    if not len(made):
        raise ParameterError(
            "this perturbation fits none of these items.", argument="probe", got=perturbation.name,
            fix=f"Use items it applies to. What it said: {'; '.join(made.notes)}",
        )  # fmt: skip
    return _perturbed(pair, perturbation, made, orders=orders, donor=donor)


def _position(pair: Pair, items: Sequence[JudgeItem], orders: Sequence[Order]) -> Plan:
    if len(orders) != len(ORDERS):
        raise ParameterError(
            "the preference for a slot shows in both orders only.", argument="orders", got=list(orders), allowed=ORDERS
        )
    pairs = PromptPairs.swapped(pair, items, orders=orders)
    return Plan(
        name=POSITION,
        title="prefers the first slot",
        target="first slot",
        pairs=pairs,
        conditions=(UNPERTURBED, SWAPPED),
        prompts={UNPERTURBED: pairs.clean, SWAPPED: pairs.other},
        weights=(1.0, 0.0),
        donor=SWAPPED,
        reference=None,
        plain=UNPERTURBED,
        sign=np.ones((len(pairs.clean), len(orders))),
        said=(
            *pairs.notes,
            *pairs.said(),
            "The swapped order turns the content a site carries and leaves what it adds in either order: patching from "
            "it takes away only what of the preference hangs on sites together. No run is without the preference, so "
            "that sites are named, patched and ablated with the other model's activations.",
        ),
    )


def _perturbed(
    pair: Pair, perturbation: Perturbation, made: PerturbedItems, *, orders: Sequence[Order], donor: Donor
) -> Plan:
    chosen = _donor_of(pair, perturbation, made, orders=orders, donor=donor)
    given = made.placebo if chosen == PLACEBO and made.placebo is not None else made.items
    pairs = PromptPairs.of(pair, made.perturbed, given, orders=orders, modes=MODES)
    prompts: dict[str, Prompts] = {PERTURBED: pairs.clean}
    for name, others in ((UNPERTURBED, made.items), (PLACEBO, made.placebo)):
        if others is None:
            continue
        if name == chosen:
            prompts[name] = pairs.other
        else:
            prompts[name] = Prompts.of(pair, [others[i] for i in pairs.chosen], orders=orders, modes=MODES)
        prompts[name].done, prompts[name].notes = pairs.clean.done, pairs.clean.notes
    share = (0.5 if perturbation.placebo_in_both else 1.0) if PLACEBO in prompts else 0.0
    weights = {PERTURBED: 1.0, UNPERTURBED: share - 1.0, PLACEBO: -share}
    why = "of equal length, so that it is the nearer run" if chosen == PLACEBO and donor == "auto" else "as chosen"
    if chosen == UNPERTURBED and donor == "auto":
        why = "no placebo of equal length holds the change once"
    return Plan(
        name=perturbation.name,
        title=perturbation.title,
        target=perturbation.target,
        pairs=pairs,
        conditions=tuple(prompts),
        prompts=prompts,
        weights=tuple(weights[name] for name in prompts),
        donor=chosen,
        reference=chosen,
        plain=UNPERTURBED,
        sign=_sign(perturbation.target, np.array(made.toward)[list(pairs.chosen)], orders),
        said=(
            f"Perturbed prompts are patched from the {chosen} ones ({why}).",
            *made.notes,
            *pairs.notes,
            *pairs.said(),
            *(("Half of the placebo's shift is taken off: it makes the change twice.",) * perturbation.placebo_in_both),
        ),
    )


def _donor_of(
    pair: Pair, perturbation: Perturbation, made: PerturbedItems, *, orders: Sequence[Order], donor: Donor
) -> str:
    if made.placebo is None:
        if donor == PLACEBO:
            raise ParameterError(
                "this perturbation has no placebo.", argument="donor", got=donor, allowed=("auto", UNPERTURBED)
            )
        return UNPERTURBED
    if donor != "auto":
        return donor
    if perturbation.placebo_in_both:
        return UNPERTURBED
    rows = [pair.encode(list(shown), orders=orders).rows for shown in (made.perturbed, made.placebo)]
    equal = [len(one) == len(other) for one, other in zip(*rows, strict=True)]
    return PLACEBO if np.mean(equal) >= _MOSTLY else UNPERTURBED


def _sign(target: Target, toward: np.ndarray, orders: Sequence[Order]) -> Float[np.ndarray, "item order"]:
    shown = np.array([1.0 if order == "original" else -1.0 for order in orders])
    if target == "answer":
        return np.where(toward < 0, np.nan, 1.0 - 2.0 * toward)[:, None] * shown
    fixed = 1.0 if target == "first slot" else np.nan
    return np.full((len(toward), len(orders)), fixed)
