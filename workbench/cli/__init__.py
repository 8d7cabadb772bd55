"""The ``workbench`` command: the same calls as in Python, for a shell or a batch job."""

from workbench.cli.catalogue import ANALYSES, COMPARISONS, NOTEBOOKS, Analysis, load_results
from workbench.cli.commands import app, main

__all__ = ["ANALYSES", "COMPARISONS", "NOTEBOOKS", "Analysis", "app", "load_results", "main"]
