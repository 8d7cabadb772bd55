"""Schemas: which field of a foreign row is the question, an answer, the label.

A schema is data. Known ones are recognised by the fields a row has; others are given as a column map.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import ItemError, ParameterError
from workbench.judges.items import JudgeItem
from workbench.judges.rows import Row

_KEYS = ("item_id", "question", "answers", "reference", "rubric", "label", "label_values", "meta")
_OWN_LABELS = {"0": 0, "1": 1, "A": 0, "B": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """Where the parts of an item stand in a row."""

    name: str
    """Name of the schema, e.g. ``"llmbar"``."""
    question: str
    """Field of the question."""
    answers: tuple[str, ...]
    """Fields of the answers in order; a single one holds a list."""
    label: str | None = None
    """Field of the label."""
    label_values: Mapping[str, int] | None = field(default=None, hash=False)
    """Answer index by label as written; None for an index counted from 0."""
    item_id: str | None = None
    """Field of the id; rows are numbered without one."""
    reference: str | None = None
    """Field of the reference."""
    rubric: str | None = None
    """Field of the rubric."""
    meta: str | None = None
    """Field that holds a mapping of its own for ``meta``; other unused fields go there as well."""
    optional: frozenset[str] = frozenset()
    """Fields that may be absent."""
    licence: str | None = None
    """Licence of the data set, when the schema belongs to one."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Return every field the schema names."""
        single = (self.item_id, self.question, *self.answers, self.reference, self.rubric, self.label, self.meta)
        return tuple(name for name in single if name is not None)

    def fits(self, columns: Sequence[str]) -> bool:
        """Return whether a row with these fields has all this schema needs."""
        return {name for name in self.fields if name not in self.optional} <= set(columns)


_OWN_REST: dict[str, Any] = {
    "label": "label",
    "item_id": "item_id",
    "reference": "reference",
    "rubric": "rubric",
    "meta": "meta",
    "optional": frozenset({"item_id", "reference", "rubric", "label", "meta"}),
}
OWN = Schema(name="workbench", question="question", answers=("answers",), **_OWN_REST)
WIDE = Schema(
    name="workbench-wide", question="question", answers=("answer_a", "answer_b"), label_values=_OWN_LABELS, **_OWN_REST
)
LLMBAR = Schema(
    name="llmbar",
    question="input",
    answers=("output_1", "output_2"),
    label="label",
    label_values={"1": 0, "2": 1},
    licence="MIT",
)
KNOWN = (OWN, WIDE, LLMBAR)
"""Schemas recognised by their fields, in the order they are tried."""


def schema_from_columns(columns: Mapping[str, Any]) -> Schema:
    """Build a schema from a caller's column map.

    Args:
        columns: ``{"question": "prompt", "answers": ["first", "second"], "label": "winner",
            "label_values": {"model_a": 0, "model_b": 1}, ...}``; ``question`` and ``answers`` are needed.

    Raises:
        ParameterError: A key is unknown or missing, or a value isn't a column name.
    """
    unknown = [key for key in columns if key not in _KEYS]
    if unknown or not {"question", "answers"} <= set(columns):
        raise ParameterError(
            "a column map names at least `question` and `answers`.",
            argument="columns",
            got=dict(columns),
            allowed=_KEYS,
        )
    answers = columns["answers"]
    names = (answers,) if isinstance(answers, str) else tuple(answers)
    rest = {key: columns[key] for key in _KEYS if key in columns and key not in ("answers", "label_values")}
    if not names or not all(isinstance(name, str) for name in (*names, *rest.values())):
        raise ParameterError("column names are texts.", argument="columns", got=dict(columns))
    values = columns.get("label_values")
    table = _OWN_LABELS if values is None and len(names) == 2 else values
    return Schema(
        name="columns",
        answers=names,
        label_values=None if table is None else {str(k): int(v) for k, v in table.items()},
        **rest,
    )


def recognise(row: Row) -> Schema:
    """Return the known schema whose fields the row has.

    Raises:
        ItemError: None fits.
    """
    for schema in KNOWN:
        if schema.fits(tuple(row.values)):
            return schema
    needs = "; ".join(
        f"{schema.name}: {', '.join(name for name in schema.fields if name not in schema.optional)}" for schema in KNOWN
    )
    raise ItemError(
        f"{row.where} doesn't have the fields of an item.",
        argument="columns",
        got=list(row.values),
        allowed=needs,
        fix="Name the columns: columns={'question': ..., 'answers': [..., ...], 'label': ...}.",
    )


def item_from_row(row: Row, schema: Schema, *, fallback_id: str, extra: Mapping[str, Any]) -> JudgeItem:
    """Build an item from a row.

    Args:
        row: The record.
        schema: Where its parts stand.
        fallback_id: Id when the schema has none.
        extra: Entries for ``meta`` beside the row's own unused fields.

    Raises:
        ItemError: A field is missing, isn't text, or the label says nothing known; the row is named.
    """
    missing = [name for name in schema.fields if name not in row.values and name not in schema.optional]
    if missing:
        raise ItemError(
            f"{row.where} has no field {missing[0]!r}.",
            argument=missing[0],
            got=list(row.values),
            allowed=f"rows with {', '.join(schema.fields)}",
            fix="Repair the row, or name the columns with `columns=`.",
        )
    item_id = _optional(row, schema.item_id)
    try:
        return JudgeItem(
            item_id=fallback_id if item_id is None else str(item_id),
            question=_text(row, schema.question),
            answers=_answers(row, schema),
            reference=_optional_text(row, schema.reference),
            rubric=_optional_text(row, schema.rubric),
            label=_label(row, schema),
            meta={**_meta(row, schema), **extra},
        )
    except ItemError as err:
        if err.what.startswith(row.where):
            raise
        raise ItemError(
            f"{row.where}: {err.what}", argument=err.argument, got=err.got, allowed=err.allowed, fix=err.fix
        ) from err


def is_missing(value: object) -> bool:
    """Return whether a cell says nothing: None or a float NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _optional(row: Row, name: str | None) -> Any:
    value = None if name is None else row.values.get(name)
    return None if is_missing(value) else value


def _optional_text(row: Row, name: str | None) -> str | None:
    return None if name is None or _optional(row, name) is None else _text(row, name)


def _text(row: Row, name: str) -> str:
    return _checked_text(row.values[name], where=row.where, name=name)


def _checked_text(value: object, *, where: str, name: str) -> str:
    if not isinstance(value, str):
        raise ItemError(
            f"{where}: field {name!r} isn't text.",
            argument=name,
            got="nothing" if is_missing(value) else value,
            allowed="text",
        )
    return value


def _answers(row: Row, schema: Schema) -> tuple[str, ...]:
    name, *more = schema.answers
    if more:
        return tuple(_text(row, name) for name in schema.answers)
    values = row.values[name]
    if not isinstance(values, list | tuple):
        raise ItemError(
            f"{row.where}: field {name!r} isn't a list.", argument=name, got=values, allowed="a list of texts"
        )
    return tuple(_checked_text(value, where=row.where, name=name) for value in values)


def _label(row: Row, schema: Schema) -> int | None:
    value = _optional(row, schema.label)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if schema.label_values is None and isinstance(value, int) and not isinstance(value, bool):
        return value
    if schema.label_values is not None and not isinstance(value, bool) and str(value) in schema.label_values:
        return schema.label_values[str(value)]
    raise ItemError(
        f"{row.where}: the label says nothing known.",
        argument=schema.label,
        got=repr(value),
        allowed="an answer index counted from 0, or nothing"
        if schema.label_values is None
        else tuple(schema.label_values),
        fix="Repair the label, or say what it means: columns={..., 'label_values': {'model_a': 0, 'model_b': 1}}.",
    )


def _meta(row: Row, schema: Schema) -> dict[str, Any]:
    own = _optional(row, schema.meta)
    if own is not None and not isinstance(own, Mapping):
        raise ItemError(f"{row.where}: field {schema.meta!r} isn't a mapping.", argument=schema.meta, got=own)
    rest = {key: None if is_missing(value) else value for key, value in row.values.items() if key not in schema.fields}
    return {**rest, **dict(own or {})}
