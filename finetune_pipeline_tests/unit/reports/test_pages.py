"""The two pages: complete, in order, safe against hostile texts, and the same in numbers."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from finetune_pipeline.evaluation.gates import decide
from finetune_pipeline.reports.html import render_html
from finetune_pipeline.reports.markdown import plain, render_markdown
from finetune_pipeline_tests.unit.evaluation.fake_run import (
    arguments,
    champion_rows,
    evaluation,
    json_evaluation,
    text_evaluation,
)
from finetune_pipeline_tests.unit.evaluation.rows import json_spec, paired, spec, text_spec

HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=alert(2)> [click](javascript:alert(3)) | **bold** & \"quoted\" 'x'"
)


class _Tags(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def _pages(told, of=None):
    gates = decide(of or spec(), told)
    return render_html(told, gates), render_markdown(told, gates)


@pytest.fixture(scope="module")
def good():
    return _pages(evaluation())


def test_the_page_is_one_well_formed_file_without_script_or_outside_resources(good):
    page = _Tags(good[0])
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.tags)
    assert not [(k, v) for k, v in page.attributes if k.startswith("on") or k == "src"]
    assert all(v.startswith("#") for k, v in page.attributes if k == "href")
    assert "url(" not in good[0] and "@import" not in good[0] and "prefers-color-scheme" in good[0]


def test_sections_in_order_and_every_link_leads_somewhere(good):
    titles = re.findall(r'<h2 id="(\w+)">', good[0])
    assert titles == [
        "gates",
        "next",
        "models",
        "form",
        "paired",
        "confusion",
        "labels",
        "calibration",
        "learning",
        "regressions",
        "wrong",
        "atlas",
        "robustness",
        "ability",
        "people",
        "data",
        "training",
        "supervision",
        "cost",
        "seal",
        "versions",
    ]
    assert re.findall(r'<a href="#(\w+)">', good[0]) == titles


def test_the_verdict_comes_first_with_its_interval(good):
    told = evaluation()["comparison"]["interval"]
    sentence = (
        "The fine-tuned model is right on 80.0% of 200 sealed rows, 27.5 points more than the base model with "
        "its best prompt (8-shot); the 95% interval of the gain is "
        f"+{100 * told[0]:.1f} to +{100 * told[1]:.1f} points."
    )
    words = _Tags(good[0]).words
    assert words.index(f"Passed: 9 passed, 6 not asked. {sentence}") < words.index("beats_baseline")
    assert plain(sentence) in good[1]


def test_a_refusal_names_the_gates_and_what_to_do():
    base, candidate = paired(80, 14, 8, 20)
    for page in _pages(evaluation(predictions=[*base, *candidate], parity_facts={})):
        words = _Tags(page).words if page.startswith("<!doctype") else page.replace("\\", "")
        assert "Refused by beats_baseline, beats_commonest, beats_simple and merge_parity: " in words
        assert "Read the regressions and wrong answers" in words
        assert "points less than the base model" in words


def test_hostile_texts_are_shown_and_do_nothing():
    facts = arguments()
    for r in facts["predictions"]:
        if r["model"] == "candidate" and r["text"] != r["gold"]:
            r["text"] = HOSTILE
    hostile_spec = spec(description=HOSTILE)
    told = evaluation(
        spec=hostile_spec,
        predictions=facts["predictions"],
        texts={i: HOSTILE for i in facts["texts"]},
        versions={HOSTILE: HOSTILE},
        openings=[{"candidate": HOSTILE, HOSTILE: "x"}],
        data_facts={HOSTILE: {"rows_in": 1, "by_rule": {HOSTILE: 1}}},
        training_facts={"method": HOSTILE, "history": []},
    )
    page, markdown = _pages(told, hostile_spec)
    parsed = _Tags(page)
    assert parsed.open == []
    assert not {"script", "img"} & set(parsed.tags)
    assert parsed.words.count("<script>alert(1)</script>") >= 10
    assert not re.search(r"(?<!\\)<(script|img)", markdown)
    assert not re.search(r"(?<!\\)\]\(javascript", markdown)
    for table in re.findall(r"(?:^\|.*\|\n)+", markdown, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_hostile_labels_are_escaped_in_the_matrix():
    labels = ["<b>bug", "billing & co", 'other"x']
    of = spec(output={"kind": "labels", "labels": labels})
    base, candidate = paired(30, 2, 9, 3)
    names = dict(zip(["bug", "billing", "other"], labels, strict=True))
    for r in [*base, *candidate]:
        r.update(gold=names[r["gold"]], text=names[r["text"]])
    page, _ = _pages(evaluation(spec=of, predictions=[*base, *candidate]), of)
    assert _Tags(page).open == []
    assert "<b>bug" not in page and "&lt;b&gt;bug" in page


def test_the_matrix_shows_the_counts_and_the_invalid_column(good):
    matrix = good[0].split('<table class="matrix">')[1].split("</table>")[0]
    counts = [[int(n) for n in re.findall(r">(\d+)</td>", row)] for row in matrix.split("<tr>")[2:]]
    assert counts == evaluation()["scores"]["candidate"]["confusion"]["counts"]
    assert "invalid" in matrix


def test_rows_in_and_out_of_every_stage(good):
    words = " ".join(re.sub(r"<[^>]+>", " ", good[0]).split())
    assert "Validated 1,042 23 1,019" in words
    assert "Cleaned 1,019 16 31 21 951" in words
    assert "Split 951 0 951" in words
    assert "data.bad_json 23" in words and "scrubbed: email 14" in words and "iban" not in words
    assert "| Cleaned | 1,019 | 16 | 31 | 21 |  | 951 |" in good[1]


def test_training_facts(good):
    words = " ".join(re.sub(r"<[^>]+>", " ", good[0]).split())
    for told in (
        "Trainable parameters 1,000 (1.0% of all)",
        "16-bit size 42.0%",
        "Peak memory 1,234 MiB",
        "Time 1 min 15 s",
        "yes, 110 tokens",
        "fell from 2.000 before training to 0.500 at step 20",
    ):
        assert told in words


def test_a_linear_model_that_is_better_is_said_under_the_verdict():
    facts = arguments()
    perfect = {r["example_id"]: r["gold"] for r in facts["predictions"]}
    page, markdown = _pages(evaluation(simple={"linear": perfect}))
    assert "TF-IDF and logistic regression is made in seconds and is surely better" in page.split("<nav>")[0]
    assert "is surely better: the fine-tuned model stands at" in markdown


def test_a_linear_model_that_is_beaten_needs_no_caveat():
    facts = arguments()
    useless = {r["example_id"]: "other" for r in facts["predictions"]}
    assert "TF-IDF" not in _pages(evaluation(simple={"linear": useless}))[0].split("<nav>")[0]


def test_the_champion_is_shown_when_there_is_one(good):
    predictions = [*arguments()["predictions"], *champion_rows(150)]
    page, _ = _pages(evaluation(predictions=predictions, versions={"champion": "3"}))
    assert "Against the champion in service: +5.0 points" in page
    assert "Champion in service" not in good[0]


def test_more_regressions_than_shown_are_counted():
    base, candidate = paired(20, 45, 2, 3)
    page, markdown = _pages(evaluation(predictions=[*base, *candidate]))
    assert "45 rows that the base model has right and the fine-tuned one wrong; the first 30 by id are shown" in page
    assert "40 more regressions are in the HTML report" in markdown


def test_a_text_task_has_pages_too():
    page, markdown = _pages(text_evaluation(), text_spec())
    assert _Tags(page).open == []
    assert "ROUGE-L 100.0 on 40 sealed rows, 33.3 points more" in page
    assert 'id="confusion"' not in page and 'id="form"' not in page
    assert "## Labels" not in markdown


@pytest.mark.parametrize("metric", ["exact", "micro_f1"])
def test_an_extraction_has_pages_with_its_fields(metric: str):
    told = json_evaluation(gates={"metric": metric})
    page, markdown = _pages(told, json_spec(gates={"metric": metric}))
    assert _Tags(page).open == []
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    if metric == "exact":
        assert "The fine-tuned model is right on 90.0% of 60 sealed rows, 40.0 points more than" in words
        assert "its answers read leniently" in words
    else:
        assert "The fine-tuned model reaches micro-F1 of the fields 95.0 on 60 sealed rows" in words
    assert "city 0.900 0.900 0.900 0.667" in words
    assert "JSON only after repair Base, best prompt 30 50.0%" in words
    assert "a field holds another value: city (6)" in words
    assert "| city | 0.900 |" in markdown and "## Failure atlas" in markdown
    assert 'id="confusion"' not in page and "ROUGE" not in page


def test_missing_facts_are_shown_as_missing_not_as_zero():
    page, markdown = _pages(evaluation(training_facts={}, data_facts={}, openings=[], versions={}))
    assert "No validation loss was recorded." in page and "No validation loss was recorded." in markdown
    assert "No opening of the sealed test is on record." in page
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Peak memory n/a" in words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a*b_c`d", r"a\*b\_c\`d"),
        ("# title", r"\# title"),
        ("- item", r"\- item"),
        ("1. one", r"1\. one"),
        ("+49.5 points", "+49.5 points"),
        ("10.0%", "10.0%"),
        ("two\nlines", "two lines"),
        ("a|b", r"a\|b"),
        ("-3.1", "-3.1"),
        ("---", r"\---"),
        ("<b>", r"\<b\>"),
        ("C:\\x", "C:\\\\x"),
    ],
)
def test_markdown_text_shows_itself(text, shown):
    assert plain(text) == shown


def test_markdown_makes_no_links_or_mentions():
    assert "https://" not in plain("see https://example.org")
    assert "@ops" not in plain("ask @ops")


def test_pages_repeat_themselves():
    assert _pages(evaluation()) == _pages(evaluation())
