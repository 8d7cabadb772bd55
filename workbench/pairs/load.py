"""``load_pair``: the only way to build a pair, and the only place a device is chosen."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from workbench.errors import CheckpointError, ParameterError
from workbench.judges import JudgeFormat, get_format
from workbench.pairs import checkpoints, guards
from workbench.pairs.embedded import embedded_names, embedded_pair
from workbench.pairs.models import Loaded, load_models
from workbench.pairs.modules import commit_of, embedding_of
from workbench.pairs.pair import Pair
from workbench.pairs.placement import Placement
from workbench.pairs.report import Guard, PairReport
from workbench.pairs.sources import Named, Source, per_side

DEFAULT_FORMAT = "pairwise"


def load_pair(
    base: Named,
    judge: Named | None = None,
    *,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
    format: str | JudgeFormat | None = None,  # noqa: A002 - the public name of design.md
    revision: str | Mapping[str, str] | None = None,
    subfolder: str | Mapping[str, str] | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    device_map: Any = None,
    attention: str | None = None,
    trust_remote_code: bool = False,
    doctor: bool = True,
    seed: int = 0,
) -> Pair:
    """Load a base model and the judge tuned from it, and check that they may be compared.

    Args:
        base: Hub id, local folder, live Hugging Face module, or the name of an embedded pair (``"demo"``).
            A live ``PeftModel`` alone is a whole pair: its base, and itself.
        judge: Hub id, folder or live module of the judge, or of an adapter on ``base``; None for embedded pairs.
        tokenizer: Tokenizer of both; by default the judge's own, compared with the base's. Required for live modules.
        format: Judge format by name or object; an embedded pair brings its own.
        revision: Hub revision of both, or a mapping with keys ``base`` and ``judge``.
        subfolder: Folder inside the repository (or local folder) of both, or a mapping like ``revision``.
        dtype: Data type of both, e.g. ``"bfloat16"``. By default float32 on CPU and the base checkpoint's own on a GPU.
        device: Where both go; by default the first GPU, else the CPU.
        device_map: Passed on to transformers to spread each model over several devices, e.g. ``"auto"``.
        attention: Attention implementation of both, e.g. ``"eager"``; transformers' choice for the base by default.
        trust_remote_code: Whether code from the repositories may run.
        doctor: Whether the three executors examine both models (a few forwards; recorded when left out).
        seed: Seed of the probes the guards draw.

    Returns:
        The pair, with the table of its guards in ``pair.report``.

    Raises:
        CheckpointError: A model, adapter or tokenizer can't be loaded.
        PairMismatch: A guard failed; the message names it and the error carries the whole table as ``report``.
        ParameterError: Arguments contradict each other.
    """
    asked = _Asked(base=base, judge=judge, format=format, name=None).resolved()
    place = Placement.choose(
        dtype=dtype, device=device, device_map=device_map, attention=attention, trust_remote_code=trust_remote_code
    )
    sources = _sources(asked, revision=revision, subfolder=subfolder)
    loaded = load_models(sources.base, sources.judge, place)
    name = asked.name or sources.pair_name
    structure = PairReport(name=name, guards=tuple(guards.structure_guards(loaded.base, loaded.judge)))
    structure.raise_if_failed()
    tokens = _load_tokenizers(sources, tokenizer, place)
    format_guard, judge_format = _choose_format(asked.format)
    table = (
        *structure.guards,
        *guards.tokenizer_guards(tokens.base, tokens.judge, embedding_of(loaded.judge).shape[0]),
        *guards.weight_guards(loaded.base, loaded.judge),
        *guards.merge_guards(loaded.judge, seed=seed),
        *loaded.guards,
        format_guard,
    )
    pair = Pair(
        name=name,
        base=loaded.base,
        judge=loaded.judge,
        tokenizer=tokens.judge,
        format=judge_format,
        report=PairReport(name=name, guards=table).raise_if_failed(),
        kind=loaded.kind,
        sources=sources.to_json(loaded),
    )
    return _examined(pair) if doctor else _unexamined(pair)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the caller asked for."""

    base: Named
    judge: Named | None
    format: str | JudgeFormat | None
    name: str | None

    def resolved(self) -> "_Asked":
        """Return the same with the names of embedded pairs replaced by their folders.

        Raises:
            ParameterError: There is no judge.
        """
        embedded = embedded_pair(self.base) if isinstance(self.base, str) and self.base in embedded_names() else None
        if embedded is not None and self.judge is not None:
            return replace(self, base=embedded.base)
        if embedded is not None:
            return replace(
                self,
                base=embedded.base,
                judge=embedded.judge,
                format=self.format or embedded.format,
                name=embedded.name,
            )
        if self.judge is not None or isinstance(self.base, PeftModel):
            return self
        raise ParameterError(
            "a pair needs a judge beside its base.",
            argument="judge",
            got=f"base={Source(given=self.base, argument='base').label!r}, judge=None",
            allowed=f"a Hub id, folder, adapter or live module; or an embedded `base`: {', '.join(embedded_names())}",
            fix="Name the judge, e.g. load_pair(base, judge).",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """Where both sides come from."""

    base: Source
    judge: Source | None
    """None when the base is a live ``PeftModel``, which is a whole pair."""

    @property
    def pair_name(self) -> str:
        return " -> ".join(Path(source.label).name for source in (self.base, self.judge) if source is not None)

    def to_json(self, loaded: Loaded) -> dict[str, Any]:
        """Return the name and commit of both sides, for the provenance of results."""

        def row(source: Source | None, module: nn.Module) -> dict[str, Any]:
            if source is None:
                return {"source": "None", "revision": None}
            return {"source": source.label, "revision": source.revision or commit_of(module)}

        return {"base": row(self.base, loaded.base), "judge": row(self.judge, loaded.judge)}


def _sources(asked: _Asked, *, revision: Any, subfolder: Any) -> _Sources:
    revisions, folders = per_side(revision, argument="revision"), per_side(subfolder, argument="subfolder")
    base = Source(given=asked.base, argument="base", revision=revisions["base"], subfolder=folders["base"])
    if asked.judge is None:
        return _Sources(base=base, judge=None)
    judge = Source(given=asked.judge, argument="judge", revision=revisions["judge"], subfolder=folders["judge"])
    return _Sources(base=base, judge=judge)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokenizers:
    base: PreTrainedTokenizerBase | None
    """The base's own; None when one tokenizer was given for both."""
    judge: PreTrainedTokenizerBase


def _load_tokenizers(
    sources: _Sources, given: str | os.PathLike[str] | PreTrainedTokenizerBase | None, place: Placement
) -> _Tokenizers:
    if isinstance(given, PreTrainedTokenizerBase):
        return _Tokenizers(base=None, judge=given)
    if given is not None:
        return _Tokenizers(
            base=None, judge=checkpoints.load_tokenizer(Source(given=given, argument="tokenizer"), place)
        )
    own = [source for source in (sources.base, sources.judge) if source is not None and source.has_tokenizer()]
    if not own:
        raise CheckpointError(
            "live modules and bare folders bring no tokenizer.",
            argument="tokenizer",
            got="None",
            allowed="a tokenizer object, folder or Hub id",
            fix="Pass `tokenizer=`.",
        )
    read = [checkpoints.load_tokenizer(source, place) for source in own]
    return _Tokenizers(base=read[0] if len(read) == 2 else None, judge=read[-1])


def _choose_format(wanted: str | JudgeFormat | None) -> tuple[Guard, JudgeFormat]:
    if wanted is not None:
        chosen = get_format(wanted)
        return Guard(name="judge format", status="ok", value=chosen.name), chosen
    chosen = get_format(DEFAULT_FORMAT)
    return Guard(
        name="judge format",
        status="warn",
        value=f"none given, so {chosen.name!r}",
        detail="Pass the format the judge was trained on; another one may leave it off its verdict tokens.",
    ), chosen


def _examined(pair: Pair) -> Pair:
    anatomies = {"base": pair.anatomy("base"), "judge": pair.anatomy("judge")}
    rows = guards.doctor_guards(pair.base, pair.judge, pair.tokenizer, anatomies=anatomies)
    report = PairReport(name=pair.name, guards=(*pair.report.guards, *rows)).raise_if_failed()
    return replace(pair, report=report)


def _unexamined(pair: Pair) -> Pair:
    row = Guard(
        name="doctor",
        status="skipped",
        value="not run",
        detail="load_pair(..., doctor=True) compares three executors on this pair.",
    )
    return replace(pair, report=PairReport(name=pair.name, guards=(*pair.report.guards, row)))
