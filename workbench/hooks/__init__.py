"""How one model is entered: sites, edits, captures, and the executors that run them."""

from workbench.hooks.activations import Activations
from workbench.hooks.anatomy import Anatomy, module_lock
from workbench.hooks.edits import Ablate, Custom, Edit, Patch, Scale, Steer, Subspace
from workbench.hooks.executor import Executor, LogitsKept, Run
from workbench.hooks.ports import Port
from workbench.hooks.shadow import weight_sharing_shadow
from workbench.hooks.sites import Component, Site
from workbench.hooks.torch_backend import HooksBackend

__all__ = [
    "Ablate",
    "Activations",
    "Anatomy",
    "Component",
    "Custom",
    "Edit",
    "Executor",
    "HooksBackend",
    "LogitsKept",
    "Patch",
    "Port",
    "Run",
    "Scale",
    "Site",
    "Steer",
    "Subspace",
    "module_lock",
    "weight_sharing_shadow",
]
