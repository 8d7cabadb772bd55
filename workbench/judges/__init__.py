"""What is asked of a judge and how its answer is read; never runs a model."""

from workbench.judges.datasets import embedded_pairs, load_items
from workbench.judges.encoding import EncodedPrompts, FirstTokens, encode
from workbench.judges.formats import JudgeFormat, format_names, get_format
from workbench.judges.items import ORDERS, JudgeItem, JudgeItems, Order, Provenance
from workbench.judges.prompts import JudgePrompt
from workbench.judges.readout import label_logprobs, verdict_from_logits, verdicts_from_logprobs
from workbench.judges.templates import Segment
from workbench.judges.variants import AttackVariants, Suffixes, attack_variants, with_suffix
from workbench.judges.verdicts import Choice, Split, Unparsed, Verdict, content_position

__all__ = [
    "ORDERS",
    "AttackVariants",
    "Choice",
    "EncodedPrompts",
    "FirstTokens",
    "JudgeFormat",
    "JudgeItem",
    "JudgeItems",
    "JudgePrompt",
    "Order",
    "Provenance",
    "Segment",
    "Split",
    "Suffixes",
    "Unparsed",
    "Verdict",
    "attack_variants",
    "content_position",
    "embedded_pairs",
    "encode",
    "format_names",
    "get_format",
    "label_logprobs",
    "load_items",
    "verdict_from_logits",
    "verdicts_from_logprobs",
    "with_suffix",
]
