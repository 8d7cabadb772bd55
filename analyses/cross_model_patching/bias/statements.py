"""What a located bias says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING

import numpy as np

from analyses.cross_model_patching.advantage import FEWEST_SHARED, LEAST_GAP
from analyses.cross_model_patching.bias import views
from analyses.cross_model_patching.bias.views import Bias, Check, Confirmation
from analyses.judged import estimate
from analyses.metrics import FEWEST_DRAWS, Interval
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.cross_model_patching.bias.result import BiasSitesResult

_OFF_FORMAT = 0.5


def finding(result: "BiasSitesResult") -> Finding:
    """Decide whether the bias is there and which sites carry it, and say so first.

    Something is found when the bias is told from 0, from its placebo and from random changes of the weights, sites
    were named on one half of the items, and on the other patching them takes it away, more than random sets of sites
    do, and a second intervention says so too: the ablation, unless it breaks the judge, or bringing the bias in.
    """
    told, held = result.bias(), result.confirmation()
    if told.present and held is not None and held.holds:
        headline = _found(result, told, held)
        return Finding(headline=headline, found=True, estimates=_estimates(result, told, held), limits=_limits(result))
    headline = f"Nothing found: {_why_not(result, told, held)}."
    return Finding(headline=headline, found=False, estimates=_estimates(result, told, held), limits=_limits(result))


def side_name(result: "BiasSitesResult") -> str:
    """Return what a biased verdict moves toward, in words."""
    if result.target == "answer":
        return "toward the favoured answer"
    if result.target == "none":
        return "whichever way"
    second = result.reference is None and bool((views.toward(result) < 0).all())
    return f"toward the {'second' if second else 'first'} slot"


def _found(result: "BiasSitesResult", told: Bias, held: Confirmation) -> str:
    names = ", ".join(result.cell_name(i) for i in result.named)
    beyond = "" if np.isnan(told.placebo.value) else " beyond its placebo"
    source = "their values without it" if result.reference is not None else f"the {result.other_side}'s values there"
    return (
        f"The {result.side}'s bias ({result.title}: {told.own.value:+.2g} {result.unit} {side_name(result)}"
        f"{beyond}; {result.other_side} {told.other.value:+.2g}) is carried by {names}: on other items "
        f"{source} take away {_share(held.patched.share)} of it{_brought(result, held)} and {_ablation(result)} takes "
        f"{_share(held.ablated.share)} (random sites {held.patched.random.value:.0%} and "
        f"{held.ablated.random.value:.0%}){_spared(held)}. "
        f"{_tuning(result, told, held)}"
    )


def _brought(result: "BiasSitesResult", held: Confirmation) -> str:
    if np.isnan(held.induced.share.value):
        return ""
    return f", their values with it bring {_share(held.induced.share)} of it into {result.donor} prompts,"


def _spared(held: Confirmation) -> str:
    lost = held.side.share
    if np.isnan(lost.value):
        accuracy = f"{held.side.right.value:.0%} of verdicts right before, {held.side.right_after.value:.0%} after"
        return f"; what that does to judging can't be sized ({accuracy})"
    if held.spared:
        return f", while judging loses {_share(lost)} of its margin"
    return f"; but that takes {_share(lost)} of judging's margin too: these sites carry the verdict itself"


def _tuning(result: "BiasSitesResult", told: Bias, held: Confirmation) -> str:
    if not told.from_tuning:
        return "Fine-tuning did not make it: base and judge differ in it by no more than random changes do."
    if held.given.holds:
        return (
            f"Fine-tuning made these carriers: the {result.other_side}'s values there take away "
            f"{_share(held.given.share)} of it."
        )
    return (
        f"Fine-tuning made the bias, but not what these sites hold: the {result.other_side}'s values there take away "
        f"{_share(held.given.share)}, which is not told from what they do in random judges."
    )


def _why_not(result: "BiasSitesResult", told: Bias, held: Confirmation | None) -> str:
    size = f"the {result.side}'s verdict moves {told.own.value:+.2g} {result.unit} {side_name(result)}"
    beyond = "" if np.isnan(told.placebo.value) else f" beyond its placebo ({told.placebo.value:+.2g})"
    if not result.bias().over_items:
        return f"{size}{beyond}, which items don't tell from 0, so that there is no bias to locate"
    if len(result.random_margin) < FEWEST_DRAWS:
        return f"{size}{beyond}, but without {FEWEST_DRAWS} random judges that isn't told from chance"
    if not told.present:
        return f"{size}{beyond}, but random changes of the same size move it as far"
    return _unconfirmed(result, size, held)


def _unconfirmed(result: "BiasSitesResult", size: str, held: Confirmation | None) -> str:
    if held is None:
        return f"{size}, but no site takes away a share of it that items tell from 0"
    names = ", ".join(result.cell_name(i) for i in result.named)
    failed = [
        what for what, ok in (("patching", held.patched.holds), (_ablation(result), held.ablated.holds)) if not ok
    ]
    if not failed:
        return (
            f"{size}; {names} were named, but ablating them takes {_share(held.side.share)} of judging itself beside "
            f"{_share(held.ablated.share)} of the bias: that breaks the judge and confirms nothing"
        )
    return f"{size}; {names} were named, but {' and '.join(failed)} did not confirm them on the other items"


def _ablation(result: "BiasSitesResult") -> str:
    if result.ablation == "zero":
        return "ablating them to zero"
    whose = "unperturbed" if result.reference is not None else f"the {result.other_side}'s"
    return f"holding them at {'the mean of' if result.ablation == 'mean' else 'those of'} {whose} " + (
        "items" if result.ablation == "mean" else "other items"
    )


def _share(interval: Interval) -> str:
    return "an undefined share" if np.isnan(interval.value) else f"{interval.value:.0%}"


def _estimates(result: "BiasSitesResult", told: Bias, held: Confirmation | None) -> tuple[Estimate, ...]:
    unit = result.unit
    placebo = None if np.isnan(told.placebo.value) else estimate("taken off for the placebo", told.placebo, unit=unit)
    found = [
        estimate(f"bias of the {result.side} {side_name(result)} (p = {told.p:.2g})", told.own, unit=unit,
                 control=placebo),
        estimate(f"the same in the {result.other_side}", told.other, unit=unit),
        estimate(
            f"bias of the judge minus the base's (p = {told.made_chance.p:.2g} against random judges)", told.made,
            unit=unit, control=_chance("judges moved as far at random", told, unit=unit),
        ),
    ]  # fmt: skip
    # Shares of a shift that isn't told from 0 are noise over noise.
    if held is None or not told.defined:
        return tuple(found)
    names = f"{len(result.named)} named sites"
    side = held.side
    what = "right verdicts" if side.labelled else "verdicts that stay as they were"
    return (
        *found,
        _checked(f"share of the shift that {names} take away, patched together", held.patched, "random sets"),
        *([] if np.isnan(held.induced.share.value) else [
            _checked(f"share that they bring into {result.donor} prompts", held.induced, "random sets")]),
        _checked(f"share that {_ablation(result)} takes away", held.ablated, "random sets"),
        _checked(f"share that the {result.other_side}'s values in {names} take away", held.given, "random judges"),
        estimate(
            "side effect: margin of unperturbed items that the ablation takes", side.lost, unit=unit,
            control=estimate("margin before", side.before, unit=unit),
        ),
        estimate(f"side effect: {what} under the ablation", side.right_after, control=estimate("before", side.right)),
    )  # fmt: skip


def _chance(name: str, told: Bias, *, unit: str) -> Estimate | None:
    chance = told.made_chance
    if np.isnan(chance.low):
        return None
    return Estimate(
        name=f"{name} (95% of further ones)", value=chance.value, low=chance.low, high=chance.high, n=told.made.n,
        unit=unit,
    )  # fmt: skip


def _checked(name: str, check: Check, control: str) -> Estimate:
    own, random = check.share, check.random
    held = None
    if not np.isnan(random.value):
        held = Estimate(
            name=f"{control} (95% of further ones)", value=random.value, low=random.low, high=random.high, n=own.n
        )
    return estimate(f"{name} (p = {random.p:.2g})", own, control=held)


def _limits(result: "BiasSitesResult") -> tuple[str, ...]:
    told = result.bias()
    own: list[str] = list(result.said)
    if not told.defined:
        own.append(f"Shares are not defined: the shift is below {LEAST_GAP} {result.unit}, or not told from 0.")
    mass = float(np.nanmean(result.plain_mass)) if (~np.isnan(result.plain_mass)).any() else np.nan
    if mass < _OFF_FORMAT:
        own.append(f"The {result.side} puts only {mass:.2g} of its probability on the labels.")
    if not (result.labels >= 0).any():
        own.append("No item says which answer is better: side effects are sized toward the model's own verdicts.")
    if "z" in result.components:
        own.append(
            "A head (z) is read before its output projection: where tuning changed that, the other model's values in "
            "the head take nothing away, and those in attn_out do."
        )
    if result.sets and len(result.random_margin) and (shared := views.shared_clusters(result)) < FEWEST_SHARED:
        own.append(
            f"Random judges were asked on {shared} independent items of the other half: what they do with the "
            f"{result.other_side}'s values there is held against that little (control_items)."
        )
    return (
        *own,
        "A site that passes the bias on shows like one that makes it, and shares of sites don't add up.",
        "Each perturbation is one wording of its bias; another may take another way.",
        f"Patches ran as {result.ran_as or 'nothing'}; random rows differ from full forwards by "
        f"{result.self_test:.2g} logits.",
        *(f"Not measured: {what}" for what in result.meta.not_measured),
    )
