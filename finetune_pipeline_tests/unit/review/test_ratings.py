"""The sheet that people rate, drawn from made-up predictions of two models, and what their ratings say."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from finetune_pipeline.evaluation.preferences.people import AcceptedShare, Ratings
from finetune_pipeline.evaluation.statistics.proportions import mcnemar_exact, tango_interval, wilson_interval
from finetune_pipeline.review.ratings import Rating, parse_rating, read_ratings, summarise
from finetune_pipeline.review.sheet import RANDOM, SELECTED, candidate_is_a, draw, make_sheet, sheet_name

SECRET = bytes(range(32))
VERSION = "0123456789abcdef"
SHEET = sheet_name(VERSION, 10)


def row(i: int, model: str, text: str, status: str = "ok") -> dict[str, Any]:
    return {"example_id": f"e{i:03d}", "model": model, "gold": "right", "text": text, "status": status}


def pair(n: int, wrong: int = 10) -> tuple[list[dict], list[dict]]:
    """(base, candidate): the candidate is wrong on the first `wrong` rows, the base says the same there."""
    candidate = [row(i, "candidate", "wrong" if i < wrong else "right") for i in range(n)]
    return [row(i, "base", "wrong" if i < wrong else "right") for i in range(n)], candidate


def drawn(n: int = 200, items: int = 60, wrong: int = 10, secret: bytes = SECRET) -> dict[str, str]:
    base, candidate = pair(n, wrong)
    return draw(base, candidate, {r["example_id"]: r["text"] == "right" for r in candidate}, items, secret)


def test_half_is_random_whatever_the_answers_and_half_is_where_it_may_fail() -> None:
    result = drawn()
    assert Counter(result.values()) == {RANDOM: 30, SELECTED: 30}
    assert {f"e{i:03d}" for i in range(10)} <= set(result), "every failure is on the sheet, by chance or by choice"
    one, other = ({i for i, how in drawn(wrong=wrong).items() if how == RANDOM} for wrong in (0, 80))
    assert one == other
    assert list(result.items()) == list(drawn().items()) and list(drawn(secret=bytes(32))) != list(result)
    assert 5 < Counter(list(result.values())[:30])[RANDOM] < 25, "the halves are mixed"


def test_sides_change_and_follow_from_the_secret() -> None:
    name = sheet_name(VERSION, 60)
    sides = [candidate_is_a(SECRET, name, f"e{i}") for i in range(400)]
    assert 160 < sum(sides) < 240 and sides != [candidate_is_a(bytes(32), name, f"e{i}") for i in range(400)]
    base, candidate = [row(i, "base", f"b{i}") for i in range(20)], [row(i, "candidate", f"c{i}") for i in range(20)]
    result = {r["example_id"]: RANDOM for r in candidate}
    for item in make_sheet(name, result, base, candidate, {"e000": "hello"}, SECRET):
        a_is_candidate = candidate_is_a(SECRET, name, item.id)
        assert item.a.startswith("c") is a_is_candidate and item.b.startswith("b") is a_is_candidate


def line(**changes: object) -> dict[str, object]:
    return {"sheet": SHEET, "id": "e001", "choice": "A", "rater": "Ada", **changes}


def put(folder: Path, name: str, text: str) -> None:
    (folder / "outputs").mkdir(parents=True, exist_ok=True)
    (folder / "outputs" / name).write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("row", "message"),
    [(line(choice="C"), "`choice` is 'C'"), (line(sheet="x"), "not the name of a sheet"),
        (line(rater=" "), "`rater` is missing"), (line(time="noon"), "not an RFC 3339 time"),
        (line(comment="x" * 5000), "more than 4000 characters"), ("A", "not an object")],
)  # fmt: skip
def test_faults_are_named(row: object, message: str) -> None:
    rating, wrong = parse_rating(row)
    assert rating is None and message in "; ".join(wrong)


def test_bad_lines_lose_no_good_ones(tmp_path: Path) -> None:
    good_line = json.dumps(line(comment="two\u2028lines"), ensure_ascii=False)
    bad_line = json.dumps(line(choice="maybe"))
    put(tmp_path, "a.jsonl", f"\ufeff{bad_line}\nno json\n\n{good_line}\n{'[' * 100_000}\n")
    other_lines = [
        line(id="e002", choice=" BOTH ", rater="Bo", comment="fine, really"),
        line(id="e003", choice="", rater="Bo"),
    ]
    put(tmp_path, "b.jsonl", "".join(json.dumps(other) + "\n" for other in other_lines))
    put(tmp_path, "c.xlsx", "PK\x03\x04")
    put(tmp_path, ".a.jsonl.lock", "")
    ratings, findings = read_ratings(tmp_path)
    assert [(r.id, r.choice, r.rater) for r in ratings] == [("e001", "A", "Ada"), ("e002", "both", "Bo")]
    assert [r.comment for r in ratings] == ["two\u2028lines", "fine, really"]
    assert sorted(f.place for f in findings) == [
        *(f"reviews/outputs/a.jsonl:{n}" for n in (1, 2, 5)),
        "reviews/outputs/c.xlsx",
    ]


def test_the_latest_rating_of_a_rater_holds(tmp_path: Path) -> None:
    early, late = line(time="2026-01-01T10:00:00Z"), line(choice="B", time="2026-01-01T12:00:00+01:00")
    put(tmp_path, "a.jsonl", "".join(json.dumps(r) + "\n" for r in (late, early, line(rater="Bo", choice="both"))))
    ratings, _ = read_ratings(tmp_path)
    assert {(r.rater, r.choice) for r in ratings} == {("Ada", "B"), ("Bo", "both")}
    first, last = line(time="0001-01-01T00:00:00+14:00"), line(choice="B", time="9999-12-31T23:59:59-12:00")
    put(tmp_path, "a.jsonl", "".join(json.dumps(r) + "\n" for r in (last, first)))
    assert [r.choice for r in read_ratings(tmp_path)[0]] == ["B"], "times that no time zone can be taken off"


def said(item: str, candidate: bool, base: bool, rater: str = "Ada", sheet: str = SHEET) -> Rating:
    """What somebody chooses who takes these models' answers, whichever side they are on."""
    a, b = (candidate, base) if candidate_is_a(SECRET, sheet, item) else (base, candidate)
    return Rating(sheet, item, {(1, 1): "both", (1, 0): "A", (0, 1): "B", (0, 0): "neither"}[a, b], rater)


def test_only_the_random_half_gives_rates() -> None:
    drawn = {SHEET: {f"e{i}": RANDOM if i < 30 else SELECTED for i in range(40)}}
    ratings = [said(f"e{i}", candidate=i < 24 or i >= 38, base=i < 6) for i in range(40)]
    figures = summarise(ratings, drawn, SECRET)
    assert figures.rated == 40
    assert figures.random.candidate == AcceptedShare(acceptable=24, share=0.8, interval=wilson_interval(24, 30))
    assert figures.random.base.acceptable == 6
    assert (figures.random.only_candidate, figures.random.only_base) == (18, 0)
    assert figures.random.gain == pytest.approx(0.6)
    assert figures.random.interval == pytest.approx(tango_interval(0, 18, 30))
    assert figures.random.p == mcnemar_exact(0, 18)
    assert figures.selected == Ratings(n=10, only_candidate=2, only_base=0, both=0, neither=8)
    assert figures.agreement is None
    clumped = summarise(ratings, drawn, SECRET, sources={f"e{i}": str(i // 6) for i in range(40)}).random
    assert clumped.candidate.share == 0.8
    low, high = clumped.interval
    assert low < figures.random.interval[0] - 0.2, "five documents, of which one is refused whole"
    assert clumped.candidate.interval[0] < 0.4 and clumped.p > figures.random.p


def test_ratings_of_other_sheets_and_unknown_items_are_counted_not_used() -> None:
    other_sheet = sheet_name("f" * 16, 40)
    ratings = [said("e0", True, True, sheet=other_sheet), said("zzz", True, True)]
    figures = summarise(ratings, {SHEET: {"e0": RANDOM}}, SECRET)
    assert (figures.rated, figures.unknown) == (0, 2) and figures.random is None


def test_two_raters_agree_as_sklearn_says_and_a_tie_is_not_acceptable() -> None:
    drawn = {SHEET: {f"e{i}": RANDOM for i in range(20)}}
    ada = [(i % 2 == 0, i % 3 == 0) for i in range(20)]
    bo = [(i % 4 == 0, i % 3 == 0) for i in range(20)]
    ratings = [said(f"e{i}", *ada[i]) for i in range(20)] + [said(f"e{i}", *bo[i], rater="Bo") for i in range(20)]
    figures = summarise(ratings, drawn, SECRET)
    flat = [[v for i in sorted(range(20), key=lambda i: f"e{i}") for v in who[i]] for who in (ada, bo)]
    assert figures.agreement.items == 20
    assert figures.agreement.kappa == pytest.approx(cohen_kappa_score(*flat))
    assert figures.agreement.share == pytest.approx(sum(a == b for a, b in zip(*flat, strict=True)) / 40)
    assert figures.random.candidate.acceptable == 5  # both said yes; where they differ it is no
    assert figures.raters == {"Ada": 20, "Bo": 20}
