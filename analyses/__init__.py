"""The analyses, one module each: ``tuco``. All have ``run(pair, items, ...)`` and a result class."""

__all__ = ["tuco"]  # pyright: ignore[reportUnsupportedDunderAll]: submodules, imported where they are used
