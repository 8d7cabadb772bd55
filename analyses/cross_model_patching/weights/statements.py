"""What a weight swap says in words: one verdict-first sentence, estimates with controls, limits."""

from typing import TYPE_CHECKING

import numpy as np

from analyses.cells import CellIntervals
from analyses.cross_model_patching.weights import effects
from analyses.cross_model_patching.weights.effects import BLIND, Tested
from analyses.judged import estimate
from analyses.metrics import Interval
from workbench.results import Estimate, Finding

if TYPE_CHECKING:
    from analyses.cross_model_patching.weights.result import WeightSwapResult

_NAMED = 3
_GRAINS: tuple[tuple[str, ...], ...] = (
    ("layer",),
    ("attn", "mlp", "norms", "embedding", "final_norm", "unembed"),
    ("head", "kv_head"),
)
_WORDS = {
    "judge_to_base": "put into the base, each alone gives",
    "base_to_judge": "taken from the judge, each alone costs",
}


def finding(result: "WeightSwapResult") -> Finding:
    """Decide whether the judge's advantage was written in any one part, and say so first.

    A part is named when there is an advantage at all (over items, and beyond random judges of equal norm), its
    family-wise p over items is below 0.05, and so is that against the largest part of random judges.
    """
    tested = result.tested()
    found = bool(tested.passes.any())
    return Finding(
        headline=_found(result, tested) if found else _nothing(result),
        found=found,
        estimates=(_gap(result), *_parts(result, tested)),
        limits=_limits(result),
    )


def named(result: "WeightSwapResult", tested: Tested, direction: int) -> list[int]:
    """Return the parts that pass, strongest first within each grain: blocks, modules, heads."""
    values = np.abs(effects.effect(result, result.written, direction).value)
    passing = [int(i) for i in np.flatnonzero(tested.passes[direction])]
    return [
        index
        for grain in _GRAINS
        for index in sorted((i for i in passing if result.kinds[i] in grain), key=lambda i: -values[i])[:_NAMED]
    ]


def _found(result: "WeightSwapResult", tested: Tested) -> str:
    said = []
    for direction, way in enumerate(result.directions):
        chosen = named(result, tested, direction)
        if not chosen:
            continue
        shares = effects.recovery(result, result.written, direction)
        grain = next(grain for grain in _GRAINS if any(result.kinds[i] in grain for i in chosen))
        parts = [i for i in chosen if result.kinds[i] in grain]
        told = ", ".join(f"{result.parts[i]} {shares.value[i]:.0%}" for i in parts)
        finer = [str(result.parts[i]) for i in chosen if i not in parts]
        said.append(f"{_WORDS[way]} {told}" + (f" (in finer parts: {', '.join(finer)})" if finer else ""))
    value = result.advantage().gap.value
    return (
        f"The judge's advantage ({value:+.3g} {result.unit} toward the labelled answer) is written where single parts "
        f"carry more of it than any part of random changes does: {'; '.join(said)}."
    )


def _nothing(result: "WeightSwapResult") -> str:
    if not result.written.any():
        return "Nothing found: swapping weights changes no margin by even a bit."
    if why := result.advantage().why_not():
        return f"Nothing found: {why}."
    return (
        "Nothing found: no single part's weights carry more of the judge's advantage than the largest part of random "
        "changes of the same size."
    )


def _gap(result: "WeightSwapResult") -> Estimate:
    gate = result.advantage()
    chance = gate.chance
    control = None
    if np.isfinite(chance.low):
        name = "random judges of equal norm (95% of further ones)"
        control = Estimate(
            name=name, value=chance.value, low=chance.low, high=chance.high, n=len(result.random_gap), unit=result.unit
        )
    return estimate("advantage: judge minus base toward the label", gate.gap, unit=result.unit, control=control)


def _parts(result: "WeightSwapResult", tested: Tested) -> list[Estimate]:
    """Return the named parts, or where none is the strongest of each grain, written beside seen."""
    found = []
    for direction, way in enumerate(result.directions):
        cells = effects.effect(result, result.written, direction)
        for index in named(result, tested, direction) or _strongest(result, cells):
            seen = effects.effect(result, result.seen, direction)
            found.append(_part(result, tested, (direction, index), f"written in {result.parts[index]}, {way}", cells))
            if np.isfinite(seen.value[index]):
                bound = effects.seen_bound(result)
                name = f"seen in {result.parts[index]}, {way}"
                found.append(_estimate(result, name, seen, index, bound=bound, of="patch"))
    return found


def _strongest(result: "WeightSwapResult", cells: CellIntervals) -> list[int]:
    sizes = np.abs(np.nan_to_num(cells.value))
    grains = ([i for i, kind in enumerate(result.kinds) if kind in grain] for grain in _GRAINS)
    return [max(parts, key=lambda i: float(sizes[i])) for parts in grains if parts]


def _part(result: "WeightSwapResult", tested: Tested, at: tuple[int, int], name: str, cells: CellIntervals) -> Estimate:
    p = f"p = {tested.p_items[at]:.2g} over items, {tested.p_random[at]:.2g} against random judges"
    return _estimate(result, f"{name} ({p})", cells, at[1], bound=tested.bound, of="part")


def _estimate(
    result: "WeightSwapResult", name: str, cells: CellIntervals, index: int, *, bound: float, of: str
) -> Estimate:
    interval = Interval(float(cells.value[index]), float(cells.low[index]), float(cells.high[index]), cells.n)
    control = None
    if np.isfinite(bound):
        control = Estimate(
            name=f"largest {of} of a further random judge (upper end of 95%)",
            value=bound, low=0.0, high=bound, n=len(result.random_gap), unit=result.unit,
        )  # fmt: skip
    return estimate(name, interval, unit=result.unit, control=control)


def _limits(result: "WeightSwapResult") -> tuple[str, ...]:
    said = [
        "`written`: one part's weights come from the other model. `seen`: the same place's activations do, at every "
        "token. Seen isn't written: sites downstream of a change light up without having changed.",
        *_mediators(result),
        *_sums(result),
        *_blind(result),
        "Norms of a block are a part of their own, beside attention (with its query and key norms) and MLP; a head's "
        "part leaves out what heads share: the output projection's bias, norms, and under grouped queries keys and "
        "values, which are the kv_head parts.",
    ]
    if not effects.labelled(result):
        said.append("No item says which answer is better: effects are toward the first slot, and none can be named.")
    elif not result.advantage().defined:
        said.append("Recoveries aren't defined: base and judge differ too little toward the label to divide by.")
    if result.tied:
        said.append("Embedding and unembedding are one tensor here; they are swapped apart, as two uses of it.")
    same = int(result.unchanged.sum())
    said.append(f"{same} of {len(result.kinds)} parts hold the same bits in both models: exactly 0, not run.")
    return (*said, *(f"Not measured: {what}" for what in result.meta.not_measured))


def _mediators(result: "WeightSwapResult") -> list[str]:
    found = []
    for direction, way in enumerate(result.directions):
        if not (chosen := effects.mediators(result, direction)):
            continue
        values = effects.effect(result, result.seen, direction).value
        told = ", ".join(f"{result.parts[i]} ({values[i]:+.3g})" for i in chosen[:_NAMED])
        found.append(
            f"Mediators, {way}: {len(chosen)} unchanged parts move the margin when their activations are patched, "
            f"most of all {told} {result.unit}; nothing was written there."
        )
    return found


def _sums(result: "WeightSwapResult") -> list[str]:
    """Return what single recoveries add up to: not 1, and not meant to."""
    found = []
    for direction, way in enumerate(result.directions):
        if "layer" not in result.kinds:
            continue
        layers = np.array([kind == "layer" for kind in result.kinds])
        sums = {
            name: effects.recovery(result, values, direction).value[layers].sum()
            for name, values in (("written", result.written), ("seen", result.seen))
        }
        told = ", ".join(f"{name} {value:.2f}" for name, value in sums.items() if np.isfinite(value))
        if told:
            found.append(f"Effects don't add: recoveries of single blocks sum to {told} ({way}); they are no shares.")
    return found


def _blind(result: "WeightSwapResult") -> list[str]:
    """Return where a z sweep and an attn_out sweep disagree, because z goes through the other model's projection."""
    shares = result.blind()
    found = []
    for direction, way in enumerate(result.directions):
        layers = np.flatnonzero(np.nan_to_num(shares[direction], posinf=1.0) > BLIND)
        if len(layers):
            told = ", ".join(str(layer) for layer in layers)
            found.append(
                f"z and attn_out disagree in blocks {told} ({way}): o_proj was tuned there, and z patched through the "
                "target's own o_proj misses more than a tenth of what attn_out shows. Read attn_out, or `through` (z "
                "with the donor's o_proj)."
            )
    return found
