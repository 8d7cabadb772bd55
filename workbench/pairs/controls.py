"""Pairs in which nothing meaningful was tuned: what a method must not light up on."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from workbench.errors import PairMismatch
from workbench.hooks import weight_sharing_shadow
from workbench.pairs.adapters import is_plain_lora, lora_factors, merged_copy, tuner_layers, untuned_name
from workbench.pairs.delta import adapter_norm
from workbench.pairs.memory.offloaded import require_numbers, same_place
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
    the same Frobenius norm. The factors of a plain LoRA adapter are replaced by Gaussian factors whose
    product has the norm of the adapter's. Every other kind of adapter is merged first, so that its control
    is a plain model in which each tensor moved as far as merging the adapter moves it, in any direction: a
    rotation or a rescaling is matched by its size, not by its form. Costs one more copy of the tensors that
    moved (two while they are drawn), nothing else.

    Args:
        pair: The real pair; it isn't changed.
        seed: Seed of the noise.

    Raises:
        PairMismatch: No tensor differs, so there is nothing to match; or the adapter can't be merged.
    """
    # A stream of its own: others draw Gaussians from small seeds too, and would draw this very change.
    generator = torch.Generator().manual_seed(0x5EED_0000 + seed)
    start = pair.judge if _has_plain_factors(pair) else merged_copy(pair.judge)
    replaced = dict(_random_tensors(pair.base, start, generator))
    for _, layer in tuner_layers(start):
        replaced |= _random_factors(cast(LoraLayer, layer), generator)
    if not replaced:
        raise PairMismatch(
            "base and judge don't differ, so no random change can match theirs.", argument="judge", got=pair.name
        )
    judge = weight_sharing_shadow(start, replace=replaced)
    return pair.with_judge(judge, name=f"random delta of equal norm, seed {seed}")


def _has_plain_factors(pair: Pair) -> bool:
    """Return whether all that adapter layers change are products of factors on the base's own weights.

    Adapters are only ever attached to offloaded weights of the base itself.
    """
    own = {id(parameter) for parameter in pair.base.parameters()}
    return all(
        is_plain_lora(layer) and all(id(p) in own or p.is_meta for p in layer.get_base_layer().parameters())
        for _, layer in tuner_layers(pair.judge)
    )


def _random_tensors(
    base: nn.Module, judge: nn.Module, generator: torch.Generator
) -> Iterator[tuple[Tensor, nn.Parameter]]:
    originals = dict(base.named_parameters(remove_duplicate=False))
    for name, parameter in judge.named_parameters():
        original = originals.get(untuned_name(name))
        if original is None or original is parameter or same_place(base, judge, name):
            continue
        require_numbers(parameter, name=name)
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
    if not lora_factors(layer):
        return {}  # no active adapter sits here
    wanted = adapter_norm(layer)
    drawn: dict[Tensor, nn.Parameter] = {}
    ups: list[nn.Parameter] = []
    for adapter in layer.active_adapters:
        embedding = adapter not in layer.lora_A
        if embedding and adapter not in layer.lora_embedding_A:
            continue  # an active adapter that leaves this layer alone
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
