"""The outer model's blocks with the inner model's writes mixed in, both read off one stream.

    x_{l+1} = (1 - s) outer_l(x_l) + s inner_l(x_l)

The convex form is exact to the bit at s = 0 and s = 1. The inner model's blocks get the inner model's
own masks, rotary tables and windows, which its own forward makes while stand-ins take its blocks' place.
With sub-layers cut apart, both attentions read x_l and both MLPs the same mixed stream after it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import ParameterError
from workbench.hooks import Anatomy, Component, Port, Site, forwards_replaced
from workbench.hooks.heads import StopForward
from workbench.hooks.ports import first, put_first
from workbench.pairs.lockstep.scaling import BlockShares, Share

Stream = Float[Tensor, "prompt pos d_model"]

Blend = Callable[..., Tensor]
"""Mixes two writes: ``blend(own, other, share=share of the other)``."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a model hands a block besides the stream: positional and keyword arguments."""


class Half:
    """One of the two models, as a list of blocks.

    Args:
        module: The model.
        anatomy: Its anatomy.
    """

    def __init__(self, module: nn.Module, anatomy: Anatomy) -> None:
        self.module = module
        self.anatomy = anatomy
        self.blocks = list(module.get_submodule(anatomy.blocks_path).children())

    def block_arguments(self, kwargs: dict[str, Any]) -> list[Arguments]:
        """Run the model with stand-ins for its blocks and return what it hands each of them besides the stream.

        Args:
            kwargs: Keywords of the model's forward.
        """
        seen: list[Arguments] = []

        def stand_in(hidden_states: Tensor, *args: Any, **named: Any) -> Any:
            seen.append((args, named))
            if len(seen) == len(self.blocks):
                raise StopForward
            return (hidden_states,) if self.anatomy.tuple_blocks else hidden_states

        with forwards_replaced(self.blocks, stand_in):
            try:
                self.module(**kwargs)
            except StopForward:
                return seen
        raise ParameterError(
            "not every block of this model runs in a forward.", argument="pair", got=f"{len(seen)} calls of blocks"
        )

    def write(self, component: Component, layer: int) -> tuple[nn.Module, Port]:
        """Return the module whose output is a write of one block, and its port.

        Raises:
            ParameterError: In this architecture the write isn't the output of any one module.
        """
        port = self.anatomy.port(Site(component, layer))
        if port.side != ("in" if component is Component.Z else "out") or port.fused is not None:
            raise ParameterError(
                f"{component} of this architecture isn't the output of a module of its own.",
                argument="component",
                got=port.path,
                fix="Scale whole blocks.",
            )
        return self.module.get_submodule(port.path), port


def exact_blend(own: Tensor, other: Tensor, *, share: Share) -> Tensor:
    """Return ``(1 - share) own + share other``: float32 or better between the ends, untouched at them.

    A write mixed with itself stays untouched at any share.

    Args:
        own: A write, ``[prompt pos d_model]``.
        other: The same write of the other model.
        share: How much of ``other``.
    """
    if other is own:
        return own
    wide = torch.promote_types(own.dtype, torch.float32)
    if not isinstance(share, Tensor):
        if share in (0.0, 1.0):
            return own if share == 0.0 else other
        return ((1.0 - share) * own.to(wide) + share * other.to(wide)).to(own.dtype)
    part = share.to(own.device)[..., None]
    mixed = ((1.0 - part).to(wide) * own.to(wide) + part.to(wide) * other.to(wide)).to(own.dtype)
    return torch.where(part == 0.0, own, torch.where(part == 1.0, other, mixed))


def smooth_blend(own: Tensor, other: Tensor, *, share: Share) -> Tensor:
    """Return the same mix in the form whose derivative in ``share`` is ``other - own``, subtracted in float32.

    Args:
        own: A write, ``[prompt pos d_model]``.
        other: The same write of the other model.
        share: How much of ``other``.
    """
    wide = torch.promote_types(own.dtype, torch.float32)
    part = share.to(own.device, wide)[..., None] if isinstance(share, Tensor) else share
    return (own.to(wide) + part * (other.to(wide) - own.to(wide))).to(own.dtype)


class Lockstep:
    """Runs the inner model's blocks from inside the outer model's forward, while :meth:`open`.

    Args:
        outer: Model whose embedding, final norm and head are used.
        inner: Model whose writes are mixed in.
        differentiable: Whether shares are differentiated; otherwise both ends are exact to the bit.
    """

    def __init__(self, outer: Half, inner: Half, *, differentiable: bool = False) -> None:
        self.outer, self.inner, self.differentiable = outer, inner, differentiable
        self.blend: Blend = smooth_blend if differentiable else exact_blend
        self.same = outer.module is inner.module
        self.shares: Sequence[BlockShares] = ()
        """Shares of the forward that comes next, block by block."""
        self.arguments: Sequence[Arguments] = ()
        """What the inner model hands its blocks in that forward."""
        self.run_both = False
        """Whether both models' blocks run even where one is enough, because their caches are read later."""

    @property
    def needs_inner(self) -> bool:
        """Whether the next forward takes anything from the inner model."""
        return not self.same and (self.run_both or any(share.only != 0.0 for share in self.shares))

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let the outer model's blocks mix; its own forwards are back in place afterwards."""
        with ExitStack() as stack:
            for index, block in enumerate(self.outer.blocks):
                stack.enter_context(forwards_replaced([block], partial(self._block, index, block.forward)))
            yield

    def _block(self, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        shares, stream = self.shares[index], args[0] if args else kwargs["hidden_states"]
        if not self.needs_inner or (shares.only == 0.0 and not self.run_both):
            output = forward(*args, **kwargs)
            # A model against itself runs each block twice, so that a block that doesn't repeat itself shows.
            again = forward(*args, **kwargs) if self.differentiable else output
            return put_first(output, self.blend(first(output), first(again), share=shares.attention))
        if shares.only == 1.0 and not self.run_both:
            other = self._inner_block(index, stream)
            return (other,) if self.outer.anatomy.tuple_blocks else other
        if shares.whole or shares.only is not None:
            output = forward(*args, **kwargs)
            own = first(output)
            other = self._inner_block(index, stream).to(own.device)
            return put_first(output, self.blend(own, other, share=shares.attention))
        return _Sublayers(self, index, stream).run(lambda: forward(*args, **kwargs))

    def _inner_block(self, index: int, stream: Stream) -> Stream:
        positional, named = self.arguments[index]
        return first(self.inner.blocks[index](stream, *positional, **named))


class _Sublayers:
    """One block with its sub-layers cut apart: the inner block runs inside the outer block's attention.

    There both attentions are known, so both MLPs can read the mixed stream.
    """

    def __init__(self, lockstep: Lockstep, index: int, stream: Stream) -> None:
        self.step, self.index, self.stream = lockstep, index, stream
        self.shares = lockstep.shares[index]
        self.inner_attention: Tensor | None = None
        self.inner_mlp: Tensor | None = None
        self._check()

    def run(self, outer_block: Callable[[], Any]) -> Any:
        """Run the outer block with its attention's and its MLP's write mixed."""
        half = self.step.outer
        at_attention = self._heads_of_outer if self.shares.heads else self._attention_of_outer
        with (
            self._on(half, Component.Z if self.shares.heads else Component.ATTN_OUT, at_attention),
            ExitStack() as rest,
        ):
            if self.shares.heads:
                rest.enter_context(self._on(half, Component.ATTN_OUT, self._after_heads))
            rest.enter_context(self._on(half, Component.MLP_OUT, self._mlp_of_outer))
            return outer_block()

    def _attention_of_outer(self, _module: nn.Module, _entered: Tensor, own: Tensor) -> Tensor:
        def mix(_inner: nn.Module, _read: Tensor, other: Tensor) -> Tensor:
            self.inner_attention = self.step.blend(own, other.to(own.device), share=self.shares.attention)
            return self.inner_attention.to(other.device)

        self._run_inner(Component.ATTN_OUT, mix)
        return _present(self.inner_attention)

    def _heads_of_outer(self, module: nn.Module, entered: Tensor, _own: Tensor) -> Tensor:
        mixed: list[Tensor] = []

        def mix(inner: nn.Module, read: Tensor, other: Tensor) -> Tensor:
            mixed.append(self._mix_heads((module, entered), (inner, read.to(entered.device))))
            return mixed[0].to(other.device)

        def note(_inner: nn.Module, _read: Tensor, other: Tensor) -> None:
            self.inner_attention = other

        with self._on(self.step.inner, Component.ATTN_OUT, note):
            self._run_inner(Component.Z, mix)
        return mixed[0]

    def _after_heads(self, _module: nn.Module, _entered: Tensor, own: Tensor) -> Tensor:
        return self.step.blend(own, _present(self.inner_attention).to(own.device), share=self.shares.attention)

    def _mlp_of_outer(self, _module: nn.Module, _entered: Tensor, own: Tensor) -> Tensor:
        return self.step.blend(own, _present(self.inner_mlp).to(own.device), share=self.shares.mlp)

    def _run_inner(self, component: Component, mix: "Action") -> None:
        def note(_inner: nn.Module, _read: Tensor, other: Tensor) -> None:
            self.inner_mlp = other

        half = self.step.inner
        with self._on(half, component, mix), self._on(half, Component.MLP_OUT, note):
            self.step._inner_block(self.index, self.stream)  # noqa: SLF001 - two classes of one mechanism

    def _mix_heads(self, outer: tuple[nn.Module, Tensor], inner: tuple[nn.Module, Tensor]) -> Tensor:
        """Run both output projections on their own heads, each scaled by its share, and put the biases right."""
        rest, wide = self.shares.attention, torch.promote_types(outer[1].dtype, torch.float32)
        if isinstance(rest, Tensor):
            raise ParameterError("the rest of a block of heads has one scale.", argument="elsewhere", got="a tensor")
        parts = [self._scaled(*outer, inside=False, rest=1.0 - rest), self._scaled(*inner, inside=True, rest=rest)]
        biases = [module.forward(torch.zeros_like(z[:1, :1])).to(wide) for module, z in (outer, inner)]
        whole = sum(part.to(wide) for part in parts) - rest * biases[0] - (1.0 - rest) * biases[1]
        return whole.to(parts[0].dtype)

    def _scaled(self, module: nn.Module, z: Tensor, *, inside: bool, rest: float) -> Tensor:
        _, port = self.step.outer.write(Component.Z, self.index)
        heads = port.read(z)
        share = self.shares.chosen
        weight = torch.full(heads.shape[:-1], rest, dtype=torch.float64, device=z.device)
        own = share.to(z.device)[..., None] if isinstance(share, Tensor) else share
        weight[..., list(self.shares.heads)] = own if inside else 1.0 - own
        return module.forward(port.write(z, heads * weight[..., None].to(z.dtype)))

    def _on(self, half: Half, component: Component, act: "Action") -> "Any":
        return _acting(half.write(component, self.index)[0], act)

    def _check(self) -> None:
        anatomy = self.step.outer.anatomy
        sites = {component: Site(component, self.index) for component in (Component.ATTN_OUT, Component.MLP_OUT)}
        if anatomy.order[sites[Component.ATTN_OUT]] > anatomy.order[sites[Component.MLP_OUT]]:
            raise ParameterError(
                "in this architecture the MLP runs before attention.", argument="component", fix="Scale whole blocks."
            )
        inside = self.step.outer.write(Component.Z, self.index)[1].path if self.shares.heads else ""
        normed = bool(inside) and not inside.startswith(anatomy.port(sites[Component.ATTN_OUT]).path)
        if normed and self.shares.attention not in (0.0, 1.0):
            raise ParameterError(
                "a norm follows the heads of this architecture, so between base and judge their sum has no one value.",
                argument="elsewhere",
                got=self.shares.attention,
                allowed="0 or 1",
            )


Action = Callable[[nn.Module, Tensor, Tensor], Tensor | None]
"""What happens at a module's end: given the module, its input and its output, the output's replacement."""


@contextmanager
def _acting(module: nn.Module, act: Action) -> Iterator[None]:
    def hook(child: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        entered = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        new = act(child, entered, first(output))
        return None if new is None else put_first(output, new)

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _present(value: Tensor | None) -> Tensor:
    if value is None:
        raise ParameterError("the inner block didn't run its sub-layers in order.", argument="component")
    return value
