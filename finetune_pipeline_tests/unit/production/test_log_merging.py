"""Production logs: complete lines only, every line accounted for, nothing personal kept."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.engine.store import ArtifactStore, Builder
from finetune_pipeline.production.log_merging import LatestResult, LogFacts, read_logs, write_logs
from finetune_pipeline.production.used_rows import waiting_rows
from finetune_pipeline.spec import Task
from finetune_pipeline_tests.unit.production.streams import task_of


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return task_of(tmp_path, logs={"min_new_rows": 2, "settle_seconds": 60}, data={"scrub_region": "ES"})


def row(n: int, **more: object) -> dict:
    fields = {"timestamp": "2026-05-01T10:00:00Z", "input": f"ticket {n}", "output": "a", "model_version": "1"}
    return {"id": f"r{n}", **fields, **more}


def without(name: str) -> dict:
    return {key: value for key, value in row(1).items() if key != name}


def write(task: Task, rows: list[dict | str], end: str = "\n") -> Path:
    path = task.folder / "logs" / "a.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + end)
    return path


def take(task: Task, store: ArtifactStore, out: Path) -> LogFacts:
    out.mkdir(exist_ok=True)
    return write_logs(task.spec, read_logs(task, store), out)


def test_a_half_written_line_waits(task: Task, store: ArtifactStore, tmp_path: Path) -> None:
    half = json.dumps(row(2))[:-1]
    write(task, [row(1), half], end="")
    assert take(task, store, tmp_path / "out").rows == 1
    before = read_logs(task, store).digest
    write(task, [row(1), row(2)])
    assert take(task, store, tmp_path / "out").rows == 2
    assert read_logs(task, store).digest != before


def test_the_last_row_of_a_file_needs_no_line_end(task: Task, store: ArtifactStore, tmp_path: Path) -> None:
    write(task, [row(1)], end="")
    assert take(task, store, tmp_path / "out").rows == 1
    write(task, [row(1), row(2), "{broken"])
    facts = take(task, store, tmp_path / "out")
    assert (facts.lines, facts.rows, facts.duplicates) == (3, 2, 0)
    assert read_rows(tmp_path / "out" / "quarantine.jsonl")[0]["line"] == 3
    write(task, [json.dumps([row(1), row(2)])], end="")
    assert take(task, store, tmp_path / "out").by_rule == {"log.bad_json": 1, "log.not_an_object": 1}


def test_a_byte_order_mark_and_an_answer_of_nothing_are_no_faults(task, store, tmp_path) -> None:
    write(task, ["\ufeff" + json.dumps(row(1, output="", feedback={"label": "b"}))])
    facts = take(task, store, tmp_path / "out")
    assert (facts.rows, facts.corrections, facts.by_rule) == (1, 1, {})


def test_times_are_read_as_programs_write_them(task, store, tmp_path) -> None:
    times: list[Any] = ["2026-06-30t23:59:60z", 1782863999, 1782863999.5, 1782863999000, "1782863999000000"]
    write(task, [row(n, timestamp=time) for n, time in enumerate(times)])
    assert take(task, store, tmp_path / "out").rows == len(times)
    read = [r["timestamp"] for r in read_rows(tmp_path / "out" / "rows.jsonl")]
    assert {time[:19] for time in read} == {"2026-06-30T23:59:59"} and all(time.endswith("+00:00") for time in read)


USER = {"role": "user", "content": "hello"}
FAULTS: list[tuple[str, dict | str]] = [
    ("bad_json", "{broken"),
    ("missing_field", without("id")),
    ("missing_field", without("input")),
    ("missing_field", row(1, messages=[{"role": "human", "content": "hello"}])),
    ("missing_field", row(1, messages=[{"role": "user", "content": "hello"}, {"role": "assistant", "content": "a"}])),
    ("timestamp", row(1, timestamp="yesterday")),
    ("timestamp", row(1, timestamp=True)),
    ("timestamp", row(1, timestamp=10**400)),
    ("timestamp", row(1, timestamp="0001-01-01T00:00:00+14:00")),
    ("timestamp", row(1, timestamp="9999-12-31T23:59:59-14:00")),
    ("wrong_type", row(1, feedback="bad")),
    ("wrong_type", row(1, feedback={"score": 10**400})),
    ("wrong_type", row(1, feedback={"score": True})),
    ("timestamp", row(1, timestamp="1969-12-31T23:59:59Z")),
    ("timestamp", row(1, timestamp="2200-01-01T00:00:00Z")),
    ("timestamp", row(1, timestamp="2026-05-01T10:00:00")),
    ("bad_json", row(1, feedback={"score": float("nan")})),
    ("bad_json", json.dumps(row(1, feedback={"score": 1})).replace(": 1}", ": 1e999}")),
    ("wrong_type", row(1, user=["ann"])),
    ("unknown_label", row(1, feedback={"label": "A"})),
    ("unknown_feedback", row(1, feedback={"thumb": "down"})),
    ("wrong_type", row(1, feedback={"flag": {"value": False}})),
    ("wrong_type", row(1, field_probabilities={"city": 1.5})),
    ("wrong_type", row(1, field_probabilities=[0.5])),
    ("wrong_type", row(1, fields_passed_on=["city", 1])),
    ("two_answers", row(1, feedback={"label": "a", "correction": "b"})),
    # a conversation that cannot be told as it was is not told without its tool calls and pictures
    ("missing_field", row(1, messages=[USER, {"role": "assistant", "content": "", "tool_calls": [{}]}, USER])),
    ("missing_field", row(1, messages=[USER, {"role": "tool", "content": "4"}])),
    ("missing_field", row(1, messages=[{"role": "user", "content": [{"type": "image_url"}]}])),
]


def test_each_fault_is_quarantined_by_its_rule_and_good_rows_go_on(task, store, tmp_path) -> None:
    write(task, [row(7), *(line for _, line in FAULTS), row(8)])
    facts = take(task, store, tmp_path / "out")
    assert (facts.lines, facts.rows, facts.quarantined) == (len(FAULTS) + 2, 2, len(FAULTS))
    bad_lines = [
        (r["file"], r["line"], [f["rule"] for f in r["findings"]]) for r in read_rows(tmp_path / "out/quarantine.jsonl")
    ]
    assert bad_lines == [("logs/a.jsonl", n, [f"log.{rule}"]) for n, (rule, _) in enumerate(FAULTS, 2)]


def test_corrections_become_examples_and_late_feedback_counts(task: Task, store: ArtifactStore, tmp_path: Path) -> None:
    first = [row(1, feedback={"label": "a", "flag": flag}) for flag in "xyz"]
    taken_back = [row(2, feedback={"flag": flag}) for flag in (True, False)]
    write(task, [row(1), row(2), *first, row(1, feedback={"label": "b", "flag": "wrong"}), *taken_back])
    facts = take(task, store, tmp_path / "out")
    assert [r["flag"] for r in read_rows(tmp_path / "out" / "rows.jsonl")] == ["wrong", None]
    assert (facts.corrections, facts.flagged, facts.rows, facts.duplicates) == (1, 1, 2, 6)
    (example,) = read_examples(tmp_path / "out" / "examples.jsonl")
    assert (example.user_text, example.answer, example.label) == ("ticket 1", "b", "b")
    assert example.origin == "production" and example.messages[0] == {"role": "system", "content": "s"}


@pytest.mark.parametrize("late_first", [False, True])
def test_the_latest_feedback_counts_in_whatever_order_its_lines_are_written(task, store, tmp_path, late_first) -> None:
    """Two servers write; the file that is read first, or the line above, may hold the later opinion."""
    early = row(1, timestamp="2026-05-02T10:00:00Z", feedback={"label": "a", "flag": "wrong", "score": 0.1})
    late = row(1, timestamp="2026-05-03T10:00:00Z", feedback={"label": "b", "flag": "fine", "score": 0.9})
    late_feedback_only = {"id": "r1", "timestamp": "2026-05-04T10:00:00Z", "feedback": {"score": 0.5}}
    lines = [late_feedback_only, late, early] if late_first else [early, late, late_feedback_only]
    write(task, [row(1), *lines])
    take(task, store, tmp_path / "out")
    (merged,) = read_rows(tmp_path / "out" / "rows.jsonl")
    assert (merged["correction"], merged["flag"], merged["score"]) == ("b", "fine", 0.5)
    (example,) = read_examples(tmp_path / "out" / "examples.jsonl")
    assert example.answer == "b"


def test_feedback_is_kept_as_it_was_meant(task: Task, store: ArtifactStore, tmp_path: Path) -> None:
    meant: list[tuple[dict[str, Any], tuple[Any, Any, Any]]] = [
        ({"flag": True}, ("flagged", None, None)),
        ({"flag": 1}, ("flagged", None, None)),
        ({"flag": 0}, (None, None, None)),
        ({"flag": "", "score": 0}, (None, 0.0, None)),
        ({"score": -1, "correction": " b "}, (None, -1.0, "b")),
        ({"label": "b", "correction": " b"}, (None, None, "b")),
        ({"left_out": True, "label": "b"}, (None, None, "b")),  # only a review leaves rows out
    ]
    first, last = "1970-01-01T00:00:00Z", "2199-12-31T23:59:59Z"
    rows = [row(n, feedback=feedback, user="", timestamp=last) for n, (feedback, _) in enumerate(meant)]
    write(task, [*rows, row(99, timestamp=first)])
    facts = take(task, store, tmp_path / "out")
    assert (facts.quarantined, facts.corrections, facts.left_out) == (0, 3, 0)
    read = {r["id"]: r for r in read_rows(tmp_path / "out" / "rows.jsonl")}
    assert [tuple(read[f"r{n}"][key] for key in ("flag", "score", "correction")) for n in range(len(meant))] == [
        expected for _, expected in meant
    ]
    assert {r["user"] for r in read.values()} == {None}, "no text is nobody's name"


def test_a_developer_turn_is_a_system_turn_and_an_empty_label_hides_no_correction(task, store, tmp_path) -> None:
    turns = [{"role": "developer", "content": "Answer shortly."}, USER]
    write(task, [row(1, messages=turns, feedback={"label": "", "correction": "b"})])
    take(task, store, tmp_path / "out")
    (example,) = read_examples(tmp_path / "out" / "examples.jsonl")
    assert [(m["role"], m["content"]) for m in example.messages] == [
        ("system", "s"),
        ("user", "hello"),
        ("assistant", "b"),
    ]


def test_what_is_said_of_one_question_is_not_said_of_another_with_its_id(task, store, tmp_path) -> None:
    write(task, [row(1), row(1, output="b"), row(1, input="another", feedback={"label": "b", "flag": "wrong"})])
    facts = take(task, store, tmp_path / "out")
    assert (facts.lines, facts.rows, facts.duplicates) == (3, 1, 1)
    assert (facts.by_rule, facts.corrections, facts.flagged) == ({"log.id_reused": 1}, 0, 0)
    assert read_rows(tmp_path / "out" / "quarantine.jsonl")[0]["line"] == 3


@pytest.mark.parametrize(("days", "ready"), [(13.9, False), (14.0, True)])
def test_too_few_corrections_do_not_wait_for_ever(
    tmp_path: Path, store: ArtifactStore, days: float, ready: bool
) -> None:
    task = task_of(tmp_path, logs={"min_new_rows": 3}, retraining={"longest_wait_days": 14})
    late = row(2, timestamp="2026-05-02T10:00:00Z", feedback={"label": "b"})
    write(task, [late, row(1, feedback={"label": "a"}), row(3)])
    logged = datetime(2026, 5, 1, 10, tzinfo=UTC).timestamp()
    waiting = waiting_rows(task, store, now=logged + days * 86_400)
    assert (waiting.ready, waiting.usable) == (ready, 2)
    reason = (
        "but the oldest has waited 14 days, longer than 14"
        if ready
        else "the oldest has waited 13.9 of at most 14 days"
    )
    assert reason in waiting.sentence


def test_rows_held_back_are_told_with_the_way_to_use_them(tmp_path: Path, store: ArtifactStore) -> None:
    task = task_of(tmp_path, logs={"min_new_rows": 12, "max_family_share": 1.0})
    write(task, [row(n, user="ann", feedback={"label": "a"}) for n in range(12)])
    waiting = waiting_rows(task, store, now=datetime(2026, 5, 1, 11, tzinfo=UTC).timestamp())
    assert (waiting.ready, waiting.usable) == (False, 5), "of one user, five rows count without a review"
    assert "7 more are held back (poison_user_share 7)" in waiting.sentence
    assert "finetune review demo --what flagged" in waiting.sentence


def test_personal_data_and_users_are_gone_before_anything_is_written(task, store, tmp_path, monkeypatch) -> None:
    anns = row(1, input="write to ann@shop.example, 612 34 56 78", user="ann", feedback={"label": "a"})
    wrapped = json.dumps({"log": json.dumps(row(2, user="bob")), "stream": "stdout"})
    write(task, [anns, '{"bad": "bob@shop.example, 612 34 56 78", "user": "bob"', wrapped])
    monkeypatch.delenv("FINETUNE_USER_KEY", raising=False)
    take(task, store, tmp_path / "out")
    written = "".join(p.read_text() for p in tmp_path.rglob("*.json*") if "demo/logs" not in str(p))
    assert not [name for name in ('"ann"', "ann@", "bob", "612 34") if name in written]
    assert "[EMAIL_1], [PHONE_1]" in written
    cut, within = read_rows(tmp_path / "out" / "quarantine.jsonl")
    assert cut["users"] == within["users"] != [], "a shipper's wrapping hides no user"
    hashes = {read_rows(tmp_path / "out" / "rows.jsonl")[0]["user"]}
    for key in ("one", "two"):
        monkeypatch.setenv("FINETUNE_USER_KEY", key)
        take(task, ArtifactStore(tmp_path / f"store {key}"), tmp_path / key)
        hashes.add(read_rows(tmp_path / key / "rows.jsonl")[0]["user"])
    assert len(hashes) == 3 and None not in hashes


def test_a_result_is_made_once_for_a_state_of_the_logs_and_again_for_the_next() -> None:
    results, made = LatestResult[int](), []

    def make(value: int) -> Any:
        return lambda: made.append(value) or value

    got = [
        results.latest(name, key, make(n)) for n, (name, key) in enumerate(["a1", "a1", "b1", "a2", "a2", "b1", "a1"])
    ]
    assert got == [0, 0, 2, 3, 3, 2, 6] and made == [0, 2, 3, 6]


def test_the_question_of_the_sensor(task: Task, store: ArtifactStore) -> None:
    assert waiting_rows(task, store).sentence == "0 of 2 corrected new rows in logs/"
    write(task, [row(n, feedback={"label": "a"}) for n in (1, 2)] + [row(3)])  # a file that may change every second
    logged = datetime(2026, 5, 1, 10, tzinfo=UTC).timestamp()
    young, waits = (waiting_rows(task, store, now=logged + seconds) for seconds in (5, 61))
    assert (young.ready, young.usable) == (False, 0)
    assert waits.ready and waits.usable == 2
    assert (
        waiting_rows(task, store, now=logged + 60).usable == 2 and not waiting_rows(task, store, now=logged + 59).usable
    )

    def make(builder: Builder) -> None:
        builder.facts.update(write_logs(task.spec, read_logs(task, store), builder.folder).to_json())

    store.build("demo", "production_logs", code_version="1", inputs={}, settings=None, make=make)
    assert waiting_rows(task, store, now=logged + 61).usable == 2, "taken in, but no candidate was made from them yet"
