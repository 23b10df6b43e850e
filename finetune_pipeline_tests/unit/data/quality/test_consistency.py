"""Each dimension finds its planted stray, names the row, and passes a clean set."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_pipeline.data.quality import answer_forms, json_forms
from finetune_pipeline.data.quality.consistency import consistency
from finetune_pipeline_tests.unit.data.quality.makers import LABELS, answers, make, make_spec

PROSE = [f"The answer to number {i} is that it depends on the weather." for i in range(60)]
JSON = [json.dumps({"city": f"Town {i}", "day_of_week": "monday", "count": i}) for i in range(60)]


def dimension(told: dict[str, Any], name: str) -> dict[str, Any]:
    return next(d for d in told["dimensions"] if d["name"] == name)


def with_stray(texts: list[str], stray: str, at: int = 41) -> list[str]:
    return [*texts[:at], stray, *texts[at + 1 :]]


@pytest.mark.parametrize("texts", [PROSE, JSON], ids=["prose", "json"])
def test_a_clean_set_passes(texts: list[str]) -> None:
    told = consistency(answers(texts), make_spec())
    assert told["passed"] and not told["findings"] and "consistent" in told["message"]
    assert {d["verdict"] for d in told["dimensions"]} == {"uniform"}


@pytest.mark.parametrize(
    ("name", "texts", "stray"),
    [
        ("final_mark", PROSE, PROSE[41].rstrip(".")),
        ("first_letter", PROSE, PROSE[41].replace("The", "the")),
        ("first_letter", PROSE, PROSE[41].upper()),
        ("markdown", PROSE, "The answer:\n- it depends\n- on the weather."),
        ("wrapping", PROSE, f"“{PROSE[41]}”"),
        ("outer_blanks", PROSE, PROSE[41] + " \n"),
        ("lead_in", PROSE, "Sure, here is the answer: it depends on the weather."),
        ("script", PROSE, "Ответ зависит от погоды."),
        ("mixed_word", PROSE, "The аnswer to this is that it depends on the weather."),
        ("language", PROSE, "Die Antwort ist nicht leicht, sie hängt von dem Wetter ab und auch davon."),
        ("line_ends", [f"One.\nTwo {i}." for i in range(60)], "One.\r\nTwo."),
        ("answer_spelling", ["yes", "no"] * 30, "Yes."),
        ("json", JSON, "It is Town 41, on a monday."),
        ("json", JSON, JSON[41][:-3]),
        ("json", JSON, JSON[41].replace('"', "'")),
        ("json_layout", JSON, json.dumps({"city": "T", "day_of_week": "m", "count": 1}, indent=2)),
        ("json_layout", JSON, '{"city":"T","day_of_week":"m","count":1}'),
        ("json_keys", JSON, '{"city": "T", "count": 1}'),
        ("json_key_order", JSON, '{"count": 1, "city": "T", "day_of_week": "m"}'),
        ("json_key_style", JSON, '{"city": "T", "dayOfWeek": "m", "count": 1}'),
        ("json_type:count", JSON, '{"city": "T", "day_of_week": "m", "count": "1"}'),
    ],
)
def test_a_stray_is_found_and_named(name: str, texts: list[str], stray: str) -> None:
    told = consistency(answers(with_stray(texts, stray)), make_spec())
    found = dimension(told, name)
    assert not told["passed"] and found["verdict"] == "stray" and not found["passed"]
    assert [m["count"] for m in found["minority"]] == [1]
    assert found["minority"][0]["rows"][0]["place"] == "raw/a.jsonl:42"
    finding = next(f for f in told["findings"] if f["rule"] == f"quality.consistency.{name.partition(':')[0]}")
    assert finding["severity"] == "warning" and finding["place"] == "raw/a.jsonl:42"


def test_a_label_misspelt_is_told_with_the_label_it_means() -> None:
    rows = [make(f"q {i}", LABELS[i % 4], i) for i in range(40)] + [make("q", "Parcel.", 41)]
    told = consistency(rows, make_spec(LABELS))
    found = dimension(told, "answer_spelling")
    (stray,) = found["minority"]
    assert (stray["form"], stray["count"], stray["share"]) == ("“Parcel.” for “parcel”", 1, round(1 / 41, 6))
    assert stray["rows"] == [{"place": "raw/a.jsonl:41", "id": rows[-1].id}]
    assert told["kind"] == "labels" and not told["passed"]
    assert consistency(rows[:-1], make_spec(LABELS))["passed"]


def test_prose_may_end_as_it_likes_but_short_answers_may_not() -> None:
    prose = [t if i % 9 < 5 else t.rstrip(".") for i, t in enumerate(PROSE)]
    free = consistency(answers(prose), make_spec())
    assert dimension(free, "final_mark")["verdict"] == "free" and free["passed"]
    short = [f"Town {i}" + "." * (i % 9 < 5) for i in range(60)]
    owed = consistency(answers(short), make_spec())
    assert owed["kind"] == "short answers"
    assert dimension(owed, "final_mark")["verdict"] == "mixed" and not owed["passed"]


def test_the_threshold_of_the_spec_decides() -> None:
    texts = [t.rstrip(".") if i < 9 else t for i, t in enumerate(PROSE)]  # 15%
    assert dimension(consistency(answers(texts), make_spec()), "final_mark")["verdict"] == "free"
    loose = make_spec(consistency={"max_minority": 0.2})
    found = dimension(consistency(answers(texts), loose), "final_mark")
    assert found["verdict"] == "stray" and found["minority"][0]["count"] == 9


def test_minority_rows_are_listed_up_to_twenty() -> None:
    texts = [t.rstrip(".") if i % 12 == 0 else t for i, t in enumerate(PROSE * 6)]
    minority = dimension(consistency(answers(texts), make_spec()), "final_mark")["minority"][0]
    assert minority["count"] == 30 and len(minority["rows"]) == 20


def test_lengths_are_listed_and_never_fail_prose() -> None:
    told = consistency(answers(with_stray(PROSE, PROSE[0] * 60)), make_spec())
    found = dimension(told, "length")
    assert found["minority"][0]["form"] == "far longer" and found["passed"]


def test_few_answers_are_not_judged() -> None:
    told = consistency(answers(with_stray(PROSE[:15], "no mark", 3)), make_spec())
    assert dimension(told, "final_mark")["verdict"] == "few" and told["passed"]


def test_calls_of_tools_without_words_are_not_answers() -> None:
    rows = answers(PROSE)
    calls = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    silent = [make(f"call {i}", "", i) for i in range(10)]
    for e in silent:
        e.messages[-1]["tool_calls"] = calls
    assert dimension(consistency(rows + silent, make_spec()), "final_mark")["rows"] == 60


def test_a_large_set_is_sampled_and_says_so() -> None:
    rows = answers(PROSE)
    assert "sampled" not in consistency(rows, make_spec())
    told = consistency(rows, make_spec(), of=1_000_000)
    assert (told["sampled"], told["of"]) == (60, 1_000_000)


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (answer_forms.final_mark, 'He said "yes."', "sentence mark"),
        (answer_forms.final_mark, "as follows:", "comma, semicolon or colon"),
        (answer_forms.final_mark, "今日は。", "sentence mark"),
        (answer_forms.final_mark, "```\nx = 1\n```", None),
        (answer_forms.final_mark, "Two:\n- a\n- b", None),
        (answer_forms.first_letter, "42 apples", None),
        (answer_forms.first_letter, "日本", None),
        (answer_forms.first_letter, "A man", "capital letter"),
        (answer_forms.markdown, "1. one\n2. two", "numbered list"),
        (answer_forms.markdown, "1. is the loneliest number", "plain text"),
        (answer_forms.markdown, "# T\n\n**b** and\n```\nx\n```", "code fence + heading + bold"),
        (answer_forms.wrapping, '"a" and "b"', "bare"),
        (answer_forms.script, "Токио 東京", "Cyrillic + Han"),
        (answer_forms.script, "12", None),
        (answer_forms.mixed_word, "10 μm", "none"),
        (answer_forms.language, "le chat est dans la maison et pas sur le toit", "French"),
        (answer_forms.language, "too short", None),
    ],
)
def test_forms(form: Any, text: str, expected: str | None) -> None:
    assert form(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', "JSON object"),
        ("[1, 2]", "JSON list"),
        ('```json\n{"a": 1}\n```', "JSON object in a code block"),
        ('{"a": 1', "broken JSON"),
        ("{'a': 1}", "single quotes in place of JSON's"),
        ("[sic] it is", "text"),
        ("{name}, hello", "text"),
        ("[" * 5000 + "]" * 5000, "broken JSON"),
    ],
)
def test_json_or_not(text: str, expected: str) -> None:
    assert json_forms.read_json_answer(text).form == expected
