"""Files of examples: read as written, named by their content, sealed, and the same from one process or a pool."""

import hashlib
import itertools
import json
import unicodedata
from pathlib import Path

import pytest

from finetune_pipeline.data import workers
from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.examples import (
    SEALED_MARK,
    SealedError,
    decode_examples,
    example_id,
    examples_of,
    read_examples,
    seal,
    seal_key,
    unseal,
    write_examples,
)
from finetune_pipeline.data.split.splitting import split
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline_tests.unit.data.rows import (
    LABELS,
    example,
    make_spec,
    random_text,
    read_lines,
    write_clean,
    write_raw,
)

KEY = seal_key(b"k" * 32)


def test_what_is_written_is_read_unless_it_is_sealed(tmp_path: Path) -> None:
    rows = [example("line\u2028separator\nand 😀"), example("b", group="g", origin="synthetic", tags=["x"])]
    path = tmp_path / "e.jsonl"
    assert write_examples(path, rows) == 2
    assert read_examples(path) == rows
    first = path.read_text("utf-8").split("\n")[0]
    assert first.startswith('{"id":"') and first.index('"messages"') < first.index('"label"') < first.index('"source"')
    path.write_bytes(seal(path.read_bytes(), KEY))
    with pytest.raises(SealedError, match="Only test_predictions opens it"):
        read_examples(path)


def test_sealed_rows_come_back_with_the_key_alone_and_damage_is_told() -> None:
    rows = b"".join(b'{"id": %d, "text": "secret words"}\n' % i for i in range(500))
    sealed, other = seal(rows, KEY), seal_key(b"j" * 32)
    assert unseal(sealed, KEY) == rows
    assert b"secret" not in sealed and sealed.startswith(SEALED_MARK)
    assert sealed == seal(rows, KEY) != seal(rows, other)
    flipped = sealed[:100] + bytes([sealed[100] ^ 1]) + sealed[101:]
    for data, key in ((sealed, other), (flipped, KEY), (sealed[:-5], KEY), (rows, KEY), (sealed + b"more", KEY)):
        with pytest.raises(SealedError, match="damaged"):
            unseal(data, key)


def test_the_test_is_sealed_and_its_rows_come_back(tmp_path: Path) -> None:
    spec, rows = make_spec(), [example(random_text(i), line=i) for i in range(60)]
    made = write_clean(tmp_path / "in", rows, spec)
    facts = split(made, made, spec, tmp_path / "ledger", tmp_path / "out", seal=lambda data: seal(data, KEY))
    with pytest.raises(SealedError):
        read_examples(examples_of(tmp_path / "out", "test"))
    hits = decode_examples(unseal(examples_of(tmp_path / "out", "test").read_bytes(), KEY))
    other = [e for name in ("train", "validation") for e in read_examples(examples_of(tmp_path / "out", name))]
    assert len(hits) == facts.counts["test"] > 5 and {e.id for e in [*hits, *other]} == {e.id for e in rows}


def test_ids_are_those_of_the_canonical_json_for_ever() -> None:
    """Ledgers and reviews of earlier versions name rows by them."""
    letters = "".join(map(chr, range(33, 768)))
    odd = ('café \u2028 \x00\x1f\x7f "\\/ 😀', "cafe\u0301", "Café", "half of a pair \ud83d", letters)
    for role, text in itertools.product(("user", "assistant"), odd):
        plain = json.dumps([[role, unicodedata.normalize("NFC", text)]], ensure_ascii=False, separators=(",", ":"))
        expected = hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        assert example_id([{"role": role, "content": f" {text} "}]) == expected


def test_a_foreign_file_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "foreign.jsonl"
    faulty = ('{"id": "a"}', '{"id": "a", "messages": []}', '{"id":"a","messages":[{"role":"user"}]}', "[1]", '{"id":')
    for line in faulty:
        path.write_text(line + "\n")
        with pytest.raises(ValueError, match=r"foreign\.jsonl"):
            read_examples(path)


def test_a_pool_of_processes_makes_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "available_cores", lambda: 2)
    for start, name in enumerate("abcd"):  # every second row nearly repeats the one before it
        numbers = range(start * 30, start * 30 + 30)
        rows = [{"text": random_text(i // 2, 14) + "!" * (i % 2), "label": LABELS[i // 2 % 3]} for i in numbers]
        write_raw(tmp_path / "r", rows, f"raw/{name}.jsonl")
    write_raw(tmp_path / "r", [b"broken"], "raw/e.jsonl")
    spec, files = make_spec(min_chars=1), []
    for name, large in (("one", 1 << 40), ("two", 0)):
        monkeypatch.setattr(workers, "LARGE", large)
        validate(tmp_path / "r", spec, tmp_path / name / "v")
        clean(tmp_path / name / "v", spec, tmp_path / name / "c", key=b"k")
        paths = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        files.append({str(p.relative_to(tmp_path / name)): p.read_bytes() for p in paths})
    assert files[0] == files[1]
    assert len(read_lines(tmp_path / "two/v/quarantine.jsonl")) == 1
    assert len(read_lines(tmp_path / "two/c/duplicates.jsonl")) == 60
    assert list(workers.in_order(abs, [-3, 2, -1, 0, 5, -6, 7], workers.LARGE)) == [3, 2, 1, 0, 5, 6, 7]
    with pytest.raises(TypeError):
        list(workers.in_order(abs, [1, "x", 2, 3], workers.LARGE))  # type: ignore[list-item]
