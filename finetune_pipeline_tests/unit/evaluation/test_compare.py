"""Paired comparison: counts, direction, and refusal of sides that do not pair."""

from __future__ import annotations

import pytest
from sklearn.metrics import f1_score

from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.statistics.proportions import mcnemar_exact, tango_interval
from finetune_pipeline.spec.outputs import TextOutput
from finetune_pipeline_tests.unit.evaluation.rows import OUTPUT, paired, row


def test_counts_and_direction():
    base, candidate = paired(both=50, only_base=4, only_candidate=20, neither=6)
    comparison = compare(base, candidate, OUTPUT)
    assert (comparison.n, comparison.b, comparison.c) == (80, 4, 20)
    assert comparison.gain == pytest.approx(16 / 80)
    assert comparison.interval == tango_interval(4, 20, 80)
    assert comparison.interval[0] > 0
    assert comparison.mcnemar_p == mcnemar_exact(4, 20)
    assert comparison.broken == [f"e{i:04d}" for i in range(50, 54)]
    assert comparison.fixed == [f"e{i:04d}" for i in range(54, 74)]
    assert (comparison.base, comparison.candidate) == (54 / 80, 70 / 80)
    assert comparison.discordant_share == pytest.approx(0.3)
    expected = [
        f1_score([r["gold"] for r in side], [r["text"] for r in side], average="macro") for side in (base, candidate)
    ]
    assert comparison.macro_f1_interval[0] < expected[1] - expected[0] < comparison.macro_f1_interval[1]


def test_order_of_rows_does_not_matter():
    base, candidate = paired(20, 3, 9, 5)
    assert compare(base, candidate, OUTPUT) == compare(base[::-1], candidate, OUTPUT)


def test_text_tasks_compare_rouge_and_exact_match():
    gold = [f"order {i} was sent on monday" for i in range(30)]
    base = [row(i, g, "sent" if i % 2 else g, "base") for i, g in enumerate(gold)]
    candidate = [row(i, g, g, "candidate") for i, g in enumerate(gold)]
    comparison = compare(base, candidate, TextOutput())
    assert comparison.metric == "rougeLsum"
    assert comparison.gain == pytest.approx(0.5 * (1 - 2 / 7))
    assert comparison.interval[0] < comparison.gain < comparison.interval[1]
    assert comparison.interval[0] > 0
    assert (comparison.b, comparison.c) == (0, 15)
    assert comparison.macro_f1_interval is None
