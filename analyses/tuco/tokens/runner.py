"""Where in the text, and when in a completion, did fine-tuning write?

    TuCo_t = |F_t| / (|P_t| + |F_t|)   at every token t of the prompt and of a completion up to its verdict

with P and F as in :mod:`analyses.tuco.runner`. Paper: Nuti et al. 2025 (last prompt token only);
teacher-forcing prompt and completion once gives every token's value, as causality makes it that of
the prompt cut off there.

Steps: 1 complete the prompts (given texts, or the judge's own words) and cut them before the verdict
label, 2 one judge forward and one clamped base forward, 3 shares, parts and depth at every token,
4 means by region, 5 controls (the judge against itself; random changes of equal norm reading the
same tokens), 6 where the share stands out from theirs.

What it can't do: say that what was written somewhere mattered for the verdict; take out or patch it
to learn that. Falsified if a token's value changes with the tokens after it, if the judge against
itself gives anything but 0, or if a random judge's regions are found to stand out more than 5% of the time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from analyses.looping import Prompts, check_least, controlled_items, interruptible, progress_bar, random_judges
from analyses.tuco.checks import check_null
from analyses.tuco.cuts import Granularity, Unit, units
from analyses.tuco.evaluation import Evaluation
from analyses.tuco.gauge import Gauge
from analyses.tuco.shares import Norm
from analyses.tuco.tokens.averages import PromptTokens, by_prompt, completion_curve, region_means
from analyses.tuco.tokens.completions import CompletedRows, Completions, Positions, completed_rows
from analyses.tuco.tokens.double_pass import measure_tokens, noise_of_tokens
from analyses.tuco.tokens.result import TokenMapResult
from workbench.hooks import HooksBackend
from workbench.judges import ORDERS, JudgeItem, Order
from workbench.pairs import Pair, run_meta

_TOKENS = ("example_finetuned", "example_pretrained", "example_alignment")
_TOKEN_PARTS = ("example_finetuned_parts", "example_pretrained_parts")


def map_tokens(
    pair: Pair,
    items: Sequence[JudgeItem],
    *,
    completions: Completions | None = None,
    max_new_tokens: int = 64,
    granularity: Granularity = "block",
    norm: Norm = "l1",
    positions: Positions = "all",
    controls: int = 5,
    control_items: int | None = 16,
    examples: int = 4,
    orders: Sequence[Order] = ORDERS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> TokenMapResult:
    """Measure fine-tuning's contribution at every token of the prompts, and of completions up to the verdict.

    Args:
        pair: Base and judge.
        items: What to judge; each is shown in every order of ``orders``.
        completions: None for the prompts alone; ``"generate"`` for the judge's own greedy completion; or texts that
            follow the prompt, by ``item/order`` or in the prompts' order. They are cut before the verdict label.
        max_new_tokens: Tokens to generate at most.
        granularity: See :func:`analyses.tuco.run`.
        norm: ``"l1"`` (Definition 4.3), ``"l2"``, or ``"final_norm"`` (L2 weighted with the final norm's gain).
        positions: ``"all"``, regions by name (``"answer_a"``), or positions in the row (negative from its end).
        controls: Number of random judges of equal norm; with fewer than three no region can be told from chance.
        control_items: On how many items they are measured; None for all.
        examples: How many items keep every token's values.
        orders: Answer orders to show.
        batch_size: Prompts per forward.
        seed: Seed of controls and intervals.
        progress: Whether to show a progress bar.

    Returns:
        The result; after Ctrl-C, of the items finished so far, which it says.

    Raises:
        ParameterError: A choice isn't allowed.
        ItemError: There are no items.
        ContextWindowError: A prompt, or a prompt with its completion, is longer than the models' window.
        FormatError: The tokens of a given completion can't be found.
        ExecutorDisagreement: The judge against itself isn't exactly 0 here.
    """
    started = time.perf_counter()
    check_least(
        batch_size=(batch_size, 1), controls=(controls, 0), control_items=(control_items, 2),
        examples=(examples, 0), max_new_tokens=(max_new_tokens, 1),
    )  # fmt: skip
    prompts = Prompts.of(pair, items, orders=orders)
    parts = units(granularity, n_layers=pair.n_layers, parallel=pair.anatomy("judge").parallel)
    gauge = Gauge.of(norm, pair.executor("judge"))
    rows = completed_rows(prompts, completions, max_new_tokens=max_new_tokens, batch_size=batch_size)
    prompts.encoded = rows.encoded
    work = _Work.plan(prompts, rows, parts=parts, gauge=gauge, positions=positions, n_examples=examples)
    with interruptible(prompts):
        _numerics(work, batch_size=batch_size)
        _measure_items(work, batch_size=batch_size, progress=progress)
        _measure_controls(
            work, draws=controls, limit=control_items, batch_size=batch_size, seed=seed, progress=progress
        )
    parameters = {
        "completions": completions if completions is None or completions == "generate" else "given",
        "max_new_tokens": max_new_tokens,
        "granularity": granularity,
        "norm": norm,
        "positions": positions if positions == "all" else list(positions),
        "controls": controls,
        "control_items": control_items,
        "examples": examples,
        "orders": list(orders),
        "batch_size": batch_size,
    }
    return _assemble(work, parameters=parameters, seed=seed, wall_time_s=time.perf_counter() - started)


@dataclass(slots=True, kw_only=True, eq=False)
class _Work:
    """State of one run."""

    prompts: Prompts
    rows: CompletedRows
    parts: tuple[Unit, ...]
    gauge: Gauge
    how: Evaluation
    positions: Positions
    regions: tuple[str, ...]
    n_examples: int
    arrays: dict[str, np.ndarray]
    kept: dict[int, list[PromptTokens]] = field(default_factory=dict)
    """Tokens of the example items, order by order."""
    noise: float = float("nan")
    identical: float = float("nan")

    @classmethod
    def plan(
        cls,
        prompts: Prompts,
        rows: CompletedRows,
        *,
        parts: tuple[Unit, ...],
        gauge: Gauge,
        positions: Positions,
        n_examples: int,
    ) -> "_Work":
        regions = rows.region_names(positions)
        lengths = zip(rows.encoded.rows, rows.prompt_lengths, strict=True)
        steps = max(len(row) - n for row, n in lengths) + 1 if rows.completed else 0
        sizes = {"item": len(prompts), "order": len(prompts.orders), "region": len(regions), "unit": len(parts)}
        sizes |= {"step": steps, "draw": 0}
        measured = {
            name: np.full(tuple(sizes[axis] for axis in axes), np.nan)
            for name, axes in TokenMapResult.AXES.items()
            if name != "said" and "example" not in axes
        }
        return cls(
            prompts=prompts,
            rows=rows,
            parts=parts,
            gauge=gauge,
            how=Evaluation.best(prompts, parts, shortcut=False),
            positions=positions,
            regions=regions,
            n_examples=min(n_examples, len(prompts)),
            arrays=measured,
        )

    @property
    def n_steps(self) -> int:
        """Return the length of the completion axis."""
        return self.arrays["finetuned_curve"].shape[-1]

    def measure(self, judge: HooksBackend, base: HooksBackend, items: Sequence[int]) -> list[PromptTokens]:
        """Run the double pass on some items and return their tokens, prompt by prompt."""
        indices = self.prompts.rows_of(items)
        batch = self.prompts.batch(items)
        chosen = [self.rows.chosen(index, self.positions) for index in indices]
        mask = torch.zeros_like(batch.mask)
        for line, own in enumerate(chosen):
            mask[line, batch.mask.shape[1] - len(own) :] = torch.from_numpy(own).to(mask.device)
        values = measure_tokens(judge, base, batch, parts=self.parts, gauge=self.gauge, chosen=mask, how=self.how)
        return by_prompt(self.rows, indices, chosen=chosen, values=values)

    def curve(self, prompt: PromptTokens, index: int) -> np.ndarray:
        """Return |F| and |P| along a prompt's completion, padded with NaN to the longest."""
        padded = np.full((2, self.n_steps), np.nan)
        own = completion_curve(prompt, n_prompt=self.rows.prompt_lengths[index])
        padded[:, : own.shape[1]] = own[:, : self.n_steps]
        return padded


def _numerics(work: _Work, *, batch_size: int) -> None:
    """Step 5a: the judge against itself is exactly 0 in the same shape; in another shape it is the noise floor."""
    judge = work.prompts.pair.executor("judge")

    def against_itself(first: Sequence[int]) -> tuple[float, float]:
        found = work.measure(judge, judge, first)
        identical = max(float(prompt.values.finetuned_depth.max(initial=0.0)) for prompt in found)
        check_null(identical)
        batch = work.prompts.batch(first)
        return identical, noise_of_tokens(judge, batch, parts=work.parts, gauge=work.gauge, how=work.how)

    work.identical, work.noise = work.prompts.on_some(next(work.prompts.batches(batch_size))[:1], against_itself)


def _measure_items(work: _Work, *, batch_size: int, progress: bool) -> None:
    """Steps 2 to 4 on every item."""
    prompts = work.prompts
    judge, base = prompts.pair.executor("judge"), prompts.pair.executor("base")
    with progress_bar(len(prompts), title="TuCo by token", shown=progress) as bar:
        for chosen, found in prompts.each(prompts.batches(batch_size), partial(work.measure, judge, base)):
            for index, prompt in zip(prompts.rows_of(chosen), found, strict=True):
                item, order = divmod(index, len(prompts.orders))
                for name, values in region_means(prompt, work.regions).items():
                    work.arrays[name][item, order] = values
                if work.n_steps:
                    curves = work.curve(prompt, index)
                    work.arrays["finetuned_curve"][item, order], work.arrays["pretrained_curve"][item, order] = curves
                if item < work.n_examples:
                    work.kept.setdefault(item, []).append(prompt)
            prompts.done[list(chosen)] = True
            bar.update(len(chosen))


def _measure_controls(
    work: _Work, *, draws: int, limit: int | None, batch_size: int, seed: int, progress: bool
) -> None:
    """Step 5b: judges moved as far in random directions, reading the same tokens."""
    prompts = work.prompts
    chosen = controlled_items(prompts, draws=draws, limit=limit, seed=seed)
    if not chosen:
        return
    base = prompts.pair.executor("base")
    names = ("finetuned_norm", "pretrained_norm")
    curves = ("finetuned_curve", "pretrained_curve")
    blank = {name: np.full((draws, *work.arrays[name].shape), np.nan) for name in (*names, *curves)}
    work.arrays |= {f"control_{name}": values for name, values in blank.items()}
    with progress_bar(draws * len(chosen), title="TuCo by token, random changes", shown=progress) as bar:
        for draw, (_, judge) in enumerate(random_judges(prompts.pair, draws=draws, seed=seed)):
            batches = prompts.batches(batch_size, items=chosen)
            for some, found in prompts.each(batches, partial(work.measure, judge, base)):
                for index, prompt in zip(prompts.rows_of(some), found, strict=True):
                    item, order = divmod(index, len(prompts.orders))
                    means = region_means(prompt, work.regions)
                    for name in names:
                        blank[name][draw, item, order] = means[name]
                    if work.n_steps:
                        for name, values in zip(curves, work.curve(prompt, index), strict=True):
                            blank[name][draw, item, order] = values
                bar.update(len(some))


def _examples(work: _Work) -> dict[str, object]:
    """Return the fields of the items kept token by token, padded with NaN on the right."""
    prompts, tokenizer = work.prompts, work.prompts.pair.tokenizer
    chosen = sorted(item for item in work.kept if prompts.done[item])
    widths = [len(work.rows.encoded.rows[index]) for index in prompts.rows_of(chosen)]
    shape = (len(chosen), len(prompts.orders), max(widths, default=0))
    arrays = {name: np.full(shape, np.nan) for name in _TOKENS}
    arrays |= {name: np.full((*shape, len(work.parts)), np.nan) for name in _TOKEN_PARTS}
    for e, item in enumerate(chosen):
        for k, prompt in enumerate(work.kept[item]):
            values, where = prompt.values, np.flatnonzero(prompt.measured)
            arrays["example_finetuned"][e, k, where] = values.finetuned_depth[:, -1]
            arrays["example_pretrained"][e, k, where] = values.pretrained_depth[:, -1]
            arrays["example_alignment"][e, k, where] = values.alignment
            arrays["example_finetuned_parts"][e, k, where] = values.finetuned_parts
            arrays["example_pretrained_parts"][e, k, where] = values.pretrained_parts
    rows = [[work.rows.encoded.rows[index] for index in prompts.rows_of([item])] for item in chosen]
    texts = tuple(tuple(tuple(str(tokenizer.decode([i])) for i in row) for row in both) for both in rows)
    return {
        "example_items": tuple(prompts.items[item].item_id for item in chosen),
        "example_tokens": texts,
        "example_regions": tuple(tuple(prompt.regions for prompt in work.kept[item]) for item in chosen),
        **arrays,
    }


def _assemble(work: _Work, *, parameters: dict[str, object], seed: int, wall_time_s: float) -> TokenMapResult:
    prompts = work.prompts
    said = np.array(work.rows.said).reshape(len(prompts), len(prompts.orders))
    kept = {
        name: prompts.kept(values, axis=1 if name.startswith("control_") else 0) for name, values in work.arrays.items()
    }
    source = {None: "none", "generate": "generated"}.get(parameters["completions"], "given")  # type: ignore[call-overload]
    fields: dict[str, object] = {**prompts.axes(), **kept, **_examples(work), "said": prompts.kept(said)}
    return TokenMapResult(
        **fields,  # type: ignore[arg-type]
        regions=work.regions,
        units=tuple(unit.label for unit in work.parts),
        unit_layers=tuple(unit.layer for unit in work.parts),
        unit_components=tuple(str(unit.component) for unit in work.parts),
        granularity=str(parameters["granularity"]),
        norm=work.gauge.name,
        completions=source,
        identical_share=work.identical,
        meta=run_meta(
            prompts.pair,
            prompts.kept_items(),
            analysis="tuco.tokens",
            parameters=parameters,
            seed=seed,
            wall_time_s=wall_time_s,
            noise_floor=work.noise,
            warnings=prompts.warnings,
            not_measured=prompts.notes,
        ),
    )
