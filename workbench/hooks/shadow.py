"""A second module tree over the same weights, and TransformerLens booted on it.

A TransformerBridge rewrites the module it wraps: submodules are replaced, attention becomes eager,
state-dict keys change. It therefore only ever gets a *shadow*: a structural clone that shares every
parameter and buffer with the user's module. Importing TransformerLens also lowers the log level of
``transformers``, adds warning filters and loosens a validator of huggingface_hub; that is undone here.
"""

import copy
import importlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from workbench.errors import ParameterError
from workbench.hooks.heads import causal_sibling, classification_head

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

M = TypeVar("M", bound=nn.Module)

_LENS = "transformer_lens"
_HUB_VALIDATOR = "_validate_simple_type"
_import_lock = threading.Lock()


def weight_sharing_shadow(module: M, *, replace: Mapping[Tensor, Tensor] | None = None) -> M:
    """Return a structural clone that shares every parameter and buffer with ``module``: no second copy of the weights.

    Only tensors are shared, not module state: build a new shadow after a cast, a move to another
    device or a change of adapter.

    Args:
        module: What to clone; it stays as it is.
        replace: Parameters or buffers that are another tensor in the clone, wherever they occur (ties stay tied).
    """
    other = {id(old): new for old, new in (replace or {}).items()}
    shared = {id(tensor): other.get(id(tensor), tensor) for tensor in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, shared | {id(state): state for state in _other_holders(module)})


def _other_holders(module: nn.Module) -> Iterator[object]:
    """Yield what holds weights beside the parameters: bitsandbytes' scales and codes, accelerate's offloaded ones."""
    for child in module.modules():
        if (kept := getattr(getattr(child, "_hf_hook", None), "weights_map", None)) is not None:
            yield kept
        for state in (child.__dict__.get("state"), child.__dict__.get("quant_state")):
            if type(state).__module__.startswith("bitsandbytes"):
                yield state


def boot_bridge(module: nn.Module) -> "tuple[TransformerBridge, dict[int, str]]":
    """Boot a TransformerBridge on a shadow of ``module``.

    Args:
        module: A Hugging Face causal language model or decoder with a classification head; it is read, never changed.

    Returns:
        The bridge, and the path of every submodule it wrapped by the id of that submodule.

    Raises:
        ParameterError: TransformerLens has no map of this architecture.
    """
    _import_lens()
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    architecture = supported_architecture(module)
    shadow: Any = weight_sharing_shadow(module)
    paths = {id(child): path for path, child in shadow.named_modules()}
    # Eager is what TransformerLens itself sets on load; it recomputes attention to expose the pattern.
    shadow.set_attn_implementation("eager")
    config: Any = copy.deepcopy(module.config)
    config.architectures = [architecture]
    with quiet_process_state(), _random_state_kept(module):
        # No tokenizer: TransformerLens would load another copy of it by name, asking a hub for what is in memory.
        fit = partial(_adapt, shadow=shadow, paths=paths, head=classification_head(module))
        try:
            bridge = build_bridge_from_module(shadow, architecture, hf_config=config, post_adapter_hook=fit)
        except NotImplementedError as err:  # fused projections are split by weight, which codes of a quantiser forbid
            raise ParameterError(
                "TransformerLens can't take this model apart.",
                argument="module",
                got=f"{architecture}: {str(err).splitlines()[0]}",
                fix="Load it without quantisation.",
            ) from err
    return bridge, paths


def _adapt(adapter: Any, *, shadow: nn.Module, paths: dict[int, str], head: str | None) -> None:
    """Fit one bridge's map and its shadow to what TransformerLens doesn't know: classification heads, adapters.

    A fused projection is split by its weight, which under an adapter is the base's alone; there it is merged first.
    """
    if head is not None:
        from transformer_lens.model_bridge.generalized_components import UnembeddingBridge

        adapter.component_mapping["unembed"] = UnembeddingBridge(name=head, config=adapter.cfg)
    fused = tuple(
        f".{name}" for name in _split_on_boot(getattr(adapter.component_mapping.get("blocks"), "submodules", {}))
    )
    for path, layer in list(shadow.named_modules()):
        if path.endswith(fused) and isinstance(layer, BaseTunerLayer):
            for child in cast(nn.Module, layer).modules():
                paths.pop(id(child), None)  # an id may be given again once the layer is gone
            plain = _merged(layer)
            parent, _, name = path.rpartition(".")
            setattr(shadow.get_submodule(parent), name, plain)
            paths[id(plain)] = path


def _split_on_boot(parts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths inside a block of the projections TransformerLens takes apart: query-key-value, gate-up."""
    from transformer_lens.model_bridge.generalized_components import JointGateUpMLPBridge

    attention, mlp = parts.get("attn"), parts.get("mlp")
    qkv = None if attention is None else attention.submodules.get("qkv")
    if attention is not None and qkv is not None:
        yield f"{attention.name}.{qkv.name}"
    if isinstance(mlp, JointGateUpMLPBridge):
        yield f"{mlp.name}.{mlp.fused_attr}"


def _merged(layer: BaseTunerLayer) -> nn.Module:
    """Return the plain layer that computes what an adapter layer computes now; the weights it shares stay."""
    if layer.merged or layer.disable_adapters:
        return cast(nn.Module, layer.get_base_layer())
    own = copy.deepcopy(layer)
    with torch.no_grad():
        own.merge()
    return cast(nn.Module, own.get_base_layer())


def _random_state_kept(module: nn.Module) -> AbstractContextManager[None]:
    """Put the random state back: splitting a fused projection initialises layers before filling them."""
    return torch.random.fork_rng(devices={p.device for p in module.parameters() if p.device.type == "cuda"})


def supported_architecture(module: nn.Module) -> str:
    """Return the class name TransformerLens knows ``module`` by; a subclass counts as its nearest known base.

    A classification model counts as the causal language model with the same backbone.

    Raises:
        ParameterError: It knows none, or ``module`` is a wrapper such as a PeftModel.
    """
    _import_lens()
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    names = [kind.__name__ for kind in type(module).__mro__]
    if classification_head(module) is not None:
        names = list(filter(None, (causal_sibling(module),)))
    known = next((name for name in names if name in SUPPORTED_ARCHITECTURES), None)
    if known is None or not hasattr(module, "config"):
        fix = "Pass a Hugging Face causal language model of an architecture TransformerLens supports."
        if "PeftModel" in names:
            fix = "Pass `peft_model.base_model.model`, the Hugging Face model the adapter was injected into."
        raise ParameterError(
            "no map from sites to modules exists for this class.",
            argument="module",
            got=type(module).__name__,
            allowed="architectures known to TransformerLens, e.g. LlamaForCausalLM, GPT2LMHeadModel, Qwen3ForCausalLM",
            fix=fix,
        )
    return known


def _import_lens() -> None:
    with _import_lock:
        if f"{_LENS}.model_bridge.sources" not in sys.modules:
            with quiet_process_state():
                importlib.import_module(f"{_LENS}.model_bridge.sources")


@contextmanager
def quiet_process_state() -> Iterator[None]:
    """Put back what TransformerLens changes in the process: log level, warning filters, the hub's validator."""
    from huggingface_hub import dataclasses as hub

    logger = logging.getLogger("transformers")
    level, validator = logger.level, getattr(hub, _HUB_VALIDATOR, None)
    with warnings.catch_warnings():
        try:
            yield
        finally:
            logger.setLevel(level)
            if validator is not None:
                setattr(hub, _HUB_VALIDATOR, validator)
