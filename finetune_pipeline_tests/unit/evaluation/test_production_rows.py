"""Production rows that judge a model: which are taken, and what they may say."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from finetune_pipeline.evaluation.production_rows import (
    FEWEST,
    SET,
    ProductionRows,
    as_examples,
    compare_models,
    judge,
    moment,
    recent_rows,
    rows_with_truth,
    sources_of,
)
from finetune_pipeline.evaluation.recent import recent_production
from finetune_pipeline.spec import TaskSpec, parse_spec


@pytest.fixture
def spec() -> TaskSpec:
    return parse_spec(
        yaml.safe_dump(
            {
                "name": "demo",
                "description": "d",
                "system_prompt": "a b",
                "output": {"kind": "labels", "labels": ["a", "b"]},
            }
        )
    )


def row(n: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"r{n}",
        "timestamp": f"2026-05-{1 + n % 28:02d}T10:00:00Z",
        "model_version": "1",
        "input": f"ticket number {n}",
        "output": "a",
        "correction": "b",
        "user": None,
        **more,
    }


def test_every_row_is_taken_or_left_out_for_a_reason(spec: TaskSpec) -> None:
    rows = [
        row(1, correction=None),
        row(2, correction="neither"),
        row(3, timestamp="2026-04-01T00:00:00Z"),
        row(4, input="Seen  in TRAINING"),
        row(5, input="twice"),
        row(6, input="twice"),
        *[row(10 + i, user="chatty") for i in range(4)],
        row(20),
        row(21, correction="a"),
    ]
    chosen = rows_with_truth(
        spec, rows, trained=["seen in training"], after=moment("2026-04-30T00:00:00Z"), most=4, per_user=3
    )
    assert chosen.left_out == {
        "without_truth": 1,
        "truth_out_of_form": 1,
        "before_the_training_data": 1,
        "in_the_training_set": 1,
        "repeated": 1,
        "more_of_one_user": 1,
        "beyond_the_limit": 2,
    }
    assert chosen.looked_at == len(rows) == len(chosen.rows) + sum(chosen.left_out.values())
    assert [r["id"] for r in chosen.rows][:2] == ["r21", "r20"], "newest first"
    assert chosen.confirmed == 1
    assert chosen.facts()["last"] == row(21)["timestamp"]


def test_which_rows_of_a_user_count_does_not_depend_on_answers(spec: TaskSpec) -> None:
    rows = [row(i, user="u") for i in range(20)]
    turned = [{**r, "output": "b", "correction": "a"} for r in rows]
    first, second = (rows_with_truth(spec, r, trained=[]) for r in (rows, turned))
    assert len(first.rows) == 5
    assert [r["id"] for r in first.rows] == [r["id"] for r in second.rows]


def predictions(chosen: ProductionRows, spec: TaskSpec, right: int) -> list[dict[str, Any]]:
    return [
        {
            "example_id": e.id,
            "gold": e.answer,
            "text": "b" if i < right else "a",
            "status": "ok",
            "error": "",
            "label_scores": [],
            "new_tokens": 1,
            "prompt_tokens": 1,
        }
        for i, e in enumerate(as_examples(spec, chosen))
    ]


@pytest.mark.parametrize(("candidate", "champion", "passed"), [(10, 35, False), (35, 10, True), (30, 30, True)])
def test_only_a_candidate_shown_to_be_worse_is_refused(
    spec: TaskSpec, candidate: int, champion: int, passed: bool
) -> None:
    chosen = rows_with_truth(spec, [row(i) for i in range(40)], trained=[])
    told = compare_models(
        spec,
        {
            "candidate": predictions(chosen, spec, candidate),
            "champion": predictions(chosen, spec, champion),
            "base": predictions(chosen, spec, 0),
        },
        chosen.facts(),
        sources_of(chosen, as_examples(spec, chosen)),
    )
    assert set(told["comparisons"]) == {"champion", "base"}
    assert told["comparisons"]["champion"]["gain"] == pytest.approx((candidate - champion) / 40)
    verdict, sentence = judge(told)
    assert verdict is passed
    assert f"{100 * (candidate - champion) / 40:+.1f} points" in sentence


def test_a_handful_of_rows_says_nothing(spec: TaskSpec) -> None:
    chosen = rows_with_truth(spec, [row(i) for i in range(FEWEST - 1)], trained=[])
    told = compare_models(
        spec,
        {"candidate": predictions(chosen, spec, 0), "champion": predictions(chosen, spec, 19)},
        chosen.facts(),
        sources_of(chosen, as_examples(spec, chosen)),
    )
    assert not told["judged"]
    assert judge(told)[0]


def test_rows_of_one_user_count_as_one_source(spec: TaskSpec) -> None:
    rows = [row(i, user=f"u{i // 5}") for i in range(40)]
    chosen = rows_with_truth(spec, rows, trained=[])
    examples = as_examples(spec, chosen)
    sources = sources_of(chosen, examples)
    assert len(sources) == 40
    assert len(set(sources.values())) == 8


@pytest.mark.parametrize(("candidate", "champion", "passed"), [(10, 35, False), (30, 30, True)])
def test_the_gate_compares_with_the_champion_where_there_is_one(
    spec: TaskSpec, candidate: int, champion: int, passed: bool
) -> None:
    chosen = rows_with_truth(spec, [row(i) for i in range(40)], trained=[])
    told = {"rows": chosen.facts(), "sources": sources_of(chosen, as_examples(spec, chosen))}
    right = {"base": 0, "candidate": candidate, "champion": champion}
    table = [{**p, "model": f"{name}:{SET}"} for name, n in right.items() for p in predictions(chosen, spec, n)]
    made = {"production": recent_rows(spec, table, told), "versions": {"champion": "3"}}
    gate = recent_production(spec, made)
    assert gate.passed is passed and "against the champion" in gate.message
    assert recent_production(spec, {**made, "versions": {}}).passed, "against the base it gains"
    without = [p for p in table if not p["model"].startswith("champion")]
    unread = recent_production(spec, {**made, "production": recent_rows(spec, without, told)})
    assert not unread.passed and unread.measured is None, "a champion that was not asked is no pass"
    assert not recent_production(spec, {}).passed and recent_production(spec, {"production": None}).passed
