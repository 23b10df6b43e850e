import gzip
import hashlib
import json
from pathlib import Path

import pytest

from finetune_pipeline.data.documents import (
    PASSAGE,
    document_files,
    document_findings,
    documents_digest,
    read_documents,
    read_passages,
    write_passages,
)
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.raw_files import RawFacts, benchmark_paths, collect_raw, raw_digest, raw_paths
from finetune_pipeline.data.readers.encoding import survey
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline.evaluation.prompts import Prompt, Retriever, conversations
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
    assert [f.file for f in facts.files] == ["raw/a.jsonl", "raw/b.jsonl"]
    a, b = facts.files
    assert (out / "files/raw/b.jsonl").read_text() == text
    assert b.sha256 == hashlib.sha256(text.encode()).hexdigest() and b.bytes == len(text)
    assert a.container == b.container == "json_lines" and "JSON values" in b.reason
    assert facts.digest == raw_digest(task(home))


FILES = {
    "lines.jsonl": b'{"text": "x", "label": "y"}\n' * 9000,
    "western.csv": "text;label\nCafé créé;a\nDéjà là, été;b\n".encode("cp1252"),
    "wide.csv": "text,label\nCafé,a\n".encode("utf-16"),
    "packed.jsonl.gz": gzip.compress(b'{"text": "x", "label": "y"}\n' * 90_000),
    "cut.jsonl.gz": gzip.compress(bytes(range(256)) * 2000)[:-50],
    "binary.parquet": b"PAR1" + bytes(300_000) + b"PAR1",
    "empty.jsonl": b"",
}


def test_a_file_is_copied_digested_and_surveyed_as_a_whole(tmp_path: Path) -> None:
    """Whatever the survey reads of it: a kind it does not read, a broken stream, one that unpacks to more than allowed."""
    home, spec = tmp_path / "task", make_spec(raw=["raw/*"], max_unpacked_gib=0.001)
    for name, data in FILES.items():
        lay(home, f"raw/{name}", "").write_bytes(data)
    facts = collect_raw(Task(spec=spec, folder=home), tmp_path / "out")
    surveys = RawFacts.of(facts.to_json()).surveys
    assert len(facts.files) == len(surveys) == len(FILES)
    for file in facts.files:
        path, data = home / file.file, FILES[Path(file.file).name]
        assert (tmp_path / "out/files" / file.file).read_bytes() == data
        assert (file.sha256, file.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        assert surveys[file.file] == survey(path, file.file, spec)
    assert surveys["raw/packed.jsonl.gz"].problem and surveys["raw/wide.csv"].encoding.startswith("utf-16")
    validate(tmp_path / "out", spec, tmp_path / "with", surveys)
    validate(tmp_path / "out", spec, tmp_path / "without")
    for name in ("examples.jsonl", "quarantine.jsonl", "findings.jsonl"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()


def test_the_digest_follows_content_and_names_and_no_production_rows(tmp_path: Path) -> None:
    digests = []
    for name, text in (("a", "1"), ("a", "1"), ("a", "2"), ("b", "2")):
        path = lay(tmp_path, f"task/raw/{name}.jsonl", text)
        digests.append(raw_digest(task(tmp_path / "task")))
        path.unlink()
    assert digests[0] == digests[1] and len(set(digests)) == 3
    with pytest.raises(FindingsError, match=r"'raw/\*\.jsonl'") as error:
        collect_raw(task(tmp_path / "task"), tmp_path / "out")
    assert [f.rule for f in error.value.findings] == ["data.no_raw_files"]
    lay(tmp_path, "task/raw/b.jsonl", "2")
    rows = lay(tmp_path, "rows.jsonl", '{"messages": []}')
    facts = collect_raw(task(tmp_path / "task"), tmp_path / "out", rows)
    assert [f.file for f in facts.files] == ["raw/b.jsonl", "production.jsonl"]
    assert facts.digest == digests[-1]


def test_a_glob_without_suffix_takes_what_can_be_read(tmp_path: Path) -> None:
    known = ["raw/a.jsonl", "raw/b.CSV", "raw/c.json.gz", "raw/d.parquet", "raw/e.xlsx"]
    for name in (*known, "raw/notes.txt", "raw/README", "raw/.hidden.csv", "raw/~$e.xlsx", "raw/gz"):
        lay(tmp_path, name, "x")
    assert [name for name, _ in raw_paths(task(tmp_path, "raw/*"))] == known
    assert [name for name, _ in raw_paths(task(tmp_path, "raw/*.txt"))] == ["raw/notes.txt"]


def test_globs_of_benchmarks_that_match_nothing_are_named_and_so_is_a_reserved_name(tmp_path: Path) -> None:
    lay(tmp_path, "bench/b.jsonl", "{}")

    def matches(*globs: str) -> list[str]:
        return [name for name, _ in benchmark_paths(Task(spec=make_spec(benchmarks=list(globs)), folder=tmp_path))]

    assert matches("bench/*", "*/b.jsonl") == ["bench/b.jsonl"] and matches() == []
    with pytest.raises(FindingsError) as error:
        matches("bench/*", "none/*", "bench/c*")
    assert {f.rule for f in error.value.findings} == {"data.no_benchmark_files"}
    assert [f.message.rpartition(" ")[2] for f in error.value.findings] == ["'none/*'", "'bench/c*'"]
    lay(tmp_path, "production.jsonl", "{}")
    with pytest.raises(FindingsError) as error:
        raw_paths(task(tmp_path, "*.jsonl"))
    assert [(f.rule, f.place) for f in error.value.findings] == [("data.reserved_name", "production.jsonl")]


def test_links_may_not_leave_the_folder(tmp_path: Path) -> None:
    home = tmp_path / "task"
    secret = lay(tmp_path, "secret.jsonl", "x")
    lay(home, "raw/real.jsonl", "{}")
    (home / "raw/inside.jsonl").symlink_to(home / "raw/real.jsonl")
    read = [f.file for f in collect_raw(task(home), tmp_path / "out").files]
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


HANDBOOK = (
    "# Refunds\n\nA refund takes five days. Refunds go to the card that paid.\n\n"
    "## Zebra plan\n\nThe zebra plan costs 40 euros a month.\n\nIt ends by the 30th."
)


def pdf(text: str) -> bytes:
    """A PDF of one page with one line of text, without the table of its parts, which readers can do without."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    font = b"<< /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font %s >> >>" % font,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    )
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % numbered for numbered in enumerate(objects, 1))
    return b"%PDF-1.4\n" + body + b"trailer << /Size 5 /Root 1 0 R >>\nstartxref\n0\n%%EOF"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "documents"
    (made / "sub").mkdir(parents=True)
    (made / "handbook.md").write_text(HANDBOOK)
    (made / "sub" / "terms.pdf").write_bytes(pdf("Parcels over thirty kilos go by freight."))
    (made / "picture.png").write_bytes(b"\x89PNG")
    (made / ".hidden.md").write_text("not this")
    return made


def test_passages_keep_their_heading_and_place_and_nothing_is_lost(folder: Path, tmp_path: Path) -> None:
    passages = read_documents(folder)
    assert [p.place for p in passages] == [*["documents/handbook.md"] * 2, "documents/sub/terms.pdf, page 1"]
    assert [p.heading for p in passages] == ["Refunds", "Zebra plan", ""]
    assert passages[1].shown == "Zebra plan\nThe zebra plan costs 40 euros a month.\n\nIt ends by the 30th."
    assert "thirty kilos" in passages[2].text
    write_passages(tmp_path / "p.jsonl", passages)
    assert read_passages(tmp_path / "p.jsonl") == passages
    text = " ".join(f"w{i}." if i % 9 == 8 else f"w{i}" for i in range(3000))
    (tmp_path / "long").mkdir()
    (tmp_path / "long/long.txt").write_text(f"{text[:9000]}\n\n{text[9000:]}")
    passages = read_documents(tmp_path / "long")
    assert all(len(p.text) <= PASSAGE for p in passages)
    assert "".join("".join(p.text for p in passages).split()) == "".join(text.split())


def test_every_bad_document_is_named_at_once(folder: Path) -> None:
    (folder / "latin.txt").write_bytes("Größe".encode("cp1252"))
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4\nnothing")
    (folder / "scan.pdf").write_bytes(pdf(""))
    with pytest.raises(FindingsError) as raised:
        read_documents(folder)
    bad = ["documents/broken.pdf", "documents/latin.txt", "documents/scan.pdf"]
    assert [f.place for f in raised.value.findings] == bad
    assert "byte 2 is not UTF-8" in str(raised.value) and "holds no text" in str(raised.value)
    others = document_findings(folder)[len(raised.value.findings) :]
    assert [(f.severity, f.place) for f in others] == [("warning", "documents/picture.png")]


def test_the_digest_follows_the_documents_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    before = documents_digest(folder.parent)
    (folder / "picture.png").write_bytes(b"other")
    assert documents_digest(folder.parent) == before != ""
    (folder / "handbook.md").rename(folder / "guide.md")
    assert documents_digest(folder.parent) != before
    assert documents_digest(folder / "nowhere") == ""
    moved = tmp_path / ".hidden"  # the folder of a whole project may be hidden
    folder.rename(moved)
    assert [path.name for path in document_files(moved)] == ["guide.md", "terms.pdf"]


def test_a_row_is_shown_the_passages_it_is_like_in_its_system_prompt(folder: Path) -> None:
    turns = [("system", "Answer."), ("user", "what does the zebra plan cost a month"), ("assistant", "40 euros")]
    row = Example("r", [{"role": role, "content": text} for role, text in turns])
    (choices,) = conversations([row], Prompt(documents=2), Retriever([], read_documents(folder)))
    assert [len(c) for c in choices] == [2, 2, 2]
    first = choices[0][0]["content"]
    assert first.startswith("Answer.\n\nPassages that may help:\n\n[1] Zebra plan\n") and "[2] " in first
    assert choices[0][1]["content"] == turns[1][1]
    assert "[2]" not in choices[1][0]["content"], "where they are too long for a model, the least like one goes first"
    assert choices[2][0]["content"] == "Answer."
