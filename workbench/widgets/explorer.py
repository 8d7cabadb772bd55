"""One explorer for any result: its finding, its figures, and its table narrowed to a selection."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as ipw
import traitlets

from workbench import html, plotting
from workbench.errors import ParameterError, WorkbenchError
from workbench.results import Result
from workbench.widgets.selection import FIELDS, Selection

if TYPE_CHECKING:
    import pandas as pd

Recompute = Callable[[Selection], Result]
"""What the notebook hands in to compute a result anew for what is selected."""

ROWS_SHOWN = 50
"""Rows of the narrowed table that are printed."""

ALL = "all"


class Explorer(ipw.VBox):
    """Figures, summary and table of a result; what is shown follows ``selection``, ``panel`` and ``metric``.

    Set those traits from Python or with the menus; both are the same. Without a kernel, or in an exported page, the
    finding and the current figure are shown as static HTML.
    """

    result = traitlets.Any()
    """The result shown; assign another to show that one."""
    selection = traitlets.Instance(Selection)
    """What is selected; several explorers may share one."""
    panel = traitlets.Int(0)
    """Index of the figure shown."""
    metric = traitlets.Unicode(None, allow_none=True)
    """Metric the table is narrowed to; None shows all."""

    def __init__(
        self, result: Result, *, recompute: Recompute | None = None, selection: Selection | None = None
    ) -> None:
        self._recompute = recompute
        self._frame: pd.DataFrame = result.to_frame()
        self._filling = False
        self._heading, self._picture, self._table, self._message = (ipw.HTML() for _ in range(4))
        self._panels, self._metrics = ipw.Dropdown(description="figure"), ipw.Dropdown(description="metric")
        self._menus = {name: ipw.Dropdown(description=name) for name in FIELDS}
        self._button = ipw.Button(description="compute again", disabled=recompute is None)
        self._controls = ipw.HBox(layout=ipw.Layout(flex_flow="row wrap"))
        super().__init__(
            [self._heading, self._controls, self._message, self._picture, self._table],
            result=result,
            selection=selection if selection is not None else Selection(),
        )
        self._button.on_click(lambda _: self.recompute())
        self._fill_menus()
        self._connect()

    def _connect(self) -> None:
        self._follow(self._panels, self, "panel")
        self._follow(self._metrics, self, "metric")
        for name, menu in self._menus.items():
            self._follow(menu, self.selection, name)
        self.selection.observe(self._show_table, names=traitlets.All)
        self.observe(self._show_table, names="metric")
        self.observe(self._show_picture, names="panel")
        self.observe(self._show_result, names="result")
        self._show_picture()
        self._show_table()

    def _follow(self, menu: ipw.Dropdown, owner: traitlets.HasTraits, name: str) -> None:
        def choose(change: Any) -> None:
            # New options make a menu fall back to its first entry, which nobody chose.
            if not self._filling:
                owner.set_trait(name, change.new)

        menu.observe(choose, names="value")

    def _fill_menus(self) -> None:
        """Offer what this result has; menus of columns it lacks are left out."""
        self._filling = True
        try:
            self._set_options()
        finally:
            self._filling = False

    def _set_options(self) -> None:
        titles = [html.visible(panel.title) for panel in self.result.panels()]
        self._panels.options = [(title, index) for index, title in enumerate(titles)]
        self._metrics.options = _options(self._frame["metric"].unique().tolist())
        columns = [name for name in self._menus if name in self._frame.columns]
        for name in columns:
            self._menus[name].options = _options(self._frame[name].dropna().unique().tolist())
        shown: list[ipw.Widget] = [self._panels, self._metrics, *(self._menus[name] for name in columns)]
        self._controls.children = [*shown, self._button] if self._recompute else shown
        self._heading.value = summary_html(self.result)

    @traitlets.validate("result")
    def _check_result(self, proposal: Any) -> Any:
        if not isinstance(proposal.value, Result):
            raise traitlets.TraitError(f"not a result: {type(proposal.value).__name__}")
        return proposal.value

    @traitlets.validate("panel")
    def _check_panel(self, proposal: Any) -> int:
        count = len(self.result.panels())
        if count and not 0 <= proposal.value < count:
            raise traitlets.TraitError(f"panel {proposal.value} doesn't exist; allowed: 0 to {count - 1}")
        return proposal.value

    def table(self) -> "pd.DataFrame":
        """Return the rows of the result's frame that the selection and the metric leave."""
        wanted = self.selection.chosen() | ({"metric": self.metric} if self.metric is not None else {})
        frame = self._frame
        for name, value in wanted.items():
            if name in frame.columns:
                frame = frame.loc[frame[name] == value, :]
        return frame

    def recompute(self) -> None:
        """Call the function the notebook gave with the selection, and show what it returns.

        A refusal (any ``WorkbenchError``) and an interruption from the keyboard are shown beside the old result, which
        stays; other errors are raised, since they are defects of the function.
        """
        if self._recompute is None:
            self._message.value = html.fragment("This explorer was opened without a function to compute with.")
            return
        self._button.disabled, self._message.value = True, html.fragment("Computing…")
        try:
            self.result = self._recompute(self.selection)
            self._message.value = ""
        except WorkbenchError as err:
            self._message.value = html.fragment(html.badge("fail", text="refused"), " ", str(err))
        except KeyboardInterrupt:
            self._message.value = html.fragment(html.badge("warn", text="interrupted"), " the earlier result is shown.")
        finally:
            self._button.disabled = False

    def _show_result(self, _: object = None) -> None:
        self._frame = self.result.to_frame()
        self._fill_menus()
        self._show_picture()
        self._show_table()

    def _show_picture(self, _: object = None) -> None:
        self._picture.value = self._figure_html()

    def _figure_html(self) -> str:
        panels: Sequence[Any] = self.result.panels()
        if not panels:
            return ""
        shown = min(self.panel, len(panels) - 1)
        self._panels.value, panel = shown, panels[shown]
        svg = plotting.figure_svg(panel.draw())
        return html.fragment(html.figure(svg, alt=f"{panel.title}. {panel.caption}", caption=panel.caption))

    def _show_table(self, _: object = None) -> None:
        for name, menu in self._menus.items():
            chosen = getattr(self.selection, name)
            if chosen in [value for _, value in menu.options]:
                menu.value = chosen
        if self.metric in [value for _, value in self._metrics.options]:
            self._metrics.value = self.metric
        frame = self.table()
        head = frame.head(ROWS_SHOWN).astype(object)
        cells = head.where(head.notna(), None).to_numpy().tolist()
        caption = f"{len(cells)} of {len(frame)} rows"
        self._table.value = html.fragment(html.table(cells, [str(name) for name in frame.columns], caption=caption))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        # Viewers without a widget manager (exports, repositories, no kernel) take the HTML.
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return {**bundle, "text/html": summary_html(self.result) + self._figure_html()}


def explore(result: Result, recompute: Recompute | None = None, *, selection: Selection | None = None) -> Explorer:
    """Open a result in a notebook.

    Args:
        result: Anything with the ``Result`` protocol.
        recompute: Called with the selection by the button "compute again"; returns the result to show.
        selection: Share one between several explorers.

    Raises:
        ParameterError: ``result`` isn't a result.
    """
    if not isinstance(result, Result):
        raise ParameterError(
            "not a result.", argument="result", got=type(result).__name__, allowed="what an analysis' run returns"
        )
    return Explorer(result, recompute=recompute, selection=selection)


def summary_html(result: Result) -> str:
    """Return a result's finding as HTML: verdict, effects with controls, limits."""
    finding = result.finding
    effects = html.item_list([estimate.text() for estimate in finding.estimates])
    limits = (html.escape("Limits:"), html.item_list(finding.limits)) if finding.limits else ()
    return html.fragment(html.badge("found" if finding.found else "nothing"), " ", finding.headline, effects, *limits)


def _options(values: Sequence[Any]) -> list[tuple[str, Any]]:
    # Layers are read from a frame, in which a column with gaps holds floats; traits want integers.
    plain = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    return [(ALL, None), *((html.visible(str(value)), value) for value in plain)]
