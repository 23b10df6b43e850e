"""Blocks rendered to HTML and Markdown: complete, escaped, and the texts of rows on the HTML page alone."""

import re

from markdown_it import MarkdownIt

from finetune_pipeline.evaluation.wording import number
from finetune_pipeline.report import blocks as b
from finetune_pipeline.report.blocks import Page, Section, Table, Text, notes, text
from finetune_pipeline.report.page import page_html, page_markdown, plain
from finetune_pipeline.report.plots import Dot, dot_plot, signal_over_time
from finetune_pipeline_tests.unit.report.parsed import HOSTILE, Parsed


def every_block(words: str) -> Page:
    """A page that holds every kind of block, with these words wherever words may stand."""
    answer = b.Answer(words, "failed", words, words, [words], "first")
    spans = [b.Span("loss", [(False, words), (True, "↵")])]
    blocks = [
        words, *notes(words), b.Heading(words), b.Items([words]),
        Table([(words, text), ("Rows", number)], [[words, 1200], ["other", 3]], strong=[0], marks={(1, 1): "bad"}),
        b.Bars(words, [(words, 3), ("b", 0)], 3), b.Answers((words, "Passed", "Measured"), [answer]),
        b.Matrix(words, [words, "b"], [words, "b", "invalid"], [[1, 0, 2], [0, 3, 0]], "invalid"),
        Table([("Row", text), (words, text)], [[words] * 2, ["x", "-1"]], style="rows", audience="page", filters=[1]),
        b.Tokens([b.TokenRow(words, True, words, [(False, spans), (True, spans)])], legend=True),
        dot_plot("dots", words, [Dot(words, 1.0, (0.0, 2.0), words)], words),
        signal_over_time(words, [words], {1: (0.2, True, True)}),
        b.Code(words),
    ]  # fmt: skip
    first = Section.of("first", words, blocks)
    verdict = b.Verdict("failed", words, words, [words], [(words, words)], [words] * 4, [(words, words)])
    return Page(words, words, verdict, [first, Section.of("e", "E", []), Section.of("folded", words, [words])])


def test_every_block_shows_a_hostile_text_and_it_does_nothing() -> None:
    page = Parsed(page_html(every_block(HOSTILE)))
    page.assert_inert()
    assert page.text.count("<script>alert(1)</script>") >= 30


def test_hostile_texts_start_no_markup_in_markdown() -> None:
    markdown = page_markdown(every_block(HOSTILE))
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    flat = [t for block in tokens for t in (block, *(block.children or []))]
    assert not {"html_inline", "html_block", "link_open", "image"} & {t.type for t in flat}
    rows = re.findall(r"(?:^\|.*\|\n)+", markdown, re.M)
    assert len(rows) == 4, "table, bars, answers and matrix"
    for table in rows:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_page_is_one_file_that_follows_light_and_dark() -> None:
    page = page_html(every_block("words"))
    assert page.startswith("<!doctype html>")
    assert "url(" not in page and "@import" not in page and "prefers-color-scheme" in page
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" in page
    assert '<section><h2 id="first">' in page and '<details class="section"><summary><h2 id="folded">' in page
    assert 'id="e"' not in page, "a section without blocks is left out"


def test_texts_of_rows_stand_on_the_html_page_alone() -> None:
    secret = [
        Table([("Text", text)], [["SECRET"]], audience="page"),
        Text("SECRET", audience="page"),
        b.Tokens([b.TokenRow("SECRET", False, "", [])]),
    ]
    section = Section.of("s", "Some rows", [*secret, Text("for the team", audience="team"), "for all"])
    page = Page("t", "l", None, [section, Section.of("r", "Rows only", secret)])
    assert page_html(page).count("SECRET") == 6
    markdown = page_markdown(page)
    assert "SECRET" not in markdown and "## Rows only" not in markdown and "for the team" in markdown
    assert section.public() == [Text("for all")]


def test_tables_and_lists_in_markdown() -> None:
    markdown = page_markdown(every_block("a"))
    assert "| a | Rows |\n| --- | ---: |\n| **a** | **1,200** |\n| other | 3 |\n" in markdown
    assert "- a\n" in markdown and "| a | 3 | 100% |" in markdown
    assert "|  | a | b | invalid |\n" in markdown and "| a | 1 | 0 | 2 |\n" in markdown and "\n\n\n" not in markdown


def test_markdown_text_shows_itself() -> None:
    escaped = {
        "a*b_c`d": r"a\*b\_c\`d", "- item": r"\- item", "+49.5 points": "+49.5 points", "two\nlines": "two lines",
        "<b>": r"\<b\>", "see https://a.b": "see https:\u200b//a.b", "at www.a.b": "at www\u200b.a.b", "ask @ops": "ask @\u200bops",
    }  # fmt: skip
    assert {text: plain(text) for text in escaped} == escaped
