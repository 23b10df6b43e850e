"""Files whose test rows must show the gain by themselves: a gain on one kind of row does not hide a loss on another."""

from __future__ import annotations

import pytest

from finetune_pipeline.evaluation.deciding import FEWEST
from finetune_pipeline.evaluation.gates import GateResult, decide
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation
from finetune_pipeline_tests.unit.evaluation.rows import spec

OF = spec(gates={"parts": ["raw/people*.jsonl"]})


def _files(people: range) -> dict[str, str]:
    """Rows 0 to 99 are right on both sides, 105 to 164 on the candidate's alone, 165 to 199 on neither."""
    return {f"e{i:04d}": "raw/people.jsonl" if i in people else "raw/script.jsonl" for i in range(200)}


def _gate(people: range) -> GateResult:
    result = evaluation(spec=OF, files=_files(people))
    return {g.name: g for g in decide(OF, result)}["beats_baseline_on_parts"]


@pytest.mark.parametrize(
    ("people", "passed", "says"),
    [
        (range(105, 145), True, "+100.0 points"),
        (range(0, 60), False, "0.0 points"),  # the rest of the test gains 43 points: together it passes
        (range(105, 105 + FEWEST - 1), False, f"{FEWEST} are needed"),
        (range(0), False, "0 test rows"),  # a glob that matches no file must not pass unseen
    ],
)
def test_every_part_must_show_the_gain(people: range, passed: bool, says: str) -> None:
    gate = _gate(people)
    assert gate.passed is passed and says in gate.message
    assert bool(gate.what_to_do) is not passed


def test_the_table_shows_every_part_and_the_rest() -> None:
    result = evaluation(spec=OF, files=_files(range(105, 145)))
    part, rest = result.parts
    assert (part.n, rest.files, rest.n) == (40, None, 160)
    shown = {name: (row.title, row.n, row.value) for name, row in result.models.items() if name.startswith("part_")}
    assert shown == {
        "part_0_base": ("Base at its best, raw/people*.jsonl", 40, 0.0),
        "part_0_candidate": ("Fine-tuned, raw/people*.jsonl", 40, 1.0),
        "part_1_base": ("Base at its best, the other rows", 160, 105 / 160),
        "part_1_candidate": ("Fine-tuned, the other rows", 160, 120 / 160),
    }


def test_nothing_is_asked_where_no_part_is_named_and_unevaluated_parts_do_not_pass() -> None:
    assert evaluation().parts == []
    gate = {g.name: g for g in decide(spec(), evaluation())}["beats_baseline_on_parts"]
    assert gate.status == "not_asked"
    assert not {g.name: g for g in decide(OF, evaluation())}["beats_baseline_on_parts"].passed
