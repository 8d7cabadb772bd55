"""What is swapped: a block, its attention, its MLP, its norms, one head, or what stands outside the blocks.

Modules of a block are disjoint. ``attn`` is the attention with all it holds (query and key norms too), ``mlp`` every
other child that holds a matrix, ``norms`` the children that hold only vectors: the norms before and after both. A
head is its rows of the query projection and its columns of the output projection; where query heads share keys and
values, these are a part of their own, ``kv_head``, else they belong to the head. The output projection's bias and
norms shared by heads belong to no head.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.errors import ParameterError
from workbench.hooks import Anatomy, Component, HooksBackend, Port, Site

Granularity = Literal["layer", "module", "head"]
Kind = Literal["layer", "attn", "mlp", "norms", "head", "kv_head", "embedding", "final_norm", "unembed"]

GRANULARITIES: tuple[Granularity, ...] = ("layer", "module", "head")
"""Whole blocks; their modules and what stands outside the blocks; heads."""
OUTSIDE: tuple[Kind, ...] = ("embedding", "final_norm", "unembed")
"""Parts that belong to no block; the last two are the readout."""
HEADS: tuple[Kind, ...] = ("head", "kv_head")
"""Parts that are slices of projections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a model's weights."""

    kind: Kind
    """What it is; see the module."""
    layer: int | None = None
    """Block, from 0; None outside the blocks."""
    head: int | None = None
    """Head, or key-value head."""

    def __str__(self) -> str:
        """Return e.g. ``attn 3``, ``head 3.1`` or ``unembed``."""
        at = "" if self.layer is None else f" {self.layer}" + ("" if self.head is None else f".{self.head}")
        return f"{self.kind}{at}"


def parts_of(anatomy: Anatomy, granularity: Sequence[str], *, layers: Iterable[int] | None = None) -> tuple[Part, ...]:
    """Return the parts of a model: blocks, then modules, then heads, each in order of their layers.

    Args:
        anatomy: What the model has.
        granularity: Some of :data:`GRANULARITIES`.
        layers: Which blocks; all by default.

    Raises:
        ParameterError: A granularity or a block doesn't exist.
    """
    if not granularity or set(granularity) - set(GRANULARITIES) or len(set(granularity)) < len(granularity):
        raise ParameterError(
            "unknown or repeated parts.", argument="granularity", got=list(granularity), allowed=GRANULARITIES
        )
    depths = list(range(anatomy.n_layers)) if layers is None else sorted(set(layers))
    if not depths or depths[0] < 0 or depths[-1] >= anatomy.n_layers:
        raise ParameterError("no such blocks.", argument="layers", got=depths, allowed=f"0 to {anatomy.n_layers - 1}")
    found: list[Part] = []
    if "layer" in granularity:
        found += [Part(kind="layer", layer=layer) for layer in depths]
    if "module" in granularity:
        candidates = [Part(kind=kind, layer=layer) for kind in ("attn", "mlp", "norms") for layer in depths]
        found += [part for part in candidates if paths_of(anatomy, part)]
        found += [part for part in (Part(kind=kind) for kind in OUTSIDE) if paths_of(anatomy, part)]
    if "head" in granularity:
        found += [part for layer in depths for part in _heads(anatomy, layer)]
    return tuple(found)


def _heads(anatomy: Anatomy, layer: int) -> list[Part]:
    if any(Site(component, layer) not in anatomy.ports for component in _PROJECTIONS):
        return []
    found = [Part(kind="head", layer=layer, head=head) for head in range(anatomy.n_heads)]
    if anatomy.n_kv_heads < anatomy.n_heads:
        found += [Part(kind="kv_head", layer=layer, head=head) for head in range(anatomy.n_kv_heads)]
    return found


_PROJECTIONS = (Component.Q, Component.K, Component.V, Component.Z)


def paths_of(anatomy: Anatomy, part: Part) -> tuple[str, ...]:
    """Return the modules a part consists of; none for heads, which are slices of modules."""
    if part.kind == "final_norm":
        return (anatomy.final_norm,)
    if part.kind == "unembed":
        return (anatomy.unembed,)
    if part.kind == "embedding":
        return tuple(_outermost(anatomy.module, "", {anatomy.blocks_path, anatomy.final_norm, anatomy.unembed}))
    block = f"{anatomy.blocks_path}.{part.layer}"
    if part.kind == "layer":
        return (block,)
    attention = f"{block}.{_attention(anatomy, part.layer or 0)}"
    return tuple(
        path
        for path in (f"{block}.{name}" for name, _ in anatomy.module.get_submodule(block).named_children())
        if _kind(anatomy.module.get_submodule(path), attention=path == attention) == part.kind
    )


def _attention(anatomy: Anatomy, layer: int) -> str:
    sites = (Site(Component.Z, layer), Site(Component.ATTN_OUT, layer))
    port = next(anatomy.ports[site] for site in sites if site in anatomy.ports)
    return port.path.removeprefix(f"{anatomy.blocks_path}.{layer}.").partition(".")[0]


def _kind(child: nn.Module, *, attention: bool) -> Kind | None:
    if attention:
        return "attn"
    axes = [parameter.ndim for parameter in child.parameters()]
    return None if not axes else "mlp" if max(axes) > 1 else "norms"


def _outermost(module: nn.Module, path: str, apart: set[str]) -> Iterator[str]:
    for name, child in module.named_children():
        here = f"{path}.{name}" if path else name
        if here in apart:
            continue
        if any(other.startswith(f"{here}.") for other in apart):
            yield from _outermost(child, here, apart)
        elif any(True for _ in child.parameters()):
            yield here


def slices_of(anatomy: Anatomy, part: Part) -> tuple[tuple[Port, int], ...]:
    """Return the ports a head consists of, with the index of the head there; the output projection's is an input."""
    grouped = anatomy.n_kv_heads < anatomy.n_heads
    components = [Component.K, Component.V] if part.kind == "kv_head" else [Component.Q, Component.Z]
    if part.kind == "head" and not grouped:
        components += [Component.K, Component.V]
    head = 0 if part.head is None else part.head
    return tuple((anatomy.port(Site(component, part.layer or 0)), head) for component in components)


def unchanged(base: HooksBackend, judge: HooksBackend, parts: Sequence[Part]) -> Bool[Tensor, " part"]:
    """Return which parts hold the same bits in both models: their swap is exactly nothing.

    A module is held unchanged when its tensors have the same names and values; one with an adapter isn't, whatever
    the adapter does. Of projections the linear map itself is compared, column by column.
    """
    same: dict[str, bool] = {}
    maps: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}

    def module_same(path: str) -> bool:
        if path not in same:
            same[path] = same_tensors(base.module.get_submodule(path), judge.module.get_submodule(path))
        return same[path]

    def slice_same(port: Port, head: int) -> bool:
        if module_same(port.path):
            return True
        for side, executor in enumerate((base, judge)):
            if (side, port.path) not in maps:
                maps[side, port.path] = linear_map(executor.module.get_submodule(port.path))
        left, right = (_of_head(maps[side, port.path], port, head) for side in (0, 1))
        return all(torch.equal(a, b.to(a.device)) for a, b in zip(left, right, strict=True))

    found = []
    for part in parts:
        if part.kind in HEADS:
            found.append(all(slice_same(port, head) for port, head in slices_of(base.anatomy, part)))
            if part is parts[-1] or parts[parts.index(part) + 1].layer != part.layer:
                maps.clear()
        else:
            found.append(all(module_same(path) for path in paths_of(base.anatomy, part)))
    return torch.tensor(found, dtype=torch.bool)


def same_tensors(left: nn.Module, right: nn.Module) -> bool:
    """Return whether two modules hold tensors of the same names and values."""
    if left is right:
        return True
    own, other = (dict(module.named_parameters(remove_duplicate=False)) for module in (left, right))
    return own.keys() == other.keys() and all(_same(tensor, other[name]) for name, tensor in own.items())


def _same(left: Tensor, right: Tensor) -> bool:
    if left is right:
        return True
    # Codes of a quantiser say nothing without their scales; numbers that are elsewhere can't be compared.
    if left.is_meta or right.is_meta or not left.is_floating_point() or left.shape != right.shape:
        return False
    return torch.equal(left, right.to(left.device))


@torch.no_grad()
def linear_map(module: nn.Module) -> tuple[Float[Tensor, "d_in d_out"], Float[Tensor, " d_out"]]:
    """Return matrix and bias of any linear module, adapter included, by asking it for every unit vector."""
    if type(module) is nn.Linear:
        bias = module.weight.new_zeros(len(module.weight)) if module.bias is None else module.bias
        return module.weight.detach().T, bias.detach()
    reference = next(module.parameters())
    width = int(getattr(module, "in_features", 0)) or int(reference.shape[0])
    bias = module(reference.new_zeros(1, 1, width))[0, 0]
    return module(torch.eye(width, dtype=reference.dtype, device=reference.device)[None])[0] - bias, bias


def _of_head(found: tuple[Tensor, Tensor], port: Port, head: int) -> tuple[Tensor, ...]:
    matrix, bias = found
    if port.side == "in":
        return (port.read(matrix.T[None])[0, :, head],)
    return port.read(matrix[None])[0, :, head], port.read(bias[None, None])[0, 0, head]
