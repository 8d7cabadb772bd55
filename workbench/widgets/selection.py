"""What the reader is looking at, shared by every view of it."""

from typing import Any

import traitlets

FIELDS = ("item", "order", "layer", "head", "position")
"""Traits of a selection, in the order menus show them; also columns of a result's frame."""


class Selection(traitlets.HasTraits):
    """One cell of an experiment; None means "all of them".

    Views observe it and set it: link two explorers by handing both the same selection. It is plain traitlets, so
    Python reads and sets it without a browser.
    """

    item = traitlets.Unicode(None, allow_none=True)
    """Id of the item."""
    order = traitlets.Enum(("original", "swapped"), default_value=None, allow_none=True)
    """Answer order."""
    layer = traitlets.Int(None, allow_none=True)
    """Block index."""
    head = traitlets.Int(None, allow_none=True)
    """Head index within the layer."""
    position = traitlets.Int(None, allow_none=True)
    """Token position."""

    def chosen(self) -> dict[str, Any]:
        """Return what is selected, by column name; what is not is left out."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in values.items() if value is not None}

    def __repr__(self) -> str:
        """Show what is selected."""
        return f"Selection({', '.join(f'{name}={value!r}' for name, value in self.chosen().items())})"
