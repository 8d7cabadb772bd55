"""Tables and figures in a terminal."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from workbench.pairs import BaseCandidates, PairReport, WeightDelta

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}
_SHADES = "·░▒▓█"
_MOVERS = 8


def print_report(out: Console, report: "PairReport") -> None:
    """Print the guards of a pair with the verdict below, and next to it what needs attention."""
    table = Table("status", "guard", "seen", "what it means", box=None, pad_edge=False)
    loud = [g for g in report.by_weight() if g.status != "ok"]
    for guard in (*(g for g in report.guards if g.status == "ok"), *reversed(loud)):
        table.add_row(
            f"[{_COLOURS[guard.status]}]{guard.status}[/]", *map(escape, (guard.name, guard.value, guard.detail))
        )
    out.print(table)
    verdict = "[green]may be compared[/]" if report.comparable else "[bold red]may not be compared[/]"
    out.print(f"\n{escape(report.name)}: base and judge {verdict} ({report.counts})")


def print_delta(out: Console, delta: "WeightDelta") -> None:
    """Print a weight difference: the finding, kinds and layers, the tensors that moved most, a strip of the figure."""
    out.print(f"\n{escape(delta.summary())}\n")
    if not delta.moved:
        return
    for shown in (_grouped(delta, "kind"), _grouped(delta, "layer"), _movers(delta), heat_strip(delta)):
        out.print(shown)
        out.print()


def heat_strip(delta: "WeightDelta") -> Text:
    """Return layers by kinds as shaded cells: the relative change of each, dark being the largest."""
    rows, columns, values = delta.grid()
    top = float(np.nanmax(values)) or 1.0
    width = max(map(len, rows))
    text = Text(f"relative change by kind and layer, {_SHADES[0]} 0 to {_SHADES[-1]} {top:.2g}\n", style="dim")
    text.append(f"{'':{width}} {_ruler(columns)}\n", style="dim")
    for name, cells in zip(rows, values, strict=True):
        text.append(f"{name:{width}} ")
        text.append("".join(_shade(cell, top) for cell in cells[:-1]), style="cyan")
        text.append(f" {_percent(cells[-1])}\n")
    return text


def print_candidates(out: Console, found: "BaseCandidates") -> None:
    """Print which base a judge was tuned from, and the distance of every candidate."""
    table = Table("candidate", "distance", "tensors", "equal", "note", box=None, pad_edge=False)
    for c in found.candidates:
        distance = "" if math.isnan(c.distance) else f"{c.distance:.4g}"
        table.add_row(escape(c.name), distance, str(c.tensors), str(c.same), escape(c.note))
    out.print(table)
    out.print(f"\n{escape(found.summary())}")


def _grouped(delta: "WeightDelta", group: Any) -> Table:
    table = Table(group, "moved", "relative change", "share of change", "if even", box=None, pad_edge=False)
    for row in delta.by(group).to_dict("records"):
        name = "outside" if row[group] == -1 else str(row[group])
        shares = f"{row['share']:.1%}", f"{row['even_share']:.1%}"
        table.add_row(name, f"{row['moved']} of {row['tensors']}", _percent(row["relative"]), *shares)
    return table


def _movers(delta: "WeightDelta") -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("moved most", "relative change", "rounding floor", "stable rank", "of a Gaussian", "note"):
        table.add_column(name, overflow="fold")
    for c in delta.movers(_MOVERS):
        ranks = (f"{value:.3g}" if math.isfinite(value) else "" for value in (c.stable_rank, c.gaussian_rank))
        floor = delta.rounding(c)
        table.add_row(
            escape(c.name), _percent(c.relative), "" if math.isnan(floor) else f"{floor:.2g}", *ranks, escape(c.note)
        )
    return table


def _shade(value: float, top: float) -> str:
    if math.isnan(value):
        return "  "
    return 2 * _SHADES[0 if value <= 0 else min(len(_SHADES) - 1, 1 + int(value / top * (len(_SHADES) - 1)))]


def _ruler(columns: list[str]) -> str:
    """Return every fifth layer number above its cells, and where those outside the blocks stand."""
    marks = (name if name.isdigit() and int(name) % 5 == 0 else "" for name in columns[:-1])
    names = [mark[-2:] for mark in marks]
    return "".join(f"{name:2}" for name in names[: len(columns) - 1]) + "  all"


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"
