"""Pieces of HTML, as pure functions from values to text: everything handed in is escaped, nothing is fetched.

Functions return ``markupsafe.Markup``, a ``str`` that says "already escaped": pieces nest in each other and in jinja
templates, while plain text, wherever it comes from, is escaped exactly once. Control characters (terminal colours,
bidirectional overrides, zero-width marks) are made visible, because an answer that hides text from the reader is
something a report on judges has to show.
"""

import base64
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from markupsafe import Markup

from workbench.errors import ParameterError

Status = Literal["ok", "warn", "fail", "skipped", "found", "nothing"]
"""What a badge can say."""

STATUSES: Mapping[str, tuple[str, str]] = {
    "ok": ("✓", "ok"),
    "warn": ("!", "warning"),
    "fail": ("✗", "failed"),
    "skipped": ("–", "skipped"),
    "found": ("●", "found"),
    "nothing": ("○", "nothing found"),
}
"""Sign and word of each badge: never a colour alone."""

CHUNK = 128
"""Tokens per lazily rendered piece of a token strip."""

BINS = 5
"""Colour steps on either side of zero in a token strip."""

_ACTIVE = re.compile(r"""<script|<foreignObject|<[^>]*\son\w+\s*=|<[^>]*href=["'](?!#|data:image/png)""", re.IGNORECASE)
"""What an SVG document must not hold: scripts, handlers, embedded pages, references outside itself."""

_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")

# Doubled selectors: the rules a notebook has for its tables are as specific, and must not win in a dark page.
CSS = """
.jw{--jw-ink:#1c1f24;--jw-dim:#5b6470;--jw-line:#d5dae1;--jw-paper:#fff;--jw-soft:#f4f6f8;--jw-link:#0b5c9e;
 --jw-pos:#c2570c;--jw-neg:#1f6fb2;--jw-good:#00674a;--jw-bad:#a8321a;--jw-warn:#805a00;
 color:var(--jw-ink);background:var(--jw-paper);font:16px/1.55 system-ui,sans-serif;overflow-wrap:anywhere}
@media (prefers-color-scheme:dark){.jw{--jw-ink:#e6e9ed;--jw-dim:#a3acb8;--jw-line:#3a424d;--jw-paper:#14171b;
 --jw-soft:#1d2127;--jw-link:#7cc0ff;--jw-pos:#ffa55c;--jw-neg:#79b8f3;--jw-good:#4fd0a5;--jw-bad:#ff9a80;--jw-warn:#f2c14e}}
.jw table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
.jw caption{text-align:left;color:var(--jw-dim);padding:.25rem 0}
.jw.jw.jw table{color:inherit}.jw.jw.jw tbody tr:nth-child(n){background:none}
.jw.jw th,.jw.jw td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0;
 border-bottom:1px solid var(--jw-line)}
.jw th{font-weight:600;overflow-wrap:normal}
.jw.jw .num{text-align:right;white-space:nowrap}.jw td.text{white-space:pre-wrap}
.jw .scroll{overflow:auto;max-width:100%}
.jw dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:0;font-size:.875rem}
.jw dt{color:var(--jw-dim)}.jw dd{margin:0;min-width:0;white-space:pre-wrap}.jw dd>ul{margin:0;padding-left:1.1rem}
.jw figure{margin:1.25rem 0}.jw figcaption{color:var(--jw-dim);font-size:.875rem;max-width:46rem}
.jw figure svg,.jw figure img{max-width:100%;height:auto;display:block}
.jw .badge{display:inline-block;border:1px solid currentColor;border-radius:.3rem;padding:0 .45rem;font-size:.8125rem;
 white-space:nowrap;color:var(--jw-dim)}
.jw .badge.ok,.jw .badge.found{color:var(--jw-good)}
.jw .badge.warn{color:var(--jw-warn)}.jw .badge.fail{color:var(--jw-bad)}
.jw .tokens{max-height:24rem;overflow:auto;border:1px solid var(--jw-line);border-radius:.4rem;padding:.6rem;
 font:.875rem/1.9 ui-monospace,monospace}
.jw .tokens .chunk{display:block;content-visibility:auto;contain-intrinsic-size:auto 12rem}
.jw .tokens .t{white-space:pre-wrap;border-radius:.2rem;padding:.1rem 0;box-shadow:inset -1px 0 var(--jw-line)}
.jw .tokens .here{outline:2px solid currentColor}
.jw .tokens .span{color:var(--jw-dim);font-size:.75rem;border:1px solid var(--jw-line);border-radius:.2rem}
""" + "".join(
    f".jw .{side}{step}{{background:color-mix(in srgb,var(--jw-{side}) {step * 11}%,transparent)}}"
    for side in ("pos", "neg")
    for step in range(1, BINS + 1)
)
"""Styles of the pieces below, scoped to ``.jw``; light and dark."""


def visible(text: str) -> str:
    """Return text with control, bidirectional and invisible characters spelled out, e.g. ``⟨U+202E⟩`` or ``␛``."""
    return _UNSAFE.sub(_spell, text)


def _spell(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] == "\r":
        return "␍"
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def escape(value: object) -> Markup:
    """Return any value as safe HTML text; ``Markup`` passes through, None is an en dash, numbers get four digits."""
    return value if isinstance(value, Markup) else Markup.escape(visible(_text(value)))


def _text(value: object) -> str:
    if value is None:
        return "–"
    if _is_number(value):
        return number(float(value))  # pyright: ignore[reportArgumentType]: _is_number said so
    return str(value)


def _is_number(value: object) -> bool:
    # numpy's scalars aren't Python floats, and this module needs nothing else of numpy
    return not isinstance(value, (bool, str)) and hasattr(value, "__float__") and getattr(value, "shape", ()) == ()


def number(value: float) -> str:
    """Return a number as a reader wants it: four significant digits, a true minus sign, "not defined" for NaN."""
    if math.isnan(value):
        return "not defined"
    if float(value).is_integer() and abs(value) < 1e9:
        return str(int(value)).replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def badge(status: str, *, text: str | None = None) -> Markup:
    """Return a status as a sign and a word.

    Raises:
        ParameterError: The status is not one of ``STATUSES``.
    """
    if status not in STATUSES:
        raise ParameterError("unknown status.", argument="status", got=status, allowed=tuple(STATUSES))
    sign, word = STATUSES[status]
    return Markup('<span class="badge {}"><span aria-hidden="true">{}</span> {}</span>').format(
        status, sign, escape(text or word)
    )


def table(rows: Sequence[Sequence[object]], columns: Sequence[str], *, caption: str | None = None) -> Markup:
    """Return a table in a scrolling box that the keyboard can reach; columns of numbers are right-aligned.

    Args:
        rows: Cell values, row by row; ``Markup`` cells pass through, everything else is escaped.
        columns: Column titles, one per cell.
        caption: Shown above the table and read out as its name.

    Raises:
        ParameterError: A row has another length than ``columns``.
    """
    if ragged := [index for index, row in enumerate(rows) if len(row) != len(columns)]:
        raise ParameterError(
            "rows and columns differ in length.", argument="rows", got=ragged[0], allowed=f"{len(columns)} cells"
        )
    numeric = [bool(rows) and all(row[i] is None or _is_number(row[i]) for row in rows) for i in range(len(columns))]
    kinds = ["num" if is_number else "text" for is_number in numeric]
    head = _join(
        Markup('<th scope="col" class="{}">{}</th>').format(k, escape(c)) for k, c in zip(kinds, columns, strict=True)
    )
    body = _join(
        Markup("<tr>{}</tr>").format(
            _join(Markup('<td class="{}">{}</td>').format(k, escape(c)) for k, c in zip(kinds, row, strict=True))
        )
        for row in rows
    )
    title = Markup("<caption>{}</caption>").format(escape(caption)) if caption else Markup()
    label = escape(caption or "table")
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{}"><table>{}<thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(label, title, head, body)


def definition_list(values: Mapping[str, object]) -> Markup:
    """Return a mapping as a definition list; nested mappings nest, sequences become lists, empty ones say "none"."""
    return Markup("<dl>{}</dl>").format(
        _join(Markup("<dt>{}</dt><dd>{}</dd>").format(escape(key), _definition(value)) for key, value in values.items())
    )


def _definition(value: object) -> Markup:
    if isinstance(value, Mapping):
        return definition_list(value) if value else escape("none")
    if isinstance(value, (list, tuple)):
        return item_list([_definition(entry) for entry in value]) if value else escape("none")
    # Provenance is read to be compared: exact values, not four digits.
    return escape("–" if value is None else str(value))


def item_list(entries: Sequence[object]) -> Markup:
    """Return an unordered list of escaped entries."""
    return Markup("<ul>{}</ul>").format(_join(Markup("<li>{}</li>").format(escape(entry)) for entry in entries))


def figure(image: str | bytes, *, alt: str, caption: str = "") -> Markup:
    """Return a figure with alternative text.

    Args:
        image: An SVG document from ``plotting.figure_svg`` (inlined, to take the page's text colour), or PNG bytes.
        alt: What a reader who can't see the figure should know.
        caption: Shown below.

    Raises:
        ParameterError: The image is neither, or the SVG holds a script or a reference outside itself.
    """
    name = escape(alt)
    if isinstance(image, bytes):
        if not image.startswith(b"\x89PNG"):
            raise ParameterError("these bytes are not a PNG.", argument="image", got=image[:8])
        code = base64.b64encode(image).decode("ascii")
        drawn = Markup('<img alt="{}" src="data:image/png;base64,{}">').format(name, code)
    else:
        if not image.startswith("<svg") or _ACTIVE.search(image):
            raise ParameterError(
                "not a plain SVG document.",
                argument="image",
                got=image[:80],
                fix="Make it with workbench.plotting.figure_svg.",
            )
        # The page is ours to vouch for here: figure_svg wrote this text and the check above refused anything active.
        drawn = Markup('<div role="img" aria-label="{}">{}</div>').format(name, Markup(image))  # noqa: S704
    below = Markup("<figcaption>{}</figcaption>").format(escape(caption)) if caption else Markup()
    return Markup("<figure>{}{}</figure>").format(drawn, below)


def token_strip(
    tokens: Sequence[str],
    values: Sequence[float] | Sequence[int] | np.ndarray | None = None,
    *,
    spans: Mapping[str, tuple[int, int]] | None = None,
    selected: int | None = None,
    label: str = "tokens",
) -> Markup:
    """Return tokens as a scrolling strip, coloured by value: blue below zero, orange above, full at the largest.

    Tokens come in pieces that a browser lays out only when they scroll into view, so that 4k-token prompts stay light.

    Args:
        tokens: Token texts in order; line breaks are shown as ``↵``.
        values: One number per token (any unit); NaN stays uncoloured. The exact value is in each token's title.
        spans: Named half-open ranges of token positions, labelled where they start.
        selected: Position to outline.
        label: Name of the strip for screen readers.

    Raises:
        ParameterError: ``values`` and ``tokens`` differ in length.
    """
    if values is not None and len(values) != len(tokens):
        raise ParameterError(
            "one value per token is needed.", argument="values", got=len(values), allowed=f"{len(tokens)}"
        )
    scale = max((abs(float(v)) for v in (() if values is None else values) if not math.isnan(v)), default=0.0)
    starts: dict[int, list[str]] = {}
    for name, (start, _) in (spans or {}).items():
        starts.setdefault(start, []).append(name)
    pieces = []
    for begin in range(0, len(tokens), CHUNK):
        cells = []
        for index in range(begin, min(begin + CHUNK, len(tokens))):
            cells += [Markup('<span class="span">{}</span>').format(escape(name)) for name in starts.get(index, ())]
            value = None if values is None else float(values[index])
            cells.append(_token(tokens[index], index=index, value=value, scale=scale, selected=index == selected))
        pieces.append(Markup('<span class="chunk">{}</span>').format(_join(cells)))
    return Markup('<div class="tokens" tabindex="0" role="region" aria-label="{}">{}</div>').format(
        escape(label), _join(pieces)
    )


def _token(text: str, *, index: int, value: float | None, scale: float, selected: bool) -> Markup:
    kind = "t" + (" here" if selected else "")
    title = f"position {index}"
    if value is not None:
        title += f": {number(value)}"
        step = 0 if math.isnan(value) or scale == 0 else math.ceil(abs(value) / scale * BINS - 1e-9)
        kind += f" {'pos' if value > 0 else 'neg'}{step}" if step else ""
    shown = visible(text).replace("\n", "↵\n").replace("\t", "⇥\t")
    if text and unicodedata.combining(text[0]):
        shown = "◌" + shown  # a lone combining mark would land on the token before it
    return Markup('<span class="{}" title="{}">{}</span>').format(kind, title, escape(shown))


def fragment(*pieces: object) -> Markup:
    """Return pieces as one block that carries its own styles, e.g. for ``_repr_html_``."""
    return Markup('<div class="jw"><style>{}</style>{}</div>').format(Markup(CSS), _join(map(escape, pieces)))


def _join(pieces: object) -> Markup:
    return Markup().join(pieces)  # pyright: ignore[reportArgumentType]: any iterable of Markup
