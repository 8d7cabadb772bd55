"""Loading one model or one tokenizer from a Hub id or a folder, and finding an adapter there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from workbench.errors import CheckpointError
from workbench.pairs.placement import Placement
from workbench.pairs.sources import Source


def read_config(source: Source, place: Placement) -> Any:
    """Return a checkpoint's configuration.

    Raises:
        CheckpointError: There is none, or it can't be read.
    """
    with explained(source):
        return AutoConfig.from_pretrained(source.name, trust_remote_code=place.trust_remote_code, **_where(source))


def load_module(source: Source, place: Placement) -> PreTrainedModel:
    """Load a causal language model from safetensors, in eval mode.

    Args:
        source: Local folder or Hub id.
        place: Where and how.

    Raises:
        CheckpointError: The folder is missing, holds pickles, isn't a causal language model, or lacks weights.
    """
    source.check()
    config = read_config(source, place)
    _require_causal(config, source)
    with explained(source):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.name,
            config=config,
            dtype="auto" if place.dtype is None else place.dtype,
            device_map=place.device_map,
            attn_implementation=place.attention,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=place.trust_remote_code,
            **_where(source),
        )
    module, info = loaded
    absent = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if absent:
        raise CheckpointError(
            f"the checkpoint lacks {len(absent)} of the model's weights, which would be random.",
            argument=source.argument,
            got=f"{source.label}: {absent[:4]}",
            fix="Use the complete checkpoint of a causal language model.",
        )
    module.eval()
    return module if place.device_map is not None else module.to(place.device)


def load_tokenizer(source: Source, place: Placement) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or Hub id.

    Raises:
        CheckpointError: There is none, or it can't be read.
    """
    if source.folder is not None and not source.folder.is_dir():
        raise CheckpointError(
            "this folder doesn't exist.", argument=source.argument, got=str(source.folder), fix="Check the path."
        )
    with explained(source):
        return AutoTokenizer.from_pretrained(source.name, trust_remote_code=place.trust_remote_code, **_where(source))


def adapter_folder(source: Source) -> Path | None:
    """Return the local folder of an adapter (downloaded when it is on the Hub); None when the source isn't one."""
    if source.folder is not None:
        source.check()
        return source.folder if (source.folder / "adapter_config.json").is_file() else None
    with explained(source):
        found = find_adapter_config_file(str(source.name), **_where(source))
        if found is None:
            return None
        from huggingface_hub import snapshot_download

        inside = f"{source.subfolder}/" if source.subfolder else ""
        patterns = [f"{inside}{name}" for name in ("adapter_*.json", "*.safetensors", "tokenizer*")]
        root = snapshot_download(str(source.name), revision=source.revision, allow_patterns=patterns)
        return Path(root) / (source.subfolder or "")


@contextmanager
def explained(source: Source) -> Iterator[None]:
    """Turn what transformers raises while loading into a message that names the argument; silence its progress bar."""
    bar_was_on = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as err:
        reason = next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)
        raise CheckpointError(
            "this model or tokenizer could not be loaded.",
            argument=source.argument,
            got=f"{source.label} ({reason})",
            allowed="a Hub id, a local folder with config.json and safetensors weights, or a live module",
            fix="Check the name, the network and, for gated models, `hf auth login`.",
        ) from err
    finally:
        if bar_was_on:
            transformers.utils.logging.enable_progress_bar()


def _where(source: Source) -> dict[str, Any]:
    where: dict[str, Any] = {"revision": source.revision}
    return where | ({"subfolder": source.subfolder} if source.subfolder else {})


def _require_causal(config: Any, source: Source) -> None:
    heads = [
        name
        for name in (config.architectures or [])
        if name.endswith(("ForSequenceClassification", "ForTokenClassification"))
    ]
    if heads:
        raise CheckpointError(
            "this checkpoint has a classification head; only causal language models are supported so far.",
            argument=source.argument,
            got=f"{source.label}: {heads[0]}",
            fix="Use a judge that answers in text.",
        )
