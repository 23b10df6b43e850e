"""Production logs in: complete lines only, parsed strictly, scrubbed before anything is written elsewhere.

One JSON object a line: ``id``, ``timestamp`` (RFC 3339), ``messages`` or ``input``, ``output``, ``model_version``,
optional ``feedback`` {``flag``, ``score``, ``correction``, ``label``}, optional ``user``, optional ``metadata``.
Files may grow, rotate and be gzipped: the same row in two files counts once, by its id.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.artifacts import digest_json
from finetune_pipeline.data.answer_rules import LAST_FIX, form_problems, has_form
from finetune_pipeline.data.examples import Example, example_id, write_examples
from finetune_pipeline.data.json_lines import is_blank, read_rows, write_rows
from finetune_pipeline.data.scrubbing import scrub_text
from finetune_pipeline.findings import Finding, count_by_rule
from finetune_pipeline.spec.model import Task, TaskSpec

__all__ = ["corrections_digest", "ingest", "log_files", "logs_digest", "read_logs", "read_rows"]

USER_KEY = "FINETUNE_USER_KEY"
"""Secret with which user names are hashed. Without it they are dropped: an unkeyed hash can be guessed back."""


@dataclass
class Logs:
    """What the log files hold: rows by id in order of appearance, repeats, bad lines, and the number of lines."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    lines: int = 0
    duplicates: int = 0


def log_files(task: Task) -> list[Path]:
    """JSON Lines files under the task's log folder, plain or gzipped, by name. Hidden and partial files are left out."""
    folder = task.folder / task.spec.logs.path
    if not folder.is_dir():
        return []
    return sorted(
        p
        for p in folder.glob("*.jsonl*")
        if p.is_file() and p.suffix not in (".tmp", ".part") and not p.name.startswith(".")
    )


def complete_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of every line that has ended; a half-written last line is left for the next time.

    A gzip file that is still being written ends early: its complete lines so far are given.
    """
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as handle:
        number = 0
        while True:
            try:
                line = handle.readline()
            except (EOFError, gzip.BadGzipFile):
                return
            if not line.endswith(b"\n"):
                return
            number += 1
            yield number, line[:-1]


def logs_digest(task: Task) -> str:
    """Hex SHA-256 over the complete lines of all log files."""
    whole = hashlib.sha256()
    for path in log_files(task):
        for _, line in complete_lines(path):
            whole.update(hashlib.sha256(line).digest())
    return whole.hexdigest()


def _problems(row: Any, place: str, spec: TaskSpec) -> list[Finding]:
    """Everything wrong with one decoded log row."""

    def bad(rule: str, message: str, fix: str) -> Finding:
        return Finding(f"log.{rule}", "error", place, message, fix)

    if not isinstance(row, dict):
        return [bad("not_an_object", "the line is not a JSON object", "write one object a line")]
    found = []
    for key in ("id", "timestamp", "output", "model_version"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            found.append(bad("missing_field", f"{key!r} is missing or not text", f"log {key} with every answer"))
    if isinstance(row.get("timestamp"), str):
        try:
            if datetime.fromisoformat(row["timestamp"]).tzinfo is None:
                found.append(bad("timestamp", f"{row['timestamp']!r} has no time zone", "write it as in RFC 3339"))
        except ValueError:
            found.append(bad("timestamp", f"{row['timestamp']!r:.60} is not a time", "write it as in RFC 3339"))
    messages = row.get("messages")
    sound = (
        isinstance(messages, list)
        and bool(messages)
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in messages
        )
    )
    if not sound and not (isinstance(row.get("input"), str) and row["input"].strip()):
        found.append(bad("missing_field", "neither 'messages' nor 'input' holds what was asked", "log one of them"))
    feedback = row.get("feedback")
    if feedback is not None and not isinstance(feedback, dict):
        found.append(bad("wrong_type", "'feedback' is not an object", 'write {"flag": …, "correction": …}'))
    elif feedback:
        told = feedback.get("label") if feedback.get("label") is not None else feedback.get("correction")
        if told is not None and not isinstance(told, str):
            found.append(bad("wrong_type", "the correction is not text", "write the right answer as text"))
        elif told is not None and spec.labels and told.strip() not in spec.labels:
            found.append(
                bad("unknown_label", f"correction {told!r:.60} is no label of this task", "use a declared label")
            )
        elif told is not None and has_form(spec.output):
            found += [
                bad(f"answer_{rule}", f"correction: {why}", LAST_FIX) for rule, why in form_problems(told, spec.output)
            ]
    return found


def _asked(row: dict[str, Any]) -> str:
    """The user's text: all user turns, or the input."""
    if row.get("messages"):
        return "\n".join(m["content"] for m in row["messages"] if m["role"] == "user")
    return str(row["input"])


def _stored(row: dict[str, Any], place: dict[str, Any]) -> dict[str, Any]:
    feedback = row.get("feedback") or {}
    correction = feedback.get("label") if feedback.get("label") is not None else feedback.get("correction")
    key = os.environ.get(USER_KEY, "").encode()
    user = row.get("user")
    hashed = hashlib.blake2b(str(user).encode(), key=key[:64], digest_size=16).hexdigest() if user and key else None
    score = feedback.get("score")
    return {
        "id": row["id"],
        "timestamp": row["timestamp"],
        "model_version": row["model_version"],
        "input": scrub_text(_asked(row)),
        "output": scrub_text(row["output"]),
        "flag": str(feedback["flag"]) if feedback.get("flag") else None,
        "score": float(score) if isinstance(score, int | float) else None,
        "correction": scrub_text(correction.strip()) if correction else None,
        "user": hashed,
        "source": place,
    }


def read_logs(task: Task) -> Logs:
    """All complete rows of all log files. Every line is kept, a repeat of an id, or quarantined with its reasons.

    A repeat that brings feedback the first row lacked (feedback arrives later than the answer) replaces it.
    """
    logs, by_id = Logs(), {}
    for path in log_files(task):
        name = f"{task.spec.logs.path}/{path.name}"
        for number, line in complete_lines(path):
            if is_blank(line):
                continue
            logs.lines += 1
            place = f"{name}:{number}"
            try:
                row = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                problems = [Finding("log.bad_json", "error", place, str(error), "write one JSON object a line")]
            else:
                problems = _problems(row, place, task.spec)
            if problems:
                logs.findings += problems
                logs.quarantine.append(
                    {
                        "file": name,
                        "line": number,
                        "raw": scrub_text(line[:2000].decode("utf-8", "replace")),
                        "findings": [p.to_dict() for p in problems],
                    }
                )
                continue
            stored = _stored(row, {"file": name, "line": number})
            if stored["id"] not in by_id:
                by_id[stored["id"]] = stored
                continue
            logs.duplicates += 1
            old = by_id[stored["id"]]
            if stored["correction"] or (stored["flag"] and not old["flag"]):
                by_id[stored["id"]] = stored
    logs.rows = list(by_id.values())
    return logs


def corrections(spec: TaskSpec, logs: Logs) -> list[Example]:
    """Corrected rows as training examples: what the user asked, and what a person says the answer should have been."""
    examples = []
    for row in logs.rows:
        if row["correction"] and row["input"].strip():
            messages = [
                {"role": "system", "content": spec.system_prompt},
                {"role": "user", "content": row["input"]},
                {"role": "assistant", "content": row["correction"]},
            ]
            examples.append(
                Example(
                    id=example_id(messages),
                    messages=messages,
                    origin="production",
                    source=row["source"],
                    label=row["correction"] if spec.labels else None,
                    tags=[f"log:{row['id']}"],
                )
            )
    return examples


def corrections_digest(task: Task) -> str:
    """Changes only when the examples that come out of the logs change, not with every logged answer."""
    return digest_json([e.to_dict() for e in corrections(task.spec, read_logs(task))])


def ingest(task: Task, out: Path) -> dict[str, Any]:
    """Write rows.jsonl, examples.jsonl (corrections) and quarantine.jsonl.

    Returns facts {files, lines, rows, duplicates, quarantined, by_rule, corrections, flagged}; lines = rows + duplicates
    + quarantined.
    """
    logs = read_logs(task)
    examples = corrections(task.spec, logs)
    write_rows(out / "rows.jsonl", logs.rows)
    write_rows(out / "quarantine.jsonl", logs.quarantine)
    write_examples(out / "examples.jsonl", examples)
    return {
        "files": len(log_files(task)),
        "lines": logs.lines,
        "rows": len(logs.rows),
        "duplicates": logs.duplicates,
        "quarantined": len(logs.quarantine),
        "by_rule": count_by_rule(logs.findings),
        "corrections": len(examples),
        "flagged": sum(bool(r["flag"]) for r in logs.rows),
    }
