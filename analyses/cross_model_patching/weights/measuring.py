"""One batch of prompts: every part swapped, and the same places patched, from the cached stream that enters its block.

Blocks below a swapped part are as they were, so each swap begins at the part's own block with the stream the clean
model had there at *all* positions; of the last block only what the last token reads is computed. A sweep over all
layers costs about half of as many forwards, and nothing is approximated.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analyses.cross_model_patching.sweeping import as_numpy
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.cross_model_patching.weights.parts import HEADS, Part, same_tensors
from analyses.cross_model_patching.weights.swapping import head_write_replaced, really_replaced, swapped
from workbench.errors import ExecutorDisagreement
from workbench.hooks import (
    Activations,
    Anatomy,
    Component,
    Edit,
    HooksBackend,
    Patch,
    Site,
    TailPlan,
    last_tokens_only,
)
from workbench.hooks.suffix.ability import tolerance
from workbench.hooks.torch_backend import forward_replaced
from workbench.tokens import TokenBatch


class Held(NamedTuple):
    """One model's clean forward of a batch, and what swaps and patches take from it."""

    executor: HooksBackend
    """Whose model."""
    batch: TokenBatch
    """The prompts."""
    activations: Activations
    """The stream that enters each block, and the sites asked for, at all positions."""
    logits: Float[Tensor, "prompt vocab"]
    """Logits of the last column."""

    def stream(self, layer: int) -> Float[Tensor, "prompt pos d_model"]:
        """Return what enters a block."""
        return self.activations[Site(Component.RESID_PRE, layer)]


def held(executor: HooksBackend, batch: TokenBatch, *, sites: Sequence[Site] = ()) -> Held:
    """Run a model once and keep what its swaps and patches need.

    Args:
        executor: Whose model.
        batch: The prompts.
        sites: More sites to keep.
    """
    TailPlan.of(executor.anatomy)  # probed before anything is swapped
    streams = [Site(Component.RESID_PRE, layer) for layer in range(executor.anatomy.n_layers)]
    with _narrow(executor):
        run = executor.run(batch, capture=[*streams, *sites])
    return Held(executor, batch, run.activations, _logits(run.logits))


def swapped_logits(target: Held, donor: HooksBackend, parts: Sequence[Part]) -> Float[Tensor, "prompt vocab"]:
    """Return the target's logits with some parts of its weights taken from the donor.

    Args:
        target: A clean forward of the model that is changed.
        donor: Whose weights are taken.
        parts: What is swapped, together.
    """
    with swapped(target.executor, donor, parts), _narrow(target.executor, donor):
        return _resumed(target, _first_block(target.executor.anatomy, parts))


def layer_swaps(
    target: HooksBackend, donor: HooksBackend, batch: TokenBatch, *, layers: Iterable[int] | None = None
) -> Float[Tensor, "layer prompt vocab"]:
    """Return the target's last logits with each block swapped in turn: all of a layer sweep, its clean forward too.

    Args:
        target: Model that is changed; left as it was.
        donor: Whose blocks are taken.
        batch: The prompts.
        layers: Which blocks; all by default.
    """
    clean = held(target, batch)
    chosen = range(target.anatomy.n_layers) if layers is None else layers
    return torch.stack([swapped_logits(clean, donor, [Part(kind="layer", layer=layer)]) for layer in chosen])


def _first_block(anatomy: Anatomy, parts: Sequence[Part]) -> int | None:
    if any(part.kind == "embedding" for part in parts):
        return None
    return min(anatomy.n_layers - 1 if part.layer is None else part.layer for part in parts)


def _resumed(target: Held, layer: int | None, edits: Sequence[Edit] = ()) -> Tensor:
    executor = target.executor
    if layer is None:
        return _logits(executor.run(target.batch, edits=edits, check_edits=False).logits)
    run = executor.suffix(layer, target.stream(layer), target.batch, edits=edits, check_edits=False)
    return _logits(run.logits)


def _logits(found: Tensor | None) -> Tensor:
    if found is None:
        raise RuntimeError("a run without logits")
    return found


@contextmanager
def _narrow(*executors: HooksBackend) -> Iterator[None]:
    """Let the last block of the first model compute only what its last token needs; nothing later reads others."""
    anatomy = executors[0].anatomy
    block = executors[0].module.get_submodule(f"{anatomy.blocks_path}.{anatomy.n_layers - 1}")
    own: Callable[..., Any] = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for executor in executors:
                stack.enter_context(last_tokens_only(executor))
            return own(*args, **kwargs)

    with forward_replaced(block, forward):
        yield


def seen_sites(anatomy: Anatomy, part: Part) -> tuple[Site, ...]:
    """Return the activations a part writes, which are patched beside its swap; none where it has none of its own."""
    components: Mapping[str, tuple[Component, ...]] = {
        "layer": (Component.ATTN_OUT, Component.MLP_OUT),
        "attn": (Component.ATTN_OUT,),
        "mlp": (Component.MLP_OUT,),
        "head": (Component.Z,),
        "kv_head": (Component.K, Component.V),
        "embedding": (Component.RESID_PRE,),
    }
    sites = tuple(Site(c, part.layer or 0, part.head) for c in components.get(part.kind, ()))
    return sites if all(site.whole in anatomy.ports for site in sites) else ()


def patched_logits(target: Held, donor: Held, sites: Sequence[Site]) -> Float[Tensor, "prompt vocab"]:
    """Return the target's logits with the donor's activations at some sites of one block, at all positions.

    Args:
        target: A clean forward of the model that is patched.
        donor: A clean forward of the model that gives; it kept these sites.
        sites: Where; of one block.
    """
    edits = [Patch(site, _value(donor, site)) for site in sites]
    with _narrow(target.executor):
        return _resumed(target, sites[0].layer, edits)


def _value(clean: Held, site: Site) -> Tensor:
    whole = clean.activations[site.whole]
    return whole if site.head is None else whole[:, :, site.head]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured of every batch."""

    verdict: VerdictIds
    """What is read."""
    parts: tuple[Part, ...]
    """What is swapped."""
    unchanged: Bool[Tensor, " part"]
    """Parts that hold the same bits in both models."""
    directions: tuple[str, ...]
    """Which model is changed."""
    compare: bool = True
    """Whether the same places are patched."""
    heads: bool = True
    """Whether heads are among the places patched."""
    through: bool = True
    """Whether heads are also patched through the donor's own output projection."""
    grafts: bool = True
    """Whether the models are stitched at every depth."""

    def seen(self, anatomy: Anatomy, part: Part) -> tuple[Site, ...]:
        """Return what is patched beside a part's swap."""
        return seen_sites(anatomy, part) if self.heads or part.kind not in HEADS else ()

    def sites(self, anatomy: Anatomy) -> tuple[Site, ...]:
        """Return what is captured for the patches."""
        if not self.compare:
            return ()
        wanted = {site.whole for part in self.parts for site in self.seen(anatomy, part)}
        if self.through:
            layers = {part.layer for part in self.parts if part.kind == "attn"}
            wanted |= {Site(Component.Z, layer) for layer in layers if layer is not None}
        stream = {Site(Component.RESID_PRE, 0)}
        return tuple(sorted(site for site in wanted - stream if site in anatomy.ports))


class Measured(NamedTuple):
    """What one batch gave: effects on the margin, slots as shown; NaN where not measured."""

    base: Float[np.ndarray, " prompt"]
    """The base's own margin."""
    judge: Float[np.ndarray, " prompt"]
    """The judge's own margin."""
    written: Float[np.ndarray, "prompt direction part"]
    """Margin with the part's weights swapped minus margin without; exactly 0 where nothing was changed."""
    seen: Float[np.ndarray, "prompt direction part"]
    """The same with the part's activations patched at all positions."""
    through: Float[np.ndarray, "prompt direction part"]
    """Heads: the donor's z through the donor's output projection."""
    all_z: Float[np.ndarray, "prompt direction layer"]
    """z of all heads of a block patched, through the target's projection; where that was changed."""
    graft: Float[np.ndarray, "prompt depth"]
    """Margin of the judge up to a depth and the base from there on."""


def measure(plan: Plan, base: HooksBackend, judge: HooksBackend, batch: TokenBatch) -> Measured:
    """Swap, patch and stitch one batch.

    Args:
        plan: What is measured.
        base: The base.
        judge: The judge.
        batch: The prompts.
    """
    sites = plan.sites(base.anatomy)
    clean = {"base": held(base, batch, sites=sites), "judge": held(judge, batch, sites=sites)}
    one = _Batch(plan, clean)
    ways = [(clean["base"], clean["judge"]) if way == "judge_to_base" else (clean["judge"], clean["base"])
            for way in plan.directions]  # fmt: skip
    blank = np.full((len(batch), len(ways), len(plan.parts)), np.nan)
    seen, through = (blank, blank.copy())
    all_z = np.full((len(batch), len(ways), base.anatomy.n_layers), np.nan)
    if plan.compare:
        for at, way in enumerate(ways):
            seen[:, at], through[:, at], all_z[:, at] = one.patches(*way)
    return Measured(
        base=one.margin(clean["base"].logits),
        judge=one.margin(clean["judge"].logits),
        written=np.stack([one.swaps(*way) for way in ways], axis=1),
        seen=seen,
        through=through,
        all_z=all_z,
        graft=one.stitched(),
    )


class _Batch:
    """The sweeps of one batch."""

    def __init__(self, plan: Plan, clean: Mapping[str, Held]) -> None:
        self.plan, self.clean = plan, clean
        self.anatomy = clean["base"].executor.anatomy

    def margin(self, logits: Tensor) -> np.ndarray:
        """Return the verdict margins of last logits."""
        return as_numpy(self.plan.verdict.margin(logits[:, list(self.plan.verdict.ids)]))

    def swaps(self, target: Held, donor: Held) -> np.ndarray:
        """Return the effect of every swap, ``[prompt part]``."""
        own, found = self.margin(target.logits), np.zeros((len(target.batch), len(self.plan.parts)))
        for index, part in enumerate(self.plan.parts):
            if not self.plan.unchanged[index]:
                found[:, index] = self.margin(swapped_logits(target, donor.executor, [part])) - own
        return found

    def patches(self, target: Held, donor: Held) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the effects of patching the parts' activations: plainly, heads through the donor's W_O, all z."""
        shape = (len(target.batch), len(self.plan.parts))
        seen, through = np.full(shape, np.nan), np.full(shape, np.nan)
        all_z = np.full((shape[0], self.anatomy.n_layers), np.nan)
        tuned = self._tuned_projections() if self.plan.through else frozenset()
        for index, part in enumerate(self.plan.parts):
            if not (sites := self.plan.seen(self.anatomy, part)):
                continue
            seen[:, index] = self._patch(target, donor, sites)
            if part.kind == "head" and self.plan.through:
                through[:, index] = self._through(target, donor, part) if part.layer in tuned else seen[:, index]
            if part.kind == "attn" and part.layer in tuned:
                all_z[:, part.layer or 0] = self._patch(target, donor, (Site(Component.Z, part.layer or 0),))
        return seen, through, all_z

    def _patch(self, target: Held, donor: Held, sites: Sequence[Site]) -> np.ndarray:
        if all(torch.equal(_value(target, site), _value(donor, site).to(target.logits.device)) for site in sites):
            return np.zeros(len(target.batch))
        return self.margin(patched_logits(target, donor, sites)) - self.margin(target.logits)

    def _through(self, target: Held, donor: Held, part: Part) -> np.ndarray:
        port = self.anatomy.port(Site(Component.Z, part.layer or 0))
        z = donor.activations[Site(Component.Z, part.layer or 0)].flatten(-2)
        with (
            head_write_replaced(target.executor, donor.executor, port, part.head or 0, z),
            _narrow(target.executor, donor.executor),
        ):
            return self.margin(_resumed(target, part.layer)) - self.margin(target.logits)

    def _tuned_projections(self) -> frozenset[int]:
        """Return the blocks whose output projection differs, so that z goes through another one than its own."""
        left, right = (self.clean[side].executor.module for side in ("base", "judge"))
        sites = [Site(Component.Z, layer) for layer in range(self.anatomy.n_layers)]
        paths = {site.layer: self.anatomy.ports[site].path for site in sites if site in self.anatomy.ports}
        return frozenset(
            layer
            for layer, path in paths.items()
            if not same_tensors(left.get_submodule(path), right.get_submodule(path))
        )

    def stitched(self) -> np.ndarray:
        """Return the margin of the judge's embedding and first blocks under the base's others, for every depth."""
        depths = self.anatomy.n_layers + 1
        found = np.full((len(self.clean["base"].batch), depths), np.nan)
        for depth in range(depths) if self.plan.grafts else ():
            found[:, depth] = self.margin(stitched_logits(self.clean["base"], self.clean["judge"], depth))
        return found


def stitched_logits(upper: Held, lower: Held, depth: int) -> Float[Tensor, "prompt vocab"]:
    """Return the logits of one model's embedding and first ``depth`` blocks under the other's rest.

    Args:
        upper: Whose later blocks, final norm and head run.
        lower: Whose embedding and first blocks ran.
        depth: How many blocks are the lower model's; all of them leave the upper one its final norm and head.
    """
    last = upper.executor.anatomy.n_layers - 1
    own_rest: AbstractContextManager[None] = nullcontext()
    if depth > last:
        own_rest = swapped(upper.executor, lower.executor, [Part(kind="layer", layer=last)])
    with own_rest, _narrow(upper.executor, lower.executor):
        return _resumed(upper._replace(activations=lower.activations), min(depth, last))


def checked(plan: Plan, base: HooksBackend, judge: HooksBackend, batch: TokenBatch, *, seed: int) -> float:
    """Do some swaps the plain way, in a clone that holds the other's tensors; return the largest difference, logits.

    One module and one head, and one stitched model against the swap of everything else from the other side.

    Args:
        plan: What is swapped.
        base: The base.
        judge: The judge.
        batch: A few prompts.
        seed: Seed of the choice.

    Raises:
        ExecutorDisagreement: A swap differs by more than rounding in this data type does.
    """
    generator = np.random.default_rng(seed)
    moved = [part for part, same in zip(plan.parts, plan.unchanged.tolist(), strict=True) if not same]
    gaps = [0.0]
    one = held(base, batch)
    allowed = tolerance(one.logits)
    for kinds in (True, False):
        some = [part for part in moved if (part.kind in HEADS) is kinds]
        if some:
            part = some[int(generator.integers(len(some)))]
            truth = _logits(really_replaced(base, judge, [part]).run(batch).logits)
            gaps.append(_gap(swapped_logits(one, judge, [part]), truth))
    if plan.grafts:
        depth = int(generator.integers(base.anatomy.n_layers + 1))
        gaps.append(_graft_gap(one, held(judge, batch), depth))
    if max(gaps) > allowed:
        raise ExecutorDisagreement(
            "a weight swap differs from the same swap in a clone of the model.",
            argument="pair",
            got=f"{max(gaps):.3g} logits",
            allowed=f"{allowed:.3g}",
            fix="Report this architecture; patch activations instead.",
        )
    return max(gaps)


def _graft_gap(base: Held, judge: Held, depth: int) -> float:
    """Return how far judge below base is from base put into the judge: two ways to the same network."""
    blocks = range(depth, base.executor.anatomy.n_layers)
    rest = [*(Part(kind="layer", layer=layer) for layer in blocks), Part(kind="final_norm"), Part(kind="unembed")]
    return _gap(stitched_logits(base, judge, depth), swapped_logits(judge, base.executor, rest))


def _gap(left: Tensor, right: Tensor) -> float:
    rows = min(left.shape[-1], right.shape[-1])  # one of the models may have rows for added tokens
    return float((left[..., :rows].double() - right[..., :rows].double()).abs().max())
