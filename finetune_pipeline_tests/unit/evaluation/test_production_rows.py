"""Production rows that judge a model: which are taken, and what they may say."""

from types import SimpleNamespace
from typing import Any

import pytest

from finetune_pipeline.evaluation import production_rows
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.gates.recent_production import recent_production
from finetune_pipeline.evaluation.production_rows import (
    MIN_ROWS,
    PRODUCTION_SET,
    RecentRows,
    as_examples,
    recent_rows,
    rows_with_truth,
    sources_of,
)
from finetune_pipeline.evaluation.result import Production
from finetune_pipeline_tests.unit.evaluation.rows import row as prediction
from finetune_pipeline_tests.unit.evaluation.rows import spec as label_spec

SPEC = label_spec(output={"kind": "labels", "labels": ["a", "b"]})


def row(n: int, **more: Any) -> dict[str, Any]:
    fields = {"id": f"r{n}", "timestamp": f"2026-05-{1 + n % 28:02d}T10:00:00Z", "model_version": "1", "user": None}
    return {**fields, "input": f"ticket number {n}", "turns": None, "output": "a", "correction": "b", **more}


def test_every_row_is_taken_or_left_out_for_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        *(row(1, correction=None), row(2, correction="neither"), row(4, input="Seen  in TRAINING")),
        *(row(i, input="twice") for i in (5, 6)),
        *(row(10 + i, user="chatty") for i in range(4)),
        *(row(20), row(21, correction="a")),
    ]
    monkeypatch.setattr(production_rows, "MAX_ROWS", 4)
    monkeypatch.setattr(production_rows, "PER_USER", 3)
    chosen = rows_with_truth(SPEC, rows, trained=["seen in training"])
    once = ("without_truth", "truth_out_of_form", "in_the_training_set", "repeated", "more_of_one_user")
    assert chosen.left_out == {**dict.fromkeys(once, 1), "beyond_the_limit": 2}
    assert chosen.looked_at == len(rows) == len(chosen.rows) + sum(chosen.left_out.values())
    assert [r["id"] for r in chosen.rows][:2] == ["r21", "r20"], "newest first"
    assert chosen.facts().confirmed == 1 and chosen.facts().last == row(21)["timestamp"]


def test_which_rows_of_a_user_count_does_not_depend_on_answers() -> None:
    rows = [row(i, user="u") for i in range(20)]
    turned = [{**r, "output": "b", "correction": "a"} for r in rows]
    first, second = (rows_with_truth(SPEC, r, trained=[]) for r in (rows, turned))
    assert len(first.rows) == 5 and [r["id"] for r in first.rows] == [r["id"] for r in second.rows]


def compared(n: int, failed: int = 0, **right: int) -> Production | None:
    """The comparison on n rows of which each model has so many right; the candidate's first `failed` answers failed."""
    chosen = rows_with_truth(SPEC, [row(i) for i in range(n)], trained=[])
    examples = as_examples(SPEC, chosen)
    facts = RecentRows(
        rows=chosen.facts(), sources=sources_of(chosen, examples), ids=[row["id"] for row in chosen.rows]
    )
    table = [
        prediction(i, e.answer, "b" if i < k else "a", f"{name}:{PRODUCTION_SET}", example_id=e.id, label_scores=[])
        for name, k in right.items()
        for i, e in enumerate(examples)
    ]
    for answer in [r for r in table if r["model"].startswith("candidate")][:failed]:
        answer |= {"status": "error", "error": "timeout", "text": ""}
    return recent_rows(SPEC, table, facts)


def asked(production: Production | None, champion: str | None = None) -> GateResult:
    """The gate's answer, from the two parts of an evaluation it reads."""
    part: Any = SimpleNamespace(production=production, versions={"champion": champion})
    return recent_production(SPEC, part)


@pytest.mark.parametrize(("candidate", "champion", "passed"), [(10, 35, False), (35, 10, True), (30, 30, True)])
def test_only_a_candidate_shown_to_be_worse_is_refused(candidate: int, champion: int, passed: bool) -> None:
    production = compared(40, base=0, candidate=candidate, champion=champion)
    assert production is not None and set(production.comparisons) == {"champion", "base"}
    assert production.comparisons["champion"].gain == pytest.approx((candidate - champion) / 40)
    gate = asked(production, "3")
    assert gate.passed is passed and "points against the champion" in gate.message
    assert asked(production).passed, "against the base it gains"


def test_failed_answers_are_no_evidence() -> None:
    production = compared(40, failed=20, base=0, candidate=40, champion=40)
    assert production is not None and production.comparisons["champion"].gain == 0.0
    assert asked(production, "3").passed and asked(production).passed
    gate = asked(compared(40, failed=21, base=0, candidate=40, champion=40), "3")
    assert not gate.passed and gate.measured is None and "fewer than 20 were answered by both models" in gate.message


def test_a_champion_that_was_not_asked_is_no_pass() -> None:
    gate = asked(compared(40, base=0, candidate=30), "3")
    assert not gate.passed and gate.measured is None
    assert asked(compared(40, candidate=30)).status == "not_asked", "an API baseline"
    assert asked(None, "3").status == "not_asked"
    assert not asked(Production(judged=True), "3").passed
    assert not asked(Production(), "3").passed
    few = compared(MIN_ROWS - 1, candidate=0, champion=19)
    assert few is not None and few.judged is False and asked(few, "3").status == "not_asked", "a handful says nothing"
