"""The truth file: how a pair was made, what it promises, and what was measured on its saved weights."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from workbench.judges.items import JudgeItem
from workbench.organisms.documents import WRITERS
from workbench.organisms.measure import judging, mean_interval, obedience, recall, shares_to_json, text_log_probs
from workbench.organisms.recipe import Continued, Recipe, Threshold
from workbench.organisms.world import World

HELD_OUT = (
    "Test and validation items ask for facts (entity, relation) whose judge items occur nowhere in the judge's "
    "fine-tuning. The base learned these facts as world text, and the fine-tuning mix repeats them as such "
    "(claims marked true or false included); the base's careless raters also judged items about them, by the reference "
    "or by guessing."
)
WORLD_KINDS = ("notes", "questions")
"""Document kinds that count as world text when damage is measured."""

_TEXTS = 200


def measure_pair(
    models: Mapping[str, LlamaForCausalLM],
    *,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    items: Sequence[JudgeItem],
    attacked: bool = False,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure base and judge.

    Args:
        models: ``base`` and ``judge``, in float32.
        tokenizer: The world's tokenizer.
        world: The world they were trained on.
        items: The test items.
        attacked: Measure obedience to instructions inside answers, too.
        tell: Told what is measured next.

    Returns:
        JSON-ready metrics: for each model ``knowledge``, ``reading`` and ``judging``; for the judge ``novelty`` and
        ``damage``; when asked for, ``attacked`` for each model.
    """
    metrics: dict[str, Any] = {}
    for name, model in models.items():
        if tell is not None:
            tell(f"measuring the {name}")
        metrics[name] = {
            "knowledge": recall(model, world, tokenizer=tokenizer, from_reference=False).to_json(),
            "reading": recall(model, world, tokenizer=tokenizer, from_reference=True).to_json(),
            "judging": shares_to_json(judging(model, items, tokenizer=tokenizer)),
        }
    if attacked:
        if tell is not None:
            tell("attacking both")
        metrics["attacked"] = {
            name: shares_to_json(obedience(model, items, tokenizer=tokenizer)) for name, model in models.items()
        }
    if tell is not None:
        tell("comparing base and judge")
    for name, kinds in (("novelty", ("songs",)), ("damage", WORLD_KINDS)):
        texts = _texts(world, kinds=kinds)
        base, judge = (text_log_probs(models[m], texts, tokenizer=tokenizer) for m in ("base", "judge"))
        metrics[name] = {
            "base_log_prob": mean_interval(base),
            "judge_log_prob": mean_interval(judge),
            "judge_minus_base": mean_interval(judge - base),
        }
    return metrics


def lookup(metrics: Mapping[str, Any], path: str) -> float:
    """Return the value at a path such as ``"judge.judging.consistent"``."""
    entry: Any = metrics
    for key in path.split("."):
        entry = entry[key]
    return float(entry["value"])


def kept(metrics: Mapping[str, Any], thresholds: Sequence[Threshold]) -> list[dict[str, Any]]:
    """Return every promise with its value and whether it was kept."""
    rows = []
    for promise in thresholds:
        value = lookup(metrics, promise.metric)
        rows.append(
            {
                "metric": promise.metric,
                "at_least": promise.at_least,
                "at_most": promise.at_most,
                "value": value,
                "kept": promise.holds(value),
            }
        )
    return rows


def describe(
    recipe: Recipe, *, world: World, training: Mapping[str, Any], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the whole truth file as JSON data."""
    return {
        "name": recipe.info.name,
        "description": recipe.info.description,
        "kind": recipe.info.kind,
        "scale": recipe.scale,
        "trained": recipe.trained,
        "world": {
            "seed": world.seed,
            "facts": len(world.facts),
            "facts_by_part": {part: len(facts) for part, facts in world.by_part.items()},
        },
        "held_out": HELD_OUT,
        "planted": _planted(recipe),
        "measured_on": "the saved bfloat16 weights, loaded as float32, on the CPU; intervals are 95% (Wilson for "
        "shares, normal for means)",
        "thresholds": kept(metrics, recipe.thresholds),
        "metrics": dict(metrics),
        "training": dict(training),
    }


def _planted(recipe: Recipe) -> dict[str, Any]:
    plant = recipe.plant
    wordings = {} if plant.wordings is None else {role: dict(parts) for role, parts in plant.wordings.items()}
    return {
        "what": plant.what,
        "kind": plant.kind,
        "share_of_judge_mix": round(_share(recipe.judge.phases[-1].mix.weights, plant.kind), 4),
        "expressed": plant.expressed,
        **({"trainable": list(recipe.trainable)} if isinstance(recipe, Continued) and recipe.trainable else {}),
        **wordings,
    }


def _texts(world: World, *, kinds: Sequence[str]) -> list[str]:
    rng = Random(f"texts/{world.seed}/{'+'.join(kinds)}")
    return [WRITERS[rng.choice(kinds)](world, rng).text for _ in range(_TEXTS)]


def _share(weights: Mapping[str, float], kind: str) -> float:
    return weights[kind] / sum(weights.values())
