"""Paired comparison: counts, direction, and refusal of sides that do not pair."""

from __future__ import annotations

import pytest
from sklearn.metrics import f1_score

from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.statistics import mcnemar_exact, tango_interval, wilson_interval
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, paired, row


def test_counts_and_direction():
    base, candidate = paired(both=50, only_base=4, only_candidate=20, neither=6)
    told = compare(base, candidate, LABELS)
    assert (told.n, told.b, told.c) == (80, 4, 20)
    assert told.gain == pytest.approx(16 / 80)
    assert told.interval == tango_interval(4, 20, 80)
    assert told.interval[0] > 0
    assert told.mcnemar_p == mcnemar_exact(4, 20)
    assert told.broken == [f"e{i:04d}" for i in range(50, 54)]
    assert told.fixed == [f"e{i:04d}" for i in range(54, 74)]
    assert told.base.correct == 54 and told.candidate.correct == 70
    assert told.candidate.interval == wilson_interval(70, 80)
    assert told.discordant_share == pytest.approx(0.3)
    expected = [
        f1_score([r["gold"] for r in side], [r["text"] for r in side], average="macro") for side in (base, candidate)
    ]
    assert told.macro_f1_gain == pytest.approx(expected[1] - expected[0])
    assert told.macro_f1_interval[0] < told.macro_f1_gain < told.macro_f1_interval[1]


def test_order_of_rows_does_not_matter():
    base, candidate = paired(20, 3, 9, 5)
    assert compare(base, candidate, LABELS) == compare(base[::-1], candidate, LABELS)


def test_text_tasks_compare_rouge_and_exact_match():
    gold = [f"order {i} was sent on monday" for i in range(30)]
    base = [row(i, g, "sent" if i % 2 else g, "base") for i, g in enumerate(gold)]
    candidate = [row(i, g, g, "candidate") for i, g in enumerate(gold)]
    told = compare(base, candidate, None)
    assert told.metric == "rougeLsum"
    assert told.gain == pytest.approx(0.5 * (1 - 2 / 7))
    assert told.interval[0] < told.gain < told.interval[1]
    assert told.interval[0] > 0
    assert (told.b, told.c) == (0, 15)
    assert told.macro_f1_gain is None
