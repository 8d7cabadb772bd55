"""How much of what tells judge from base hangs on the chat template they are asked with."""

from analyses.template_drift.contrasts import TEMPLATES, Effect
from analyses.template_drift.result import TemplateDriftResult
from analyses.template_drift.runner import run

__all__ = ["TEMPLATES", "Effect", "TemplateDriftResult", "run"]
