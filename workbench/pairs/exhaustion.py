"""Memory that ran out: how to tell, and how to give back what is only kept for later."""

import gc

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
    """Free what nothing refers to any more, and give a GPU's cached blocks back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
