"""Strips of the prompts that are kept token by token."""

from collections.abc import Sequence

from workbench.errors import ParameterError


def runs(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the half-open ranges of equal neighbours, by name; a name's later ranges are numbered."""
    found: dict[str, tuple[int, int]] = {}
    counts: dict[str, int] = {}
    starts = [k for k in range(len(names)) if k == 0 or names[k] != names[k - 1]]
    for start, stop in zip(starts, [*starts[1:], len(names)], strict=True):
        name = names[start]
        counts[name] = counts.get(name, 0) + 1
        found[name if counts[name] == 1 else f"{name} ({counts[name]})"] = (start, stop)
    return found


def place_of(item: str, order: str, *, items: Sequence[str], orders: Sequence[str]) -> tuple[int, int]:
    """Return where an example stands among those kept, and its order among those shown.

    Args:
        item: Label of the item.
        order: Answer order.
        items: Items kept token by token.
        orders: Answer orders shown.

    Raises:
        ParameterError: The item isn't kept token by token, or the order wasn't shown.
    """
    if item not in items or order not in orders:
        raise ParameterError(
            "the tokens of this prompt were not kept.",
            argument="item",
            got=f"{item}/{order}",
            allowed=[f"{name}/{shown}" for name in items for shown in orders],
            fix="Raise `examples`.",
        )
    return items.index(item), orders.index(order)
