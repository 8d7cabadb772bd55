"""The main job on the embedded pair: what `make demo` promises, and what TuCo must say about this judge."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from analyses import behavior, tuco
from workbench import load_items, load_pair
from workbench.judges import get_format
from workbench.organisms.documents import judge_prompt
from workbench.pairs import identical_pair, random_delta_pair
from workbench.reports import run_notebook

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "tuco.ipynb"


@pytest.fixture(scope="module")
def pair():
    return load_pair("demo", device="cpu")


@pytest.fixture(scope="module")
def items():
    return load_items("demo:test", limit=80)


@pytest.fixture(scope="module")
def result(pair, items):
    return tuco.run(pair, items, progress=False)


def test_the_demo_pair_passes_every_guard(pair):
    assert pair.report.comparable
    assert pair.report.warnings == ()
    statuses = {guard.status for guard in pair.report.guards}
    assert statuses == {"ok"}
    assert pair.format.name == "demo"


def test_organisms_and_formats_write_the_same_prompt(items):
    for item in items:
        for order in ("original", "swapped"):
            assert get_format("demo").render(item, order=order).text == judge_prompt(item.in_order(order))


def test_tuco_finds_that_tuning_pushes_toward_the_right_answer(result):
    said = result.finding
    assert said.found
    assert "toward the labelled answer" in said.headline
    push = next(e for e in said.estimates if "labelled" in e.name)
    assert push.low > 1.0
    assert push.low > push.control.high
    right = next(e for e in said.estimates if e.name.startswith("share of verdicts right"))
    assert right.value > 0.9
    assert right.control.value < 0.8


def test_the_claim_is_confirmed_by_taking_the_named_block_out(result):
    confirmed = next(e for e in result.finding.estimates if e.name.startswith("verdict margin lost"))
    assert result.confirmed_unit in confirmed.name
    assert confirmed.low > 2 * confirmed.control.high


def test_conflict_items_show_what_was_tuned(result, items):
    """The base follows the reference whatever the rule says; tuning must turn the knowledge items round."""
    intent = np.array([item.meta["intent"] if item.meta["family"] == "conflict" else "" for item in items])
    push = result.toward_label(result.finetuned_push.sum(-1)).mean(1)
    base = result.toward_label(result.base_gap).mean(1)
    assert base[intent == "knowledge"].mean() < 0 < base[intent == "reference"].mean()
    assert push[intent == "knowledge"].mean() > 3.0


def test_shams_of_the_demo_are_no_finding(pair, items):
    """The judge against itself is exactly nothing; a random change as large as the tuning has a share, no push."""
    nothing = tuco.run(identical_pair(pair), items[:16], progress=False)
    assert not nothing.finetuned_norm.any()
    assert not nothing.finding.found
    sham = tuco.run(random_delta_pair(pair, seed=4), items, progress=False)
    assert sham.tuco.mean() > 0.05
    label = next(e for e in sham.finding.estimates if "labelled" in e.name)
    assert abs(label.value) < 1.0


SAVED = {"attacked", "heads", "levels", "paths", "scaling", "tokens", "tuco"}


def test_the_notebook_runs_thin_on_another_architecture_and_saves_its_results(tmp_path):
    parameters = {"limit": 8, "out": str(tmp_path / "tuco"), "batch_size": 4, "cuts": ["sublayer", 2]}
    done = run_notebook(NOTEBOOK, parameters | _random_gpt2(tmp_path), out=tmp_path / "tuco.ipynb")
    assert len(tuco.TucoResult.load(tmp_path / "tuco" / "tuco").item_ids) == 8
    assert {p.name for p in (tmp_path / "tuco").iterdir()} == SAVED
    _check_pictures(done)


def test_demo_writes_one_offline_page(tmp_path, capsys, monkeypatch):
    from workbench import cli

    monkeypatch.setattr("sys.argv", ["workbench", "demo", "--out", str(tmp_path), "--limit", "8"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert said.strip().splitlines()[-1].endswith("report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page
    fetched = re.findall(r"(?:src|href)\s*=\s*[\"'](?!#|data:)([^\"']+)", page)
    assert fetched == []
    assert not re.search(r"url\((?!#|data:|['\"]?#)", page)
    written = {f"{name}{end}" for name in cli.NOTEBOOKS for end in ("", ".html", ".ipynb")}
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", *written}
    assert {p.name for p in (tmp_path / "judge_behavior").iterdir()} == {"behavior", "probes"}
    known = {"attacked-injected", "attacked-sham"}
    assert {p.name for p in (tmp_path / "tuco").iterdir()} == SAVED | known
    _check_pictures(tmp_path / "tuco.ipynb")
    _check_pictures(tmp_path / "judge_behavior.ipynb", least=8)
    assert {p.name for p in (tmp_path / "cross_model_patching").iterdir()} == PATCHED
    _check_pictures(tmp_path / "cross_model_patching.ipynb", least=20)


PATCHED = {
    "bias-bandwagon", "bias-position", "circuit", "contrast", "lens", "mask", "patching", "paths", "screen", "weights",
}  # fmt: skip


@pytest.mark.slow
def test_the_notebook_of_patching_runs_thin_on_another_architecture(tmp_path):
    parameters = {"limit": 8, "few": 8, "out": str(tmp_path / "out"), "batch_size": 4, "probes": ["position"]}
    notebook = NOTEBOOK.with_name("cross_model_patching.ipynb")
    done = run_notebook(notebook, parameters | _random_gpt2(tmp_path), out=tmp_path / "patching.ipynb")
    assert {p.name for p in (tmp_path / "out").iterdir()} == PATCHED - {"bias-bandwagon"}
    _check_pictures(done, least=15)


def test_the_notebook_of_behavior_runs_thin_on_another_architecture(tmp_path):
    parameters = {"limit": 8, "out": str(tmp_path / "out"), "batch_size": 4, "probes": ["position", "bandwagon"]}
    notebook = NOTEBOOK.with_name("judge_behavior.ipynb")
    done = run_notebook(notebook, parameters | _random_gpt2(tmp_path), out=tmp_path / "behavior.ipynb")
    assert len(behavior.BehaviorResult.load(tmp_path / "out" / "behavior").item_ids) == 8
    assert len(behavior.ProbesResult.load(tmp_path / "out" / "probes").probes) == 2
    _check_pictures(done, least=5)


def _check_pictures(notebook, *, least=20):
    cells = json.loads(notebook.read_text())["cells"]
    shown = [o for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    pictures = [o for o in shown if "<svg" in "".join(o.get("data", {}).get("text/html", []))]
    assert len(pictures) >= least
    assert not [o for o in shown if o["output_type"] == "error"]


def _random_gpt2(root):
    from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tuned_copy

    base = tiny_model(architecture="gpt2", n_layers=2)
    for name, model in (("base", base), ("judge", tuned_copy(base, change=scaled_noise(0.1)))):
        model.save_pretrained(root / name)
        byte_tokenizer().save_pretrained(root / name)
    rows = [{"question": f"What is {i}?", "answers": [str(i), "none"], "label": i % 2} for i in range(12)]
    (root / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = {name: str(root / name) for name in ("base", "judge")}
    return sources | {"items": str(root / "items.jsonl"), "format": "pairwise", "device": "cpu"}
