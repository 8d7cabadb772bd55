"""Pairs in which nothing meaningful was tuned: what a method must not light up on."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from workbench.errors import PairMismatch
from workbench.hooks import weight_sharing_shadow
from workbench.pairs.adapters import tuner_layers, untuned_name
from workbench.pairs.delta import adapter_norm
from workbench.pairs.pair import Pair


def identical_pair(pair: Pair) -> Pair:
    """Return the pair whose base and judge are both the judge; every difference must be exactly zero."""
    anatomy = pair.anatomy("judge")
    return Pair(
        name=f"{pair.name} (judge against itself)",
        base=pair.judge,
        judge=pair.judge,
        tokenizer=pair.tokenizer,
        format=pair.format,
        report=pair.report,
        kind=pair.kind,
        sources={"base": pair.sources["judge"], "judge": pair.sources["judge"]},
        base_tokenizer=pair.base_tokenizer,
        own_tokenizer=pair.own_tokenizer,
        _cache={"anatomy/base": anatomy, "anatomy/judge": anatomy},
    )


def random_delta_pair(pair: Pair, *, seed: int) -> Pair:
    """Return the pair with a judge that moved as far as the real one, tensor by tensor, in a random direction.

    Every tensor that differs between base and judge is replaced by the base's plus Gaussian noise of
    the same Frobenius norm; an adapter's factors are replaced by Gaussian factors whose product has
    the norm of the adapter's. Costs one more copy of the tensors that moved, nothing else.

    Args:
        pair: The real pair; it isn't changed.
        seed: Seed of the noise.

    Raises:
        PairMismatch: No tensor differs, so there is nothing to match.
    """
    # A stream of its own: others draw Gaussians from small seeds too, and would draw this very change.
    generator = torch.Generator().manual_seed(0x5EED_0000 + seed)
    layers = list(tuner_layers(pair.judge))
    replaced = dict(_random_tensors(pair, generator))
    for _, layer in layers:
        if isinstance(layer, LoraLayer):
            replaced |= _random_factors(layer, generator)
    if not replaced:
        raise PairMismatch(
            "base and judge don't differ, so no random change can match theirs.", argument="judge", got=pair.name
        )
    judge = weight_sharing_shadow(pair.judge, replace=replaced)
    return pair.with_judge(judge, name=f"random delta of equal norm, seed {seed}")


def _random_tensors(pair: Pair, generator: torch.Generator) -> Iterator[tuple[Tensor, nn.Parameter]]:
    base = dict(pair.base.named_parameters(remove_duplicate=False))
    for name, parameter in pair.judge.named_parameters():
        original = base.get(untuned_name(name))
        if original is None or original is parameter:
            continue
        # Rows that only one side has stay as the judge's.
        shared = slice(min(len(parameter), len(original))) if parameter.shape != original.shape else ...
        other = original.detach()[shared].float().to(parameter.device)
        size = torch.linalg.vector_norm(parameter.detach()[shared].float() - other)
        if size == 0:
            continue
        noise = torch.randn(other.shape, generator=generator).to(parameter.device)
        moved = parameter.detach().clone()
        moved[shared] = (other + noise * (size / torch.linalg.vector_norm(noise))).to(parameter.dtype)
        yield parameter, nn.Parameter(moved, requires_grad=parameter.requires_grad)


def _random_factors(layer: LoraLayer, generator: torch.Generator) -> dict[Tensor, nn.Parameter]:
    """Draw Gaussian factors and scale the up projections so that the whole product keeps its norm."""
    wanted = adapter_norm(layer)
    drawn: dict[Tensor, nn.Parameter] = {}
    ups: list[nn.Parameter] = []
    for adapter in layer.active_adapters:
        embedding = adapter not in layer.lora_A
        banks: tuple[Any, Any] = (
            (layer.lora_embedding_A, layer.lora_embedding_B) if embedding else (layer.lora_A, layer.lora_B)
        )
        a, b = (bank[adapter] if embedding else bank[adapter].weight for bank in banks)
        for old in (a, b):
            noise = torch.randn(old.shape, generator=generator).to(old.device, old.dtype)
            drawn[old] = nn.Parameter(noise, requires_grad=old.requires_grad)
        ups.append(drawn[b])
    drawn_norm = adapter_norm(weight_sharing_shadow(cast(Any, layer), replace=drawn))
    with torch.no_grad():
        for up in ups:
            up.mul_(wanted / drawn_norm)
    return drawn
