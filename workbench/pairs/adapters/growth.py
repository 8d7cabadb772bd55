"""Adapters trained after tokens were added (or padding rows dropped): the judge's vocabulary has its own size."""

from collections.abc import Mapping
from typing import Any, cast

from peft import PeftConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.errors import PairMismatch
from workbench.pairs.adapters.layers import untuned_name


def grow_vocabulary(clone: PreTrainedModel, stored: Mapping[str, Tensor], config: PeftConfig) -> None:
    """Resize the clone's vocabulary to the adapter's; the base keeps its own.

    Args:
        clone: Module the adapter will sit in; it gets embeddings of its own when sizes differ.
        stored: Tensors of the adapter file by name in the wrapped model.
        config: The adapter's configuration.

    Raises:
        PairMismatch: The adapter has more tokens than the base but doesn't hold their embeddings.
    """
    ends = _ends(clone)
    if not ends:
        return
    whole = {name: stored[key] for key in stored for name in [untuned_name(key)] if name in ends}
    tokens = _trained_tokens(config)
    now = next(iter(ends.values())).shape[0]
    paths = tuple(name.removesuffix("weight") for name in ends)
    sizes = [value.shape[0] for value in whole.values()]
    sizes += [value.shape[1] for key, value in stored.items() if key.startswith(paths) and "lora_embedding_A" in key]
    rows = max([*sizes, *(index + 1 for index in tokens if index >= now)], default=now)
    if rows == now:
        return
    lacking = [name for name in ends if name not in whole]
    tied = len({id(p) for p in ends.values()}) == 1
    covered = set(range(now, rows)) <= set(tokens)
    if rows > now and lacking and not (tied and (whole or covered)):
        raise PairMismatch(
            "the adapter was trained with more tokens than the base has, and doesn't hold their embeddings.",
            argument="judge",
            got=f"{rows} tokens, base {now}; not stored: {lacking}",
            fix="Save it with `save_embedding_layers=True`, or load a base with the same tokens.",
        )
    clone.resize_token_embeddings(rows, mean_resizing=False)


def _ends(model: PreTrainedModel) -> dict[str, Tensor]:
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    wanted = {id(module) for module in modules if module is not None}
    found = {f"{name}.weight": module for name, module in model.named_modules() if id(module) in wanted}
    return {name: cast(Tensor, cast(nn.Module, module).weight) for name, module in found.items()}


def _trained_tokens(config: Any) -> list[int]:
    given = getattr(config, "token_indices", None) or getattr(config, "trainable_token_indices", None) or []
    rows = given.values() if isinstance(given, Mapping) else [given]
    return [index for indices in rows for index in indices]
