"""Every complete line once: whatever rotation does to the files, and whenever the process dies."""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pytest

from finetune_pipeline.engine.files import DamagedFile
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.production import log_files, log_intake, log_store
from finetune_pipeline.production.erasure import forget
from finetune_pipeline.spec import Task
from finetune_pipeline_tests.unit.production.killed_intakes import play
from finetune_pipeline_tests.unit.production.streams import task_of


def line(n: int, **more: object) -> str:
    row = {"id": f"r{n}", "timestamp": "2026-05-01T10:00:00Z", "input": f"ticket {n}", "output": "a", **more}
    return json.dumps({**row, "model_version": "1"}) + "\n"


def ids(task: Task, store: ArtifactStore) -> list[str]:
    """What one more intake brings the store to, in the order in which it came."""
    return [row["id"] for row in _rows(task, store)]


def _rows(task: Task, store: ArtifactStore) -> list[dict]:
    log_intake.ingest_new_lines(task, store)
    return list(log_intake.log_store(task, store).rows())


def test_ten_kills_over_every_rotation_lose_and_double_nothing(tmp_path: Path) -> None:
    rows = play(tmp_path, kills=10, seed=1, longest=0.06)
    assert rows["rows_in"] > 100 and len(rows["rotations"]) >= 3, (
        "on a busy machine the writer gets further or less far"
    )
    assert (rows["rows_out"], rows["lost"], rows["twice"]) == (rows["rows_in"], 0, 0)


@pytest.mark.parametrize(
    ("of", "step", "kept"), [(log_store, "write_json", ["r1"]), (log_intake, "_expire", ["r1", "r2"])]
)
def test_a_death_before_or_after_the_ledger_is_written(task, store, monkeypatch, of, step, kept) -> None:
    path = task.folder / "logs" / "a.jsonl"
    path.write_text(line(1))
    assert ids(task, store) == ["r1"]
    path.write_text(line(1) + line(2))

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(of, step, dies)
        log_intake.ingest_new_lines(task, store)
    assert [row["id"] for row in log_intake.log_store(task, store).rows()] == kept
    assert [ids(task, store) for _ in range(2)] == [["r1", "r2"]] * 2
    segments = store.state_folder("demo") / "logs" / "segments"
    assert len(list(segments.iterdir())) == 1, "what a dead process left is gone"


@pytest.mark.parametrize("left", [b"", b'{"id": ', b'{"kind": "row", "id": "r2"}\n', b"[]\n"])
def test_rows_that_went_missing_are_told(task: Task, store: ArtifactStore, left: bytes) -> None:
    (task.folder / "logs" / "a.jsonl").write_text(line(1))
    assert ids(task, store) == ["r1"]
    (segment,) = (store.state_folder("demo") / "logs" / "segments").iterdir()
    segment.write_bytes(left)
    with pytest.raises(OutsideError, match=segment.name):
        ids(task, store)


@pytest.mark.parametrize(
    "value", [[], "x", None, {}, {"users": ["u"]}, {"segments": "x"}, {"segments": [{"name": "1"}]}]
)
@pytest.mark.parametrize("name", ["ledger.json", log_store.FILE])
def test_a_ledger_or_forget_list_of_another_form_is_told_and_left_alone(
    task: Task, store: ArtifactStore, name: str, value: Any
) -> None:
    (task.folder / "logs" / "a.jsonl").write_text(line(1))
    kept = log_intake.log_store(task, store)
    kept.append([], kept.ledger())
    path = kept.folder / name
    if name == "ledger.json" and isinstance(value, dict):
        value = {**kept.ledger(), **value} if "segments" in value else value
    path.write_text(json.dumps(value))
    with pytest.raises(DamagedFile, match=rf"{path} is damaged: .*\nfix: put back a copy"):
        log_intake.ingest_new_lines(task, store)
    assert json.loads(path.read_text()) == value


def test_rename_copytruncate_and_gzip_are_recognised(task: Task, store: ArtifactStore) -> None:
    logs = task.folder / "logs"
    (logs / "a.jsonl").write_text(line(1) + line(2))
    assert ids(task, store) == ["r1", "r2"]
    (logs / "a.jsonl").rename(logs / "a.jsonl.1")
    with (logs / "a.jsonl.1").open("a") as old:
        old.write(line(3))  # the writer had the file open still
    (logs / "a.jsonl").write_text(line(4))
    assert sorted(ids(task, store)) == ["r1", "r2", "r3", "r4"]
    shutil.copy(logs / "a.jsonl", logs / "a.jsonl.2")
    assert len(ids(task, store)) == 4, "a copy is the same file"
    os.truncate(logs / "a.jsonl", 0)
    with (logs / "a.jsonl").open("a") as again:
        again.write(line(5))
    zipped = gzip.compress((logs / "a.jsonl.1").read_bytes() + line(6).encode())
    (logs / "a.jsonl.1.gz").write_bytes(zipped[: len(zipped) // 2])
    log_intake.ingest_new_lines(task, store)
    (logs / "a.jsonl.1.gz").write_bytes(zipped)
    (logs / "a.jsonl.1").unlink()
    assert sorted(ids(task, store)) == [f"r{i}" for i in range(1, 7)]


def test_logs_are_known_by_their_names(task: Task, store: ArtifactStore) -> None:
    names = ("a.ndjson", "app.jsonl.1", "b.jsonlines.gz", "c.ndjson-20260501")
    for n, name in enumerate((*names, "notes.log", "x.jsonless", "d.ndjson.part")):
        (task.folder / "logs" / name).write_bytes(line(n).encode())
    assert sorted(ids(task, store)) == ["r0", "r1", "r2", "r3"]
    files = {row["source"]["file"] for row in log_intake.log_store(task, store).rows()}
    assert files == {"logs/a.ndjson", "logs/app.jsonl", "logs/b.jsonlines", "logs/c.ndjson"}


def test_files_that_begin_alike_are_told_apart(task: Task, store: ArtifactStore) -> None:
    logs = task.folder / "logs"
    (logs / "a.jsonl").write_text(line(0) + line(1) + line(2))
    (logs / "b.jsonl").write_text(line(0) + line(3) + line(4))
    assert ids(task, store) == ["r0", "r1", "r2", "r0", "r3", "r4"]
    with (logs / "b.jsonl").open("a") as out:
        out.write(line(5))
    assert ids(task, store) == ["r0", "r1", "r2", "r0", "r3", "r4", "r5"]


def test_files_with_a_common_heading_are_told_apart_however_short(task: Task, store: ArtifactStore) -> None:
    logs = task.folder / "logs"
    for name in ("busy", "quiet"):
        (logs / f"{name}.jsonl").write_text("\n")
    for n in range(7):  # line by line, as a log grows
        with (logs / "busy.jsonl").open("a") as out:
            out.write(line(n + 100))
        assert len(ids(task, store)) == n + 1
        shutil.copy(logs / "busy.jsonl", logs / f"copy-{n}.jsonl")
    for n in range(3):
        with (logs / "quiet.jsonl").open("a") as out:
            out.write(line(n))
        assert ids(task, store)[7:] == ["r0", "r1", "r2"][: n + 1]


def test_a_line_that_is_too_long_is_told_and_the_next_one_counts(task: Task, store: ArtifactStore) -> None:
    (task.folder / "logs" / "a.jsonl").write_text(line(1) + "x" * (9 << 20) + "\n" + line(2))
    rows = _rows(task, store)
    assert [row.get("id") or row["findings"][0]["rule"] for row in rows] == ["r1", "log.too_long", "r2"]
    assert [row["source"]["line"] for row in rows] == [1, 2, 3]


def test_a_file_whose_name_is_not_utf_8_is_read_as_any_other(task: Task, store: ArtifactStore) -> None:
    (task.folder / "logs" / os.fsdecode(b"caf\xe9.jsonl")).write_text(line(1))
    (task.folder / "logs" / "b.jsonl").write_text(line(2))
    assert [sorted(ids(task, store)) for _ in range(2)] == [["r1", "r2"]] * 2
    assert {row["source"]["file"] for row in log_intake.log_store(task, store).rows()} == {
        "logs/caf\N{REPLACEMENT CHARACTER}.jsonl",
        "logs/b.jsonl",
    }


@pytest.mark.parametrize("name", ["a::b", "a%25b", "a#b?c", "a[1]*{b}", 'it\'s "ü"', "a\\b", "~a"])
def test_logs_are_read_whatever_the_folder_of_the_project_is_called(
    tmp_path: Path, store: ArtifactStore, name: str
) -> None:
    (tmp_path / name).mkdir()
    task = task_of(tmp_path / name, logs={"path": "more/logs/"})
    (task.folder / "logs" / "own.jsonl").write_text(line(1))
    (task.folder / "more/logs/2026").mkdir(parents=True)
    (task.folder / "more/logs/2026/a.jsonl").write_text(line(2))
    assert sorted(ids(task, store)) == ["r1", "r2"]


def test_zero_bytes_after_a_power_cut_cost_the_half_line_only(task: Task, store: ArtifactStore) -> None:
    path = task.folder / "logs" / "a.jsonl"
    path.write_text(line(1) + line(2)[:30] + "\0" * 500 + line(3) + line(4)[:-1] + "\0" * 7 + "\n" + line(5))
    assert [row.get("id") or row["raw"] for row in _rows(task, store)] == ["r1", line(2)[:30], "r3", "r4", "r5"]
    path.write_bytes(line(6).encode("utf-16"))
    (bad_row,) = _rows(task, store)[5:]
    assert bad_row["kind"] == "bad", "UTF-16 has zero bytes in its letters: it is one bad line, not one for each letter"


def test_a_gzip_file_that_stays_broken_is_told_once_and_a_whole_copy_read_on(task: Task, store: ArtifactStore) -> None:
    path = task.folder / "logs" / "a.jsonl.1.gz"
    complete = gzip.compress("".join(line(n, output=f"{n * n}") for n in range(3000)).encode())
    path.write_bytes(complete[: len(complete) // 2])
    began = path.stat().st_mtime
    log_intake.ingest_new_lines(task, store, now=began + 60)
    read = len(_rows(task, store))
    assert 100 < read < 2900 and {row["kind"] for row in _rows(task, store)} == {"row"}, "it may be written still"
    for hours in (2, 3):
        log_intake.ingest_new_lines(task, store, now=began + hours * 3600)
    *_, bad_row = log_intake.log_store(task, store).rows()
    assert bad_row["source"] == {"file": "logs/a.jsonl", "line": read + 1}
    (finding,) = bad_row["findings"]
    assert finding["rule"] == "log.damaged_file" and "ended before" in finding["message"]
    assert "whole copy" in finding["fix"]
    with pytest.raises(OutsideError, match=r"a\.jsonl\.1\.gz is damaged .* whose rows"):
        forget(task, store, users=["ann"])
    path.write_bytes(complete)
    assert sorted(r["id"] for r in _rows(task, store) if r["kind"] == "row") == sorted(f"r{n}" for n in range(3000))
    assert len(_rows(task, store)) == 3001


@pytest.mark.parametrize(
    ("name", "pack"),
    [("zst", lambda text: pyarrow.compress(text, "zstd", asbytes=True)), ("bz2", bz2.compress), ("xz", lzma.compress)],
)
def test_a_log_that_is_packed_otherwise_is_told_once_and_read_when_unpacked(
    task: Task, store: ArtifactStore, name: str, pack: Callable[[bytes], bytes]
) -> None:
    text, path = (line(1) + line(2)).encode(), task.folder / "logs" / f"a.jsonl.1.{name}"
    path.write_bytes(pack(text))
    (task.folder / "logs" / "b.jsonl").write_text(line(3))
    for minutes in (1, 2):
        log_intake.ingest_new_lines(task, store, now=path.stat().st_mtime + 60 * minutes)
    bad_row, good_row = _rows(task, store)
    assert good_row["id"] == "r3"
    assert bad_row["findings"][0]["place"] == f"logs/a.jsonl.1.{name}:1"
    assert "is packed by" in bad_row["findings"][0]["message"]
    with pytest.raises(OutsideError, match=rf"a\.jsonl\.1\.{name} is .* whose rows"):
        forget(task, store, users=["ann"])
    path.unlink()
    path.with_suffix("").write_bytes(text)
    assert sorted(row["id"] for row in _rows(task, store) if row["kind"] == "row") == ["r1", "r2", "r3"]


def test_logs_behind_a_url(tmp_path: Path, store: ArtifactStore) -> None:
    url = f"memory://{tmp_path.name}/logs"
    task = task_of(tmp_path, logs={"path": url})
    assert ids(task, store) == [], "a place that does not exist yet holds nothing"
    fs, root = fsspec.core.url_to_fs(url)
    fs.makedirs(root, exist_ok=True)
    with fs.open(f"{root}/2026/05/a.jsonl.gz", "wb") as out:
        out.write(gzip.compress((line(1) + line(2)).encode()))
    (task.folder / "logs" / "own.jsonl").write_text(line(3))
    assert [sorted(ids(task, store)) for _ in range(2)] == [["r1", "r2", "r3"]] * 2


def test_frequent_appends_share_a_file_and_earlier_states_stay_readable(task: Task, store: ArtifactStore) -> None:
    """Each left a file and an entry in the ledger, which every tick reads and writes."""
    log, rows_store = task.folder / "logs" / "a.jsonl", log_intake.log_store(task, store)
    states = []
    for n in range(5):
        with log.open("a") as out:
            out.write(line(n))
        assert len(ids(task, store)) == n + 1
        states.append(rows_store.digest())
    log_intake.ingest_new_lines(task, store)
    assert len(list((rows_store.folder / "segments").iterdir())) == 1
    assert [len(rows_store.rows(state)) for state in states] == [1, 2, 3, 4, 5]


def test_rows_and_files_past_their_days_are_gone(
    tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_store, "_JOINED_ROWS", 1)
    task = task_of(tmp_path, logs={"keep_days": 30})
    old, new = task.folder / "logs" / "a.jsonl.1", task.folder / "logs" / "a.jsonl"
    first, second = "2026-05-01T00:00:00Z", "2026-05-20T00:00:00+02:00"
    old.write_text(line(1, timestamp=first))
    new.write_text(line(2, timestamp=first) + "{broken\n" + line(3, timestamp=second))
    day, start = 86_400.0, 1_777_593_600.0  # 1 May 2026
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.jsonl").write_text(line(4, timestamp=first))
    (task.folder / "logs" / "more").symlink_to(tmp_path / "elsewhere")
    for path in (old, tmp_path / "elsewhere" / "b.jsonl"):
        os.utime(path, (start, start))
    os.utime(new, (start + 19 * day,) * 2)
    log_intake.ingest_new_lines(task, store, now=start + 29 * day)
    rows_store = log_intake.log_store(task, store)
    assert len(rows_store.rows()) == 5
    before = rows_store.digest()
    log_intake.ingest_new_lines(task, store, now=start + 31 * day)
    assert [row.get("id") for row in rows_store.rows()] == [None, "r3"], "a line without a time is as old as its intake"
    assert not old.exists() and new.exists()
    assert (tmp_path / "elsewhere" / "b.jsonl").exists(), "a file behind a link is another program's"
    assert b"r1" not in b"".join(p.read_bytes() for p in rows_store.folder.rglob("*.jsonl"))
    with pytest.raises(LookupError, match="removed"):
        list(rows_store.rows(before))
    (segment,) = (rows_store.folder / "segments").iterdir()
    segment.rename(tmp_path / "segment")  # it must not be read again on the same day
    with new.open("a") as out:
        out.write(line(5, timestamp=first) + line(6, timestamp=second))
    log_intake.ingest_new_lines(task, store, now=start + 31.9 * day)
    (tmp_path / "segment").rename(segment)
    assert [row.get("id") for row in rows_store.rows()] == [None, "r3", "r6"]
    log_intake.ingest_new_lines(task, store, now=start + 49.9 * day)
    assert [row["kind"] for row in rows_store.rows()] == ["bad"]
    for wrong_clock in (4000, 4000.5):
        log_intake.ingest_new_lines(task, store, now=start + wrong_clock * day)
    log_intake.ingest_new_lines(task, store, now=start + 50 * day)
    assert [row["kind"] for row in rows_store.rows()] == ["bad"] and new.exists()
    log_intake.ingest_new_lines(task, store, now=start + 60 * day)
    assert not rows_store.rows()
    with new.open("a") as out:
        out.write(line(7, timestamp="2026-07-01T00:00:00Z"))
    for later, kept in ((61, ["r7"]), (5000, ["r7"]), (5001, [])):  # nobody used the home for years
        log_intake.ingest_new_lines(task, store, now=start + later * day)
        assert [row["id"] for row in rows_store.rows()] == kept


def test_nothing_is_written_where_nothing_is_new(task: Task, store: ArtifactStore) -> None:
    """The sensor asks every few seconds. A file counts as read to its end once it has rested: file times are coarse."""
    path = task.folder / "logs" / "a.jsonl"
    path.write_text(line(1))
    os.utime(path, (1_000_000.0,) * 2)
    ledger = log_intake.log_store(task, store).folder / "ledger.json"

    def asked(now: float) -> tuple[bool, int]:
        """Whether the ledger was written again, and how many files it lists as read to their end."""
        before = ledger.stat().st_ino if ledger.exists() else None
        log_intake.ingest_new_lines(task, store, now=now)
        return ledger.stat().st_ino != before, len(log_intake.log_store(task, store).ledger()["seen"])

    assert [asked(1_000_000.0 + seconds) for seconds in (1, 1, 3, 4)] == [(True, 0), (False, 0), (True, 1), (False, 1)]
    path.unlink()
    assert [asked(1_000_005.0) for _ in range(2)] == [(True, 0), (False, 0)]


def test_a_row_of_the_first_kept_second_is_kept(tmp_path: Path, store: ArtifactStore) -> None:
    task = task_of(tmp_path, logs={"keep_days": 30})
    rows = line(1, timestamp="2026-05-01T00:00:00Z") + line(2, timestamp="2026-04-30T23:59:59Z")
    (task.folder / "logs" / "a.jsonl").write_text(rows)
    log_intake.ingest_new_lines(task, store, now=1_777_593_600.0 + 30.5 * 86_400)
    assert [row["id"] for row in log_intake.log_store(task, store).rows()] == ["r1"]


@pytest.mark.parametrize("change", ["another text", "no row"])
def test_a_segment_that_changed_and_one_that_shrank_are_told_apart(task, store, change) -> None:
    (task.folder / "logs" / "a.jsonl").write_text(line(1) + line(2))
    assert log_intake.log_store(task, store).digest() == "0" * 32 + "-0"
    log_intake.ingest_new_lines(task, store)
    (segment,) = (store.state_folder("demo") / "logs" / "segments").iterdir()
    rows = segment.read_text().splitlines(keepends=True)
    segment.write_text(
        "".join([rows[0].replace("ticket", "tocket"), rows[1]] if change == "another text" else rows[:1])
    )
    told = "its rows are not those ingested" if change == "another text" else "1 of the 2 ingested rows are left"
    with pytest.raises(DamagedFile, match=told):
        log_intake.log_store(task, store).rows()


def test_a_reader_that_goes_on_knows_what_one_that_reads_at_once_knows() -> None:
    """Tails are recorded at lines 1, 2, 4, 8 and at the end, wherever reading was interrupted."""
    data = b"".join(b'{"n": %d}\n' % n for n in range(11))
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]

    def read(data: bytes, entry: log_files.Stream = log_files.NOTHING_READ) -> log_files.Stream:
        reader = log_files.LineReader(io.BytesIO(data), entry)
        assert not any(truncated for _, truncated in reader) and not reader.is_incomplete
        return reader.entry()

    at_once = read(data)
    assert (at_once["lines"], at_once["offset"]) == (11, len(data))
    assert [offset for offset, _ in at_once["tails"]] == [ends[n - 1] for n in (1, 2, 4, 8, 11)]
    for end in ends[:-1]:
        assert read(data, read(data[:end])) == at_once
        later = read(data, read(data[: end - 1]))  # a whole object, whose line end comes later
        assert (later["lines"], later["offset"]) == (11, len(data)) and {*at_once["tails"]} <= {*later["tails"]}
    reader = log_files.LineReader(io.BytesIO(data + b'{"n": '))
    assert len(list(reader)) == 11 and reader.is_incomplete
    with pytest.raises(LookupError):
        log_files.LineReader(io.BytesIO(data[:20]), at_once)
    assert log_files.count_line_ends(io.BytesIO(data), ends[3]) == (4, 7)


@pytest.mark.parametrize("length", [63, 64, 65, 66, 130, 200])
def test_lines_are_cut_at_the_limit_and_the_next_one_is_whole(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_LINE_BYTES", 64)
    first = b"x" * length
    handle = io.BytesIO(first + b"\n" + b"{}")
    line, bytes_read, tail, truncated = log_files.read_line(handle) or pytest.fail("a line is there")
    if length + 1 <= 64:  # with its end
        assert (line, truncated) == (first, False)
    else:
        assert (line, truncated) == (first[:64], True)
    assert bytes_read == length + 1 and tail.endswith(b"x\n") and len(tail) == min(length + 1, log_files.TAIL)
    assert log_files.read_line(handle) == (b"{}", 2, b"{}", False), "a whole object needs no line end"
    assert log_files.first_line(handle) == log_files.hash_line(line), "whatever was read before"
