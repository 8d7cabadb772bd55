"""The house rules that no linter knows: packaging files agree, imports are cheap and offline, notebooks are clean."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted(path for top in ("workbench", "analyses") for path in (ROOT / top).rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FORBIDDEN_NAMES = {"utils", "util", "helpers", "common", "misc", "core", "manager", "tools"}


def requirements() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in extras.values() for line in extra)]
    return [req for req in map(Requirement, lines) if req.name != PROJECT["project"]["name"]]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(req.name): str(req.specifier).removeprefix("==") for req in parsed}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_dependency_has_a_pin_within_its_bounds(requirement: Requirement):
    pin = pins().get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} is missing in constraints.txt"
    assert requirement.specifier.contains(pin, prereleases=True)


def test_constraints_are_exact_sorted_and_carry_no_build_suffix():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line[:1] not in ("", "#")
    ]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    assert len({canonicalize_name(line.split("==")[0]) for line in lines}) == len(lines)


def test_libraries_that_enter_the_model_have_upper_bounds():
    bounded = {r.name for r in requirements() if any(s.operator in ("<", "<=", "==") for s in r.specifier)}
    assert {"torch", "transformers", "transformer-lens", "nnsight"} <= bounded


def test_one_python_floor_everywhere():
    floor = PROJECT["project"]["requires-python"].removeprefix(">=")
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python="))
    assert python == f"python={floor}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{floor.replace('.', '')}"
    assert PROJECT["tool"]["pyright"]["pythonVersion"] == floor
    assert f"Python >= {floor}" in (ROOT / "README.md").read_text(encoding="utf-8")
    major, minor = floor.split(".")
    assert f"v < ({major}, {minor})" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(".".join(map(str, sys.version_info[:3])))


def test_conda_users_get_the_same_environment():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert '-c constraints.txt -e ".[dev]"' in makefile


def test_readme_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line.split("#")[0].split() for block in blocks for line in block.splitlines()]
    used = {word for line in lines if line[:1] == ["make"] for word in line[1:] if "=" not in word}
    assert {"demo", "test"} <= used <= targets
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert phony and set(phony[1].split()) == targets


def test_ci_runs_the_readme_test_command():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make (\S+)$", script, flags=re.MULTILINE) == ["env", "lint", "type", "test"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_import_contracts_hold():
    done = run_python("import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_workbench_module_has_a_layer():
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["name"] == "data flows one way")
    named = {name.strip(" ()") for layer in layers for name in layer.split("|")}
    tops = {
        p.name.removesuffix(".py")
        for p in (ROOT / "workbench").iterdir()
        if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert {f"workbench.{top}" for top in tops - {"__init__", "__main__"}} <= named


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_is_small_and_named_for_what_it_holds(path: Path):
    text = path.read_text(encoding="utf-8")
    assert not FORBIDDEN_NAMES & {part.removesuffix(".py").strip("_") for part in path.relative_to(ROOT).parts}
    assert len(text.splitlines()) < 450
    assert "from __future__ import annotations" not in text
    if path.name == "__init__.py":
        body = ast.parse(text).body
        defined = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        assert defined <= {"__getattr__", "__dir__"}, "an __init__ only re-exports"
        assert "__all__" in text


@pytest.mark.parametrize("module", ["results", "html", "plotting", "errors", "reports", "widgets"])
def test_module_loads_without_torch(module: str):
    heavy = ("torch", "transformers", "transformer_lens", "nnsight")
    done = run_python(f"import sys, workbench.{module}; print([m for m in {heavy!r} if m in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_results_load_without_pandas_or_matplotlib():
    done = run_python("import sys, workbench.results; print('pandas' in sys.modules, 'matplotlib' in sys.modules)")
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_importing_everything_touches_no_network_and_no_global_style():
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in MODULES]
    names = [name for name in names if not name.endswith("__main__")]
    code = f"""
import importlib, logging, socket
import matplotlib
def refuse(*args, **kwargs):
    raise RuntimeError(f"network at import: {{args}}")
socket.socket.connect = socket.getaddrinfo = refuse
style, handlers = dict(matplotlib.rcParams), list(logging.getLogger().handlers)
for name in {names!r}:
    importlib.import_module(name)
assert dict(matplotlib.rcParams) == style, "an import changed matplotlib's style"
assert logging.getLogger().handlers == handlers, "an import changed the root logger"
print("imported")
"""
    done = run_python(code)
    assert done.stdout.strip().endswith("imported"), done.stderr


def test_public_names_resolve():
    done = run_python("import workbench; [getattr(workbench, name) for name in workbench.__all__]; print('ok')")
    assert done.stdout.strip() == "ok", done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebook_is_stripped_thin_and_parametrised(path: Path):
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    assert cells and len(cells) <= 25
    assert "parameters" in cells[0]["metadata"].get("tags", [])
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    sources = ["".join(cell["source"]) for cell in cells]
    assert not any(re.search(r"^\s*(def|class) ", source, flags=re.MULTILINE) for source in sources)


@pytest.mark.parametrize(
    ("name", "typed"),
    [("workbench/py.typed", True), ("analyses/py.typed", True), ("LICENSE", False), ("CHANGELOG.md", False)],
)
def test_file_every_release_needs(name: str, typed: bool):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == "" if typed else text.strip()
