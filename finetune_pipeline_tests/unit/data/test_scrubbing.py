from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_pipeline.data.scrub import SHAPE_KINDS, find_spans, scrub_text
from finetune_pipeline_tests.unit.data.scrubbing_rows import labelled_rows, marked_lines

ROWS = labelled_rows()


@pytest.mark.parametrize("kind", SHAPE_KINDS)
def test_recall_and_precision_on_the_labelled_texts(kind: str) -> None:
    hits = [(row, hit) for row in ROWS for hit in find_spans(row.text) if hit.kind == kind]
    wanted = [(row, span) for row in ROWS for span in row.spans if span.kind == kind]
    right = [pair for pair in hits if pair[1] in pair[0].spans]
    missed = [row.text for row, span in wanted if span not in find_spans(row.text)]
    wrong = [(row.text, hit) for row, hit in hits if hit not in row.spans]
    assert len(right) >= 0.98 * len(wanted), missed
    assert len(right) >= 0.98 * len(hits), wrong


def test_ordinary_code_configuration_and_logs_stay() -> None:
    harmed = [line.text for line in marked_lines("ordinary") if line.harmed(line.scrubbed())]
    assert len(marked_lines("ordinary")) == 300 and len(harmed) <= 1, harmed


@pytest.mark.parametrize(
    ("name", "with_region", "found", "harmed"),
    [("secrets", False, 80, 4), ("telephones", False, 99, 1), ("telephones", True, 112, 1), ("hidden", False, 20, 0)],
)
def test_marked_values_go_and_the_rest_stays(name: str, with_region: bool, found: int, harmed: int) -> None:
    missed, wrong, values = [], [], 0
    for line in marked_lines(name):
        done = line.scrubbed(with_region)
        values += len(line.values)
        missed += line.missed(done)
        wrong += [line.text] if line.harmed(done) else []
    assert values - len(missed) >= found, missed
    assert len(wrong) <= harmed, wrong


@pytest.mark.parametrize(
    "text",
    [
        "sk-learn-intro-to-2024-tips-and-tricks",
        "tokenizer: bert-base-uncased-12L",
        "The password is case-sensitive and 8-16 characters long",
        "a::b, x[1::2], std::vector",
        "call 20000000 times",
        "dev.to/@someone and icon@2x.png",
        "[EMAIL_1] wrote from [IP_2], password: [SECRET_1], born [BIRTH_DATE_3], call [PHONE_4]",
        "2024-05-01 12:00 2024-05-02 13:30",
        "Room 415-555 next to 415-556",
        "login(user, password=password2)",
        "https://user:password@host and mysql://${USER}:${PASS2}@host",
        "pass: 12/15 tests, pass=100.00%",
    ],
)
def test_lookalikes_stay(text: str) -> None:
    assert scrub_text(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # an order passes the Luhn check as often as a card; the words decide
        ("order 4111 1111 1111 1111 paid", "order 4111 1111 1111 1111 paid"),
        ("order 17, card 4111 1111 1111 1111", "order 17, card [CARD_1]"),
        # ten figures with a check digit are an NHS number, or somebody's telephone, by the word before them
        ("NHS 943 476 5919", "NHS [NATIONAL_ID_1]"),
        ("call 943 476 5919", "call [PHONE_1]"),
        ("943 476 5919", "943 476 5919"),
        # a wrong check digit matters only without the name of the number
        ("DNI 12345678A", "DNI [NATIONAL_ID_1]"),
        ("12345678A", "12345678A"),
        ("ref 12345678Z", "ref 12345678Z"),
        ("on 2024-01-15 555-123-4567 rang", "on 2024-01-15 [PHONE_1] rang"),
        ("0２0 7946 ０９５８", "[PHONE_1]"),
        ("tel. 030\u00a023125\u00a0014", "tel. [PHONE_1]"),
    ],
)
def test_words_and_check_digits_decide(text: str, shown: str) -> None:
    assert scrub_text(text) == shown


HARD = st.one_of(
    st.text(st.sampled_from("0123456789 +-./:()@aAkeysctpowrd=_[]{}EI|\n\u0661０－é日"), max_size=160),
    st.lists(
        st.sampled_from(
            ["born", "password is", "key=", "+49", "4111 1111", "@", "example.com", "[EMAIL_1]", "://", ":", "a1B2c3D4e5F6g7H8",
             "12/05/1990", "DE89", "::", "ff:", "SSN", "tel", "078-05-1120", "eyJ", "\u2013", "İ", "\ud800", "203.0.113.7"]
        ),
        max_size=20,
    ).map(" ".join),
    st.text(max_size=120),
)  # fmt: skip


@given(HARD)
def test_any_text_is_scrubbed_once_and_for_all(text: str) -> None:
    spans = find_spans(text)
    assert all(0 <= s.start < s.end <= len(text) and s.kind in SHAPE_KINDS for s in spans)
    assert all(a.end <= b.start for a, b in pairwise(spans))
    done = scrub_text(text)
    assert find_spans(done) == [] and scrub_text(done) == done
    if not spans:
        assert done == text


@given(HARD)
def test_what_lies_outside_the_hits_is_not_touched(text: str) -> None:
    at = 0
    for piece in re.split(r"\[[A-Z_]+_[0-9]{1,6}\]", scrub_text(text)):
        at = text.index(piece, at) + len(piece)  # every stretch between placeholders stands in the text, in order
