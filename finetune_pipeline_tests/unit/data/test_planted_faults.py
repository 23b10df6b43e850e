"""Every planted fault is found by its rule at its line, nothing else is, and no row is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_pipeline_tests.unit.data.planted import PLANTED, File, clean_files
from finetune_pipeline_tests.unit.data.raw_rows import rules_by_line, validate_file


@pytest.mark.parametrize("make", PLANTED, ids=lambda make: make.__name__)
def test_planted_faults_are_found_where_they_are(tmp_path: Path, make: type[File]) -> None:
    file = make()
    path = tmp_path / file.name
    file.write(path)
    result = validate_file(path, file.spec, size=1 << 20)
    assert rules_by_line(result) == sorted((rule, line) for _, rule, line in file.faults)
    assert (result.kept, len(result.quarantine)) == (file.sound, file.quarantined)
    assert result.rows_in == file.sound + file.quarantined
    errors = {f["place"] for f in result.findings if f["severity"] == "error" and ":" in f["place"]}
    assert errors == {f"{q['file']}:{q['line']}" for q in result.quarantine}
    assert all(f["message"] and f["fix"] for f in result.findings)


def test_a_clean_file_has_no_finding(tmp_path: Path) -> None:
    """Every container with every shape it can hold."""
    for file in clean_files():
        path = tmp_path / file.name
        file.write(path)
        result = validate_file(path, file.spec)
        assert result.findings == [] and result.quarantine == [], file.name
        assert result.kept == result.rows_in == file.sound, file.name
