import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import Markup

from workbench import html
from workbench.errors import ParameterError

EVIL = '<script>alert(1)</script>"onload="x'


class Reader(HTMLParser):
    """What a browser would see: tags with attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(str(page))  # a slice of Markup would escape what it is added to

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    "piece",
    [
        lambda t: html.escape(t),
        lambda t: html.table([[t, t]], [t, t], caption=t),
        lambda t: html.definition_list({t: {t: [t, {t: t}]}}),
        lambda t: html.item_list([t]),
        lambda t: html.token_strip([t, "b"], [1.0, -1.0], spans={t: (0, 1)}, label=t),
        lambda t: html.badge("ok", text=t),
        lambda t: html.figure(b"\x89PNG\r\n", alt=t, caption=t),
        lambda t: html.fragment(t),
    ],
)
def test_every_piece_escapes_and_still_says_the_text(piece):
    read = Reader(piece(EVIL))
    assert "script" not in {tag for tag, _ in read.tags}
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    assert EVIL in read.text


def test_pieces_nest_without_double_escaping():
    page = html.table([[html.badge("ok"), "a<b"]], ["x", "y"])
    assert page.count('class="badge ok"') == 1
    assert "a&lt;b" in page and "&amp;" not in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "␛[31mred"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("a\u200bb", "a⟨U+200B⟩b"),
        ("\ud800", "⟨U+D800⟩"),
        ("\x85", "⟨U+0085⟩"),
    ],
)
def test_hidden_characters_are_spelled_out(text, shown):
    assert html.escape(text) == shown
    html.escape(text).encode("utf-8")


@pytest.mark.parametrize("text", ["שלום", "日本語", "👩‍🚀 é", "line\nnext\ttab"])
def test_readable_text_of_any_script_stays(text):
    kept = html.visible(text)
    assert kept.replace("⟨U+200D⟩", "\u200d") == text


def test_numbers_are_aligned_and_missing_cells_are_dashes():
    page = html.table([["a", 0.123456, None], ["b", np.float64(math.nan), -3]], ["name", "value", "other"])
    assert '<td class="num">0.1235</td>' in page and "not defined" in page
    assert '<td class="num">–</td>' in page and '<td class="num">−3</td>' in page
    assert '<th scope="col" class="text">name</th>' in page


def test_a_ragged_table_is_refused():
    with pytest.raises(ParameterError, match="rows and columns"):
        html.table([["a"]], ["x", "y"])


def test_badge_says_its_status_in_words():
    assert "failed" in Reader(html.badge("fail")).text
    with pytest.raises(ParameterError, match="Allowed"):
        html.badge("great")


def test_token_strip_is_cut_into_pieces_and_coloured_by_sign():
    values = np.linspace(-1, 1, 4000)
    values[7] = math.nan
    page = html.token_strip([f"t{i}" for i in range(4000)], values, selected=3)
    assert page.count('class="chunk"') == math.ceil(4000 / html.CHUNK)
    classes = re.findall(r'<span class="(t[^"]*)" title', page)
    assert len(classes) == 4000
    assert classes[0] == "t neg5" and classes[-1] == "t pos5" and classes[7] == "t" and classes[3] == "t here neg5"
    assert "content-visibility:auto" in html.CSS


def test_token_strip_shows_line_breaks_and_exact_values():
    page = html.token_strip(["a\n", " b"], [0.0, 0.25])
    assert "a↵" in page and 'title="position 1: 0.25"' in page
    with pytest.raises(ParameterError, match="one value per token"):
        html.token_strip(["a"], [1.0, 2.0])


@pytest.mark.parametrize(
    "svg",
    [
        "<svg><script>x</script></svg>",
        '<svg><g onload="x"/></svg>',
        '<svg><image href="https://x.example/a.png"/></svg>',
        "<svg><foreignObject/></svg>",
        "<p>no</p>",
    ],
)
def test_active_svg_is_refused(svg):
    with pytest.raises(ParameterError, match="plain SVG"):
        html.figure(svg, alt="x")


def test_svg_text_that_looks_like_a_handler_is_just_text():
    assert "only = 3" in html.figure("<svg><text>only = 3</text></svg>", alt="x")


def test_markup_is_a_str():
    assert isinstance(html.table([], []), str) and isinstance(html.escape("x"), Markup)
