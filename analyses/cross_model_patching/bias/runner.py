"""Which sites carry a bias, and did fine-tuning make them its carriers?

    removed(cell) = margin(perturbed) - margin(perturbed, cell <- the same item unperturbed),   toward the biased side

within one model; then the same cells given the other model's activations, on both prompts, for what of the bias
that takes away. Perturbations and their placebos are those of :mod:`workbench.judges.perturb`.

Steps: 1 the bias of both models beside its placebo, 2 every cell patched, exactly, 3 sites named on one half of the
items, 4 on the other half the named set patched together and, independently, ablated, both beside random sets of the
same components and layers, with what the ablation does to judging unperturbed items, 5 the same bias and patches in
judges moved as far at random.

What it can't do: tell a site that makes the bias from one that passes it on; say that another wording is carried by
the same sites. Falsified if a pair of identical models gives anything but 0 across models, or a random row differs
from a full forward.
"""

import time
from collections.abc import Iterable, Sequence

import numpy as np

from analyses.cross_model_patching.bias import views
from analyses.cross_model_patching.bias.measuring import ABLATIONS, Ablation, Work, mean_of
from analyses.cross_model_patching.bias.plan import Donor, Plan, plan_of
from analyses.cross_model_patching.bias.result import BiasSitesResult
from analyses.cross_model_patching.bias.sets import named_sites, random_sets_of
from analyses.cross_model_patching.cells import Cell, grid
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import (
    FEWEST_TO_CONFIRM,
    check_least,
    controlled_items,
    interruptible,
    progress_bar,
    random_judges,
)
from workbench.errors import ParameterError
from workbench.hooks.suffix import Mode
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.judges.perturb import Perturbation
from workbench.pairs import Pair, Side, run_meta

_BY_ITEM = ("effect", "other_effect")
"""Arrays of a random judge whose first axis is the item."""


def locate_bias(
    pair: Pair,
    items: Sequence[JudgeItem],
    probe: str | Perturbation = "bandwagon",
    *,
    sites: Sequence[str] = ("attn_out", "mlp_out", "z"),
    last_k: int = 4,
    last_k_heads: int = 1,
    spans: Sequence[str] = (),
    layers: Iterable[int] | None = None,
    donor: Donor = "auto",
    n_named: int = 5,
    controls: int = 5,
    control_items: int | None = 32,
    random_sets: int = 20,
    ablation: Ablation = "mean",
    model: Side = "judge",
    mode: Mode | None = None,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> BiasSitesResult:
    """Find the sites that carry a bias on one half of the items, and confirm them on the other by two interventions.

    Args:
        pair: Base and judge.
        items: What to judge; each is shown unchanged, perturbed, and with the placebo, in every order of ``orders``.
        probe: Name of a perturbation, one of your own, or ``"position"``.
        sites: Components: ``attn_out``, ``mlp_out``, ``resid_pre``, ``resid_mid``, ``resid_post``; head by head ``z``,
            ``q`` and, by key-value head, ``k``, ``v``. Streams are mapped but never named.
        last_k: Positions from the end at which whole components are patched.
        last_k_heads: Positions from the end at which heads are patched.
        spans: Parts of the prompt patched as a whole, where both prompts give them the same number of tokens.
        layers: Which blocks; all of them by default.
        donor: What the perturbed prompts are patched from: ``"unperturbed"``, ``"placebo"``, or ``"auto"``: the placebo
            where it is as long as the perturbation and holds the change once.
        n_named: How many sites are named at most.
        controls: Number of random judges of equal norm; with fewer than three nothing can be told from chance.
        control_items: On how many items they are measured; None for all.
        random_sets: Random sets of as many sites, matched on component and layer.
        ablation: What confirms the patch: the named set held at its ``"mean"`` over the unperturbed items of the naming
            half, at ``"zero"``, or at what it has on another, ``"clean"`` item of that half. For position the mean and
            the other item are the other model's, whose preference is what is compared.
        model: Whose bias is located.
        mode: How patches run; None takes the fastest exact way, ``"plain"`` one full forward each.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of perturbations, splits, controls and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ParameterError: A choice isn't allowed, or the perturbation fits no item.
        UnknownSite: The models have no such site.
        ItemError: There are no items.
        FormatError: The format doesn't show the perturbation, scores several answers, or its labels begin alike.
        ContextWindowError: A prompt is longer than the models' window.
        ExecutorDisagreement: A patch behind cached prompts differs from a full forward with it.
    """
    started = time.perf_counter()
    check_least(
        batch_size=(batch_size, 1),
        controls=(controls, 0),
        control_items=(control_items, 2),
        n_named=(n_named, 1),
        random_sets=(random_sets, 0),
        last_k=(last_k, 0),
        last_k_heads=(last_k_heads, 0),
    )
    _check_choices(ablation, model, spans)
    chosen_layers = None if layers is None else sorted(set(layers))
    plan = plan_of(pair, items, probe, orders=orders, donor=donor, seed=seed)
    cells = grid(
        pair.anatomy("base"), sites=sites, last_k=last_k, last_k_heads=last_k_heads, spans=spans, layers=chosen_layers
    )
    plan.pairs.check(cells)
    work = _planned(plan, cells, side=model, ablation=ablation, mode=mode, seed=seed)
    shown = plan.shown
    controlled: dict[str, np.ndarray] = {}
    with interruptible(shown):
        with progress_bar(len(shown), title=f"sites of {plan.name}", shown=progress) as bar:
            sums = []
            for chosen, part in shown.each(shown.batches(batch_size), work.measure):
                shown.done[list(chosen)] = True
                sums.append(part)
                bar.update(len(chosen))
        work.means = mean_of(sums)
        _name(work, count=n_named, random_sets=random_sets)
        _confirm(work, batch_size=batch_size, progress=progress)
        _random(work, controlled, draws=controls, limit=control_items, batch_size=batch_size, progress=progress)
    parameters = {
        "probe": plan.name, "sites": list(sites), "last_k": last_k, "last_k_heads": last_k_heads, "spans": list(spans),
        "layers": chosen_layers, "donor": donor, "n_named": n_named, "controls": controls,
        "control_items": control_items, "random_sets": random_sets, "ablation": ablation, "model": model, "mode": mode,
        "orders": list(orders), "batch_size": batch_size,
    }  # fmt: skip
    return _assemble(work, controlled, parameters=parameters, wall_time_s=time.perf_counter() - started)


def _check_choices(ablation: str, model: str, spans: Sequence[str]) -> None:
    if ablation not in ABLATIONS:
        raise ParameterError("no such ablation.", argument="ablation", got=ablation, allowed=ABLATIONS)
    if model not in ("judge", "base"):
        raise ParameterError("no such side of a pair.", argument="model", got=model, allowed=("judge", "base"))
    if ablation == "clean" and spans:
        raise ParameterError(
            "spans of other items have other lengths.", argument="ablation", got=ablation, allowed=("mean", "zero")
        )


def _planned(
    plan: Plan, cells: tuple[Cell, ...], *, side: Side, ablation: Ablation, mode: Mode | None, seed: int
) -> Work:
    shape = (len(plan.shown), len(plan.shown.orders))
    first, _ = plan.shown.halves(seed=seed)
    naming = np.zeros(shape[0], dtype=bool)
    naming[first] = True
    return Work(
        plan=plan,
        cells=cells,
        verdict=VerdictIds.of(plan.shown),
        side=side,
        ablation=ablation,
        mode=mode,
        seed=seed,
        naming=naming,
        margins={name: np.full((len(plan.conditions), *shape), np.nan) for name in ("base", "judge")},
        masses=np.full(shape, np.nan),
        effect=np.full((*shape, len(cells)), np.nan),
        other_effect=np.full((*shape, len(cells)), np.nan),
    )


def _name(work: Work, *, count: int, random_sets: int) -> None:
    """Step 3, on the naming half; and the random sets."""
    shown = work.shown
    if shown.n_clusters < FEWEST_TO_CONFIRM:
        shown.notes.append(f"sites named on one half and confirmed on the other (fewer than {FEWEST_TO_CONFIRM} "
                           "independent items).")  # fmt: skip
        return
    plan, chosen = work.plan, np.flatnonzero(work.naming & shown.done)
    sign = views.oriented(plan.sign, work.margins[work.side], plan.conditions, target=plan.target, naming=work.naming)
    effect = work.other_effect if plan.placed else work.effect
    own = named_sites(
        work.cells,
        -(effect * sign[..., None]).mean(1)[chosen],
        clusters=[shown.clusters[i] for i in chosen],
        count=count,
        seed=work.seed,
    )
    if not own:
        shown.notes.append("patching together and ablating: no site was named.")
        return
    drawn = random_sets_of(work.cells, own, count=random_sets, seed=work.seed)
    if len(drawn) < random_sets:
        shown.notes.append(f"{random_sets - len(drawn)} of {random_sets} random sets: there are only {len(drawn)}.")
    work.sets = [own, *drawn]
    shape = (len(work.sets), len(shown), len(shown.orders))
    for name in ("set_effect", "set_induced", "set_other_effect", "set_shift", "set_plain"):
        setattr(work, name, np.full(shape, np.nan))
    work.ablated_mass = np.full(shape[1:], np.nan)


def _confirm(work: Work, *, batch_size: int, progress: bool) -> None:
    """Step 4, on the other half."""
    if not work.sets:
        return
    shown = work.shown
    chosen = [int(i) for i in np.flatnonzero(~work.naming & shown.done)]
    with progress_bar(len(chosen), title="confirming", shown=progress) as bar:
        for items, _ in shown.each(shown.batches(batch_size, items=chosen), work.confirm):
            bar.update(len(items))


def _random(
    work: Work, found: dict[str, np.ndarray], *, draws: int, limit: int | None, batch_size: int, progress: bool
) -> None:
    """Step 5: the same in judges moved as far at random."""
    shown = work.shown
    chosen = [i for i in controlled_items(shown, draws=draws, limit=limit, seed=work.seed) if shown.done[i]]
    if not chosen:
        return
    shape, cells = (len(shown), len(shown.orders)), len(work.cells)
    found["margin"] = np.full((draws, len(work.plan.conditions), *shape), np.nan)
    for name in ("effect", "other_effect"):
        found[name] = np.full((draws, *shape, cells), np.nan)
        found[f"set_{name}"] = np.full((draws, len(work.sets[:1]), *shape), np.nan)
    with progress_bar(draws * len(chosen), title="random judges", shown=progress) as bar:
        for draw, (_, executor) in enumerate(random_judges(shown.pair, draws=draws, seed=work.seed)):
            batches = shown.batches(batch_size, items=chosen)
            for items, part in shown.each(batches, lambda some, executor=executor: work.random_judge(executor, some)):
                for name, values in part.items():
                    by_item = found[name][draw]
                    by_item[list(items) if name in _BY_ITEM else (slice(None), list(items))] = values
                bar.update(len(items))


def _note_unaligned(work: Work) -> None:
    """Say which cells no item has, aligned in every order shown."""
    done = work.effect[work.shown.done]
    lost = [str(cell) for i, cell in enumerate(work.cells) if not (~np.isnan(done[..., i])).all(1).any()]
    if lost:
        places = sorted({name.partition(" @ ")[2] for name in lost})
        work.shown.notes.append(f"{len(lost)} sites at {', '.join(places)}: in no item are these tokens aligned in "
                                "every order shown.")  # fmt: skip


def _assemble(
    work: Work, controlled: dict[str, np.ndarray], *, parameters: dict[str, object], wall_time_s: float
) -> BiasSitesResult:
    plan, shown, cells = work.plan, work.shown, work.cells
    plain = plan.prompts[plan.plain]
    _note_unaligned(work)
    meta = run_meta(
        shown.pair,
        plain.kept_items(),
        analysis="cross_model_patching.bias",
        parameters=parameters,
        seed=work.seed,
        wall_time_s=wall_time_s,
        noise_floor=work.noise,
        warnings=shown.warnings,
        not_measured=shown.notes,
    )
    shape, n_conditions = (len(shown), len(shown.orders)), len(plan.conditions)
    count, n_sets = len(cells), len(work.sets[:1])
    blank = {
        "margin": np.zeros((0, n_conditions, *shape)),
        "effect": np.zeros((0, *shape, count)),
        "other_effect": np.zeros((0, *shape, count)),
        "set_effect": np.zeros((0, n_sets, *shape)),
        "set_other_effect": np.zeros((0, n_sets, *shape)),
    }
    random = {**blank, **controlled}
    sets = (len(work.sets), *shape)
    ready = bool(work.sets)
    return BiasSitesResult(
        **plain.axes(),  # type: ignore[arg-type]
        probe=plan.name,
        title=plan.title,
        target=plan.target,
        side=work.side,
        conditions=plan.conditions,
        weights=plan.weights,
        donor=plan.donor,
        reference=plan.reference,
        plain=plan.plain,
        ablation=work.ablation,
        said=plan.said,
        unit=work.verdict.unit,
        components=tuple(cell.component.value for cell in cells),
        layers=tuple(cell.layer for cell in cells),
        heads=tuple(cell.head for cell in cells),
        positions=tuple(cell.position for cell in cells),
        spans=tuple(cell.span for cell in cells),
        sets=tuple(tuple(int(i) for i in group) for group in work.sets),
        ran_as=work.ran_as,
        naming=shown.kept(work.naming.astype(float)),
        sign=shown.kept(plan.sign),
        judge_margin=shown.kept(work.margins["judge"], axis=1),
        base_margin=shown.kept(work.margins["base"], axis=1),
        plain_mass=shown.kept(work.masses),
        effect=shown.kept(work.effect),
        other_effect=shown.kept(work.other_effect),
        set_effect=shown.kept(work.set_effect if ready else np.zeros(sets), axis=1),
        set_induced=shown.kept(work.set_induced if ready else np.zeros(sets), axis=1),
        set_other_effect=shown.kept(work.set_other_effect if ready else np.zeros(sets), axis=1),
        set_shift=shown.kept(work.set_shift if ready else np.zeros(sets), axis=1),
        set_plain=shown.kept(work.set_plain if ready else np.zeros(sets), axis=1),
        ablated_mass=shown.kept(work.ablated_mass if ready else np.full(shape, np.nan)),
        random_margin=shown.kept(random["margin"], axis=2),
        random_effect=shown.kept(random["effect"], axis=1),
        random_other_effect=shown.kept(random["other_effect"], axis=1),
        random_set_effect=shown.kept(random["set_effect"], axis=2),
        random_set_other_effect=shown.kept(random["set_other_effect"], axis=2),
        self_test=work.self_test,
        meta=meta,
    )
