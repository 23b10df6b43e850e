from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path

import pytest

from finetune_pipeline.data.examples import example_id, read_examples, user_texts, write_examples
from finetune_pipeline.data.json_lines import digest_files, read_lines
from finetune_pipeline_tests.unit.data.rows import example


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [example("line\u2028separator\nand 😀"), example("b", group="g", origin="synthetic", tags=["x"])]
    assert write_examples(tmp_path / "e.jsonl", rows) == 2
    assert read_examples(tmp_path / "e.jsonl") == rows
    assert user_texts((tmp_path / "e.jsonl").read_bytes()) == [row.user_text for row in rows]
    first = (tmp_path / "e.jsonl").read_text("utf-8").split("\n")[0]
    assert first.startswith('{"id":"') and first.index('"messages"') < first.index('"label"') < first.index('"source"')


def test_id_depends_on_content_and_roles_only() -> None:
    turns = (("user", "café"), ("user", " cafe\u0301 "), ("assistant", "café"), ("user", "Café"))
    one, same, *others = [example_id([{"role": role, "content": content}]) for role, content in turns]
    assert one == same and len({one, *others}) == 3


@pytest.mark.parametrize(
    "text", ['café \u2028 \x00\x1f\x7f "\\/ 😀', "half of a pair \ud83d", "".join(map(chr, range(0x21, 0x300)))]
)
def test_ids_are_those_of_the_canonical_json_for_ever(text: str) -> None:
    """Ledgers and reviews of earlier versions name rows by them."""
    plain = json.dumps([["user", unicodedata.normalize("NFC", text)]], ensure_ascii=False, separators=(",", ":"))
    expected = hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    assert example_id([{"role": "user", "content": f" {text} "}]) == expected


@pytest.mark.parametrize(
    "line", ['{"id": "a"}', '{"id": "a", "messages": []}', '{"id":"a","messages":[{"role":"user"}]}', "[1]", '{"id":']
)
def test_a_foreign_file_is_refused_with_its_name(tmp_path: Path, line: str) -> None:
    path = tmp_path / "foreign.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"foreign\.jsonl"):
        read_examples(path)


def test_lines_are_numbered_and_long_ones_cut(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one\r\n" + b"x" * 25 + b"\n\nlast")
    assert list(read_lines(path, limit=10)) == [(1, b"one", False), (2, b"x" * 10, True), (4, b"last", False)]
    path.write_bytes(b"x" * 10 + b"\n" + b"y" * 20)
    assert list(read_lines(path, limit=10)) == [(1, b"x" * 10, False), (2, b"y" * 10, True)]


def test_digest_sees_names_content_and_borders(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    a, b = ("a", tmp_path / "a"), ("b", tmp_path / "b")
    digests = {digest_files(x) for x in ([a, b], [b, a], [a], [("b", a[1]), ("a", b[1])], [])}
    assert len(digests) == 5
