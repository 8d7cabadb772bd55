"""Do the three executors agree on this very model, and does it come back unharmed?

One probe batch with one left-padded row goes through torch hooks on the module, through nnsight and
through TransformerLens (both on weight-sharing shadows). Logits, captures and an edit must agree
within the dtype's rounding; patching a run with its own values must change nothing; a real edit must
change something; padding must not matter; the module must be found as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.hooks.anatomy import Anatomy
from workbench.hooks.edits import Ablate, Edit, Patch, Steer
from workbench.hooks.executor import Executor, Run, entered, forward_kwargs
from workbench.hooks.heads import classification_head
from workbench.hooks.lens_backend import BridgeBackend
from workbench.hooks.nnsight_backend import NNsightBackend
from workbench.hooks.observe import at_input, forward_accepts, mask_overflows
from workbench.hooks.shadow import weight_sharing_shadow
from workbench.hooks.sites import Component, Site
from workbench.hooks.torch_backend import HooksBackend
from workbench.tokens import TokenBatch

Status = Literal["ok", "warn", "fail"]

TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 5e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
"""Largest accepted difference, as a share of the largest value compared (at least 1), by dtype of the model."""

_PROBE_ROWS = (11, 7)
_LENS = "transformer_lens"
_LENS_SLACK = 4
_EAGER = "TransformerLens runs eager attention; in half precision it drifts from the model's own kernel."
_NARROW = (
    "TransformerLens runs eager attention, whose softmax is in float32, so that it is held to float32's tolerance."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question put to the model, and the answer."""

    name: str
    """What was compared."""
    status: Status
    """"ok", "warn" (results stand, with the caveat in ``detail``) or "fail"."""
    value: float
    """Largest absolute difference found (for "a real edit moves the logits": how far it moved them)."""
    tolerance: float | None
    """What was accepted; None where the answer is yes or no."""
    detail: str
    """What it means, and what to do when it isn't ok; empty when there is nothing to say."""


def examine(
    module: nn.Module,
    tokenizer: Any,
    *,
    anatomy: Anatomy | None = None,
    batch: TokenBatch | None = None,
    tolerance: float | None = None,
) -> tuple[Check, ...]:
    """Run the probe through all executors and compare.

    Args:
        module: The model.
        tokenizer: Its tokenizer; None leaves nnsight out, with a warning.
        anatomy: The model's anatomy; learned when left out.
        batch: What to probe with; by default two rows of seeded random tokens, one left-padded.
        tolerance: Largest accepted difference as a share of the largest value compared; by default ``TOLERANCE``.

    Raises:
        ParameterError: The model is of an unknown architecture.
        EditError: An edit of the probe was never reached or changed nothing.
    """
    anatomy = anatomy or Anatomy.of(module, tokenizer)
    batch = at_input(module, batch or _probe(module, tokenizer))
    share = TOLERANCE.get(next(module.parameters()).dtype, 5e-2) if tolerance is None else tolerance
    before = _condition(module)
    plain = _plain_logits(module, batch)
    hooks = HooksBackend(module, anatomy)
    capture = _sites(anatomy)
    own = hooks.run(batch, capture=capture, logits="all")
    edits = _edits(anatomy, own, batch)
    edited = hooks.run(batch, edits=edits, logits="all")
    checks = [_identical("hooks change no logit", own.logits, plain, batch.mask, "A capture alone changed the logits.")]
    for name, other in _others(module, anatomy, tokenizer).items():
        if name == _LENS and mask_overflows(module, eager=True):
            checks += _compare_unpadded(hooks, other, batch, edits=edits, share=share)
        else:
            checks += _compare(name, other, batch, own=own, edited=edited, edits=edits, share=share)
    if tokenizer is None:
        checks.append(
            Check(name="nnsight", status="warn", value=0.0, tolerance=None, detail="Not run: no tokenizer was given.")
        )
    checks += [
        _self_patch(hooks, batch, own),
        _moves(edited.logits, own.logits, batch.mask, share),
        _padding(hooks, batch, own, share),
        *_pooling(module, batch, own, share),
        _unharmed(before, _condition(module), same=_same(_plain_logits(module, batch), plain, batch.mask)),
    ]
    return tuple(checks)


def _others(module: nn.Module, anatomy: Anatomy, tokenizer: Any) -> dict[str, Executor]:
    others: dict[str, Executor] = {_LENS: BridgeBackend(anatomy)}
    if tokenizer is not None:
        # nnsight leaves its wrapper on what it traces; the user's module stays without it.
        others["nnsight"] = NNsightBackend(weight_sharing_shadow(module), anatomy, tokenizer=tokenizer)
    return others


def _probe(module: nn.Module, tokenizer: Any) -> TokenBatch:
    vocab = module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    special = set() if tokenizer is None else set(tokenizer.all_special_ids)
    if classification_head(module) is not None:
        special.add(cast(PreTrainedModel, module).config.pad_token_id)  # its own pooling steps over this one
    ordinary = torch.tensor([index for index in range(vocab) if index not in special])
    generator = torch.Generator().manual_seed(0)
    pads = forward_accepts(module, "position_ids") and not mask_overflows(module)
    lengths = _PROBE_ROWS if pads else (_PROBE_ROWS[0],) * 2
    rows = [ordinary[torch.randint(len(ordinary), (length,), generator=generator)].tolist() for length in lengths]
    pad = None if tokenizer is None else tokenizer.pad_token_id
    # A tokenizer may pad with a token the model was never given a row for; padding is never read.
    return TokenBatch.from_rows(rows, pad_id=0 if pad is None or pad >= vocab else pad)


def _sites(anatomy: Anatomy) -> tuple[Site, ...]:
    depths = {0, anatomy.n_layers // 2, anatomy.n_layers - 1}
    return anatomy.sites(layers=depths)


def _edits(anatomy: Anatomy, own: Run, batch: TokenBatch) -> tuple[Edit, ...]:
    """Return an edit of the stream, as large as the stream itself, and a knock-out of a head, half way up."""
    site = Site(Component.RESID_PRE, anatomy.n_layers // 2)
    stream = own.activations[site]
    scale = float(stream[batch.mask.to(stream.device)].float().square().mean().sqrt())
    vector = scale * torch.randn(anatomy.d_model, generator=torch.Generator().manual_seed(1))
    edits: list[Edit] = [Steer(site, vector.to(stream.device))]
    if Site(Component.Z, site.layer) in anatomy.ports:
        edits.append(Ablate(Site(Component.Z, site.layer, 0)))
    return tuple(edits)


def _plain_logits(module: nn.Module, batch: TokenBatch) -> Float[Tensor, "prompt pos vocab"]:
    kwargs = forward_kwargs(module, batch, logits="all")
    head = classification_head(module)
    with entered(module):
        if head is None:
            return module(**kwargs).logits
        return module.get_submodule(head)(cast(PreTrainedModel, module).base_model(**kwargs).last_hidden_state)


def _compare(
    name: str, other: Executor, batch: TokenBatch, *, own: Run, edited: Run, edits: tuple[Edit, ...], share: float
) -> list[Check]:
    theirs = other.run(batch, capture=tuple(own.activations), logits="all")
    changed = other.run(batch, edits=edits, logits="all")
    gaps = {site: _gap(theirs.activations[site], own.activations[site], batch.mask, share) for site in own.activations}
    worst = max(gaps, key=lambda site: gaps[site][0] / gaps[site][1])
    return [
        _agreement(
            f"logits, {name}", *_gap(theirs.logits, own.logits, batch.mask, share), lens=name == _LENS, share=share
        ),
        _agreement(f"captures, {name}", *gaps[worst], lens=name == _LENS, share=share, where=f"Largest at {worst}."),
        _agreement(
            f"an edit, {name}", *_gap(changed.logits, edited.logits, batch.mask, share), lens=name == _LENS, share=share
        ),
    ]


def _compare_unpadded(
    hooks: HooksBackend, lens: Executor, batch: TokenBatch, *, edits: tuple[Edit, ...], share: float
) -> list[Check]:
    """Compare the longest row alone, and say that padding was left out."""
    alone = batch.row(int(batch.lengths.argmax()))
    own = hooks.run(alone, capture=_sites(hooks.anatomy), logits="all")
    edited = hooks.run(alone, edits=edits, logits="all")
    wide = max(share, TOLERANCE[torch.float32])
    detail = "Not run: in float64 its eager attention turns padding into NaN, so that one row was compared by itself."
    return [
        *_compare(_LENS, lens, alone, own=own, edited=edited, edits=edits, share=wide),
        Check(name=f"padding, {_LENS}", status="warn", value=0.0, tolerance=None, detail=f"{detail} {_NARROW}"),
    ]


def _gap(
    left: Tensor | None, right: Tensor | None, mask: Bool[Tensor, "prompt pos"], share: float
) -> tuple[float, float]:
    """Return the largest difference at real tokens, and what rounding may explain there."""
    if left is None or right is None:
        return float("inf"), 0.0
    real = mask.to(right.device)
    ours, theirs = (_wide(tensor[real].detach()) for tensor in (right, left.to(right.device)))
    return float((theirs - ours).abs().max()), share * max(1.0, float(ours.abs().max()))


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _agreement(name: str, value: float, allowed: float, *, lens: bool, share: float, where: str = "") -> Check:
    drift = lens and share > TOLERANCE[torch.float32]
    status: Status = "ok" if value <= allowed else "warn" if drift and value <= _LENS_SLACK * allowed else "fail"
    notes = [where if status != "ok" else "", _EAGER if drift else ""]
    if status == "fail":
        notes.append(
            "Two ways of entering this model give different numbers: use none of them, and report the architecture."
        )
    return Check(name=name, status=status, value=value, tolerance=allowed, detail=" ".join(filter(None, notes)))


def _same(left: Tensor | None, right: Tensor | None, mask: Bool[Tensor, "prompt pos"]) -> bool:
    """Whether two logits are bit-equal at real tokens; what stands at padding means nothing."""
    if left is None or right is None:
        return False
    real = mask.to(left.device)
    return torch.equal(left[real], right[real])


def _identical(
    name: str, left: Tensor | None, right: Tensor | None, mask: Bool[Tensor, "prompt pos"], problem: str
) -> Check:
    same = _same(left, right, mask)
    value = 0.0 if same else _gap(left, right, mask, 0.0)[0]
    return Check(name=name, status="ok" if same else "fail", value=value, tolerance=0.0, detail="" if same else problem)


def _self_patch(hooks: HooksBackend, batch: TokenBatch, own: Run) -> Check:
    writable = [site for site in own.activations if hooks.anatomy.additive or site.component is not Component.RESID_MID]
    patches = [Patch(site, own.activations[site]) for site in writable]
    again = hooks.run(batch, edits=patches, logits="all", check_edits=False)
    problem = "Writing a run's own values back changed its logits: patched effects would carry this error."
    return _identical("self-patch is the identity", again.logits, own.logits, batch.mask, problem)


def _moves(edited: Tensor | None, own: Tensor | None, mask: Tensor, share: float) -> Check:
    value, allowed = _gap(edited, own, mask, share)
    fine = allowed < value < float("inf")
    return Check(
        name="a real edit moves the logits",
        status="ok" if fine else "fail",
        value=value,
        tolerance=allowed,
        detail=""
        if fine
        else "Steering and a head knock-out left the logits within rounding: edits don't take hold here.",
    )


def _padding(hooks: HooksBackend, batch: TokenBatch, own: Run, share: float) -> Check:
    name = "a left-padded row equals the single prompt"
    padded = int(batch.lengths.argmin())
    if own.logits is None or bool(batch.mask.all()):
        detail = (
            "No row was padded; where the model takes no position ids, or runs eager attention in float64, "
            "only rows of equal length are accepted."
        )
        return Check(name=name, status="warn", value=0.0, tolerance=None, detail=detail)
    alone = hooks.run(batch.row(padded), logits="all").logits
    inside = own.logits[padded : padded + 1, -int(batch.lengths[padded]) :]
    value, allowed = _gap(inside, alone, batch.row(padded).mask, share)
    problem = "Padding changes this model's numbers: run prompts of equal length together."
    return Check(
        name=name,
        status="ok" if value <= allowed else "fail",
        value=value,
        tolerance=allowed,
        detail="" if value <= allowed else problem,
    )


def _pooling(module: nn.Module, batch: TokenBatch, own: Run, share: float) -> list[Check]:
    """Compare the head at the last token with what a classification model says of each prompt by itself."""
    if classification_head(module) is None or own.logits is None:
        return []
    alone = []
    for index in range(len(batch)):
        kwargs = forward_kwargs(module, batch.row(index), logits="all")
        with entered(module):
            alone.append(module(**kwargs).logits)
    value, allowed = _gap(own.logits[:, -1:], torch.stack(alone), batch.mask[:, -1:], share)
    problem = "This model doesn't take its score at the last token; the numbers here would be another judge's."
    return [
        Check(
            name="the head at the last token is the model's own score",
            status="ok" if value <= allowed else "fail",
            value=value,
            tolerance=allowed,
            detail="" if value <= allowed else problem,
        )
    ]


def _condition(module: nn.Module) -> list[tuple[object, ...]]:
    """Return what a visitor could have left behind: hooks, replaced forwards, classes, modes, tensors."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    rows: list[tuple[object, ...]] = [
        (
            path,
            type(child),
            child.training,
            tuple(tuple(getattr(child, table)) for table in tables),
            tuple(sorted(name for name in child.__dict__ if not name.startswith("_") or name == "__nnsight__")),
        )
        for path, child in module.named_modules()
    ]
    named = [*module.named_parameters(), *module.named_buffers()]
    return [*rows, *((name, tensor.data_ptr(), tensor.requires_grad, tensor._version) for name, tensor in named)]  # noqa: SLF001


def _unharmed(before: object, after: object, *, same: bool) -> Check:
    fine = before == after and same
    problem = "The module's hooks, mode, tensors or logits changed during the examination; load it afresh."
    return Check(
        name="nothing is left behind",
        status="ok" if fine else "fail",
        value=0.0 if fine else 1.0,
        tolerance=None,
        detail="" if fine else problem,
    )
