"""The analyses: one module each, ``run(pair, items, *, choices..., seed=0) -> XResult``; import the one you need."""

__all__ = ["tuco"]
