"""Plain, resumable training of one small model on written documents."""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.organisms.documents import REMARKS, VERDICTS, Document, Mix
from workbench.organisms.tokenizer import EOS_ID, PAD_ID
from workbench.organisms.world import World

CHECKPOINT_EVERY = 200
_CHUNK = 32
_WIDTH_STEP = 8
_WARMUP = 100
_FINAL_LR_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of a training stage with one mix of documents."""

    until: float
    """Share of the stage's steps at which it ends; 1 for the last."""
    mix: Mix


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """How one stage of training goes; part of the truth file."""

    steps: int
    batch: int
    """Documents per step."""
    lr: float
    """Peak learning rate (linear warm-up, then cosine)."""
    phases: tuple[Phase, ...]
    """What is read, and when: easy text first."""
    prompt_weight: float = 1.0
    """Loss weight of the tokens of a judge prompt; other text has 1."""
    verdict_weight: float = 4.0
    """Loss weight of a verdict, and of a remark such as "True"."""
    weight_decay: float = 0.01

    def mix_at(self, step: int) -> Mix:
        """Return the mix read at `step`, counting from 0."""
        return next((p.mix for p in self.phases if step < p.until * self.steps), self.phases[-1].mix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a caller is told now and then while a model trains."""

    stage: str
    step: int
    steps: int
    loss: float
    """Weighted loss, averaged since the last report (nats per token)."""
    accuracy: float | None
    """Share of right verdicts on the validation items, when they were asked."""
    seconds_left: float


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Documents as token ids, padded on the right."""

    ids: Int[Tensor, "prompt pos"]
    weights: Float[Tensor, "prompt pos"]
    """Loss weight of each token as a target; zero for padding and the first token."""


def encode(
    documents: Sequence[Document], *, tokenizer: PreTrainedTokenizerFast, prompt_weight: float, verdict_weight: float
) -> list[Batch]:
    """Turn documents into batches of similar length, so that little is computed on padding.

    Args:
        documents: What to read; an end-of-text token is put after each.
        tokenizer: The world's tokenizer.
        prompt_weight: Loss weight of judge prompts.
        verdict_weight: Loss weight of verdicts.

    Returns:
        Batches of at most 32 documents.
    """
    said = torch.tensor(tokenizer.convert_tokens_to_ids(tokenizer.tokenize("".join((*VERDICTS, *REMARKS)))))
    heading = torch.tensor(tokenizer.convert_tokens_to_ids(["Answer"]))
    rows = [[*ids, EOS_ID] for ids in tokenizer([d.text for d in documents])["input_ids"]]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batches = []
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        # A few widths only: every new shape costs a kernel set-up.
        width = -(-max(len(rows[i]) for i in chunk) // _WIDTH_STEP) * _WIDTH_STEP
        ids = torch.full((len(chunk), width), PAD_ID)
        weights = torch.zeros(len(chunk), width)
        for row, i in enumerate(chunk):
            length = len(rows[i])
            ids[row, :length] = torch.tensor(rows[i])
            weights[row, 1:length] = prompt_weight if documents[i].verdict else 1.0
            weights[row, _judgements(ids[row], said=said, heading=heading)] = verdict_weight
        batches.append(Batch(ids=ids, weights=weights))
    return batches


def loss_sum(model: LlamaForCausalLM, batch: Batch) -> Float[Tensor, ""]:
    """Return the weighted sum of next-token losses (nats)."""
    logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1]
    losses = functional.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    return (losses * batch.weights[:, 1:].flatten()).sum()


class Trainer:
    """Trains one model; can stop at any step and go on later with the same outcome.

    Args:
        model: Trained in place.
        tokenizer: The world's tokenizer.
        world: What the documents are about.
        plan: Steps, rates and mix.
        stage: Name for progress and checkpoint.
        seed: Decides the documents of every step.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        *,
        tokenizer: PreTrainedTokenizerFast,
        world: World,
        plan: TrainPlan,
        stage: str,
        seed: int,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.world = world
        self.plan = plan
        self.stage = stage
        self.seed = seed
        self.step = 0
        self.seconds = 0.0
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=plan.lr, weight_decay=plan.weight_decay, betas=(0.9, 0.98)
        )

    def run(
        self,
        *,
        checkpoint: Path,
        evaluate: Callable[[LlamaForCausalLM], float],
        progress: ProgressCallback | None = None,
        report_every: int = 50,
        evaluate_every: int = 250,
    ) -> None:
        """Train to the end of the plan, from `checkpoint` when there is one.

        Args:
            checkpoint: Folder rewritten every 200 steps.
            evaluate: Gives the accuracy shown in the progress.
            progress: Called every `report_every` steps.
            report_every: Steps between reports.
            evaluate_every: Steps between evaluations; a multiple of `report_every`.
        """
        self._resume(checkpoint)
        self.model.train()
        since, losses = time.monotonic(), []
        while self.step < self.plan.steps:
            losses.append(self._one_step())
            self.step += 1
            last = self.step == self.plan.steps
            if last or self.step % CHECKPOINT_EVERY == 0:
                self.seconds += time.monotonic() - since
                since = time.monotonic()
                self._save(checkpoint)
            if progress is not None and (last or self.step % report_every == 0):
                accuracy = evaluate(self.model) if last or self.step % evaluate_every == 0 else None
                spent = self.seconds + time.monotonic() - since
                left = spent / self.step * (self.plan.steps - self.step)
                progress(
                    Progress(
                        stage=self.stage,
                        step=self.step,
                        steps=self.plan.steps,
                        loss=sum(losses) / len(losses),
                        accuracy=accuracy,
                        seconds_left=left,
                    )
                )
                losses = []
                self.model.train()
        self.model.eval()

    def _one_step(self) -> float:
        plan = self.plan
        rng = Random(f"{self.stage}/{self.seed}/{self.step}")
        documents = [plan.mix_at(self.step).write(self.world, rng=rng) for _ in range(plan.batch)]
        batches = encode(
            documents, tokenizer=self.tokenizer, prompt_weight=plan.prompt_weight, verdict_weight=plan.verdict_weight
        )
        total = sum(float(batch.weights.sum()) for batch in batches)
        loss = 0.0
        for batch in batches:
            part = loss_sum(self.model, batch) / total
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = plan.lr * _schedule(self.step, steps=plan.steps)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss

    def _save(self, folder: Path) -> None:
        fresh = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        state = self._optimizer.state_dict()["state"]
        tensors = {f"optimizer.{i}.{key}": value for i, entry in state.items() for key, value in entry.items()}
        save_file(
            {**tensors, **{f"model.{k}": v.contiguous() for k, v in self.model.state_dict().items()}},
            fresh / "state.safetensors",
        )
        note = {"plan": asdict(self.plan), "seed": self.seed, "step": self.step, "seconds": self.seconds}
        (fresh / "state.json").write_text(json.dumps(note), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)

    def _resume(self, folder: Path) -> None:
        if not (folder / "state.json").exists():
            return
        note = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        # Another plan or seed: what is there belongs to a different model.
        if note["plan"] != json.loads(json.dumps(asdict(self.plan))) or note["seed"] != self.seed:
            return
        tensors = load_file(folder / "state.safetensors")
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        state = self._optimizer.state_dict()
        state["state"] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state["state"].setdefault(int(index), {})[key] = value
        self._optimizer.load_state_dict(state)
        self.step, self.seconds = note["step"], note["seconds"]


def _judgements(
    ids: Int[Tensor, " pos"], *, said: Int[Tensor, " word"], heading: Int[Tensor, " one"]
) -> Bool[Tensor, " pos"]:
    # In "Answer A:" the letter is given; elsewhere letters and remarks are what a rater says.
    given = torch.cat((torch.tensor([False]), torch.isin(ids[:-1], heading)))
    return torch.isin(ids, said) & ~given


def _schedule(step: int, *, steps: int) -> float:
    warm = min(1.0, (step + 1) / min(_WARMUP, max(1, steps // 10)))
    return warm * (_FINAL_LR_SHARE + (1 - _FINAL_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * step / steps)))
