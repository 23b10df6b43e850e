"""A person's rows go, nobody else's do, and a writer or a kill in between changes nothing."""

from __future__ import annotations

import gzip
import json
import sqlite3
from pathlib import Path

import pytest

from benchmarks.log_kills import make_task
from finetune_pipeline.artifacts import ArtifactStore, Builder, write_json
from finetune_pipeline.production import forget as module
from finetune_pipeline.production.erasing import Needles, sweep
from finetune_pipeline.production.forget import forget
from finetune_pipeline.production.intake import log_store, take_in
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
    live = (logs / "a.jsonl").open("ab", buffering=0)
    live.write(line(1, "ann") + line(2, "bob") + line(3, "ann"))
    (logs / "b.jsonl.1.gz").write_bytes(gzip.compress(line(4, "bob") + line(5, "ann")))
    (logs / "c.jsonl").write_bytes(line(6, "bob") + b'{"user": "ann", "input": "a broken row"}\n')
    (logs / "late.jsonl").write_text(
        json.dumps({"id": "row-0001", "timestamp": "2026-05-02T10:00:00Z", "feedback": {"flag": "x"}}) + "\n"
    )
    take_in(task, store)
    told = forget(task, store, store.root.parent, users=["ann"])
    assert (told.lines, told.rows) == (5, 5)
    assert ids(task, store) == ["row-0002", "row-0004", "row-0006"]
    left = everything(logs, store.root)
    assert b"ann" not in left and b"row-0001" not in left
    live.write(line(7, "bob") + line(8, "ann"))
    live.close()
    assert ids(task, store) == ["row-0002", "row-0004", "row-0006", "row-0007"], "read once, and the user stays out"
    again = forget(task, store, store.root.parent, users=["ann"])
    assert again.lines == 1, "the row that came in since"
    assert forget(task, store, store.root.parent, users=["ann"]).lines == 0
    (logs / "a.jsonl").rename(logs / "a.jsonl.1")
    assert ids(task, store) == ["row-0002", "row-0004", "row-0006", "row-0007"]


def test_a_row_by_its_id(task: Task, store: ArtifactStore) -> None:
    (task.folder / "logs" / "a.jsonl").write_bytes(line(1, "ann") + line(2, "ann") + line(3))
    told = forget(task, store, store.root.parent, ids=["row-0003"])
    assert (told.rows, told.splits, told.adapters) == (1, [], [])
    assert ids(task, store) == ["row-0001", "row-0002"]


@pytest.mark.parametrize("step", ["_trained_on", "_from_files", "_remove_data", "sweep", "erase"])
def test_killed_in_between_and_repeated(
    task: Task, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    (task.folder / "logs" / "a.jsonl").write_bytes(line(1, "ann") + line(2, "bob") + line(3, "ann"))
    (task.folder / "logs" / "b.jsonl").write_bytes(line(4, "ann") + line(5, "bob"))
    take_in(task, store)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, dies)
        with pytest.raises(KeyboardInterrupt):
            forget(task, store, store.root.parent, users=["ann"])
    forget(task, store, store.root.parent, users=["ann"])
    assert ids(task, store) == ["row-0002", "row-0005"]
    assert b"ann" not in everything(task.folder / "logs", store.root)


def test_the_ledger_knows_the_changed_file_before_it_changes(
    task: Task, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_pipeline.production import log_erasure

    (task.folder / "logs" / "a.jsonl").write_bytes(line(1, "ann") + line(2, "bob"))
    take_in(task, store)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(log_erasure.os, "pwrite", dies)
        with pytest.raises(KeyboardInterrupt):
            forget(task, store, store.root.parent, users=["ann"])
    assert ids(task, store) == ["row-0001", "row-0002"], "nothing is read twice"
    forget(task, store, store.root.parent, users=["ann"])
    assert ids(task, store) == ["row-0002"]


def test_the_sweep_finds_text_in_every_form_and_leaves_the_rest(tmp_path: Path) -> None:
    text = 'my "parcel" & the courier <never> came — and nobody answered at all'
    home = tmp_path / "home"
    home.mkdir()
    (home / "page.html").write_text("<p>my &quot;parcel&quot; &amp; the courier &lt;never&gt; came</p> other text")
    (home / "log.json").write_text(json.dumps({"event": json.dumps({"text": text})}))
    with sqlite3.connect(home / "runs.db") as db:
        db.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, body TEXT, kept TEXT)")
        db.execute("INSERT INTO events (body, kept) VALUES (?, ?)", (json.dumps({"md": text}), "of another row"))
    db.close()
    before = {p.name: p.stat().st_size for p in home.iterdir()}
    assert sweep(home, Needles([], [], [text]), lambda path: False) == 3
    left = everything(home)
    for part in ("courier", "nobody answered"):
        assert part.encode() not in left
    assert b"other text" in left and b"of another row" in left
    assert json.loads(json.loads((home / "log.json").read_text())["event"])["text"]
    assert (home / "page.html").stat().st_size == before["page.html"]
    with sqlite3.connect(home / "runs.db") as db:
        assert json.loads(db.execute("SELECT body FROM events").fetchone()[0])["md"] != text
    db.close()


def test_answers_to_a_persons_row_that_judged_models_go_too(task: Task, store: ArtifactStore) -> None:
    (task.folder / "logs" / "a.jsonl").write_bytes(line(1, "ann") + line(2, "bob"))

    def made(step: str, inputs: dict[str, str], judged: list[str]) -> str:
        def make(builder: Builder) -> None:
            write_json(builder.folder / "production.json", {"ids": judged})

        built = store.build(task.name, step, code_version="1", inputs=inputs, settings=judged, make=make)
        return str(built.version)

    anns, bobs = (made("test_predictions", {}, [name]) for name in ("row-0001", "row-0002"))
    reports = [made("evaluation_report", {"test_predictions": version}, []) for version in (anns, bobs)]
    told = forget(task, store, store.root.parent, users=["ann"])
    assert sorted(told.artifacts) == sorted([f"test_predictions/{anns}", f"evaluation_report/{reports[0]}"])
    assert store.find(task.name, "test_predictions", bobs) and store.find(task.name, "evaluation_report", reports[1])
