"""How far did the judge move from the base, and did it move at all?"""

import math

from transformers import PreTrainedConfig, PreTrainedModel

from workbench.pairs.delta import DISTANT, WeightDelta, weight_delta
from workbench.pairs.delta.naming import is_probe_head, kind_of
from workbench.pairs.guards.configuration import config_guards
from workbench.pairs.report import Guard

_DERIVES = "judge derives from base"


def weight_guards(
    base: PreTrainedModel, judge: PreTrainedModel, *, probe: bool = False, allow_identical: bool = False
) -> list[Guard]:
    """Measure how far the judge moved from the base; norms only, so that loading stays quick.

    Args:
        base: The model before fine-tuning.
        judge: The fine-tuned one.
        probe: Whether the base's classification head was lent by the judge.
        allow_identical: Whether a judge that is the base may pass, with a warning.
    """
    delta = weight_delta(base, judge, spectrum=False, probe=probe)
    other = other_configuration(base.config, judge.config)
    return delta_guards(delta, probe=probe, configuration=other, allow_identical=allow_identical)


def delta_guards(
    delta: WeightDelta, *, probe: bool = False, configuration: str = "", allow_identical: bool = False
) -> list[Guard]:
    """Judge a weight difference that was measured already.

    Args:
        delta: The difference.
        probe: Whether the base is read through the judge's classification head.
        configuration: In what the configurations differ beside it, by :func:`other_configuration`.
        allow_identical: Whether a judge that is the base may pass, with a warning.
    """
    if delta.not_finite:
        derives = Guard(name=_DERIVES, status="skipped", value="not measured", detail="Weights aren't finite.")
    elif delta.moved:
        derives = _derives(delta)
    elif probe:
        derives = _frozen_body()
    else:
        derives = _identical(configuration, allow_identical=allow_identical)
    return [_finite(delta), derives, _changed_tensors(delta), *_one_sided(delta, probe=probe)]


def other_configuration(base: PreTrainedConfig, judge: PreTrainedConfig) -> str:
    """Return in what two configurations differ that counts as fine-tuning; empty when in nothing."""
    return "; ".join(row.value for row in config_guards(base, judge) if row.status == "warn")


def _finite(delta: WeightDelta) -> Guard:
    found = delta.not_finite
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return Guard(
        name="finite weights",
        status="fail" if found else "ok",
        value=f"{'; '.join(found[:3])}{more}" if found else f"all {len(delta.changes)} compared tensors",
        detail="Every output would be NaN: training diverged or the file is damaged; use an earlier checkpoint."
        if found
        else "",
    )


def _derives(delta: WeightDelta) -> Guard:
    name, relative = _DERIVES, delta.relative
    if math.isnan(relative) or relative > DISTANT:
        return Guard(
            name=name,
            status="warn",
            value=f"relative weight distance {relative:.3g}",
            detail="Unrelated models sit near 1.4: check that this is the base the judge was tuned from; "
            "`which_base(judge, candidates)` says which of several it was.",
        )
    if not delta.beyond_rounding:
        return Guard(
            name=name,
            status="warn",
            value=f"no weight differs beyond rounding to {delta.precision}",
            detail="The judge is the base saved in another precision; what differs between them is rounding.",
        )
    return Guard(name=name, status="ok", value=f"relative weight distance {relative:.3g}")


def _frozen_body() -> Guard:
    return Guard(
        name=_DERIVES,
        status="warn",
        value="the body is the base's; only the head was trained",
        detail="The probe reads the same stream with the same head: every analysis of blocks will give its null value.",
    )


def _identical(configuration: str, *, allow_identical: bool) -> Guard:
    same = f"no weight differs; only the configuration does ({configuration})" if configuration else "no weight differs"
    if allow_identical:
        null = "Base and judge are the same model; every analysis will give its null value."
        only = "Whatever differs between them comes from the configuration."
        return Guard(name=_DERIVES, status="warn", value=same, detail=only if configuration else null)
    return Guard(
        name=_DERIVES,
        status="fail",
        value=same if configuration else f"{same}: base and judge are the same model",
        detail="Name the fine-tuned model as the judge; an adapter that was never trained changes nothing either. "
        "To compare a model with itself on purpose, pass allow_identical=True.",
    )


def _changed_tensors(delta: WeightDelta) -> Guard:
    most = ", ".join(f"{c.name} {c.relative:.2g}" for c in delta.movers(3))
    value = f"{len(delta.moved)} of {len(delta.changes)} tensors moved" + (
        f"; most, relative to their norm: {most}" if most else ""
    )
    return Guard(name="changed tensors", status="ok", value=value)


def _one_sided(delta: WeightDelta, *, probe: bool) -> list[Guard]:
    """Name tensors that only one side has, which are in no number; heads that a probe has no use for are no gap."""
    sides = {"base": delta.only_base, "judge": delta.only_judge}
    found = {
        side: [name for name in names if not (probe and (is_probe_head(name) or kind_of(name) == "head"))]
        for side, names in sides.items()
    }
    said = [f"only the {side} has {len(names)}: {', '.join(names[:3])}" for side, names in found.items() if names]
    if not said:
        return []
    return [
        Guard(
            name="compared tensors",
            status="warn",
            value="; ".join(said),
            detail="They are in no number; check that both checkpoints are complete.",
        )
    ]
