"""From what the caller named to two modules in memory.

In order: ``sources`` (what was named), ``hub`` (which commit that is), ``stored`` and ``remote_code`` (may these files
be read), ``placement`` (where and how), ``checkpoints`` (one model or tokenizer), ``quantised`` and ``heads`` (what it
turned out to be), ``models`` (base and judge, one function per kind of judge).
"""

__all__: list[str] = []  # taken from the modules themselves: they import each other by layer
