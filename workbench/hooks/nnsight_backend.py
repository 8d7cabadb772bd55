"""nnsight executes the same programs as traces: locally, or serialised as they would travel to a server.

nnsight wraps the module in place, inertly: its logits stay bit-equal, but the wrapper (one attribute
and a forwarding ``forward`` per submodule) stays for the module's life. Requests inside a trace must
come in the order the model runs, which the anatomy knows from its probe. The bodies of the ``with``
blocks are re-compiled from source by nnsight; they may not begin with ``try``.
"""

import copy
import importlib
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import yaml
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.errors import ParameterError
from workbench.hooks.anatomy import Anatomy, module_lock
from workbench.hooks.edits import Edit
from workbench.hooks.executor import (
    Around,
    LogitsKept,
    Run,
    Steps,
    check_logits,
    entered,
    forward_kwargs,
    generation_kwargs,
    kept_logits,
    last_stop,
    random_state_kept,
)
from workbench.hooks.heads import check_writes, classification_head
from workbench.hooks.observe import at_input, forward_accepts
from workbench.hooks.ports import Port, Side, first, put_first
from workbench.hooks.program import Program, Record, prepare
from workbench.hooks.sites import Site
from workbench.tokens import TokenBatch

Visits = tuple[tuple[str, Side, tuple[tuple[Site, Port], ...]], ...]
"""Module ends in execution order, each with the sites that live there."""

_import_lock = threading.Lock()


class NNsightBackend:
    """Runs capture/edit programs as nnsight traces.

    Args:
        module: A Hugging Face causal language model, or a decoder with a classification head.
        anatomy: Its anatomy.
        tokenizer: Its tokenizer; copied, because nnsight changes its padding side.
        remote: "local" serialises every trace and runs the copy in process, the offline test of
            remote readiness; None traces directly.
        around: Makes a context every forward runs inside.

    Raises:
        ParameterError: ``remote`` is anything else; real servers are not offered here.
    """

    def __init__(
        self,
        module: nn.Module,
        anatomy: Anatomy,
        *,
        tokenizer: Any,
        remote: Literal["local"] | None = None,
        around: Around | None = None,
    ) -> None:
        if remote not in (None, "local"):
            raise ParameterError("unknown place to run.", argument="remote", got=remote, allowed=(None, "local"))
        self.module, self.anatomy, self.around = module, anatomy, around
        self._trace_kwargs = {} if remote is None else {"remote": remote}
        self._nnsight = _import_nnsight()
        self._model = nnsight_model(module, tokenizer=tokenizer)

    def run(
        self,
        batch: TokenBatch,
        *,
        edits: Sequence[Edit] = (),
        capture: Sequence[Site] = (),
        positions: Int[Tensor, "prompt k"] | None = None,
        logits: LogitsKept = "last",
        grad: bool = False,
        stop_after: Site | None = None,
        check_edits: bool = True,
    ) -> Run:
        """Run the model once; see :meth:`HooksBackend.run`."""
        check_logits(logits)
        batch = at_input(self.module, batch)
        program = prepare(
            self.anatomy,
            batch,
            edits=edits,
            capture=capture,
            positions=positions,
            grad=grad,
            check_edits=check_edits,
            stop_after=stop_after,
        )
        stop = last_stop(program, logits=logits, stop_after=stop_after)
        return self._execute(program, batch, logits=logits, stop=stop)

    def suffix(
        self,
        layer: int,
        resid: Float[Tensor, "prompt pos d_model"],
        batch: TokenBatch,
        *,
        edits: Sequence[Edit] = (),
        capture: Sequence[Site] = (),
        positions: Int[Tensor, "prompt k"] | None = None,
        logits: LogitsKept = "last",
        grad: bool = False,
        check_edits: bool = True,
    ) -> Run:
        """Resume from resid_pre of a block, skipping the blocks below; see :meth:`HooksBackend.suffix`."""
        check_logits(logits)
        batch = at_input(self.module, batch)
        program = prepare(
            self.anatomy, batch, edits=edits, capture=capture, positions=positions, grad=grad, check_edits=check_edits,
            start=layer, resid=resid,
        )  # fmt: skip
        stop = last_stop(program, logits=logits, stop_after=None)
        return self._execute(program, batch, logits=logits, stop=stop)

    def generate(
        self,
        batch: TokenBatch,
        *,
        edits: Sequence[Edit] = (),
        max_new_tokens: int,
        check_edits: bool = True,
        **kwargs: Any,
    ) -> Int[Tensor, "prompt pos_new"]:
        """Continue the prompts; see :meth:`HooksBackend.generate`."""
        check_writes(self.module)
        batch = at_input(self.module, batch)
        steps = Steps(prepare(self.anatomy, batch, edits=edits, check_edits=check_edits))
        inputs = generation_kwargs(self.module, batch, max_new_tokens=max_new_tokens, kwargs=kwargs)
        encoded = {name: inputs.pop(name) for name in ("input_ids", "attention_mask")}
        with entered(self.module, around=self.around), random_state_kept(self.module):
            saved = _generated(self._nnsight, self._model, encoded, inputs, self._visits(steps.prompt, None), steps)
        steps.record.changed = saved["changed"]
        steps.prompt.finish(steps.record)
        return saved["ids"]

    def _visits(self, program: Program, stop: Site | None) -> Visits:
        points = program.points if stop is None or stop in program.points else (*program.points, stop)
        placed = [(site, self.anatomy.ports[site]) for site in points]
        ends = groupby(placed, key=lambda pair: (pair[1].path, pair[1].side))
        return tuple((path, side, tuple(pairs)) for (path, side), pairs in ends)

    def _execute(self, program: Program, batch: TokenBatch, *, logits: LogitsKept, stop: Site | None) -> Run:
        kwargs = forward_kwargs(self.module, batch, logits=logits)
        names = ("input_ids", "attention_mask", "position_ids")
        encoded = {name: kwargs.pop(name) for name in names if name in kwargs}
        plan = _Plan(
            program=program,
            visits=self._visits(program, stop),
            skipped=tuple(f"{self.anatomy.blocks_path}.{index}" for index in range(program.start)),
            tuple_blocks=self.anatomy.tuple_blocks,
            halt=stop is not None,
            cut=None if logits == "all" or forward_accepts(self.module, "logits_to_keep") else self.anatomy.unembed,
            head=self.anatomy.unembed if self.anatomy.pooled else None,
        )
        with entered(self.module, around=self.around, grad=program.grad):
            saved = _traced(self._nnsight, self._model, encoded, kwargs | self._trace_kwargs, plan)
        record = Record(captured=saved["captured"], versions=saved["versions"], changed=saved["changed"])
        return Run(logits=kept_logits(saved.get("logits"), logits), activations=program.finish(record))


def nnsight_model(module: nn.Module, *, tokenizer: Any) -> Any:
    """Return an nnsight model of a module; it wraps the module in place, inertly.

    Args:
        module: A Hugging Face causal language model, or decoder with a classification head.
        tokenizer: Its tokenizer; copied, because nnsight changes its padding side.
    """
    nnsight = _import_nnsight()
    task = "text-generation" if classification_head(module) is None else "text-classification"
    with module_lock(module):
        return nnsight.TransformersModel(module, tokenizer=copy.deepcopy(tokenizer), task=task)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """What a trace does, in the terms of the module tree."""

    program: Program
    visits: Visits
    skipped: tuple[str, ...]
    tuple_blocks: bool
    halt: bool
    cut: str | None
    head: str | None
    """Path of the module whose output is read in place of the model's own, pooled logits."""


def _traced(
    nnsight: ModuleType, model: Any, encoded: dict[str, Tensor], kwargs: dict[str, Any], plan: _Plan
) -> dict[str, Any]:
    with model.trace(encoded, **kwargs) as tracer:
        saved = nnsight.save({})
        record = Record(captured={}, versions={}, changed={})
        for path in plan.skipped:
            envoy = model.get(path)
            envoy.skip((envoy.input,) if plan.tuple_blocks else envoy.input)
        for path, side, sites in plan.visits:
            _meet(model.get(path), side, sites, plan.program, record)
        saved["captured"] = record.captured
        saved["versions"] = record.versions
        saved["changed"] = record.changed
        if plan.halt:
            tracer.stop()
        if plan.cut is not None:
            envoy = model.get(plan.cut)
            envoy.input = envoy.input[:, -1:]
        if plan.head is None:
            saved["logits"] = model.output.logits
        else:
            saved["logits"] = model.get(plan.head).output
            tracer.stop()
    return saved


def _generated(
    nnsight: ModuleType, model: Any, encoded: dict[str, Tensor], kwargs: dict[str, Any], visits: Visits, steps: Steps
) -> dict[str, Any]:
    count = kwargs["max_new_tokens"]
    with warnings.catch_warnings():
        # A row that ends early ends the loop early; nothing inside the loop is lost by that.
        warnings.filterwarnings("ignore", message=".*was never reached.*", category=UserWarning)
        with model.generate(**kwargs) as tracer:
            saved = nnsight.save({})
            with tracer.invoke(encoded):
                for _ in tracer.iter[:count]:
                    for path, side, sites in visits:
                        _meet(model.get(path), side, sites, steps, steps.record)
                    saved["changed"] = steps.record.changed
            with tracer.invoke():
                saved["ids"] = tracer.result
    return saved


def _meet(
    envoy: Any, side: Side, sites: tuple[tuple[Site, Port], ...], program: "Program | Steps", record: Record
) -> None:
    """Hand the tensor at one end of a module to every site that lives there; write back once what they made of it."""
    whole = envoy.input if side == "in" else envoy.output
    raw = first(whole)
    for site, port in sites:
        value = port.read(raw)
        new = program.visit(site, value) if isinstance(program, Steps) else program.visit(site, value, record)
        raw = raw if new is None else port.write(raw, new)
    if raw is first(whole):
        return
    if side == "in":
        envoy.input = raw
    else:
        envoy.output = put_first(whole, raw)


def _import_nnsight() -> ModuleType:
    with _import_lock:
        if "nnsight" in sys.modules:
            return importlib.import_module("nnsight")
        with tempfile.TemporaryDirectory() as folder, _nnsight_settings(Path(folder) / "config.yaml"):
            return importlib.import_module("nnsight")


@contextmanager
def _nnsight_settings(path: Path) -> Iterator[None]:
    """Let nnsight read the user's settings with one change: no ``save`` attribute on every Python object."""
    own = os.environ.get("NNSIGHT_CONFIG")
    folder = os.environ.get("XDG_CONFIG_HOME", "~/.config")
    source = Path(own or f"{folder}/nnsight/config.yaml").expanduser()
    settings = yaml.safe_load(source.read_text(encoding="utf-8")) if source.is_file() else None
    settings = settings or {}
    settings["APP"] = {**settings.get("APP", {}), "PYMOUNT": False}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    os.environ["NNSIGHT_CONFIG"] = str(path)
    try:
        yield
    finally:
        if own is None:
            del os.environ["NNSIGHT_CONFIG"]
        else:
            os.environ["NNSIGHT_CONFIG"] = own
