"""Ready-made sets of scalings to compare: one curve for everything, then one per block or per span of the prompt."""

from collections.abc import Sequence

from analyses.looping import check_least
from workbench.errors import ItemError
from workbench.hooks import Component
from workbench.judges import JudgeItem
from workbench.pairs import Pair, Scaling

EVERYWHERE = "every block"
"""Name of the curve that scales everything, as in the paper."""

WEIGHTS = "weights interpolated"
"""Name of the curve along ``base + alpha (judge - base)`` in weight space."""


def by_layer(
    pair: Pair, *, component: Component = Component.RESID_POST, elsewhere: float = 1.0, size: int = 1
) -> dict[str, Scaling]:
    """Return the whole network's scaling and one per block or run of blocks.

    Args:
        pair: Whose blocks these are.
        component: ``RESID_POST`` for whole blocks, ``ATTN_OUT`` or ``MLP_OUT`` for one sub-layer of them.
        elsewhere: Scale of the other blocks: 1 leaves the judge there, 0 the base.
        size: Blocks per curve.

    Raises:
        ParameterError: ``size`` is below 1.
    """
    check_least(size=(size, 1))
    found = {EVERYWHERE: Scaling()}
    for start in range(0, pair.n_layers, size):
        layers = tuple(range(start, min(start + size, pair.n_layers)))
        name = f"block {start}" if len(layers) == 1 else f"blocks {start}-{layers[-1]}"
        part = "" if component is Component.RESID_POST else f"{component}, "
        found[part + name] = Scaling(component=component, layers=layers, elsewhere=elsewhere)
    return found


def by_span(pair: Pair, items: Sequence[JudgeItem], *, elsewhere: float = 1.0) -> dict[str, Scaling]:
    """Return the whole prompt's scaling and one per span of tokens, in the order spans come in the prompt.

    Args:
        pair: Whose prompts these are.
        items: What is judged; a span that only some items have is included.
        elsewhere: Scale at the other tokens: 1 leaves the judge there, 0 the base.

    Raises:
        ItemError: There are no items.
    """
    if not len(items):
        raise ItemError("there is nothing to judge.", argument="items", got="no items")
    encoded = pair.encode(items)
    names = dict.fromkeys(name for row in range(len(encoded)) for name in encoded.span_names(row))
    return {EVERYWHERE: Scaling()} | {name: Scaling(spans=(name,), elsewhere=elsewhere) for name in names}
