import hashlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex

from workbench import plotting
from workbench.errors import ParameterError

VALUES = np.array([[1.0, -2.0, np.nan], [0.5, 0.0, 1.5]])


EXAMPLES = {
    "heatmap": lambda: plotting.heatmap(VALUES, rows=["a", "b"], columns=[0, 1, 2], title="t", value_label="logit"),
    "lines": lambda: plotting.lines(
        {"effect": [1.0, 2.0], "sham": [0.1, 0.0]},
        x=[0, 1],
        bands={"effect": ([0.5, 1.5], [1.5, 2.5])},
        controls=["sham"],
    ),
    "bars": lambda: plotting.bars({"x": 1.0, "y": -0.5}, intervals={"x": (0.5, 1.5)}, controls={"x": 0.1}),
    "strip": lambda: plotting.strip({"x": [1.0, 2.0, np.nan], "y": []}, controls={"x": [0.0, 0.1]}, title="dots"),
}


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_svg_is_well_formed_self_contained_and_the_same_every_time(name):
    first, second = (plotting.figure_svg(EXAMPLES[name]().get_figure()) for _ in range(2))
    assert first == second
    assert ET.fromstring(first).tag.endswith("svg")
    assert not re.search(r"<script|<style|<!--|<metadata|\d{4}-\d\d-\d\dT", first)
    assert all(ref.startswith("data:") or ref.startswith("#") for ref in re.findall(r'href="([^"]*)"', first))
    assert "currentColor" in first and plotting.INK not in first


def test_ids_are_unique_on_a_page_and_references_follow():
    figure = plotting.heatmap(VALUES, rows=["a", "b"], columns=[0, 1, 2]).get_figure()
    page = plotting.figure_svg(figure, prefix="p1") + plotting.figure_svg(figure, prefix="p2")
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 4
    refs = re.findall(r'(?:url\(#|href="#)([^)"]+)', page)
    assert refs and set(refs) <= set(ids)


def test_another_process_writes_the_same_svg_and_loads_no_pyplot():
    code = (
        "from workbench import plotting; import hashlib, sys;"
        "f = plotting.lines({'a': [1.0, 2.0]}, x=[0, 1], title='t').get_figure();"
        "print(hashlib.sha256(plotting.figure_svg(f).encode()).hexdigest(), 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = plotting.figure_svg(plotting.lines({"a": [1.0, 2.0]}, x=[0, 1], title="t").get_figure())
    assert done.stdout.split() == [hashlib.sha256(here.encode()).hexdigest(), "False"]


def test_global_style_is_left_as_found_even_after_an_error():
    with mpl.rc_context({"font.size": 23.0}):
        before = dict(mpl.rcParams)
        for draw in EXAMPLES.values():
            plotting.figure_svg(draw().get_figure())
        with pytest.raises(RuntimeError), plotting.style():
            raise RuntimeError
        assert dict(mpl.rcParams) == before


def test_heatmap_keeps_its_data_labels_and_zero_in_the_middle():
    ax = plotting.heatmap(
        VALUES, rows=["a", "b"], columns=[0, 1, 2], title="shares", row_label="head", column_label="layer"
    )
    image = ax.get_images()[0]
    np.testing.assert_array_equal(image.get_array().filled(np.nan), VALUES)
    assert image.norm(0.0) == pytest.approx(0.5) and image.norm(-2.0) == 0.0
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert (ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()) == ("shares", "layer", "head")


def test_sequential_heatmap_and_explicit_limits():
    ax = plotting.heatmap(VALUES, rows=["a", "b"], columns=[0, 1, 2], center=None, limits=(0.0, 4.0))
    image = ax.get_images()[0]
    assert image.get_cmap().name == "cividis" and image.get_clim() == (0.0, 4.0)


def test_a_big_heatmap_labels_some_cells_and_draws_all():
    ax = plotting.heatmap(np.zeros((120, 90)), rows=range(120), columns=range(90))
    assert len(ax.get_xticks()) <= 60 and len(ax.get_yticks()) <= 60
    assert ax.get_images()[0].get_array().shape == (120, 90)


def test_lines_draw_series_bands_and_grey_controls():
    ax = plotting.lines(
        {"effect": [1.0, 2.0], "sham": [0.0, 0.1]},
        x=[0, 1],
        bands={"effect": ([0, 1], [2, 3])},
        controls=["sham"],
        x_label="layer",
    )
    drawn = {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}
    assert list(drawn) == ["effect", "sham"]
    assert drawn["sham"].get_linestyle() == "--" and drawn["sham"].get_color() == plotting.CONTROL
    np.testing.assert_array_equal(drawn["effect"].get_ydata(), [1.0, 2.0])
    assert len(ax.collections) == 1 and ax.get_xlabel() == "layer"


def test_bars_and_strip_draw_every_value():
    bars = plotting.bars({"x": 1.0, "y": -0.5}, value_label="margin")
    assert [patch.get_width() for patch in bars.patches] == [1.0, -0.5]
    assert [t.get_text() for t in bars.get_yticklabels()] == ["x", "y"]
    dots = plotting.strip({"x": [3.0, 1.0, np.nan]}, controls={"x": [0.5]})
    drawn = sorted(x for c in dots.collections for x, _ in c.get_offsets())
    assert drawn == [0.5, 1.0, 3.0]


def test_an_axes_handed_in_is_used():
    ax = plotting.new_axes()
    assert plotting.lines({"a": [1.0]}, x=[0], ax=ax) is ax


@pytest.mark.parametrize(
    "call",
    [
        lambda: plotting.heatmap(VALUES, rows=["a"], columns=[0, 1, 2]),
        lambda: plotting.lines({"a": [1.0]}, x=[0, 1]),
        lambda: plotting.lines({"a": [1.0]}, x=[0], controls=["b"]),
        lambda: plotting.bars({"a": 1.0}, intervals={"b": (0.0, 1.0)}),
        lambda: plotting.strip({"a": [1.0]}, controls={"b": [1.0]}),
    ],
)
def test_labels_that_do_not_fit_are_refused(call):
    with pytest.raises(ParameterError, match="Allowed"):
        call()


def test_labels_are_plain_text():
    ax = plotting.lines({"a $x_1$ <b>": [1.0], "日本\x1b": [2.0]}, x=[0], title="cost $5 & $6")
    svg = plotting.figure_svg(ax.get_figure())
    text = "".join(ET.fromstring(svg).itertext())
    assert "cost $5 & $6" in text and "a $x_1$ <b>" in text and "日本\\u001b" in text
    assert "<b>" not in svg


def test_a_figure_shows_itself():
    assert plotting.new_axes().get_figure()._repr_html_().startswith("<svg")


def test_palette_is_told_apart_without_colour_vision():
    # Brettel-like check by lightness alone: the two ends of the diverging scale and the centre are far apart.
    from matplotlib.colors import to_rgb

    light = [
        0.2126 * r + 0.7152 * g + 0.0722 * b
        for r, g, b in (plotting.DIVERGING(v)[:3] for v in (0.0, 0.25, 0.5, 0.75, 1.0))
    ]
    assert light[0] < light[1] < light[2] > light[3] > light[4]
    assert len({to_rgb(c) for c in plotting.PALETTE}) == len(plotting.PALETTE)


def test_long_row_labels_leave_room_for_a_narrow_matrix():
    """A layout that collapses warns, and the picture is unusable."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = plotting.heatmap(
            np.ones((4, 1)), rows=["a-rather-long-item-name-it-is-" + str(i) for i in range(4)], columns=["x"]
        )
        plotting.figure_svg(ax.get_figure(root=True))


def test_groups_that_are_controls_are_grey_and_a_legend_says_what_a_control_is():
    ax = plotting.strip({"own": [1.0, 2.0], "twin": [0.5]}, muted=["twin"], controls={"own": [0.0]}, control_label="c")
    colours = [to_hex(points.get_facecolor()[0]) for points in ax.collections]
    assert colours == [plotting.CONTROL, plotting.PALETTE[0].lower(), plotting.CONTROL]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["c"]
    bars = plotting.bars({"a": 1.0}, controls={"a": 0.2}, control_label="a random change")
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["a random change"]
    with pytest.raises(ParameterError):
        plotting.strip({"own": [1.0]}, muted=["other"])


def test_a_long_scale_label_is_broken_beside_few_rows():
    few, many = (
        plotting.heatmap(np.eye(n), rows=range(n), columns=range(n), value_label="logits toward the labelled answer")
        for n in (3, 20)
    )
    labels = [ax.get_figure().axes[-1].get_ylabel() for ax in (few, many)]
    assert "\n" in labels[0] and "\n" not in labels[1]
