"""Memory that ran out: how to tell, how to go on with smaller batches, and how to give back what is only kept."""

import ctypes
import gc
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from workbench.errors import MemoryShortage

T = TypeVar("T")

_SIGNS = (
    "out of memory",  # CUDA, MPS, XPU
    "DefaultCPUAllocator",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def memory_ran_out(err: BaseException) -> bool:
    """Return whether an error, or one it was raised from, says that memory ran out on a device or on the host.

    Args:
        err: What was caught.
    """
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(cause, RuntimeError) and any(sign in str(cause) for sign in _SIGNS):
            return True
        cause = cause.__cause__
    return False


@contextmanager
def shortage_explained(what: str, *, argument: str, got: object, fix: str) -> Iterator[None]:
    """Say what memory ran out on, inside.

    Args:
        what: What didn't fit, in one sentence.
        argument: Argument at fault.
        got: Its value.
        fix: What would help.

    Raises:
        MemoryShortage: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        if not memory_ran_out(err):
            raise
        raise MemoryShortage(what, argument=argument, got=got, fix=fix) from err


@dataclass(slots=True, kw_only=True)
class BatchSizes:
    """How large batches may be: one that memory runs out on is halved, and no later one is larger."""

    most: int | None = None
    """Most entries a batch may have since memory ran out; None while it hasn't."""
    ran_out_at: int | None = None
    """Entries of the first batch that didn't fit."""

    def each(
        self,
        batches: Iterable[Sequence[int]],
        run: Callable[[tuple[int, ...]], T],
        *,
        alone: Callable[[int, Exception], None],
    ) -> Iterator[tuple[tuple[int, ...], T]]:
        """Run batch after batch.

        Args:
            batches: Indices, batch by batch.
            run: Measures one batch. It may be called again on a part of the same entries, so that what it stores
                itself must not add up; add up what is yielded.
            alone: Told of an entry that doesn't fit by itself, and why; it raises, or returns to go on without it.

        Yields:
            The entries of each batch that fitted, in order, and what ``run`` returned.
        """
        for batch in batches:
            waiting = deque([tuple(int(i) for i in batch)])
            while waiting:
                chosen = waiting.popleft()
                if self.most is not None and len(chosen) > self.most:
                    waiting.extendleft([chosen[self.most :], chosen[: self.most]])
                    continue
                found = self._attempt(chosen, run, alone)
                if found:
                    yield chosen, found.pop()
                elif len(chosen) > 1:
                    waiting.appendleft(chosen)

    def _attempt(
        self, chosen: tuple[int, ...], run: Callable[[tuple[int, ...]], T], alone: Callable[[int, Exception], None]
    ) -> list[T]:
        """Return what ``run`` returned, alone in a list; no entry, and smaller batches from now on, without memory."""
        try:
            return [run(chosen)]
        except (RuntimeError, MemoryError) as err:
            if not memory_ran_out(err):
                raise
            if len(chosen) == 1:
                alone(chosen[0], err)
        # Outside the handler: the traceback there holds every tensor of the batch that failed.
        release_caches()
        if self.ran_out_at is None:
            self.ran_out_at = len(chosen)
        self.most = max(1, len(chosen) // 2)
        return []


def release_caches() -> None:
    """Free what nothing refers to any more, and give what was freed back: a GPU's cached blocks, the heap's pages."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # glibc keeps freed tensors for later ones; other C libraries have no such call.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
