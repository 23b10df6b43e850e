"""A person's rows go, nobody else's do, and a writer or a kill in between changes nothing."""

import gzip
import json
import os
import stat
import time
import tracemalloc
from pathlib import Path
from typing import Any

import fsspec
import pytest

from finetune_pipeline.data.examples import SPLIT_FILES, Example, write_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.people import LogSource
from finetune_pipeline.data.preferences.making import PREFERENCES
from finetune_pipeline.data.preferences.rows import preference
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.engine.store import CHANGED_ANSWERS, MANIFEST, Artifact, ArtifactStore, Builder
from finetune_pipeline.evaluation.answer_cache import FOLDER, AnswerCache, cache_file
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.pipeline import STEPS
from finetune_pipeline.production import erasure as module
from finetune_pipeline.production import log_files
from finetune_pipeline.production.erasure import MODELS, forget, tainted_data
from finetune_pipeline.production.key_binding import bound_key
from finetune_pipeline.production.log_erasure import erase
from finetune_pipeline.production.log_intake import ingest_new_lines, ingest_records
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.production.log_owners import _texts
from finetune_pipeline.production.log_store import ForgottenList, log_store
from finetune_pipeline.production.used_rows import waiting_rows
from finetune_pipeline.serving.service import LogWriter
from finetune_pipeline.spec import Task, TaskSpec
from finetune_pipeline_tests.unit.production.releases import released_facts


def line(n: int, user: str | None = None, **more: object) -> bytes:
    row = {"id": f"row-{n:04d}", "timestamp": "2026-05-01T10:00:00Z", "input": f"ticket {n} of {user} about a parcel"}
    return json.dumps({**row, "output": "a", "model_version": "1", "user": user, **more}).encode() + b"\n"


def settle(task: Task) -> Path:
    """Let a minute pass since the last change of every log. Returns their folder."""
    logs = task.folder / "logs"
    for path in logs.rglob("*"):
        os.utime(path, (time.time() - 60, time.time() - 60))
    return logs


def taken(task: Task, store: ArtifactStore, **logs: bytes) -> Path:
    """Let these be the logs, by name, and let them have been taken in a minute ago. Returns their folder."""
    for name, lines in logs.items():
        (task.folder / "logs" / f"{name}.jsonl").write_bytes(lines)
    ingest_new_lines(task, store)
    return settle(task)


def ids(task: Task, store: ArtifactStore) -> list[str]:
    ingest_new_lines(task, store)
    return sorted(row["id"] for row in log_store(task, store).rows())


def everything(*folders: Path) -> bytes:
    content = b""
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        content += gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    return content


def test_rows_of_a_user_go_and_the_files_go_on(task: Task, store: ArtifactStore) -> None:
    late = {"id": "row-0001", "timestamp": "2026-05-02T10:00:00Z", "feedback": {"flag": "x"}}
    (task.folder / "logs" / "2026").mkdir()
    (task.folder / "logs" / "2026" / "b.jsonl.1.gz").write_bytes(gzip.compress(line(4, "bob") + line(5, "ann")))
    logs = taken(
        task,
        store,
        a=line(1, "ann") + line(2, "bob") + line(3, "ann"),
        c=line(6, "bob") + b'{"user": "ann", "input": "a broken row"}\n',
        late=json.dumps(late).encode() + b"\n",
    )
    result = forget(task, store, users=["ann"])
    assert (result.lines, result.rows) == (5, 5)
    assert ids(task, store) == ["row-0002", "row-0004", "row-0006"]
    content = everything(logs, store.root)
    assert b"ann" not in content and b"row-0001" not in content
    assert (logs / "a.jsonl").read_bytes() == line(2, "bob")
    with (logs / "a.jsonl").open("ab") as live:
        live.write(line(7, "bob") + line(8, "ann"))
    assert ids(task, store) == ["row-0002", "row-0004", "row-0006", "row-0007"], "read once, and the user stays out"
    settle(task)
    assert [forget(task, store, users=["ann"]).lines for _ in range(2)] == [1, 0], "the row that came in since"
    (logs / "a.jsonl").rename(logs / "a.jsonl.1")
    assert ids(task, store) == ["row-0002", "row-0004", "row-0006", "row-0007"]


ANOTHER_KEY = "hashed with another FINETUNE_USER_KEY"


@pytest.mark.parametrize(("first", "then"), [("one", "two"), ("one", ""), ("", "two"), ("", "lost")])
def test_another_key_is_refused_before_anything_is_touched(task, store, monkeypatch, first, then) -> None:
    """Under another key a person's rows are not found: forgetting would keep them, and block the right key."""
    monkeypatch.setenv("FINETUNE_USER_KEY", first)
    logs = taken(task, store, a=line(1, "ann") + line(2, "bob"))
    made_of(task, store, ["row-0001"])
    with (logs / "a.jsonl").open("ab") as log:
        log.write(line(3, "ann"))
    settle(task)
    monkeypatch.setenv("FINETUNE_USER_KEY", "" if then == "lost" else then)
    if then == "lost":
        (store.root / "users.key").unlink()
    files = {p: p.read_bytes() for folder in (logs, store.root) for p in folder.rglob("*") if p.is_file()}
    for uses in (
        lambda: forget(task, store, users=["ann"]),
        lambda: forget(task, store, ids=["row-0001"]),
        lambda: ingest_new_lines(task, store),
        lambda: ingest_records(task, store, "traces", [], 0.0),
        lambda: waiting_rows(task, store),
        lambda: tainted_data(task, store),
    ):
        with pytest.raises(OutsideError, match=ANOTHER_KEY):
            uses()
    after = {p: p.read_bytes() for folder in (logs, store.root) for p in folder.rglob("*") if p.is_file()}
    assert {p: data for p, data in after.items() if p.name != ".lock"} == files
    monkeypatch.setenv("FINETUNE_USER_KEY", first)
    if then != "lost":
        assert forget(task, store, users=["ann"]).lines == 2
        assert b"of ann" not in everything(logs, store.root)


def test_logs_that_name_nobody_bind_no_key(task, store, monkeypatch) -> None:
    taken(task, store, a=line(1))
    monkeypatch.setenv("FINETUNE_USER_KEY", "two")
    taken(task, store, b=line(2, "ann"))
    assert forget(task, store, users=["ann"]).lines == 1
    monkeypatch.setenv("FINETUNE_USER_KEY", "three")
    with pytest.raises(OutsideError, match=ANOTHER_KEY):
        forget(task, store, users=["bob"])


def test_a_person_forgotten_before_anything_was_read_binds_the_key(task, store, monkeypatch) -> None:
    monkeypatch.setenv("FINETUNE_USER_KEY", "one")
    forget(task, store, users=["ann"])
    monkeypatch.setenv("FINETUNE_USER_KEY", "two")
    with pytest.raises(OutsideError, match=ANOTHER_KEY):
        taken(task, store, a=line(1, "ann"))


def unbound(task: Task, store: ArtifactStore) -> None:
    """Make the log store like one of an earlier version, which did not record the key."""
    path = log_store(task, store).folder / "ledger.json"
    write_json(path, {name: value for name, value in read_json(path).items() if name != "key"})


def test_a_store_without_a_recorded_key_takes_the_one_that_its_logs_prove(task, store, monkeypatch) -> None:
    monkeypatch.setenv("FINETUNE_USER_KEY", "one")
    logs = taken(task, store, a=line(1, "ann") + line(2, "bob"), b=line(3, "bob"))
    unbound(task, store)
    (logs / "b.jsonl").unlink()  # rotated away since
    monkeypatch.setenv("FINETUNE_USER_KEY", "two")
    with pytest.raises(OutsideError, match=ANOTHER_KEY):
        ingest_new_lines(task, store)
    monkeypatch.setenv("FINETUNE_USER_KEY", "one")
    ingest_new_lines(task, store)
    (logs / "a.jsonl").unlink()
    assert forget(task, store, users=["bob"]).rows == 2, "recorded: the logs are no longer needed as proof"


def test_a_store_without_a_recorded_key_and_without_proof_is_refused(task, store, monkeypatch) -> None:
    monkeypatch.setenv("FINETUNE_USER_KEY", "one")
    logs = taken(task, store, a=line(1, "ann"))
    unbound(task, store)
    log = (logs / "a.jsonl").read_bytes()
    (logs / "a.jsonl").unlink()
    with pytest.raises(OutsideError, match=r"nobody can tell .*\nfix: put back a log"):
        forget(task, store, users=["ann"])
    (logs / "a.jsonl").write_bytes(log)
    settle(task)
    assert forget(task, store, users=["ann"]).rows == 1


def test_a_store_with_rows_of_two_keys_is_refused(task, store, monkeypatch) -> None:
    for n, key in enumerate(("one", "two")):
        monkeypatch.setenv("FINETUNE_USER_KEY", key)
        taken(task, store, **{key: line(n, "ann")})
        ledger = read_json(log_store(task, store).folder / "ledger.json")
        write_json(log_store(task, store).folder / "ledger.json", {**ledger, "key": None})
    unbound(task, store)
    with pytest.raises(OutsideError, match="more than one FINETUNE_USER_KEY"):
        forget(task, store, users=["ann"])


def test_a_packed_file_is_rewritten_in_the_memory_of_a_line(task: Task, store: ArtifactStore) -> None:
    others = b"".join(line(n, "bob", metadata={"trace": "x" * (1 << 20)}) for n in range(40))
    content = line(40, "ann") + others + line(41, "ann")
    path = task.folder / "logs" / "a.jsonl.gz"
    path.write_bytes(gzip.compress(content, 1))
    ingest_new_lines(task, store)
    settle(task)
    (file,) = log_files.log_files(task)
    tracemalloc.start()
    try:
        assert erase(file, lambda owner: "ann" in owner.users, log_store(task, store)) == 2
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert gzip.decompress(path.read_bytes()) == others
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.jsonl.gz"]
    assert len(ids(task, store)) == 42, "no line is read again"


def test_rows_that_come_after_those_of_a_user_were_cut_off_the_end(task: Task, store: ArtifactStore) -> None:
    remaining = b"".join(line(n, "bob") for n in range(5))
    log = taken(task, store, a=remaining + b"".join(line(n, "ann") for n in range(5, 9))) / "a.jsonl"
    forget(task, store, users=["ann"])
    with log.open("ab") as live:
        live.write(line(9, "bob"))
    assert ids(task, store) == [*(f"row-{n:04d}" for n in range(5)), "row-0009"]


def test_lines_that_are_no_json_or_have_no_end_are_a_users_too(task: Task, store: ArtifactStore) -> None:
    broken = line(1, "ann", feedback={"score": float("nan")})
    logs = taken(task, store, a=broken + line(2, "bob"), b=line(3, "bob") + line(4, "ann").rstrip())
    assert forget(task, store, users=["ann"]).lines == 2
    assert b"ann" not in everything(logs, store.root) and ids(task, store) == ["row-0002", "row-0003"]


def row(n: int, user: str, **more: object) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(line(n, user, **more))
    return decoded


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


ANN, BOB = row(1, "ann"), row(2, "bob")
WRAPPED = {
    "an array": ([ANN, BOB], [BOB]),
    "an array of arrays": ([[ANN], [BOB, ANN]], [[BOB]]),
    "records": ({"records": [ANN, BOB]}, {"records": [BOB]}),
    "only hers": ({"n": 1, "records": [ANN]}, None),
    "an object within": ({"at": {"record": ANN}}, None),
    "a shipper's text": ({"log": json.dumps(ANN) + "\n", "user": "root"}, None),
    "a text twice over": (
        {"log": json.dumps({"log": json.dumps([ANN, BOB])})},
        {"log": compact({"log": compact([BOB])})},
    ),
    "a text with a prefix": ({"log": "INFO " + json.dumps(ANN)}, None),
    "a cut text": ({"log": json.dumps({"user": "ann", **BOB | ANN})[:-20]}, None),
    "a user with fields": ([{**ANN, "user": {"id": "ann", "plan": "free"}}, BOB], [BOB]),
    "a later answer": ({"user": "ann", "event": "login"}, None),
    "another's": ({"records": [BOB]}, {"records": [BOB]}),
    "her name in another's text": ({**BOB, "input": 'I sent {"user": "ann"}', "metadata": {"user": "ann"}}, ...),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_whoever_intake_finds_in_a_line_is_found_by_erasure(task: Task, store: ArtifactStore, name: str) -> None:
    """A record goes with the objects around it; the other items of a list are other people's and stay."""
    before, after = WRAPPED[name]
    kept = before if after is ... else after
    logs = taken(task, store, a=line(3, "bob") + json.dumps(before).encode() + b"\n" + line(4, "ann"))
    result = forget(task, store, users=["ann"])
    lines = (logs / "a.jsonl").read_bytes().splitlines(keepends=True)
    assert (
        [lines[0], lines[-1]] == [line(3, "bob")] * 2 if kept is None else [json.loads(x) for x in lines[1:]] == [kept]
    )
    assert [(s.found, s.left) for s in result.searched[:2]] == [(1 + (kept != before), 0)] * 2
    assert not any(b"ticket 1 of ann" in json.dumps(stored).encode() for stored in log_store(task, store).rows())
    with (logs / "a.jsonl").open("ab") as live:
        live.write(line(5, "bob"))
    assert "row-0005" in [i for stored in log_store_rows(task, store) for i in [stored.get("id")]]
    assert forget(task, store, users=["ann"]).lines == 0


def log_store_rows(task: Task, store: ArtifactStore) -> list[dict[str, Any]]:
    ingest_new_lines(task, store)
    return log_store(task, store).rows()


def test_a_record_in_a_list_is_found_by_its_id_too(task: Task, store: ArtifactStore) -> None:
    logs = taken(task, store, a=json.dumps([ANN, BOB]).encode() + b"\n")
    result = forget(task, store, ids=["row-0001"])
    assert [(s.found, s.left) for s in result.searched[:2]] == [(1, 0)] * 2
    assert json.loads((logs / "a.jsonl").read_bytes()) == [BOB] and not log_store(task, store).rows()


def test_lines_that_nobody_can_be_found_for_are_listed(task: Task, store: ArtifactStore) -> None:
    pretty = json.dumps([{"input": "hello", "user": "ann"}, {"input": "more"}], indent=1).encode() + b"\n"
    logs = taken(
        task, store, pretty=pretty, a=line(1, "bob") + b"ann wrote this\n" + b'{"user": "bob", "input": "for ann\n'
    )
    result = forget(task, store, users=["ann"])
    assert result.unclear == [
        f"{logs}/a.jsonl:2-3",
        f"{logs}/pretty.jsonl:1-8",
        "quarantined from logs/a.jsonl:2",
        "quarantined from logs/pretty.jsonl:1-3, 5-9",
    ], "the line with her name is gone"
    (logs / "pretty.jsonl").unlink()
    (logs / "a.jsonl").write_bytes(line(1, "bob"))
    settle(task)
    assert not [place for place in forget(task, store, users=["ann"]).unclear if place.startswith("/")]


def test_a_line_too_long_to_be_read_is_listed(
    task: Task, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "MAX_LINE_BYTES", 1000)
    hers = line(2, input="x" * 900).replace(b'"user": null', b'"more": "%s", "user": "ann"' % (b"y" * 200))
    logs = taken(task, store, a=line(1, "bob") + hers + line(3, "ann", input="z" * 990))
    assert forget(task, store, users=["ann"]).unclear[0] == f"{logs}/a.jsonl:2-3"


def test_reading_goes_on_behind_a_line_of_hers_that_was_too_long(
    task: Task, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "MAX_LINE_BYTES", 1000)
    long = line(2, "ann").replace(b'{"id"', b'{"user": "ann", "id"', 1)[:-1] + b" " * 2000 + b"\n"
    logs = taken(task, store, a=line(1, "bob") + long + line(3, "bob"))
    assert forget(task, store, users=["ann"]).lines == 1
    assert (logs / "a.jsonl").read_bytes() == line(1, "bob") + line(3, "bob")
    with (logs / "a.jsonl").open("ab") as live:
        live.write(line(4, "bob"))
    assert ids(task, store) == ["row-0001", "row-0003", "row-0004"]
    assert not read_logs(task, store).quarantine


def test_lines_of_json_that_name_nobody_are_read_whole_and_so_not_listed(task: Task, store: ArtifactStore) -> None:
    taken(task, store, a=line(1, "bob") + b'{"event": "started"}\n[1, 2]\n')
    places = forget(task, store, users=["ann"]).unclear
    assert not [place for place in places if "a.jsonl:" in place and not place.startswith("quarantined")]


def test_a_source_is_forgotten_by_its_user_or_by_its_row(task: Task, store: ArtifactStore) -> None:
    taken(task, store, a=line(1, "ann") + line(2, "bob") + line(3, "cid"))
    known = {row["id"]: row["user"] for row in log_store(task, store).rows()}
    forget(task, store, users=["ann"], ids=["row-0002"])
    forgotten = ForgottenList(log_store(task, store).folder, bound_key(task, store))
    assert forgotten.holds_source(LogSource("of-another-line", known["row-0001"]))
    assert forgotten.holds_source(LogSource("row-0002", known["row-0003"]))
    assert not forgotten.holds_source(LogSource("row-0003", known["row-0003"]))


def test_a_quarantined_line_with_her_name_and_no_id_is_hers(task: Task, store: ArtifactStore) -> None:
    broken = b'{"user": "ann", "input": "a broken row"}\n'
    taken(task, store, a=line(1, "bob") + broken)
    read = read_logs(task, store)
    rows, entries = read.rows, read.quarantine
    assert [entry["ids"] for entry in entries] == [[]]

    def logs(folder: Path) -> None:
        write_rows(folder / "rows.jsonl", rows)
        write_rows(folder / "quarantine.jsonl", entries)

    hers = made(task, store, "production_logs", {"of": "both"}, logs)
    entries = []
    bobs = made(task, store, "production_logs", {"of": "bob's"}, logs)
    forget(task, store, users=["ann"])
    assert store.find(task.name, "production_logs", hers.version) is None
    assert store.find(task.name, "production_logs", bobs.version)


def test_a_file_that_is_still_written_is_refused_and_what_to_do_is_said(task: Task, store: ArtifactStore) -> None:
    logs = task.folder / "logs"
    (logs / "old.jsonl").write_bytes(line(1, "ann"))
    settle(task)
    with (logs / "a.jsonl").open("ab", buffering=0) as live:
        live.write(line(2, "ann") + line(3, "bob"))
        settle(task)
        with pytest.raises(OutsideError, match=rf"a.jsonl: process {os.getpid()} .*has it open\nfix: rotate"):
            forget(task, store, users=["ann"])
        assert b"ann" in everything(logs), "nothing is half done"
        (logs / "a.jsonl").rename(logs / "a.jsonl.1")
        live.write(line(4, "ann"))
    with pytest.raises(OutsideError, match="a.jsonl.1: it changed [0-9]+ s ago"):
        forget(task, store, users=["ann"])
    os.utime(logs / "a.jsonl.1", (time.time() + 3600,) * 2)  # the clock was set back
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


@pytest.mark.parametrize("step", ["_refuse_writers", "_remove"])
def test_killed_in_between_and_repeated(task, store, monkeypatch, step) -> None:
    logs = taken(task, store, a=line(1, "ann") + line(2, "bob") + line(3, "ann"), b=line(4, "ann") + line(5, "bob"))

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, dies)
        with pytest.raises(KeyboardInterrupt):
            forget(task, store, users=["ann"])
    forget(task, store, users=["ann"])
    assert ids(task, store) == ["row-0002", "row-0005"]
    assert b"ann" not in everything(logs, store.root)


def test_killed_before_the_unfinished_work_is_deleted_and_repeated(task, store, monkeypatch) -> None:
    logs = taken(task, store, a=line(1, "ann") + line(2, "bob"))
    rows = list(log_store(task, store).rows())
    made(
        task,
        store,
        "production_logs",
        {},
        lambda f: [write_rows(f / n, rows) for n in ("rows.jsonl", "quarantine.jsonl")],
    )
    work = store.root / "demo" / ".work" / "drift_report" / "a.json"
    work.parent.mkdir(parents=True)
    work.write_text("ann")
    remove = module.shutil.rmtree

    def dies(path: Path, **options: Any) -> None:
        if path.name == ".work":
            raise KeyboardInterrupt
        remove(path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.shutil, "rmtree", dies)
        forget(task, store, users=["ann"])
    forget(task, store, users=["ann"])
    assert b"ann" not in everything(logs, store.root)


def test_a_link_leads_to_a_file_without_the_rows_which_its_writer_still_owns(task: Task, store: ArtifactStore) -> None:
    disk = task.folder.parent / "disk"
    (disk / "folder").mkdir(parents=True)
    (task.folder / "logs" / "a.jsonl").symlink_to(disk / "a.jsonl")
    (task.folder / "logs" / "more").symlink_to(disk / "folder")
    (disk / "folder" / "back").symlink_to(disk / "folder")
    for n, path in enumerate((disk / "a.jsonl", disk / "folder" / "b.jsonl")):
        path.write_bytes(line(2 * n, "ann") + line(2 * n + 1, "bob"))
        os.utime(path, (1, 1))
        if os.geteuid() == 0:
            os.chown(path, 1234, 1234)
    owner = (disk / "a.jsonl").stat().st_uid
    assert len(ids(task, store)) == 4
    assert [search.left for search in forget(task, store, users=["ann"]).searched] == [0, 0, 0, 0]
    assert ids(task, store) == ["row-0001", "row-0003"]
    assert b"ann" not in everything(disk, store.root) and (task.folder / "logs" / "a.jsonl").is_symlink()
    assert {path.stat().st_uid for path in disk.rglob("*.jsonl")} == {owner}


def made(task: Task, store: ArtifactStore, step: str, inputs: dict[str, str], write: Any = lambda f: None) -> Artifact:
    def make(builder: Builder) -> None:
        write(builder.folder)

    return store.build(task.name, step, code_version="1", inputs=inputs, settings=None, make=make)


def made_of(task: Task, store: ArtifactStore, names: list[str]) -> dict[str, Artifact]:
    """Artifacts of a whole run on the log rows of these ids."""
    rows = [row for row in log_store(task, store).rows() if row["kind"] == "row" and row["id"] in names]
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "a"}]
    examples = [
        Example(f"example-{name}", turns, "a", None, "production", {"file": "f", "line": 1}, [f"log:{name}"])
        for name in names
    ]

    def logs(folder: Path) -> None:
        write_rows(folder / "rows.jsonl", rows)
        write_rows(folder / "quarantine.jsonl", [])

    def model(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"weights of a labelled model")
        write_json(folder / "prompt.json", {"labels": ["a", "b"], "alias": "champion", "facts": {"user": "ann"}})
        write_json(folder / "audit.json", {"shown": [row["input"] for row in rows]})

    def raw(folder: Path) -> None:
        (folder / "files").mkdir()
        write_examples(folder / "files" / "production.jsonl", examples)

    def split(folder: Path) -> None:
        for name in ("train", "validation"):
            write_examples(folder / SPLIT_FILES[name], examples)

    of, got = {"of": str(names)}, {}
    got["production_logs"] = made(task, store, "production_logs", of, logs)
    got["raw_examples"] = made(task, store, "raw_examples", of, raw)
    got["splits"] = made(task, store, "splits", {"raw_examples": got["raw_examples"].version}, split)
    got["adapter"] = made(task, store, "adapter", {"train_split": got["splits"].version}, model)
    trained = {"adapter": got["adapter"].version}
    got["evaluation_report"] = made(
        task, store, "evaluation_report", trained, lambda folder: write_json(folder / "a.json", names)
    )
    return got


def test_a_model_refined_on_a_persons_thumbs_is_named_and_its_preferences_go(task: Task, store: ArtifactStore) -> None:
    taken(task, store, a=line(1, "ann") + line(2, "bob"))

    def refined(name: str) -> tuple[Artifact, Artifact]:
        row = preference([{"role": "user", "content": "x"}], "a", None, log=name)
        of = {"train_split": f"no splits {name}"}
        rows = made(task, store, "preference_rows", of, lambda folder: write_rows(folder / PREFERENCES, [row]))
        stage = made(
            task,
            store,
            "refined_adapter",
            {"preference_rows": rows.version},
            lambda folder: write_rows(folder / CHANGED_ANSWERS, [row]),
        )
        inputs = {**of, "refined_adapter": stage.version}
        return rows, stage, made(task, store, "adapter", inputs, lambda folder: write_json(folder / "a.json", name))

    (hers, stage, adapter), (his, other, _) = refined("row-0001"), refined("row-0002")
    result = forget(task, store, users=["ann"])
    assert result.adapters == [adapter.version] and tainted_data(task, store) == {hers.version, stage.version}
    gone = [f"preference_rows/{hers.version}", f"refined_adapter/{stage.version}/{CHANGED_ANSWERS}"]
    assert sorted(result.artifacts) == gone and adapter.folder.exists() and stage.folder.exists()
    assert (his.folder / PREFERENCES).exists() and (other.folder / CHANGED_ANSWERS).exists()


def test_rows_are_known_by_user_and_id_and_never_by_what_they_spell(task: Task, store: ArtifactStore) -> None:
    """A label, an alias, a piece of a manifest: what a row says is found in many files, and none of them is touched."""
    lines = line(1, "a", id="champion", input='"facts": {', output="a", feedback={"label": "b"})
    lines += line(2, "a", id="labels", input="weights", output="b") + line(3, "bob", id="a", input="a", output="a")
    taken(task, store, a=lines)
    theirs, others = made_of(task, store, ["champion", "labels", "a"]), made_of(task, store, ["a"])
    requests = store.state_folder(task.name) / "requests"
    for of in (theirs, others):
        write_json(requests / f"demo-{of['evaluation_report'].version}.jsonl", {})
    decision = {"id": "example-champion", "decision": "keep", "reviewer": "eve"}
    write_rows(task.folder / "reviews" / "a.jsonl", [{**decision, "id": "example-a"}, decision])
    adapter, pages = theirs["adapter"], theirs["adapter"].folder / "audit.json"
    paths = [*adapter.folder.iterdir(), *(p for a in others.values() for p in a.folder.rglob("*"))]
    contents = {path: path.read_bytes() for path in paths if path.is_file() and path != pages}
    copied: list[set[str]] = []
    result = forget(task, store, users=["a"], remove_copies=copied.append)
    assert theirs["evaluation_report"].version in copied[0] and others["evaluation_report"].version not in copied[0]
    assert {path: path.read_bytes() for path in contents} == contents
    gone = [f"{step}/{of.version}" for step, of in theirs.items() if step != "adapter"]
    request = f"state/requests/demo-{theirs['evaluation_report'].version}.jsonl"
    assert sorted(result.artifacts) == sorted([*gone, f"adapter/{adapter.version}/audit.json", request])
    assert (result.adapters, result.splits) == ([adapter.version], [theirs["splits"].version])
    manifest_files = set(read_json(adapter.folder / MANIFEST)["files"])
    assert manifest_files == {"weights.bin", "prompt.json"}, "whole as before"
    assert ids(task, store) == ["a"] and result.decisions == ["a.jsonl:2"]
    assert [(s.found, s.left) for s in result.searched] == [(2, 0), (2, 0), (4, 0), (0, 0)]
    assert any("backups" in place for place in result.out_of_reach)
    again = forget(task, store, users=["a"])
    assert (again.artifacts, again.adapters) == ([], result.adapters)


def test_services_that_were_given_rows_are_named(task: Task, store: ArtifactStore) -> None:
    endpoint = {"url": "https://api.example/v1", "model": "m", "key_variable": "KEY"}
    more = {"training": {"trainer": "together"}, "baseline": {"endpoint": endpoint}}
    spec = TaskSpec.model_validate({**task.spec.model_dump(exclude_unset=True), **more})
    places = [forget(of, store, users=["ann"]).out_of_reach for of in (task, Task(spec=spec, folder=task.folder))]
    assert [line.split(":")[0] for line in places[1] if line not in places[0]] == ["the trainer 'together'", "https"]
    assert not [line for line in places[0] if "not on this machine" in line], "its logs are files of this machine"
    logs = fsspec.filesystem("memory")
    logs.pipe("/elsewhere/far.jsonl", line(1, "ann"))
    far = TaskSpec.model_validate({**task.spec.model_dump(exclude_unset=True), "logs": {"path": "memory://elsewhere"}})
    try:
        lines = forget(Task(spec=far, folder=task.folder), store, users=["ann"]).out_of_reach
    finally:
        logs.rm("/elsewhere", recursive=True)
    assert [place for place in lines if "not on this machine; remove the rows there" in place and "far.jsonl" in place]


def test_what_a_person_said_of_anothers_row_goes_and_the_row_stays(task: Task, store: ArtifactStore) -> None:
    later = {"id": "row-0001", "timestamp": "2026-05-02T10:00:00Z", "feedback": {"label": "b"}, "user": "ann"}
    bobs = line(1, "bob") + json.dumps(later).encode() + b"\n" + line(2, "bob")
    taken(task, store, a=bobs + line(2, "ann", output="b"))
    first, second = made_of(task, store, ["row-0001"]), made_of(task, store, ["row-0003"])
    result = forget(task, store, users=["ann"])
    assert (result.lines, result.rows, result.adapters) == (2, 2, [first["adapter"].version])
    assert ids(task, store) == ["row-0001", "row-0002"], "bob's, though ann used the second id, too"
    assert store.find(task.name, "splits", second["splits"].version)
    remade = made_of(task, store, ["row-0001", "row-0002"])
    assert remade["splits"].version not in result.splits
    assert forget(task, store, users=["ann"]).artifacts == [], "what was made without her is not hers"


def test_what_was_made_of_expired_rows_goes_and_so_do_damaged_artifacts(task: Task, store: ArtifactStore) -> None:
    logs = taken(task, store, a=line(1, "ann") + line(2, "bob"))
    run, bobs = made_of(task, store, ["row-0001", "row-0002"]), made_of(task, store, ["row-0002"])
    log_store(task, store).rewrite(lambda row: None)
    (logs / "a.jsonl").unlink()
    assert forget(task, store, users=["ann"]).adapters == [run["adapter"].version]
    assert store.find(task.name, "raw_examples", run["raw_examples"].version) is None
    (bobs["splits"].folder / SPLIT_FILES["train"]).unlink()
    for step, name in (("production_logs", "rows.jsonl"), ("raw_examples", "files/production.jsonl")):
        (bobs[step].folder / name).write_bytes(b"{cut")
    result = forget(task, store, users=["ann"])
    assert bobs["adapter"].version in result.adapters, "nobody can say what it was trained on"
    assert all(store.find(task.name, step, bobs[step].version) is None for step in bobs if step != "adapter")


def test_nothing_is_removed_while_a_run_makes_something(task: Task, store: ArtifactStore) -> None:
    taken(task, store, a=line(1, "ann"))
    run = made_of(task, store, ["row-0001"])

    def asks(_: Path) -> None:
        with pytest.raises(OutsideError, match="a run of demo is making advice-[0-9a-f]{16}\nfix: wait for it"):
            forget(task, store, users=["ann"])

    made(task, store, "advice", {}, asks)
    assert store.find(task.name, "splits", run["splits"].version)
    assert forget(task, store, users=["ann"]).adapters == [run["adapter"].version]


def test_what_is_kept_is_its_owners_alone(task: Task, store: ArtifactStore) -> None:
    log = taken(task, store, a=line(1, "ann") + line(2, "bob")) / "a.jsonl"
    log.chmod(0o600)
    for artifact in made_of(task, store, ["row-0002"]).values():
        assert stat.S_IMODE(artifact.folder.stat().st_mode) == 0o700
        assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in artifact.folder.rglob("*") if p.is_file())
    forget(task, store, users=["ann"])
    assert stat.S_IMODE(log.stat().st_mode) == 0o600 and log.read_bytes() == line(2, "bob")


def test_answers_to_a_persons_row_that_judged_models_go_too(task: Task, store: ArtifactStore) -> None:
    taken(task, store, a=line(1, "ann") + line(2, "bob"))
    runs = []
    for name in ("row-0001", "row-0002"):
        answers = made(
            task,
            store,
            "test_predictions",
            {"of": name},
            lambda f, name=name: write_json(f / "production.json", {"ids": [name]}),
        )
        runs.append([answers, made(task, store, "evaluation_report", {"test_predictions": answers.version})])
    for cache in (cached := [cache_file(store.root / FOLDER), cache_file(store.root / FOLDER, task.name)]):
        AnswerCache(cache, 8).keep({b"key": Answer("an answer to ann")})
    result = forget(task, store, users=["ann"])
    assert not any(map(Path.exists, cached)), "cached answers may be to her rows"
    assert sorted(result.artifacts) == sorted(f"{of.step}/{of.version}" for of in runs[0])
    assert all(store.find(task.name, of.step, of.version) for of in runs[1])


def test_a_release_that_contains_rows_goes_and_one_that_does_not_is_kept(task: Task, store: ArtifactStore) -> None:
    """A simple model or a prompt with examples, and a trained model or a prompt without."""
    taken(task, store, a=line(1, "ann") + line(2, "bob"))
    runs = {"ann": made_of(task, store, ["row-0001"]), "bob": made_of(task, store, ["row-0002"])}

    def released(run: dict[str, Artifact], number: int, holds_rows: bool) -> Artifact:
        def make(builder: Builder) -> None:
            (builder.folder / "shipped").mkdir()
            (builder.folder / "shipped" / "fitted.json").write_text("words of rows" if holds_rows else "{}")
            record = {"dataset_version": run["splits"].version, "model_version": number}
            write_json(builder.folder / "model_version.json", {**record, "adapter_version": run["adapter"].version})
            builder.facts.update(released_facts(number, holds_rows=holds_rows))

        inputs = {"adapter": run["adapter"].version}
        return store.build(task.name, "model_version", code_version="1", inputs=inputs, settings=number, make=make)

    hers, kept = released(runs["ann"], 1, True), [released(runs["ann"], 2, False), released(runs["bob"], 3, True)]
    result = forget(task, store, users=["ann"])
    assert f"model_version/{hers.version}" in result.artifacts and not hers.folder.exists()
    assert all(store.check(release).path("shipped/fitted.json") for release in kept)
    assert [model.model_version for model in result.models] == [1, 2], "both were made from her row"
    assert result.searched[2].left == 0
    assert [m.model_version for m in forget(task, store, users=["ann"]).models] == [2], "again: the one that is left"


def test_users_in_a_list_deeper_than_functions_may_call_themselves_are_found() -> None:
    """Python 3.12 and later decode such a line; Python 3.11 refuses it, and then it is kept and quarantined."""
    user: object = "ann"
    for _ in range(5000):
        user = [user]
    assert [*_texts(user)] == ["ann"]


def test_every_step_that_keeps_a_model_is_blocked_and_not_deleted() -> None:
    keeps = {s.name for s in STEPS if "safetensors" in s.kinds or {"pytorch", "huggingface"} <= {*s.kinds}}
    assert {"adapter", "merged_model"} <= keeps <= {*MODELS}, (
        "forgetting a person would delete what MLflow's version still serves"
    )
