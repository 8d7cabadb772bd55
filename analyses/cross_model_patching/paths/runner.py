"""Along which paths does the judge's advantage reach the verdict? Path patching across models, hop by hop.

    direct(s)    = margin(target with donor's write of s, every later attention held) - margin(target)
    through(s,r) = margin(target with r's input as s alone left it, nothing held)     - margin(target)

judge_to_base: the base is given the judge's write; base_to_judge: the judge the base's. At the verdict token, exact.
Wang et al., "Interpretability in the wild" (arXiv 2211.00593) and Prakash et al., ICLR 2024 (arXiv 2402.14811) do
this within one model, with one full forward a sender and step.

Steps: 1 every head's and MLP's direct path; 2 the strongest on one half of the items become receivers (a head by query,
key and value, an MLP by its input), and every sender is followed to each of these; 3 again, until no path survives;
4 effects and tests on the other half; 5 controls: another item's writes, random judges of equal norm.

What it can't do: follow what reaches the verdict token from earlier tokens other than as a head's own write there.
Falsified if identical models give anything but 0, or a random row differs from a full forward.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from analyses.cross_model_patching.directions import DIRECTIONS, Direction
from analyses.cross_model_patching.paths.result import PathPatchingResult
from analyses.cross_model_patching.paths.tracing import Frozen
from analyses.cross_model_patching.paths.work import Hop, Work
from analyses.cross_model_patching.paths.writes import RECEIVING, senders_of
from analyses.cross_model_patching.verdicts import MODES
from analyses.looping import Prompts, check_least, interruptible, progress_bar
from workbench.errors import ParameterError
from workbench.hooks import Anatomy, Site
from workbench.hooks.suffix import Mode
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, run_meta


def trace_paths(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    senders: Literal["heads+mlps", "heads", "mlps"] = "heads+mlps",
    receivers: Literal["verdict"] | Sequence[Site] = "verdict",
    direction: Literal["both", "judge_to_base", "base_to_judge"] = "both",
    frozen: Frozen = "attention",
    n_receivers: int = 5,
    hops: int = 3,
    controls: int = 5,
    control_items: int | None = 32,
    mode: Mode | None = None,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> PathPatchingResult:
    """Follow what judge and base write differently along single paths to the verdict.

    Args:
        pair: Base and judge.
        items: What to judge; each is shown in every order of ``orders``. Labels say which way an advantage points.
        senders: Whose writes at the verdict token are exchanged.
        receivers: ``"verdict"`` follows the direct paths and then chains backwards by itself; sites (``q``, ``k``,
            ``v`` of a head, ``mlp_out`` for an MLP's input) are followed beside the direct paths, and no chain.
        direction: Whose writes go into whom.
        frozen: What may not react on the way: ``"attention"`` lets MLPs; with ``"attention+mlp"`` a direct path is the
            write itself, through the final norm.
        n_receivers: How many paths go on at each hop, chosen on one half of the items.
        hops: How many hops at most; 1 is the direct paths alone.
        controls: Number of random judges of equal norm; with fewer than three no path can be told from chance.
        control_items: On how many items the controls are measured; None for all.
        mode: How rows run; None takes the fastest exact way, ``"plain"`` one full forward each.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of splits, controls and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items and hops finished so far, which it says.

    Raises:
        ParameterError: A choice isn't allowed, or a head's write can't be told from its block's.
        UnknownSite: The models have no such site.
        ItemError: There are no items.
        FormatError: The format shows several answers to be scored, or its labels begin alike.
        ContextWindowError: A prompt is longer than the models' window.
        ExecutorDisagreement: A row behind cached prompts differs from a full forward.
    """
    started = time.perf_counter()
    check_least(
        batch_size=(batch_size, 1), controls=(controls, 0), control_items=(control_items, 2),
        n_receivers=(n_receivers, 1), hops=(hops, 1),
    )  # fmt: skip
    given = None if isinstance(receivers, str) else tuple(receivers)
    _check_choices(pair.anatomy("base"), receivers, direction=direction, frozen=frozen)
    prompts = Prompts.of(pair, items, orders=orders, modes=MODES)
    work = Work.plan(
        prompts,
        senders=senders_of(pair.anatomy("base"), senders),
        directions=tuple(way for way in DIRECTIONS if direction in ("both", way)),
        frozen=frozen,
        n_receivers=n_receivers,
        draws=controls,
        limit=control_items,
        mode=mode,
        batch_size=batch_size,
        seed=seed,
    )
    with interruptible(prompts):
        _direct(work, progress=progress)
        if given is not None:
            _follow(work, [work.room(d, 1, given) for d in work.directions], progress=progress)
        else:
            _chain(work, hops=hops, progress=progress)
    parameters = {
        "senders": senders, "receivers": "verdict" if given is None else [str(site) for site in given],
        "direction": direction, "frozen": frozen, "n_receivers": n_receivers, "hops": hops, "controls": controls,
        "control_items": control_items, "mode": mode, "orders": list(orders), "batch_size": batch_size,
    }  # fmt: skip
    return _assemble(work, parameters=parameters, wall_time_s=time.perf_counter() - started)


def _check_choices(anatomy: Anatomy, receivers: str | Sequence[Site], *, direction: str, frozen: str) -> None:
    if direction not in ("both", *DIRECTIONS):
        raise ParameterError("no such direction.", argument="direction", got=direction, allowed=("both", *DIRECTIONS))
    if frozen not in ("attention", "attention+mlp"):
        raise ParameterError(
            "this can't be held.", argument="frozen", got=frozen, allowed=("attention", "attention+mlp")
        )
    if isinstance(receivers, str):
        if receivers != "verdict":
            raise _no_end(receivers)
        return
    for site in receivers:
        if not _receives(site):
            raise _no_end(str(site))
        anatomy.check(site)
    if len(set(receivers)) < len(receivers) or not receivers:
        raise ParameterError("name every receiver once.", argument="receivers", got=[str(site) for site in receivers])


def _receives(site: object) -> bool:
    if not isinstance(site, Site) or site.component not in RECEIVING:
        return False
    return (site.head is not None) == site.component.per_head


def _no_end(got: str) -> ParameterError:
    return ParameterError(
        "a path can't end here.",
        argument="receivers",
        got=got,
        allowed="'verdict', or sites: q, k, v of one head, mlp_out for an MLP's input",
    )


def _direct(work: Work, *, progress: bool) -> None:
    """Step 1, with its controls."""
    prompts = work.prompts
    hops = [work.room(direction, 0, (None,)) for direction in work.directions]
    work.hops += hops
    with progress_bar(len(prompts), title="direct paths", shown=progress) as bar:
        run = partial(work.measure, hops)
        for chosen, _ in prompts.each(prompts.batches(work.batch_size), run):
            prompts.done[list(chosen)] = True
            bar.update(len(chosen))
    work.mislead(hops)
    work.random_judges(hops, gaps=True)
    for hop in hops:
        work.choose(hop)


def _chain(work: Work, *, hops: int, progress: bool) -> None:
    """Steps 2 and 3: choose on one half, follow, until nothing survives."""
    current = list(work.hops)
    for number in range(1, hops):
        wanted: list[tuple[Direction, tuple[Site, ...]]] = [(h.direction, work.next_receivers(h)) for h in current]
        current = [work.room(way, number, receivers) for way, receivers in wanted if receivers]
        if not current:
            return
        _follow(work, current, progress=progress)


def _follow(work: Work, hops: list[Hop], *, progress: bool) -> None:
    """Measure the senders of some receivers, with controls; kept only as a whole."""
    prompts = work.prompts
    done = [int(i) for i in np.flatnonzero(prompts.done)]
    with progress_bar(len(done), title=f"paths, hop {hops[0].number + 1}", shown=progress) as bar:
        for chosen, _ in prompts.each(prompts.batches(work.batch_size, items=done), partial(work.measure, hops)):
            bar.update(len(chosen))
    work.hops += hops
    work.mislead(hops)
    work.random_judges(hops, gaps=False)
    for hop in hops:
        work.choose(hop)


def _assemble(work: Work, *, parameters: dict[str, object], wall_time_s: float) -> PathPatchingResult:
    prompts = work.prompts
    anatomy = prompts.pair.anatomy("base")
    meta = run_meta(
        prompts.pair,
        prompts.kept_items(),
        analysis="cross_model_patching.paths",
        parameters=parameters,
        seed=work.seed,
        wall_time_s=wall_time_s,
        noise_floor=work.noise,
        warnings=prompts.warnings,
        not_measured=prompts.notes,
    )
    half = np.ones(len(prompts))
    half[work.first_half] = 0.0
    return PathPatchingResult(
        **prompts.axes(),  # type: ignore[arg-type]
        **work.edges(),
        directions=work.directions,
        frozen=work.frozen,
        choices=() if work.verdict.scalar else prompts.choices,
        unit=work.verdict.unit,
        senders=tuple(str(site) for site in work.senders),
        n_layers=anatomy.n_layers,
        n_heads=anatomy.n_heads,
        modes=work.modes,
        base_margin=prompts.kept(work.margins[0]),
        judge_margin=prompts.kept(work.margins[1]),
        total_effect=prompts.kept(work.total, axis=1),
        random_gap=prompts.kept(work.random_gap, axis=1),
        confirming=prompts.kept(half),
        noise=work.noise,
        self_test=work.self_test,
        meta=meta,
    )
