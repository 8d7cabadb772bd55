"""Results into pages, notebooks into executed notebooks; knows the ``Result`` protocol and no analysis."""

from workbench.reports.notebook import export_html, notebook_parameters, run_notebook
from workbench.reports.page import Report

__all__ = ["Report", "export_html", "notebook_parameters", "run_notebook"]
