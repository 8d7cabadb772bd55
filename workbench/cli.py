"""The ``workbench`` command: the same calls as in Python, for a shell or a batch job."""

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from workbench.errors import NotebookError, ParameterError, WorkbenchError


class Analysis(NamedTuple):
    """Where an analysis is found."""

    module: str
    """Module that exports it."""
    function: str
    """Function that runs it: ``function(pair, items, *, choices..., seed)``."""
    result: str
    """Class of its result."""


ANALYSES: Mapping[str, Analysis] = {
    "tuco": Analysis("analyses.tuco", "run", "TucoResult"),
    "tuco.heads": Analysis("analyses.tuco", "split_heads", "HeadsResult"),
    "tuco.tokens": Analysis("analyses.tuco", "map_tokens", "TokenMapResult"),
    "tuco.paths": Analysis("analyses.tuco", "attribute_paths", "PathsResult"),
    "tuco.scaling": Analysis("analyses.tuco", "scale", "ScalingResult"),
    "tuco.attacks": Analysis("analyses.tuco", "compare_attacks", "AttackResult"),
}
"""Analyses the command line can run, by name, in reading order."""

COMPARISONS: Mapping[str, Analysis] = {
    "tuco.levels": Analysis("analyses.tuco", "compare_levels", "LevelsResult"),
    "tuco.stages": Analysis("analyses.tuco", "compare_stages", "StagesResult"),
}
"""Analyses of several pairs: from Python and notebooks only; their results go into reports like any other."""

NOTEBOOKS = ("tuco",)
"""Notebooks of a report, in reading order; each saves its results as folders under its ``out``."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="What did fine-tuning change to make a base model into a judge?",
)
organisms_app = typer.Typer(no_args_is_help=True, help="Pairs with a known truth, trained by the project.")
app.add_typer(organisms_app, name="organisms")
_out, _err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

Base = Annotated[str, typer.Option("--base", "-b", help="Hub id, folder, or the name of an embedded pair (demo).")]
Judge = Annotated[
    str | None,
    typer.Option("--judge", "-j", help="Hub id or folder of the judge or adapter; none for an embedded pair."),
]
Items = Annotated[
    str, typer.Option("--items", "-i", help="demo:test, llmbar:natural, or a .json, .jsonl or .csv file.")
]
ItemsPath = Annotated[Path | None, typer.Option("--items-path", help="Folder or file of a named benchmark.")]
Format = Annotated[str | None, typer.Option("--format", "-f", help="Judge format; an embedded pair brings its own.")]
Tokenizer = Annotated[str | None, typer.Option(help="Tokenizer of both; the judge's own by default.")]
Limit = Annotated[int | None, typer.Option(help="At most this many items.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; the first GPU when there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 ...")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", help="name=value of the analysis, e.g. -p granularity=sublayer; repeatable."),
]


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    limit: Limit = None,
    seed: Seed = 0,
) -> None:
    """Run every analysis on the embedded pair: executed notebooks and one offline HTML report."""
    _audit(
        out,
        {"base": "demo", "items": "demo:test", "limit": limit, "seed": seed},
        title="What fine-tuning did to the demo judge",
    )


@app.command()
def check(
    base: Base,
    judge: Judge = None,
    tokenizer: Tokenizer = None,
    judge_format: Format = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Say whether two models may be compared, and how; exits with 1 when they may not."""
    from workbench.errors import PairMismatch
    from workbench.pairs import load_pair

    try:
        report = load_pair(base, judge, tokenizer=tokenizer, format=judge_format, device=device, dtype=dtype).report
    except PairMismatch as err:
        if err.report is None:
            raise
        _print_report(err.report, as_json=as_json)
        raise
    _print_report(report, as_json=as_json)


@app.command()
def run(
    analysis: Annotated[str, typer.Argument(help=f"One of: {', '.join(ANALYSES)}.")],
    base: Base,
    out: Out,
    judge: Judge = None,
    items: Items = "demo:test",
    items_path: ItemsPath = None,
    judge_format: Format = None,
    tokenizer: Tokenizer = None,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
    parameter: Parameters = None,
) -> None:
    """Run one analysis and write its result folder and a one-page report."""
    from workbench import Report, load_items, load_pair

    analyse = _analysis(analysis)
    choices = _choices(analyse, parameter or [])
    judged = load_items(items, path=items_path, limit=limit, seed=seed)
    pair = load_pair(base, judge, tokenizer=tokenizer, format=judge_format, device=device, dtype=dtype)
    result = analyse(pair, judged, seed=seed, **choices)
    folder = result.save(out / analysis)
    page = Report([result]).write(out / "report.html")
    _out.print(escape(result.summary()))
    _out.print(f"\nresult: {escape(str(folder))}\nreport: {escape(str(page))}")


@app.command()
def report(
    base: Base,
    out: Out,
    judge: Judge = None,
    items: Items = "demo:test",
    items_path: ItemsPath = None,
    judge_format: Format = None,
    tokenizer: Tokenizer = None,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
) -> None:
    """Run the notebooks on a pair, one per analysis, and gather their results in one page."""
    asked = {
        "base": base,
        "judge": judge,
        "items": items,
        "items_path": items_path and str(items_path),
        "format": judge_format,
    }
    asked |= {"tokenizer": tokenizer, "limit": limit, "device": device, "dtype": dtype, "seed": seed}
    _audit(out, asked, title=None)


@app.command()
def lab() -> None:
    """Open JupyterLab on the notebooks."""
    raise typer.Exit(subprocess.call([sys.executable, "-m", "jupyter", "lab", str(_notebooks())]))


@organisms_app.command("list")
def organisms_list() -> None:
    """List the organisms, what is planted in each, and which are embedded."""
    from workbench.organisms import list_organisms

    table = Table("name", "what it is", box=None)
    for info in list_organisms():
        table.add_row(escape(info.name), escape(info.description))
    _out.print(table)


@organisms_app.command("build")
def organisms_build(
    name: str,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write; organisms/NAME by default.")] = None,
    seed: Seed = 0,
    scale: Annotated[str, typer.Option(help="full, or small for a quick check of the recipe.")] = "full",
) -> None:
    """Train an organism from nothing and check what it promises (minutes; progress is shown)."""
    from workbench.organisms import Progress, build

    def tell(progress: Progress) -> None:
        accuracy = "" if progress.accuracy is None else f", verdicts right {progress.accuracy:.1%}"
        left = f"{progress.seconds_left / 60:.1f} min left"
        _err.print(f"{progress.stage} {progress.step}/{progress.steps}: loss {progress.loss:.3f}{accuracy}, {left}")

    if scale not in ("full", "small"):
        raise ParameterError("no such scale.", argument="--scale", got=scale, allowed=["full", "small"])
    folder = build(name, out=out, seed=seed, scale=scale, progress=tell)
    _out.print(f"built: {escape(str(folder))}")


@organisms_app.command("score")
def organisms_score(name: str) -> None:
    """Measure an organism's promises again on the weights at hand, as JSON."""
    from workbench.organisms import score

    _out.print_json(json.dumps(score(name), default=str))


def main() -> None:
    """Run the command; a refusal is one message and exit code 1, Ctrl-C is 130."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # OpenMP threads spin while they wait by default: beside another busy process small models ran 18 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except WorkbenchError as err:
        _err.print(f"[bold red]error[/]: {escape(str(err))}")
        sys.exit(1)
    except KeyboardInterrupt:
        _err.print("interrupted")
        sys.exit(130)


def _audit(out: Path, asked: dict[str, Any], *, title: str | None) -> None:
    """Run the notebooks on the pair, then gather the results they saved in one page."""
    from workbench.reports import Report, export_html, run_notebook

    results = []
    for name in NOTEBOOKS:
        _err.print(f"{name}: running notebooks/{name}.ipynb ...")
        parameters = {key: value for key, value in asked.items() if value is not None} | {
            "out": str((out / name).resolve())
        }
        executed = run_notebook(
            _notebooks() / f"{name}.ipynb", parameters, out=out / f"{name}.ipynb", progress=_cell_progress
        )
        export_html(executed, out=out / f"{name}.html")
        results += _load_results(out / name)
    page = Report(results, title=title).write(out / "report.html")
    for result in results:
        _out.print(escape(result.summary()), end="\n\n")
    _out.print(f"notebooks: {', '.join(escape(str(out / f'{name}.html')) for name in NOTEBOOKS)}")
    _out.print(f"report: {escape(str(page.resolve()))}")


def _cell_progress(number: int, total: int, line: str) -> None:
    _err.print(f"  cell {number} of {total}: {escape(line)}")


def _analysis(name: str) -> Any:
    if name not in ANALYSES:
        raise ParameterError("no such analysis.", argument="analysis", got=name, allowed=tuple(ANALYSES))
    found = ANALYSES[name]
    return getattr(importlib.import_module(found.module), found.function)


def _load_results(folder: Path) -> list[Any]:
    """Load every result folder a notebook left, in the order of :data:`ANALYSES`."""
    known = {found.result: found for found in (*ANALYSES.values(), *COMPARISONS.values())}
    order = list(known)
    kinds = {path.parent: json.loads(path.read_text(encoding="utf-8"))["kind"] for path in folder.glob("*/result.json")}
    if unknown := {kind for kind in kinds.values() if kind not in known}:
        raise NotebookError(
            "a notebook saved a result of an unknown kind.", argument="out", got=sorted(unknown), allowed=order
        )
    ordered = sorted(kinds.items(), key=lambda entry: (order.index(entry[1]), entry[0].name))
    return [getattr(importlib.import_module(known[kind].module), kind).load(path) for path, kind in ordered]


def _choices(analyse: Any, given: list[str]) -> dict[str, Any]:
    """Parse ``name=value`` pairs and check the names against the analysis' own signature."""
    known = [
        p.name for p in inspect.signature(analyse).parameters.values() if p.kind is p.KEYWORD_ONLY and p.name != "seed"
    ]
    parsed = {}
    for entry in given:
        name, sign, text = entry.partition("=")
        if not sign or name not in known:
            raise ParameterError(
                "not a parameter of this analysis.", argument="-p", got=entry, allowed=[f"{n}=..." for n in known]
            )
        parsed[name] = _literal(text)
    return parsed


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(text.lower())
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a plain word such as granularity=sublayer


def _notebooks() -> Path:
    """Return the folder of notebooks: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if folder.is_dir():
            return folder
    raise NotebookError(
        "the notebooks are not part of this installation.",
        argument="notebooks",
        got=str(package),
        fix="Install from a checkout or a wheel of the project.",
    )


def _print_report(report: Any, *, as_json: bool) -> None:
    if as_json:
        _out.print_json(json.dumps({"pair": report.name, "comparable": report.comparable, "guards": report.to_json()}))
        return
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}
    table = Table("status", "guard", "seen", "what it means", box=None, pad_edge=False)
    for guard in report.guards:
        table.add_row(
            f"[{colours[guard.status]}]{guard.status}[/]", *map(escape, (guard.name, guard.value, guard.detail))
        )
    _out.print(table)
    verdict = "[green]may be compared[/]" if report.comparable else "[bold red]may not be compared[/]"
    _out.print(f"\n{escape(report.name)}: base and judge {verdict}")
