"""One model runs with one part of its weights taken from the other; no weight is copied or written.

Modules: the other model's module runs in place of this one's, with its adapter. Heads: both models' projections read
the same input, and the head's slice of the other's output takes the place of this one's; behind the heads

    out = own(z) + [other(z of the head) - other(0)] - [own(z of the head) - own(0)]

so that biases stay this model's and adapters act. Everything is as it was when the context closes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from analyses.cross_model_patching.weights.parts import HEADS, Part, linear_map, paths_of, slices_of
from workbench.hooks import HooksBackend, Port, module_lock, weight_sharing_shadow
from workbench.hooks.executor import entered
from workbench.hooks.ports import first, put_first
from workbench.hooks.torch_backend import forward_replaced


@contextmanager
def swapped(target: HooksBackend, donor: HooksBackend, parts: Iterable[Part]) -> Iterator[None]:
    """Let the donor's parts run in the target while open.

    Args:
        target: Whose forwards change.
        donor: Whose weights they take.
        parts: What is swapped; modules don't overlap.
    """
    with ExitStack() as stack:
        stack.enter_context(module_lock(target.module))
        stack.enter_context(entered(donor.module, around=donor.around))
        # A model against itself has nothing to take: its own module in its own place would call itself.
        for part in () if target.module is donor.module else parts:
            if part.kind in HEADS:
                _swap_head(stack, target, donor, part)
                continue
            for path in paths_of(target.anatomy, part):
                own, other = (executor.module.get_submodule(path) for executor in (target, donor))
                stack.enter_context(forward_replaced(own, other))
        yield


def _swap_head(stack: ExitStack, target: HooksBackend, donor: HooksBackend, part: Part) -> None:
    entering: dict[str, list[tuple[Port, int]]] = {}
    for port, head in slices_of(target.anatomy, part):
        if port.side == "in":
            module, other = _both(target, donor, port.path)
            stack.enter_context(_leaving(module, _output_swapped(other, port, head)))
        else:
            entering.setdefault(port.path, []).append((port, head))
    for path, slices in entering.items():
        module, other = _both(target, donor, path)
        stack.enter_context(_leaving(module, _slices_swapped(other, slices)))


def _both(target: HooksBackend, donor: HooksBackend, path: str) -> tuple[nn.Module, nn.Module]:
    return target.module.get_submodule(path), donor.module.get_submodule(path)


Change = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Given a module, its input and its output, returns what stands in for the output."""


@contextmanager
def _leaving(module: nn.Module, change: Change) -> Iterator[None]:
    def hook(child: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        read = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        return put_first(output, change(child, read, first(output)))

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _slices_swapped(other: nn.Module, slices: list[tuple[Port, int]]) -> Change:
    def change(_module: nn.Module, read: Tensor, own: Tensor) -> Tensor:
        given = first(other(read)).to(own)
        for port, head in slices:
            own = _with_head(own, given, port, head)
        return own

    return change


def _with_head(own: Tensor, given: Tensor, port: Port, head: int) -> Tensor:
    heads = port.read(own).clone()
    heads[..., head, :] = port.read(given)[..., head, :]
    return port.write(own, heads)


def _output_swapped(other: nn.Module, port: Port, head: int) -> Change:
    def change(module: nn.Module, read: Tensor, own: Tensor) -> Tensor:
        alone = head_only(read, port, head)
        return own + (write_of(other, alone) - write_of(module.forward, alone))

    return change


@contextmanager
def head_write_replaced(target: HooksBackend, donor: HooksBackend, port: Port, head: int, z: Tensor) -> Iterator[None]:
    """Put one head's write of the donor, ``W_O z`` with the donor's own z and W_O, in place of the target's.

    Args:
        target: Whose output projection is behind the head.
        donor: Whose output projection and activations take its place.
        port: The projection's input.
        head: Which head.
        z: All heads of the donor on the same prompts, as the projection reads them, ``[prompt pos width]``.
    """
    module, other = _both(target, donor, port.path)
    given: list[Tensor] = []

    def change(own: nn.Module, read: Tensor, output: Tensor) -> Tensor:
        given[:] = given or [write_of(other, head_only(z.to(read), port, head))]
        return output + (given[0].to(output) - write_of(own.forward, head_only(read, port, head)))

    with module_lock(target.module), entered(donor.module, around=donor.around), _leaving(module, change):
        yield


def head_only(z: Tensor, port: Port, head: int) -> Tensor:
    """Return what a projection reads with every other head silent."""
    heads = port.read(z)
    alone = torch.zeros_like(heads)
    alone[..., head, :] = heads[..., head, :]
    return port.write(z, alone)


def write_of(project: Callable[[Tensor], Any], read: Tensor) -> Tensor:
    """Return what a projection makes of its input, without its bias."""
    return first(project(read)) - first(project(torch.zeros_like(read[:1, :1])))


def really_replaced(target: HooksBackend, donor: HooksBackend, parts: Iterable[Part]) -> HooksBackend:
    """Return the same swap done the plain way, for checks: a clone of the target that holds the other's tensors.

    Args:
        target: Model that is cloned, sharing its weights.
        donor: Whose modules, or slices of linear maps, are put into the clone.
        parts: What is swapped.
    """
    clone = weight_sharing_shadow(target.module)
    for part in parts:
        for path in () if part.kind in HEADS else paths_of(target.anatomy, part):
            _put(clone, path, donor.module.get_submodule(path))
        for port, head in slices_of(target.anatomy, part) if part.kind in HEADS else ():
            matrices = [linear_map(module.get_submodule(port.path)) for module in (clone, donor.module)]
            _put(clone, port.path, _mixed(matrices, port, head))
    return HooksBackend(clone, replace(target.anatomy, module=clone), around=target.around)


def _mixed(maps: list[tuple[Tensor, Tensor]], port: Port, head: int) -> nn.Linear:
    (own, bias), (other, other_bias) = maps
    if port.side == "in":
        matrix = _with_head(own.T[None], other.T[None], port, head)[0].T
    else:
        matrix = _with_head(own[None], other[None], port, head)[0]
        bias = _with_head(bias[None, None], other_bias[None, None], port, head)[0, 0]
    made = nn.Linear(matrix.shape[0], matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    made.weight, made.bias = nn.Parameter(matrix.T.contiguous()), nn.Parameter(bias.clone())
    return made.eval()


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    root.get_submodule(parent).register_module(name, module)
