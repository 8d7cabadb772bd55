"""Judge formats: how a judge family wants an item written, and how it answers.

A format is data: a template, the label texts by choice, and a pattern that reads generated output.
Everything that depends on a tokenizer (prefix-free labels, the first label token) is checked where
prompts are tokenised, in :mod:`workbench.judges.encoding`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from workbench.errors import FormatError, ItemError, ParameterError
from workbench.judges.chat import Tokenizer, as_chat, has_chat_template
from workbench.judges.items import ORDERS, JudgeItem, Order
from workbench.judges.prompts import JudgePrompt
from workbench.judges.templates import ROLES, Filled, Role, Segment, check_fields, fill, item_fields
from workbench.judges.verdicts import CHOICES, Unparsed, Verdict, parse_verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeFormat:
    """One way of asking for a verdict; data only."""

    name: str
    """Name used in results and by :func:`get_format`."""
    segments: tuple[Segment, ...]
    """The template, ending where the verdict label begins; no trailing space (labels carry it)."""
    groups: Mapping[str, tuple[str, ...]] = field(hash=False)
    """Label texts by choice: ``"A"``, ``"B"`` and, where the judge may call one, ``"tie"``."""
    pattern: str
    """Regular expression with one group that captures the label in generated output."""
    spoken: Mapping[str, str] = field(hash=False)
    """Choice by captured text, compared without case."""
    chat: bool = False
    """Whether the tokenizer's chat template is used when it has one."""
    separator: str = "\n\n"
    """Text between turns of different roles when there is no chat template."""
    description: str = ""
    """What this format is for, in one sentence."""
    licence: str | None = None
    """Licence of the judge family this format serves, when it matters."""

    def __post_init__(self) -> None:
        """Refuse formats that could never give a verdict.

        Raises:
            FormatError: Unknown fields or choices, missing or repeated labels, or a pattern that can't be used.
        """
        object.__setattr__(self, "groups", {choice: tuple(labels) for choice, labels in self.groups.items()})
        object.__setattr__(self, "spoken", dict(self.spoken))
        check_fields(self.segments, n_answers=2, format_name=self.name)
        self._check_labels()
        self._check_pattern()
        self._check_roles()

    @property
    def labels(self) -> tuple[str, ...]:
        """Return all label texts, group by group."""
        return tuple(label for group in self.groups.values() for label in group)

    def render(self, item: JudgeItem, *, order: Order = "original", tokenizer: Tokenizer | None = None) -> JudgePrompt:
        """Write one item in one answer order.

        Args:
            item: A pairwise item.
            order: ``"original"``, or ``"swapped"`` to show the second answer first.
            tokenizer: Judge's tokenizer; its chat template is used when the format is a chat and it has one.

        Raises:
            ItemError: The item doesn't have two answers, or lacks a text the template always shows.
            FormatError: The chat template can't write this format.
            ParameterError: The order is unknown.
        """
        if order not in ORDERS:
            raise ParameterError("unknown answer order.", argument="order", got=order, allowed=ORDERS)
        if len(item.answers) != 2:
            raise ItemError(
                f"format {self.name!r} compares two answers.",
                argument="answers",
                got=f"item {item.item_id!r} with {len(item.answers)} answers",
                allowed="exactly two answers",
                fix="Split the item into pairs.",
            )
        turns = self._turns(item.in_order(order))
        chat = self.chat and has_chat_template(tokenizer)
        filled = self._chat(turns, tokenizer) if chat and tokenizer is not None else self._plain(turns)
        return JudgePrompt(
            item=item,
            order=order,
            format_name=self.name,
            text=filled.text,
            spans=filled.spans,
            groups=self.groups,
            chat=chat,
        )

    def render_all(
        self, items: Iterable[JudgeItem], *, orders: Iterable[Order] = ORDERS, tokenizer: Tokenizer | None = None
    ) -> tuple[JudgePrompt, ...]:
        """Write items in all orders asked for, item by item (both orders of an item stand together).

        Raises:
            ItemError: An item doesn't fit the format.
            FormatError: The chat template can't write this format.
        """
        shown = tuple(orders)
        return tuple(self.render(item, order=order, tokenizer=tokenizer) for item in items for order in shown)

    def parse(self, text: str, *, item_id: str, order: Order = "original") -> Verdict | Unparsed:
        """Read a verdict from what the judge generated after the prompt."""
        return parse_verdict(text, pattern=self.pattern, spoken=self.spoken, item_id=item_id, order=order)

    def _turns(self, item: JudgeItem) -> list[tuple[Role, Filled]]:
        fields = item_fields(item)
        turns: list[tuple[Role, Filled]] = []
        for role in ROLES:
            said = [segment for segment in self.segments if segment.role == role]
            turns.append((role, fill(said, fields=fields, item_id=item.item_id)))
        return [(role, filled) for role, filled in turns if filled.text]

    def _plain(self, turns: list[tuple[Role, Filled]]) -> Filled:
        text, spans = "", {}
        for index, (_, filled) in enumerate(turns):
            text += self.separator if index else ""
            spans |= filled.shifted(len(text))
            text += filled.text
        return Filled(text, spans)

    def _chat(self, turns: list[tuple[Role, Filled]], tokenizer: Tokenizer) -> Filled:
        asked = [turn for turn in turns if turn[0] != "assistant"]
        chat = as_chat(asked, tokenizer=tokenizer, format_name=self.name)
        stems = [filled for role, filled in turns if role == "assistant"]
        spans = dict(chat.spans)
        for stem in stems:
            spans |= stem.shifted(len(chat.text))
        return Filled(chat.text + "".join(stem.text for stem in stems), spans)

    def _check_labels(self) -> None:
        if not {"A", "B"} <= set(self.groups) <= set(CHOICES) or not all(self.groups.values()):
            raise FormatError(
                f"format {self.name!r} needs labels for A and for B.",
                argument="groups",
                got=self.groups,
                allowed="A, B and, when the judge may call one, tie, each with at least one label",
            )
        labels = self.labels
        if not all(labels) or len(set(labels)) != len(labels):
            raise FormatError(
                f"format {self.name!r} has an empty label, or the same label twice.", argument="groups", got=labels
            )

    def _check_pattern(self) -> None:
        try:
            n_groups = re.compile(self.pattern).groups
        except re.error as err:
            raise FormatError(
                f"the pattern is not a regular expression: {err}.", argument="pattern", got=self.pattern
            ) from err
        if n_groups != 1:
            raise FormatError("the pattern must capture exactly one group.", argument="pattern", got=self.pattern)
        if not set(self.spoken.values()) <= set(self.groups):
            raise FormatError(
                "`spoken` names a choice that has no labels.",
                argument="spoken",
                got=self.spoken,
                allowed=list(self.groups),
            )

    def _check_roles(self) -> None:
        roles = [segment.role for segment in self.segments]
        ranks = [ROLES.index(role) for role in roles]
        if ranks != sorted(ranks) or "user" not in roles:
            raise FormatError(
                f"the segments of format {self.name!r} must run system, user, assistant.",
                argument="segments",
                got=roles,
                fix="Order the segments by role and give at least one to the user.",
            )


_REFERENCE_AND_RULE = (
    Segment(text="Reference answer:\n{reference}\n\n", when="reference"),
    Segment(text="Rule for judging:\n{rubric}\n\n", when="rubric"),
)
_TWO_ANSWERS = (Segment(text="Answer A:\n{answer_a}\n\n"), Segment(text="Answer B:\n{answer_b}\n\n"))
_LETTERS = {"A": "A", "B": "B"}

DEMO = JudgeFormat(
    name="demo",
    description="The format of the embedded pairs; also a plain format for small causal models.",
    segments=(
        Segment(text="Question: {question}\n"),
        Segment(text="Reference: {reference}\n", when="reference"),
        Segment(text="Answer A: {answer_a}\n"),
        Segment(text="Answer B: {answer_b}\n"),
        Segment(text="Rule: {rubric}\n", when="rubric"),
        Segment(text="Verdict:", name="verdict"),
    ),
    groups={"A": (" A",), "B": (" B",)},
    pattern=r"\A\s*([AB])\b",
    spoken=_LETTERS,
)

PAIRWISE = JudgeFormat(
    name="pairwise",
    description="Neutral comparison of two answers for any causal model, without a chat template.",
    segments=(
        Segment(
            text="Below are a request and two answers to it. Decide which answer serves the request better. "
            "Its content counts; its length and its place do not.\n\n",
            name="instruction",
        ),
        Segment(text="Request:\n{question}\n\n"),
        *_REFERENCE_AND_RULE,
        *_TWO_ANSWERS,
        Segment(text="Better answer:", name="verdict"),
    ),
    groups={"A": (" A",), "B": (" B",)},
    pattern=r"\A\s*(?:Answer\s+)?([AB])\b",
    spoken=_LETTERS,
)

BRACKET = JudgeFormat(
    name="bracket",
    description="Verdict in double brackets after a forced stem, for chat models.",
    segments=(
        Segment(
            text="You compare two answers to one request and say which is better. Weigh how far each does what was "
            "asked, and whether it is right. Do not let length, style or the order of the answers sway you. "
            "Give your verdict as [[A]] if answer A is better and as [[B]] if answer B is better.\n\n",
            name="instruction",
        ),
        Segment(text="Request:\n{question}\n\n"),
        *_REFERENCE_AND_RULE,
        Segment(text="Answer A:\n{answer_a}\n\n"),
        Segment(text="Answer B:\n{answer_b}"),
        Segment(text="My verdict is:", name="verdict", role="assistant"),
    ),
    groups={"A": (" [[A]]",), "B": (" [[B]]",)},
    pattern=r"\[\[([AB])\]\]",
    spoken=_LETTERS,
    chat=True,
)

PANDALM = JudgeFormat(
    name="pandalm",
    description="PandaLM's layout and label lines (1, 2, Tie); the opening sentence is reworded.",
    licence="Apache-2.0 (code); weights under the LLaMA licence",
    segments=(
        Segment(
            text="A task is described by the instruction below and was answered twice. "
            "Evaluate the two responses and write a reference answer.\n\n",
            name="instruction",
        ),
        Segment(text="### Instruction:\n{question}\n\n"),
        Segment(text="### Reference:\n{reference}\n\n", when="reference"),
        Segment(text="### Rule:\n{rubric}\n\n", when="rubric"),
        Segment(text="### Response 1:\n{answer_a}\n\n"),
        Segment(text="### Response 2:\n{answer_b}\n\n"),
        Segment(text="### Evaluation:\n", name="verdict"),
    ),
    groups={"A": ("1\n",), "B": ("2\n",), "tie": ("Tie\n",)},
    pattern=r"\A\s*(1|2|[Tt]ie)[ \t]*(?:\r?\n|\Z)",
    spoken={"1": "A", "2": "B", "tie": "tie"},
)

_REGISTRY = {judge_format.name: judge_format for judge_format in (DEMO, PAIRWISE, BRACKET, PANDALM)}


def format_names() -> tuple[str, ...]:
    """Return the names :func:`get_format` knows."""
    return tuple(_REGISTRY)


def get_format(source: str | JudgeFormat) -> JudgeFormat:
    """Return a judge format by name; a format is handed through.

    Args:
        source: Name of a shipped format, or a :class:`JudgeFormat` of your own.

    Raises:
        FormatError: No format has this name.
    """
    if isinstance(source, JudgeFormat):
        return source
    if source not in _REGISTRY:
        raise FormatError(
            "unknown judge format.",
            argument="format",
            got=source,
            allowed=format_names(),
            fix="Choose one of these, or pass a `JudgeFormat` with your own segments and labels.",
        )
    return _REGISTRY[source]
