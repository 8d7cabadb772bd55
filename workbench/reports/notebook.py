"""Notebooks run strictly: known parameters only, this interpreter's kernel, an output that is whole or not there.

Papermill warns about an unknown parameter and runs with the default; a report built that way says what nobody asked
for. Here it is an error that names the parameters the notebook has.
"""

import ast
import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import NotebookError
from workbench.reports.page import write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

Progress = Callable[[int, int, str], None]
"""Called before each cell with its number (from 1), the number of cells and its first line."""


def notebook_parameters(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names that a notebook's ``parameters`` cell assigns, in order.

    Raises:
        NotebookError: There is no such notebook, no cell tagged ``parameters``, several, or one that isn't Python.
    """
    return _parameter_names(_read(Path(path)), path=Path(path))


def run_notebook(
    path: str | os.PathLike[str],
    parameters: Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str],
    timeout: float | None = None,
    progress: Progress | None = None,
) -> Path:
    """Run a notebook with parameters and return where the executed copy is.

    The kernel is the running interpreter, whatever kernels are registered on the machine, and starts in the current
    folder. The output appears in one move; when a cell fails, what was executed is kept beside it as
    ``<name>.failed.ipynb`` and ``out`` isn't written.

    Args:
        path: The notebook; it isn't changed.
        parameters: Values for names the ``parameters`` cell assigns: numbers, text, None, lists, dicts, paths.
        out: File to write.
        timeout: Seconds a single cell may take; no limit when None.
        progress: Told about every cell before it runs.

    Raises:
        NotebookError: The notebook is missing or has no ``parameters`` cell, a parameter is unknown or not plain data,
            ``out`` is the notebook itself, or a cell failed or took too long (the message names it).
    """
    source, target = Path(path), Path(out)
    notebook = _read(source)
    chosen = _checked(parameters or {}, known=_parameter_names(notebook, path=source))
    if target.is_dir() or target.resolve() == source.resolve():
        raise NotebookError("choose another file for the executed copy.", argument="out", got=str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=".ipynb", dir=target.parent)
    os.close(descriptor)
    scratch = Path(name)
    try:
        _execute(notebook, chosen, scratch=scratch, source=source, target=target, timeout=timeout, progress=progress)
        scratch.chmod(0o644)
        scratch.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
    return target


def export_html(notebook: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None) -> Path:
    """Write an executed notebook as one HTML page that fetches nothing, and return where it is.

    Widgets are shown by their static picture and formulas as their source; both would otherwise fetch a script.

    Args:
        notebook: An ``.ipynb`` file with outputs.
        out: Page to write; beside the notebook when None.

    Raises:
        NotebookError: There is no such notebook.
    """
    from nbconvert import HTMLExporter  # seconds to import, and only an export needs it
    from traitlets.config import Config

    source = Path(notebook)
    node = _read(source)
    config = Config()
    for name in ("mathjax_url", "require_js_url", "jquery_url"):
        config.HTMLExporter[name] = ""
    config.HTMLExporter.widget_renderer_url = ""
    config.HTMLExporter.exclude_anchor_links = True
    config.NbConvertBase.display_data_priority = [
        "text/html",
        "image/svg+xml",
        "image/png",
        "text/markdown",
        "text/plain",
    ]
    # Saved widget state makes the template load a widget manager from a content network.
    node.metadata.pop("widgets", None)
    body, _ = HTMLExporter(config=config).from_notebook_node(node, resources={"metadata": {"name": source.stem}})
    return write_text(Path(out) if out is not None else source.with_suffix(".html"), _offline(body))


def _offline(page: str) -> str:
    """Return the page without scripts, under a policy that forbids every request a cell's output could still make."""
    quiet = re.sub(r"<script\b.*?</script\s*>", "", page, flags=re.DOTALL | re.IGNORECASE)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; form-action 'none'"
    return quiet.replace("<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{policy}">', 1)


def _read(path: Path) -> "NotebookNode":
    import nbformat

    if not path.is_file():
        raise NotebookError("no such notebook.", argument="path", got=str(path))
    try:
        return nbformat.read(path, as_version=4)
    except nbformat.reader.NotJSONError as err:
        raise NotebookError("this file isn't a notebook.", argument="path", got=str(path)) from err


def _parameter_names(notebook: "NotebookNode", *, path: Path) -> tuple[str, ...]:
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()) and c.cell_type == "code"]
    if len(tagged) != 1:
        raise NotebookError(
            f"{len(tagged)} code cells are tagged `parameters`; a notebook needs exactly one.",
            argument="path",
            got=str(path),
            fix="Tag the first code cell `parameters` and assign every choice its default there.",
        )
    try:
        body = ast.parse(tagged[0].source).body
    except SyntaxError as err:
        raise NotebookError(
            f"the `parameters` cell isn't plain Python: {err}.", argument="path", got=str(path)
        ) from err
    names = []
    for node in body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return tuple(dict.fromkeys(names))


def _checked(parameters: Mapping[str, Any], *, known: tuple[str, ...]) -> dict[str, Any]:
    if unknown := [name for name in parameters if name not in known]:
        raise NotebookError("the notebook has no such parameter.", argument="parameters", got=unknown, allowed=known)
    return {name: _plain(value, name=name) for name, value in parameters.items()}


def _plain(value: Any, *, name: str) -> Any:
    """Return a value papermill writes as a literal; it would write anything else as its ``str``, silently."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [_plain(entry, name=name) for entry in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(entry, name=name) for key, entry in value.items()}
    raise NotebookError(
        "only plain data can be written into a notebook.",
        argument=name,
        got=type(value).__name__,
        allowed="None, bool, int, float, str, path, and lists and dicts of them",
    )


def _execute(
    notebook: "NotebookNode",
    parameters: dict[str, Any],
    *,
    scratch: Path,
    source: Path,
    target: Path,
    timeout: float | None,
    progress: Progress | None,
) -> None:
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    from workbench.reports.kernel import OwnKernelManager

    total = len(notebook.cells) + bool(parameters)  # papermill puts the injected values into a cell of their own
    at = "its start"

    def tell(cell: Any, cell_index: int) -> None:
        nonlocal at
        line = next((line.strip() for line in cell.source.splitlines() if line.strip()), "")
        at = f"cell {cell_index + 1} ({line[:80]!r})"
        if progress is not None:
            progress(cell_index + 1, total, line)

    try:
        execute_notebook(
            notebook,  # not the path: papermill would fill braces in it
            str(scratch).replace("{", "{{").replace("}", "}}"),
            parameters=parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            execution_timeout=None if timeout is None else max(1, round(timeout)),
            kernel_manager_class=OwnKernelManager,
            on_cell_start=tell,
        )
    except (PapermillExecutionError, CellTimeoutError, DeadKernelError) as err:
        kept = _keep_partial(scratch, target)
        raise NotebookError(
            f"{source.name} stopped at {at}: {_why(err, timeout)}.",
            argument="path",
            got=str(source),
            fix=f"Read {kept}, which holds everything up to there.",
        ) from err


def _keep_partial(scratch: Path, target: Path) -> Path:
    kept = target.with_name(f"{target.stem}.failed.ipynb")
    scratch.chmod(0o644)
    scratch.replace(kept)
    return kept


def _why(err: Exception, timeout: float | None) -> str:
    if hasattr(err, "ename"):
        return f"{err.ename}: {err.evalue}"  # pyright: ignore[reportAttributeAccessIssue]: papermill's own error
    if type(err).__name__ == "CellTimeoutError":
        return f"it took longer than the {timeout:g} s allowed for a cell" if timeout else "it took too long"
    return "its kernel died (out of memory, or killed)"
