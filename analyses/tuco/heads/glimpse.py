"""What one model shows of its heads and MLPs on the judge's stream: running freely, or clamped to a record of it."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from analyses.tuco.clamp import last_column
from workbench.hooks import (
    AttentionRun,
    Component,
    HooksBackend,
    Patch,
    Reader,
    Run,
    Site,
    attention_patterns,
    float32_blocks,
)
from workbench.hooks.activations import Activations
from workbench.tokens import TokenBatch

Streams = Mapping[Site, Float[Tensor, "prompt pos d_model"]]
"""What enters every attention and every MLP, at all positions."""


class Glimpse(NamedTuple):
    """What one model showed in its run."""

    attention: AttentionRun
    """Patterns, values and z at the last token."""
    last: Mapping[Site, Float[Tensor, "prompt *feature"]]
    """Writes, and neurons where asked for, at the last token."""

    def row(self, index: int, *, width: int) -> "Glimpse":
        """Return what one prompt showed, without its padding.

        Args:
            index: Row of the batch.
            width: Number of its tokens.
        """
        one = slice(index, index + 1)
        attention = AttentionRun(
            run=Run(logits=None, activations=Activations(tensors={}, prompt_ids=())),
            patterns={layer: x[one, ..., -width:] for layer, x in self.attention.patterns.items()},
            values={layer: x[one, -width:] for layer, x in self.attention.values.items()},
            z={layer: x[one] for layer, x in self.attention.z.items()},
            error=self.attention.error,
        )
        return Glimpse(attention, {site: value[one] for site, value in self.last.items()})


class Side(NamedTuple):
    """The judge's run: its stream, and what it showed on it."""

    record: Streams
    """The stream as the model computed it."""
    final: Float[Tensor, "prompt d_model"]
    """Its last state at the last token."""
    seen: Glimpse
    """What the judge showed."""


def record_judge(judge: HooksBackend, batch: TokenBatch, *, neurons: bool, float32: bool = False) -> Side:
    """Run the judge, keep its stream, and see its heads and MLPs on it.

    Args:
        judge: Executor of the fine-tuned model.
        batch: Prompts, left-padded.
        neurons: Whether to keep the neurons too.
        float32: Whether heads and MLPs are seen in a second run, in float32 on the stream as it was.
    """
    end = Site(Component.RESID_POST, judge.anatomy.n_layers - 1)
    reader = Reader([end], positions=last_column(batch))
    if float32:
        run = judge.run(batch, edits=reader.edits, capture=_streams(judge), logits="none", check_edits=False)
        record = dict(run.activations)
        return Side(record, reader.values[end][:, 0], look(judge, batch, neurons=neurons, record=record, float32=True))
    wanted = Reader(_writes(judge, neurons=neurons), positions=last_column(batch))
    seen = attention_patterns(
        judge, batch, columns=last_column(batch), edits=[*wanted.edits, *reader.edits], capture=_streams(judge)
    )
    return Side(dict(seen.run.activations), reader.values[end][:, 0], Glimpse(seen, _last(wanted)))


def look(
    executor: HooksBackend, batch: TokenBatch, *, neurons: bool, record: Streams, float32: bool = False
) -> Glimpse:
    """Clamp a model to a record of the judge's stream and see its heads and MLPs.

    Args:
        executor: Executor of the model.
        batch: Prompts, left-padded.
        neurons: Whether to keep the neurons too.
        record: Streams to overwrite with.
        float32: Whether its blocks compute in float32.
    """
    wanted = Reader(_writes(executor, neurons=neurons), positions=last_column(batch))
    patches = [Patch(site=site, values=values) for site, values in record.items()]
    edits = [*patches, *wanted.edits]
    if not float32:
        seen = attention_patterns(executor, batch, columns=last_column(batch), edits=edits)
    else:
        with float32_blocks(executor):
            seen = attention_patterns(executor, batch, columns=last_column(batch), edits=edits)
    return Glimpse(seen, _last(wanted))


def _streams(executor: HooksBackend) -> list[Site]:
    read = [Component.RESID_PRE] if executor.anatomy.parallel else [Component.RESID_PRE, Component.RESID_MID]
    return [Site(stream, layer) for layer in range(executor.anatomy.n_layers) for stream in read]


def _writes(executor: HooksBackend, *, neurons: bool) -> list[Site]:
    outputs = [Component.ATTN_OUT, Component.MLP_OUT, *([Component.NEURONS] if neurons else [])]
    return [Site(component, layer) for layer in range(executor.anatomy.n_layers) for component in outputs]


def _last(reader: Reader) -> dict[Site, Tensor]:
    return {site: value[:, 0] for site, value in reader.values.items()}
