"""A small result for the tests of pages, explorers and notebooks: the protocol, and nothing of any analysis."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench import plotting
from workbench.results import Estimate, Finding, Panel, RunMeta, tidy

HOSTILE = '<script>alert("x")</script>'


def fake_meta(**changes: Any) -> RunMeta:
    values: dict[str, Any] = {
        "analysis": "fake",
        "pair": {
            "name": "demo",
            "base": {"name": "org/base", "hash": "ab12"},
            "judge": {"name": "org/judge", "hash": "cd34"},
            "guards": [
                {"name": "same tokenizer", "status": "ok", "value": "512 tokens", "detail": ""},
                {"name": "chat template", "status": "warn", "value": "differs", "detail": "Prompts use the judge's."},
            ],
        },
        "items": {"source": "demo:test", "sha256": "ef56", "total": 3},
        "parameters": {"granularity": "block", "layers": [0, 1]},
        "seed": 7,
        "n_items": 3,
        "dtype": "float32",
        "attention": "eager",
        "device": "cpu",
        "noise_floor": 1e-6,
        "edits": ("Patch(resid_pre, layer 1)",),
        "warnings": ("chat template: differs.",),
        "not_measured": ("heads: not asked for",),
        "versions": {"numpy": np.__version__},
        "wall_time_s": 1.25,
    }
    return RunMeta(**(values | changes))


def fake_finding(**changes: Any) -> Finding:
    control = Estimate(name="share in a sham pair", value=0.02, low=-0.01, high=0.05, n=3)
    effect = Estimate(name="share of the verdict", value=0.4, low=0.3, high=0.5, n=3, control=control)
    values: dict[str, Any] = {
        "headline": "Fine-tuning carries 40% of the verdict.",
        "found": True,
        "estimates": (effect,),
        "limits": ("Three items only.",),
    }
    return Finding(**(values | changes))


@dataclass(frozen=True, kw_only=True, eq=False)
class FakeResult:
    """Layer shares of three items in both orders."""

    meta: RunMeta = field(default_factory=fake_meta)
    finding: Finding = field(default_factory=fake_finding)
    items: Sequence[str] = ("one", "two", "three")
    rows_per_item: int = 2
    drawn: list[str] = field(default_factory=list)

    def to_frame(self) -> pd.DataFrame:
        rows = [
            {
                "item": item,
                "order": order,
                "layer": layer,
                "metric": metric,
                "value": i + layer / 10 + (metric == "norm"),
            }
            for i, item in enumerate(self.items)
            for order in ("original", "swapped")
            for layer in range(self.rows_per_item)
            for metric in ("share", "norm")
        ]
        return tidy({name: [row[name] for row in rows] for name in rows[0]})

    def plot(self, ax: Any = None) -> Any:
        return plotting.lines({"share": [0.1, 0.4]}, x=[0, 1], x_label="layer", ax=ax)

    def panels(self) -> Sequence[Panel]:
        def draw(name: str) -> Any:
            self.drawn.append(name)
            return self.plot().get_figure()

        return (
            Panel("Share by layer", "One line: the share of each layer.", lambda: draw("layer")),
            Panel("Again", "The same figure twice, so that ids must differ.", lambda: draw("again")),
        )

    def summary(self) -> str:
        return self.finding.text()

    def save(self, path: Any) -> Path:
        folder = Path(path)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(self.meta.to_json()), encoding="utf-8")
        return folder

    def with_meta(self, **changes: Any) -> "FakeResult":
        return replace(self, meta=replace(self.meta, **changes))


def hostile_result(text: str = HOSTILE) -> FakeResult:
    """A result in which every text a stranger controls holds markup."""
    pair: Mapping[str, Any] = {
        "base": {"name": text},
        "judge": text,
        text: text,
        "guards": [{"name": text, "status": "warn", "value": text, "detail": text}],
    }
    estimate = Estimate(name=text, value=1.0, low=0.5, high=1.5, n=1, unit=text)
    return FakeResult(
        meta=fake_meta(
            analysis=text, pair=pair, items={text: text}, parameters={text: text}, warnings=(text,), edits=(text,)
        ),
        finding=fake_finding(headline=text, limits=(text,), estimates=(replace(estimate, control=estimate),)),
        items=(text, "two"),
    )
