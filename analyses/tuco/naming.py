"""How spans of a prompt and the size of a sample are named in figures and sentences."""

from collections.abc import Mapping

from analyses.judged import JudgedResult
from workbench.results import Panel

_REGIONS: Mapping[str, str] = {
    "answer_a": "first answer",
    "answer_b": "second answer",
    "prompt_end": "end of prompt",
    "start": "first token",
    "stem": "verdict stem",
    "verdict": "verdict token",
}


def region_title(name: str) -> str:
    """Return what a reader calls a span: ``answer_a`` is the answer in the first slot."""
    return _REGIONS.get(name, name.replace("_", " "))


def region_phrase(name: str) -> str:
    """Return the span inside a sentence: ``the rubric``, ``the first answer``."""
    return f"the {region_title(name)}"


def with_sample(result: JudgedResult, panels: tuple[Panel, ...]) -> tuple[Panel, ...]:
    """Return the panels with the number of items behind them in each caption, but for those of a single prompt."""
    n, independent = len(result.item_ids), len(set(result.clusters))
    items = f"{n} items" if n == independent else f"{n} items in {independent} independent groups"
    shown = f"n = {items}, in {'both orders' if len(result.orders) == 2 else 'one order'}."
    return tuple(
        Panel(panel.title, panel.caption if _of_one(panel) else f"{panel.caption} {shown}", panel.draw)
        for panel in panels
    )


def _of_one(panel: Panel) -> bool:
    return "token by token" in panel.title.lower() or panel.title == "Unit by token"
