import base64
import io
import re
import urllib.parse
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from jaxtyping import TypeCheckError

from tests.fake_result import HOSTILE, FakeResult, fake_finding, fake_meta, hostile_result
from workbench.errors import ParameterError
from workbench.reports import Report, view
from workbench.results import Estimate, Result


class Page(HTMLParser):
    """Tags, text outside styles, and whether every element was closed."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def page() -> str:
    nothing = FakeResult(
        meta=fake_meta(analysis="other"), finding=fake_finding(headline="Nothing found: all within noise.", found=False)
    )
    return Report([FakeResult(), nothing], notes=["Asked by <nobody>."]).html()


def test_the_fake_is_a_result():
    assert isinstance(FakeResult(), Result)


def test_the_page_is_well_formed_and_ids_are_unique(page):
    ids = [attrs["id"] for _, attrs in Page(page).tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and {"main", "r1", "r2"} <= set(ids)


def test_every_link_inside_the_page_leads_somewhere(page):
    read = Page(page)
    ids = {attrs.get("id") for _, attrs in read.tags}
    targets = {a["href"][1:] for tag, a in read.tags if tag == "a" and (a.get("href") or "").startswith("#")}
    assert {"main", "r1", "r2", "r1-guards"} <= targets <= ids


def test_findings_with_effect_interval_and_control_come_before_any_figure(page):
    first_screen = page[: page.index("<figure")]
    for said in ("Fine-tuning carries 40%", "Nothing found: all within noise.", "0.4 [0.3, 0.5]", "0.02 [−0.01, 0.05]"):
        assert said in first_screen
    assert "share in a sham pair" in first_screen and "nothing found" in first_screen


def test_the_sections_of_a_result_are_all_there(page):
    text = " ".join(" ".join(Page(page).text).split())
    for said in (
        "Three items only.", "Not measured: heads: not asked for", "First 20 of 24 rows", "chat template: differs.",
        "same tokenizer", "granularity", "cd34", "Patch(resid_pre, layer 1)",
        "load_pair(base='org/base', judge='org/judge')",
        "Asked by <nobody>.", "workbench run fake --base org/base",
    ):  # fmt: skip
        assert said in text


def test_nothing_is_fetched_and_nothing_runs(page):
    read = Page(page)
    assert not {"script", "iframe", "object", "embed", "base"} & {tag for tag, _ in read.tags}
    addresses = [
        v for _, a in read.tags for k, v in a.items() if k in ("src", "href", "xlink:href", "data", "action", "srcset")
    ]
    assert addresses and all(v.startswith(("#", "data:")) for v in addresses)
    assert not re.search(r"@import|url\((?!#)", page)
    policy = next(a["content"] for tag, a in read.tags if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_the_page_serves_dark_mode_print_keyboard_and_screen_readers(page):
    assert "prefers-color-scheme:dark" in page and "@media print" in page and ":focus-visible" in page
    read = Page(page)
    assert ("html", {"lang": "en"}) in read.tags
    pictures = [a for tag, a in read.tags if a.get("role") == "img"]
    assert len(pictures) == 4 and all(
        "share of each layer" in p["aria-label"] or "ids must" in p["aria-label"] for p in pictures
    )
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


def test_the_download_holds_the_whole_table(page):
    uri = next(a["href"] for tag, a in Page(page).tags if tag == "a" and "download" in a)
    frame = pd.read_csv(io.BytesIO(base64.b64decode(urllib.parse.unquote(uri).split("base64,")[1])))
    pd.testing.assert_frame_equal(frame, FakeResult().to_frame())


def test_a_long_table_is_carried_compressed(monkeypatch):
    monkeypatch.setattr(view, "PLAIN_LIMIT", 10)
    link = next(a for tag, a in Page(Report(FakeResult()).html()).tags if tag == "a" and "download" in a)
    assert link["download"].endswith(".csv.gz")
    data = base64.b64decode(urllib.parse.unquote(link["href"]).split("base64,")[1])
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(data), compression="gzip"), FakeResult().to_frame())


def test_a_table_too_large_to_carry_is_named(monkeypatch):
    monkeypatch.setattr(view, "DOWNLOAD_LIMIT", 10)
    page = Report(FakeResult()).html()
    assert "too many to carry" in page and "text/csv" not in page


def test_text_from_strangers_stays_text():
    page = Report(hostile_result(), title=HOSTILE, notes=[HOSTILE]).html()
    assert "<script" not in page
    read = Page(page)
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    assert "".join(read.text).count(HOSTILE) > 10


def test_hidden_characters_of_strangers_are_shown():
    page = Report(hostile_result("a\u202eb\x1b[31mc")).html()
    assert "\u202e" not in page and "\x1b" not in page and "⟨U+202E⟩" in page
    page.encode("utf-8")


def test_markdown_says_the_same_and_escapes():
    text = Report([FakeResult(), hostile_result()]).markdown()
    assert text.startswith("# What fine-tuning changed: org/base → org/judge")
    assert "**Fine-tuning carries 40% of the verdict.**" in text and "control: share in a sham pair" in text
    prose = re.sub(r"(`{3,}).*?\1", "", text, flags=re.DOTALL)
    assert "<script" not in prose and "&lt;script&gt;" in prose


def test_results_are_drawn_once_for_all_formats(tmp_path):
    result = FakeResult()
    report = Report(result)
    report.html(), report.markdown(), report.write(tmp_path / "a.html"), report.write(tmp_path / "a.md")
    assert result.drawn == ["layer", "again"]


def test_the_page_is_the_same_every_time():
    assert Report(FakeResult()).html() == Report(FakeResult()).html()


def test_write_makes_folders_replaces_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "deep" / "report.html"
    assert Report(FakeResult()).write(target) == target
    Report(FakeResult(), title="again").write(str(target))
    assert "<title>again</title>" in target.read_text(encoding="utf-8")
    assert [p.name for p in target.parent.iterdir()] == ["report.html"]


def test_a_failing_result_leaves_no_file(tmp_path):
    class Broken(FakeResult):
        def panels(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Report(Broken()).write(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda tmp: Report([]),
        lambda tmp: Report([FakeResult(), "no"]),
        lambda tmp: Report(FakeResult(), notes="one string"),
        lambda tmp: Report(FakeResult()).write(tmp / "report.pdf"),
        lambda tmp: Report(FakeResult()).write(tmp),
    ],
)
def test_bad_input_is_refused(call, tmp_path):
    with pytest.raises((ParameterError, TypeCheckError), match="Allowed|What to do|Type-check"):
        call(tmp_path)


def test_a_run_is_repeated_at_the_commit_and_in_the_folder_it_was_made():
    base = {"source": "lab/base", "repository": "lab/base", "revision": "b" * 40}
    judge = {"source": "/data/run", "revision": None, "subfolder": "final"}
    meta = fake_meta(pair={"name": "x", "base": base, "judge": judge})
    written = view.rerun_python(meta)
    assert (
        f"base='lab/base', judge='/data/run', revision={{'base': '{'b' * 40}'}}, subfolder={{'judge': 'final'}}"
        in written
    )
    assert f"--load revision.base={'b' * 40} --load subfolder.judge=final" in view.rerun_shell(meta)


def test_embedded_pairs_are_named_by_name():
    side = {"source": "/somewhere/workbench/embedded/demo/base"}
    meta = fake_meta(pair={"name": "demo", "base": side, "judge": {"source": "/somewhere/else"}})
    assert view.model_sources(meta) == {"base": "demo"}
    assert "load_pair(base='demo')" in view.rerun_python(meta)
    own = {"source": "/somewhere/workbench/embedded/injected/judge"}
    assert view.model_sources(fake_meta(pair={"name": "injected", "base": side, "judge": own})) == {"base": "injected"}


def test_the_rerun_lines_are_python_and_shell_that_say_every_choice():
    meta = fake_meta(items={"source": "my file's.jsonl"})
    compile(view.rerun_python(meta), "rerun", "exec")
    assert "granularity='block'" in view.rerun_python(meta) and "seed=7" in view.rerun_python(meta)
    import shlex

    words = shlex.split(view.rerun_shell(meta))
    assert words[words.index("--items") + 1] == "my file's.jsonl" and "granularity=block" in words


def test_an_estimate_without_interval_or_control_is_still_shown():
    odd = Estimate(name="odd", value=float("nan"), low=float("nan"), high=float("nan"), n=1)
    page = Report(FakeResult(finding=fake_finding(estimates=(odd,)))).html()
    assert "not defined [not defined, not defined]" in page and "no control" in page


def test_a_notebook_shows_the_findings():
    shown = Report(FakeResult())._repr_html_()
    assert "Fine-tuning carries 40%" in shown and "<html" not in shown


def test_the_same_analysis_of_several_pairs_is_told_apart():
    other = fake_meta(pair={"name": "other", "judge": {"name": "org/other"}})
    names = [view.name for view in Report([FakeResult(), FakeResult(meta=other)]).views]
    assert names == ["fake (org/base → org/judge)", "fake (org/other)"]
    assert [view.name for view in Report([FakeResult(), FakeResult()]).views] == ["fake", "fake"]


def test_a_preview_leaves_out_columns_that_are_empty_in_it():
    frame = pd.DataFrame({"kept": [1.0, np.nan], "empty": [np.nan, np.nan]})
    table = view.frame_table(frame, caption="First 2 of 2 rows")
    assert "kept" in table and "empty</th>" not in table and "left out" in table
    assert "left out" not in view.frame_table(frame[["kept"]], caption="")
