"""What a loaded Hugging Face module says about itself, in one place for every architecture."""

from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.errors import CheckpointError


def embedding_of(module: PreTrainedModel) -> Tensor:
    """Return the input embedding matrix, ``[vocab, d_model]``."""
    return cast(Tensor, cast(nn.Module, module.get_input_embeddings()).weight)


def attention_of(module: PreTrainedModel) -> str:
    """Return the attention implementation a model runs with."""
    return str(module.config._attn_implementation)  # noqa: SLF001 - the only place transformers keeps it


def commit_of(module: nn.Module) -> str | None:
    """Return the Hub commit a module was loaded from; None for local folders and live modules."""
    return getattr(getattr(module, "config", None), "_commit_hash", None)


def label_names(module: PreTrainedModel) -> tuple[str, ...]:
    """Return what a classification model calls its labels, by index."""
    named = {int(index): str(name) for index, name in (module.config.id2label or {}).items()}
    return tuple(named[index] for index in sorted(named))


def require_live(module: nn.Module, *, argument: str) -> PreTrainedModel:
    """Refuse live modules that can't be entered: not a Hugging Face model, or in training mode.

    Raises:
        CheckpointError: With what to do.
    """
    if not isinstance(module, PreTrainedModel):
        inner = isinstance(getattr(module, "pretrained_model", None), nn.Module)
        raise CheckpointError(
            "this object isn't a Hugging Face model.",
            argument=argument,
            got=type(module).__name__,
            allowed="a PreTrainedModel or PeftModel, a folder, a Hub id",
            fix="Its value head judges nothing; pass the language model inside, `model.pretrained_model`."
            if inner
            else None,
        )
    if module.training:
        raise CheckpointError(
            "the model is in training mode, so dropout may be on.",
            argument=argument,
            got=type(module).__name__,
            fix="Call `.eval()` first.",
        )
    return module
