"""One self-contained page from any results: the finding first, then the evidence, then where it came from."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import jinja2

from workbench import html
from workbench.errors import ParameterError
from workbench.reports.view import ResultView, model_sources, view_result
from workbench.results import Result


class Report:
    """Results, in the order a reader should meet them, as one page.

    The results are drawn and tabulated once, on first use; every format renders the same values.

    Args:
        results: One result or several; anything with the ``Result`` protocol.
        title: Heading of the page; names the pair when None.
        notes: Sentences printed under the heading, e.g. what the reader asked for.

    Raises:
        ParameterError: There is no result, or something else than a result.
    """

    def __init__(
        self, results: Result | Iterable[Result], *, title: str | None = None, notes: Sequence[str] = ()
    ) -> None:
        self.results: tuple[Result, ...] = (results,) if isinstance(results, Result) else tuple(results)
        if not self.results:
            raise ParameterError(
                "a report needs at least one result.", argument="results", fix="Run an analysis first."
            )
        if strangers := [type(entry).__name__ for entry in self.results if not isinstance(entry, Result)]:
            raise ParameterError(
                "not a result.",
                argument="results",
                got=strangers,
                allowed="objects with meta, finding, to_frame, plot, panels, summary and save",
            )
        if isinstance(notes, str):
            raise ParameterError("notes is a sequence of sentences.", argument="notes", got=notes, fix="Pass [note].")
        self.title = title or _default_title(self.results)
        self.notes = tuple(notes)

    def __repr__(self) -> str:
        """Name the title and the analyses."""
        return f"Report({self.title!r}, {[result.meta.analysis for result in self.results]})"

    @cached_property
    def views(self) -> tuple[ResultView, ...]:
        """Return what the page shows of each result."""
        names = _names(self.results)
        return tuple(
            view_result(result, anchor=f"r{i}", name=name)
            for i, (result, name) in enumerate(zip(self.results, names, strict=True), start=1)
        )

    def html(self) -> str:
        """Return the page: one document, no script, no remote asset; opens from a disk or an attachment."""
        return _template().render(report=self, views=self.views, css=html.CSS, visible=html.visible)

    def markdown(self) -> str:
        """Return the findings, limits and how to re-run as Markdown, without figures."""
        parts = [f"# {_plain(self.title)}", *(_plain(note) for note in self.notes)]
        for view in self.views:
            parts += [f"## {_plain(view.name)}", f"**{_plain(view.finding.headline)}**"]
            parts += ["\n".join(f"- {_plain(estimate.text())}" for estimate in view.finding.estimates)]
            parts += ["Limits:\n\n" + "\n".join(f"- {_plain(limit)}" for limit in view.limits)] if view.limits else []
            parts += ["Guards:\n\n" + "\n".join(f"- {_plain(w)}" for w in view.warnings)] if view.warnings else []
            parts += [f"Table: {view.rows} rows.", f"Run again:\n\n{_code(view.rerun_python)}"]
        return "\n\n".join(part for part in parts if part) + "\n"

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page (``.html``, or Markdown for ``.md``) in one move and return where it is.

        Raises:
            ParameterError: The suffix is neither, or the path is a folder.
        """
        target = Path(path)
        if target.suffix.lower() not in (".html", ".htm", ".md") or target.is_dir():
            raise ParameterError(
                "not a file a report can be.", argument="path", got=str(target), allowed=".html or .md"
            )
        text = self.markdown() if target.suffix.lower() == ".md" else self.html()
        return write_text(target, text)

    def _repr_html_(self) -> str:
        heads = [part for view in self.views for part in (view.badge, " ", view.finding.headline, view.estimates)]
        return html.fragment(*heads)


def write_text(target: Path, text: str) -> Path:
    """Write a text file through a temporary one beside it, so that half of it never stays; folders are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        # mkstemp is private to the user by design; a report is an ordinary file.
        Path(scratch).chmod(0o644)
        Path(scratch).replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(scratch).unlink()
    return target


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("workbench.reports", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html")


def _names(results: tuple[Result, ...]) -> list[str]:
    """Name results by analysis, and by pair too where an analysis was run on several."""
    analyses = [result.meta.analysis for result in results]
    pairs = [" → ".join(model_sources(result.meta).values()) for result in results]
    many = {name: len({p for a, p in zip(analyses, pairs, strict=True) if a == name}) > 1 for name in analyses}
    return [f"{a} ({p})" if many[a] and p else a for a, p in zip(analyses, pairs, strict=True)]


def _default_title(results: Sequence[Result]) -> str:
    pairs = dict.fromkeys(" → ".join(model_sources(result.meta).values()) or "a pair" for result in results)
    return f"What fine-tuning changed: {', '.join(pairs)}"


def _plain(text: str) -> str:
    """Return text that Markdown prints as it is: on one line, no markup of its own, no HTML."""
    line = " ".join(html.visible(text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]|#" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(c, c) for c in line)


def _code(text: str) -> str:
    # A fence longer than any run of backticks inside can't be closed by the text it holds.
    fence = "`" * max(3, 1 + max((len(run) for run in text.replace("\n", " ").split() if set(run) == {"`"}), default=0))
    return f"{fence}python\n{text}\n{fence}"
