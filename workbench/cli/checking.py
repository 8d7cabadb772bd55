"""``workbench check``: the guards of a pair, then what its weights say, on screen, as JSON or as a page."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from rich.console import Console
from rich.markup import escape

from workbench import html
from workbench.cli.printing import print_delta, print_report
from workbench.errors import PairMismatch, ParameterError

if TYPE_CHECKING:
    from workbench.pairs import PairReport, WeightDelta

_FROM_FILES = ("tokenizer", "revision", "subfolder", "trust_remote_code", "allow_identical")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a check found."""

    report: "PairReport"
    """Every guard that ran."""
    delta: "WeightDelta | None"
    """The weight difference; None when the pair was refused before it was measured."""
    refusal: PairMismatch | None = None
    """Why the pair may not be compared; None when it may."""

    def show(self, out: Console) -> None:
        """Print both as tables."""
        print_report(out, self.report)
        if self.delta is not None:
            print_delta(out, self.delta)

    def to_json(self) -> dict[str, Any]:
        """Return both as JSON types."""
        return {
            "pair": self.report.name,
            "comparable": self.report.comparable,
            "guards": self.report.to_json(),
            "delta": None if self.delta is None else self.delta.to_json(),
        }

    def write(self, out: Path) -> list[Path]:
        """Write ``check.html`` and, when weights were compared, ``delta.csv``; return what was written."""
        out.mkdir(parents=True, exist_ok=True)
        written = [out / "check.html"]
        written[0].write_text(self._page(), encoding="utf-8")
        if self.delta is not None:
            written.append(out / "delta.csv")
            self.delta.to_frame().to_csv(written[1], index=False)
        return written

    def _page(self) -> str:
        pieces = [Markup("<h1>{}</h1>").format(html.escape(self.report.name)), self.report.to_html()]
        if self.delta is not None:
            pieces += [Markup("<h2>What fine-tuning did to the weights</h2>"), self.delta.to_html()]
        return _DOCUMENT.format(title=html.escape(self.report.name), body=html.fragment(*pieces))


_DOCUMENT = Markup(
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    '<meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"><title>{title}</title>"
    "<style>html{{background:#fff}}@media (prefers-color-scheme:dark){{html{{background:#14171b}}}}"
    "body{{margin:0 auto;max-width:64rem;padding:2rem 1.25rem}}</style></head><body>{body}</body></html>\n"
)


def check_pair(base: str, judge: str | None, *, options: dict[str, Any], files_only: bool) -> Checked:
    """Check a pair, loaded or from its files.

    Args:
        base: Hub id, folder or embedded name.
        judge: Hub id or folder; None for an embedded pair.
        options: Keyword arguments of ``load_pair``.
        files_only: Whether to read configurations, tokenizers and weights without loading a model.

    Raises:
        PairMismatch: The two were refused without a table of guards.
        ParameterError: An option makes no sense without a loaded model.
    """
    try:
        return _from_files(base, judge, options) if files_only else _loaded(base, judge, options)
    except PairMismatch as err:
        if err.report is None:
            raise
        return Checked(report=err.report, delta=None, refusal=err)


def _loaded(base: str, judge: str | None, options: dict[str, Any]) -> Checked:
    from workbench.pairs import load_pair

    pair = load_pair(base, judge, **options)
    return Checked(report=pair.report, delta=pair.delta())


def _from_files(base: str, judge: str | None, options: dict[str, Any]) -> Checked:
    from workbench.pairs import check_files

    if unused := sorted(set(options) - set(_FROM_FILES)):
        raise ParameterError(
            "no model is loaded, so these mean nothing.", argument="--files-only", got=unused, allowed=_FROM_FILES
        )
    checked = check_files(base, judge, **options)
    return Checked(report=checked.report, delta=checked.delta)


def present(checked: Checked, *, out: Path | None, as_json: bool, screen: Console, notes: Console) -> None:
    """Print a check and write it where asked.

    Raises:
        PairMismatch: The pair may not be compared; raised after everything was shown.
    """
    if as_json:
        screen.print_json(json.dumps(checked.to_json()))
    else:
        checked.show(screen)
    for path in checked.write(out) if out is not None else ():
        notes.print(f"written: {escape(str(path))}")
    if checked.refusal is not None:
        raise checked.refusal
