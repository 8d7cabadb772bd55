"""Going through judged items: prompts in all orders, batches of like length, progress.

Neither Ctrl-C nor memory that runs out loses a finished item: a batch that doesn't fit is halved.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from analyses.metrics import slot_sign
from workbench.errors import FormatError, ItemError, MemoryShortage, ParameterError
from workbench.hooks import HooksBackend
from workbench.hooks.suffix import notes_into
from workbench.judges import ORDERS, EncodedPrompts, JudgeItem, Order
from workbench.judges.formats import Mode
from workbench.pairs import BatchSizes, Pair, memory_ran_out, random_delta_pair, release_caches
from workbench.tokens import TokenBatch

T = TypeVar("T")

FEWEST_TO_CONFIRM = 8
"""Independent items from which on something is named on one half and tested on the other."""


@dataclass(slots=True, kw_only=True, eq=False)
class Prompts:
    """The items of one run as prompts, item by item and order by order, and what happened to them so far."""

    pair: Pair
    """Whose prompts they are."""
    items: Sequence[JudgeItem]
    """What is judged."""
    orders: tuple[Order, ...]
    """Answer orders shown."""
    encoded: EncodedPrompts
    """All prompts; that of item i in order k is row ``i * len(orders) + k``."""
    done: np.ndarray
    """Which items are finished."""
    notes: list[str] = field(default_factory=list)
    """What was not measured, and why."""
    sizes: BatchSizes = field(default_factory=BatchSizes)
    """How many items a batch may have."""

    @classmethod
    def of(
        cls,
        pair: Pair,
        items: Sequence[JudgeItem],
        *,
        orders: Sequence[Order] = ORDERS,
        modes: Sequence[Mode] = ("pair",),
    ) -> "Prompts":
        """Render and tokenise the items.

        Args:
            pair: The pair.
            items: What is judged.
            orders: Answer orders shown.
            modes: Which formats the caller can read. Two answers in one prompt, unless it says more: a margin between
                slots, its content and its position mean nothing where a prompt shows one answer.

        Raises:
            ItemError: There are no items, or one doesn't fit the format.
            ParameterError: An order is unknown or named twice.
            FormatError: The format is of another mode.
            ContextWindowError: A prompt is longer than the models' window.
        """
        if not len(items):
            raise ItemError(
                "there is nothing to judge.",
                argument="items",
                got="no items",
                fix="Check the item source and its limit.",
            )
        if not orders or set(orders) - set(ORDERS) or len(set(orders)) < len(orders):
            raise ParameterError(
                "unknown or repeated answer order.", argument="orders", got=list(orders), allowed=ORDERS
            )
        if pair.format.mode not in modes:
            raise FormatError(
                "this analysis can't read the pair's format.",
                argument="format",
                got=f"{pair.format.name!r}, a {pair.format.mode} format",
                allowed=f"formats of mode {', '.join(modes)}",
                fix="`behavior` reads every format; this analysis needs one that compares two answers.",
            )
        encoded = pair.encode(items, orders=orders)
        return cls(pair=pair, items=items, orders=tuple(orders), encoded=encoded, done=np.zeros(len(items), dtype=bool))

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    @property
    def verdict_ids(self) -> tuple[int, int]:
        """Return the first label tokens of A and B.

        Raises:
            FormatError: The two coincide or vary.
        """
        return (self.encoded.first_token_ids.a, self.encoded.first_token_ids.b)

    @property
    def choices(self) -> tuple[str, str]:
        """Return the text of the first label of both sides of the format's contrast (A and B)."""
        groups = self.encoded.groups
        first, second = self.encoded.prompts[0].contrast
        return (self.encoded.labels[groups[first][0]], self.encoded.labels[groups[second][0]])

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what a result must say beside its numbers: of the encoding, and that batches had to be smaller."""
        if self.most is None:
            return tuple(self.encoded.notes)
        was, size = ((n or 0) * len(self.orders) for n in (self.sizes.ran_out_at, self.most))
        return (*self.encoded.notes, f"memory ran out with batches of {was}; continued with {size}.")

    @property
    def most(self) -> int | None:
        """Return the most items a batch may have since memory ran out; None while it hasn't."""
        return self.sizes.most

    @property
    def clusters(self) -> tuple[str, ...]:
        """Return what each item is independent by."""
        return tuple(item.cluster for item in self.items)

    @property
    def n_clusters(self) -> int:
        """Return the number of independent items."""
        return len(set(self.clusters))

    @property
    def labels(self) -> Int[np.ndarray, " item"]:
        """Return the index of the better answer in each item's own order; -1 where nobody said."""
        return np.array([-1 if item.label is None else item.label for item in self.items])

    @property
    def slot_sign(self) -> Float[np.ndarray, "item order"]:
        """Return +1 where the labelled answer stands in the first slot, -1 in the second, NaN without a label."""
        return slot_sign(self.labels, self.orders)

    def rows_of(self, items: Iterable[int]) -> list[int]:
        """Return the prompt rows of some items, item by item and order by order."""
        return [i * len(self.orders) + k for i in items for k in range(len(self.orders))]

    def batch(self, items: Iterable[int]) -> TokenBatch:
        """Return the token batch of some items (all orders) on the pair's device."""
        return self.encoded.batch(self.rows_of(items), device=self.pair.device)

    def by_item(self, values: np.ndarray) -> np.ndarray:
        """Return a batch's values ``[prompt, ...]`` as ``[item, order, ...]``."""
        return values.reshape(-1, len(self.orders), *values.shape[1:])

    def batches(self, size: int, *, items: Iterable[int] | None = None) -> Iterator[tuple[int, ...]]:
        """Yield item indices in batches of similar length, longest first, so that memory runs out early or not at all.

        Args:
            size: Prompts per batch, all orders of an item counted.
            items: Which items; all of them by default.
        """
        longest = [max(len(self.encoded.rows[row]) for row in self.rows_of([i])) for i in range(len(self.items))]
        chosen = range(len(self.items)) if items is None else items
        ordered = sorted((int(i) for i in chosen), key=lambda i: (-longest[i], i))
        step = max(1, size // len(self.orders))
        for start in range(0, len(ordered), step):
            yield tuple(ordered[start : start + step])

    def each(
        self, batches: Iterable[Sequence[int]], run: Callable[[tuple[int, ...]], T]
    ) -> Iterator[tuple[tuple[int, ...], T]]:
        """Run batch after batch; one that memory runs out on is halved and run again, and no later one is larger.

        Args:
            batches: Item indices, batch by batch; all orders of an item stay together.
            run: Measures one batch. It may be called again on a part of the same items, so that what it stores itself
                must not add up; add up what is yielded.

        Yields:
            The items of each batch that fitted, in order, and what ``run`` returned.

        Raises:
            MemoryShortage: One item alone doesn't fit; the message names it.
        """
        yield from self.sizes.each(batches, run, alone=self._no_room)

    def on_some(self, items: Sequence[int], run: Callable[[tuple[int, ...]], T]) -> T:
        """Run a check on these items, or on the first of them when memory runs out on all; see :meth:`each`."""
        return next(self.each([items], run))[1]

    def within(self, chosen: Sequence[int], some: Sequence[int]) -> slice:
        """Return the prompts that a run of items has in the batch of others; see :meth:`each`.

        Args:
            chosen: Items of the batch.
            some: Neighbours among them.
        """
        start = list(chosen).index(some[0]) * len(self.orders)
        return slice(start, start + len(some) * len(self.orders))

    def noise(self, items: Iterable[int], *shape: int, seed: int) -> Float[np.ndarray, "prompt *shape"]:
        """Return standard normal numbers for every prompt of some items; each has its own, whatever batch it is in."""
        rows = [np.random.default_rng([seed, row]).standard_normal(shape) for row in self.rows_of(items)]
        return np.stack(rows)

    def _no_room(self, item: int, err: Exception) -> NoReturn:
        tokens = max(len(self.encoded.rows[row]) for row in self.rows_of([item]))
        raise MemoryShortage(
            f"one item alone doesn't fit into memory: {self.items[item].item_id!r} with {tokens} tokens a prompt.",
            argument="items",
            got=f"{len(self.orders)} prompts of {tokens} tokens on {self.pair.device}",
            fix="Leave this item out, show one order, load the pair in bfloat16, or keep one model at a time where the "
            "analysis offers `resident=`.",
        ) from err

    def halves(self, *, seed: int) -> tuple[list[int], list[int]]:
        """Split the items at random so that no cluster has items in both halves."""
        clusters = sorted(set(self.clusters))
        order = np.random.default_rng(seed).permutation(len(clusters))
        first = {clusters[int(i)] for i in order[: len(clusters) // 2]}
        halves: tuple[list[int], list[int]] = ([], [])
        for index, cluster in enumerate(self.clusters):
            halves[cluster not in first].append(index)
        return halves

    def sample(self, limit: int | None, *, seed: int) -> list[int]:
        """Return at most ``limit`` item indices at random, ascending; all of them for None."""
        return sorted(int(i) for i in np.random.default_rng(seed).permutation(len(self.items))[:limit])

    def kept(self, array: np.ndarray, *, axis: int = 0) -> np.ndarray:
        """Return the finished items' part of an array."""
        return array if bool(self.done.all()) else np.take(array, np.flatnonzero(self.done), axis=axis)

    def kept_items(self) -> Sequence[JudgeItem]:
        """Return the finished items; the sequence that came in, with its provenance, when that is all of them."""
        return self.items if bool(self.done.all()) else [self.items[int(i)] for i in np.flatnonzero(self.done)]

    def axes(self) -> dict[str, object]:
        """Return the fields every :class:`analyses.judged.JudgedResult` has, of the finished items."""
        items = self.kept_items()
        return {
            "item_ids": tuple(item.item_id for item in items),
            "clusters": tuple(item.cluster for item in items),
            "orders": self.orders,
            "questions": tuple(item.question for item in items),
            "labels": self.kept(self.labels),
        }


def controlled_items(
    prompts: Prompts, *, draws: int, limit: int | None, seed: int, name: str = "controls"
) -> list[int]:
    """Return the items random changes of equal norm are measured on; none where they can't be, which is noted.

    Args:
        prompts: The prompts of the run; its notes are told what is left out.
        draws: Number of random changes.
        limit: On how many items at most; None for all.
        seed: Seed of their choice.
        name: What the caller calls ``draws``.
    """
    if draws == 0:
        prompts.notes.append(f"random changes of equal norm ({name}=0).")
        return []
    if not prompts.pair.delta(spectrum=False).moved:
        prompts.notes.append("random changes of equal norm: base and judge are the same model.")
        return []
    chosen = prompts.sample(limit, seed=seed)
    if left := len(prompts) - len(chosen):
        prompts.notes.append(f"random changes on {left} of {len(prompts)} items (control_items).")
    return chosen


def random_judges(pair: Pair, *, draws: int, seed: int) -> Iterator[tuple[Pair, HooksBackend]]:
    """Yield judges moved as far as the real one in random directions, with their executors.

    Args:
        pair: The real pair.
        draws: Number of judges.
        seed: Seed of the first; the others count up from it.
    """
    for draw in range(draws):
        control = random_delta_pair(pair, seed=seed + draw)
        yield control, HooksBackend(control.judge, pair.anatomy("judge"))


@contextmanager
def interruptible(prompts: Prompts) -> Iterator[None]:
    """Let Ctrl-C, or memory that runs out for good, end the loop inside; what is finished is kept and said.

    What patching engines inside have to say (a slower way taken) goes into the notes as well.

    Raises:
        KeyboardInterrupt: No item was finished.
        MemoryShortage: The same, where one item alone didn't fit.
    """
    try:
        with notes_into(prompts.notes):
            yield
    except (KeyboardInterrupt, MemoryShortage, RuntimeError, MemoryError) as err:
        if not prompts.done.any() or not (isinstance(err, KeyboardInterrupt | MemoryShortage) or memory_ran_out(err)):
            raise
        why = "the run was interrupted." if isinstance(err, KeyboardInterrupt) else "memory ran out."
        if isinstance(err, MemoryShortage):
            why = err.what
    else:
        return
    release_caches()
    left = len(prompts) - int(prompts.done.sum())
    said = f"{left} of {len(prompts)} items: {why}"
    if left == 0:
        said = f"whatever came after the items themselves (controls, confirmation): {why}"
    prompts.notes.append(said)
    warnings.warn(said, RuntimeWarning, stacklevel=3)


def progress_bar(total: int, *, title: str, unit: str = "item", shown: bool = True) -> tqdm:
    """Return a progress bar; use it as a context."""
    return tqdm(total=total, desc=title, unit=unit, disable=not shown)


def check_least(**values: tuple[int | None, int]) -> None:
    """Refuse numbers that are too small; each argument is (value, least), None passes.

    Raises:
        ParameterError: A value is below its least.
    """
    for name, (value, least) in values.items():
        if value is not None and value < least:
            raise ParameterError("too small.", argument=name, got=value, allowed=f"{least} or more")
