"""Reward judges of the matrix as users have them: a causal base, a full classifier tuned from it, a LoRA one."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from tests.tiny_models import tiny_classifier, tiny_model, tiny_tokenizer
from workbench.pairs.tiny import scaled_noise, tuned_copy

LABELS = 2
TARGETS = {"gpt2": ["c_attn", "c_proj"], "neox": ["query_key_value", "dense_4h_to_h"]}
TEXTS = ["The judge compares answer A with answer B.", "Verdict: A", "x", "compares " * 9, "A judge. " * 3]
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where the checkpoints of one architecture lie."""

    architecture: str
    base: Path
    judge: Path
    adapter: Path


def write_folders(architecture: str, root: Path, *, labels: int = LABELS) -> Folders:
    """Write a causal base, a full judge and a LoRA judge, each with its tokenizer."""
    base = tiny_model(architecture)
    saved(base, root / "base")
    saved(tuned_copy(tiny_classifier(architecture, labels=labels), change=scaled_noise(0.05)), root / "judge")
    write_adapter(root / "base", root / "adapter", architecture=architecture, labels=labels)
    return Folders(architecture=architecture, base=root / "base", judge=root / "judge", adapter=root / "adapter")


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """Save a model with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


def random_headed(folder: Path, *, labels: int = LABELS, seed: int = 3) -> PreTrainedModel:
    """Load a causal checkpoint as Hugging Face does for reward training: under a random head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels).eval()


def trained(model: PreTrainedModel, architecture: str, **choices) -> torch.nn.Module:
    """Put a LoRA adapter on a classifier and move factors and head away from where training starts."""
    options = {
        "task_type": TaskType.SEQ_CLS,
        "r": 4,
        "target_modules": TARGETS.get(architecture, ["q_proj", "v_proj", "down_proj"]),
        "fan_in_fan_out": architecture == "gpt2",
    } | choices
    model = get_peft_model(model, LoraConfig(**options)).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name or "modules_to_save" in name:
                scale = 0.1 if ".lora_" in name else 0.3
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def write_adapter(base: Path, folder: Path, *, architecture: str, labels: int = LABELS) -> Path:
    """Write a LoRA reward adapter, its head in modules_to_save."""
    trained(random_headed(base, labels=labels), architecture).save_pretrained(folder)
    return folder


def without_tensors(folder: Path, target: Path, *, drop: str, file: str = "model.safetensors") -> Path:
    """Copy a checkpoint, leaving out the tensors whose name contains ``drop``."""
    target.mkdir()
    for path in folder.iterdir():
        if path.name != file:
            (target / path.name).write_bytes(path.read_bytes())
    kept = {name: tensor for name, tensor in load_file(folder / file).items() if drop not in name}
    save_file(kept, target / file, {"format": "pt"})
    return target


def with_json(folder: Path, name: str, **changes) -> Path:
    """Change fields of a JSON file of a checkpoint."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder
