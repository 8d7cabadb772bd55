"""A result from top to bottom, where the cell's output goes."""

import pytest

from analyses import tuco
from workbench import show
from workbench.errors import ParameterError
from workbench.judges import JudgeItem
from workbench.pairs.tiny import tiny_pair


@pytest.fixture(scope="module")
def result():
    items = [JudgeItem(item_id=str(i), question=f"{i}?", answers=("a", "b"), label=i % 2) for i in range(4)]
    return tuco.run(tiny_pair(), items, progress=False, controls=0)


def test_finding_first_then_every_figure_under_its_caption(result, monkeypatch):
    shown = []
    monkeypatch.setattr("workbench.widgets.showing.display", lambda *things: shown.append(things))
    show(result)
    assert shown[0] == (result,)
    titles = [panel.title for panel in result.panels()]
    assert [things[0].data.split("\n")[0] for things in shown[1:]] == [f"### {title}" for title in titles]
    assert all(things[1].axes for things in shown[1:])
    shown.clear()
    show(result, panels=titles[1:2])
    assert len(shown) == 2


def test_strangers_are_refused(result):
    with pytest.raises(ParameterError, match="result"):
        show({"not": "a result"})
    with pytest.raises(ParameterError, match="panels"):
        show(result, panels=["no such figure"])
