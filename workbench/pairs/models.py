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
from workbench.pairs import checkpoints, stored
from workbench.pairs.adapters import attach_adapter, split_peft, tuner_layers
from workbench.pairs.guards.adapters import adapter_guards
from workbench.pairs.guards.sources import adapter_base_guard, unexpected_guard
from workbench.pairs.modules import attention_of, embedding_of, require_live
from workbench.pairs.placement import Placement
from workbench.pairs.report import Guard
from workbench.pairs.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Base and judge, and what was seen while loading them."""

    base: PreTrainedModel
    """The model before fine-tuning."""
    judge: PreTrainedModel
    """The fine-tuned model; shares the base's weights when it is an adapter."""
    kind: str
    """``"full"``, or the kind of adapter as peft calls it, in lower case: ``"lora"``."""
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
    if judge is None or isinstance(judge.live, PeftModel):
        return _live_adapter(base, judge, place)
    _require_plain(base.live)
    loaded = _load(base, place)
    module = loaded.module
    folder = None if judge.live is not None else checkpoints.adapter_folder(judge)
    if folder is not None:
        return Loaded(
            base=module,
            judge=attach_adapter(module, folder),
            kind="lora",
            guards=(*_left_out(base, loaded), *adapter_guards(folder, base.label), *_trained_on(folder, base)),
        )
    alike = replace(place, dtype=embedding_of(module).dtype, attention=attention_of(module))
    tuned = _load(judge, alike)
    return Loaded(
        base=module, judge=tuned.module, kind="full", guards=(*_left_out(base, loaded), *_left_out(judge, tuned))
    )


def _live_adapter(base: Source, judge: Source | None, place: Placement) -> Loaded:
    if judge is not None:
        _require_plain(base.live)
    live = cast(PeftModel, base.live if judge is None else judge.live)
    require_live(live.get_base_model(), argument="judge")
    own_base, tuned = split_peft(live)
    return Loaded(base=own_base if judge is None else _load(base, place).module, judge=tuned, kind="lora")


def _load(source: Source, place: Placement) -> checkpoints.Checkpoint:
    live = source.live
    if live is None:
        return checkpoints.load_checkpoint(source, place)
    return checkpoints.Checkpoint(module=require_live(live, argument=source.argument))


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
