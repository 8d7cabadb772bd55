"""A kernel that is always the running interpreter."""

import sys

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager


class OwnKernelManager(AsyncKernelManager):
    """Starts this interpreter's kernel without looking at the kernels registered on the machine.

    A kernel named ``python3`` in the user's folder may belong to any environment; notebooks run by a report must see
    the packages that the report was asked from.
    """

    @property
    def kernel_spec(self) -> KernelSpec:
        """Return a spec made on the spot."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python", language="python")
