"""What can be said about a pair from its files alone: configurations, tokenizers and weights, no model loaded.

Structure is compared on modules without weights, the weight difference is streamed. Whatever needs a forward
(adapters in action, merging, the executors) is left to :func:`load_pair` and said to be unchecked.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.errors import CheckpointError
from workbench.hooks import HeadKind
from workbench.pairs import guards
from workbench.pairs.adapters import head_is_tied
from workbench.pairs.delta import WeightDelta, weight_delta
from workbench.pairs.delta.measure import open_store
from workbench.pairs.embedded import embedded_names, embedded_pair
from workbench.pairs.loading import checkpoints, heads, hub, stored
from workbench.pairs.loading.placement import Placement, require_flags
from workbench.pairs.loading.sources import Source, per_side
from workbench.pairs.modules import attention_of
from workbench.pairs.report import Guard, PairReport
from workbench.pairs.vocabulary import vocabulary_of


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadedCheck:
    """What the files of a pair say."""

    report: PairReport
    """Every guard that needs no forward."""
    delta: WeightDelta
    """The weight difference."""


def check_files(
    base: str | os.PathLike[str],
    judge: str | os.PathLike[str] | None = None,
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    revision: str | Mapping[str, str] | None = None,
    subfolder: str | Mapping[str, str] | None = None,
    trust_remote_code: bool = False,
    allow_identical: bool = False,
    spectrum: bool = True,
) -> UnloadedCheck:
    """Check a pair without loading a model, in the memory of one tensor.

    Args:
        base: Hub id, local folder, or the name of an embedded pair.
        judge: Hub id or folder of the judge or of a LoRA adapter; None for an embedded pair.
        tokenizer: Tokenizer of both; the judge's own by default.
        revision: Hub revision of both, or a mapping with keys ``base`` and ``judge``.
        subfolder: Folder inside the repository of both, or a mapping like ``revision``.
        trust_remote_code: Whether code from the repositories may run.
        allow_identical: Whether a judge that is the base may pass, with a warning.
        spectrum: Whether to measure spectral norms and stable ranks too.

    Raises:
        CheckpointError: Something can't be read, or the judge is an adapter that only a loaded pair can measure.
        PairMismatch: A guard failed; the error carries the table as ``report``.
    """
    require_flags(trust_remote_code=trust_remote_code, allow_identical=allow_identical, spectrum=spectrum)
    place = Placement(dtype=None, device=torch.device("meta"), trust_remote_code=trust_remote_code)
    own, tuned = _sources(base, judge, revision=revision, subfolder=subfolder)
    name = f"{own.label} -> {tuned.label}"
    folder = checkpoints.adapter_folder(tuned)
    models = _without_weights(own, tuned, folder, place)
    structure = guards.structure_guards(models.base, models.judge) if folder is None else []
    PairReport(name=name, guards=tuple(structure)).raise_if_failed()
    tokenizers = _tokenizers(own, tuned, tokenizer, place)
    delta = weight_delta(own, tuned, spectrum=spectrum)
    other = guards.other_configuration(models.base.config, models.judge.config)
    rows = (
        *guards.source_guards(own, tuned, trust_remote_code=trust_remote_code),
        *structure,
        *guards.tokenizer_guards(*tokenizers, vocabulary_of(models.base, models.judge, tokenizers[1])),
        *guards.delta_guards(delta, probe=models.probe, configuration=other, allow_identical=allow_identical),
        *guards.head_guards(models.base, models.judge, probe=models.probe, live=False),
        *(() if folder is None else guards.adapter_guards(folder, own)[1:]),
        _UNCHECKED,
    )
    return UnloadedCheck(report=PairReport(name=name, guards=rows).raise_if_failed(), delta=delta)


_UNCHECKED = Guard(
    name="models",
    status="skipped",
    value="not loaded",
    detail="Whether an adapter lands, merging and the executors are checked by load_pair(base, judge).",
)


def _sources(base: Any, judge: Any, *, revision: Any, subfolder: Any) -> tuple[Source, Source]:
    if isinstance(base, str) and base in embedded_names():
        embedded = embedded_pair(base)
        base, judge = embedded.base, embedded.judge if judge is None else judge
    if judge is None:
        raise CheckpointError(
            "a pair needs a judge beside its base.",
            argument="judge",
            got="None",
            allowed=f"a Hub id or folder; or an embedded `base`: {', '.join(embedded_names())}",
            fix="Name the judge.",
        )
    revisions, folders = per_side(revision, argument="revision"), per_side(subfolder, argument="subfolder")
    sides = (
        Source(given=base, argument="base", revision=revisions["base"], subfolder=folders["base"]),
        Source(given=judge, argument="judge", revision=revisions["judge"], subfolder=folders["judge"]),
    )
    for source in sides:
        if source.folder is not None:
            stored.check_model(source)  # before the Hub is asked about the other
    return hub.resolved(sides[0]), hub.resolved(sides[1])


class _Models(NamedTuple):
    """Both models on the meta device."""

    base: PreTrainedModel
    """Of the judge's class."""
    judge: PreTrainedModel
    """The base again when the judge is an adapter."""
    probe: bool
    """Whether the base is read through the judge's head."""


def _without_weights(base: Source, judge: Source, adapter: Path | None, place: Placement) -> _Models:
    """Return both models as loading would pair them, without weights."""
    own = heads.stored_kind(base, place)
    kind = heads.stored_kind(judge, place) if adapter is None else heads.adapter_kind(adapter)
    heads.require_comparable(own, kind)
    module = _skeleton(base, own, place)
    if adapter is not None:
        host = heads.host_of(module, adapter) if kind == "classification" else module
        return _Models(host, host, probe=host is not module)
    tuned = _skeleton(judge, kind or own, replace(place, attention=attention_of(module)))
    headed = heads.under_judges_head(module, tuned)
    return _Models(headed.base, tuned, headed.probe)


def _skeleton(source: Source, kind: HeadKind, place: Placement) -> PreTrainedModel:
    """Return one model of the class it is loaded as; the attention is the place's choice, as when it is loaded."""
    config = checkpoints.read_config(source, place)
    choice = {} if place.attention is None else {"attn_implementation": place.attention}
    with checkpoints.explained(source), torch.device("meta"):
        built = heads.loader_of(kind).from_config(config, trust_remote_code=place.trust_remote_code, **choice)
    head = built.get_output_embeddings()
    if head is not None and head_is_tied(built) and not open_store(source, argument=source.argument).aliases:
        head.weight = nn.Parameter(head.weight.detach(), requires_grad=False)  # the file keeps its own all the same
    return built


def _tokenizers(
    base: Source, judge: Source, given: str | os.PathLike[str] | None, place: Placement
) -> tuple[PreTrainedTokenizerBase | None, PreTrainedTokenizerBase]:
    """Return the base's own tokenizer (None when one serves both) and the judge's."""
    if given is not None:
        return None, checkpoints.load_tokenizer(hub.resolved(Source(given=given, argument="tokenizer")), place)
    found = [at for source in (base, judge) if (at := stored.tokenizer_place(source)) is not None]
    if not found:
        raise CheckpointError(
            "neither folder brings a tokenizer.",
            argument="tokenizer",
            got="None",
            allowed="a folder or Hub id",
            fix="Name the tokenizer.",
        )
    read = [checkpoints.load_tokenizer(at, place) for at in found]
    return read[0] if len(read) == 2 else None, read[-1]
