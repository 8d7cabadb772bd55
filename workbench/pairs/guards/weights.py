"""How far did the judge move from the base, and did it move at all?"""

import math

from transformers import PreTrainedModel

from workbench.pairs.delta import DISTANT, WeightDelta, weight_delta
from workbench.pairs.report import Guard


def weight_guards(base: PreTrainedModel, judge: PreTrainedModel, *, allow_identical: bool = False) -> list[Guard]:
    """Measure how far the judge moved from the base; norms only, so that loading stays quick.

    Args:
        base: The model before fine-tuning.
        judge: The fine-tuned one.
        allow_identical: Whether a judge that is the base may pass, with a warning.
    """
    return delta_guards(weight_delta(base, judge, spectrum=False), allow_identical=allow_identical)


def delta_guards(delta: WeightDelta, *, allow_identical: bool = False) -> list[Guard]:
    """Judge a weight difference that was measured already.

    Args:
        delta: The difference.
        allow_identical: Whether a judge that is the base may pass, with a warning.
    """
    return [_derives(delta, allow_identical=allow_identical), _changed_tensors(delta)]


def _derives(delta: WeightDelta, *, allow_identical: bool) -> Guard:
    name, relative = "judge derives from base", delta.relative
    if not delta.moved:
        return _identical(name, allow_identical=allow_identical)
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


def _identical(name: str, *, allow_identical: bool) -> Guard:
    if allow_identical:
        return Guard(
            name=name,
            status="warn",
            value="no weight differs",
            detail="Base and judge are the same model; every analysis will give its null value.",
        )
    return Guard(
        name=name,
        status="fail",
        value="no weight differs: base and judge are the same model",
        detail="Name the fine-tuned model as the judge; an adapter that was never trained changes nothing either. "
        "To compare a model with itself on purpose, pass allow_identical=True.",
    )


def _changed_tensors(delta: WeightDelta) -> Guard:
    most = ", ".join(f"{c.name} {c.relative:.2g}" for c in delta.movers(3))
    value = f"{len(delta.moved)} of {len(delta.changes)} tensors moved" + (
        f"; most, relative to their norm: {most}" if most else ""
    )
    return Guard(name="changed tensors", status="ok", value=value)
