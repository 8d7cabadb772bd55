"""TuCo at every token of prompt and completion, in one double pass."""

from analyses.tuco.tokens.result import TokenMapResult
from analyses.tuco.tokens.runner import map_tokens

__all__ = ["TokenMapResult", "map_tokens"]
