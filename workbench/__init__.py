"""What did fine-tuning change to make a base model into a judge?

The names below are the public front door. They are loaded on first use, because a report or a saved result must
open without loading torch: ``from workbench import Report`` costs what ``Report`` needs and nothing more.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.judges import load_items
    from workbench.pairs import Pair, estimate_memory, load_pair, which_base
    from workbench.reports import Report, run_notebook
    from workbench.widgets import Selection, explore, show

# Where it is installed, bitsandbytes recommends a package on every import, which peft triggers: a red box in notebooks
# that quantise nothing. What else it has to say is heard.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "kernels-community" not in record.getMessage()
)

_HOMES = {
    "Pair": "workbench.pairs",
    "Report": "workbench.reports",
    "Selection": "workbench.widgets",
    "estimate_memory": "workbench.pairs",
    "explore": "workbench.widgets",
    "load_items": "workbench.judges",
    "load_pair": "workbench.pairs",
    "run_notebook": "workbench.reports",
    "show": "workbench.widgets",
    "which_base": "workbench.pairs",
}

__all__ = [
    "Pair",
    "Report",
    "Selection",
    "estimate_memory",
    "explore",
    "load_items",
    "load_pair",
    "run_notebook",
    "show",
    "which_base",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module the first time it is asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
