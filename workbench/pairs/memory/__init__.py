"""What a pair takes, and where its weights are while it runs.

Before loading: ``sizes`` and ``footprint`` read headers, ``estimate`` says whether it fits. While loaded: ``mapped``
(in files), ``offloaded`` (with accelerate), ``resident`` (one model at a time). When it runs out: ``exhaustion``.
"""

__all__: list[str] = []  # taken from the modules themselves: they import each other by layer
