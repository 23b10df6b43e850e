"""Drafts a task from logs of a model in production: its answers become the teacher's (`teacher.from_logs`)."""

import gzip
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.data.dedup.text_similarity import loose_form
from finetune_pipeline.data.draft.columns import LONGEST_LABEL
from finetune_pipeline.data.draft.draft import Draft, draft
from finetune_pipeline.data.draft.files import GivenFile
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.findings import Finding, FindingsError, listed
from finetune_pipeline.production.log_files import OWN_FOLDER, is_log_name
from finetune_pipeline.production.log_rows import SYSTEM_ROLES
from finetune_pipeline.production.logged_answers import author_of

_LINES_LOOKED_AT = 20
LABEL_ROWS, LABEL_SHARE = 5, 0.9
"""A short answer that this many different questions share is a label, if such answers are at least this share of all."""
_MOST_LABELS = 100


def are_logs(files: Sequence[GivenFile]) -> bool:
    """Whether the first lines of every file are those of a model's log: requests, answers and the model that wrote them."""
    return all(_is_log(file.path) for file in files)


def draft_from_logs(files: Sequence[GivenFile], allowed: bool) -> tuple[Draft, list[Finding], list[GivenFile]]:
    """Draft a task whose teacher is the model in the logs. Returns (draft, findings, the files by their names in the task folder).

    Raises FindingsError if it is not said that the terms allow training on the answers, or if no task can be made.
    """
    rows_of = {file: list(_rows(file.path)) for file in files}
    rows = [row for of_file in rows_of.values() for row in of_file]
    models = Counter(author_of(row) for row in rows)
    if not allowed:
        names = listed([f"{name} ({n:,} answers)" for name, n in models.most_common()], 5)
        message = f"these files are logs of {names}; some providers forbid training a model on their answers"
        fix = "read the provider's terms, and if they allow it, add --allowed; to read the files as people's rows, name their "
        fix += "columns: --text input --answer output"
        raise FindingsError([Finding("draft.allowed", "error", "--allowed", message, fix)])
    placed = [GivenFile(_log_name(file.name), file.path) for file in files]
    labels = _labels(rows)
    chats, used = any(len(row.get("messages") or []) > 1 for row in rows), 0
    known: set[tuple[str, str]] = set()
    with tempfile.TemporaryDirectory() as folder:
        converted = []
        for number, file in enumerate(files):
            answered = [
                row for row in rows_of[file] if (text := row["output"].strip()) and (not labels or text in labels)
            ]
            used += len(answered)
            distinct = {key: row for row in answered if (key := _distinct(row)) not in known}
            known |= distinct.keys()
            path = Path(folder) / f"{number}.jsonl"
            write_rows(path, map(_chat if chats else _pair, distinct.values()))
            converted += [(_log_name(file.name), path)] if distinct else []
        columns: dict[str, Any] = {} if chats else {"text": "request", "answer": "answer"}
        result, findings = draft(converted, **columns)
    if result is None:
        raise FindingsError(findings)
    result.data = {"inject": True} if chats else {}  # the other keys say how the converted rows are read
    result.teacher = {"from_logs": True, "models": [name for name, _ in models.most_common()], "allowed": True}
    result.notes.append(
        f"the teacher's answers are those of {', '.join(f'{name} × {n:,}' for name, n in models.most_common())}"
    )
    if used < len(rows):
        result.notes.append(f"{len(rows) - used:,} answers are empty or no label, and will be left out and counted")
    return result, findings, placed


def _labels(rows: Iterable[dict[str, object]]) -> set[str]:
    """Return the answers that are labels; none if the answers are texts or JSON. A question that is asked again, such as a frequent
    one with its canned answer, counts once."""
    answers = Counter(answer for _, answer in {_distinct(row) for row in rows})
    labels = {
        answer
        for answer, n in answers.items()
        if answer and n >= LABEL_ROWS and len(answer) <= LONGEST_LABEL and "\n" not in answer and answer[0] not in "{["
    }
    covered = sum(answers[label] for label in labels)
    return labels if 1 < len(labels) <= _MOST_LABELS and covered >= LABEL_SHARE * answers.total() else set()


def _distinct(row: dict[str, Any]) -> tuple[str, str]:
    """Return question and answer in a form in which small differences of the question do not count."""
    turns = [str(m.get("content")) for m in _turns(row) if m.get("role") != "system"]
    return loose_form("\n".join(turns)), row["output"].strip()


def _is_log(path: Path) -> bool:
    try:
        rows = list(_rows(path, _LINES_LOOKED_AT))
    except (OSError, EOFError):
        return False
    return bool(rows)


def _rows(path: Path, lines_read: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the lines that hold a request, an answer and a model. Others are for the intake of logs to report."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for line in islice(lines, lines_read):
            try:
                row = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            texts = isinstance(row, dict) and all(
                isinstance(row.get(key), str) for key in ("id", "output", "model_version")
            )
            if (
                texts
                and "timestamp" in row
                and (isinstance(row.get("input"), str) or isinstance(row.get("messages"), list))
            ):
                yield row


def _turns(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the turns before the answer."""
    messages = row.get("messages") or [{"role": "user", "content": row["input"]}]
    return [{**m, "role": "system"} if m.get("role") in SYSTEM_ROLES else m for m in messages]


def _chat(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*_turns(row), {"role": "assistant", "content": row["output"].strip()}]}


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    messages = row.get("messages")
    return {"request": messages[0].get("content") if messages else row["input"], "answer": row["output"].strip()}


def _log_name(name: str) -> str:
    """Return a raw file's name as that of a log file, which logs of any other suffix get, too."""
    name = Path(name).name
    return f"{OWN_FOLDER}/{name if is_log_name(name) else f'{name}.jsonl'}"
