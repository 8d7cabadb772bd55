"""What a token map says in words: where fine-tuning's share stands out from that of random changes of equal norm."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from analyses.judged import estimate
from analyses.metrics import FEWEST_DRAWS, FLOORS, LEVEL, RESAMPLES, Chance, Interval, against_draws, holm
from analyses.tuco.naming import region_phrase
from analyses.tuco.tokens.completions import START
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.tuco.tokens.result import TokenMapResult

_SAME = 1e-4
"""Relative spread over items under which a region's share counts as the same in all of them."""


class Concentration(NamedTuple):
    """How fine-tuning's share in a region compares with its share over all tokens, beside random changes."""

    region: str
    """Where."""
    own: Interval
    """Share there over share in all tokens but each row's first; 1 is no concentration."""
    chance: Chance
    """The same ratio of random changes, and where one more would fall."""
    p: float
    """Holm-adjusted over the regions: the larger of the p-values over items and over draws. NaN where there is no test:
    fewer than two items, or the same tokens in every prompt (causality makes those one measurement)."""


def concentrations(result: "TokenMapResult") -> tuple[Concentration, ...]:
    """Return each region's concentration with its test.

    A random change doesn't spread evenly either, so a region stands out only when its ratio differs
    from theirs: over clusters of items (bootstrap standard error, Student), and beyond where a
    further random change would fall. Only items measured with the random changes enter.
    """
    if not len(result.control_finetuned_norm) or not result.finetuned_norm[~np.isnan(result.finetuned_norm)].any():
        return ()
    measured = ~np.asarray(np.isnan(result.control_finetuned_norm).all((0, 2, 3)))
    sides = [(result.finetuned_norm, result.pretrained_norm)]
    sides += list(zip(result.control_finetuned_norm, result.control_pretrained_norm, strict=True))
    clusters = np.unique(np.array(result.clusters)[measured], return_inverse=True)[1]
    sums = [_sums(result, *side, measured=measured, clusters=clusters) for side in sides]
    n = len(sums[0][0])
    drawn = np.random.default_rng(result.meta.seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    values = np.stack([_ratios(np.ones((1, n)), *side)[0] for side in sums])
    resampled = np.stack([_ratios(drawn, *side) for side in sums])
    found = [_tested(k, result, values=values, resampled=resampled, sums=sums[0]) for k in range(len(result.regions))]
    adjusted = holm(np.array([entry.p for entry in found]))
    return tuple(entry._replace(p=float(p)) for entry, p in zip(found, adjusted, strict=True))


def finding(result: "TokenMapResult") -> Finding:
    """Decide where fine-tuning's share stands out, and say so first."""
    tests = concentrations(result)
    loud = _above_noise(result)
    out = sorted((t for t in tests if t.p < LEVEL), key=lambda t: t.p)
    found = bool(out) and loud
    headline = _headline(result, out) if found else _nothing(result, tests, loud=loud)
    shown = out if found else [test for test in tests if not np.isnan(test.p)]
    estimates = (_overall(result), *_along(result), *(_concentration(test) for test in shown))
    return Finding(headline=headline, found=found, estimates=estimates, limits=_limits(result))


def pooled(
    result: "TokenMapResult", finetuned: Float[np.ndarray, "item *order"], pretrained: Float[np.ndarray, "item *order"]
) -> Interval:
    """Return the ratio of means |F| / (|P| + |F|) over items."""
    return result.ratio(finetuned, finetuned + pretrained)


def over_tokens(
    result: "TokenMapResult", values: Float[np.ndarray, "*lead item order region"]
) -> Float[np.ndarray, "*lead item order"]:
    """Return the mean over all measured tokens but each row's first, where attention sinks dwarf everything."""
    kept = np.array([name != START for name in result.regions]) | (result.regions == (START,))
    weights = np.where(kept & ~np.isnan(result.finetuned_norm), result.n_tokens, 0.0)
    total = np.asarray(weights.sum(-1))
    summed = np.where(weights > 0, values * weights, 0.0).sum(-1)
    return np.divide(summed, total, out=np.full(summed.shape, np.nan), where=np.broadcast_to(total > 0, summed.shape))


def _sums(
    result: "TokenMapResult",
    finetuned: np.ndarray,
    pretrained: np.ndarray,
    *,
    measured: np.ndarray,
    clusters: np.ndarray,
) -> tuple[Float[np.ndarray, "cluster region_and_all"], Float[np.ndarray, "cluster region_and_all"]]:
    """Return per cluster |F| and |F| + |P| of each region, and of all tokens in the last column."""
    columns = []
    for values in (finetuned, finetuned + pretrained):
        whole = np.concatenate([values, over_tokens(result, values)[..., None]], axis=-1)[measured]
        present = ~np.isnan(whole)
        counts = present.sum(1)
        per_item = np.where(present, whole, 0.0).sum(1) / np.maximum(counts, 1)
        added = np.zeros((clusters.max() + 1, per_item.shape[1]))
        np.add.at(added, clusters, per_item)
        columns.append(added)
    return columns[0], columns[1]


def _ratios(weights: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> Float[np.ndarray, "resample region"]:
    """Return each region's share over the share in all tokens; NaN where a resample has none of its tokens."""
    sums = weights @ top, weights @ bottom
    shares = np.divide(*sums, out=np.full(sums[0].shape, np.nan), where=sums[1] > 0)
    whole = shares[:, -1:]
    return np.divide(shares[:, :-1], whole, out=np.full(shares[:, :-1].shape, np.nan), where=whole > 0)


def _tested(
    k: int, result: "TokenMapResult", *, values: np.ndarray, resampled: np.ndarray, sums: tuple[np.ndarray, np.ndarray]
) -> Concentration:
    own, others = float(values[0, k]), values[1:, k]
    n = int((sums[1][:, k] > 0).sum())
    if np.isnan(own) or n < 2 or _same_everywhere(*(side[:, k] for side in sums)):
        return Concentration(result.regions[k], Interval(own, np.nan, np.nan, n), against_draws(own, others), np.nan)
    low, high = np.nanquantile(resampled[0, :, k], [0.025, 0.975])
    error = float(np.nanstd(resampled[0, :, k] - resampled[1:, :, k].mean(0), ddof=1))
    apart = abs(own - float(others.mean()))
    over_items = float(2 * stats.t.sf(apart / error, n - 1)) if error > 0 else float(apart == 0)
    chance = against_draws(own, others)
    return Concentration(
        result.regions[k], Interval(own, float(low), float(high), n), chance, max(over_items, chance.p)
    )


def _same_everywhere(top: np.ndarray, bottom: np.ndarray) -> bool:
    """Return whether a region's share is one number but for rounding: a fixed beginning that every prompt shares."""
    shares = top[bottom > 0] / bottom[bottom > 0]
    return bool(np.ptp(shares) <= _SAME * shares.max())


def _overall(result: "TokenMapResult") -> Estimate:
    sides = over_tokens(result, result.finetuned_norm), over_tokens(result, result.pretrained_norm)
    control = None
    if len(result.control_finetuned_norm):
        means = [
            over_tokens(result, v.mean(0)) for v in (result.control_finetuned_norm, result.control_pretrained_norm)
        ]
        control = estimate("a random change of equal norm", pooled(result, *means))
    name = (
        f"TuCo over tokens ({result.granularity}, {result.norm}, |F| / (|P| + |F|), first token of each row left out)"
    )
    return estimate(name, pooled(result, *sides), control=control)


def _along(result: "TokenMapResult") -> tuple[Estimate, ...]:
    """Return the three numbers of a prompt with a completion: last prompt token, reasoning, verdict."""
    if result.completions == "none":
        return ()
    names = ("TuCo at the last prompt token (the paper's)", "TuCo over the reasoning", "TuCo at the verdict position")
    sides = (result.first_token, result.reasoning, result.verdict)
    made = []
    for name, (finetuned, pretrained), region in zip(
        names, sides, ("prompt_end", "completion", "verdict"), strict=True
    ):
        if np.isnan(finetuned).all():
            continue
        control = None
        values = [result.at(region, v) for v in (result.control_finetuned_norm, result.control_pretrained_norm)]
        if len(values[0]) and not np.isnan(values[0]).all():
            control = estimate("a random change of equal norm", pooled(result, values[0].mean(0), values[1].mean(0)))
        made.append(estimate(name, pooled(result, finetuned, pretrained), control=control))
    return tuple(made)


def _concentration(test: Concentration) -> Estimate:
    control = Estimate(
        name="where 95% of random changes of equal norm fall",
        value=test.chance.value,
        low=test.chance.low,
        high=test.chance.high,
        n=test.own.n,
        unit="times",
    )
    name = f"share in {region_phrase(test.region)} over share in all tokens (p = {test.p:.2g}, Holm over regions)"
    return estimate(name, test.own, unit="times", control=control)


def _headline(result: "TokenMapResult", out: list[Concentration]) -> str:
    overall = _overall(result)
    beside = "" if overall.control is None else f" (a random change of the same size: {overall.control.value:.1%})"
    said = [
        f"{'more' if t.own.value > t.chance.value else 'less'} at {region_phrase(t.region)} "
        f"({t.own.value:.2f} times its average) than random changes do ({t.chance.value:.2f} times theirs)"
        for t in out[:3]
    ]
    more = f" and {len(out) - 3} more" if len(out) > 3 else ""
    return (
        f"Fine-tuning wrote {overall.value:.1%} of what moves the stream over these tokens{beside}, relatively "
        f"{', '.join(said)}{more}."
    )


def _nothing(result: "TokenMapResult", tests: tuple[Concentration, ...], *, loud: bool) -> str:
    if not np.nan_to_num(result.finetuned_norm).any():
        return "Nothing found: fine-tuning wrote exactly nothing at any token."
    if not loud:
        return f"Nothing found: TuCo is within {FLOORS:g} noise floors of rounding on these tokens."
    if len(result.control_finetuned_norm) < FEWEST_DRAWS:
        return f"Nothing found: it takes {FEWEST_DRAWS} random changes or more to tell a region from chance (controls)."
    if all(test.own.n < 2 for test in tests):
        return "Nothing found: it takes two independent items or more."
    return (
        "Nothing found: fine-tuning changed the stream, but its share is spread over the regions as that of a random "
        "change of equal norm is."
    )


def _above_noise(result: "TokenMapResult") -> bool:
    floor = result.meta.noise_floor
    return floor is None or bool(_overall(result).value > FLOORS * floor)


def _limits(result: "TokenMapResult") -> tuple[str, ...]:
    own = [
        "Direct writes only: what fine-tuning did at an earlier token and attention carried here is booked as "
        "pretraining's.",
        f"Depends on the cut ({result.granularity}) and the norm ({result.norm}); not comparable across base models.",
        "A share says how much was written, not that it mattered for the verdict.",
    ]
    untested = [region_phrase(test.region) for test in concentrations(result) if np.isnan(test.p) and test.own.n > 1]
    if untested:
        own.append(f"Not tested, since every prompt has the same tokens there: {', '.join(untested)}.")
    if result.completions != "none":
        read = result.said.size - result.n_unread
        own.append(f"{result.n_unread} of {result.said.size} completions gave no readable verdict; {read} have one.")
        if result.completions == "given":
            own.append("Completions were given: they need not be what this judge would write.")
        own.append("Random changes read the same completions; they would write others.")
    if result.meta.noise_floor is not None:
        own.append(f"Noise floor of TuCo here {result.meta.noise_floor:.2g}.")
    return (*own, *(f"Not measured: {what}" for what in result.meta.not_measured))
