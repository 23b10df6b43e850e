"""Checkable facts see what word overlap is blind to; signs of a text gone wrong."""

from __future__ import annotations

import pytest

from finetune_pipeline.evaluation.metrics.facts import fact_score, facts
from finetune_pipeline.evaluation.metrics.overlap import sentence_scores
from finetune_pipeline.evaluation.text_signs import (
    is_refusal,
    language,
    length_ratio,
    other_language,
    repetition,
    script,
)

REFERENCE = "The refund was approved and will arrive within five days."
NEGATED = "The refund was not approved and will not arrive within five days."
WRONG_NUMBER = "The refund was approved and will arrive within nine days."
PARAPHRASE = "Your money is on its way: expect it in five days."


def test_overlap_prefers_wrong_answers_and_facts_do_not() -> None:
    """The figures of docs/evaluation.md."""
    rouge = {
        text: round(sentence_scores(text, REFERENCE)["rougeLsum"], 2) for text in (NEGATED, WRONG_NUMBER, PARAPHRASE)
    }
    assert rouge == {NEGATED: 0.91, WRONG_NUMBER: 0.9, PARAPHRASE: 0.19}
    assert fact_score(PARAPHRASE, REFERENCE) == fact_score(REFERENCE, REFERENCE) == 1
    assert fact_score(NEGATED, REFERENCE) == fact_score(WRONG_NUMBER, REFERENCE) == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paid 1,250.50 in 3 parts", {("number", "1250.5"), ("number", "3")}),
        ("on 3 May 2026", {("date", "2026-05-03")}),
        ("on May 3rd, 2026", {("date", "2026-05-03")}),
        ("by 2026-05-03", {("date", "2026-05-03")}),
        ("by the 3rd of May", {("date", "?-05-03")}),
        ("at 5:30 pm", {("time", "17:30")}),
        ("order AB-1234, mail a@b.org", {("id", "ab-1234"), ("id", "a@b.org")}),
        ("twelve boxes, one of them open", {("number", "12")}),
        ("it does not work", {("negation", "True")}),
        ("we can't", {("negation", "True")}),
    ],
)
def test_facts_of_a_text(text: str, expected: set[tuple[str, str]]) -> None:
    assert set(facts(text)) - {("negation", "False")} == expected


def test_a_text_without_a_word_has_no_score() -> None:
    assert fact_score("", "Fine.") == fact_score(" ... ", "Fine.") == 0.0


def test_refusals() -> None:
    for text in (
        "I'm sorry, but I can't help with that.",
        "As an AI language model, I have no opinion",
        "I cannot provide that",
    ):
        assert is_refusal(text), text
    for text in ("We can't find the parcel.", "I'm sorry for the delay; it ships today.", "The AI Act applies."):
        assert not is_refusal(text), text


def test_repetition_is_the_share_of_word_groups_said_before() -> None:
    assert repetition("a b c d " * 6) == pytest.approx(1 - 4 / 21)
    assert repetition("every word of this short sentence is another one") == 0.0
    assert repetition("no no no no no no no") == 0.0  # too short to tell


def test_languages_and_scripts() -> None:
    german = "Wir haben die Karte für Sie und das Geld ist nicht auf dem Konto"
    assert (language(german), script("привет"), script("123")) == ("de", "CYRILLIC", None)
    assert other_language(german, REFERENCE) and other_language("заказ отправлен", REFERENCE)
    assert not other_language(PARAPHRASE, REFERENCE) and not other_language("Rome", "Roma")


def test_length_ratio() -> None:
    assert (length_ratio("ab", "abcd"), length_ratio("ab", "")) == (0.5, 2.0)
