"""Making an organism from nothing, and measuring again one that was made."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.errors import OrganismError
from workbench.judges.items import JudgeItem, JudgeItems, Provenance
from workbench.organisms.checkpoints import fresh_model, read_model, read_tokenizer, write_model
from workbench.organisms.folders import EMBEDDED, PairFolder
from workbench.organisms.items import items_from_jsonl, items_to_jsonl, make_items
from workbench.organisms.measure import judging
from workbench.organisms.recipe import Continued, Fresh, Recipe, Scale
from workbench.organisms.recipes import get_recipe
from workbench.organisms.tokenizer import train_tokenizer
from workbench.organisms.train import Progress, ProgressCallback, Trainer, TrainPlan
from workbench.organisms.truth import describe, kept, measure_pair
from workbench.organisms.world import PARTS, Part, World, make_world


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
        _fill(staging, recipe=recipe, seed=seed, work=work, progress=progress)
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
    parts = PairFolder.read(folder)
    items = items_from_jsonl((parts.items / "test.jsonl").read_text(encoding="utf-8"))
    return _measured(parts, recipe=recipe, world=make_world(truth["world"]["seed"]), items=items, tell=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """Where the judge's training starts: what lies in the folder already, and the model it goes on from."""

    tokenizer: PreTrainedTokenizerFast
    items: dict[Part, JudgeItems]
    model: LlamaForCausalLM
    notes: dict[str, Any]
    """What the truth file says about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Build:
    """One run of `build`: where it writes, and what every stage needs."""

    folder: Path
    """Where the pair is put together."""
    work: Path
    """Where what must survive an interruption lies."""
    seed: int
    world: World
    progress: ProgressCallback | None

    def start(self, recipe: Recipe) -> _Start:
        """Bring base, tokenizer and items into the folder."""
        if isinstance(recipe, Fresh):
            return self._from_nothing(recipe)
        if isinstance(recipe, Continued):
            return self._from_origin(recipe)
        raise OrganismError("a recipe of this kind can't be built.", argument="recipe", got=type(recipe).__name__)

    def train(
        self, model: LlamaForCausalLM, *, plan: TrainPlan, stage: str, tokenizer: PreTrainedTokenizerFast,
        items: Mapping[Part, JudgeItems],
    ) -> dict[str, Any]:  # fmt: skip
        """Train and save one model, and return what the truth file says about it."""
        trainer = Trainer(model, tokenizer=tokenizer, world=self.world, plan=plan, stage=stage, seed=self.seed)
        losses: list[float] = []

        def tell(report: Progress) -> None:
            losses.append(report.loss)
            if self.progress is not None:
                self.progress(report)

        trainer.run(
            checkpoint=self.work / "checkpoints" / stage,
            evaluate=lambda m: judging(m, items["validation"], tokenizer=tokenizer)["accuracy"].value,
            progress=tell,
        )
        write_model(model, self.folder / stage, tokenizer=tokenizer)
        return {
            "plan": asdict(plan),
            "seconds": round(trainer.seconds, 1),
            "final_loss": round(losses[-1], 4) if losses else None,
        }

    def _from_nothing(self, recipe: Fresh) -> _Start:
        tokenizer = train_tokenizer(self.world, mix=recipe.base.phases[-1].mix, seed=self.seed)
        items: dict[Part, JudgeItems] = {
            part: make_items(self.world, part=part, count=recipe.items[part], seed=self.seed) for part in PARTS
        }
        (self.folder / "items").mkdir()
        for part, chosen in items.items():
            (self.folder / "items" / f"{part}.jsonl").write_text(items_to_jsonl(chosen), encoding="utf-8")
        model = fresh_model(recipe.shape, tokenizer=tokenizer, seed=self.seed)
        trained = self.train(model, plan=recipe.base, stage="base", tokenizer=tokenizer, items=items)
        # From the saved base, so that nothing but fine-tuning and rounding lies between the two.
        return _Start(
            tokenizer=tokenizer,
            items=items,
            model=read_model(self.folder / "base"),
            notes={"shape": asdict(recipe.shape), "base": trained},
        )

    def _from_origin(self, recipe: Continued) -> _Start:
        origin = self._origin(recipe)
        shutil.copytree(origin.base, self.folder / "base")
        shutil.copytree(origin.items, self.folder / "items")
        return _Start(
            tokenizer=read_tokenizer(origin.base),
            items={part: _item_file(origin.items / f"{part}.jsonl", part=part) for part in PARTS},
            model=_confined(read_model(origin.judge if recipe.goes_on == "judge" else origin.base), recipe.trainable),
            notes={"origin": recipe.origin, "base": f"that of {recipe.origin}"},
        )

    def _origin(self, recipe: Continued) -> PairFolder:
        shipped = EMBEDDED / recipe.origin
        if (shipped / "truth.json").is_file():
            truth = json.loads((shipped / "truth.json").read_text(encoding="utf-8"))
            if (truth["scale"], truth["training"]["seed"]) == (recipe.scale, self.seed):
                return PairFolder.read(shipped)
        built = self.work / recipe.origin
        if not built.exists():
            build(recipe.origin, out=built, seed=self.seed, scale=recipe.scale, progress=self.progress)
        return PairFolder.read(built)


def _fill(folder: Path, *, recipe: Recipe, seed: int, work: Path, progress: ProgressCallback | None) -> None:
    world = make_world(seed)
    building = _Build(folder=folder, work=work, seed=seed, world=world, progress=progress)
    start = building.start(recipe)
    trained = building.train(
        start.model, plan=recipe.judge, stage="judge", tokenizer=start.tokenizer, items=start.items
    )
    training = {
        "seed": seed,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        **start.notes,
        "judge": trained,
    }
    parts = PairFolder(base=folder / "base", judge=folder / "judge", items=folder / "items")
    measured = _measured(parts, recipe=recipe, world=world, items=start.items["test"])
    _require_kept(measured["thresholds"], name=recipe.info.name)
    _write_notes(
        folder, recipe=recipe, truth=describe(recipe, world=world, training=training, metrics=measured["metrics"])
    )


def _confined(model: LlamaForCausalLM, trainable: tuple[str, ...]) -> LlamaForCausalLM:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not trainable or name.startswith(trainable))
    return model


def _item_file(file: Path, *, part: Part) -> JudgeItems:
    text = file.read_text(encoding="utf-8")
    items = tuple(items_from_jsonl(text))
    provenance = Provenance(
        source=str(file), sha256=hashlib.sha256(text.encode()).hexdigest(), split=part, total=len(items)
    )
    return JudgeItems(items=items, provenance=provenance)


def _measured(
    folder: PairFolder,
    *,
    recipe: Recipe,
    world: World,
    items: Sequence[JudgeItem],
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    tokenizer: PreTrainedTokenizerFast = read_tokenizer(folder.base)
    models = {"base": read_model(folder.base), "judge": read_model(folder.judge)}
    metrics = measure_pair(models, tokenizer=tokenizer, world=world, items=items, attacked=recipe.attacked, tell=tell)
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


def _write_notes(folder: Path, *, recipe: Recipe, truth: dict[str, Any]) -> None:
    pair = {
        "name": recipe.info.name,
        "description": recipe.info.description,
        "format": "demo",
        "base": "base",
        "judge": "judge",
        "kind": recipe.info.kind,
        "splits": list(PARTS),
    }
    for file, content in (("pair.json", pair), ("truth.json", truth)):
        (folder / file).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
