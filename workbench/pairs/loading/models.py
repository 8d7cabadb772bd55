"""The two modules of a pair, whatever the judge is: a checkpoint, an adapter, a live module.

Each kind of judge is one function here; the work itself is done by the module of that kind.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from workbench.errors import ParameterError
from workbench.hooks import head_kind
from workbench.pairs.adapters import (
    adapter_type,
    attach_adapter,
    live_adapter_type,
    live_judge,
    split_peft,
    tuner_layers,
)
from workbench.pairs.guards.adapters import adapter_guards
from workbench.pairs.guards.heads import head_guards
from workbench.pairs.guards.sources import adapter_base_guard, unexpected_guard
from workbench.pairs.loading import checkpoints, heads, quantised, stored
from workbench.pairs.loading.placement import Placement
from workbench.pairs.loading.sources import Source
from workbench.pairs.modules import attention_of, embedding_of, require_live
from workbench.pairs.report import Guard


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Base and judge, and what was seen while loading them."""

    base: PreTrainedModel
    """The model before fine-tuning."""
    judge: PreTrainedModel
    """The fine-tuned model; shares the base's weights when it is an adapter."""
    kind: str
    """``"full"``, or the kind of adapter as peft calls it, in lower case: ``"lora"``."""
    probe: bool = False
    """Whether the base is read through the judge's classification head, having none of its own."""
    guards: tuple[Guard, ...] = ()
    """What only loading could see."""


def load_models(base: Source, judge: Source | None, place: Placement) -> Loaded:
    """Load base and judge.

    Args:
        base: The base; a live ``PeftModel`` when ``judge`` is None.
        judge: Checkpoint, adapter or live module.
        place: Where and how.

    Raises:
        CheckpointError: One of them can't be loaded.
        PairMismatch: An adapter doesn't fit.
        ParameterError: The base carries an adapter.
    """
    for source in (base, judge):
        if source is not None and source.live is None:
            stored.check_model(source)  # both, before minutes go into loading the first
        elif source is not None:
            quantised.settle(cast(nn.Module, source.live), argument=source.argument)
    if judge is None or isinstance(judge.live, PeftModel):
        return _live_adapter(base, judge, place)
    _require_plain(base.live)
    folder = None if judge.live is not None else checkpoints.adapter_folder(judge)
    kind = heads.stored_kind(judge, place) if folder is None else heads.adapter_kind(folder)
    heads.require_comparable(heads.stored_kind(base, place), kind)
    loaded = _load(base, place)
    return _full(base, judge, place, loaded) if folder is None else _adapter(base, folder, loaded)


def _full(base: Source, judge: Source, place: Placement, loaded: checkpoints.Checkpoint) -> Loaded:
    module = loaded.module
    tuned = _load(judge, replace(place, dtype=embedding_of(module).dtype, attention=attention_of(module)))
    headed = heads.under_judges_head(module, tuned.module)
    live = judge.live is not None or (base.live is not None and not headed.probe)
    rows = (*_left_out(base, loaded), *_left_out(judge, tuned))
    return _headed(headed, tuned.module, kind="full", live=live, guards=rows)


def _adapter(base: Source, folder: Path, loaded: checkpoints.Checkpoint) -> Loaded:
    module = loaded.module
    scores = heads.adapter_kind(folder) == "classification"
    judge = attach_adapter(heads.host_of(module, folder) if scores else module, folder)
    headed = heads.under_judges_head(module, judge)
    rows = (*_left_out(base, loaded), *adapter_guards(folder, base), *_trained_on(folder, base))
    live = base.live is not None and not headed.probe
    return _headed(headed, judge, kind=adapter_type(folder), live=live, guards=rows)


def _live_adapter(base: Source, judge: Source | None, place: Placement) -> Loaded:
    if judge is not None:
        _require_plain(base.live)
    live = cast(PeftModel, base.live if judge is None else judge.live)
    require_live(live.get_base_model(), argument="judge")
    kind = live_adapter_type(live)
    if judge is None:
        own_base, tuned = split_peft(live)
        return _headed(heads.read_by_judge(own_base, tuned), tuned, kind=kind, live=True)
    tuned = live_judge(live)
    heads.require_comparable(heads.stored_kind(base, place), head_kind(tuned))
    return _headed(heads.under_judges_head(_load(base, place).module, tuned), tuned, kind=kind, live=True)


def _headed(
    headed: heads.Headed, judge: PreTrainedModel, *, kind: str, live: bool, guards: tuple[Guard, ...] = ()
) -> Loaded:
    rows = head_guards(headed.base, judge, probe=headed.probe, live=live)
    return Loaded(base=headed.base, judge=judge, kind=kind, probe=headed.probe, guards=(*rows, *guards))


def _load(source: Source, place: Placement) -> checkpoints.Checkpoint:
    if source.live is not None:
        loaded = checkpoints.Checkpoint(module=require_live(source.live, argument=source.argument))
    else:
        kind = heads.stored_kind(source, place)
        loaded = checkpoints.load_checkpoint(source, place, auto_class=heads.loader_of(kind))
    heads.require_readable_head(loaded.module, source, unexpected=loaded.unexpected)
    return loaded


def _left_out(source: Source, loaded: checkpoints.Checkpoint) -> tuple[Guard, ...]:
    row = unexpected_guard(source.argument, loaded.unexpected)
    return () if row is None else (row,)


def _trained_on(folder: Path, base: Source) -> tuple[Guard, ...]:
    row = adapter_base_guard(folder, base)
    return () if row is None else (row,)


def _require_plain(base: nn.Module | None) -> None:
    if base is None or not (isinstance(base, PeftModel) or any(True for _ in tuner_layers(base))):
        return
    raise ParameterError(
        "the base carries an adapter.",
        argument="base",
        got=type(base).__name__,
        fix="Pass the plain base model, and the PEFT model as the judge.",
    )
