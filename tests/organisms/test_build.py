"""Building: nothing half-written, the same bytes twice, promises enforced; and a small pair that learns."""

import json
from dataclasses import replace

import pytest

from workbench.errors import OrganismError
from workbench.organisms import build, score
from workbench.organisms import recipes as recipes_module
from workbench.organisms.recipes import RECIPES, Threshold, get_recipe
from workbench.organisms.truth import lookup


def _tiny(*, thresholds=()):
    """Return the small recipe made a matter of seconds."""
    small = RECIPES["demo", "small"]
    shape = replace(small.shape, width=16, mlp=32, heads=2, kv_heads=1, layers=2)
    plans = {n: replace(getattr(small, n), steps=4, batch=8) for n in ("base", "judge")}
    return replace(small, shape=shape, items=dict.fromkeys(small.items, 20), thresholds=thresholds, **plans)


@pytest.fixture
def tiny(monkeypatch):
    """Put the tiny recipe in the place of the small one."""
    monkeypatch.setattr(recipes_module, "RECIPES", {("demo", "small"): _tiny()})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the tiny pair once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes_module, "RECIPES", {("demo", "small"): _tiny()})
        return build("demo", out=tmp_path_factory.mktemp("built") / "pair", scale="small")


def test_built_folder_is_a_pair_with_its_truth(tiny, built):
    assert [p.name for p in built.parent.iterdir()] == ["pair"]
    pair = json.loads((built / "pair.json").read_text(encoding="utf-8"))
    assert {k: pair[k] for k in ("name", "format", "base", "judge", "kind", "splits")} == {
        "name": "demo",
        "format": "demo",
        "base": "base",
        "judge": "judge",
        "kind": "full",
        "splits": ["train", "validation", "test"],
    }
    for name in ("base", "judge"):
        assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= {
            p.name for p in (built / name).iterdir()
        }
    truth = json.loads((built / "truth.json").read_text(encoding="utf-8"))
    assert score(built)["metrics"] == truth["metrics"]


def test_interrupted_build_leaves_no_pair_and_goes_on_to_the_same_bytes(tiny, built, tmp_path):
    def stop(report):
        if report.stage == "judge":
            raise KeyboardInterrupt

    out = tmp_path / "pair"
    with pytest.raises(KeyboardInterrupt):
        build("demo", out=out, scale="small", progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == [".pair.building"]
    assert [p.name for p in (tmp_path / ".pair.building").iterdir()] == ["checkpoints"]
    build("demo", out=out, scale="small")
    assert [p.name for p in tmp_path.iterdir()] == ["pair"]
    for file in ("base/model.safetensors", "judge/model.safetensors", "items/test.jsonl", "base/tokenizer.json"):
        assert (out / file).read_bytes() == (built / file).read_bytes(), file


def test_missed_promise_is_an_error_and_writes_nothing(monkeypatch, tmp_path):
    recipe = _tiny(thresholds=(Threshold(metric="judge.judging.accuracy", at_least=1.01),))
    monkeypatch.setattr(recipes_module, "RECIPES", {("demo", "small"): recipe})
    with pytest.raises(OrganismError, match=r"judge\.judging\.accuracy"):
        build("demo", out=tmp_path / "pair", scale="small")
    assert not (tmp_path / "pair").exists()


def test_existing_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "mine").write_text("dear", encoding="utf-8")
    with pytest.raises(OrganismError, match="exists already"):
        build("demo", out=tmp_path)
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "dear"


def test_unknown_name_is_refused(tmp_path):
    with pytest.raises(OrganismError, match="no such organism"):
        build("nobody", out=tmp_path / "x")
    with pytest.raises(OrganismError):
        get_recipe("nobody")


@pytest.mark.slow
def test_a_small_pair_learns_what_the_recipe_teaches(tmp_path):
    folder = build("demo", out=tmp_path / "pair", scale="small")
    metrics = json.loads((folder / "truth.json").read_text(encoding="utf-8"))["metrics"]
    base, judge = (lookup(metrics, f"{name}.judging.accuracy") for name in ("base", "judge"))
    assert judge > base + 0.1
    assert lookup(metrics, "judge.judging.conflict/reference") > 0.9
    assert metrics["novelty"]["judge_minus_base"]["low"] > 1
