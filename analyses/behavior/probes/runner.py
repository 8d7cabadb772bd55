"""Running probes: one, or all of them with one correction and one forest plot.

Steps of a probe: 1 make its item sets (unchanged, perturbed, placebo) and write them in the pair's format, both
answer orders, 2 read both models on all of them, 3 turn what was read into one number per item and model, toward the
biased side, 4 do the same with judges moved as far in random directions, 5 hold effect against placebo, judge against
base, and judge minus base against random judges minus base.

What it can't do: find a bias nobody made a probe for; say that a lean is wrong where following is what was asked.
Falsified if a model held against itself gives anything but exactly 0, or a judge moved at random lights a probe.
"""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from analyses.behavior.measure import SIDES
from analyses.behavior.probes.catalogue import expanded, get_probe, usual_probes
from analyses.behavior.probes.choices import Choices
from analyses.behavior.probes.effects import Correction
from analyses.behavior.probes.family import ProbesResult
from analyses.behavior.probes.plans import Ask, Plan, Probe, Read, Score
from analyses.behavior.probes.reading import Reader, Shown, Writer, joined, readable, shown
from analyses.behavior.probes.result import ProbeResult
from analyses.looping import progress_bar, random_judges
from workbench.errors import MemoryShortage, ParameterError, WorkbenchError
from workbench.judges import JudgeFormat, JudgeItem
from workbench.judges.perturb import Perturbation
from workbench.pairs import Pair, release_caches, run_meta

_AT_ONCE = 32
_NOISE_ITEMS = 2
_CORRECTIONS: tuple[Correction, ...] = ("holm", "bh")


@dataclass(slots=True, kw_only=True)
class _Asked:
    """One probe, what it asked, and what was read so far."""

    probe: Probe
    prompts: Shown
    choices: Choices
    read: Read
    rows: list[int]
    score: Score
    random: Float[np.ndarray, "draw item"]
    beside_random: Float[np.ndarray, "model item"]
    started: float
    notes: list[str] = field(default_factory=list)

    @property
    def controlled(self) -> list[int]:
        """Return the places, among the rows read, of those random judges are measured on."""
        chosen = np.random.default_rng(self.choices.seed).permutation(len(self.rows))[: self.choices.control_items]
        return sorted(int(i) for i in chosen)

    @property
    def controlled_plan(self) -> Plan:
        """Return the plan for those items."""
        return self.prompts.plan.take([self.rows[i] for i in self.controlled])


def probe(
    pair: Pair,
    items: Sequence[JudgeItem],
    name: str | Perturbation,
    *,
    placebo: bool = True,
    formats: Sequence[str | JudgeFormat] = (),
    controls: int = 5,
    control_items: int | None = 24,
    permutations: int = 4999,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> ProbeResult:
    """Probe both models for one bias.

    Args:
        pair: Base and judge.
        items: What to judge; items the probe doesn't fit are left out and counted.
        name: One of :func:`probe_names`, or a perturbation (``perturb.from_items`` makes one of your own items).
        placebo: Whether to measure the placebo; without it an effect may be one of length alone.
        formats: Further formats, for the probes that compare formats.
        controls: Number of random judges of equal norm; with fewer than three nothing can be told from chance.
        control_items: On how many items they are measured; None for all.
        permutations: Sign patterns drawn in a test, where there are too many to go through.
        batch_size: Prompts per forward.
        seed: Seed of perturbations, controls, tests and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ParameterError: The probe is unknown, or fits no item.
        ItemError: There are no items, or one lacks what the format always shows.
        FormatError: The labels can't be told apart, or a format is unknown.
        MemoryShortage: One item alone doesn't fit.
    """
    choices = Choices.checked(
        placebo=placebo, formats=formats, controls=controls, control_items=control_items, permutations=permutations,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    readable(pair, items)
    made = get_probe(name)
    reader = Reader(pair=pair, batch_size=batch_size)
    with progress_bar(len(items), title=made.name, shown=progress) as bar:
        asked = _ask(reader, Writer(pair, items), items, made, choices=choices, bar=bar)
    drawn = _Draws.of(pair, choices)
    with _kept_so_far([asked]), progress_bar(drawn.count, title="random judges", unit="judge", shown=progress) as bar:
        _measure_random(pair, [asked], choices, drawn.count, bar=bar)
    return _result(pair, asked, reader, noise=_noise(reader, asked), notes=drawn.notes)


def probe_all(
    pair: Pair,
    items: Sequence[JudgeItem],
    names: Sequence[str | Perturbation] | None = None,
    *,
    correction: Correction = "holm",
    placebo: bool = True,
    formats: Sequence[str | JudgeFormat] = (),
    controls: int = 5,
    control_items: int | None = 24,
    permutations: int = 4999,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> ProbesResult:
    """Probe both models for many biases, corrected over all of them together.

    Args:
        pair: Base and judge.
        items: What to judge; each probe takes those it fits.
        names: Probes, groups of them (``"linguistic mutations"``) and perturbations; all that can run when left out.
        correction: ``"holm"`` for the family-wise error, ``"bh"`` for the false discovery rate.
        placebo: Whether to measure placebos.
        formats: Further formats, for the probes that compare formats.
        controls: Number of random judges of equal norm.
        control_items: On how many items of each probe they are measured; None for all.
        permutations: Sign patterns drawn in a test, where there are too many to go through.
        batch_size: Prompts per forward.
        seed: Seed of perturbations, controls, tests and intervals.
        progress: Whether to show a progress bar.

    Returns:
        All probes that could run, and why the others couldn't; after Ctrl-C, those finished so far, which it says.

    Raises:
        ParameterError: A probe or the correction is unknown, a name stands twice, or no probe could run.
        ItemError: There are no items.
        FormatError: A format is unknown.
    """
    started = time.perf_counter()
    if correction not in _CORRECTIONS:
        raise ParameterError("unknown correction.", argument="correction", got=correction, allowed=_CORRECTIONS)
    choices = Choices.checked(
        placebo=placebo, formats=formats, controls=controls, control_items=control_items, permutations=permutations,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    readable(pair, items)
    chosen = usual_probes(pair.format, formats=bool(formats)) if names is None else expanded(names)
    probes = [get_probe(name) for name in chosen]
    if len({one.name for one in probes}) < len(probes) or not probes:
        raise ParameterError("name each probe once, and at least one.", argument="names", got=list(chosen))
    reader, writer = Reader(pair=pair, batch_size=batch_size), Writer(pair, items)
    finished: list[_Asked] = []
    failed: list[tuple[str, str]] = []
    with _kept_so_far(finished, failed, probes):
        with progress_bar(len(probes), title="probes", unit="probe", shown=progress) as bar:
            for one in probes:
                bar.set_postfix_str(one.name)
                try:
                    finished.append(_ask(reader, writer, items, one, choices=choices, bar=None))
                except WorkbenchError as err:
                    failed.append((one.name, _why(err)))
                bar.update(1)
        if not finished:
            raise ParameterError(
                "no probe could run on these items.", argument="names", got="; ".join(f"{n}: {w}" for n, w in failed)
            )
        drawn = _Draws.of(pair, choices)
        with progress_bar(drawn.count * len(finished), title="random judges", unit="probe", shown=progress) as bar:
            _measure_random(pair, finished, choices, drawn.count, bar=bar)
    noise, notes = _noise(reader, finished[0]), _Draws.of(pair, choices).notes
    results = tuple(_result(pair, asked, reader, noise=noise, notes=notes) for asked in finished)
    meta = run_meta(
        pair,
        items,
        analysis="behavior.probes",
        parameters={**choices.to_json(), "names": [one.name for one in probes], "correction": correction},
        seed=seed,
        wall_time_s=time.perf_counter() - started,
        noise_floor=noise,
        warnings=tuple(reader.warnings),
        not_measured=[*notes, *finished[0].notes, *(f"{name}: {why}" for name, why in failed)],
    )
    return ProbesResult(probes=results, failed=tuple(failed), correction=correction, meta=meta)


def _ask(
    reader: Reader, writer: Writer, items: Sequence[JudgeItem], made: Probe, *, choices: Choices, bar: tqdm | None
) -> _Asked:
    """Steps 1 to 3."""
    started = time.perf_counter()
    plan = made.prepare(
        Ask(reader.pair, items, choices.seed, choices.placebo, choices.formats, choices.batch_size)
    )  # fmt: skip
    prompts = shown(writer, plan, name=made.name)
    parts, rows, notes = [], [], []
    try:
        for start in range(0, len(prompts.plan), _AT_ONCE):
            chosen = list(range(start, min(start + _AT_ONCE, len(prompts.plan))))
            parts.append(reader.read(prompts, chosen))
            rows += chosen
            if bar is not None:
                bar.update(len(chosen))
    except KeyboardInterrupt:
        # In a run over many probes half of one is of no use: those finished before are kept.
        if bar is None or not parts:
            raise
        notes.append(f"{len(prompts.plan) - len(rows)} of {len(prompts.plan)} items: the run was interrupted.")
        warnings.warn(notes[0], RuntimeWarning, stacklevel=3)
    read = joined(parts)
    return _Asked(
        probe=made,
        prompts=prompts,
        choices=choices,
        read=read,
        rows=rows,
        score=made.score(prompts.plan.take(rows), read),
        random=np.full((choices.controls, len(rows)), np.nan),
        beside_random=np.full((len(SIDES), len(rows)), np.nan),
        started=started,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class _Draws:
    """How many random judges can be measured."""

    count: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, pair: Pair, choices: Choices) -> "_Draws":
        """Return as many as wanted, or none where base and judge are the same, and what to say then."""
        if choices.controls == 0:
            return cls(0, ("random changes of equal norm (controls=0).",))
        if not pair.delta(spectrum=False).moved:
            return cls(0, ("random changes of equal norm: base and judge are the same model.",))
        return cls(choices.controls, ())


def _measure_random(pair: Pair, finished: Sequence[_Asked], choices: Choices, draws: int, *, bar: tqdm) -> None:
    """Step 4."""
    if not draws:
        return
    for asked in finished:
        # Scored anew: what some probes say of an item depends on the others it is scored with.
        own = asked.probe.score(asked.controlled_plan, asked.read.take(asked.controlled))
        asked.beside_random[:, asked.controlled] = own.beyond
    for draw, (control, _) in enumerate(random_judges(pair, draws=draws, seed=choices.seed)):
        reader = Reader(pair=control, batch_size=choices.batch_size, sides=("judge",))
        values = []
        for asked in finished:
            rows = [asked.rows[i] for i in asked.controlled]
            values.append(asked.probe.score(asked.controlled_plan, reader.read(asked.prompts, rows)).beyond[1])
            bar.update(1)
        # A draw counts once all probes have it: their chance is of the same judges.
        for asked, own in zip(finished, values, strict=True):
            asked.random[draw, asked.controlled] = own


def _noise(reader: Reader, asked: _Asked) -> float:
    """Return how far rounding moves a preference: read in a batch, and alone."""
    rows = asked.rows[:_NOISE_ITEMS]
    alone = Reader(pair=reader.pair, batch_size=1)
    apart = joined([alone.read(asked.prompts, [row]) for row in rows])
    gaps = [np.abs(getattr(apart, name) - getattr(asked.read, name)[:, :, : len(rows)]).max()
            for name in ("content", "position")]  # fmt: skip
    return float(max(gaps))


def _result(pair: Pair, asked: _Asked, reader: Reader, *, noise: float, notes: Sequence[str]) -> ProbeResult:
    """Step 5 is the result's own."""
    plan = asked.prompts.plan.take(asked.rows)
    score, items = asked.score, plan.sets[0]
    blank = np.full_like(score.effect, np.nan)
    rates = list(score.rates.values())
    none = np.zeros((0, *score.effect.shape))
    meta = run_meta(
        pair,
        items,
        analysis="behavior.probe",
        parameters={**asked.choices.to_json(), "name": asked.probe.name},
        seed=asked.choices.seed,
        wall_time_s=time.perf_counter() - asked.started,
        noise_floor=noise,
        warnings=tuple(reader.warnings),
        not_measured=[*notes, *plan.notes, *asked.notes],
    )
    return ProbeResult(
        item_ids=tuple(item.item_id for item in items),
        clusters=tuple(item.cluster for item in items),
        orders=asked.prompts.orders,
        questions=tuple(item.question for item in items),
        labels=np.array([-1 if item.label is None else item.label for item in items]),
        meta=meta,
        probe=asked.probe.name,
        title=asked.probe.title,
        description=asked.probe.description,
        target=asked.probe.target,
        expected=asked.probe.expected,
        unit=asked.read.unit if score.unit is None else score.unit,
        scale_free=score.unit == "",
        models=("base", "judge"),
        conditions=plan.conditions,
        rate_names=tuple(score.rates),
        permutations=asked.choices.permutations,
        toward=plan.toward,
        content=asked.read.content,
        position=asked.read.position,
        mass=asked.read.mass,
        verdict=asked.read.verdict,
        effect=score.effect,
        placebo=blank if score.placebo is None else score.placebo,
        weight=np.ones_like(score.effect) if score.weight is None else score.weight,
        rates=np.stack([rate.value for rate in rates]) if rates else none,
        rate_placebo=np.stack([blank if r.placebo is None else r.placebo for r in rates]) if rates else none,
        random_beyond=asked.random,
        beyond_beside_random=asked.beside_random,
    )


@contextmanager
def _kept_so_far(
    finished: list[_Asked], failed: list[tuple[str, str]] | None = None, probes: Sequence[Probe] = ()
) -> Iterator[None]:
    """Let Ctrl-C, or random judges that don't fit into memory, end the loop inside; what is finished is kept and said.

    Raises:
        KeyboardInterrupt: Nothing was finished.
        MemoryShortage: The same.
    """
    try:
        yield
    except (KeyboardInterrupt, MemoryShortage) as err:
        if not finished:
            raise
        why = err.what if isinstance(err, MemoryShortage) else "the run was interrupted."
    else:
        return
    release_caches()
    done = {asked.probe.name for asked in finished} | {name for name, _ in failed or ()}
    left = [one.name for one in probes if one.name not in done]
    if failed is not None:
        failed += [(name, why.rstrip(".")) for name in left]
    said = f"{len(left)} of {len(probes)} probes: {why}" if left else f"random judges: {why}"
    for asked in finished:
        asked.notes.append(said)
    warnings.warn(said, RuntimeWarning, stacklevel=3)


def _why(err: WorkbenchError) -> str:
    return f"{err.what.rstrip('.')} ({err.got})" if err.got is not None else err.what
