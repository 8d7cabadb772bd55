"""How far did the judge move from the base, and did it move at all?"""

import math

from transformers import PreTrainedModel

from workbench.pairs.delta import WeightDelta, weight_delta
from workbench.pairs.report import Guard

DISTANT = 0.9
"""Relative weight distance from which a judge is said not to derive from the base; unrelated models sit near 1.4."""


def weight_guards(base: PreTrainedModel, judge: PreTrainedModel) -> list[Guard]:
    """Measure how far the judge moved from the base."""
    delta = weight_delta(base, judge)
    return [_derives(delta), _changed_tensors(delta)]


def _derives(delta: WeightDelta) -> Guard:
    relative = delta.relative
    if math.isnan(relative) or relative > DISTANT:
        return Guard(
            name="judge derives from base",
            status="warn",
            value=f"relative weight distance {relative:.3g}",
            detail="Unrelated models sit near 1.4: check that this is the base the judge was tuned from.",
        )
    if relative == 0:
        return Guard(
            name="judge derives from base",
            status="warn",
            value="no weight differs",
            detail="Base and judge are the same model; every analysis will give its null value.",
        )
    return Guard(name="judge derives from base", status="ok", value=f"relative weight distance {relative:.3g}")


def _changed_tensors(delta: WeightDelta) -> Guard:
    moved = sorted(delta.moved, key=lambda c: -c.change / max(c.base_norm, 1e-12))
    most = ", ".join(f"{c.name} {c.change / max(c.base_norm, 1e-12):.2g}" for c in moved[:3])
    value = f"{len(moved)} of {len(delta.changes)} tensors moved" + (
        f"; most, relative to their norm: {most}" if moved else ""
    )
    return Guard(name="changed tensors", status="ok", value=value)
