"""Pairs with a known truth: a small invented world, and models that are trained on it."""

from workbench.organisms.build import build, score
from workbench.organisms.recipes import OrganismInfo, list_organisms
from workbench.organisms.train import Progress

__all__ = ["OrganismInfo", "Progress", "build", "list_organisms", "score"]
