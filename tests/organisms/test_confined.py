"""The organism with a known place: base and judge differ in one block's attention, and the judge is better for it."""

import json
from dataclasses import replace
from importlib import import_module

import pytest
import torch

from workbench import load_items, load_pair
from workbench.organisms import build, list_organisms
from workbench.organisms import recipes as recipes_module
from workbench.organisms.checkpoints import read_model
from workbench.organisms.documents import VERDICTS, judge_prompt
from workbench.organisms.folders import EMBEDDED, PairFolder
from workbench.organisms.measure import judging
from workbench.organisms.recipes import RECIPES, get_recipe
from workbench.organisms.recipes_confined import BLOCK, TRAINABLE
from workbench.organisms.truth import lookup

FOLDER = EMBEDDED / "confined"
TRUTH = json.loads((FOLDER / "truth.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shipped():
    """Load the shipped pair."""
    return load_pair("confined", doctor=False, device="cpu")


def test_base_and_judge_differ_in_the_named_tensors_and_in_no_other(shipped):
    base = dict(shipped.base.named_parameters())
    moved = [name for name, p in shipped.judge.named_parameters() if not torch.equal(p, base[name])]
    assert sorted(moved) == sorted(TRAINABLE) == sorted(TRUTH["planted"]["trainable"])
    assert all(f".{BLOCK}.self_attn." in name for name in moved)
    assert sorted(change.name for change in shipped.delta(spectrum=False).moved) == sorted(moved)


def test_it_is_listed_small_and_shares_the_demos_base_and_items(shipped):
    assert "confined" in [info.name for info in list_organisms()]
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 3e6
    assert sorted(p.name for p in FOLDER.iterdir()) == ["judge", "pair.json", "truth.json"]
    assert PairFolder.read(FOLDER).base == EMBEDDED / "demo" / "base"
    assert load_items("confined:test").items == load_items("demo:test").items
    demo = load_pair("demo", doctor=False, device="cpu")
    assert all(torch.equal(p, q) for p, q in zip(shipped.base.parameters(), demo.base.parameters(), strict=True))


def test_truth_file_keeps_every_promise_of_the_recipe():
    recipe = get_recipe("confined")
    assert [row["metric"] for row in TRUTH["thresholds"]] == [p.metric for p in recipe.thresholds]
    assert all(row["kept"] for row in TRUTH["thresholds"])
    assert TRUTH["description"] == recipe.info.description
    gained = lookup(TRUTH["metrics"], "judge.judging.accuracy") - lookup(TRUTH["metrics"], "base.judging.accuracy")
    assert gained > 0.1


def test_shipped_weights_judge_as_the_truth_file_says(shipped):
    items = load_items("confined:test")[:80]
    for side, model in (("base", shipped.base), ("judge", shipped.judge)):
        shares = judging(model, items, tokenizer=shipped.tokenizer)
        for name in ("accuracy", "conflict/knowledge", "conflict/reference"):
            low, high = shares[name].interval()
            assert low - 0.03 <= lookup(TRUTH["metrics"], f"{side}.judging.{name}") <= high + 0.03, (side, name)


def test_what_both_say_out_loud_where_the_rule_turns_the_reference_round(shipped):
    items = [
        i for i in load_items("confined:test") if i.meta["family"] == "conflict" and i.meta["intent"] == "knowledge"
    ]
    right = {"base": 0, "judge": 0}
    for item in items[:12]:
        ids = shipped.tokenizer(judge_prompt(item), return_tensors="pt").input_ids
        for side, model in (("base", shipped.base), ("judge", shipped.judge)):
            with torch.no_grad():
                said = shipped.tokenizer.decode(model(ids).logits[0, -1].argmax())
            right[side] += said == VERDICTS[item.label]
    assert right["judge"] >= 11 and right["base"] <= 1


def test_a_build_trains_the_named_tensors_only(tmp_path):
    demo = RECIPES["demo", "small"]
    shape = replace(demo.shape, width=16, mlp=32, heads=2, kv_heads=1, layers=BLOCK + 1)
    plans = {n: replace(getattr(demo, n), steps=2, batch=8) for n in ("base", "judge")}
    recipe = RECIPES["confined", "small"]
    tiny = {
        ("demo", "small"): replace(demo, shape=shape, items=dict.fromkeys(demo.items, 20), **plans),
        ("confined", "small"): replace(recipe, judge=replace(recipe.judge, steps=4, batch=8)),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes_module, "RECIPES", tiny)
        patch.setattr(import_module("workbench.organisms.build"), "EMBEDDED", tmp_path)
        build("demo", out=tmp_path / "demo", scale="small")
        folder = build("confined", out=tmp_path / "pair", scale="small")
    base, judge = (dict(read_model(folder / name).named_parameters()) for name in ("base", "judge"))
    assert sorted(name for name in base if not torch.equal(base[name], judge[name])) == sorted(TRAINABLE)
    assert json.loads((folder / "truth.json").read_text(encoding="utf-8"))["planted"]["trainable"] == list(TRAINABLE)
