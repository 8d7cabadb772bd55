"""Is an adapter judge, merged into its weights, still the same judge?

Merging adds a small change to large weights and rounds the sum. In float32 that loses nothing to
speak of; in bfloat16 a change below one part in 256 of a weight is rounded away, and a small judge
may be gone.

Steps: 1 read the unmerged judge's verdict margin, label mass, logits and stream after every block at
the last token, 2 the same of its merged form, 3 controls: the unmerged judge in another batch shape
(what rounding alone does) and, for a half-precision pair, both forms in float32 with weights merged
in the pair's type (what merging lost) and in float32 (must lose nothing), 4 differences prompt by
prompt, with intervals over items.

What it can't do: speak for prompts that were not asked, or for text the judges would write.
Falsified if weights merged in float32 and computed in float32 don't agree with the unmerged judge.
"""

import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from analyses.looping import Prompts, check_least, interruptible, progress_bar
from analyses.merge_equivalence.forms import Forms, Reading, divergence, logit_difference, stream_drift
from analyses.merge_equivalence.result import MergeEquivalenceResult
from workbench.errors import ParameterError
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, run_meta
from workbench.pairs.adapters import tuner_layers

_QUANTITIES = ("reference_margin", "margin", "reference_mass", "mass", "logit_difference", "divergence")


def run(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    tolerance: float = 0.01,
    float32: bool = True,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> MergeEquivalenceResult:
    """Compare the judge's adapter with its merged form, verdict by verdict.

    Args:
        pair: An adapter pair.
        items: What to judge; each is shown in every order of ``orders``.
        tolerance: Largest change of a verdict margin, in nats, that still counts as the same judge.
        float32: Whether a half-precision pair is compared in float32 too, which takes another copy of all weights.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of the intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ParameterError: The judge has no adapter, so that there is nothing to merge; or a choice isn't allowed.
        PairMismatch: This kind of adapter can't be merged exactly.
        ItemError: There are no items.
        ContextWindowError: A prompt is longer than the models' window.
        FormatError: The labels can't be told apart.
        MemoryShortage: There is no room for the merged forms, or one item alone doesn't fit.
    """
    started = time.perf_counter()
    check_least(batch_size=(batch_size, 1))
    _check(pair, tolerance)
    prompts = Prompts.of(pair, items, orders=orders)
    half = pair.dtype.itemsize < 4
    forms = Forms.of(pair, float32=float32 and half)
    if half and not float32:
        prompts.notes.append("what merging alone loses, and the control merged in float32 (float32=False).")
    n_layers = pair.n_layers
    shape = (len(forms.names), len(prompts), len(prompts.orders))
    arrays: dict[str, np.ndarray] = {name: np.full(shape, np.nan) for name in _QUANTITIES}
    arrays["stream_drift"] = np.full((*shape, n_layers), np.nan)

    def measured(chosen: Sequence[int]) -> list[dict[str, np.ndarray]]:
        encoded = prompts.encoded.select(prompts.rows_of(chosen))
        return [_row(*both) for both in forms.compared(encoded, prompts.batch(chosen))]

    with interruptible(prompts), progress_bar(len(prompts), title="merged and unmerged", shown=progress) as bar:
        for chosen, rows in prompts.each(prompts.batches(batch_size), measured):
            for index, row in enumerate(rows):
                for name, values in row.items():
                    arrays[name][index, list(chosen)] = prompts.by_item(values)
            prompts.done[list(chosen)] = True
            bar.update(len(chosen))
    return MergeEquivalenceResult(
        **prompts.axes(),  # type: ignore[arg-type]
        **{name: prompts.kept(values, axis=1) for name, values in arrays.items()},
        forms=forms.names,
        kind=pair.kind,
        dtype=str(pair.dtype).removeprefix("torch."),
        n_layers=n_layers,
        tolerance=tolerance,
        choices=prompts.choices,
        meta=run_meta(
            pair,
            prompts.kept_items(),
            analysis="merge_equivalence",
            parameters={
                "tolerance": tolerance,
                "float32": float32,
                "orders": list(prompts.orders),
                "batch_size": batch_size,
            },
            seed=seed,
            wall_time_s=time.perf_counter() - started,
            noise_floor=_noise(arrays, forms.names),
            warnings=prompts.warnings,
            not_measured=prompts.notes,
        ),
    )


def _row(reference: Reading, form: Reading) -> dict[str, np.ndarray]:
    return {
        "reference_margin": reference.margin,
        "margin": form.margin,
        "reference_mass": reference.mass,
        "mass": form.mass,
        "logit_difference": logit_difference(reference, form),
        "divergence": divergence(reference, form),
        "stream_drift": stream_drift(reference, form),
    }


def _noise(arrays: dict[str, Float[np.ndarray, "form item *rest"]], names: Sequence[str]) -> float:
    """Return the largest change of a margin that another batch shape makes."""
    again = names.index("unmerged, alone")
    return float(np.nanmax(np.abs(arrays["margin"][again] - arrays["reference_margin"][again])))


def _check(pair: Pair, tolerance: float) -> None:
    if not tolerance > 0:
        raise ParameterError("too small.", argument="tolerance", got=tolerance, allowed="more than 0 nats")
    if next(tuner_layers(pair.judge), None) is None:
        raise ParameterError(
            "this judge is a checkpoint of its own: there is no adapter, so there is no unmerged form to compare with.",
            argument="pair",
            got=f"{pair.name}, kind {pair.kind!r}",
            allowed="a pair whose judge is an adapter on the base",
            fix="Load the judge from its adapter: load_pair(base, adapter). How far a checkpoint is says pair.delta().",
        )
