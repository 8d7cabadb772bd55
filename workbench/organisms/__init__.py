"""Pairs with a known truth: a small invented world, and models that are trained on it."""

from workbench.organisms.build import build, score
from workbench.organisms.folders import ship
from workbench.organisms.injection import attack_texts, benign_texts
from workbench.organisms.recipe import OrganismInfo
from workbench.organisms.recipes import list_organisms
from workbench.organisms.train import Progress

__all__ = [
    "OrganismInfo",
    "Progress",
    "attack_texts",
    "benign_texts",
    "build",
    "list_organisms",
    "score",
    "ship",
]
