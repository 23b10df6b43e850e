"""Metrics: what they see and do not see, and gains in them."""

from __future__ import annotations

import json

import pytest

from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.failures.kinds import is_refusal, language, length_ratio, other_language, repetition
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.metrics.facts import fact_score, facts
from finetune_pipeline.spec.outputs import TextOutput
from finetune_pipeline_tests.unit.evaluation.rows import json_spec, row

REFERENCE = "The refund was approved and will arrive within five days."
NEGATED = "The refund was not approved and will not arrive within five days."
WRONG_NUMBER = "The refund was approved and will arrive within nine days."
PARAPHRASE = "Your money is on its way: expect it in five days."


def test_overlap_prefers_wrong_answers_and_facts_do_not() -> None:
    """The figures of docs/evaluation.md."""

    def rouge(text: str) -> float:
        return round(METRICS["rougeLsum"].value([row(1, REFERENCE, text)], TextOutput()) or 0.0, 2)

    assert [rouge(text) for text in (NEGATED, WRONG_NUMBER, PARAPHRASE)] == [0.91, 0.9, 0.19]
    assert fact_score(PARAPHRASE, REFERENCE) == fact_score(REFERENCE, REFERENCE) == 1
    assert fact_score(NEGATED, REFERENCE) == fact_score(WRONG_NUMBER, REFERENCE) == 0.5
    assert fact_score("", "Fine.") == fact_score(" ... ", "Fine.") == 0.0


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
        ("we can't", {("negation", "True")}),
    ],
)
def test_facts_of_a_text(text: str, expected: set[tuple[str, str]]) -> None:
    assert set(facts(text)) - {("negation", "False")} == expected


def test_signs_of_a_text_gone_wrong() -> None:
    for text in ("I'm sorry, but I can't help with that.", "As an AI language model, I have no opinion"):
        assert is_refusal(text), text
    for text in ("We can't find the parcel.", "I'm sorry for the delay; it ships today.", "The AI Act applies."):
        assert not is_refusal(text), text
    assert repetition("a b c d " * 6) == pytest.approx(1 - 4 / 21)
    assert repetition("no no no no no no no") == 0.0  # too short to tell
    german = "Wir haben die Karte für Sie und das Geld ist nicht auf dem Konto"
    assert language(german) == "de"
    assert other_language(german, REFERENCE) and other_language("заказ отправлен", REFERENCE)
    assert not other_language(PARAPHRASE, REFERENCE) and not other_language("Rome", "Roma")
    assert (length_ratio("ab", "abcd"), length_ratio("ab", "")) == (0.5, 2.0)


def test_an_extraction_is_compared_by_exact_answers_or_by_micro_f1() -> None:
    output = json_spec().output
    gold, half, nothing = (json.dumps(of) for of in ({"city": "Rome", "guests": 2}, {"city": "Rome"}, {}))
    base = [row(i, gold, half) for i in range(40)]
    candidate = [row(i, gold, gold if i < 30 else nothing) for i in range(40)]
    comparison = compare(base, candidate, output)
    assert (comparison.metric, comparison.gain, comparison.c, comparison.b) == ("exact", 0.75, 30, 0)
    by_fields = compare(base, candidate, output, metric="micro_f1")
    assert by_fields.gain == pytest.approx(2 * 60 / (60 + 80) - 2 * 40 / (40 + 80))
    assert by_fields.interval[0] < by_fields.gain < by_fields.interval[1]


def test_a_single_row_has_no_interval_of_a_mean() -> None:
    comparison = METRICS["chrf"].gain([row(1, "a b", "a")], [row(1, "a b", "a b")], TextOutput())
    assert comparison.gain > 0 and comparison.interval is None and not comparison.surely_above()
