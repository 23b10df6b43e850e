"""Each gate beyond the task's own test: where it fires, where it does not, and that nothing missing passes."""

from typing import Any

import pytest

from finetune_pipeline.evaluation.ability.drop import Ability
from finetune_pipeline.evaluation.gates import GateResult, decide
from finetune_pipeline.evaluation.gates.general_ability import general_ability
from finetune_pipeline.evaluation.gates.human_review import human_review
from finetune_pipeline.evaluation.gates.judge import judge
from finetune_pipeline.evaluation.preferences.judge import JudgeFindings
from finetune_pipeline.evaluation.preferences.people import AcceptedShare, People, Ratings
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation
from finetune_pipeline_tests.unit.evaluation.rows import spec as label_spec


def spec(**gates: Any) -> TaskSpec:
    return label_spec(gates=gates)


def text(before: float, rise: float, high: float) -> dict[str, Any]:
    return {"text": {"n": 24, "before": before, "after": before + rise, "rise": rise, "interval": [rise - 0.1, high]}}


def arc(*interval: float) -> dict[str, Any]:
    return {"benchmarks": {"arc": {"n": 40, "drop": 0.2, "interval": list(interval) or None}}}


ONE_TEXT = {"text": {"n": 1, "before": 1.0, "after": 1.0, "rise": 0.0, "interval": None}}
ONE_TEXT = {"text": {"n": 1, "before": 1.0, "after": 1.0, "rise": 0.0, "interval": None}}
SMALL, SURE, OPEN, NONE = (0.02, -0.02, 0.06), (0.2, 0.14, 0.26), (0.05, -0.01, 0.11), (0.0, -0.04, 0.04)


@pytest.mark.parametrize(
    ("loss", "more", "gates", "passed", "says"),
    [
        (SMALL, {}, {}, True, ""),
        (SURE, {}, {}, False, "-20.0 points on 234 questions"),
        (OPEN, {}, {}, False, "not shown either"),
        (OPEN, {}, {"max_ability_loss": 0.12}, True, ""),
        (OPEN, {}, {"max_ability_loss": 0.11}, False, ""),  # at the limit is not below
        (SMALL, arc(0.09, 0.4), {}, True, ""),
        (SMALL, arc(0.1, 0.4), {}, False, "arc surely loses 10.0 points"),
        (SMALL, arc(), {}, False, ""),  # what was not measured does not pass
        (NONE, text(0.9, 0.1, 0.2), {}, True, ""),
        (NONE, text(1.2, 0.5, 0.7), {}, False, "+41.7% bits (surely at most +58.3%; allowed +50%)"),
        (NONE, text(1.2, 0.5, 0.7), {"max_text_loss": 0.6}, True, ""),
        (NONE, text(1.0, 0.3, 0.5), {"max_text_loss": 0.5}, False, ""),  # at the limit
        (NONE, text(0.0, 0.1, 0.1), {}, False, "The bits per byte on plain text were not measured."),
        (NONE, {"interval": None}, {}, False, ""),
        (NONE, ONE_TEXT, {}, False, "not measured"),
        (NONE, {"failed": ["a", "b"]}, {}, False, "2 items could not be scored"),
    ],
)
def test_a_loss_of_ability_must_be_ruled_out(loss: Any, more: Any, gates: Any, passed: bool, says: str) -> None:
    measured = {"items": 258, "n": 234, "drop": loss[0], "interval": list(loss[1:]), **more}
    gate = general_ability(spec(**gates), Ability.of(measured))
    assert gate.passed is passed and says in gate.message and bool(gate.what_to_do) is not passed
    assert ("not shown either" in gate.message) <= (loss is OPEN), "a loss that is sure is not called open"


def test_ability_that_was_not_measured_passes_only_where_the_spec_asks_nothing() -> None:
    silent = spec().model_copy(update={"ability": spec().ability.model_copy(update={"suite": False})})
    assert general_ability(silent, Ability(items=0)).status == "not_asked" and general_ability.unasked(silent)
    for task, facts in ((spec(), None), (spec(), Ability(items=0))):
        assert not general_ability(task, facts).passed


def people(n: int, share: float, low: float, high: float) -> People:
    candidate = AcceptedShare(acceptable=round(n * share), share=share, interval=(low, high))
    return People(rated=n, random=Ratings(n=n, only_candidate=0, only_base=0, both=n, neither=0, candidate=candidate))


def test_too_few_ratings_and_too_few_accepted_answers_are_stopped() -> None:
    task = spec(min_rated=30, min_accepted=0.7)
    assert human_review(task, people(30, 0.86, 0.7, 0.95)).passed  # at the limit
    few = human_review(task, people(29, 1.0, 0.88, 1.0))
    assert not few.passed and "29 of 30" in few.message
    refused = human_review(task, people(30, 0.8, 0.63, 0.9))
    assert not refused.passed and refused.measured == 0.63
    assert human_review(spec(), None).status == "not_asked"
    assert not human_review(task, None).passed


def test_only_a_believed_judge_that_the_spec_asks_counts_and_by_its_lower_bound() -> None:
    verdict = {"wins": 60, "losses": 20, "ties": 0, "n": 80, "share": 0.75, "interval": [0.645, 0.832], "p": 0.0}
    verdict |= {"failed": 0, "equal": 0, "choices": {}}
    believed = {"name": "m at h", "believed": True, "refused": [], "verdict": verdict}

    def asked(least: float = 0.5, **change: Any) -> Any:
        return judge(spec(min_preferred=least), JudgeFindings.of({**believed, **change}))

    gate = asked()
    assert gate.passed and (gate.measured, gate.threshold, gate.what_to_do) == (0.645, 0.5, "")
    assert asked(0.645).passed  # at the limit
    lost = asked(0.7)
    assert not lost.passed and "finetune review TASK" in lost.what_to_do
    biased = asked(believed=False, refused=["it prefers whatever comes first"])
    assert not biased.passed and biased.measured is None
    assert biased.message == "No judge can be trusted: it prefers whatever comes first."
    assert not judge(spec(min_preferred=0.5), None).passed
    assert judge(spec(), None).status == "not_asked" and judge(spec(), None).measured is None


OF = spec(parts=["raw/people*.jsonl"])


def _evaluation(people: range) -> EvaluationResult:
    """Rows 0 to 99 are right on both sides, 105 to 164 on the candidate's alone, 165 to 199 on neither."""
    files = {f"e{i:04d}": "raw/people.jsonl" if i in people else "raw/script.jsonl" for i in range(200)}
    return evaluation(spec=OF, files=files)


def _parts_gate(result: EvaluationResult, task: TaskSpec = OF) -> GateResult:
    return {g.name: g for g in decide(task, result)}["beats_baseline_on_parts"]


@pytest.mark.parametrize(
    ("people", "passed", "says"),
    [
        (range(105, 125), True, "+100.0 points"),  # the fewest rows of which anything is said
        (range(0, 60), False, "0.0 points"),  # the rest of the test gains 43 points: together it passes
        (range(105, 124), False, "20 are needed"),
        (range(0), False, "0 test rows"),  # a glob that matches no file must not pass unseen
    ],
)
def test_every_part_must_show_the_gain(people: range, passed: bool, says: str) -> None:
    gate = _parts_gate(_evaluation(people))
    assert gate.passed is passed and says in gate.message and bool(gate.what_to_do) is not passed


def test_a_part_of_one_source_is_told_apart_from_a_small_one() -> None:
    files = {f"e{i:04d}": "raw/people.jsonl" if 105 <= i < 145 else "raw/script.jsonl" for i in range(200)}
    sources = {i: "one conversation" if file == "raw/people.jsonl" else i for i, file in files.items()}
    task = spec(parts=["raw/people*.jsonl"], metric="macro_f1")
    gate = _parts_gate(evaluation(spec=task, files=files, sources=sources), task)
    assert not gate.passed and "40 test rows, from too few sources for an interval." in gate.message


def test_the_table_shows_every_part_and_the_rest() -> None:
    result = _evaluation(range(105, 145))
    part, others = result.parts
    assert (part.n, others.files, others.n) == (40, None, 160)
    table = {name: (row.title, row.n, row.value) for name, row in result.models.items() if name.startswith("part_")}
    assert table["part_0_base"] == ("Base at its best, raw/people*.jsonl", 40, 0.0)
    assert table["part_1_candidate"] == ("Fine-tuned, the other rows", 160, 120 / 160) and len(table) == 4


def test_nothing_is_asked_where_no_part_is_named_and_unevaluated_parts_do_not_pass() -> None:
    assert evaluation().parts == []
    assert _parts_gate(evaluation(), spec()).status == "not_asked" and not _parts_gate(evaluation()).passed
