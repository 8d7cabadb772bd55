"""From a result to what the page shows: plain values and escaped pieces, made once and rendered many times."""

import base64
import gzip
import pprint
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from workbench import html, plotting
from workbench.results import Estimate, Finding, Panel, Result, RunMeta

if TYPE_CHECKING:
    import pandas as pd

ROWS_SHOWN = 20
"""Rows of a result's table that the page prints; the download has all of them."""

DOWNLOAD_LIMIT = 4_000_000
"""Largest CSV (bytes) carried inside the page; a longer one is named, not carried."""

PLAIN_LIMIT = 200_000
"""Largest CSV (bytes) carried as it is; a longer one is compressed, which makes it some twenty times smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One drawn panel."""

    title: str
    """Short title."""
    caption: str
    """What it shows and how to read it."""
    body: Markup
    """The figure element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultView:
    """Everything the page says about one result."""

    anchor: str
    """Id of the section, unique on the page."""
    name: str
    """Analysis, as a heading."""
    finding: Finding
    """What the result says."""
    badge: Markup
    """Found or nothing found."""
    estimates: Markup
    """Table of effects, each with interval, control and a small picture of both."""
    figures: tuple[Figure, ...]
    """Panels in order."""
    table: Markup
    """First rows of the frame."""
    rows: int
    """Rows of the whole frame."""
    csv: str | None
    """Data URI of the whole frame; None when it is too large to carry."""
    limits: tuple[str, ...]
    """What the numbers can't show and what was not measured."""
    guards: Markup
    """Checks of the pair, as a table."""
    warnings: tuple[str, ...]
    """Soft failures recorded with the run."""
    provenance: Markup
    """The whole meta block."""
    rerun_python: str
    """How to repeat the run from Python."""
    rerun_shell: str
    """How to repeat it from a shell."""


def view_result(result: Result, *, anchor: str, name: str | None = None) -> ResultView:
    """Turn one result into its view; draws its panels and builds its frame, once.

    Args:
        result: Anything with the ``Result`` protocol.
        anchor: Id of its section; also the prefix of the ids inside its figures.
        name: Heading of its section; its analysis when None.
    """
    meta, finding, frame = result.meta, result.finding, result.to_frame()
    return ResultView(
        anchor=anchor,
        name=html.visible(name or meta.analysis),
        finding=finding,
        badge=html.badge("found" if finding.found else "nothing"),
        estimates=_estimates(finding.estimates),
        figures=tuple(draw_panel(p, prefix=f"{anchor}-f{i}") for i, p in enumerate(result.panels(), start=1)),
        table=frame_table(frame, caption=f"First {min(len(frame), ROWS_SHOWN)} of {len(frame)} rows"),
        rows=len(frame),
        csv=_csv_uri(frame),
        limits=tuple(
            dict.fromkeys((*finding.limits, *(f"Not measured: {left_out}" for left_out in meta.not_measured)))
        ),
        guards=guard_table(meta.pair),
        warnings=meta.warnings,
        provenance=provenance(meta),
        rerun_python=rerun_python(meta),
        rerun_shell=rerun_shell(meta),
    )


def draw_panel(panel: Panel, *, prefix: str) -> Figure:
    """Draw one panel and let go of its figure."""
    drawn = panel.draw()
    svg = plotting.figure_svg(drawn, prefix=prefix)
    # An analysis may have used pyplot, which keeps every figure it made until it is told to let go.
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close(drawn)
    body = html.figure(svg, alt=f"{panel.title}. {panel.caption}", caption=panel.caption)
    return Figure(title=html.visible(panel.title), caption=html.visible(panel.caption), body=body)


def frame_table(frame: "pd.DataFrame", *, caption: str, rows: int = ROWS_SHOWN) -> Markup:
    """Return the first rows of a frame as a table; missing cells are dashes, columns of nothing else are left out."""
    head = frame.head(rows).astype(object)
    shown = head.dropna(axis="columns", how="all")
    if len(shown.columns) < len(head.columns):
        caption = f"{caption}; columns that are empty in these rows are left out"
    cells = shown.where(shown.notna(), None).to_numpy().tolist()
    return html.table(cells, [str(name) for name in shown.columns], caption=caption)


def guard_table(pair: Mapping[str, Any]) -> Markup:
    """Return the checks recorded in a pair's identity as a table; a sentence when there are none."""
    guards = [guard for guard in pair.get("guards", ()) if isinstance(guard, Mapping)]
    if not guards:
        return html.escape("No guard table was recorded with this result.")
    rows = [[_guard_badge(g.get("status")), g.get("name"), g.get("value"), g.get("detail") or ""] for g in guards]
    return html.table(rows, ["status", "check", "seen", "meaning"], caption="Checks of the pair before it was compared")


def _guard_badge(status: object) -> Markup:
    return html.badge(status) if isinstance(status, str) and status in html.STATUSES else html.escape(status)


def provenance(meta: RunMeta) -> Markup:
    """Return the whole meta block as a nested definition list; the guards have a table of their own."""
    values = {f.name.replace("_", " "): getattr(meta, f.name) for f in fields(meta)}
    values["pair"] = {key: value for key, value in meta.pair.items() if key != "guards"}
    return html.definition_list(values)


def _estimates(estimates: Sequence[Estimate]) -> Markup:
    rows = [
        [
            estimate.name,
            _interval_picture(estimate),
            _interval_text(estimate),
            estimate.control.name if estimate.control else "no control",
            _interval_text(estimate.control) if estimate.control else None,
            estimate.n,
        ]
        for estimate in estimates
    ]
    columns = ["effect", "", "value [interval]", "control", "value [interval]", "independent n"]
    return html.table(rows, columns, caption="Effect with interval, beside its control") if rows else Markup()


def _interval_text(estimate: Estimate) -> str:
    unit = f" {estimate.unit}" if estimate.unit else ""
    return f"{html.number(estimate.value)}{unit} [{html.number(estimate.low)}, {html.number(estimate.high)}]"


def _interval_picture(estimate: Estimate) -> Markup:
    """Draw effect (filled) over control (hollow) with a line at zero; an aid only, the text beside it says it all."""
    shown = [e for e in (estimate, estimate.control) if e is not None]
    ends = [v for e in shown for v in (e.value, e.low, e.high) if -1e300 < v < 1e300] + [0.0]
    low, high = min(ends), max(ends)
    if high == low:
        return Markup()
    marks = Markup('<line class="zero" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="22"/>').format(
        4 + 112 * (0 - low) / (high - low)
    )
    for height, kind, e in zip((7, 16), ("effect", "control"), shown, strict=False):
        if all(-1e300 < v < 1e300 for v in (e.value, e.low, e.high)):
            left, middle, right = (4 + 112 * (v - low) / (high - low) for v in (e.low, e.value, e.high))
            marks += Markup(
                '<g class="{0}"><line x1="{1:.1f}" x2="{3:.1f}" y1="{4}" y2="{4}"/>'
                '<circle cx="{2:.1f}" cy="{4}" r="3.4"/></g>'
            ).format(kind, left, middle, right, height)
    return Markup(
        '<svg class="interval" width="120" height="22" viewBox="0 0 120 22" aria-hidden="true">{}</svg>'
    ).format(marks)


def _csv_uri(frame: "pd.DataFrame") -> str | None:
    data = frame.to_csv(index=False, lineterminator="\n").encode("utf-8", errors="backslashreplace")
    if len(data) > DOWNLOAD_LIMIT:
        return None
    kind = "text/csv;charset=utf-8"
    if len(data) > PLAIN_LIMIT:
        kind, data = "application/gzip", gzip.compress(data, mtime=0)
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def model_sources(meta: RunMeta) -> dict[str, str]:
    """Return what ``load_pair`` was given: ``{"base": ..., "judge": ...}``, or the name alone for an embedded pair."""
    sources = {}
    for side in ("base", "judge"):
        entry = meta.pair.get(side)
        name = entry.get("source") or entry.get("name") if isinstance(entry, Mapping) else entry
        if name is not None:
            sources[side] = str(name)
    pair_name = str(meta.pair.get("name"))
    # Some embedded pairs share the base of another one, so that the judge may be what tells them apart.
    if any(PurePath(path).parts[-3:] == ("embedded", pair_name, side) for side, path in sources.items()):
        return {"base": pair_name}
    return sources


def model_places(meta: RunMeta) -> dict[str, dict[str, str]]:
    """Return what ``load_pair`` needs to find the same files again: the commit of each repository, and sub-folders."""
    entries = {side: meta.pair.get(side) for side in ("base", "judge")}
    known = {side: entry for side, entry in entries.items() if isinstance(entry, Mapping)}
    commits = {side: str(e["revision"]) for side, e in known.items() if e.get("repository") and e.get("revision")}
    folders = {side: str(e["subfolder"]) for side, e in known.items() if e.get("subfolder")}
    return {name: sides for name, sides in (("revision", commits), ("subfolder", folders)) if sides}


def rerun_python(meta: RunMeta) -> str:
    """Return the lines of Python that repeat a run."""
    given = model_sources(meta) | model_places(meta)
    pair = ", ".join(f"{name}={value!r}" for name, value in given.items())
    choices = {**meta.parameters, "seed": meta.seed}
    written = "".join(
        f"    {key}={pprint.pformat(value, width=90, sort_dicts=False)},\n" for key, value in choices.items()
    )
    source = meta.items.get("source", "...")
    return html.visible(
        "from workbench import load_items, load_pair\n"
        f"from analyses import {meta.analysis}\n\n"
        f"pair = load_pair({pair})\n"
        f"items = load_items({source!r})\n"
        f"result = {meta.analysis}.run(\n    pair,\n    items,\n{written})"
    )


def rerun_shell(meta: RunMeta) -> str:
    """Return the command that repeats a run."""
    words = ["workbench", "run", meta.analysis]
    for side, name in model_sources(meta).items():
        words += [f"--{side}", name]
    for option, sides in model_places(meta).items():
        for side, value in sides.items():
            words += ["--load", f"{option}.{side}={value}"]
    words += ["--items", str(meta.items.get("source", "ITEMS")), "--out", f"runs/{meta.analysis}"]
    for key, value in {**meta.parameters, "seed": meta.seed}.items():
        if value is not None and not isinstance(value, (list, tuple, Mapping)):
            words += ["-p", f"{key}={value}"]
    return html.visible(shlex.join(words))
