"""Weights that stay in files: mapped into memory, so that the system drops and reads back what doesn't fit.

For a pair that is larger than host memory. The models are ordinary modules with ordinary tensors: hooks, clones and
measurements see nothing of it, and what is read again is bit for bit what was written.
"""

import os
import tempfile
import weakref
from pathlib import Path

import torch
from torch import nn

from workbench.pairs.loading.sources import Source
from workbench.pairs.memory.exhaustion import release_caches
from workbench.pairs.memory.sizes import checkpoint_size


def keep_in_files(module: nn.Module, source: Source, *, folder: str | os.PathLike[str] | None = None) -> None:
    """Put a model's parameters into files mapped into memory, one at a time; the files go when the model does.

    A model loaded in the type it is stored in is left as it is: its weights are in mapped files already.

    Args:
        module: A model in host memory; each parameter keeps its value and its identity.
        source: Where it was loaded from.
        folder: Where the files go; the system's temporary folder by default (which some systems hold in memory).
    """
    size = checkpoint_size(source)
    own = list({id(parameter): parameter for parameter in module.parameters()}.values())
    if size is not None and {t.dtype for t in size.tensors} == {parameter.dtype for parameter in own}:
        return
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(prefix="judge-workbench-", dir=folder, ignore_cleanup_errors=True)
    weakref.finalize(module, scratch.cleanup)
    for index, parameter in enumerate(own):
        if not parameter.numel():
            continue
        file = str(Path(scratch.name) / f"{index}.bin")
        place = torch.from_file(file, shared=True, size=parameter.numel(), dtype=parameter.dtype)
        parameter.data = place.view(parameter.shape).copy_(parameter.data)
    release_caches()
