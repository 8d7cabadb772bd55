"""One laboratory per architecture: a saved and reloaded tiny model with its anatomy and all three executors."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.tiny_models import ARCHITECTURES, random_batch, saved_and_loaded, tiny_tokenizer
from workbench.hooks import Activations, Anatomy, BridgeBackend, HooksBackend, NNsightBackend
from workbench.tokens import TokenBatch

TOLERANCE = 5e-5


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A model, what plain Hugging Face says about a batch, and the executors."""

    architecture: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    anatomy: Anatomy
    hooks: HooksBackend
    nnsight: NNsightBackend
    lens: BridgeBackend
    batch: TokenBatch
    logits: Tensor
    hidden: tuple[Tensor, ...]
    donor: Activations

    def gap(self, left: Tensor, right: Tensor) -> float:
        """Largest difference at real tokens of [prompt pos ...] tensors."""
        return float((left - right)[self.batch.mask].abs().max())


def build_lab(architecture: str, folder, device: str = "cpu") -> Lab:
    """Build the laboratory; plain Hugging Face is asked first, before anything of ours has touched the model."""
    model = saved_and_loaded(architecture, folder).to(device)
    batch = random_batch().to(device)
    with torch.no_grad():
        plain = model(**batch.forward_kwargs(), output_hidden_states=True, use_cache=False)
    tokenizer = tiny_tokenizer()
    anatomy = Anatomy.of(model, tokenizer)
    hooks = HooksBackend(model, anatomy)
    donor = hooks.run(random_batch(seed=1), capture=anatomy.sites(), logits="none").activations
    return Lab(
        architecture=architecture,
        model=model,
        tokenizer=tokenizer,
        anatomy=anatomy,
        hooks=hooks,
        nnsight=NNsightBackend(model, anatomy, tokenizer=tokenizer),
        lens=BridgeBackend(anatomy),
        batch=batch,
        logits=plain.logits,
        hidden=plain.hidden_states,
        donor=donor,
    )


@pytest.fixture(scope="session")
def labs(tmp_path_factory):
    """Return a function that builds each laboratory once."""
    built: dict[tuple[str, str], Lab] = {}

    def lab(architecture: str, device: str = "cpu") -> Lab:
        key = architecture, device
        if key not in built:
            built[key] = build_lab(architecture, tmp_path_factory.mktemp(architecture), device)
        return built[key]

    return lab


def _cases():
    for device in ("cpu", "cuda"):
        for architecture in ARCHITECTURES:
            marks = () if device == "cpu" else (pytest.mark.gpu,)
            yield pytest.param((architecture, device), id=f"{architecture}-{device}", marks=marks)


@pytest.fixture(scope="session", params=_cases())
def lab(request, labs) -> Lab:
    """Every architecture in turn, on the CPU and (marked gpu) on CUDA."""
    architecture, device = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return labs(architecture, device)


@pytest.fixture(scope="session")
def llama(labs) -> Lab:
    """One laboratory, for what doesn't depend on the architecture."""
    return labs("llama")
