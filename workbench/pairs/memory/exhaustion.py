"""Memory that ran out: how to tell, and how to give back what is only kept for later."""

import ctypes
import gc
import sys

import torch

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
