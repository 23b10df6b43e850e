"""New rows cost only themselves: unchanged parts, pairs and decisions are taken over, and the result is the same."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetune_pipeline.data.parts import Workers, link, read_index

from finetune_pipeline.artifacts import read_json
from finetune_pipeline.data.dedup.cleaning import PREPARED, clean
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline_tests.unit.data.rows import LABELS, make_spec, read_lines, write_raw

SPEC = make_spec(min_chars=1)
WORDS = "export import sync login invoice report calendar crew tablet route photo signature map offline update".split()


def lines(start: int, stop: int) -> list[dict[str, Any]]:
    made = []
    for i in range(start, stop):
        rng = random.Random(i // 3 if i % 3 else i)  # every third row is on its own, the others come in likenesses
        text = " ".join(rng.choices(WORDS, k=14)) + f" {rng.randint(1, 9)}"
        made.append({"text": text + ("" if i % 3 != 2 else "!"), "label": LABELS[rng.randrange(3)]})
    return made


def raw(folder: Path, files: dict[str, list[Any]]) -> Path:
    for name, content in files.items():
        write_raw(folder, content, f"raw/{name}.jsonl")
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_blocks_that_did_not_change_are_taken_over(tmp_path: Path) -> None:
    first, second = tmp_path / "v1", tmp_path / "v2"
    facts = validate(raw(tmp_path / "r1", {"a": lines(0, 60)}), SPEC, first)
    assert (facts["parts"], facts["taken_over"]) == (1, 0)
    grown = raw(tmp_path / "r2", {"a": lines(0, 60), "b": lines(60, 70)})
    facts = validate(grown, SPEC, second, [first])
    assert (facts["parts"], facts["taken_over"], facts["rows_in"]) == (2, 1, 70)
    key = read_index(first)[0]["key"]
    assert os.path.samefile(first / "parts" / key / "examples.jsonl", second / "parts" / key / "examples.jsonl")
    validate(grown, SPEC, tmp_path / "v3")
    assert everything(second) == everything(tmp_path / "v3")


def test_another_spec_judges_again(tmp_path: Path) -> None:
    source = raw(tmp_path / "r", {"a": lines(0, 20)})
    validate(source, SPEC, tmp_path / "v1")
    facts = validate(source, make_spec(min_chars=5), tmp_path / "v2", [tmp_path / "v1"])
    assert facts["taken_over"] == 0


def test_a_grown_set_is_cleaned_as_if_from_the_start(tmp_path: Path) -> None:
    validate(raw(tmp_path / "r1", {"a": lines(0, 90)}), SPEC, tmp_path / "v1")
    clean(tmp_path / "v1", SPEC, tmp_path / "c1", key=b"k")
    validate(raw(tmp_path / "r2", {"a": lines(0, 90), "b": lines(88, 120)}), SPEC, tmp_path / "v2", [tmp_path / "v1"])
    facts = clean(tmp_path / "v2", SPEC, tmp_path / "c2", key=b"k", earlier=[tmp_path / "c1"])
    fresh = clean(tmp_path / "v2", SPEC, tmp_path / "c3", key=b"k")
    assert (facts["taken_over"], fresh["taken_over"]) == (1, 0)
    assert {k: v for k, v in facts.items() if k != "taken_over"} == {
        k: v for k, v in fresh.items() if k != "taken_over"
    }
    assert everything(tmp_path / "c2") == everything(tmp_path / "c3")
    assert facts["near_duplicates"] + facts["exact_duplicates"] > 20 and facts["kept"] > 40


def test_rows_that_are_gone_leave_nothing_behind(tmp_path: Path) -> None:
    validate(raw(tmp_path / "r1", {"a": lines(0, 60), "b": lines(60, 90)}), SPEC, tmp_path / "v1")
    clean(tmp_path / "v1", SPEC, tmp_path / "c1", key=b"k")
    validate(raw(tmp_path / "r2", {"a": lines(0, 60)}), SPEC, tmp_path / "v2", [tmp_path / "v1"])
    clean(tmp_path / "v2", SPEC, tmp_path / "c2", key=b"k", earlier=[tmp_path / "c1"])
    clean(tmp_path / "v2", SPEC, tmp_path / "c3", key=b"k")
    assert everything(tmp_path / "c2") == everything(tmp_path / "c3")


def test_parts_that_lose_nothing_are_links(tmp_path: Path) -> None:
    validate(
        raw(tmp_path / "r", {"a": [{"text": f"{w} alone", "label": LABELS[0]} for w in WORDS]}), SPEC, tmp_path / "v"
    )
    clean(tmp_path / "v", SPEC, tmp_path / "c", key=b"k")
    part = read_index(tmp_path / "c")[0]
    assert os.path.samefile(
        tmp_path / "c/parts" / part["key"] / "examples.jsonl",
        tmp_path / "c" / PREPARED / part["prepared"] / "examples.jsonl",
    )
    assert len(read_examples(tmp_path / "c")) == len(WORDS)


def test_a_pool_of_processes_makes_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_pipeline.data.validate.validation.LARGE", 0)
    monkeypatch.setattr("finetune_pipeline.data.dedup.cleaning.LARGE_ROWS", 0)
    source = raw(tmp_path / "r", {n: lines(i * 30, i * 30 + 30) for i, n in enumerate("abcd")} | {"e": [b"broken"]})
    for name, processes in (("one", 1), ("two", 2)):
        validate(source, SPEC, tmp_path / name / "v", processes=processes)
        clean(tmp_path / name / "v", SPEC, tmp_path / name / "c", key=b"k", processes=processes)
    assert everything(tmp_path / "one") == everything(tmp_path / "two")
    assert len(read_lines(tmp_path / "two/v/quarantine.jsonl")) == 1


def test_workers_keep_the_order_and_hand_errors_on() -> None:
    with Workers(large=True, processes=2) as workers:
        assert list(workers.run(abs, [-3, 2, -1, 0, 5, -6, 7])) == [3, 2, 1, 0, 5, 6, 7]
        with pytest.raises(TypeError):
            list(workers.run(abs, [1, "x", 2, 3]))  # type: ignore[list-item]


def test_a_link_is_a_copy_where_links_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "cross-device link")

    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(os, "link", refuse)
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "x" and not os.path.samefile(tmp_path / "a", tmp_path / "b")


def test_digests_of_a_part_name_its_files(tmp_path: Path) -> None:
    validate(raw(tmp_path / "r", {"a": lines(0, 5)}), SPEC, tmp_path / "v")
    part = tmp_path / "v/parts" / read_index(tmp_path / "v")[0]["key"]
    told = read_json(part / "digests.json")
    assert set(told) == {p.name for p in part.iterdir()} - {"digests.json"}


def test_rows_are_where_the_table_says(tmp_path: Path) -> None:
    validate(raw(tmp_path / "r", {"a": lines(0, 30)}), SPEC, tmp_path / "v")
    clean(tmp_path / "v", SPEC, tmp_path / "c", key=b"k")
    rows = np.load(tmp_path / "c/rows.npy")
    part = read_index(tmp_path / "c")[0]
    data = (tmp_path / "c" / PREPARED / part["prepared"] / "examples.jsonl").read_bytes()
    for row in rows:
        assert json.loads(data[row["start"] : row["end"]])["id"] == f"{row['id']:016x}"
