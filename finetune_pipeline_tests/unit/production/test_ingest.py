"""Production logs: complete lines only, every line accounted for, nothing personal kept."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import yaml

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.production.ingest import ingest, read_logs
from finetune_pipeline.production.used_rows import waiting_rows
from finetune_pipeline.spec import Task, load_task

LABELS = ["bug", "billing"]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    folder = tmp_path / "demo"
    (folder / "logs").mkdir(parents=True)
    (folder / "task.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "demo",
                "description": "d",
                "system_prompt": "bug billing",
                "output": {"kind": "labels", "labels": LABELS},
                "logs": {"min_new_rows": 2, "settle_seconds": 60},
                "data": {"scrub_region": "ES"},
            }
        )
    )
    return load_task(folder)


def row(n: int, **more: object) -> dict:
    return {
        "id": f"r{n}",
        "timestamp": "2026-05-01T10:00:00Z",
        "input": f"ticket {n}",
        "output": "bug",
        "model_version": "1",
        **more,
    }


def write(task: Task, rows: list[dict | str], name: str = "a.jsonl", end: str = "\n") -> Path:
    path = task.folder / "logs" / name
    text = "\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + end
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def take(task: Task, tmp_path: Path) -> dict:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return ingest(task.spec, read_logs(task, ArtifactStore(tmp_path / "store")), out)


def test_a_half_written_line_waits(task: Task, tmp_path: Path) -> None:
    write(task, [row(1), row(2)], end="")
    store = ArtifactStore(tmp_path / "store")
    assert take(task, tmp_path)["rows"] == 1
    before = read_logs(task, store).digest
    write(task, [row(1), row(2)])
    assert take(task, tmp_path)["rows"] == 2
    assert read_logs(task, store).digest != before


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("{broken", "log.bad_json"),
        (json.dumps({k: v for k, v in row(1).items() if k != "id"}), "log.missing_field"),
        (json.dumps({k: v for k, v in row(1).items() if k != "input"}), "log.missing_field"),
        (json.dumps(row(1, timestamp="yesterday")), "log.timestamp"),
        (json.dumps(row(1, timestamp="0001-01-01T00:00:00+14:00")), "log.timestamp"),
        (json.dumps(row(1, timestamp="9999-12-31T23:59:59-14:00")), "log.timestamp"),
        (json.dumps(row(1, feedback="bad")), "log.wrong_type"),
        (json.dumps(row(1, feedback={"score": 10**400})), "log.wrong_type"),
        (json.dumps(row(1, feedback={"score": float("nan")})), "log.bad_json"),
        (json.dumps(row(1, feedback={"score": 1})).replace(": 1}", ": 1e999}"), "log.bad_json"),
        (json.dumps(row(1, user=["ann"])), "log.wrong_type"),
        (json.dumps(row(1, feedback={"label": "Bug"})), "log.unknown_label"),
    ],
)
def test_each_fault_is_quarantined_by_its_rule_and_good_rows_go_on(
    task: Task, tmp_path: Path, line: str, rule: str
) -> None:
    write(task, [row(7), line, row(8)])
    facts = take(task, tmp_path)
    assert facts["by_rule"] == {rule: 1}
    assert (facts["lines"], facts["rows"], facts["quarantined"]) == (3, 2, 1)
    (bad,) = read_rows(tmp_path / "out" / "quarantine.jsonl")
    assert (bad["file"], bad["line"]) == ("logs/a.jsonl", 2)


def test_corrections_become_examples_and_late_feedback_counts(task: Task, tmp_path: Path) -> None:
    write(task, [row(1), row(2), row(1, feedback={"label": "billing", "flag": "wrong"})])
    facts = take(task, tmp_path)
    assert (facts["corrections"], facts["flagged"], facts["rows"], facts["duplicates"]) == (1, 1, 2, 1)
    (example,) = read_examples(tmp_path / "out" / "examples.jsonl")
    assert (example.user_text, example.answer, example.label, example.origin) == (
        "ticket 1",
        "billing",
        "billing",
        "production",
    )
    assert example.messages[0] == {"role": "system", "content": "bug billing"}


def test_personal_data_and_users_are_gone_before_anything_is_written(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        task,
        [
            row(1, input="write to ann@shop.example, 612 34 56 78", user="ann", feedback={"label": "bug"}),
            '{"bad": "bob@shop.example, 612 34 56 78", "user": "bob"',
        ],
    )
    monkeypatch.delenv("FINETUNE_USER_KEY", raising=False)
    take(task, tmp_path)
    written = "".join(p.read_text() for p in tmp_path.rglob("*.json*") if "demo/logs" not in str(p))
    assert '"ann"' not in written
    assert "ann@" not in written
    assert "bob" not in written
    assert "612 34" not in written
    assert "[EMAIL_1], [PHONE_1]" in written
    hashes = {read_rows(tmp_path / "out" / "rows.jsonl")[0]["user"]}
    for key in ("one", "two"):
        monkeypatch.setenv("FINETUNE_USER_KEY", key)
        out = tmp_path / key
        out.mkdir()
        ingest(task.spec, read_logs(task, ArtifactStore(out / "store")), out)
        hashes.add(read_rows(out / "rows.jsonl")[0]["user"])
    assert len(hashes) == 3
    assert None not in hashes


def test_the_question_of_the_sensor(task: Task, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    assert waiting_rows(task, store).sentence == "0 of 2 corrected new rows in logs/"
    path = write(task, [row(1, feedback={"label": "bug"}), row(2, feedback={"label": "bug"}), row(3)])
    written = path.stat().st_mtime
    young = waiting_rows(task, store, now=written + 5)
    assert not young.ready
    assert "must rest for 60 s" in young.sentence
    waits = waiting_rows(task, store, now=written + 61)
    assert waits.ready
    assert waits.usable == 2
    store.build(
        "demo",
        "production_logs",
        code_version="1",
        inputs={},
        settings=None,
        make=lambda b: b.facts.update(ingest(task.spec, read_logs(task, store), b.folder)),
    )
    assert waiting_rows(task, store, now=written + 61).usable == 2, "taken in, but no candidate was made from them yet"
