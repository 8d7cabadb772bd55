"""Loading one causal language model or one tokenizer from a Hub id, a folder or a live object."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from workbench.errors import CheckpointError

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def load_module(
    source: str | os.PathLike[str],
    *,
    argument: str,
    revision: str | None,
    dtype: torch.dtype | None,
    device: torch.device,
    device_map: Any,
    attention: str | None,
    trust_remote_code: bool,
) -> PreTrainedModel:
    """Load a causal language model from safetensors, in eval mode.

    Args:
        source: Local folder or Hub id.
        argument: Name of the caller's argument, for messages.
        revision: Commit, tag or branch of a Hub repository.
        dtype: Data type to load in; None keeps the checkpoint's own.
        device: Where the model goes when ``device_map`` is None.
        device_map: Passed on to transformers, e.g. ``"auto"``.
        attention: Attention implementation; None lets transformers choose.
        trust_remote_code: Whether code from the repository may run; off unless asked for by name.

    Raises:
        CheckpointError: The folder is missing, holds pickles, isn't a causal language model, or lacks weights.
    """
    check_folder(source, argument=argument)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _explained(source, argument):
        config = AutoConfig.from_pretrained(source, **options)
    _require_causal(config, source, argument)
    with _explained(source, argument):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype="auto" if dtype is None else dtype,
            device_map=device_map,
            attn_implementation=attention,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    module, info = loaded
    absent = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if absent:
        raise CheckpointError(
            f"the checkpoint lacks {len(absent)} of the model's weights, which would be random.",
            argument=argument,
            got=f"{source}: {absent[:4]}",
            fix="Use the complete checkpoint of a causal language model.",
        )
    module.eval()
    return module if device_map is not None else module.to(device)


def load_tokenizer(
    source: str | os.PathLike[str], *, argument: str, revision: str | None, trust_remote_code: bool
) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or Hub id.

    Raises:
        CheckpointError: There is none, or it can't be read.
    """
    if is_path(source) and not Path(source).is_dir():
        raise CheckpointError("this folder doesn't exist.", argument=argument, got=str(source), fix="Check the path.")
    with _explained(source, argument):
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)


def has_tokenizer(source: str | os.PathLike[str]) -> bool:
    """Return whether a local folder holds tokenizer files; Hub ids are assumed to."""
    folder = Path(source)
    return any((folder / name).is_file() for name in _TOKENIZER_FILES) if folder.is_dir() else True


def adapter_folder(source: str | os.PathLike[str], *, argument: str, revision: str | None) -> Path | None:
    """Return the local folder of an adapter (downloaded when ``source`` is a Hub id); None when it isn't one."""
    if is_path(source):
        check_folder(source, argument=argument)
        return Path(source) if (Path(source) / "adapter_config.json").is_file() else None
    with _explained(source, argument):
        found = find_adapter_config_file(str(source), revision=revision)
        if found is None:
            return None
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                str(source), revision=revision, allow_patterns=["adapter_*.json", "*.safetensors", "tokenizer*"]
            )
        )


def is_path(source: str | os.PathLike[str]) -> bool:
    """Return whether a source can only mean a local path: it exists, or doesn't look like ``owner/name``."""
    text = os.fspath(source)
    return Path(text).exists() or text.startswith((".", "~", os.sep)) or text.count("/") > 1 or isinstance(source, Path)


def check_folder(source: str | os.PathLike[str], *, argument: str) -> None:
    """Refuse a local path that isn't a folder, or whose weights are pickles.

    Raises:
        CheckpointError: With what was found there.
    """
    if not is_path(source):
        return
    folder = Path(source)
    if not folder.is_dir():
        raise CheckpointError(
            "this folder doesn't exist.",
            argument=argument,
            got=str(source),
            allowed="a Hub id, a local folder or a live module",
            fix="Check the path.",
        )
    names = sorted(p.name for p in folder.iterdir())
    if any(name.endswith(".safetensors") for name in names) or (folder / "adapter_config.json").is_file():
        return
    pickles = [name for name in names if Path(name).suffix in _PICKLES]
    raise CheckpointError(
        "the weights are pickle files, which can run code when loaded."
        if pickles
        else "this folder holds no safetensors weights.",
        argument=argument,
        got=f"{folder}: {(pickles or names)[:6]}",
        allowed=["*.safetensors"],
        fix="Save the model again with `save_pretrained`, which writes safetensors.",
    )


def embedding_of(module: PreTrainedModel) -> Tensor:
    """Return the input embedding matrix, ``[vocab, d_model]``."""
    return cast(Tensor, cast(nn.Module, module.get_input_embeddings()).weight)


def attention_of(module: PreTrainedModel) -> str:
    """Return the attention implementation a model runs with."""
    return str(module.config._attn_implementation)  # noqa: SLF001 - the only place transformers keeps it


def commit_of(module: nn.Module) -> str | None:
    """Return the Hub commit a module was loaded from; None for local folders and live modules."""
    return getattr(getattr(module, "config", None), "_commit_hash", None)


def require_live(module: nn.Module, *, argument: str) -> PreTrainedModel:
    """Refuse live modules that can't be entered: not a Hugging Face model, or in training mode.

    Raises:
        CheckpointError: With what to do.
    """
    if not isinstance(module, PreTrainedModel):
        raise CheckpointError(
            "this object isn't a Hugging Face model.",
            argument=argument,
            got=type(module).__name__,
            allowed="a PreTrainedModel or PeftModel, a folder, a Hub id",
        )
    if module.training:
        raise CheckpointError(
            "the model is in training mode, so dropout may be on.",
            argument=argument,
            got=type(module).__name__,
            fix="Call `.eval()` first.",
        )
    return module


def _require_causal(config: Any, source: str | os.PathLike[str], argument: str) -> None:
    heads = [
        name
        for name in (config.architectures or [])
        if name.endswith(("ForSequenceClassification", "ForTokenClassification"))
    ]
    if heads:
        raise CheckpointError(
            "this checkpoint has a classification head; only causal language models are supported so far.",
            argument=argument,
            got=f"{source}: {heads[0]}",
            fix="Use a judge that answers in text.",
        )


@contextmanager
def _explained(source: str | os.PathLike[str], argument: str) -> Iterator[None]:
    """Turn what transformers raises while loading into a message that names the argument; silence its progress bar."""
    bar_was_on = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as err:
        reason = next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)
        raise CheckpointError(
            "this model or tokenizer could not be loaded.",
            argument=argument,
            got=f"{source} ({reason})",
            allowed="a Hub id, a local folder with config.json and safetensors weights, or a live module",
            fix="Check the name, the network and, for gated models, `hf auth login`.",
        ) from err
    finally:
        if bar_was_on:
            transformers.utils.logging.enable_progress_bar()
