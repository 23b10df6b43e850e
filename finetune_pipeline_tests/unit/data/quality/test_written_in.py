"""Labels written into the inputs, and answers cut off or ended in two styles, are findings; clean sets have none."""

import random
import re
from collections.abc import Callable

import pytest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.answer_style import answer_style
from finetune_pipeline.data.quality.label_in_input import label_in_input
from finetune_pipeline_tests.unit.data.quality.makers import FILLER, LABELS, make, make_spec, requests


@pytest.mark.parametrize(
    ("tag", "named"),
    [
        (lambda label, text: f"[{label.upper()}] {text}", {label: f"[ {label} ]" for label in LABELS}),
        (lambda label, text: f"{text}\ncategory {label}", {label: f"category {label}" for label in LABELS}),
        (lambda label, text: f"#T1 {text}" if label == "parcel" else text, {"parcel": "# t1"}),
    ],
)
def test_a_label_written_into_the_input_is_named(tag: Callable[[str, str], str], named: dict[str, str]) -> None:
    rows = [
        make(tag(str(e.label), e.user_text), str(e.label), i, label=e.label) for i, e in enumerate(requests(400), 1)
    ]
    report = label_in_input(rows, make_spec(LABELS))
    assert {p.label: p.phrase for p in report.phrases} == named
    assert not report.passed and not report.blocking
    assert [f.rule for f in report.findings] == ["quality.label_in_input"] * len(named)
    assert "production" in report.findings[0].fix and "100 of 100 rows" in report.message


def test_words_that_belong_to_labels_are_not_called_written_in() -> None:
    assert label_in_input(requests(400), make_spec(LABELS)).passed
    assert not label_in_input(requests(400), make_spec()).applies


def _stories(rows: int, change: Callable[[int, str], str]) -> list[Example]:
    rnd = random.Random(0)
    stories = [" ".join(rnd.choices(FILLER, k=rnd.randint(8, 60))).capitalize() + "." for _ in range(rows)]
    return [make(f"tell a story {i}", change(i, story), i) for i, story in enumerate(stories, 1)]


@pytest.mark.parametrize(
    ("cut", "at"),
    [
        (lambda i, story: story[:200], "at 200 characters"),
        (lambda i, story: " ".join(story.split()[:40]), "at 40 words"),
        (lambda i, story: (story * 20)[:200], "of 400 answers end in the middle of a sentence at 200"),
        (lambda i, story: re.sub(r"\w", "\u5929", story.replace(" ", ""))[:150], "at 150 characters"),
        (lambda i, story: "".join(re.findall(r" ?\w{1,5}|.", story)[:50]), "longest answers"),
    ],
)
def test_answers_cut_off_at_one_length_are_a_finding(cut: Callable[[int, str], str], at: str) -> None:
    report = answer_style(_stories(400, cut), make_spec())
    assert "quality.answers_cut" in [f.rule for f in report.findings] and at in report.message
    assert not report.passed and not report.blocking


def test_answers_of_which_half_end_without_a_full_stop_are_a_finding() -> None:
    report = answer_style(_stories(400, lambda i, story: story if i % 2 else story[:-1]), make_spec())
    assert [f.rule for f in report.findings] == ["quality.mixed_ends"]
    assert "200 of 400 answers of a sentence end without a full stop" in report.message


@pytest.mark.parametrize(
    "style",
    [
        lambda i, story: story,
        lambda i, story: story[:-1],
        lambda i, story: story if i % 10 else story[:-1],
        lambda i, story: story if i % 2 else ["yes", "42", "a red apple"][i % 3],
        lambda i, story: f"```\nx = {i}\n```" if i % 2 else story,
        lambda i, story: f"2024-{i % 12 + 1:02}-{i % 28 + 1:02}",
        lambda i, story: f"ORD-{i:06}" if i % 4 == 0 else f"ORD-{i % 1000}",
        lambda i, story: f"SELECT name FROM orders WHERE id = {i:04}",
    ],
    ids=["full-stops", "none", "few-without", "short-answers", "code", "dates", "codes", "commands"],
)
def test_answers_that_are_whole_and_alike_pass(style: Callable[[int, str], str]) -> None:
    assert answer_style(_stories(400, style), make_spec()).findings == []
