"""How one model is entered: sites, edits, captures, and the executors that run them."""

from workbench.hooks import doctor
from workbench.hooks.activations import Activations
from workbench.hooks.anatomy import Anatomy, module_lock
from workbench.hooks.doctor import Check
from workbench.hooks.edits import Ablate, Custom, Edit, Patch, Scale, Steer, Subspace
from workbench.hooks.executor import Executor, LogitsKept, Run
from workbench.hooks.lens_backend import BridgeBackend
from workbench.hooks.nnsight_backend import NNsightBackend
from workbench.hooks.ports import Port
from workbench.hooks.shadow import weight_sharing_shadow
from workbench.hooks.sites import Component, Site
from workbench.hooks.torch_backend import HooksBackend, forwards_replaced

__all__ = [
    "Ablate",
    "Activations",
    "Anatomy",
    "BridgeBackend",
    "Check",
    "Component",
    "Custom",
    "Edit",
    "Executor",
    "HooksBackend",
    "LogitsKept",
    "NNsightBackend",
    "Patch",
    "Port",
    "Run",
    "Scale",
    "Site",
    "Steer",
    "Subspace",
    "doctor",
    "forwards_replaced",
    "module_lock",
    "weight_sharing_shadow",
]
