from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_pipeline.review.ratings import parse_rating, read_ratings
from finetune_pipeline.review.sheet import sheet_name
from finetune_pipeline_tests.unit.review.answers import VERSION

SHEET = sheet_name(VERSION, 10)


def line(**changes: object) -> dict[str, object]:
    return {"sheet": SHEET, "id": "e001", "choice": "A", "rater": "Ada", **changes}


def put(folder: Path, name: str, text: str) -> None:
    (folder / "outputs").mkdir(parents=True, exist_ok=True)
    (folder / "outputs" / name).write_text(text, "utf-8")


@pytest.mark.parametrize("said", ["a", " B ", "BOTH"])
def test_choices_are_read_kindly(said: str) -> None:
    rating, wrong = parse_rating(line(choice=said))
    assert not wrong
    assert rating is not None
    assert rating.choice.lower() == said.strip().lower()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (line(choice="C"), "`choice` is 'C'"),
        (line(sheet="x"), "no sheet's name"),
        (line(rater=" "), "`rater` is missing"),
        (line(time="noon"), "not an RFC 3339 time"),
        (line(comment="x" * 5000), "more than 4000 characters"),
        ("A", "no object"),
    ],
)
def test_faults_are_named(row: object, told: str) -> None:
    rating, wrong = parse_rating(row)
    assert rating is None
    assert told in "; ".join(wrong)


def test_json_lines_and_csv_are_read_and_bad_lines_lose_no_good_ones(tmp_path: Path) -> None:
    good, bad = json.dumps(line(comment="two\u2028lines"), ensure_ascii=False), json.dumps(line(choice="maybe"))
    put(tmp_path, "a.jsonl", f"\ufeff{bad}\nno json\n\n{good}\n{'[' * 100_000}\n")
    put(
        tmp_path,
        "b.csv",
        f'\ufeffsheet,id,choice,rater,comment\n{SHEET},e002,both,Bo,"fine, really"\n{SHEET},e003,,Bo,\n',
    )
    ratings, found = read_ratings(tmp_path)
    assert [(r.id, r.choice, r.rater) for r in ratings] == [("e001", "A", "Ada"), ("e002", "both", "Bo")]
    assert [r.comment for r in ratings] == ["two\u2028lines", "fine, really"]
    assert sorted(f.place for f in found) == [f"reviews/outputs/a.jsonl:{n}" for n in (1, 2, 5)]


def test_the_latest_rating_of_a_rater_holds(tmp_path: Path) -> None:
    early, late = line(time="2026-01-01T10:00:00Z"), line(choice="B", time="2026-01-01T12:00:00+01:00")
    put(tmp_path, "a.jsonl", "".join(json.dumps(r) + "\n" for r in (late, early, line(rater="Bo", choice="both"))))
    ratings, _ = read_ratings(tmp_path)
    assert {(r.rater, r.choice) for r in ratings} == {("Ada", "B"), ("Bo", "both")}
