"""TuCo by head: which heads, reading which text, fine-tuning changed so that the verdict moved."""

from analyses.tuco.heads.result import HeadsResult
from analyses.tuco.heads.runner import split_heads

__all__ = ["HeadsResult", "split_heads"]
