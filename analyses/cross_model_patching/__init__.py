"""Cross-model activation patching: where does the judge's verdict come from, and where was it written?"""

__all__: list[str] = []
