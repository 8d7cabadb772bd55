"""What a model answers with: next tokens, or the labels of a classification head.

A ``*ForSequenceClassification`` model applies its head at every position and then *pools*: it looks in
the input for the last id that isn't the pad id. That is another token than the last one where a prompt
ends in the pad id (pad == eos), and no batch at all where there is no pad id. The head itself is
therefore read, at every position, and rows are picked by the mask; the pooling never runs.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from workbench.errors import ParameterError
from workbench.hooks.ports import first

HeadKind = Literal["language model", "classification"]
"""What stands on top of the final norm."""

_CLASSIFIER = "ForSequenceClassification"
_HEAD = "score"


class StopForward(Exception):  # noqa: N818 - control flow, never an error
    """Ends a forward pass whose remaining part nobody needs."""


def classification_head(module: nn.Module) -> str | None:
    """Return the path of a decoder's sequence-classification head; None for a model without one."""
    named = any(kind.__name__.endswith(_CLASSIFIER) for kind in type(module).__mro__)
    return _HEAD if named and isinstance(getattr(module, _HEAD, None), nn.Module) else None


def head_kind(module: nn.Module) -> HeadKind:
    """Return what a model answers with."""
    return "language model" if classification_head(module) is None else "classification"


def forward_logits(module: nn.Module, kwargs: Mapping[str, Any]) -> Tensor:
    """Run a model and return its logits as they are before any pooling: [prompt pos vocab], or [prompt pos label].

    Args:
        module: A causal language model, or a decoder with a classification head.
        kwargs: Keywords of its forward.
    """
    head = classification_head(module)
    if head is None:
        return module(**kwargs).logits
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        seen.append(first(output))
        raise StopForward

    handle = module.get_submodule(head).register_forward_hook(keep)
    try:
        module(**kwargs)
    except StopForward:
        if not seen:  # somebody else's: the forward ends before the head
            raise
    finally:
        handle.remove()
    return seen[0]


def check_writes(module: nn.Module) -> None:
    """Refuse to generate with a model that has a classification head.

    Raises:
        ParameterError: It has one.
    """
    if classification_head(module) is None:
        return
    raise ParameterError(
        "a classification head scores text and writes none.",
        argument="module",
        got=type(module).__name__,
        fix="Read scores with run(), or generate with the causal language model it was tuned from.",
    )


def causal_sibling(module: nn.Module) -> str | None:
    """Return the name of the causal language model class that has this classification model's backbone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config: Any = getattr(module, "config", None)
    known: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return None if known is None else known.__name__
