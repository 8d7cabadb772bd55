"""Explorers for notebooks: they show a result, share a selection, and know the ``Result`` protocol and no analysis."""

from workbench.widgets.explorer import Explorer, explore
from workbench.widgets.selection import Selection
from workbench.widgets.showing import show

__all__ = ["Explorer", "Selection", "explore", "show"]
