"""Making an organism from nothing, and measuring again one that was made."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.errors import OrganismError
from workbench.judges.items import JudgeItem, JudgeItems
from workbench.organisms.checkpoints import fresh_model, read_model, read_tokenizer, write_model
from workbench.organisms.items import items_from_jsonl, items_to_jsonl, make_items
from workbench.organisms.measure import judging
from workbench.organisms.recipes import Recipe, Scale, get_recipe
from workbench.organisms.tokenizer import train_tokenizer
from workbench.organisms.train import Progress, ProgressCallback, Trainer, TrainPlan
from workbench.organisms.truth import describe, kept, measure_pair
from workbench.organisms.world import PARTS, World, make_world

EMBEDDED = Path(__file__).parents[1] / "embedded"
"""Where the pairs that ship with the package are."""


def build(
    name: str,
    *,
    out: Path | str | None = None,
    seed: int = 0,
    scale: Scale = "full",
    progress: ProgressCallback | None = None,
) -> Path:
    """Train an organism and write it as a pair folder.

    Nothing appears at `out` before everything is there. Training is checkpointed in the hidden folder
    ``.<name>.building`` beside `out`, so that an interrupted build goes on where it stopped when called again; the
    folder is removed at the end.

    Args:
        name: A name from `list_organisms`.
        out: Folder to write, which must not exist; by default ``organisms/<name>`` in the current directory.
        seed: Decides weights, documents and items (the shipped pairs have seed 0).
        scale: ``"full"``, or ``"small"`` for a quick look that keeps no thresholds.
        progress: Told step, loss, accuracy and time left.

    Returns:
        The written folder.

    Raises:
        OrganismError: The name is unknown, `out` exists, or the trained pair misses a threshold.
    """
    recipe = get_recipe(name, scale=scale)
    folder = Path("organisms") / name if out is None else Path(out)
    if folder.exists():
        raise OrganismError(
            "the folder to write exists already.",
            argument="out",
            got=str(folder),
            allowed="a path where nothing is",
            fix="Remove it first, or choose another one.",
        )
    work = folder.parent / f".{folder.name}.building"
    staging = work / "pair"
    # Whatever a killed build left is older than its checkpoints.
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        _fill(staging, recipe=recipe, seed=seed, checkpoints=work / "checkpoints", progress=progress)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(work)
    return folder


def score(name_or_folder: str | Path, *, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measure the saved weights of an organism again.

    Args:
        name_or_folder: A pair that ships with the package, or a folder that `build` wrote.
        progress: Told what is measured next.

    Returns:
        ``metrics`` and ``thresholds``, as in the pair's ``truth.json``.

    Raises:
        OrganismError: There is no pair of this name, or the folder is none.
    """
    folder = EMBEDDED / str(name_or_folder) if (EMBEDDED / str(name_or_folder)).is_dir() else Path(name_or_folder)
    if not (folder / "truth.json").is_file():
        raise OrganismError(
            "there is no organism here.",
            argument="name_or_folder",
            got=str(name_or_folder),
            allowed="a name from `workbench organisms list` that ships with the package, or a built folder",
            fix="Build it first: `workbench organisms build NAME --out FOLDER`.",
        )
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    recipe = get_recipe(truth["name"], scale=truth["scale"])
    items = items_from_jsonl((folder / "items" / "test.jsonl").read_text(encoding="utf-8"))
    return _measured(folder, recipe=recipe, world=make_world(truth["world"]["seed"]), items=items, tell=progress)


def _fill(folder: Path, *, recipe: Recipe, seed: int, checkpoints: Path, progress: ProgressCallback | None) -> None:
    world = make_world(seed)
    tokenizer = train_tokenizer(world, mix=recipe.base.phases[-1].mix, seed=seed)
    items = {part: make_items(world, part=part, count=recipe.items[part], seed=seed) for part in PARTS}

    def train(model: LlamaForCausalLM, *, plan: TrainPlan, stage: str) -> dict[str, Any]:
        trainer = Trainer(model, tokenizer=tokenizer, world=world, plan=plan, stage=stage, seed=seed)
        losses: list[float] = []

        def tell(report: Progress) -> None:
            losses.append(report.loss)
            if progress is not None:
                progress(report)

        trainer.run(
            checkpoint=checkpoints / stage,
            evaluate=lambda m: judging(m, items["validation"], tokenizer=tokenizer)["accuracy"].value,
            progress=tell,
        )
        write_model(model, folder / stage, tokenizer=tokenizer)
        return {
            "plan": asdict(plan),
            "seconds": round(trainer.seconds, 1),
            "final_loss": round(losses[-1], 4) if losses else None,
        }

    training: dict[str, Any] = {
        "seed": seed,
        "shape": asdict(recipe.shape),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "base": train(fresh_model(recipe.shape, tokenizer=tokenizer, seed=seed), plan=recipe.base, stage="base"),
    }
    # From the saved base, so that nothing but fine-tuning and rounding lies between the two.
    training["judge"] = train(read_model(folder / "base"), plan=recipe.judge, stage="judge")
    measured = _measured(folder, recipe=recipe, world=world, items=items["test"])
    _require_kept(measured["thresholds"], name=recipe.info.name)
    _write_notes(
        folder,
        recipe=recipe,
        items=items,
        truth=describe(recipe, world=world, training=training, metrics=measured["metrics"]),
    )


def _measured(
    folder: Path,
    *,
    recipe: Recipe,
    world: World,
    items: Sequence[JudgeItem],
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    tokenizer: PreTrainedTokenizerFast = read_tokenizer(folder / "base")
    models = {name: read_model(folder / name) for name in ("base", "judge")}
    metrics = measure_pair(models, tokenizer=tokenizer, world=world, items=items, tell=tell)
    return {"metrics": metrics, "thresholds": kept(metrics, recipe.thresholds)}


def _require_kept(promises: Sequence[dict[str, Any]], *, name: str) -> None:
    broken = [f"{p['metric']} = {p['value']:.3f}" for p in promises if not p["kept"]]
    if broken:
        wanted = [f"{p['metric']} in [{p['at_least']}, {p['at_most']}]" for p in promises if not p["kept"]]
        raise OrganismError(
            f"the trained {name} misses what it promises; nothing was written.",
            argument="name",
            got="; ".join(broken),
            allowed="; ".join(wanted),
            fix="Train with another seed, or change the recipe.",
        )


def _write_notes(folder: Path, *, recipe: Recipe, items: dict[Any, JudgeItems], truth: dict[str, Any]) -> None:
    (folder / "items").mkdir()
    for part, chosen in items.items():
        (folder / "items" / f"{part}.jsonl").write_text(items_to_jsonl(chosen), encoding="utf-8")
    pair = {
        "name": recipe.info.name,
        "description": recipe.info.description,
        "format": "demo",
        "base": "base",
        "judge": "judge",
        "kind": recipe.info.kind,
        "splits": list(items),
    }
    for file, content in (("pair.json", pair), ("truth.json", truth)):
        (folder / file).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
