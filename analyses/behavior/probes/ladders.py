"""Probes of several versions at once: instruction lengths, orders of references, a slope on length, other formats."""

from dataclasses import replace
from itertools import combinations

import numpy as np
from jaxtyping import Float
from scipy import stats

from analyses.behavior.probes.perturbing import perturbed, placebo_share, right, shift
from analyses.behavior.probes.plans import CLEAN, PLACEBO, Ask, Plan, Probe, Rate, Read, Score, nothing_left
from workbench.errors import ParameterError
from workbench.judges import JudgeItem
from workbench.judges.perturb import get_perturbation

RUNGS = (1, 2, 3, 4)
SHUFFLES = 3


def prompt_ladder(place: str = "") -> Probe:
    """Return the probe of prompt length: agreement with gold under one instruction at four lengths.

    Args:
        place: ``"@question"`` where the format doesn't show a rubric.
    """
    return Probe(
        name=f"prompt-length{place}",
        title="is right less often under a longer instruction",
        description="One judging instruction at four lengths (prompt length: Judging the Judges). The number is the "
        "share right under the shortest minus that under the longest. Placebo: the same of plain remarks, as long as "
        "each.",
        prepare=lambda ask: _rungs(ask, place),
        score=_ladder,
        target="none",
    )


def reference_order() -> Probe:
    """Return the probe of the order of several references."""
    return Probe(
        name="reference-order",
        title="depends on the order of references",
        description="The lines of the reference, each an answer of its own, are shuffled three times (Judging the "
        "Judges: share with the same verdict all three times). Placebo: the same lines in their order, an empty line "
        "between them.",
        prepare=_shuffles,
        score=_all_alike,
        target="none",
    )


def verbosity_slope() -> Probe:
    """Return the length-controlled slope of the margin on length, at fixed content."""
    return Probe(
        name="verbosity-slope",
        title="prefers the longer answer, by the doubling",
        description="The worse answer says everything twice, and its content stays: margin gained per doubling of its "
        "length in characters. Placebo: half the shift where both answers are padded, which holds the change twice.",
        prepare=_lengthened,
        score=_per_doubling,
    )


def format_bias() -> Probe:
    """Return the probe of the format: right in the pair's own format, less in others."""
    return Probe(
        name="format-bias",
        title="is right in its own format only",
        description="The same items in the pair's format and in the formats given (JudgeLM's format bias: template, "
        "label words, reference, scale). The number is the share right in the own format minus the mean of the others.",
        prepare=_in_formats,
        score=_matched,
        target="none",
        needs="formats",
    )


def score_scale() -> Probe:
    """Return the probe of the score scale: does another scale put items in another order?"""
    return Probe(
        name="score-scale",
        title="orders answers differently on another scale",
        description="The same items in formats that differ in their scale (MJ-Bench: words, 1 to 5, 1 to 10). The "
        "number is 1 minus Spearman's rank correlation of the preferences, mean over pairs of formats.",
        prepare=_in_formats,
        score=_rank_loss,
        target="none",
        needs="formats",
    )


def _rungs(ask: Ask, place: str) -> Plan:
    plans = [perturbed(get_perturbation(f"prompt-length-{rung}{place}"), ask) for rung in RUNGS]
    labelled = [k for k, item in enumerate(plans[0].sets[0]) if item.label is not None]
    if not labelled:
        raise nothing_left("prompt-length", ["no labelled items"])
    sets = [plans[0].sets[0], *(plan.sets[1] for plan in plans)]
    names = [CLEAN, *(f"rung {rung}" for rung in RUNGS)]
    if len(plans[0].conditions) > 2:
        sets += [plan.sets[2] for plan in plans]
        names += [f"{PLACEBO} {rung}" for rung in RUNGS]
    whole = Plan(
        conditions=tuple(names), sets=tuple(sets), toward=plans[0].toward, notes=plans[0].notes, changed="rung 1"
    )
    return whole.take(labelled)


def _ladder(plan: Plan, read: Read) -> Score:
    shares = {name: right(plan, read, k) for k, name in enumerate(plan.conditions)}
    control = None
    if f"{PLACEBO} 1" in shares:
        control = shares[f"{PLACEBO} 1"] - shares[f"{PLACEBO} {RUNGS[-1]}"]
    rates = {
        f"right under rung {rung}": Rate(shares[f"rung {rung}"], shares.get(f"{PLACEBO} {rung}")) for rung in RUNGS
    }
    return Score(shares["rung 1"] - shares[f"rung {RUNGS[-1]}"], control, rates=rates, unit="")


def _shuffles(ask: Ask) -> Plan:
    made = get_perturbation("reference-order")
    drawn = [made.apply(ask.items, ask.seed + k, ask.pair.tokenizer) for k in range(SHUFFLES)]
    if not len(drawn[0]):
        raise nothing_left("reference-order", drawn[0].notes)
    sets, names = [drawn[0].items, *(one.perturbed for one in drawn)], [CLEAN]
    names += [f"shuffle {k + 1}" for k in range(SHUFFLES)]
    if ask.placebo:
        sets.append(tuple(_spaced(item) for item in drawn[0].items))
        names.append(PLACEBO)
    return Plan(
        conditions=tuple(names),
        sets=tuple(sets),
        toward=np.full(len(drawn[0]), -1),
        notes=drawn[0].notes[:1],
        changed="shuffle 1",
    )


def _spaced(item: JudgeItem) -> JudgeItem:
    return replace(item, reference="\n\n".join((item.reference or "").split("\n")))


def _all_alike(plan: Plan, read: Read) -> Score:
    order = range(1, 1 + SHUFFLES)
    alike = np.stack([read.verdict[k] == read.verdict[1] for k in order]).all(0)
    lost = np.isnan(read.verdict[1 : 1 + SHUFFLES]).any((0, -1))
    rates = {"same verdict in all three shuffles": Rate(np.where(lost, np.nan, alike.mean(-1)))}
    control = read.moved(plan.conditions.index(PLACEBO)) if PLACEBO in plan.conditions else None
    return Score(np.mean([read.moved(k) for k in order], axis=0), control, rates=rates)


def _lengthened(ask: Ask) -> Plan:
    plan = perturbed(get_perturbation("verbosity"), ask)
    ratios = [len(two.answers[at]) / max(1, len(one.answers[at]))
              for one, two, at in zip(plan.sets[0], plan.sets[1], plan.toward, strict=True)]  # fmt: skip
    return replace(plan, extra={"doublings": np.log2(ratios)})


def _per_doubling(plan: Plan, read: Read) -> Score:
    moved = shift(plan, read, keeps_label=True, share=placebo_share(get_perturbation("verbosity")))
    weight = np.broadcast_to(plan.extra["doublings"], moved.effect.shape).copy()
    return moved._replace(weight=weight, unit=f"{read.unit} per doubling")


def _in_formats(ask: Ask) -> Plan:
    if not ask.formats:
        raise ParameterError(
            "this probe compares formats, so it needs others beside the pair's.",
            argument="formats",
            got="none",
            fix="Pass `formats=[...]`: names or JudgeFormats.",
        )
    items = tuple(ask.items)
    names = (ask.pair.format.name, *(judge_format.name for judge_format in ask.formats))
    if len(set(names)) < len(names):
        raise ParameterError("formats need names of their own.", argument="formats", got=names)
    return Plan(
        conditions=names,
        sets=(items,) * len(names),
        toward=np.full(len(items), -1),
        formats=(None, *ask.formats),
        notes=(f"applied to {len(items)} of {len(items)} items",),
        changed=None,
    )


def _matched(plan: Plan, read: Read) -> Score:
    shares = [right(plan, read, k) for k in range(len(plan.conditions))]
    if np.isnan(shares[0]).all():
        raise nothing_left("format-bias", ["no labelled items"])
    rates = {f"right in {name}": Rate(share) for name, share in zip(plan.conditions, shares, strict=True)}
    rates |= {f"probability of labels in {name}": Rate(read.mass[k].mean(-1)) for k, name in enumerate(plan.conditions)}
    return Score(shares[0] - np.mean(shares[1:], axis=0), rates=rates, unit="")


def _rank_loss(plan: Plan, read: Read) -> Score:
    pairs = list(combinations(range(len(plan.conditions)), 2))
    ranks = [_standard_ranks(values) for values in read.content]
    products = {f"rank correlation of {plan.conditions[j]} and {plan.conditions[k]}": Rate(ranks[j] * ranks[k])
                for j, k in pairs}  # fmt: skip
    return Score(1 - np.mean([rate.value for rate in products.values()], axis=0), rates=products, unit="")


def _standard_ranks(values: Float[np.ndarray, "model item"]) -> Float[np.ndarray, "model item"]:
    """Return ranks with mean 0 and variance 1: their products' mean is Spearman's rank correlation."""
    out = np.full(values.shape, np.nan)
    for k, known in enumerate(~np.isnan(values)):
        ranks = stats.rankdata(values[k, known])
        if len(ranks) and (spread := ranks.std()) > 0:
            out[k, known] = (ranks - ranks.mean()) / spread
    return out
