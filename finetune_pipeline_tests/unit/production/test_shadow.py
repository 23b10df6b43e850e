"""What a second model said behind the champion: nobody's answer, and compared by what reviewers decide."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval
from finetune_pipeline.production.choosing import DIFFERS, PASSED_ON, choose
from finetune_pipeline.production.erasure import forget
from finetune_pipeline.production.log_merging import read_logs, write_logs
from finetune_pipeline.production.shadow import compare_shadow, shadow_lines
from finetune_pipeline.review.flagged_queue import flagged_queue
from finetune_pipeline.spec import Task
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.production.streams import task_of

SHADOW = {
    "model_version": "t:2", "output": "howto", "champion": "t:1", "champion_output": "bug", "seconds": 0.2,
    "champion_seconds": 0.1, "problem": "",
}  # fmt: skip


def spec(kind: str = "labels", **logs: Any) -> TaskSpec:
    output: dict[str, Any] = {"kind": kind} | ({"labels": ["bug", "howto", "other"]} if kind == "labels" else {})
    written = {"name": "t", "description": "d", "system_prompt": "s", "output": output}
    return TaskSpec.model_validate(written | {"logs": {"sample_share": 0.0, **logs}})


def row(i: int, right: str | None = None, **more: Any) -> dict[str, Any]:
    """A row as merge_lines returns it, with a second answer; right: what a reviewer decided."""
    made = {"id": str(i), "timestamp": f"2026-05-01T10:{i // 60 % 60:02}:{i % 60:02}+00:00", "model_version": "t:1"}
    made |= {"input": f"text {i}", "output": "bug", "correction": right, "reviewed": right is not None}
    made |= {"flag": None, "score": None, "left_out": False, "user": None, "turns": None, "shadow": SHADOW}
    return made | {"source": {"file": "a", "line": i}} | more


def said(output: str | None, **more: Any) -> dict[str, Any]:
    return {"shadow": {**SHADOW, "output": output, **more}}


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return task_of(tmp_path)


def write(task: Task, *lines: dict[str, Any]) -> Path:
    path = task.folder / "logs" / "served.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


ANSWER = {
    "id": "r1",
    "timestamp": "2026-05-01T10:00:00Z",
    "input": "ann@shop.example or bob@shop.example?",
    "user": "ann",
}
SECOND = {**ANSWER, "timestamp": "2026-05-01T10:00:05Z"}
ANSWER = {**ANSWER, "output": "a", "model_version": "1"}


@pytest.mark.parametrize("second_first", [True, False])
def test_a_second_answer_is_no_answer_no_example_and_no_feedback(task, store, tmp_path, second_first: bool) -> None:
    second = {**SECOND, "shadow": {**SHADOW, "output": "b", "champion_output": "a"}}
    feedback = {"id": "r1", "timestamp": "2026-05-01T10:01:00Z", "feedback": {"label": "b"}}
    write(task, *((second, ANSWER, feedback) if second_first else (ANSWER, second, feedback)))
    logs = read_logs(task, store)
    (merged,) = logs.rows
    assert (merged["output"], merged["model_version"], merged["correction"]) == ("a", "1", "b")
    assert merged["shadow"] == {**SHADOW, "output": "b", "champion_output": "a"}
    facts = write_logs(task.spec, logs, tmp_path)
    assert (facts.lines, facts.rows, facts.feedback, facts.shadows, facts.quarantined) == (3, 1, 1, 1, 0)
    (example,) = read_examples(tmp_path / "examples.jsonl")
    assert example.answer == "b" and facts.by_rule == {}


def test_a_second_answer_without_its_row_is_counted_and_makes_none(task, store, tmp_path) -> None:
    write(task, {**SECOND, "shadow": SHADOW})
    facts = write_logs(task.spec, read_logs(task, store), tmp_path)
    assert (facts.lines, facts.rows, facts.shadows, facts.unmatched) == (1, 0, 1, 0)


def test_second_answers_in_another_form_are_quarantined_with_the_reason(task, store, tmp_path) -> None:
    bad = (
        "text",
        {**SHADOW, "output": 3},
        {**SHADOW, "seconds": -1},
        {k: v for k, v in SHADOW.items() if k != "champion"},
    )
    both = {**SECOND, "id": "b", "shadow": SHADOW, "feedback": {"flag": True}}
    write(task, ANSWER, *({**SECOND, "id": f"r{i}", "shadow": shadow} for i, shadow in enumerate(bad)), both)
    logs = read_logs(task, store)
    assert [row["id"] for row in logs.rows] == ["r1"] and logs.by_rule == {"log.shadow": 5}
    write_logs(task.spec, logs, tmp_path)
    messages = [entry["findings"][0]["message"] for entry in read_rows(tmp_path / "quarantine.jsonl")]
    assert "`$.output`" in messages[1] and "missing required field `champion`" in messages[3]
    assert messages[4] == "one line has both 'shadow' and 'feedback'"


def test_both_answers_are_scrubbed_alike_and_forgotten_with_their_user(task: Task, store: ArtifactStore) -> None:
    texts = {"champion_output": "ask bob@shop.example", "output": "ask bob@shop.example"}
    path = write(task, {**ANSWER, "output": "ask bob@shop.example"}, {**SECOND, "shadow": {**SHADOW, **texts}})
    (merged,) = read_logs(task, store).rows
    assert merged["output"] == merged["shadow"]["output"] == merged["shadow"]["champion_output"] == "ask [EMAIL_2]"
    forget(task, store, ["ann"], [])
    assert path.read_text() == "" and read_logs(task, store).lines == 0


def test_what_only_reviewers_decide_is_evidence_and_each_question_counts_once() -> None:
    rows = [
        *(row(i, "howto") for i in range(6)),  # the second alone is right
        *(row(i, "bug") for i in range(6, 8)),  # the champion alone is right
        row(8, "other"),  # neither
        row(9, "howto", input="text 0"),  # asked again
        row(10, "howto", reviewed=False),  # reported by its user
        row(11, score=0.9), row(12, score=0.1), row(13, flag="bad", **said("bug")),
        row(14, "bug", **said("bug")), row(15, **said("bug")),  # the same answer
        row(16, "bug", **said(None, problem="too long")), row(17, **said("Bug!")),
        row(18, shadow=None), row(19, model_version="t:0", shadow=None),
    ]  # fmt: skip
    report = compare_shadow(rows, spec(low_score=0.5))
    assert report is not None
    assert (report.rows, report.questions, report.unanswered, report.same, report.decided) == (18, 17, 1, 3, 10)
    assert report.agreement == wilson_interval(3, 17, 0.95)
    assert (report.champion.right, report.shadow.right) == (3, 6)
    assert (report.champion.valid, report.shadow.valid, report.shadow.failed) == (17, 15, 1)
    assert report.champion.seconds == pytest.approx((0.1, 0.1)) and report.shadow.seconds == pytest.approx((0.2, 0.2))
    reported = report.reported
    assert (reported.corrected, reported.champion_right, reported.shadow_right) == (1, 0, 1)
    assert (reported.liked, reported.liked_same, reported.disliked, reported.disliked_same) == (1, 0, 2, 1)
    assert report.better is None and report.limit == pytest.approx(40)
    lines = shadow_lines(report, "t")
    assert "10 of 14 questions with different answers; t:1 alone right 3, t:2 alone right 6, neither 1" in lines[5]
    assert lines[-1] == "  next: decide them all, in their order: finetune review t --what flagged"
    all_decided = compare_shadow(
        [row(1, "howto"), row(2, "other"), row(3, **said("bug")), row(4, **said("bug"))], spec()
    )
    assert all_decided is not None and (all_decided.questions, all_decided.same, all_decided.decided) == (4, 2, 2)
    assert shadow_lines(all_decided, "t")[-1].startswith("  neither is surely better"), "nothing is left to decide"
    rated = all_decided.reported
    assert (rated.corrected, rated.liked, rated.disliked) == (0, 0, 0), "reviewers' decisions are no users' reports"


@pytest.mark.parametrize("better", ["shadow", "champion"])
def test_the_surely_better_one_is_named_since_when_and_stays_so(better: str) -> None:
    right, wrong = ("howto", "bug") if better == "shadow" else ("bug", "howto")
    rows = [row(i, wrong if i % 8 == 7 else right) for i in range(60)]
    report = compare_shadow(rows, spec())
    assert report is not None and report.better == better
    assert max(report.shadow.evidence, report.champion.evidence) >= 40
    later = compare_shadow([*rows, *(row(i, wrong) for i in range(60, 70))], spec())
    assert later is not None and (later.better, later.since) == (better, report.since)
    name = {"shadow": "t:2", "champion": "t:1"}[better]
    assert f"{name} is surely better, since 2026-05-01 (evidence " in shadow_lines(report, "t")[-1]


def test_equally_good_models_are_called_different_at_most_at_the_level() -> None:
    rng = np.random.default_rng(3)
    worlds = []
    for _ in range(200):
        rights = np.where(rng.random(150) < 0.5, "bug", "howto")
        report = compare_shadow([row(i, str(right)) for i, right in enumerate(rights)], spec())
        assert report is not None
        worlds.append(report.better is not None)
    assert sum(worlds) <= 200 * 0.05


def test_only_the_latest_pair_is_compared() -> None:
    rows = [
        row(1, "howto", **said("howto", model_version="t:9")),
        row(2, "bug"),
        row(3, "howto", **said("x", champion="t:0")),
    ]
    report = compare_shadow([rows[0], rows[2], rows[1]], spec())
    assert report is not None and (report.shadow.name, report.rows, report.decided) == ("t:2", 1, 1)
    assert compare_shadow([row(1, shadow=None)], spec()) is None


def test_rows_that_decide_come_first_in_an_order_that_does_not_depend_on_who_is_right() -> None:
    rows = [
        row(1, **said("bug"), passed_on=True),
        *(row(i, flag="bad" if i % 2 else None) for i in range(2, 12)),
        row(12, "howto", reviewed=False),  # its user's word is none of a reviewer
        row(13, "bug"),  # decided
        row(14, **said("howto", champion="t:0")),  # an earlier champion
        row(15),
    ]
    queue = choose(spec(), rows).queue
    flagged = [entry["flag"] for entry, _ in queue[:-1]]
    assert [entry["id"] for entry, _ in queue[-1:]] == ["1"] and queue[-1][1] == PASSED_ON
    assert {entry["id"] for entry, _ in queue[:-1]} == {*map(str, range(2, 13)), "15"}
    assert flagged != sorted(flagged, key=str) and flagged != sorted(flagged, key=str, reverse=True)
    assert choose(spec(), rows).queued() == {PASSED_ON: 1, "flagged": 5, DIFFERS: 7}
    unflagged = [entry["id"] for entry, _ in choose(spec(), [row(i) for i in range(2, 12)]).queue]
    assert [entry["id"] for entry, _ in queue if int(entry["id"]) in range(2, 12)] == unflagged


def test_reviewers_see_both_answers(task: Task) -> None:
    (item,) = flagged_queue(task, [row(1, why=DIFFERS)], b"").items
    assert [block["text"] for block in item["blocks"]] == ["text 1", "bug", "howto"]
    assert item["blocks"][2]["title"] == "Answer of t:2, which nobody got"
