"""``load_pair``: the only way to build a pair, and the only place a device is chosen."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.errors import CheckpointError, ParameterError
from workbench.judges import JudgeFormat, get_format
from workbench.pairs import checkpoints, guards
from workbench.pairs.adapters import attach_adapter, split_peft, tuner_layers
from workbench.pairs.embedded import embedded_names, embedded_pair
from workbench.pairs.pair import Pair, Side
from workbench.pairs.report import Guard, PairReport

Source = str | os.PathLike[str] | nn.Module
DEFAULT_FORMAT = "pairwise"


def load_pair(
    base: Source,
    judge: Source | None = None,
    *,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
    format: str | JudgeFormat | None = None,  # noqa: A002 - the public name of design.md
    revision: str | Mapping[str, str] | None = None,
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
    request = _Request(base=base, judge=judge, tokenizer=tokenizer, format=format, kind=None, name=None)
    request = _resolve_embedded(request)
    place = _Placement.choose(
        dtype=dtype,
        device=device,
        device_map=device_map,
        attention=attention,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    loaded = _load_modules(request, place)
    report_name = request.name or _pair_name(request)
    structure = PairReport(name=report_name, guards=tuple(guards.structure_guards(loaded.base, loaded.judge)))
    structure.raise_if_failed()
    tokens = _load_tokenizers(request, place)
    rows = checkpoints.embedding_of(loaded.judge).shape[0]
    weights, _ = guards.weight_guards(loaded.base, loaded.judge, seed=seed)
    format_guard, judge_format = _choose_format(request)
    table = (
        *structure.guards,
        *guards.tokenizer_guards(tokens.base, tokens.judge, rows),
        *weights,
        *loaded.guards,
        format_guard,
    )
    pair = Pair(
        name=report_name,
        base=loaded.base,
        judge=loaded.judge,
        tokenizer=tokens.judge,
        format=judge_format,
        report=PairReport(name=report_name, guards=table).raise_if_failed(),
        kind=loaded.kind,
        sources={
            "base": {
                "source": _label(request.base),
                "revision": place.revision_of("base") or checkpoints.commit_of(loaded.base),
            },
            "judge": {
                "source": _label(request.judge),
                "revision": place.revision_of("judge") or checkpoints.commit_of(loaded.judge),
            },
        },
    )
    return _examined(pair) if doctor else _unexamined(pair)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What the caller asked for, with embedded names resolved."""

    base: Source
    judge: Source | None
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None
    format: str | JudgeFormat | None
    kind: Literal["full", "lora"] | None
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placement:
    """Where and how both models are loaded."""

    dtype: torch.dtype | None
    device: torch.device
    device_map: Any
    attention: str | None
    revision: Mapping[str, str]
    trust_remote_code: bool

    @classmethod
    def choose(
        cls,
        *,
        dtype: torch.dtype | str | None,
        device: torch.device | str | None,
        device_map: Any,
        attention: str | None,
        revision: str | Mapping[str, str] | None,
        trust_remote_code: bool,
    ) -> "_Placement":
        if device is not None and device_map is not None:
            raise ParameterError("give `device` or `device_map`, not both.", argument="device_map", got=device_map)
        chosen = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
        kind = _dtype(dtype)
        if kind is None and chosen.type == "cpu" and device_map is None:
            kind = torch.float32
        revisions = {"base": revision, "judge": revision} if isinstance(revision, str) else dict(revision or {})
        if unknown := set(revisions) - {"base", "judge"}:
            raise ParameterError("unknown side.", argument="revision", got=sorted(unknown), allowed=["base", "judge"])
        return cls(
            dtype=kind,
            device=chosen,
            device_map=device_map,
            attention=attention,
            revision=revisions,
            trust_remote_code=trust_remote_code,
        )

    def revision_of(self, side: Side) -> str | None:
        return self.revision.get(side)

    def load(self, source: Source, side: Side) -> PreTrainedModel:
        if isinstance(source, nn.Module):
            return checkpoints.require_live(source, argument=side)
        return checkpoints.load_module(
            source,
            argument=side,
            revision=self.revision_of(side),
            dtype=self.dtype,
            device=self.device,
            device_map=self.device_map,
            attention=self.attention,
            trust_remote_code=self.trust_remote_code,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    base: PreTrainedModel
    judge: PreTrainedModel
    kind: Literal["full", "lora"]
    guards: tuple[Guard, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokenizers:
    base: PreTrainedTokenizerBase | None
    judge: PreTrainedTokenizerBase


def _resolve_embedded(request: _Request) -> _Request:
    if request.judge is not None and isinstance(request.base, str) and request.base in embedded_names():
        return replace(request, base=embedded_pair(request.base).base)
    if request.judge is not None or isinstance(request.base, PeftModel):
        return request
    if isinstance(request.base, str) and request.base in embedded_names():
        found = embedded_pair(request.base)
        return replace(
            request,
            base=found.base,
            judge=found.judge,
            format=request.format or found.format,
            kind=found.kind,
            name=found.name,
        )
    raise ParameterError(
        "a pair needs a judge beside its base.",
        argument="judge",
        got=f"base={_label(request.base)!r}, judge=None",
        allowed=f"a Hub id, folder, adapter or live module; or an embedded `base`: {', '.join(embedded_names())}",
        fix="Name the judge, e.g. load_pair(base, judge).",
    )


def _load_modules(request: _Request, place: _Placement) -> _Loaded:
    sources: dict[Side, Source | None] = {"base": request.base, "judge": request.judge}
    for side, source in sources.items():
        if source is not None and not isinstance(source, nn.Module):
            checkpoints.check_folder(source, argument=side)  # both, before minutes go into loading the first
    live = next((m for m in (request.judge, request.base) if isinstance(m, PeftModel)), None)
    if live is not None:
        if request.judge is not None and isinstance(request.base, PeftModel):
            raise ParameterError(
                "the base carries an adapter.",
                argument="base",
                got="PeftModel",
                fix="Pass the PEFT model as the judge.",
            )
        checkpoints.require_live(live.get_base_model(), argument="judge")
        own_base, judge = split_peft(live)
        base = own_base if request.judge is None else place.load(request.base, "base")
        return _Loaded(base=base, judge=judge, kind="lora")
    base = place.load(request.base, "base")
    if next(tuner_layers(base), None) is not None:
        raise ParameterError(
            "the base carries an adapter.", argument="base", got=type(base).__name__, fix="Pass the plain base model."
        )
    if isinstance(request.judge, nn.Module):
        return _Loaded(base=base, judge=place.load(request.judge, "judge"), kind="full")
    folder = checkpoints.adapter_folder(request.judge, argument="judge", revision=place.revision_of("judge"))  # type: ignore[arg-type]
    if folder is not None:
        return _Loaded(
            base=base, judge=attach_adapter(base, folder), kind="lora", guards=_adapter_guards(folder, request.base)
        )
    same = replace(place, dtype=checkpoints.embedding_of(base).dtype, attention=checkpoints.attention_of(base))
    return _Loaded(base=base, judge=same.load(request.judge, "judge"), kind="full")  # type: ignore[arg-type]


def _adapter_guards(folder: Path, base: Source) -> tuple[Guard, Guard]:
    landed = Guard(name="adapter landed", status="ok", value="every stored tensor is in the model")  # or loading raised
    named = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    label = _label(base)
    same = not named or Path(str(named)).name == Path(label).name
    return landed, Guard(
        name="adapter's base",
        status="ok" if same else "warn",
        value=f"adapter names {named!r}" if named else "the adapter names none",
        detail="" if same else f"It was loaded on {label!r}; make sure both are the same model.",
    )


def _load_tokenizers(request: _Request, place: _Placement) -> _Tokenizers:
    if isinstance(request.tokenizer, PreTrainedTokenizerBase):
        return _Tokenizers(base=None, judge=request.tokenizer)

    def read(source: str | os.PathLike[str], side: Side, argument: str) -> PreTrainedTokenizerBase:
        return checkpoints.load_tokenizer(
            source, argument=argument, revision=place.revision_of(side), trust_remote_code=place.trust_remote_code
        )

    if request.tokenizer is not None:
        return _Tokenizers(base=None, judge=read(request.tokenizer, "judge", "tokenizer"))
    own = [
        s
        for s in (request.base, request.judge)
        if s is not None and not isinstance(s, nn.Module) and checkpoints.has_tokenizer(s)
    ]
    if not own:
        raise CheckpointError(
            "live modules and bare folders bring no tokenizer.",
            argument="tokenizer",
            got="None",
            allowed="a tokenizer object, folder or Hub id",
            fix="Pass `tokenizer=`.",
        )
    sides: list[Side] = ["base" if source is request.base else "judge" for source in own]
    read_all = [read(source, side, side) for source, side in zip(own, sides, strict=True)]
    return _Tokenizers(base=read_all[0] if len(read_all) == 2 else None, judge=read_all[-1])


def _choose_format(request: _Request) -> tuple[Guard, JudgeFormat]:
    if request.format is not None:
        chosen = get_format(request.format)
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


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ParameterError(
            "no such data type.", argument="dtype", got=dtype, allowed=["float32", "bfloat16", "float16", "float64"]
        )
    return found


def _label(source: Source | None) -> str:
    return f"live {type(source).__name__}" if isinstance(source, nn.Module) else str(source)


def _pair_name(request: _Request) -> str:
    sides = [Path(_label(s)).name for s in (request.base, request.judge) if s is not None]
    return " -> ".join(sides)
