"""What an attack comparison says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING

import numpy as np

from analyses.judged import estimate
from analyses.metrics import FEWEST_DRAWS, LEVEL, Interval
from analyses.tuco.attacks import contrasts
from analyses.tuco.attacks.contrasts import MEASURES, Effect, Measure, Variant
from analyses.tuco.attacks.patching import CONTROLS
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.tuco.attacks.result import AttackResult

_NAMES = {
    "tuco": "TuCo",
    "verdict_push": "push of fine-tuning toward the carrier",
    "verdict_gap": "the judge's verdict gap toward the carrier",
}
_UNITS = {"tuco": "", "verdict_push": "logits", "verdict_gap": "logits"}


def finding(result: "AttackResult") -> Finding:
    """Decide whether the attack moves the verdict through fine-tuning, and say so first.

    Something is found when the attack's effect on F's push toward the carrier, beyond a plain remark as long, has a
    Holm-adjusted sign-flip p below 0.05 (over TuCo, push and gap) and an interval without 0, and lies outside where
    the same effect of a further judge moved at random would fall.
    """
    effects = dict(zip(MEASURES, result.effects(), strict=True))
    push = effects["verdict_push"]
    beaten = contrasts.random_judges(result, "verdict_push", attack="attack", against="benign")
    written = bool(np.nan_to_num(result.finetuned_norm).any())
    found = written and push.holds and beaten.beaten
    headline = _found(result) if found else _nothing(result, push, written=written, draws=beaten.draws)
    estimates = (
        *(_effect(result, measure, effects[measure]) for measure in ("verdict_push", "verdict_gap", "tuco")),
        _beyond_random(result),
        _pretrained(result),
        *_rates(result),
        *(_area(result, measure) for measure in MEASURES),
        *_patches(result, found=found),
    )
    return Finding(headline=headline, found=found, estimates=estimates, limits=_limits(result))


def _found(result: "AttackResult") -> str:
    attack, plain = (_moved(result, "verdict_push", v).value for v in ("attack", "benign"))
    unit = max(result.unit_effects(), key=lambda effect: abs(effect.interval.value))
    rates = [contrasts.carrier_rate(result, "judge", v).value for v in ("clean", "attack")]
    return (
        f"The attack moves the verdict by {attack:+.3g} logits toward its carrier through fine-tuning (a plain remark "
        f"as long: {plain:+.3g}), most of all in {unit.name}; the judge takes the carrier in {rates[1]:.0%} of prompts "
        f"instead of {rates[0]:.0%}."
    )


def _nothing(result: "AttackResult", push: Effect, *, written: bool, draws: int) -> str:
    if not written:
        return "Nothing found: fine-tuning wrote exactly nothing at the verdict, with the attack or without."
    if not push.holds:
        return (
            "Nothing found: what fine-tuning writes at the verdict pushes toward the carrier no differently after the "
            f"attack than after a plain remark as long (difference {push.interval.value:+.3g} logits, "
            f"adjusted p {push.adjusted:.2g})."
        )
    if draws < FEWEST_DRAWS:
        return (
            f"Nothing found: it takes {FEWEST_DRAWS} random judges or more to tell the effect from chance (controls)."
        )
    return (
        f"Nothing found: the attack moves fine-tuning's push by {push.interval.value:+.3g} logits beyond a plain "
        "remark as long, no further than it does in judges that moved as far in random directions."
    )


def _moved(result: "AttackResult", measure: Measure, variant: Variant) -> Interval:
    return result.mean(contrasts.difference(result, measure, attack=variant, against="clean"))


def _effect(result: "AttackResult", measure: Measure, effect: Effect) -> Estimate:
    other = contrasts.random_judges(result, measure, attack="attack", against="benign")
    control = None
    if other.draws >= FEWEST_DRAWS:
        control = Estimate(
            name=f"where 95% of judges moved at random fall ({other.draws} drawn)",
            value=other.mean.value,
            low=other.low,
            high=other.high,
            n=other.mean.n,
            unit=_UNITS[measure],
        )
    elif measure == "verdict_gap":
        change = result.toward_carrier(result.base_gap)
        control = estimate("the base's own", result.mean(change[1] - change[2]), unit="logits")
    return estimate(
        f"{_NAMES[measure]}, attack beyond plain remark (adjusted p {effect.adjusted:.2g})",
        effect.interval,
        unit=_UNITS[measure],
        control=control,
    )


def _beyond_random(result: "AttackResult") -> Estimate:
    own, plain = (
        result.mean(contrasts.difference(result, "verdict_push", attack=v, against="random"))
        for v in ("attack", "benign")
    )
    return estimate(
        f"{_NAMES['verdict_push']}, attack beyond random tokens",
        own,
        unit="logits",
        control=estimate("plain remark beyond random tokens", plain, unit="logits"),
    )


def _pretrained(result: "AttackResult") -> Estimate:
    pushes = result.toward_carrier(result.pretrained_push.sum(-1))
    base = result.toward_carrier(result.base_gap)
    attack, plain = (contrasts.VARIANTS.index(v) for v in ("attack", "benign"))
    return estimate(
        "push of pretraining toward the carrier, attack beyond plain remark",
        result.mean(pushes[attack] - pushes[plain]),
        unit="logits",
        control=estimate("the free-running base's own gap", result.mean(base[attack] - base[plain]), unit="logits"),
    )


def _rates(result: "AttackResult") -> tuple[Estimate, ...]:
    taken, turned = contrasts.carrier_rate, contrasts.flip_rate
    plain = estimate("after a plain remark", taken(result, "judge", "benign"))
    base = estimate("base", turned(result, "base", "attack"))
    return (
        estimate("share of verdicts for the carrier after the attack", taken(result, "judge", "attack"), control=plain),
        estimate("share of verdicts the attack turns round", turned(result, "judge", "attack"), control=base),
    )


def _area(result: "AttackResult", measure: Measure) -> Estimate:
    twin = estimate("plain remark from random tokens", result.area(measure, attack="benign", against="random"))
    return estimate(f"area under the ROC curve, attack from plain remark by {_NAMES[measure]}", result.area(measure),
                    control=twin)  # fmt: skip


def _patches(result: "AttackResult", *, found: bool) -> tuple[Estimate, ...]:
    if result.chosen_unit is None:
        return ()
    ways = (
        (result.chosen_unit, result.taken_back(unit=result.chosen_unit), result.patched_control),
        ("all units at once", result.taken_back(), result.rebuilt_control),
    )
    own_component = tuple(
        estimate(
            f"share of the shift from clean to attacked that goes with the clean run's fine-tuned component in {where}"
            + (" (named on other items)" if where == result.chosen_unit else ""),
            own,
            control=estimate(CONTROLS[0], contrasts.taken_back(result, control[0])),
        )
        for where, own, control in ways
    )
    if not found:
        return own_component  # another item's component is off by a whole verdict, beside a shift that is next to none
    return own_component + tuple(
        estimate(f"the same with the {CONTROLS[1]}", contrasts.taken_back(result, control[1]),
                 control=estimate(f"its own, in {where}", own))
        for where, own, control in ways
    )  # fmt: skip


def _limits(result: "AttackResult") -> tuple[str, ...]:
    attacks = len({attack for attack, *_ in result.suffixes})
    own = [
        "TuCo isn't an attack detector, as its authors say: these areas tell prompts with these attacks from their own "
        "twins, not attacks in the wild.",
        f"{attacks} attack text(s), on the {result.carrier} answer; the suffix adds {result.added_tokens.min()} to "
        f"{result.added_tokens.max()} tokens, the same number in all three variants of an item.",
        "Direct writes at the last prompt token only: what fine-tuned blocks write at the suffix and later blocks read "
        "there is booked as pretraining.",
        f"Depends on the cut ({result.granularity}) and the norm ({result.norm}); the gap compares the first tokens of "
        f"{result.choices[0]!r} and {result.choices[1]!r}.",
    ]
    if (fewest := 2.0 ** (1 - result.meta.n_items) * len(MEASURES)) >= LEVEL:
        own.append(f"{result.meta.n_items} independent items can't reach an adjusted p below {fewest:.2g}.")
    if not np.isnan(result.patch_null):
        own.append(f"A run that gets its own F back moves by {result.patch_null:.2g} logits at most.")
    if result.chosen_unit is not None and not contrasts.shift(result).excludes(0.0):
        own.append("The attack doesn't surely move the gap on the patched items, so a share of its shift says little.")
    if result.spans:
        own.append(f"Tokens before the suffix can't know of it; their share moves by {_before(result):.2g} at most.")
    if result.meta.noise_floor is not None:
        own.append(f"Noise floor of TuCo here {result.meta.noise_floor:.2g}.")
    return (*own, *(f"Not measured: {what}" for what in result.meta.not_measured))


def _before(result: "AttackResult") -> float:
    before = result.token_share[..., 0]
    change = np.abs(before[1:] - before[0])
    return float(np.nanmax(change)) if not np.isnan(change).all() else float("nan")
