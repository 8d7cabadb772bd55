"""Options that several commands share, and ``name=value`` arguments checked against the function they go to."""

import ast
import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.errors import ParameterError

Base = Annotated[str, typer.Option("--base", "-b", help="Hub id, folder, or the name of an embedded pair (demo).")]
Judge = Annotated[
    str | None,
    typer.Option("--judge", "-j", help="Hub id or folder of the judge or adapter; none for an embedded pair."),
]
Items = Annotated[
    str,
    typer.Option(
        "--items",
        "-i",
        help="demo:test, a benchmark such as llmbar:natural or judgebench, or a .json, .jsonl, .csv or .parquet file.",
    ),
]
ItemsPath = Annotated[
    Path | None,
    typer.Option("--items-path", help="Folder or file of a benchmark such as llmbar:natural or judgebench."),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", "-f", help="Judge format by name, or a .toml or .yaml file; an embedded pair brings its own."
    ),
]
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
Load = Annotated[
    list[str] | None,
    typer.Option(
        "--load",
        "-l",
        help="name=value of load_pair, e.g. -l device_map=auto, or of one side: -l revision.judge=v2; repeatable.",
    ),
]

_SIDES = ("base", "judge")
_PER_SIDE = ("revision", "subfolder", "quantization")


def choices(analyse: Callable[..., Any], given: Sequence[str]) -> dict[str, Any]:
    """Parse ``-p name=value`` arguments and check the names against the analysis' own signature.

    Raises:
        ParameterError: The analysis has no such parameter.
    """
    # What comes after the pair and the items, whether or not Python also takes it by position.
    known = [name for name in list(inspect.signature(analyse).parameters)[2:] if name != "seed"]
    parsed = {}
    for entry in given:
        name, sign, text = entry.partition("=")
        if not sign or name not in known:
            raise ParameterError(
                "not a parameter of this analysis.", argument="-p", got=entry, allowed=[f"{n}=..." for n in known]
            )
        parsed[name] = literal(text)
    return parsed


def load_choices(given: Sequence[str], *, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments for ``load_pair``: the options with a name of their own, and ``-l name=value``.

    Args:
        given: Arguments of ``-l``; ``name.base=value`` and ``name.judge=value`` set one side.
        named: Values of the options that have a name of their own; None where one wasn't given.

    Raises:
        ParameterError: ``load_pair`` has no such argument, or it was given twice.
    """
    from workbench.pairs import load_pair

    known = _keywords(load_pair)
    parsed = {name: value for name, value in named.items() if value is not None}
    for entry in given:
        left, sign, text = entry.partition("=")
        name, dot, side = left.partition(".")
        if not sign or name not in known or (dot and (name not in _PER_SIDE or side not in _SIDES)):
            allowed = [f"{n}=..." for n in known] + [f"{n}.{s}=..." for n in _PER_SIDE for s in _SIDES]
            raise ParameterError("not an argument of load_pair.", argument="-l", got=entry, allowed=allowed)
        sides = parsed.get(name, {}) if dot else None
        if (name in parsed and not isinstance(sides, dict)) or (sides is not None and side in sides):
            raise ParameterError("given twice.", argument="-l", got=entry, fix=f"Give {left} once.")
        value = _path_or_literal(name, text)
        parsed[name] = value if sides is None else {**sides, side: value}
    return parsed


def require_writable(out: Path) -> None:
    """Try to make and fill a folder for results before hours go into them; what wasn't there is gone again afterwards.

    Raises:
        ParameterError: The folder can't be made, or nothing can be written to it.
    """
    absent = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as err:
        raise ParameterError(
            "this folder can't be written to.",
            argument="--out",
            got=f"{out} ({err.strerror or err})",
            fix="Name a folder of your own; it is made when it isn't there.",
        ) from err
    finally:
        for folder in absent:
            if folder.is_dir():
                folder.rmdir()


def literal(text: str) -> Any:
    """Return a value as Python would read it; a plain word is itself."""
    if text.lower() in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(text.lower())
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a plain word such as granularity=sublayer


def _path_or_literal(name: str, text: str) -> Any:
    # A commit such as 1234567 or 12e4567 is a name, never a number.
    return text if name in ("revision", "subfolder") else literal(text)


def _keywords(function: Callable[..., Any]) -> list[str]:
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
