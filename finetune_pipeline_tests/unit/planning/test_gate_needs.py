"""What the gates need of rows and room, said before anything is trained."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.deciding import MIN_ROWS
from finetune_pipeline.evaluation.gates import GATES
from finetune_pipeline.evaluation.rivals import Rival
from finetune_pipeline.planning.coverage import surest_rival
from finetune_pipeline.planning.gate_needs import _like_the_test, obstacles
from finetune_pipeline.planning.power import power_bounds
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.evaluation.fake_run import arguments, evaluation
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, answers, json_spec, row, spec, text_spec


def _examples(labels: Sequence[str], rows_of_a_group: int = 1) -> list[Example]:
    return [
        Example(
            id=f"e{i:04d}",
            messages=[{"role": "user", "content": "?"}, {"role": "assistant", "content": label}],
            label=label,
            group=f"g{i // rows_of_a_group}",
            source={"file": "raw/people.jsonl" if i % 10 == 0 else "raw/made.jsonl", "line": i},
        )
        for i, label in enumerate(labels)
    ]


EXAMPLES = _examples([LABELS[i % 3] for i in range(300)])


def _gates(test_rows: int, examples: Sequence[Example] = EXAMPLES, **changes: Any) -> list[str]:
    return [obstacle.gate for obstacle in obstacles(spec(**changes), test_rows, examples)]


@pytest.mark.parametrize("share", [0.8, 0.95, 0.97])
def test_a_test_too_small_for_the_form_is_said_and_no_larger_one(share: float) -> None:
    """The number of rows said before is the one that the gate itself needs afterwards, without an invalid answer."""
    task, perfect = spec(gates={"min_valid_share": share}), answers(200, model="candidate")
    least = GATES["format_compliance"].least_rows(task)
    assert least is not None and least.rows is not None
    for rows, is_enough in ((least.rows - 1, False), (least.rows, True)):
        assert _gates(rows, gates={"min_valid_share": share}) == ([] if is_enough else ["format_compliance"])
        predictions = [*answers(0, rows), *perfect[:rows]]
        gate = GATES["format_compliance"](task, evaluation(**arguments(predictions=predictions)))
        assert gate.passed is is_enough, gate.message
    (small,) = obstacles(task, least.rows - 1, EXAMPLES)
    assert "weigh like" not in str(small), "every row has its own source"
    assert f"it takes {least.rows} test rows" in str(small) and "lower gates.min_valid_share" in str(small)


def test_a_test_too_small_to_show_min_score_is_said() -> None:
    least = GATES["min_score"].least_rows(spec(gates={"min_score": 0.98}))
    assert least is not None and least.rows == 189, "189 of 189 right have the lower bound 0.98"
    for rows, is_enough in ((188, False), (189, True)):
        assert ("min_score" in _gates(rows, gates={"min_score": 0.98})) is not is_enough
    macro = spec(gates={"min_score": 0.98, "metric": "macro_f1"})
    assert GATES["min_score"].least_rows(macro) is None and GATES["min_score"].least_rows(spec()) is None


@pytest.mark.parametrize("unit", ["answer", "field"])
def test_a_test_too_small_for_a_promised_error_is_said(unit: str) -> None:
    promise = json_spec(automation={"max_error": 0.02, "unit": unit})
    examples = [replace(example, label=None) for example in _examples(['{"city": "Rome", "guests": 2}'] * 300)]
    (small,) = [each for each in obstacles(promise, 148, examples) if each.gate == "automation"]
    assert "it takes 149 test rows without a mistake" in str(small) and "raise automation.max_error" in str(small)
    assert "automation" not in [each.gate for each in obstacles(promise, 149, examples)]


def test_rows_that_share_sources_count_as_their_sources() -> None:
    dialogues = _examples([LABELS[i // 10 % 3] for i in range(2000)], rows_of_a_group=10)
    assert _gates(200) == [] and "format_compliance" in _gates(200, dialogues)
    assert _gates(800, dialogues) == []
    (obstacle,) = obstacles(spec(), 200, dialogues)
    assert "200 rows, which weigh like 20 independent ones" in obstacle.reason


def test_what_no_test_can_show_is_said() -> None:
    (obstacle,) = obstacles(spec(gates={"min_valid_share": 1.0}), 10_000, EXAMPLES)
    assert "no test can show" in obstacle.reason
    judge = {"url": "http://127.0.0.1:9/v1", "model": "m", "rows": 40}
    preferred = {"evaluation": {"judge": judge}, "gates": {"min_preferred": 0.95}}
    (obstacle,) = obstacles(spec(**preferred), 300, EXAMPLES)
    assert obstacle.gate == "judge", "forty pairs cannot show 95%"
    assert obstacle.to_do == "raise evaluation.judge.rows to 73 or more, or lower gates.min_preferred"
    preferred["evaluation"]["judge"] = judge | {"rows": 80}
    assert _gates(300, **preferred) == []


def test_people_cannot_rate_more_answers_than_the_test_has() -> None:
    rated = {"min_rated": 100, "min_accepted": 0.8}
    (obstacle,) = obstacles(spec(gates=rated), 99, EXAMPLES)
    assert obstacle.gate == "human_review" and obstacle.to_do.endswith("or lower gates.min_rated")
    assert _gates(100, gates=rated) == []
    (obstacle,) = obstacles(spec(gates={**rated, "min_accepted": 0.97}), 100, EXAMPLES)
    assert "it takes 125 test rows" in obstacle.reason and obstacle.to_do.endswith("or lower gates.min_accepted")


def test_a_part_needs_its_own_rows() -> None:
    parts = {"parts": ["raw/people.jsonl"]}
    assert _gates(10 * MIN_ROWS, gates=parts) == []
    (obstacle,) = obstacles(spec(gates=parts), 10 * MIN_ROWS - 10, EXAMPLES)
    assert obstacle.gate == "beats_baseline_on_parts" and "about 19 rows" in obstacle.reason


def _of_rival(task: TaskSpec, test_rows: int, right: int, *gates: str) -> list[str]:
    """The obstacles where a rival is right on this many of 300 rows."""
    rival = Rival("the rival", right / 300, answers(right, 300, label_scores=[]), gates)
    return [obstacle.gate for obstacle in obstacles(task, test_rows, EXAMPLES, [rival])]


def test_a_rival_must_leave_room_for_a_gain_that_these_rows_show() -> None:
    assert _of_rival(spec(), 100, 294, "beats_baseline") == ["beats_baseline"], "two of a hundred rows are no sure gain"
    assert _of_rival(spec(), 1000, 294, "beats_baseline") == []
    assert _of_rival(spec(gates={"min_gain": 0.015}), 1000, 294, "beats_baseline") == ["beats_baseline"]
    assert _of_rival(spec(gates={"min_gain": 0.015}), 20_000, 294, "beats_baseline") == [], "more rows show more"
    assert _of_rival(spec(gates={"min_gain": 0.03}), 1000, 294, "beats_baseline") == ["beats_baseline"]
    assert _of_rival(spec(), 100, 300, "beats_simple", "beats_commonest") == ["beats_simple", "beats_commonest"]
    tie = spec(gates={"simple": "not_worse", "simple_margin": 0.05})
    assert _of_rival(tie, 100, 300, "beats_simple") == [], "a tie is enough"
    assert _of_rival(tie, 100, 300, "beats_simple", "beats_commonest") == ["beats_commonest"]


def test_the_room_is_that_of_a_text_metric_too() -> None:
    rows = [row(i, "one two three", "one two three", label_scores=[]) for i in range(100)]
    task = text_spec(gates={"min_valid_share": 0.5})
    examples = _examples(["one two three"] * 100)
    assert obstacles(task, 100, examples, [Rival("r", 1.0, rows)])[0].gate == "beats_baseline"
    some = [r | {"text": "one"} if i % 3 == 0 else r for i, r in enumerate(rows)]
    assert obstacles(task, 100, examples, [Rival("r", 0.8, some)]) == []


def test_the_sentence_before_training_names_the_obstacle() -> None:
    plan = power_bounds(spec(), 41, obstacles(spec(), 41, EXAMPLES))
    assert [obstacle.gate for obstacle in plan.obstacles] == ["format_compliance"]
    assert "format_compliance would refuse every candidate: it takes 73 test rows" in plan.sentence
    assert power_bounds(spec(), 80, obstacles(spec(), 80, EXAMPLES)).obstacles == []
    assert obstacles(spec(), 0, []) == [] == obstacles(spec(), 0, EXAMPLES)
    assert obstacles(spec(), 1, EXAMPLES), "a test of one row shows nothing"


def test_a_rival_that_answers_almost_every_row_by_itself_leaves_no_room() -> None:
    """Ten rows that only the candidate answers are the fewest that show it, at a level shared by twenty thresholds."""
    task = spec(gates={"metric": "coverage"}, automation={"max_error": 0.2})

    def refused(sure: int) -> list[str]:
        rows = [
            row(
                i, "bug", "bug" if i < sure else "other", label_scores=[-0.01, -6, -6] if i < sure else [-1.2, -1.2, -1]
            )
            for i in range(200)
        ]
        rivals = [Rival("the linear model", 0.9, rows, ("beats_simple",)), Rival("no model", 0.0, answers(0), ())]
        found = obstacles(task, 200, _examples(["bug"] * 200), rivals)
        return [str(obstacle) for obstacle in found if obstacle.gate == "beats_simple"]

    (full,) = refused(200)
    assert "the linear model answers 100% by itself; 200 test rows cannot show" in full
    assert refused(100) == []
    few = [each for each in obstacles(task, 9, EXAMPLES) if each.gate == "beats_baseline"]
    assert few and not [each for each in obstacles(task, 10, EXAMPLES) if each.gate == "beats_baseline"]


def test_the_surest_rival_answers_the_largest_share_and_not_the_most_rows() -> None:
    """60 of 100 rows against 80 of 200."""
    task = spec(gates={"metric": "coverage"}, automation={"max_error": 0.2})

    def rival(title: str, sure: int, rows: int) -> Rival:
        scores = [[-0.01, -6, -6] if i < sure else [-1.2, -1.2, -1] for i in range(rows)]
        texts = ["bug" if i < sure else "other" for i in range(rows)]
        return Rival(title, 0.0, [row(i, "bug", texts[i], label_scores=scores[i]) for i in range(rows)])

    few, many = rival("few", 60, 100), rival("many", 80, 200)
    sources = {r["example_id"]: r["example_id"] for r in many.rows}
    for rivals in ([few, many], [many, few]):
        assert surest_rival(task, rivals, sources, 200) is few


def test_a_smaller_test_is_drawn_evenly_from_the_middle_of_each_part() -> None:
    rows = [row(i, "bug", "bug") for i in range(9)]
    drawn, units = _like_the_test(rows, {}, 3)
    assert [r["example_id"] for r in drawn] == ["e0001", "e0004", "e0007"] and units == [0, 1, 2]
    twice, _ = _like_the_test(rows[:2], {}, 4)
    assert [r["example_id"] for r in twice] == ["e0000", "e0000", "e0001", "e0001"], "a larger one has rows twice"
