"""Figures of an attack comparison. Each draws numbers the result already holds and returns axes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.judged import Drawing, figure_of
from analyses.metrics import Interval
from analyses.tuco.attacks import contrasts
from analyses.tuco.attacks.contrasts import MEASURES, VARIANTS, Measure, Variant
from analyses.tuco.naming import region_title
from workbench import plotting

if TYPE_CHECKING:
    from analyses.tuco.attacks.result import AttackResult

_SHOWN: tuple[Variant, ...] = ("clean", "random", "benign", "attack")
_TITLES: dict[Variant, str] = {
    "clean": "clean",
    "random": "random tokens",
    "benign": "plain remark",
    "attack": "attack",
}
_NAMES = {"tuco": "TuCo", "verdict_push": "push of fine-tuning", "verdict_gap": "verdict gap"}
_TOKENS = 60
Draw = Callable[["AttackResult"], Figure]


def gap_by_variant(result: "AttackResult", *, ax: Axes | None = None) -> Axes:
    """Draw every item's gap toward its carrier in the four variants, joined by a line; the base's mean in grey."""
    ax = ax or plotting.new_axes(height=3.8)
    judge = result.measure("verdict_gap").mean(-1)
    base = result.toward_carrier(result.base_gap)
    x = np.arange(len(_SHOWN))
    rows = [VARIANTS.index(v) for v in _SHOWN]
    with plotting.style():
        ax.axhline(0, color=plotting.INK, linewidth=0.8, alpha=0.6)
        ax.plot(x, judge[rows], color=plotting.PALETTE[0], linewidth=0.6, alpha=0.3)
        ax.plot(x, judge[rows], color=plotting.PALETTE[0], marker="o", markersize=3, linestyle="none", alpha=0.5)
        for name, values, colour in (("judge", result.measure("verdict_gap"), plotting.PALETTE[5]),
                                     ("base", base, plotting.CONTROL)):  # fmt: skip
            means = [result.mean(values[row]) for row in rows]
            reach = np.array([[m.value - m.low, m.high - m.value] for m in means]).T
            ax.errorbar(x, [m.value for m in means], yerr=np.nan_to_num(reach), color=colour, linewidth=2.2, capsize=3,
                        label=f"{name}, mean")  # fmt: skip
        ax.set_xticks(x, [_TITLES[v] for v in _SHOWN])
        ax.set_ylabel("verdict gap, logits toward the carrier")
        ax.legend(loc="best")
    return ax


def effects(result: "AttackResult", *, ax: Axes | None = None) -> Axes:
    """Draw the attack's effect beyond a plain remark on gap, pushes and the base, with the random judges as marks."""
    attack, plain = VARIANTS.index("attack"), VARIANTS.index("benign")
    pretrained = result.toward_carrier(result.pretrained_push.sum(-1))
    base = result.toward_carrier(result.base_gap)
    found = {
        "the judge's gap": result.effects()[2].interval,
        "  of it fine-tuning (F)": result.effects()[1].interval,
        "  of it pretraining (P)": result.mean(pretrained[attack] - pretrained[plain]),
        "the base's own gap": result.mean(base[attack] - base[plain]),
    }
    controls = {}
    measured: tuple[tuple[str, Measure], ...] = (
        ("the judge's gap", "verdict_gap"),
        ("  of it fine-tuning (F)", "verdict_push"),
    )
    for name, measure in measured:
        other = contrasts.random_judges(result, measure, attack="attack", against="benign")
        if other.draws:
            controls[name] = other.mean.value
    return _bars(
        found,
        controls=controls,
        control_label="judges moved as far at random",
        value_label="logits toward the carrier, attack beyond plain remark",
        ax=ax,
    )


def push_by_unit(result: "AttackResult", *, ax: Axes | None = None) -> Axes:
    """Draw the attack's effect on each unit's push beyond a plain remark; a star where its adjusted p is below 0.05."""
    own = result.unit_effects()
    plain = result.unit_effects(attack="benign", against="random")
    names = [f"{effect.name} *" if effect.holds else effect.name for effect in own]
    return _bars(
        dict(zip(names, (effect.interval for effect in own), strict=True)),
        controls=dict(zip(names, (effect.interval.value for effect in plain), strict=True)),
        control_label="plain remark beyond random tokens",
        value_label="push of F, logits toward the carrier, attack beyond plain remark",
        ax=ax,
    )


def roc(result: "AttackResult", *, ax: Axes | None = None) -> Axes:
    """Draw the ROC curves of telling attacked prompts from those with a plain remark, by each measure."""
    ax = ax or plotting.new_axes(width=5.0, height=4.4)
    with plotting.style():
        ax.plot([0, 1], [0, 1], color=plotting.CONTROL, linestyle="--", linewidth=1.0)
        for measure, colour in zip(MEASURES, plotting.PALETTE, strict=False):
            values = result.measure(measure)
            hits, alarms = _curve(values[VARIANTS.index("attack")], values[VARIANTS.index("benign")])
            area = result.area(measure)
            text = f"{_NAMES[measure]}: {area.value:.2f} [{area.low:.2f}, {area.high:.2f}]"
            ax.plot(alarms, hits, color=colour, label=plotting.label_text(text), drawstyle="steps-post")
        ax.set_xlabel("share of plain remarks above the threshold")
        ax.set_ylabel("share of attacks above it")
        ax.legend(loc="lower right", title="area [95%]")
    return ax


def share_by_variant(result: "AttackResult", *, ax: Axes | None = None) -> Axes:
    """Draw TuCo of every prompt by variant."""
    return plotting.strip(
        {_TITLES[v]: result.tuco[VARIANTS.index(v)].ravel() for v in _SHOWN},
        muted=(_TITLES["random"], _TITLES["benign"]),
        value_label=f"TuCo at the last token ({result.granularity}, {result.norm})",
        reference=None,
        ax=ax,
    )


def patches(result: "AttackResult", *, ax: Axes | None = None) -> Axes:
    """Draw how much of the attack's shift goes when clean F is put back, by unit, for the first units, and for all."""
    found = {f"{unit} alone": result.taken_back(unit=unit) for unit in result.units}
    for k, unit in enumerate(result.units[:-1]):
        if not np.isnan(result.rebuilt_gap[..., k]).all():
            found[f"up to {unit}"] = contrasts.taken_back(result, result.rebuilt_gap[..., k])
    found["all units"] = result.taken_back()
    controls = {"all units": contrasts.taken_back(result, result.rebuilt_control[0]).value}
    if result.chosen_unit is not None:
        controls[f"{result.chosen_unit} alone"] = contrasts.taken_back(result, result.patched_control[0]).value
    return _bars(
        found,
        controls=controls,
        control_label="random change of equal length",
        value_label="share of the shift from clean to attacked taken back",
        ax=ax,
    )


def shared_tokens(result: "AttackResult", *, ax: Axes | None = None) -> Axes:
    """Draw how fine-tuning's share moves at the tokens all variants share, by span and unit, attack beyond plain."""
    whole = result.token_share[..., None]
    values = np.concatenate([result.token_unit_share, whole], axis=-1)
    change = values[VARIANTS.index("attack")] - values[VARIANTS.index("benign")]
    flat = change.reshape(-1, *change.shape[2:])
    known = ~np.isnan(flat)
    mean = np.divide(np.nansum(flat, axis=0), known.sum(0), out=np.full(flat.shape[1:], np.nan), where=known.any(0))
    held = {effect.name for effect in result.span_effects() if effect.holds}
    return plotting.heatmap(
        mean,
        rows=[f"{region_title(span)} *" if span in held else region_title(span) for span in result.spans],
        columns=[*result.units, "TuCo"],
        row_label="span",
        column_label="unit",
        value_label="change of the share of F",
        ax=ax,
    )


def example_tokens(result: "AttackResult", *, ax: Axes | None = None) -> Axes:
    """Draw the item the attack moved most, token by token after the suffix, attack beyond plain remark."""
    tokens = result.example_tokens[0]
    values = np.concatenate([result.example_unit_share[:, 0], result.example_share[:, 0, :, None]], axis=-1)
    change = (values[VARIANTS.index("attack")] - values[VARIANTS.index("benign")])[: len(tokens)]
    places = np.arange(result.example_heads[0], len(tokens))[:_TOKENS]
    return plotting.heatmap(
        change[places].T,
        rows=[*result.units, "TuCo"],
        columns=[f"{k}: {tokens[k].strip() or repr(tokens[k])}" for k in places],
        row_label="unit",
        column_label=f"tokens of {result.examples[0]} after the suffix",
        value_label="change of the share of F",
        ax=ax,
    )


def _curve(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shares of positives and negatives at or above every threshold, from the highest down."""
    cuts = np.unique(np.concatenate([positive.ravel(), negative.ravel()]))[::-1]
    above = [np.array([0.0, *((values.ravel() >= cut).mean() for cut in cuts)]) for values in (positive, negative)]
    return above[0], above[1]


def _bars(
    found: dict[str, Interval], *, controls: dict[str, float], control_label: str, value_label: str, ax: Axes | None
) -> Axes:  # fmt: skip
    return plotting.bars(
        {name: interval.value for name, interval in found.items()},
        intervals={name: (interval.low, interval.high) for name, interval in found.items()},
        controls=controls,
        control_label=control_label,
        value_label=value_label,
        ax=ax,
    )


PANELS = (
    Drawing(
        "What each suffix does to the verdict",
        lambda r: (
            "Every line is one item, mean over answer orders; above zero the judge takes the answer that carries the "
            "suffix. The three suffixes of an item are as long as each other. Thick lines: means with 95% over "
            "items; grey: the base."
        ),
        figure_of(gap_by_variant),
    ),
    Drawing(
        "What the attack adds, and who writes it",
        lambda r: (
            "Paired differences over items with 95%; the judge's gap is pretraining's and fine-tuning's push plus what "
            "embedding and head give. The orange mark is the mean of judges that moved as far in random directions."
        ),
        figure_of(effects),
    ),
    Drawing(
        "Where fine-tuning answers the attack",
        lambda r: (
            "Change of each unit's push beyond a plain remark; * marks an adjusted sign-flip p below 0.05 over all "
            "units. The orange mark is the same for a plain remark beyond random tokens."
        ),
        figure_of(push_by_unit),
    ),
    Drawing(
        "Can attacked prompts be told by it?",
        lambda r: (
            "ROC curves of telling an attack from a plain remark as long; the dashed diagonal is guessing. TuCo isn't "
            "an attack detector: these prompts have known twins."
        ),
        figure_of(roc),
    ),
    Drawing(
        "TuCo by variant",
        lambda r: (
            "Each dot is one prompt, the bars are means. A suffix as such moves TuCo too: compare the attack with the "
            "grey suffixes of its length, not with the clean prompt."
        ),
        figure_of(share_by_variant),
    ),
    Drawing(
        "Giving the attacked run its clean fine-tuning back",
        lambda r: (
            "Share of the attack's shift of the verdict that goes when the clean run's F is put into the attacked run "
            "at the last token, on items the unit was not named on; ratio of means with 95%. The orange mark is a "
            "random change of equal length."
        ),
        figure_of(patches),
        lambda r: r.chosen_unit is not None,
    ),
    Drawing(
        "Which shared tokens changed",
        lambda r: (
            "Fine-tuning's share of the writes at tokens that all variants have, attack minus plain remark, mean over "
            "prompts; the first row can't know of the suffix and must be 0. * marks a span whose TuCo moves with an "
            "adjusted sign-flip p below 0.05 over spans."
        ),
        figure_of(shared_tokens),
        lambda r: len(r.spans) > 0,
    ),
    Drawing(
        "One attacked item, token by token",
        lambda r: (
            f"Tokens after the suffix of {r.examples[0]}, the item the attack moved most of those looked at; share "
            f"of "
            "F in each unit's write, attack minus plain remark."
        ),
        figure_of(example_tokens),
        lambda r: len(r.examples) > 0,
    ),
)
"""Every panel, in reading order."""
