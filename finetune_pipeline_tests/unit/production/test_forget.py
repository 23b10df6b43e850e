"""A person's rows go, nobody else's do, and a writer or a kill in between changes nothing."""

from __future__ import annotations

import gzip
import json
import os
import stat
import time
from pathlib import Path

import pytest

from benchmarks.log_kills import make_task
from finetune_pipeline.engine.store import ArtifactStore, Builder, write_json
from finetune_pipeline.production import forget as module
from finetune_pipeline.production.forget import forget
from finetune_pipeline.production.intake import log_store, take_in
from finetune_pipeline.production.log_erasure import StillWritten
from finetune_pipeline.serving.service import LogWriter
from finetune_pipeline.spec import Task, load_task


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return load_task(make_task(tmp_path))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "home" / "artifacts")


def line(n: int, user: str | None = None, **more: object) -> bytes:
    row = {"id": f"row-{n:04d}", "timestamp": "2026-05-01T10:00:00Z", "input": f"ticket {n} of {user} about a parcel"}
    return json.dumps({**row, "output": "a", "model_version": "1", "user": user, **more}).encode() + b"\n"


def settle(folder: Path) -> None:
    """Let a minute pass since the last change of every file."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - 60, time.time() - 60))


def ids(task: Task, store: ArtifactStore) -> list[str]:
    take_in(task, store)
    return sorted(row["id"] for row in log_store(task, store).rows())


def everything(*folders: Path) -> bytes:
    found = b""
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        found += gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    return found


def test_rows_of_a_user_go_and_the_files_go_on(task: Task, store: ArtifactStore) -> None:
    logs = task.folder / "logs"
    (logs / "a.jsonl").write_bytes(line(1, "ann") + line(2, "bob") + line(3, "ann"))
    (logs / "b.jsonl.1.gz").write_bytes(gzip.compress(line(4, "bob") + line(5, "ann")))
    (logs / "c.jsonl").write_bytes(line(6, "bob") + b'{"user": "ann", "input": "a broken row"}\n')
    (logs / "late.jsonl").write_text(
        json.dumps({"id": "row-0001", "timestamp": "2026-05-02T10:00:00Z", "feedback": {"flag": "x"}}) + "\n"
    )
    take_in(task, store)
    settle(logs)
    done = forget(task, store, users=["ann"])
    assert (done.lines, done.rows) == (5, 5)
    assert ids(task, store) == ["row-0002", "row-0004", "row-0006"]
    left = everything(logs, store.root)
    assert b"ann" not in left and b"row-0001" not in left
    assert (logs / "a.jsonl").read_bytes() == line(2, "bob")
    with (logs / "a.jsonl").open("ab") as live:
        live.write(line(7, "bob") + line(8, "ann"))
    assert ids(task, store) == ["row-0002", "row-0004", "row-0006", "row-0007"], "read once, and the user stays out"
    settle(logs)
    assert forget(task, store, users=["ann"]).lines == 1, "the row that came in since"
    assert forget(task, store, users=["ann"]).lines == 0
    (logs / "a.jsonl").rename(logs / "a.jsonl.1")
    assert ids(task, store) == ["row-0002", "row-0004", "row-0006", "row-0007"]


def test_a_file_that_is_still_written_is_refused_and_what_to_do_is_said(task: Task, store: ArtifactStore) -> None:
    logs = task.folder / "logs"
    (logs / "old.jsonl").write_bytes(line(1, "ann"))
    settle(logs)
    with (logs / "a.jsonl").open("ab", buffering=0) as live:
        live.write(line(2, "ann") + line(3, "bob"))
        settle(logs)
        with pytest.raises(StillWritten, match=rf"a.jsonl: process {os.getpid()} .*has it open\nfix: rotate"):
            forget(task, store, users=["ann"])
        assert b"ann" in everything(logs), "nothing is half done"
        (logs / "a.jsonl").rename(logs / "a.jsonl.1")
        live.write(line(4, "ann"))
    with pytest.raises(StillWritten, match="a.jsonl.1: it changed [0-9]+ s ago"):
        forget(task, store, users=["ann"])
    settle(logs)
    assert forget(task, store, users=["ann"]).lines == 3
    assert ids(task, store) == ["row-0003"]


def test_the_log_of_serve_may_grow_meanwhile(task: Task, store: ArtifactStore) -> None:
    writer = LogWriter(task.folder / "logs")
    for number, user in enumerate(["ann", "bob", "ann"], 1):
        writer.write(json.loads(line(number, user)))
    assert forget(task, store, users=["ann"]).lines == 2
    writer.write(json.loads(line(4, "bob")))
    assert ids(task, store) == ["row-0002", "row-0004"]
    assert stat.S_IMODE(writer.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("step", ["_files", "_remove_artifacts"])
def test_killed_in_between_and_repeated(
    task: Task, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    (task.folder / "logs" / "a.jsonl").write_bytes(line(1, "ann") + line(2, "bob") + line(3, "ann"))
    (task.folder / "logs" / "b.jsonl").write_bytes(line(4, "ann") + line(5, "bob"))
    take_in(task, store)
    settle(task.folder / "logs")

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, dies)
        with pytest.raises(KeyboardInterrupt):
            forget(task, store, users=["ann"])
    forget(task, store, users=["ann"])
    assert ids(task, store) == ["row-0002", "row-0005"]
    assert b"ann" not in everything(task.folder / "logs", store.root)


def test_answers_to_a_persons_row_that_judged_models_go_too(task: Task, store: ArtifactStore) -> None:
    (task.folder / "logs" / "a.jsonl").write_bytes(line(1, "ann") + line(2, "bob"))
    settle(task.folder / "logs")

    def made(step: str, inputs: dict[str, str], judged: list[str]) -> str:
        def make(builder: Builder) -> None:
            write_json(builder.folder / "production.json", {"ids": judged})

        built = store.build(task.name, step, code_version="1", inputs=inputs, settings=judged, make=make)
        return str(built.version)

    anns, bobs = (made("test_predictions", {}, [name]) for name in ("row-0001", "row-0002"))
    reports = [made("evaluation_report", {"test_predictions": version}, []) for version in (anns, bobs)]
    done = forget(task, store, users=["ann"])
    assert sorted(done.artifacts) == sorted([f"test_predictions/{anns}", f"evaluation_report/{reports[0]}"])
    assert store.find(task.name, "test_predictions", bobs) and store.find(task.name, "evaluation_report", reports[1])
