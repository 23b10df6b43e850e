"""Rows that people answer for test and validation: shown without the teacher's answer, stored per person, gold where they agree."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.people import people_examples, read_people
from finetune_pipeline.data.raw_files import PEOPLE_FILE, collect_raw, raw_digest
from finetune_pipeline.review.people_queue import people_queue, progress, rows_wanted
from finetune_pipeline.review.queues import ReviewQueue
from finetune_pipeline.review.server import review_app
from finetune_pipeline.spec.model import Task, TaskSpec

TEACHER = {"endpoint": {"url": "http://127.0.0.1:9", "model": "large"}, "allowed": True, "budget_usd": 1.0}
ROWS = [Example(id=f"{n:016x}", messages=[{"role": "user", "content": f"question {n}"}]) for n in range(20)]


def task_of(folder: Path, **more: Any) -> Task:
    given = {"name": "demo", "description": "d", "system_prompt": "Say yes or no.", "teacher": TEACHER, **more}
    given.setdefault("output", {"kind": "labels", "labels": ["yes", "no"]})
    spec = TaskSpec.model_validate({**given, "data": {"unlabelled": ["unlabelled/*"]}})
    (folder / "demo").mkdir()
    return Task(spec=spec, folder=folder / "demo")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return task_of(tmp_path)


def queue_of(task: Task, rater: str, items: int = 60) -> ReviewQueue:
    people = read_people(task.folder, task.spec)
    return people_queue(task, ROWS, people, {row.id: "yes" for row in ROWS}, rater, items)


def hand_in(task: Task, rater: str, name: str, **decision: str) -> str:
    """Post a decision as the page does. Returns what the page says of it."""
    queue = queue_of(task, rater)
    with TestClient(
        review_app("", queue.take, queue.target(rater), queue.reveal), base_url="http://127.0.0.1"
    ) as client:
        return client.post("/ratings", json={"id": name, "reviewer": rater, **decision}).text


def test_the_teachers_answer_is_shown_after_the_persons_is_stored(task: Task) -> None:
    page = people_queue(task, ROWS, read_people(task.folder, task.spec), {ROWS[0].id: "SECRET"}, "Ada", 60).page()
    assert "SECRET" not in page and "question 0" in page
    assert hand_in(task, "Ada", ROWS[0].id, decision="answer", answer="yes") == "stored"
    said = hand_in(task, "Ada", ROWS[1].id, decision="answer", answer="no")
    assert said == "yes\n\nYour answer is stored and counts: no"
    lines = (task.folder / "people" / "Ada.jsonl").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in lines] == ["yes", "no"]


def test_who_has_seen_the_teachers_answer_changes_the_own_one_no_more(task: Task) -> None:
    hand_in(task, "Ada", ROWS[1].id, decision="skip", comment="unclear")
    hand_in(task, "Ada", ROWS[1].id, decision="answer", answer="no")
    for later in ({"decision": "answer", "answer": "yes"}, {"decision": "skip", "comment": "after all"}):
        assert "your answer 'no' counts" in hand_in(task, "Ada", ROWS[1].id, **later)
    assert "counts: no" in hand_in(task, "Ada", ROWS[1].id, decision="answer", answer="no"), "sent again"
    assert [example.label for example in people_examples(task)] == ["no"]


@pytest.mark.parametrize(
    ("decision", "problem"),
    [
        ({"decision": "answer", "answer": "perhaps"}, "not one of the labels"),
        ({"decision": "skip"}, "needs the reason"),
        ({"decision": "keep", "answer": "yes"}, "Invalid enum value"),
        ({}, "nothing was decided"),
    ],
)
def test_what_is_no_answer_is_not_stored(task: Task, decision: dict[str, str], problem: str) -> None:
    assert problem in hand_in(task, "Ada", ROWS[0].id, **decision)
    assert not (task.folder / "people").exists()


def test_the_order_is_random_and_every_fifth_row_is_shown_to_a_second_person(task: Task) -> None:
    first = [item["id"] for item in queue_of(task, "Ada").items]
    assert sorted(first) == [row.id for row in ROWS] and first != sorted(first)
    assert [item["id"] for item in queue_of(task, "Ada", items=3).items] == first[:3]
    for name in first:
        hand_in(task, "Ada", name, decision="answer", answer="yes")
    assert [item["id"] for item in queue_of(task, "Bo").items] == first[::5] and not queue_of(task, "Ada").items


def test_a_row_that_two_people_answer_differently_is_gold_once_they_agree(task: Task) -> None:
    shared = [item["id"] for item in queue_of(task, "Ada").items][::5]
    for name, other in zip(shared, ("yes", "yes", "no", "no"), strict=True):
        hand_in(task, "Ada", name, decision="answer", answer="yes" if name != shared[3] else "no")
        hand_in(task, "Bo", name, decision="answer", answer=other)
    people = read_people(task.folder, task.spec)
    assert people.unsettled(task.spec) == [shared[2]] and len(people_examples(task)) == 3
    assert "3 of at least" in progress(people, task.spec) and "4 rows, 3 of them alike (kappa 0.50" in progress(
        people, task.spec
    )
    first = queue_of(task, "Bo").items[0]
    assert first["id"] == shared[2] and first["blocks"][1]["text"] == "Ada: yes\nBo: no"
    hand_in(task, "Bo", shared[2], decision="answer", answer="yes")
    people = read_people(task.folder, task.spec)
    assert "3 of them alike (kappa 0.50" in progress(people, task.spec), (
        "agreeing afterwards is no agreement of two opinions"
    )
    gold = {example.id: example for example in people_examples(task)}
    assert gold[shared[2]].label == "yes" and gold[shared[2]].origin == "human" and len(gold) == 4


def test_a_row_that_cannot_be_answered_is_counted_and_not_gold(task: Task) -> None:
    hand_in(task, "Ada", ROWS[0].id, decision="skip", comment="it is empty")
    assert people_examples(task) == [] and ", 1 skipped" in progress(read_people(task.folder, task.spec), task.spec)


def test_a_line_cut_by_a_kill_costs_no_other_and_is_named(task: Task) -> None:
    for row in ROWS[:2]:
        hand_in(task, "Ada", row.id, decision="answer", answer="yes")
    file = task.folder / "people" / "Ada.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    hand_in(task, "Ada", ROWS[2].id, decision="answer", answer="no")
    people = read_people(task.folder, task.spec)
    assert [e.id for e in people_examples(task)] == [ROWS[0].id, ROWS[2].id]
    assert [f.place for f in people.findings] == ["people/Ada.jsonl:2"]


def test_the_rows_are_a_raw_file_before_the_teachers(task: Task, tmp_path: Path) -> None:
    hand_in(task, "Ada", ROWS[0].id, decision="answer", answer="yes")
    teacher = tmp_path / "teacher.jsonl"
    teacher.write_text("{}\n")
    facts = collect_raw(task, tmp_path / "out", teacher=teacher)
    assert [file.file for file in facts.files] == [PEOPLE_FILE, "teacher.jsonl"] and facts.digest == raw_digest(task)
    hand_in(task, "Ada", ROWS[1].id, decision="answer", answer="no")
    assert raw_digest(task) != facts.digest


def test_free_text_is_written_and_json_must_be_valid(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    task = task_of(tmp_path, output={"kind": "json", "json_schema": schema})
    assert "breaks the schema" in hand_in(task, "Ada", ROWS[0].id, decision="answer", answer='{"n": "x"}')
    assert hand_in(task, "Ada", ROWS[0].id, decision="answer", answer='{"n": 1}').endswith('counts: {"n": 1}')
    assert people_examples(task)[0].answer == '{"n": 1}' and people_examples(task)[0].label is None


def test_more_rows_are_wanted_for_smaller_gains(tmp_path: Path, task: Task) -> None:
    (tmp_path / "other").mkdir()
    small = task_of(tmp_path / "other", gates={"wanted_gain": 0.04})
    assert 0 < rows_wanted(task.spec) < rows_wanted(small.spec)
