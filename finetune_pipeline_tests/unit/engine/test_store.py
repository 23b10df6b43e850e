"""Artifact folders: complete or absent, made once, found again, and never half there."""

import hashlib
import multiprocessing
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.engine import files
from finetune_pipeline.engine.files import SeenFiles, digest_file, digest_json, make_private, write_json
from finetune_pipeline.engine.store import MANIFEST, Artifact, ArtifactStore, Builder, ChangedArtifact
from finetune_pipeline.faults import OutsideError
from finetune_pipeline_tests.unit.processes import wait_until


def make(builder: Builder) -> None:
    (builder.folder / "a.txt").write_text("hello")
    builder.facts["rows"] = 3


def build(
    store: ArtifactStore, make: Any = make, settings: Any = None, inputs: Any = None, code: str = "1"
) -> Artifact:
    return store.build("task", "step", code_version=code, inputs=inputs or {}, settings=settings, make=make)


def test_the_second_time_nothing_is_made_and_the_version_follows_from_inputs_settings_and_code(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    first = build(store)
    assert not first.reused and first.facts == {"rows": 3}

    def never(builder: Builder) -> None:
        raise AssertionError("made twice")

    second = build(store, never)
    assert second.reused and second.version == first.version and second.path("a.txt").read_text() == "hello"
    with pytest.raises(FileNotFoundError, match=r"task/step/.* has no 'b.txt'"):
        second.path("b.txt")
    changes = (
        {"settings": {"a": 1}},
        {"settings": {"a": 2}},
        {"inputs": {"x": "1"}},
        {"inputs": {"y": "1"}},
        {"code": "2"},
    )
    assert len({first.version, *(build(store, **change).version for change in changes)}) == 6
    assert len(store.all_versions("task", "step")) == 6
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    # as earlier releases computed it: with another digest, every model would be trained again
    assert digest_json({"b": [1.5, None], "a": "é"}) == hashlib.sha256('{"a":"é","b":[1.5,null]}'.encode()).hexdigest()


def test_a_failed_step_leaves_no_artifact_but_keeps_its_work(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def fails(builder: Builder) -> None:
        (builder.folder / "half").write_text("x")
        (builder.work / "checkpoint").write_text("7")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        build(store, fails)
    assert store.all_versions("task", "step") == []

    def resumes(builder: Builder) -> None:
        assert (builder.work / "checkpoint").read_text() == "7"
        assert not (builder.folder / "half").exists()
        make(builder)

    artifact = build(store, resumes)
    assert not list(tmp_path.rglob("checkpoint")), "work is removed once the artifact stands"
    work = tmp_path / "task" / ".work" / "step" / artifact.version
    work.mkdir()  # of a process killed before it removed it
    assert build(store, fails).reused and not work.exists()


def test_only_its_owner_reads_an_artifact_and_what_it_links_to_is_left_as_it_is(tmp_path: Path) -> None:
    elsewhere = {name: tmp_path / name for name in ("hard", "soft")}
    for path in elsewhere.values():
        path.write_text("shared")
        path.chmod(0o644)

    def links(builder: Builder) -> None:
        make(builder)
        assert {oct(path.stat().st_mode & 0o777) for path in (builder.folder, builder.work)} == {"0o700"}
        (builder.folder / "a.txt").chmod(0o664)
        os.link(elsewhere["hard"], builder.folder / "hard")
        (builder.folder / "soft").symlink_to(elsewhere["soft"])

    artifact = build(ArtifactStore(tmp_path / "store"), links)
    paths = {"own": artifact.path("a.txt"), **elsewhere}
    assert {name: oct(path.stat().st_mode & 0o777) for name, path in paths.items()} == {
        "own": "0o600",
        "hard": "0o644",
        "soft": "0o644",
    }


def _slow(root: Path, flag: Path) -> None:
    def slow(builder: Builder) -> None:
        (builder.folder / "half").write_text("x")
        flag.write_text("now")
        time.sleep(60)

    build(ArtifactStore(root), slow)


def test_killed_while_making_nothing_is_visible_and_the_lock_is_free(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    child = multiprocessing.get_context("spawn").Process(target=_slow, args=(tmp_path / "store", flag))
    child.start()
    wait_until(flag.exists, 60)
    child.kill()
    child.join()
    store = ArtifactStore(tmp_path / "store")
    assert store.all_versions("task", "step") == []
    artifact = build(store)
    assert sorted(p.name for p in artifact.folder.iterdir()) == ["a.txt", "artifact.json"]


def test_what_is_being_made_is_known_and_only_what_the_dead_left_is_removed(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def makes(builder: Builder) -> None:
        dead = builder.folder.with_name(".making-0123456789abcdef")
        dead.mkdir()
        assert store.building("task") == [f"step-{builder.work.name}"]
        assert build(store, settings="other").facts == {"rows": 3}
        assert builder.folder.exists() and not dead.exists()
        make(builder)

    build(store, makes)
    assert store.building("task") == []


def test_the_newest_artifact_of_these_inputs_is_returned(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    first, second, other = (build(store, inputs=inputs) for inputs in ({"a": "1"}, {"a": "1", "b": "2"}, {"a": "2"}))
    for seconds, artifact in enumerate((second, first, other)):
        os.utime(artifact.path(MANIFEST), (seconds, seconds))
    assert [artifact.version for artifact in store.all_versions("task", "step")] == [
        second.version,
        first.version,
        other.version,
    ]
    newest = store.newest("task", "step", a="1"), store.newest("task", "step", b="2"), store.newest("task", "step")
    assert [artifact and artifact.version for artifact in newest] == [first.version, second.version, other.version]
    assert store.newest("task", "step", a="3") is None


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"a": "é"})
    with pytest.raises(UnicodeEncodeError):
        files.replace_text(path, "half of it \udc00")
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"] and files.read_json(path) == {"a": "é"}


def test_an_interrupt_just_after_a_file_was_replaced_stays_an_interrupt(tmp_path, monkeypatch) -> None:
    replace = os.replace

    def replace_and_interrupt(*paths: str) -> None:
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_json(tmp_path / "x.json", {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"] and files.read_json(tmp_path / "x.json") == {"a": 1}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are digested, each as it is; files change in no time."""
    names: list[str] = []
    digest = files.digest_file
    monkeypatch.setattr(files, "digest_file", lambda path: (names.append(path.name), digest(path))[1])
    monkeypatch.setattr(SeenFiles, "_GRAIN", 0)
    return names


def test_a_large_file_left_alone_is_digested_once(tmp_path: Path, read: list[str], monkeypatch) -> None:
    real = digest_file
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(b"x" * (1 << 20))
    small.write_bytes(b"x")
    memory = tmp_path / "seen.json"
    first = [SeenFiles(memory).digest(path) for path in (large, small)]
    assert [SeenFiles(memory).digest(path) for path in (large, small)] == first == [real(large), real(small)]
    assert read == ["large", "small", "small"]
    status = large.stat()
    large.write_bytes(b"y" * (1 << 20))  # as long as before, and made to look as old: only the ctime tells
    os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert SeenFiles(memory).digest(large) == real(large) != first[0]
    other_file = tmp_path / "other"
    other_file.write_bytes(b"z" * (1 << 20))
    os.replace(other_file, large)
    assert SeenFiles(memory).digest(large) == real(large)
    monkeypatch.setattr(SeenFiles, "_GRAIN", 10**15)  # changed a moment ago: another change may leave the same status
    os.utime(large, (0, 0))
    read.clear()
    assert [SeenFiles(tmp_path / "fresh.json").digest(large) for _ in range(2)] == [real(large)] * 2
    assert read == ["large", "large"]
    for damaged in ("no JSON", "[1]", '"x"', f'{{"{large}": 1}}', f'{{"{large}": null}}'):
        memory.write_text(damaged)
        assert SeenFiles(memory).digest(large) == real(large)


def test_a_changed_or_missing_file_is_named_and_a_right_one_is_read_once(tmp_path: Path, read: list[str]) -> None:
    store, outside = ArtifactStore(tmp_path / "store"), tmp_path / "weights"
    outside.write_bytes(b"w" * (1 << 20))

    def make(builder: Builder) -> None:
        (builder.folder / "audit.html").write_bytes(b"p" * (1 << 20))
        (builder.folder / "rows").write_bytes(b"r" * (1 << 20))
        builder.outside[str(outside)] = digest_file(outside)

    artifact = build(store, make)
    read.clear()
    assert store.check(artifact) is store.check(artifact) is artifact and read == ["rows", "weights"]
    artifact.path("audit.html").unlink()
    assert store.check(artifact), "a page that quotes rows is not missed when a person is forgotten"
    flipped = bytearray(artifact.path("rows").read_bytes())
    flipped[77] ^= 1
    artifact.path("rows").write_bytes(flipped)
    outside.unlink()
    with pytest.raises(ChangedArtifact, match=rf"task/step/{artifact.version}") as error:
        store.check(artifact)
    assert f"rows has changed, {outside} is gone" in str(error.value) and f"remove {artifact.folder}" in str(
        error.value
    )
    assert store.find("task", "step", artifact.version) is None, "what it was made of has to be found again first"


@pytest.mark.parametrize(
    "left", [b'{"facts": {}, "inp', b"[]", b"null", b'{"facts": {}}', b'{"facts": "x", "inputs": {}, "files": {}}']
)
def test_a_damaged_manifest_is_named_with_its_folder(tmp_path: Path, left: bytes) -> None:
    store = ArtifactStore(tmp_path)
    artifact = build(store)
    manifest = artifact.path(MANIFEST)
    manifest.write_bytes(left)
    with pytest.raises(ChangedArtifact, match=rf"task/step/{artifact.version}.*{MANIFEST}") as error:
        build(store)
    assert f"remove {artifact.folder}" in str(error.value)
    with pytest.raises(OutsideError, match="is damaged"):
        store.check(artifact)


def test_what_is_made_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    home, before = tmp_path / "home", os.umask(0o000)
    try:
        store = ArtifactStore(home / "artifacts")
        with store.lock("demo", "logs"):
            write_json(store.state_folder("demo") / "a.json", {})
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o775)
        make_private(shared)
        assert stat.S_IMODE(shared.stat().st_mode) == 0o770, "its group may keep it"
    finally:
        os.umask(before)
