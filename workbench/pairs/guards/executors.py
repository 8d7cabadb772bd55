"""Do three ways of entering each model agree?"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.hooks import Anatomy, Check, doctor
from workbench.pairs.loading.quantised import rounding
from workbench.pairs.report import Guard


def doctor_guards(
    base: PreTrainedModel,
    judge: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    anatomies: Mapping[str, Anatomy],
) -> list[Guard]:
    """Run the doctor on both models: three executors, an edit, a self-patch, a left-padded row."""
    rows = []
    for side, module in (("base", base), ("judge", judge)):
        checks = doctor.examine(module, tokenizer, anatomy=anatomies[side], tolerance=rounding(module))
        rows += [_from_check(side, check) for check in checks]
    return rows


def _from_check(side: str, check: Check) -> Guard:
    return Guard(
        name=f"doctor, {side}: {check.name}", status=check.status, value=_check_value(check), detail=check.detail
    )


def _check_value(check: Check) -> str:
    value: Any = check.value
    if isinstance(value, float):
        return f"{value:.2g}" + (f" (tolerance {check.tolerance:.2g})" if check.tolerance is not None else "")
    return str(value)
