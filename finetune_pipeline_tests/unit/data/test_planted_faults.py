"""Every planted fault is found by its rule at its line, nothing else is, and no row is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_pipeline_tests.unit.data.planted import PLANTED, SHAPES, File, clean_files
from finetune_pipeline_tests.unit.data.raw_rows import judge_file, told

CLEAN = clean_files()


def test_there_are_enough_kinds_of_fault() -> None:
    files = [make() for make in PLANTED]
    kinds = {kind for file in files for kind, _, _ in file.faults}
    found_by = {rule for file in files for _, rule, _ in file.faults}
    assert len(kinds) >= 75 and len(found_by) >= 45


@pytest.mark.parametrize("make", PLANTED, ids=lambda make: make.__name__)
def test_planted_faults_are_found_where_they_are(tmp_path: Path, make: type[File]) -> None:
    file = make()
    path = tmp_path / file.name
    file.write(path)
    judged = judge_file(path, file.spec, size=1 << 20)
    assert told(judged) == sorted((rule, line) for _, rule, line in file.faults)
    assert (judged.kept, len(judged.quarantine)) == (file.sound, file.quarantined)
    assert judged.rows_in == file.sound + file.quarantined
    errors = {(f["place"]) for f in judged.findings if f["severity"] == "error"}
    assert errors == {f"{q['file']}:{q['line']}" for q in judged.quarantine}
    assert all(f["message"] and f["fix"] for f in judged.findings)


@pytest.mark.parametrize("file", CLEAN, ids=[f.name for f in CLEAN])
def test_a_clean_file_has_no_finding(tmp_path: Path, file: File) -> None:
    path = tmp_path / file.name
    file.write(path)
    judged = judge_file(path, file.spec)
    assert judged.findings == [] and judged.quarantine == []
    assert judged.kept == judged.rows_in == file.sound


def test_the_clean_corpus_holds_every_shape() -> None:
    assert len(CLEAN) > 9 * len(SHAPES)
