"""Reads the task's `documents/` folder (text, Markdown, PDF) as passages for retrieval."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from finetune_pipeline.data.json_lines import digest_files, read_rows, write_rows
from finetune_pipeline.faults import visible_files
from finetune_pipeline.findings import Finding, FindingsError

FOLDER, PASSAGES = "documents", "passages.jsonl"
"""The task's folder of documents, and a baseline's file with their passages."""
TEXTS = (".md", ".markdown", ".txt")
PASSAGE = 800
"""Maximum characters of a passage; longer paragraphs are cut at sentence ends."""
_HEADING = re.compile(r"#{1,6}\s+\S")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document. place: file, and page of a PDF. heading: the Markdown heading above it."""

    place: str
    heading: str
    text: str

    @property
    def shown(self) -> str:
        """The passage as shown to a model."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text


def document_files(folder: Path, supported: bool = True) -> list[Path]:
    """Return the supported (or the unsupported) files of a documents folder, sorted, without hidden ones."""
    return [path for _, path in visible_files(folder) if (path.suffix.lower() in (*TEXTS, ".pdf")) == supported]


def left_out(folder: Path) -> list[str]:
    """Return the names of the files of unsupported types."""
    return [str(path.relative_to(folder)) for path in document_files(folder, supported=False)]


def documents_digest(task_folder: Path) -> str:
    """Return the digest of the supported documents, names included; empty if there are none."""
    files = document_files(task_folder / FOLDER)
    return digest_files((path.relative_to(task_folder).as_posix(), path) for path in files) if files else ""


def read_documents(folder: Path) -> list[Passage]:
    """Read all passages of a folder, in the order of the files. Raises FindingsError naming every file that cannot be read,
    with the reason."""
    passages: list[Passage] = []
    findings: list[Finding] = []
    for path in document_files(folder):
        place, first = f"{FOLDER}/{path.relative_to(folder)}", len(passages)
        rule = message = fix = ""
        try:
            if path.suffix.lower() == ".pdf":
                from pypdf import PdfReader

                for number, page in enumerate(PdfReader(path).pages, 1):
                    passages += _passages(f"{place}, page {number}", page.extract_text())
            else:
                passages += _passages(place, path.read_text("utf-8-sig"))
            if len(passages) == first:
                rule, message, fix = "empty", "holds no text", "remove it; run OCR on scans first"
        except UnicodeDecodeError as error:
            rule, message, fix = "encoding", f"byte {error.start} is not UTF-8", "store it as UTF-8"
        except ImportError:
            rule, message = "pdf", "reading a PDF needs the extra `documents`"
            fix = 'pip install "finetune-pipeline[documents]"'
        except Exception as error:  # noqa: BLE001 - a PDF may be broken in any way; the finding names it
            rule, message, fix = "unreadable", f"cannot be read: {type(error).__name__}: {error}", "repair or remove it"
        if rule:
            findings.append(Finding(f"documents.{rule}", "error", place, message, fix))
    if findings:
        raise FindingsError(findings)
    return passages


def document_findings(folder: Path) -> list[Finding]:
    """Return findings about files of a documents folder that cannot be read or have an unsupported type."""
    message, fix = "has an unsupported type", "convert it to text, Markdown or PDF, or remove it"
    places = (f"{FOLDER}/{name}" for name in left_out(folder))
    warnings = [Finding("documents.kind", "warning", place, message, fix) for place in places]
    try:
        read_documents(folder)
    except FindingsError as error:
        return [*error.findings, *warnings]
    return warnings


def _passages(place: str, text: str) -> Iterator[Passage]:
    """Join the paragraphs under each heading to passages of up to PASSAGE characters."""
    heading, joined = "", ""
    for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        lines = paragraph.strip().split("\n")
        if _HEADING.match(lines[0]):
            if joined:
                yield Passage(place, heading, joined)
            heading, joined = lines[0].lstrip("#").strip(), ""
            lines = lines[1:]
        for piece in _pieces("\n".join(lines).strip()):
            if joined and len(joined) + len(piece) + 2 > PASSAGE:
                yield Passage(place, heading, joined)
                joined = ""
            joined = f"{joined}\n\n{piece}" if joined else piece
    if joined:
        yield Passage(place, heading, joined)


def _pieces(paragraph: str) -> Iterator[str]:
    """Split a paragraph at sentence (or word) ends if it is longer than PASSAGE."""
    while len(paragraph) > PASSAGE:
        ends = [m.end() for m in re.finditer(r"[.!?]\s+|\n", paragraph[:PASSAGE])]
        cut = ends[-1] if ends else paragraph.rfind(" ", 0, PASSAGE) + 1 or PASSAGE
        yield paragraph[:cut].strip()
        paragraph = paragraph[cut:].strip()
    if paragraph:
        yield paragraph


def write_passages(path: Path, passages: Iterable[Passage]) -> None:
    write_rows(path, map(asdict, passages))


def read_passages(path: Path) -> list[Passage]:
    return [Passage(**row) for row in read_rows(path)]
