"""A result from top to bottom in a notebook: finding, then every figure with its caption."""

from collections.abc import Sequence

from IPython.display import Markdown, display

from workbench import html
from workbench.errors import ParameterError
from workbench.results import Result


def show(result: Result, *, panels: Sequence[str] | None = None) -> None:
    """Display a result's finding and figures where the cell's output goes; works without widgets and in exports.

    Args:
        result: Anything with the ``Result`` protocol.
        panels: Titles of the figures to show; all of them by default.

    Raises:
        ParameterError: ``result`` isn't a result, or has no figure of such a title.
    """
    if not isinstance(result, Result):
        raise ParameterError(
            "not a result.", argument="result", got=type(result).__name__, allowed="what an analysis' run returns"
        )
    known = {panel.title: panel for panel in result.panels()}
    if unknown := [title for title in panels or () if title not in known]:
        raise ParameterError("no figure has this title.", argument="panels", got=unknown, allowed=list(known))
    display(result)
    for title in known if panels is None else panels:
        panel = known[title]
        heading = Markdown(f"### {html.visible(panel.title)}\n{html.visible(panel.caption)}")
        display(heading, panel.draw())
