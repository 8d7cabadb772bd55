"""One forward of the untouched prompts: keys and values, the streams rows are born from, masks, clean activations."""

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache

from workbench.errors import ParameterError
from workbench.hooks.anatomy import Anatomy
from workbench.hooks.last_tokens import last_block_at_the_end
from workbench.hooks.sites import Component, Site
from workbench.hooks.torch_backend import HooksBackend
from workbench.tokens import TokenBatch

MASK = "attention_mask"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prefill:
    """What a model computed on a batch of prompts, kept for the rows that follow."""

    batch: TokenBatch
    """The prompts, on the model's device."""
    tokens: int
    """How many last columns activations are kept of; rows can begin no earlier."""
    cache: DynamicCache | None
    """Keys and values of every column; None where rows run the plain way."""
    masks: tuple[Tensor | None, ...]
    """By block: what its queries at the kept columns saw, as the model gave it; None is "everything before"."""
    values: Mapping[Site, Float[Tensor, "prompt token *feature"]]
    """Clean activations at the kept columns."""
    logits: Float[Tensor, "prompt vocab"]
    """Logits of the last column."""

    @classmethod
    def of(
        cls, executor: HooksBackend, batch: TokenBatch, *, capture: Sequence[Site], tokens: int, cached: bool
    ) -> "Prefill":
        """Run the prompts once.

        Args:
            executor: Whose model runs.
            batch: Its inputs, on its device.
            capture: Sites to keep, at the last ``tokens`` columns.
            tokens: How many columns.
            cached: Whether rows will continue from a cache.

        Raises:
            ParameterError: Rows were to continue, and blocks are given a mask that can't be read.
        """
        anatomy = executor.anatomy
        sites = dict.fromkeys(capture)
        if not cached:
            run = executor.run(batch, capture=list(sites), positions=kept_columns(batch, tokens))
            values = {site: run.activations[site] for site in sites}
            return cls(batch=batch, tokens=tokens, cache=None, masks=(), values=values, logits=cast(Tensor, run.logits))
        sites |= dict.fromkeys(Site(Component.RESID_PRE, layer) for layer in range(anatomy.n_layers))
        cache = DynamicCache()
        hooked = [anatomy.ports[site.whole].path for site in sites]
        with (
            last_block_at_the_end(executor, count=tokens, watched=hooked),
            seen_masks(executor, keep=tokens) as masks,
        ):
            run = executor.run_cached(
                batch,
                capture=list(sites),
                forward={"past_key_values": cache, "use_cache": True},
                positions=kept_columns(batch, tokens),
                logits="last",
            )
        return cls(
            batch=batch,
            tokens=tokens,
            cache=cache,
            masks=tuple(masks[layer] for layer in range(anatomy.n_layers)),
            values={site: run.activations[site] for site in sites},
            logits=cast(Tensor, run.logits),
        )

    def stream(self, layer: int) -> Float[Tensor, "prompt token d_model"]:
        """Return what enters a block at the kept columns."""
        return self.values[Site(Component.RESID_PRE, layer)]


def last_columns(batch: TokenBatch, count: int) -> Tensor:
    """Return the last columns of every prompt, ``[prompt, count]``."""
    width = batch.ids.shape[1]
    return torch.arange(width - count, width).expand(len(batch), -1)


def kept_columns(batch: TokenBatch, count: int) -> Tensor | None:
    """Return the last columns of every prompt; None, which reads padding too, for all of them."""
    return None if count == batch.ids.shape[1] else last_columns(batch, count)


def named_arguments(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a block was called with by the names of its own forward, extra keywords among them."""
    signature = _signature(type(block))
    bound = signature.bind(block, *args, **kwargs)
    named = dict(bound.arguments)
    extra = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    named |= named.pop(extra, {}) if extra is not None else {}
    del named[next(iter(signature.parameters))]
    return named


@functools.lru_cache(maxsize=64)
def _signature(kind: type[nn.Module]) -> inspect.Signature:
    return inspect.signature(kind.forward)


def takes_mask(block: nn.Module) -> bool:
    """Return whether a block's forward names a mask."""
    return MASK in _signature(type(block)).parameters


def blocks_of(anatomy: Anatomy, module: nn.Module) -> list[nn.Module]:
    """Return a model's blocks."""
    return list(module.get_submodule(anatomy.blocks_path).children())


@contextmanager
def seen_masks(executor: HooksBackend, *, keep: int) -> Iterator[dict[int, Tensor | None]]:
    """While open, note the mask each block is given, cut to its last queries; the same tensor is kept once.

    Raises:
        ParameterError: A mask isn't a number or a boolean for every query and column.
    """
    found: dict[int, Tensor | None] = {}
    cut: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(layer: int, block: nn.Module) -> Any:
        def entering(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            named = named_arguments(block, args, kwargs)
            mask, width = named.get(MASK), next(iter(named.values())).shape[1]
            if mask is None:
                found[layer] = None
                return
            if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[-2:] != (width, width):
                raise ParameterError(
                    "blocks are given a mask that can't be read.",
                    argument="executor",
                    got=tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__,
                    allowed="[prompt, head, query, column], or none",
                    fix="Load the model with attention='sdpa', or pass mode='plain'.",
                )
            if id(mask) not in cut:
                cut[id(mask)] = mask, mask[:, :, -keep:].clone()
            found[layer] = cut[id(mask)][1]

        return block.register_forward_pre_hook(entering, with_kwargs=True)

    with ExitStack() as stack:
        for layer, block in enumerate(blocks_of(executor.anatomy, executor.module)):
            stack.callback(watch(layer, block).remove)
        yield found
