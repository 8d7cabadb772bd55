"""One capture/edit program for all executors: validated, ordered, and free of any backend's names.

A program is a list of *points* (whole-component sites). An executor reaches each point in turn, hands
its value to :meth:`Program.visit` and writes back what it returns. Everything else, positions, heads,
the order of edits and captures, gradients, what counts as a change, is decided here once.

Writing resid_mid needs care: modules expose it as the input of the second norm, which the residual
branch bypasses. A program that edits it therefore also notes mlp_out and rebuilds resid_post as
``resid_mid + mlp_out``, the sum the model itself computes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import EditError, ParameterError
from workbench.hooks.activations import Activations
from workbench.hooks.anatomy import Anatomy
from workbench.hooks.edits import Edit
from workbench.hooks.sites import Component, Site
from workbench.tokens import TokenBatch


@dataclass(slots=True)
class Record:
    """What one execution of a program left: filled by :meth:`Program.visit`."""

    captured: dict[Site, Tensor] = field(default_factory=dict)
    """Post-edit values."""
    versions: dict[Site, int] = field(default_factory=dict)
    """Write counters of the captured tensors at capture time."""
    changed: dict[int, Tensor] = field(default_factory=dict)
    """By index of the edit: a scalar bool tensor, left on its device so that no step waits for it."""
    stream: dict[Site, Tensor] = field(default_factory=dict)
    """Edited resid_mid and the mlp_out to be added to it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """Edits and captures of one run, ready to be executed."""

    edits: tuple[Edit, ...]
    """In the order given; several at one site are applied one after the other."""
    capture: tuple[Site, ...]
    """Sites to read."""
    positions: Int[Tensor, "prompt k"] | None
    """Columns captures keep."""
    mask: Bool[Tensor, "prompt pos"]
    """Real tokens."""
    prompt_ids: tuple[str, ...]
    """Labels of the rows."""
    points: tuple[Site, ...]
    """Whole-component sites in execution order."""
    rebuilt: frozenset[int]
    """Layers whose resid_post is rebuilt from an edited resid_mid."""
    grad: bool
    """Whether captures are part of the autograd graph."""
    check_edits: bool
    """Whether an edit that changed nothing is an error."""
    start: int = 0
    """First block that runs."""
    resid: Float[Tensor, "prompt pos d_model"] | None = None
    """Stream that enters block ``start`` in place of the one computed below; None computes it."""

    def visit(self, point: Site, value: Tensor, record: Record) -> Tensor | None:
        """Edit, then read, the value at a point; None means it stays as it is."""
        new = self._entering(point, value, record)
        for index, edit in enumerate(self.edits):
            if edit.site.whole == point:
                new = self._edit(index, edit, new, record)
        for site in self.capture:
            if site.whole == point:
                new = self._capture(site, new, record)
        if point.layer in self.rebuilt and point.component in (Component.RESID_MID, Component.MLP_OUT):
            record.stream[point] = new
        # A view that wasn't written back isn't an ancestor of the logits, hence has no gradient.
        return None if new is value and not self.grad else new

    def _entering(self, point: Site, value: Tensor, record: Record) -> Tensor:
        if self.resid is not None and point == Site(Component.RESID_PRE, self.start):
            return self.resid.to(value)
        if point.component is not Component.RESID_POST or point.layer not in self.rebuilt:
            return value
        return (
            record.stream[Site(Component.RESID_MID, point.layer)] + record.stream[Site(Component.MLP_OUT, point.layer)]
        )

    def _edit(self, index: int, edit: Edit, value: Tensor, record: Record) -> Tensor:
        target = select(value, site=edit.site, positions=edit.positions)
        edited = edit.transform(target)
        if self.check_edits:
            touched = self.mask if edit.positions is None else torch.ones_like(edit.positions, dtype=torch.bool)
            moved = (edited.detach() != target.detach()).flatten(2).any(-1)
            record.changed[index] = (moved & touched.to(moved.device)).any()
        else:
            record.changed[index] = torch.ones((), dtype=torch.bool)
        return replaced(value, edited, site=edit.site, positions=edit.positions)

    def _capture(self, site: Site, value: Tensor, record: Record) -> Tensor:
        kept = select(value, site=site, positions=self.positions)
        if self.grad:
            # Only an ancestor of the logits has a gradient: the selection is written back into the stream.
            kept = kept if kept.requires_grad else kept.detach().requires_grad_()
            value = replaced(value, kept, site=site, positions=self.positions)
        elif kept.untyped_storage().nbytes() > kept.nbytes:
            kept = kept.clone()  # a view would keep the tensor it was cut from alive
        record.captured[site] = kept
        record.versions[site] = kept._version  # noqa: SLF001 - the only public sign of an in-place write
        return value

    def after_prompt(self) -> "Program":
        """Return the program of tokens generated after the prompt: without the edits of particular prompt tokens."""
        edits = tuple(edit for edit in self.edits if not edit.per_position)
        layers = frozenset(edit.site.layer for edit in edits if edit.site.component is Component.RESID_MID)
        return replace(self, edits=edits, capture=(), positions=None, rebuilt=layers, check_edits=False, resid=None)

    def finish(self, record: Record) -> Activations:
        """Check what the run left and label it.

        Raises:
            EditError: An edit never fired or changed nothing, or the model wrote into a captured tensor.
        """
        for index, edit in enumerate(self.edits):
            if index not in record.changed:
                raise EditError(
                    "this edit was never reached.",
                    argument="edits",
                    got=_describe(edit),
                    fix="Report this architecture.",
                )
            if not bool(record.changed[index]):
                raise EditError(
                    "this edit changed nothing: the values were already there.",
                    argument="edits",
                    got=_describe(edit),
                    fix="Check that donor and receiver differ; for a deliberate self-patch pass check_edits=False.",
                )
        for site, kept in record.captured.items():
            if record.versions[site] != kept._version:  # noqa: SLF001
                raise EditError(
                    "the model wrote into this activation after it was read.", argument="capture", got=str(site)
                )
        ordered = {site: record.captured[site] for site in self.capture}
        return Activations(tensors=ordered, prompt_ids=self.prompt_ids, positions=self.positions)


def _describe(edit: Edit) -> str:
    return f"{type(edit).__name__} at {edit.site}"


def select(value: Tensor, *, site: Site, positions: Int[Tensor, "prompt k"] | None) -> Tensor:
    """Return the part of a point's value that a site and columns name."""
    part = value if site.head is None else value[:, :, site.head]
    if positions is None:
        return part
    columns = positions.to(value.device)
    return part[torch.arange(len(columns), device=value.device)[:, None], columns]


def replaced(value: Tensor, new: Tensor, *, site: Site, positions: Int[Tensor, "prompt k"] | None) -> Tensor:
    """Return the point's value with that part replaced; every other element keeps its bits."""
    if site.head is None and positions is None:
        return new
    out = value.clone()
    part = out if site.head is None else out[:, :, site.head]
    if positions is None:
        part.copy_(new)
    else:
        columns = positions.to(value.device)
        part[torch.arange(len(columns), device=value.device)[:, None], columns] = new
    return out


def prepare(
    anatomy: Anatomy,
    batch: TokenBatch,
    *,
    edits: Sequence[Edit] = (),
    capture: Iterable[Site] = (),
    positions: Int[Tensor, "prompt k"] | None = None,
    grad: bool = False,
    check_edits: bool = True,
    stop_after: Site | None = None,
    start: int = 0,
    resid: Float[Tensor, "prompt pos d_model"] | None = None,
) -> Program:
    """Validate a run against the anatomy and the batch.

    Args:
        anatomy: What the model has.
        batch: What it will read.
        edits: Applied in order.
        capture: Sites to keep, each once.
        positions: Columns of the padded batch captures keep; negative ones count from the end.
        grad: Keep captures in the autograd graph.
        check_edits: Refuse edits that change nothing.
        stop_after: Last site that runs.
        start: First block that runs.
        resid: Stream that enters it; None computes it from the prompts.

    Raises:
        UnknownSite: A site doesn't exist in this model.
        EditError: An edit doesn't fit its site, or lies where nothing runs; ``resid`` has another shape.
        ParameterError: Positions are outside the prompts, or a capture lies where nothing runs.
    """
    wanted = tuple(dict.fromkeys(capture))
    for site in (*wanted, *(edit.site for edit in edits), *(() if stop_after is None else (stop_after,))):
        anatomy.check(site)
    _check_reach(anatomy, wanted, edits, start=start, stop_after=stop_after)
    kept = None if positions is None else columns_of(positions, batch, distinct=grad)
    ready = tuple(_fitted(edit, anatomy, batch) for edit in edits)
    rebuilt = {site.layer for site in _mid_writes(ready, wanted, grad=grad)}
    if rebuilt and not anatomy.additive:
        raise EditError(
            "resid_mid can be read but not written here: this model doesn't form resid_post as resid_mid + mlp_out.",
            argument="edits",
            fix="Edit attn_out, mlp_out, resid_pre or resid_post instead.",
        )
    helpers = [Site(component, layer) for layer in rebuilt for component in (Component.MLP_OUT, Component.RESID_POST)]
    if stop_after is not None:
        helpers = [site for site in helpers if anatomy.order[site] <= anatomy.order[stop_after.whole]]
    points = {site.whole for site in wanted} | {edit.site.whole for edit in ready} | set(helpers)
    if resid is not None:
        points.add(_entry(anatomy, batch, start, resid))
    return Program(
        edits=ready,
        capture=wanted,
        positions=kept,
        mask=batch.mask,
        prompt_ids=batch.prompt_ids,
        points=tuple(sorted(points, key=lambda site: anatomy.order[site])),
        rebuilt=frozenset(rebuilt),
        grad=grad,
        check_edits=check_edits,
        start=start,
        resid=resid,
    )


def _entry(anatomy: Anatomy, batch: TokenBatch, start: int, resid: Tensor) -> Site:
    site = Site(Component.RESID_PRE, start)
    anatomy.check(site)
    expected = (*batch.ids.shape, anatomy.d_model)
    if tuple(resid.shape) != expected:
        raise EditError(
            "the stream has another shape.", argument="resid", got=tuple(resid.shape), allowed=str(expected)
        )
    return site


def _mid_writes(edits: Iterable[Edit], capture: Iterable[Site], *, grad: bool) -> list[Site]:
    written = [edit.site for edit in edits] + (list(capture) if grad else [])
    return [site for site in written if site.component is Component.RESID_MID]


def _check_reach(
    anatomy: Anatomy, capture: Iterable[Site], edits: Iterable[Edit], *, start: int, stop_after: Site | None
) -> None:
    last = None if stop_after is None else anatomy.order[stop_after.whole]
    for argument, sites in (("capture", capture), ("edits", [edit.site for edit in edits])):
        for site in sites:
            if site.layer < start or (last is not None and anatomy.order[site.whole] > last):
                kind = EditError if argument == "edits" else ParameterError
                raise kind(
                    "this site lies outside the part of the model that runs.",
                    argument=argument,
                    got=str(site),
                    allowed=f"blocks from {start} on" + ("" if stop_after is None else f", up to {stop_after}"),
                )


def columns_of(positions: Int[Tensor, "prompt k"], batch: TokenBatch, *, distinct: bool) -> Int[Tensor, "prompt k"]:
    """Return columns as non-negative indices on the batch's device.

    Raises:
        ParameterError: Not [prompt k], outside the batch, on padding, or repeated where that would be ambiguous.
    """
    rows, width = batch.mask.shape
    if (
        positions.ndim != 2
        or positions.shape[0] != rows
        or positions.is_floating_point()
        or positions.dtype == torch.bool
    ):
        raise ParameterError(
            "columns must be integers of shape [prompt, k].",
            argument="positions",
            got=f"{positions.dtype} of shape {tuple(positions.shape)}",
            allowed=f"[{rows}, k]",
        )
    columns = positions.to(device=batch.device, dtype=torch.long)
    if bool(((columns < -width) | (columns >= width)).any()):
        raise ParameterError(
            "a column lies outside the batch.",
            argument="positions",
            got=columns.tolist(),
            allowed=f"-{width} to {width - 1}",
        )
    columns = columns % width
    if not bool(batch.mask.gather(1, columns).all()):
        raise ParameterError(
            "a column is padding.",
            argument="positions",
            got=columns.tolist(),
            fix="Count from the end, or use the batch's spans.",
        )
    ordered = columns.sort(-1).values
    if distinct and bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        raise ParameterError("a column is named twice in one row.", argument="positions", got=columns.tolist())
    return columns


def _fitted(edit: Edit, anatomy: Anatomy, batch: TokenBatch) -> Edit:
    columns = None if edit.positions is None else columns_of(edit.positions, batch, distinct=True)
    width = batch.mask.shape[1] if columns is None else columns.shape[1]
    try:
        edit.check((len(batch), width, *anatomy.feature(edit.site)))
    except EditError as err:
        raise EditError(
            f"{_describe(edit)}: {err.what}", argument=err.argument, got=err.got, allowed=err.allowed
        ) from err
    return edit if columns is None else replace(cast(Any, edit), positions=columns)
