"""docs/promises.md names a test for every promise, and each of these tests is there."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "promises.md"


def test_every_promise_names_a_test_that_exists() -> None:
    rows = re.findall(r"^\| (.+?) \| (\S+)::(\w+) \|$", PAGE.read_text("utf-8"), re.M)
    assert len(rows) > 50
    missing = []
    for promise, file, name in rows:
        path = TESTS / file
        if not path.is_file() or f"\ndef {name}(" not in path.read_text("utf-8"):
            missing.append(f"{promise}: {file}::{name}")
    assert not missing, "\n".join(missing)
    promises = [promise for promise, _, _ in rows]
    assert len(set(promises)) == len(promises)
