"""Every block of docs/cross_model_patching.md runs, in order, with the network off; its table names every part."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.cli import ANALYSES

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "cross_model_patching.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.slow
def test_every_block_runs(tmp_path):
    # Fewer items: what is tested is that the page's calls are those of the package.
    code = "\n".join(BLOCKS).replace("limit=48", "limit=16")
    (tmp_path / "page.py").write_text(code, encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        timeout=1200,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr[-4000:]


def test_every_part_is_on_the_page():
    functions = {found.function for name, found in ANALYSES.items() if name.startswith("cross_model_patching")}
    assert [name for name in functions if f"patching.{name}(" not in PAGE] == []


def test_figures_of_the_page_are_there():
    shown = re.findall(r"\]\((figures/[^)]+)\)", PAGE)
    assert shown
    assert [path for path in shown if not (ROOT / "docs" / path).is_file()] == []
