import pytest
import traitlets
from jaxtyping import TypeCheckError

from tests.fake_result import HOSTILE, FakeResult, fake_finding, hostile_result
from workbench.errors import ParameterError
from workbench.widgets import Explorer, Selection, explore


@pytest.fixture
def explorer() -> Explorer:
    return explore(FakeResult())


def shown_rows(explorer: Explorer) -> int:
    return explorer._table.value.count("<tr>") - 1


def test_it_opens_with_the_finding_the_first_figure_and_the_whole_table(explorer):
    assert "Fine-tuning carries 40%" in explorer._heading.value and "Three items only." in explorer._heading.value
    assert "<svg" in explorer._picture.value and "share of each layer" in explorer._picture.value
    assert shown_rows(explorer) == len(explorer.table()) == 24


def test_setting_traits_from_python_narrows_the_table_and_moves_the_menus(explorer):
    explorer.selection.item = "two"
    explorer.selection.order = "swapped"
    explorer.selection.layer = 1
    explorer.metric = "share"
    assert explorer.table()[["item", "order", "layer", "metric"]].to_numpy().tolist() == [
        ["two", "swapped", 1, "share"]
    ]
    assert shown_rows(explorer) == 1
    assert explorer._menus["item"].value == "two" and explorer._metrics.value == "share"


def test_choosing_in_a_menu_sets_the_selection(explorer):
    explorer._menus["item"].value = "three"
    explorer._metrics.value = "norm"
    explorer._panels.value = 1
    assert explorer.selection.item == "three" and explorer.metric == "norm" and explorer.panel == 1
    assert "ids must differ" in explorer._picture.value
    explorer._menus["item"].value = None
    assert explorer.selection.item is None and len(explorer.table()) == 12


def test_only_columns_of_the_result_get_a_menu(explorer):
    named = [child.description for child in explorer._controls.children]
    assert named == ["figure", "metric", "item", "order", "layer"]


def test_two_explorers_share_a_selection():
    selection = Selection(item="one")
    left, right = explore(FakeResult(), selection=selection), explore(FakeResult(), selection=selection)
    left._menus["order"].value = "swapped"
    assert right._menus["order"].value == "swapped" and len(right.table()) == 4


def test_an_empty_selection_says_so(explorer):
    explorer.selection.item = "no such item"
    assert len(explorer.table()) == 0 and "0 of 0 rows" in explorer._table.value


def test_recompute_gets_the_selection_and_its_result_is_shown():
    asked = []

    def compute(selection: Selection) -> FakeResult:
        asked.append(selection.chosen())
        return FakeResult(finding=fake_finding(headline="Nothing found.", found=False), rows_per_item=3)

    explorer = explore(FakeResult(), compute)
    explorer.selection.item, explorer.panel = "two", 1
    explorer._button.click()
    assert asked == [{"item": "two"}]
    assert "Nothing found." in explorer._heading.value and explorer._button.disabled is False
    assert explorer.selection.chosen() == {"item": "two"} and explorer.panel == 1
    assert len(explorer.table()) == 12


@pytest.mark.parametrize(
    ("error", "said"), [(ParameterError("no such layer."), "no such layer."), (KeyboardInterrupt(), "interrupted")]
)
def test_a_refusal_or_an_interruption_keeps_the_result(error, said):
    def compute(selection: Selection) -> FakeResult:
        raise error

    before = FakeResult()
    explorer = explore(before, compute)
    explorer.recompute()
    assert said in explorer._message.value and explorer.result is before and not explorer._button.disabled


def test_a_defect_of_the_function_is_raised_and_the_button_works_again():
    explorer = explore(FakeResult(), lambda selection: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explorer.recompute()
    assert explorer._button.disabled is False


def test_without_a_function_there_is_no_button(explorer):
    assert explorer._button not in explorer._controls.children
    explorer.recompute()
    assert "without a function" in explorer._message.value


def test_text_from_strangers_stays_text():
    explorer = explore(hostile_result())
    explorer.selection.item = HOSTILE
    for part in (explorer._heading, explorer._table, explorer._picture):
        assert "<script" not in part.value
    assert "&lt;script&gt;" in explorer._table.value


def test_it_shows_something_without_a_widget_manager(explorer):
    static = explorer._repr_mimebundle_()["text/html"]
    assert "Fine-tuning carries 40%" in static and "<svg" in static


def test_wrong_values_are_refused(explorer):
    with pytest.raises((ParameterError, TypeCheckError), match="not a result|Type-check"):
        explore("result")
    with pytest.raises(traitlets.TraitError, match="not a result"):
        explorer.result = "result"
    with pytest.raises(traitlets.TraitError, match="allowed: 0 to 1"):
        explorer.panel = 5
    with pytest.raises(traitlets.TraitError):
        explorer.selection.order = "sideways"


def test_a_result_without_panels_opens():
    class Bare(FakeResult):
        def panels(self):
            return ()

    explorer = explore(Bare())
    assert explorer._picture.value == "" and shown_rows(explorer) == 24


def test_layers_from_a_frame_with_gaps_are_whole_numbers():
    class Gaps(FakeResult):
        def to_frame(self):
            frame = super().to_frame()
            return frame.assign(layer=frame["layer"].where(frame["layer"] > 0))

    explorer = explore(Gaps())
    explorer._menus["layer"].value = 1
    assert explorer.selection.layer == 1 and len(explorer.table()) == 12


def test_selection_shows_and_lists_what_is_chosen():
    assert Selection(item="a", layer=2).chosen() == {"item": "a", "layer": 2}
    assert repr(Selection(layer=0)) == "Selection(layer=0)"
