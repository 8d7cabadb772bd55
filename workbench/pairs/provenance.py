"""The provenance block of a result: which models, items, choices and versions are behind its numbers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from workbench.judges import JudgeItem, JudgeItems
from workbench.pairs.pair import Pair
from workbench.results import RunMeta

_DISTRIBUTIONS = ("judge-workbench", "torch", "transformers", "transformer-lens", "nnsight", "peft", "numpy", "scipy")


def run_meta(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    analysis: str,
    parameters: Mapping[str, Any],
    seed: int,
    wall_time_s: float,
    noise_floor: float | None = None,
    edits: Sequence[str] = (),
    warnings: Sequence[str] = (),
    not_measured: Sequence[str] = (),
) -> RunMeta:
    """Return the meta block of a run on ``pair`` and ``items``.

    Args:
        pair: The pair as it was run; its guard warnings are carried along.
        items: The items behind the numbers; each cluster counts once, whatever orders were shown.
        analysis: Name of the analysis.
        parameters: Every choice of the call, defaults included.
        seed: Seed of the run.
        wall_time_s: Seconds it took.
        noise_floor: Headline value that rounding alone produces.
        edits: Fingerprints of edits that were active.
        warnings: Warnings of the run, beside those of the pair.
        not_measured: What was left out, and why.
    """
    return RunMeta(
        analysis=analysis,
        pair=pair.identity(),
        items={**_provenance(items), "n": len(items), "content": items_fingerprint(items)},
        parameters=dict(parameters),
        seed=seed,
        n_items=len({item.cluster for item in items}),
        dtype=str(pair.dtype).removeprefix("torch."),
        attention=pair.attention,
        device=str(pair.device),
        noise_floor=noise_floor,
        edits=tuple(edits),
        warnings=(*pair.report.warnings, *warnings),
        not_measured=tuple(not_measured),
        versions=_versions(),
        wall_time_s=wall_time_s,
    )


def items_fingerprint(items: Sequence[JudgeItem]) -> str:
    """Return sixteen hexadecimal digits of a hash over every field of every item."""
    return hashlib.sha256(
        json.dumps([asdict(item) for item in items], sort_keys=True, default=str).encode()
    ).hexdigest()[:16]


def _provenance(items: Sequence[JudgeItem]) -> dict[str, Any]:
    return asdict(items.provenance) if isinstance(items, JudgeItems) else {"source": "items built in Python"}


def _versions() -> dict[str, str]:
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a distribution"
    return found
