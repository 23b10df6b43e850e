"""Metrics: what they see and do not see, and gains in them."""

import json

import pytest
from sklearn.metrics import f1_score

from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.failures.kinds import is_refusal, repetition
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.metrics.facts import fact_score, facts
from finetune_pipeline.evaluation.statistics.proportions import mcnemar_exact, tango_interval
from finetune_pipeline.spec.outputs import TextOutput
from finetune_pipeline_tests.unit.evaluation.rows import OUTPUT, json_spec, paired, row

REFERENCE = "The refund was approved and will arrive within five days."
NEGATED = "The refund was not approved and will not arrive within five days."
WRONG_NUMBER = "The refund was approved and will arrive within nine days."
PARAPHRASE = "Your money is on its way: expect it in five days."


def test_overlap_prefers_wrong_answers_and_facts_do_not() -> None:
    """The figures of docs/evaluation.md."""
    texts = (NEGATED, WRONG_NUMBER, PARAPHRASE)
    rouge = [METRICS["rougeLsum"].value([row(1, REFERENCE, text)], TextOutput()) for text in texts]
    assert rouge == pytest.approx([0.91, 0.9, 0.19], abs=0.005)
    assert fact_score(PARAPHRASE, REFERENCE) == fact_score(REFERENCE, REFERENCE) == 1
    assert fact_score(NEGATED, REFERENCE) == fact_score(WRONG_NUMBER, REFERENCE) == 0.5
    assert fact_score("", "Fine.") == fact_score(" ... ", "Fine.") == 0.0


def test_facts_of_a_text() -> None:
    for text, expected in {
        "Paid 1,250.50 in 3 parts": {("number", "1250.5"), ("number", "3")},
        "on 3 May 2026": {("date", "2026-05-03")},
        "on May 3rd, 2026": {("date", "2026-05-03")},
        "by 2026-05-03": {("date", "2026-05-03")},
        "by the 3rd of May": {("date", "?-05-03")},
        "at 5:30 pm": {("time", "17:30")},
        "order AB-1234, mail a@b.org": {("id", "ab-1234"), ("id", "a@b.org")},
        "twelve boxes, one of them open": {("number", "12")},
        "Fifteen of ninety": {("number", "15"), ("number", "90")},
        "we can't": {("negation", "True")},
        "ha-" * 20_000: set(),  # takes seconds, and minutes if every part were compared with all after it
        "a." * 30_000: set(),
    }.items():
        assert set(facts(text)) - {("negation", "False")} == expected, text


def test_signs_of_a_text_gone_wrong() -> None:
    assert is_refusal("As an AI language model, I have no opinion")
    for text in ("We can't find the parcel.", "I'm sorry for the delay; it ships today.", "The AI Act applies."):
        assert not is_refusal(text), text
    assert repetition("a b c d " * 6) == pytest.approx(1 - 4 / 21)
    assert repetition("no no no no no no no") == 0.0  # too short to tell


def test_an_extraction_is_compared_by_exact_answers_or_by_micro_f1() -> None:
    output = json_spec().output
    gold, half, nothing = (json.dumps(fields) for fields in ({"city": "Rome", "guests": 2}, {"city": "Rome"}, {}))
    base = [row(i, gold, half) for i in range(40)]
    candidate = [row(i, gold, gold if i < 30 else nothing) for i in range(40)]
    comparison = compare(base, candidate, output)
    assert (comparison.metric, comparison.gain, comparison.c, comparison.b) == ("exact", 0.75, 30, 0)
    by_fields = compare(base, candidate, output, metric="micro_f1")
    assert by_fields.gain == pytest.approx(2 * 60 / (60 + 80) - 2 * 40 / (40 + 80))
    assert by_fields.interval[0] < by_fields.gain < by_fields.interval[1]
    single = METRICS["chrf"].gain([row(1, "a b", "a")], [row(1, "a b", "a b")], TextOutput(), 0.95)
    assert single.gain > 0 and single.interval is None and not single.surely_above()


def test_a_score_outside_its_scale_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for score in (37.0, -0.1, float("nan")):
        monkeypatch.setattr(type(METRICS["facts"]), "row_score", lambda self, row, output, score=score: score)
        problem = "metric facts: row_score of e0001 is .*; make it return a number from 0 to 1"
        with pytest.raises(ValueError, match=problem):
            METRICS["facts"].value([row(1, "a", "b")], TextOutput())


def test_counts_and_direction():
    base, candidate = paired(both=50, only_base=4, only_candidate=20, neither=6)
    comparison = compare(base, candidate, OUTPUT)
    assert (comparison.n, comparison.b, comparison.c) == (80, 4, 20)
    assert comparison.gain == pytest.approx(16 / 80)
    assert comparison.interval == tango_interval(4, 20, 80) and comparison.mcnemar_p == mcnemar_exact(4, 20)
    assert comparison.broken == [f"e{i:04d}" for i in range(50, 54)]
    assert comparison.fixed == [f"e{i:04d}" for i in range(54, 74)]
    assert (comparison.base, comparison.candidate) == (54 / 80, 70 / 80)
    assert comparison.discordant_share == pytest.approx(0.3)
    gold = [r["gold"] for r in base]
    before, after = (f1_score(gold, [r["text"] for r in side], average="macro") for side in (base, candidate))
    assert comparison.macro_f1_interval[0] < after - before < comparison.macro_f1_interval[1]
    assert compare(base[::-1], candidate, OUTPUT) == comparison, "the order of rows does not matter"


def test_text_tasks_compare_rouge_and_exact_match():
    gold = [f"order {i} was sent on monday" for i in range(30)]
    base = [row(i, g, "sent" if i % 2 else g, "base") for i, g in enumerate(gold)]
    candidate = [row(i, g, g, "candidate") for i, g in enumerate(gold)]
    comparison = compare(base, candidate, TextOutput())
    assert comparison.metric == "rougeLsum" and comparison.gain == pytest.approx(0.5 * (1 - 2 / 7))
    assert 0 < comparison.interval[0] < comparison.gain < comparison.interval[1]
    assert (comparison.b, comparison.c, comparison.macro_f1_interval) == (0, 15, None)
