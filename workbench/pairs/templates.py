"""Asking both models of a pair with another chat template than the judge's own."""

import copy
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from workbench.errors import ParameterError
from workbench.judges import JudgeFormat
from workbench.pairs.fingerprint import template_text
from workbench.pairs.guards.tokens import TEMPLATE_ROW, template_guard
from workbench.pairs.report import Guard, PairReport


class Asked(NamedTuple):
    """A tokenizer that writes with another template."""

    tokenizer: PreTrainedTokenizerBase
    """A copy of the judge's with the template; the judge's own tokenizer where that is its template."""
    row: Guard | None
    """What the pair table says; None for the judge's own template."""

    def report(self, before: PairReport) -> PairReport:
        """Return the pair table with this row in place of one about another template."""
        kept = [guard for guard in before.guards if guard.name != TEMPLATE_ROW]
        return PairReport(name=before.name, guards=(*kept, *([] if self.row is None else [self.row])))


def asked_with(
    template: str,
    *,
    judge: PreTrainedTokenizerBase,
    base: PreTrainedTokenizerBase | None,
    judge_format: JudgeFormat,
) -> Asked:
    """Return the judge's tokenizer with a template.

    Args:
        template: ``"judge"``, ``"base"``, or the text of a template.
        judge: The judge's tokenizer as it came; it stays as it is.
        base: The base's tokenizer; None when one was given for both.
        judge_format: How items are written.

    Raises:
        ParameterError: The format writes no chat, the base's template isn't known, or the text is no template.
    """
    if not judge_format.chat:
        raise ParameterError(
            f"format {judge_format.name!r} writes no chat, so that a template changes nothing.",
            argument="template",
            got=template,
            fix="Load the pair with a chat format, e.g. format='bracket'.",
        )
    if template == "judge":
        return Asked(judge, None)
    if template == "base" and base is None:
        raise ParameterError(
            "one tokenizer was given for both models, so that the base's template isn't known.",
            argument="template",
            got=template,
            allowed="'judge', or the text of a template",
            fix="Load the pair from folders or Hub ids with a tokenizer each, or pass the template's text.",
        )
    if template != "base" and "{" not in template:
        raise ParameterError(
            "this text writes no message, so that it is no chat template.",
            argument="template",
            got=template,
            allowed="'judge', 'base', or the text of a template",
        )
    chosen: Any = template if base is None or template != "base" else base.chat_template
    tokenizer = copy.deepcopy(judge)
    tokenizer.chat_template = chosen
    if template_text(tokenizer) == template_text(judge):
        return Asked(judge, None)
    name = "the base's" if template == "base" else "the caller's"
    return Asked(tokenizer, template_guard(name, template_text(tokenizer)))
