"""The span tagger finds values that no training row has: texts, numbers, dates and lists."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation.simple_models import span_fitting
from finetune_pipeline.evaluation.simple_models.span_fitting import fit_span_tagger
from finetune_pipeline.evaluation.simple_models.span_tagger import SpanTagger, features_of, read, tokens_of

WORDS = {"two": 2, "three": 3, "a dozen": 12}
MONTHS = ["January", "March", "May", "August", "November"]


def _names(rng: random.Random) -> str:
    return " ".join(
        "".join(rng.choice("bdfklmnprst") + rng.choice("aeiou") for _ in range(2)).title() for _ in range(2)
    )


def _rows(n: int, seed: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """Bookings with a guest, a price, a number of nights, a date and a list of rooms, in two wordings."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        guest, price, rooms = _names(rng), rng.randrange(1000, 9000) / 4, rng.sample(range(100, 999), rng.randrange(3))
        nights = rng.choice([*WORDS, *map(str, range(4, 30))])
        day, month, year = rng.randrange(13, 29), rng.choice(MONTHS), rng.randrange(2024, 2029)
        written = f"{price:,.2f}"
        of_rooms = f" in {' and '.join(map(str, rooms))}" if rooms else ""
        text = f"{guest} books {nights} nights{of_rooms} from {month} {day}, {year} for {written} euros"
        if i % 3 == 0:
            text = f"Please note: {nights} nights from {day} {month} {year}{of_rooms}, {written} euros, guest {guest}."
        date = f"{year}-{_number(month):02}-{day}"
        answer: dict[str, Any] = {"guest": guest, "price": price, "nights": WORDS.get(nights) or int(nights)}
        rows.append((text, {**answer, "date": date, "rooms": rooms}))
    return rows


def _number(month: str) -> int:
    return {"January": 1, "March": 3, "May": 5, "August": 8, "November": 11}[month]


def _fit(rows: list[tuple[str, dict[str, Any]]], *answered: str) -> SpanTagger:
    columns = {(key,): [json.dumps(answer[key]) for _, answer in rows] for key in rows[0][1]}
    return fit_span_tagger([text for text, _ in rows], columns, frozenset((key,) for key in answered))


@pytest.fixture(scope="module")
def tagger() -> SpanTagger:
    return _fit(_rows(300))


def test_values_of_unseen_rows_are_found(tagger: SpanTagger) -> None:
    rows = _rows(60, seed=1)
    predicted = tagger.predict([text for text, _ in rows])
    for i, fitted in enumerate(tagger.fields):
        key = fitted.path[0]
        values = [json.loads(of_row[i] or "null") for of_row in predicted]
        right = sum(value == answer[key] for value, (_, answer) in zip(values, rows, strict=True))
        assert right >= 57, (key, right)
    assert [(fitted.path[0], fitted.kind, fitted.is_list) for fitted in tagger.fields] == [
        ("guest", "text", False), ("price", "number", False), ("nights", "number", False), ("date", "date", False),
        ("rooms", "number", True),
    ]  # fmt: skip
    nights = tagger.fields[2]
    assert nights.words["three"] == "3" and nights.words["dozen"] == "12" and "nights" not in nights.words


def _either(n: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Texts with two names, of which the first is the answer in 7 of 10 rows, and those with one, which is."""
    rng, names = random.Random(seed), [_names(random.Random(i)) for i in range(12)]
    rows = []
    for i in range(n):
        first, second = rng.sample(names, 2)
        text, name = f"ask {first} or {second} today", first if rng.random() < 0.7 else second
        rows.append((text, {"name": name}) if i % 2 else (f"call {first} at noon", {"name": first}))
    return rows


def test_a_value_is_as_probable_as_such_values_are_right() -> None:
    tagger, rows = _fit(_either(400, 0)), _either(400, 1)
    texts = [text for text, _ in rows]
    shared = [row[0] for row in tagger.predict_with_shares(texts)]
    assert [[value] for value, _ in shared] == tagger.predict(texts)
    right = [value == json.dumps(answer["name"]) for (value, _), (_, answer) in zip(shared, rows, strict=True)]
    for doubtful, expected in ((0, 1.0), (1, 0.7)):
        shares = [share for _, share in shared[doubtful::2]]
        assert sum(shares) / 200 == pytest.approx(expected, abs=0.08)
        assert sum(right[doubtful::2]) / 200 == pytest.approx(expected, abs=0.08)
        assert min(shares) > 0 and max(shares) <= 1


def test_nothing_and_a_list_have_the_probability_of_the_labels_of_the_whole_text(tagger: SpanTagger) -> None:
    """Summed over every labelling of a short text, by hand."""
    import pycrfsuite

    rooms = next(fitted for fitted in tagger.fields if fitted.is_list)
    crf = pycrfsuite.Tagger()
    crf.open_inmemory(rooms.model)
    text = "rooms 312 and"
    crf.set(features_of(text, tokens_of(text)))
    of_all = {labels: crf.probability(list(labels)) for labels in itertools.product(crf.labels(), repeat=3)}
    assert sum(of_all.values()) == pytest.approx(1)
    ((value, share),) = SpanTagger([rooms]).predict_with_shares([text])[0]
    likeliest = max(of_all, key=lambda labels: of_all[labels])
    assert share == pytest.approx(of_all[likeliest]) and (value == "[312]") == ("B" in likeliest)
    assert SpanTagger([rooms]).predict_with_shares([""]) == [[("[]", 1.0)]]


def test_it_answers_the_same_after_it_was_saved(tagger: SpanTagger, tmp_path: Path) -> None:
    texts = [text for text, _ in _rows(20, seed=2)]
    tagger.save(tmp_path)
    assert SpanTagger.load(tmp_path).predict(texts) == tagger.predict(texts)


def test_where_nothing_is_tagged_the_field_is_absent_or_another_model_answers() -> None:
    rows = [(f"ask for {name}", {"name": name}) for name in (_names(random.Random(i)) for i in range(60))]
    rows += [(f"nobody in particular {i}", {"name": None}) for i in range(20)]
    assert _fit(rows).predict(["nobody in particular", ""]) == [["null"], ["null"]]
    assert _fit(rows, "name").predict(["nobody in particular"]) == [[None]]


def test_values_that_stand_in_no_text_or_are_of_several_kinds_are_left_to_others() -> None:
    rows = [
        (f"text {i}", {"code": f"X{i * 7919}", "flag": i % 2 == 0, "both": i if i % 2 else str(i)}) for i in range(60)
    ]
    assert not _fit(rows).fields


def test_long_texts_are_learned_from_a_part_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The features of every token of every row would not fit into memory."""
    trained: list[int] = []
    monkeypatch.setattr(span_fitting, "_train", lambda rows: trained.append(len(rows)) or b"")
    monkeypatch.setattr(span_fitting, "MAX_TOKENS", 60)
    texts = [f"ask for {name} at noon" for name in "ABCDEFGHIJ"]  # 5 tokens each, for two fields
    columns = {(key,): [json.dumps(text.split()[i]) for text in texts] for key, i in (("name", 2), ("time", 4))}
    assert [fitted.path for fitted in fit_span_tagger(texts, columns, frozenset()).fields] == [("name",), ("time",)]
    assert trained == [5, 5]


def test_digits_without_end_are_no_number_and_no_date() -> None:
    hostile = ["9" * 400, "9" * 5000, f"{'9' * 400}.5", "1234567890123456789010h26202603041212345678"]
    kinds = (("number", "decimal point"), ("date", "month first"), ("date", "day first"))
    assert not [text for text in hostile for kind, style in kinds if read(text, kind, style) is not None]
    rows = _rows(60)
    unplaced = rows[0][1] | {"price": 10**400, "date": "2026-12-26"}
    fitted = _fit([*rows, *((f"a tracking number: {text}", unplaced) for text in hostile)])
    assert [field.path[0] for field in fitted.fields] == list(unplaced), "the other rows decide"
    assert [value for text in hostile for value in fitted.predict([f"{text} nights"])[0] if value == "Infinity"] == []


@pytest.mark.parametrize(
    ("surface", "kind", "style", "value"),
    [
        ("1,234.50", "number", "decimal point", "1234.5"), ("1.234,50", "number", "decimal comma", "1234.5"),
        ("12.00", "number", "decimal point", "12"), ("-3", "number", "decimal point", "-3"),
        ("1,2,3.4.5", "number", "decimal point", None), ("3/4/2026", "date", "day first", '"2026-04-03"'),
        ("3/4/2026", "date", "month first", '"2026-03-04"'), ("March 4", "date", "month first", None),
        ("soon", "date", "month first", None), ("9" * 5000, "number", "decimal point", None),
        ("1" * 400 + ".5", "number", "decimal point", None), ("3h" + "1" * 30, "date", "day first", None),
        ("3 May 2026 10:00 BST", "date", "day first", '"2026-05-03"'), ("ACME Ltd", "text", "lower", '"acme ltd"'),
    ],
)  # fmt: skip
def test_a_part_of_a_text_is_read_as_its_field_writes_values(surface: str, kind: str, style: str, value: Any) -> None:
    assert read(surface, kind, style) == value
