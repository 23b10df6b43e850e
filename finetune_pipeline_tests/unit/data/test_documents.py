"""Documents as passages: cut where a reader would, shown to the row they are like, and every bad file named at once."""

from __future__ import annotations

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
from finetune_pipeline.evaluation.prompts import Prompt, Retriever, conversations
from finetune_pipeline.findings import FindingsError

HANDBOOK = """# Refunds

A refund takes five days. Refunds go to the card that paid.

## Zebra plan

The zebra plan costs 40 euros a month.

It ends by the 30th."""


def pdf(text: str) -> bytes:
    """A PDF of one page with one line of text, written by hand: pypdf reads, and does not set type."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer << /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(out)
    return out + b"xref\n0 5\n0000000000 65535 f \n" + table + trailer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "documents"
    (made / "sub").mkdir(parents=True)
    (made / "handbook.md").write_text(HANDBOOK)
    (made / "sub" / "terms.pdf").write_bytes(pdf("Parcels over thirty kilos go by freight."))
    (made / "picture.png").write_bytes(b"\x89PNG")
    (made / ".hidden.md").write_text("not this")
    return made


def test_passages_keep_their_heading_and_place(folder: Path, tmp_path: Path) -> None:
    passages = read_documents(folder)
    assert [(p.place, p.heading) for p in passages] == [
        ("documents/handbook.md", "Refunds"),
        ("documents/handbook.md", "Zebra plan"),
        ("documents/sub/terms.pdf, page 1", ""),
    ]
    assert passages[1].shown == "Zebra plan\nThe zebra plan costs 40 euros a month.\n\nIt ends by the 30th."
    assert "thirty kilos" in passages[2].text
    write_passages(tmp_path / "p.jsonl", passages)
    assert read_passages(tmp_path / "p.jsonl") == passages


def test_nothing_of_a_long_document_is_lost_and_no_passage_is_too_long(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(3000)]
    text = " ".join(f"{word}." if i % 9 == 8 else word for i, word in enumerate(words))
    (tmp_path / "long.txt").write_text(f"{text[:9000]}\n\n{text[9000:]}")
    passages = read_documents(tmp_path)
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


def test_a_project_below_a_hidden_folder_has_documents(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / ".hidden"
    folder.rename(moved)
    assert [path.name for path in document_files(moved)] == ["handbook.md", "terms.pdf"]


def test_the_digest_follows_the_documents_and_nothing_else(folder: Path) -> None:
    before = documents_digest(folder.parent)
    (folder / "picture.png").write_bytes(b"other")
    assert documents_digest(folder.parent) == before != ""
    (folder / "handbook.md").rename(folder / "guide.md")
    assert documents_digest(folder.parent) != before
    assert documents_digest(folder / "nowhere") == ""


def test_a_row_is_shown_the_passages_it_is_like_in_its_system_prompt(folder: Path) -> None:
    turns = [("system", "Answer."), ("user", "what does the zebra plan cost a month"), ("assistant", "40 euros")]
    row = Example("r", [{"role": role, "content": text} for role, text in turns])
    (choices,) = conversations([row], Prompt(documents=2).to_dict(), Retriever([], read_documents(folder)))
    assert [len(c) for c in choices] == [2, 2, 2]
    first = choices[0][0]["content"]
    assert first.startswith("Answer.\n\nPassages that may help:\n\n[1] Zebra plan\n") and "[2] " in first
    assert choices[0][1]["content"] == turns[1][1]
    assert "[2]" not in choices[1][0]["content"], "where they are too long for a model, the least like one goes first"
    assert choices[2][0]["content"] == "Answer."
