from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from finetune_pipeline.data.raw_files import collect_raw, raw_digest, raw_paths
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.spec import Task
from finetune_pipeline_tests.unit.data.rows import chat, make_spec


def task(folder: Path, *globs: str) -> Task:
    return Task(spec=make_spec(raw=list(globs) or ["raw/*.jsonl"]), folder=folder)


def lay(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_snapshot_counts_and_guesses(tmp_path: Path) -> None:
    home, out = tmp_path / "task", tmp_path / "out"
    text = json.dumps(chat()) + "\n\n" + json.dumps({"text": "a", "label": "b"}) + "\n{broken\n"
    lay(home, "raw/b.jsonl", text)
    lay(home, "raw/a.jsonl", '{"text": "x", "label": "y"}')
    lay(home, "raw/notes.txt", "no")
    facts = collect_raw(task(home, "raw/*.jsonl", "raw/b*"), out)
    assert [f["file"] for f in facts["files"]] == ["raw/a.jsonl", "raw/b.jsonl"]
    a, b = facts["files"]
    assert (out / "files/raw/b.jsonl").read_text() == text
    assert b["sha256"] == hashlib.sha256(text.encode()).hexdigest() and b["bytes"] == len(text)
    assert a["container"] == b["container"] == "json_lines" and "JSON values" in b["reason"]
    assert facts["digest"] == raw_digest(task(home))


def test_production_rows_are_a_file_of_their_own(tmp_path: Path) -> None:
    home = tmp_path / "task"
    lay(home, "raw/a.jsonl", "{}")
    rows = lay(tmp_path, "rows.jsonl", '{"messages": []}')
    facts = collect_raw(task(home), tmp_path / "out", rows)
    assert [f["file"] for f in facts["files"]] == ["raw/a.jsonl", "production.jsonl"]
    assert facts["digest"] == raw_digest(task(home))


def test_digest_follows_content_and_names_not_time(tmp_path: Path) -> None:
    digests = []
    for name, text in (("a", "1"), ("a", "1"), ("a", "2"), ("b", "2")):
        path = lay(tmp_path, f"raw/{name}.jsonl", text)
        digests.append(raw_digest(task(tmp_path)))
        path.unlink()
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_no_match_names_the_globs(tmp_path: Path) -> None:
    with pytest.raises(FindingsError, match=r"'raw/\*\.jsonl'") as error:
        collect_raw(task(tmp_path), tmp_path / "out")
    assert [f.rule for f in error.value.findings] == ["data.no_raw_files"]


def test_a_glob_without_suffix_takes_what_can_be_read(tmp_path: Path) -> None:
    known = ["raw/a.jsonl", "raw/b.CSV", "raw/c.json.gz", "raw/d.parquet", "raw/e.xlsx"]
    for name in (*known, "raw/notes.txt", "raw/README", "raw/.hidden.csv", "raw/~$e.xlsx", "raw/gz"):
        lay(tmp_path, name, "x")
    assert [name for name, _ in raw_paths(task(tmp_path, "raw/*"))] == known
    assert [name for name, _ in raw_paths(task(tmp_path, "raw/*.txt"))] == ["raw/notes.txt"]


def test_links_may_not_leave_the_folder(tmp_path: Path) -> None:
    home = tmp_path / "task"
    secret = lay(tmp_path, "secret.jsonl", "x")
    lay(home, "raw/real.jsonl", "{}")
    (home / "raw/inside.jsonl").symlink_to(home / "raw/real.jsonl")
    read = [f["file"] for f in collect_raw(task(home), tmp_path / "out")["files"]]
    assert read == ["raw/inside.jsonl", "raw/real.jsonl"]
    (home / "raw/out.jsonl").symlink_to(secret)
    (home / "raw/gone.jsonl").symlink_to(tmp_path / "no such file")
    (home / "raw/loop.jsonl").symlink_to(home / "raw/loop.jsonl")
    (home / "raw/odd\n.jsonl").write_text("x")
    (home / "more").symlink_to(tmp_path)
    with pytest.raises(FindingsError) as error:
        collect_raw(task(home, "raw/*.jsonl", "more/*.jsonl"), tmp_path / "out2")
    said = {(f.rule.removeprefix("data."), f.place) for f in error.value.findings}
    out = {("link_leaves_folder", "raw/out.jsonl"), ("link_leaves_folder", "more/secret.jsonl")}
    gone = {("dangling_link", "raw/gone.jsonl"), ("dangling_link", "raw/loop.jsonl")}
    assert said == {*out, *gone, ("odd_file_name", "'raw/odd\\n.jsonl'")}
