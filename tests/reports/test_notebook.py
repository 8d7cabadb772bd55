import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

from workbench.errors import NotebookError
from workbench.reports import export_html, notebook_parameters, run_notebook

PARAMETERS = 'n = 1\nname: str = "demo"\nfolder = "."\n'


def write_notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    notebook = nbformat.v4.new_notebook()
    if parameters is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(notebook, path)
    return path


def outputs(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(o.get("text", [])) for cell in cells if cell["cell_type"] == "code" for o in cell["outputs"]]


def test_parameters_are_listed_in_order(tmp_path):
    assert notebook_parameters(write_notebook(tmp_path / "a.ipynb")) == ("n", "name", "folder")


def test_a_notebook_runs_with_its_parameters_in_this_interpreter(tmp_path):
    path = write_notebook(tmp_path / "a{b}.ipynb", "import sys\nprint(n, name, folder, sys.executable)")
    before = path.read_bytes()
    seen = []
    done = run_notebook(
        path,
        {"n": 3, "folder": tmp_path},
        out=tmp_path / "out{put}" / "b.ipynb",
        progress=lambda *told: seen.append(told),
        timeout=120,
    )
    assert done == tmp_path / "out{put}" / "b.ipynb"
    assert outputs(done) == [f"3 demo {tmp_path} {sys.executable}\n"]
    assert path.read_bytes() == before
    assert [p.name for p in done.parent.iterdir()] == ["b.ipynb"]
    assert [(number, total) for number, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[-1][2] == "import sys"


def test_a_failing_cell_is_named_and_what_ran_is_kept(tmp_path):
    path = write_notebook(
        tmp_path / "a.ipynb", "print('so far')", "\nraise ValueError('no such layer')", "print('never')"
    )
    with pytest.raises(NotebookError, match=r"cell 3 .*raise ValueError.*ValueError: no such layer"):
        run_notebook(path, out=tmp_path / "out" / "b.ipynb")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.failed.ipynb"]
    assert "so far\n" in outputs(tmp_path / "out" / "b.failed.ipynb")


def test_a_cell_that_takes_too_long_is_named(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", "import time\ntime.sleep(600)")
    with pytest.raises(NotebookError, match=r"cell 2 \('import time'\): it took longer than the 1 s"):
        run_notebook(path, out=tmp_path / "b.ipynb", timeout=1)
    assert not (tmp_path / "b.ipynb").exists()


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"m": 1}, r"no such parameter.*'m'.*'n', 'name', 'folder'"),
        ({"n": object()}, "only plain data"),
        ({"n": {1: 2}}, "plain data"),
    ],
)
def test_unknown_or_strange_parameters_are_refused_before_anything_runs(tmp_path, parameters, said):
    path = write_notebook(tmp_path / "a.ipynb")
    with pytest.raises(NotebookError, match=said):
        run_notebook(path, parameters, out=tmp_path / "b.ipynb")
    assert [p.name for p in tmp_path.iterdir()] == ["a.ipynb"]


def test_a_notebook_without_a_parameters_cell_is_refused(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", "print(1)", parameters=None)
    with pytest.raises(NotebookError, match="0 code cells are tagged"):
        run_notebook(path, out=tmp_path / "b.ipynb")


def test_a_parameters_cell_that_is_not_python_is_refused(tmp_path):
    with pytest.raises(NotebookError, match="isn't plain Python"):
        notebook_parameters(write_notebook(tmp_path / "a.ipynb", parameters="%matplotlib inline\nn = 1"))


def test_missing_files_and_other_files_are_refused(tmp_path):
    with pytest.raises(NotebookError, match="no such notebook"):
        run_notebook(tmp_path / "none.ipynb", out=tmp_path / "b.ipynb")
    (tmp_path / "text.ipynb").write_text("hello", encoding="utf-8")
    with pytest.raises(NotebookError, match="isn't a notebook"):
        run_notebook(tmp_path / "text.ipynb", out=tmp_path / "b.ipynb")
    path = write_notebook(tmp_path / "a.ipynb")
    with pytest.raises(NotebookError, match="another file"):
        run_notebook(path, out=path)


def test_the_exported_page_shows_figures_and_fetches_nothing(tmp_path):
    notebook = nbformat.v4.new_notebook()
    svg = "<svg xmlns='http://www.w3.org/2000/svg'><text>figure here</text></svg>"
    data = {"text/html": svg, "application/vnd.jupyter.widget-view+json": {"model_id": "m"}, "text/plain": "x"}
    cell = nbformat.v4.new_code_cell("explore(result)", outputs=[nbformat.v4.new_output("display_data", data=data)])
    notebook.cells = [nbformat.v4.new_markdown_cell("# Title\n$x^2$"), cell]
    notebook.metadata["widgets"] = {
        "application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2, "version_minor": 0}
    }
    nbformat.write(notebook, tmp_path / "a.ipynb")
    page = export_html(tmp_path / "a.ipynb").read_text(encoding="utf-8")
    assert "figure here" in page and "Title" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?:https?:)?//""", page)
    assert "<script" not in page
    assert page.index("default-src 'none'") < page.index("<style")
    assert (tmp_path / "a.html").exists()
