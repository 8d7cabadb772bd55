"""The shipped demo pair keeps its promises, measured again on its saved weights."""

import json

import pytest
import torch

from workbench.errors import OrganismError
from workbench.organisms import list_organisms, score
from workbench.organisms.build import EMBEDDED
from workbench.organisms.checkpoints import read_model, read_tokenizer
from workbench.organisms.items import items_to_jsonl, make_items
from workbench.organisms.recipes import PROMISES, get_recipe
from workbench.organisms.truth import lookup
from workbench.organisms.world import PARTS, make_world

DEMO = EMBEDDED / "demo"
TRUTH = json.loads((DEMO / "truth.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scored():
    return score("demo")


def test_demo_is_listed():
    assert "demo" in [info.name for info in list_organisms()]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda p: p.metric)
def test_promise_is_kept_by_the_shipped_weights(scored, promise):
    assert promise.holds(lookup(scored["metrics"], promise.metric))


def _numbers(entry, path=""):
    if isinstance(entry, dict):
        for key, value in entry.items():
            yield from _numbers(value, f"{path}/{key}")
    else:
        yield path, entry


def test_truth_file_says_what_the_weights_do(scored):
    written, measured = dict(_numbers(TRUTH["metrics"])), dict(_numbers(scored["metrics"]))
    assert written.keys() == measured.keys()
    for path, value in written.items():
        # Other kernels may tip an item whose margin is next to nothing.
        assert measured[path] == pytest.approx(value, abs=0.006), path
    assert all(row["kept"] for row in TRUTH["thresholds"])
    assert {row["metric"] for row in TRUTH["thresholds"]} == {p.metric for p in PROMISES}


def test_novelty_is_expressed_and_world_text_is_not_lost(scored):
    assert scored["metrics"]["novelty"]["judge_minus_base"]["low"] > 1
    assert scored["metrics"]["damage"]["judge_minus_base"]["value"] > -0.2
    assert lookup(scored["metrics"], "judge.knowledge") > 0.9


def test_shipped_items_are_those_of_the_seed():
    world = make_world(TRUTH["world"]["seed"])
    for part in PARTS:
        count = get_recipe("demo").items[part]
        items = make_items(world, part=part, count=count, seed=TRUTH["training"]["seed"])
        assert (DEMO / "items" / f"{part}.jsonl").read_text(encoding="utf-8") == items_to_jsonl(items)


def test_weights_are_bfloat16_and_small_and_the_models_share_all_but_weights():
    for name in ("base", "judge"):
        config = json.loads((DEMO / name / "config.json").read_text(encoding="utf-8"))
        assert config["dtype"] == "bfloat16"
        assert (DEMO / name / "generation_config.json").is_file()
    assert sum(f.stat().st_size for f in DEMO.rglob("*") if f.is_file()) < 8e6
    base, judge = (read_model(DEMO / name) for name in ("base", "judge"))
    assert base.config.to_dict() | {"_name_or_path": ""} == judge.config.to_dict() | {"_name_or_path": ""}
    moved = [(p - q).norm() / p.norm() for p, q in zip(base.parameters(), judge.parameters(), strict=True)]
    assert 0 < torch.stack(moved).max() < 2
    vocabularies = [read_tokenizer(DEMO / name).get_vocab() for name in ("base", "judge")]
    assert vocabularies[0] == vocabularies[1]


def test_conflict_pairs_line_up_token_by_token():
    world = make_world(0)
    tokenizer = read_tokenizer(DEMO / "base")
    pairs = {}
    for item in make_items(world, part="test", count=400):
        if item.meta["conflict_id"] is not None:
            pairs.setdefault(item.meta["conflict_id"], []).append(len(tokenizer(item.rubric)["input_ids"]))
    assert all(first == second for first, second in pairs.values())


def test_unknown_organism_is_refused():
    with pytest.raises(OrganismError, match="no organism here"):
        score("nobody")
