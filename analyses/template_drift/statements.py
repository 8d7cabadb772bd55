"""What a comparison of templates says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING

from analyses.judged import estimate
from analyses.template_drift import contrasts
from analyses.template_drift.contrasts import SIZE, TEMPLATES, Effect, Side, Template
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.template_drift.result import TemplateDriftResult

_OFF_FORMAT = 0.5
"""Below this share of probability on the labels a model is said to have left its format."""


def finding(result: "TemplateDriftResult") -> Finding:
    """Decide whether the template changes what tells judge from base, and say so first.

    Something is found in a direction when its Holm-adjusted sign-flip p is below 0.05, its interval excludes 0 and so
    does that of its difference to white space, rounding is far below it, and it lies outside where judges moved as
    far at random would fall: any change of the weights answers to a template.
    """
    effects = result.effects()
    held = [effect for effect in effects if effect.holds]
    found = [effect for effect in held if effect.chance is None or effect.beyond_chance]
    estimates = (
        *(_effect(effect) for effect in effects),
        *(_random(effect) for effect in effects if effect.chance is not None),
        *_differences(result),
        *(_flips(result, side) for side in ("judge", "base")),
        *_agreements(result),
        *_masses(result),
    )
    headline = _found(result, found) if found else _as_chance(result, held) if held else _nothing(result, effects)
    return Finding(headline=headline, found=bool(found), estimates=estimates, limits=_limits(result))


def _found(result: "TemplateDriftResult", held: list[Effect]) -> str:
    told = [effect for effect in held if effect.way != SIZE]
    flips = contrasts.flips(result, "judge").value
    if told:
        said = " and ".join(f"{effect.drift.value:+.3g} nats {effect.way}" for effect in told)
        return (
            f"What tells judge from base hangs on the template: under the judge's own it is {said} more than under "
            f"{result.against}, and {flips:.0%} of the judge's verdicts turn{_beside_chance(told[0])}."
        )
    size = held[0]
    return (
        f"What tells judge from base hangs on the template, in no common direction: {size.drift.value:.3g} nats a "
        f"prompt between the judge's own and {result.against} (white space alone: {size.control.value:.3g}), and "
        f"{flips:.0%} of the judge's verdicts turn{_beside_chance(size)}."
    )


def _beside_chance(effect: Effect) -> str:
    return "" if effect.chance is None else ", further than in judges moved as far at random"


def _as_chance(result: "TemplateDriftResult", held: list[Effect]) -> str:
    size = held[-1]
    average = "" if size.chance is None else f" ({size.chance.value:+.3g} nats on average)"
    return (
        f"Nothing found that training would have to explain: judge minus base changes with the template by "
        f"{size.drift.value:.3g} nats {size.way}, but judges moved as far at random answer to it as much{average}. "
        f"{contrasts.flips(result, 'judge').value:.0%} of the judge's verdicts turn all the same."
    )


def _nothing(result: "TemplateDriftResult", effects: tuple[Effect, ...]) -> str:
    if not contrasts.drift(result).any():
        return "Nothing found: judge and base differ under both templates by exactly the same."
    size = next(effect for effect in effects if effect.way == SIZE)
    if size.drift.value <= 3 * size.floor:
        return "Nothing found: the template changes the difference of judge and base by no more than rounding does."
    return (
        f"Nothing found: between the two templates the difference of judge and base changes by "
        f"{size.drift.value:.3g} nats a prompt, which isn't told from chance, or not from what one line break more "
        f"does ({size.control.value:.3g})."
    )


def _effect(effect: Effect) -> Estimate:
    name = "size of the change of judge minus base" if effect.way == SIZE else (
        f"change of judge minus base {effect.way}")  # fmt: skip
    return estimate(
        f"{name} (p = {effect.adjusted:.2g}, Holm)",
        effect.drift,
        unit="nats",
        control=estimate("one line break more", effect.control, unit="nats"),
    )


def _random(effect: Effect) -> Estimate:
    """Return where 95% of further random judges fall."""
    chance = effect.chance
    if chance is None:
        raise RuntimeError("no random judge was measured")
    return Estimate(
        name=f"the same {effect.way} in judges moved as far at random (95% of further ones; p = {chance.p:.2g})",
        value=chance.value,
        low=chance.low,
        high=chance.high,
        n=effect.drift.n,
        unit="nats",
    )


def _differences(result: "TemplateDriftResult") -> tuple[Estimate, ...]:
    """Return judge minus base under both templates, toward the label; without labels it has no direction."""
    if not (result.labels >= 0).any():
        return ()
    shown = {name: result.mean(result.toward_label(contrasts.difference(result, name))) for name in ("judge", "base")}
    title = "judge minus base toward the labelled answer under"
    return (
        estimate(f"{title} the judge's template", shown["judge"], unit="nats"),
        estimate(f"{title} {result.against}", shown["base"], unit="nats"),
    )


def _flips(result: "TemplateDriftResult", side: Side) -> Estimate:
    return estimate(
        f"verdicts of the {side} that turn",
        contrasts.flips(result, side),
        control=estimate("one line break more", contrasts.flips(result, side, "white space")),
    )


def _agreements(result: "TemplateDriftResult") -> tuple[Estimate, ...]:
    if not (result.labels >= 0).any():
        return ()
    return tuple(
        estimate(
            f"agreement of the {side} with the labels under {result.against}",
            contrasts.agreement(result, side, "base"),
            control=estimate("under the judge's template", contrasts.agreement(result, side, "judge")),
        )
        for side in ("judge", "base")
    )


def _masses(result: "TemplateDriftResult") -> tuple[Estimate, ...]:
    return tuple(
        estimate(
            f"probability the {side} puts on the labels under {result.against}",
            contrasts.mass(result, side, "base"),
            control=estimate("under the judge's template", contrasts.mass(result, side, "judge")),
        )
        for side in ("judge", "base")
    )


def _limits(result: "TemplateDriftResult") -> tuple[str, ...]:
    names: dict[Template, str] = {"judge": "the judge's template", "base": result.against}
    off = [
        f"Under {names[template]} the {side} puts only {mass:.2g} of its probability on the labels: its verdicts "
        "there say little."
        for template in TEMPLATES[:2]
        for side in ("judge", "base")
        if (mass := contrasts.mass(result, side, template).value) < _OFF_FORMAT
    ]
    return (
        *off,
        f"Both models are asked in the judge's tokens; the templates differ in: {' | '.join(result.excerpt)}.",
        "Margins compare whole labels; a template that moves both models alike doesn't show here.",
        "That the template matters doesn't say that tuning taught it: a change in any direction answers to a template "
        "too, as far as the random judges do.",
        *(f"Not measured: {what}" for what in result.meta.not_measured),
    )
