"""Whose head reads the base, and do both heads mean the same by a label?"""

from transformers import PreTrainedModel

from workbench.hooks import head_kind
from workbench.pairs.modules import label_names
from workbench.pairs.report import Guard

PROBE = "transplanted from the judge: the base's scores are a probe, not its own verdicts"


def head_guards(base: PreTrainedModel, judge: PreTrainedModel, *, probe: bool, live: bool) -> tuple[Guard, ...]:
    """Say whose classification head reads the base; nothing for models that write text.

    Args:
        base: Model before fine-tuning, of the judge's class.
        judge: Fine-tuned model.
        probe: Whether the base's head is the judge's.
        live: Whether a head came with a live module, which doesn't tell a trained head from a random one.
    """
    if head_kind(base) != "classification" or head_kind(judge) != "classification":
        return ()
    return (_base_head(base, probe), *_untold(live), _labels(base, judge))


def _base_head(base: PreTrainedModel, probe: bool) -> Guard:
    if not probe:
        return Guard(name="base head", status="ok", value=f"its own, {_counted(base)}")
    return Guard(
        name="base head",
        status="warn",
        value=PROBE,
        detail="They say what its stream would be worth to the judge's head, which it was never trained with.",
    )


def _untold(live: bool) -> tuple[Guard, ...]:
    if not live:
        return ()
    detail = "Make sure it was loaded from a checkpoint that holds one; transformers only warns when it draws one."
    return (Guard(name="live head", status="warn", value="can't be told from a random one", detail=detail),)


def _labels(base: PreTrainedModel, judge: PreTrainedModel) -> Guard:
    said = [f"{_counted(m)}: {', '.join(label_names(m))}; problem type {m.config.problem_type}" for m in (base, judge)]
    if said[0] == said[1]:
        return Guard(name="labels", status="ok", value=said[1])
    return Guard(
        name="labels",
        status="warn",
        value=f"base {said[0]} -> judge {said[1]}",
        detail="Scores are compared by position; check that one position means one thing in both.",
    )


def _counted(module: PreTrainedModel) -> str:
    count = len(label_names(module))
    return f"{count} label" + ("" if count == 1 else "s")
