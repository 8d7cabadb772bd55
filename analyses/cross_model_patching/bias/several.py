"""Several biases side by side: one table of probes by sites, corrected over the probes."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from analyses.cross_model_patching.bias import table
from analyses.cross_model_patching.bias.figures import column_of
from analyses.cross_model_patching.bias.result import BiasSitesResult
from analyses.cross_model_patching.bias.runner import locate_bias
from analyses.cross_model_patching.bias.views import Bias, Confirmation
from analyses.judged import estimate, figure_of, finding_html
from analyses.metrics import LEVEL, holm
from workbench import plotting
from workbench.errors import FormatError, ParameterError
from workbench.judges import JudgeItem
from workbench.judges.perturb import Perturbation
from workbench.pairs import Pair, run_meta
from workbench.results import Finding, Panel, RunMeta, load_folder, save_folder, tidy

if TYPE_CHECKING:
    import pandas as pd

_PROBES = ("position", "bandwagon", "authority", "sentiment", "verbosity")


class Located(NamedTuple):
    """One probe among several."""

    bias: Bias
    """Its size."""
    confirmation: Confirmation | None
    """What the other half says of the sites named; None where none were."""
    p: float
    """The largest p of what has to hold together: over items, random judges, patch, and the second intervention."""
    adjusted: float
    """Holm's over the probes."""
    found: bool
    """Whether its sites are found, also after the correction."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class BiasesResult:
    """Which sites carry which bias."""

    results: tuple[BiasSitesResult, ...]
    """One per probe, in the order asked for."""
    meta: RunMeta
    """Models, items, choices and what was left out."""

    @property
    def probes(self) -> tuple[str, ...]:
        """Return the names of the probes."""
        return tuple(result.probe for result in self.results)

    def located(self) -> tuple[Located, ...]:
        """Return what was found of each probe, corrected over the probes."""
        told = [(result.bias(), result.confirmation()) for result in self.results]
        raw = np.array([_together(*entry) for entry in told])
        return tuple(
            Located(own, held, float(p), float(adjusted), result.finding.found and bool(adjusted < LEVEL))
            for result, (own, held), p, adjusted in zip(self.results, told, raw, holm(raw), strict=True)
        )

    def share_by_layer(self) -> Float[np.ndarray, "probe layer"]:
        """Return the largest share of each bias that one cell of a layer takes away; NaN where it isn't defined."""
        found = np.full((len(self.results), len(self.layers)), np.nan)
        for row, result in enumerate(self.results):
            share = result.naming_map().share.value
            for column, layer in enumerate(self.layers):
                cells = [
                    i for i, own in enumerate(result.layers)
                    if own == layer and not np.isnan(share[i]) and not result.components[i].startswith("resid")
                ]  # fmt: skip
                if cells:
                    found[row, column] = share[max(cells, key=lambda i: abs(float(share[i])))]
        return found

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the blocks that were looked at."""
        return tuple(sorted({layer for result in self.results for layer in result.layers}))

    @property
    def finding(self) -> Finding:
        """Return what the run says, verdict first: which probes have sites that carry them, after correction."""
        located = self.located()
        parts = [
            f"{result.probe} by {', '.join(result.cell_name(i) for i in result.named)}"
            for result, own in zip(self.results, located, strict=True)
            if own.found
        ]
        none = [result.probe for result, own in zip(self.results, located, strict=True) if not own.found]
        headline = f"Nothing found: no site of {len(located)} biases is confirmed after correction over them."
        if parts:
            rest = f" Of {', '.join(none)} nothing is confirmed." if none else ""
            headline = f"{len(parts)} of {len(located)} biases are located: {'; '.join(parts)}.{rest}"
        estimates = tuple(
            estimate(
                f"{result.probe}: share the named sites take away (adjusted p = {own.adjusted:.2g})",
                own.confirmation.patched.share,
                control=estimate(f"bias, {result.unit}", own.bias.own, unit=result.unit),
            )
            for result, own in zip(self.results, located, strict=True)
            if own.confirmation is not None
        )
        said = tuple(f"{result.probe}: {result.finding.headline}" for result in self.results)
        limits = (*said, *(f"Not measured: {what}" for what in self.meta.not_measured))
        return Finding(headline=headline, found=bool(parts), estimates=estimates, limits=limits)

    def summary(self) -> str:
        """Return the finding as text."""
        return self.finding.text()

    def to_frame(self) -> "pd.DataFrame":
        """Return the tables of all probes; ``metric`` begins with the probe's name and a colon."""
        import pandas as pd

        frames = [table.frame(result) for result in self.results]
        for frame, probe in zip(frames, self.probes, strict=True):
            frame["metric"] = f"{probe}: " + frame["metric"].astype(str)
        whole = pd.concat(frames, ignore_index=True)
        return tidy({name: whole[name].to_numpy() for name in whole.columns})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the largest share of each bias that one cell of a layer takes away."""
        marks = [" *" if own.found else "" for own in self.located()]
        return plotting.heatmap(
            self.share_by_layer(),
            rows=[f"{name}{mark}" for name, mark in zip(self.probes, marks, strict=True)],
            columns=self.layers,
            row_label="bias",
            column_label="layer",
            value_label="largest share of the bias one cell takes away",
            ax=ax,
        )

    def panels(self) -> tuple[Panel, ...]:
        """Return the figures of a report: probes by layers, probes by cells, and confirmation bars of each located."""
        made = [
            Panel(
                "Which layer carries which bias?",
                "Largest share of each bias that patching one cell of a layer takes away; empty where the bias is too "
                "small for shares. Stars: located and confirmed after Holm's correction over the probes.",
                partial(_drawn, BiasesResult.plot, self),
            ),
            Panel(
                "Do biases share their sites?",
                "Share of each bias every cell of the sweep takes away, the strongest cells of any bias.",
                partial(_drawn, cells_by_probe, self),
            ),
        ]
        for result, own in zip(self.results, self.located(), strict=True):
            if own.found:
                bars = result.panels()[-1]
                made.append(Panel(f"{result.probe}: {bars.title}", bars.caption, bars.draw))
        return tuple(made)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a folder with one result folder per probe; returns it."""
        names = [f"probe-{index}" for index in range(len(self.results))]
        target = save_folder(path, kind=type(self).__name__, arrays={}, labels={"folders": names}, meta=self.meta)
        for name, result in zip(names, self.results, strict=True):
            result.save(target / name)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "BiasesResult":
        """Read what :meth:`save` wrote.

        Raises:
            ResultError: The folder is incomplete or holds another kind of result.
        """
        stored = load_folder(path, kind=cls.__name__)
        return cls(
            results=tuple(BiasSitesResult.load(Path(path) / name) for name in stored.labels["folders"]),
            meta=stored.meta,
        )

    def __repr__(self) -> str:
        """Return one line: pair, probes and the headline."""
        return f"BiasesResult({self.meta.pair.get('name')!r}, {len(self.results)} probes): {self.finding.headline}"

    def _repr_html_(self) -> str:
        return finding_html(self.finding)


def locate_biases(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    probes: Sequence[str | Perturbation] = _PROBES,
    seed: int = 0,
    progress: bool = True,
    **choices: Any,
) -> BiasesResult:
    """Locate several biases, corrected over them.

    Args:
        pair: Base and judge.
        items: What to judge.
        probes: Perturbations by name, your own, or ``"position"``. One that fits none of the items, or that the format
            doesn't show, is left out and said.
        seed: Seed of perturbations, splits, controls and intervals.
        progress: Whether to show progress bars.
        choices: Everything else :func:`locate_bias` takes.

    Returns:
        The result; after Ctrl-C, of the probes finished so far, which it says.

    Raises:
        ParameterError: There is no probe, one is named twice, or none fits.
    """
    started = time.perf_counter()
    names = [probe if isinstance(probe, str) else probe.name for probe in probes]
    if not names or len(set(names)) < len(names):
        raise ParameterError("no or repeated probes.", argument="probes", got=names, allowed="at least one")
    found: list[BiasSitesResult] = []
    left_out: list[str] = []
    for probe, name in zip(probes, names, strict=True):
        try:
            found.append(locate_bias(pair, items, probe, seed=seed, progress=progress, **choices))
        except (ParameterError, FormatError) as err:
            if isinstance(err, ParameterError) and err.argument != "probe":
                raise
            left_out.append(f"{name}: {err.what}")
        except KeyboardInterrupt:
            if not found:
                raise
            left_out += [f"{other}: the run was interrupted." for other in names[names.index(name) :]]
            break
    if not found:
        raise ParameterError("no probe fits these items.", argument="probes", got=left_out, allowed="one that does")
    meta = run_meta(
        pair, items, analysis="cross_model_patching.biases", seed=seed, wall_time_s=time.perf_counter() - started,
        parameters={"probes": names, **{name: _plain(value) for name, value in choices.items()}},
        not_measured=left_out,
    )  # fmt: skip
    return BiasesResult(results=tuple(found), meta=meta)


def cells_by_probe(result: BiasesResult, *, most: int = 24, ax: Axes | None = None) -> Axes:
    """Draw the share of every bias that each of the strongest cells takes away.

    Args:
        result: The run.
        most: How many cells.
        ax: Where to draw; a new figure when None.
    """
    shares: dict[str, dict[str, float]] = {}
    for own in result.results:
        values = own.naming_map().share.value
        for index, value in enumerate(values):
            shares.setdefault(f"{own.layers[index]}: {column_of(own, index)}", {})[own.probe] = float(value)
    order = sorted(shares, key=lambda name: -max(np.nan_to_num(np.abs(list(shares[name].values())))))[:most]
    grid = np.array([[shares[cell].get(probe, np.nan) for cell in order] for probe in result.probes])
    ax = plotting.heatmap(
        grid.reshape(len(result.probes), len(order)), rows=result.probes, columns=order, row_label="bias",
        column_label="layer: component and place", value_label="share of the bias taken away", ax=ax,
    )  # fmt: skip
    ax.tick_params(axis="x", labelrotation=90)
    return ax


def _together(told: Bias, held: Confirmation | None) -> float:
    if held is None:
        return 1.0
    second = [held.ablated.random.p if held.spared is not False else 1.0, held.induced.random.p]
    return max(told.p, told.chance.p, held.patched.random.p, min(second))


def _drawn(draw: Any, result: BiasesResult) -> Any:
    return figure_of(draw)(result)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
