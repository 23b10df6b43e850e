"""Answers of people to unlabelled rows (`people/NAME.jsonl`), which become the rows that judge: test and validation.

Each line holds the question as it was shown, so that a row stays usable when its file is gone. The last line of a reviewer about
a row counts; the page takes no second answer from who has seen the teacher's. A row is gold if all reviewers who answered it gave
the same answer.
"""

import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.data.answer_rules import form_problems
from finetune_pipeline.data.examples import Example, Message
from finetune_pipeline.data.json_lines import json_rows
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import hold_folder, sync_folder
from finetune_pipeline.faults import visible_files
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.spec.teacher import PEOPLE_FILE

PEOPLE = "people"
"""Folder of a task with people's answers."""
LONGEST = 20_000
_REWRITTEN = ".rewritten"
"""End of the name of a file while it is rewritten."""


class LogSource(msgspec.Struct, frozen=True, omit_defaults=True):
    """The log row that a question was taken from: its id, and its user, hashed as in the log store."""

    id: str
    user: str | None = None


class PersonAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line: what one person answered to one row, or that it cannot be answered, with the reason. log: where the row is from."""

    id: str
    messages: list[Message]
    decision: Literal["answer", "skip"]
    reviewer: str
    answer: str = ""
    comment: str = ""
    time: str = ""
    log: LogSource | None = None


class ReviewersAgreement(Facts, frozen=True, kw_only=True):
    """The agreement of people on the rows that two of them answered, by their first answers.

    Attributes:
        rows, same: Rows, and those that both answered alike.
        kappa, interval: Cohen's, with its 95% interval; None where they are undefined.
    """

    rows: int
    same: int
    kappa: float | None
    interval: tuple[float, float] | None


class _Sourced(msgspec.Struct):
    """The only field of a line that erasure reads."""

    log: LogSource | None = None


@dataclass
class PeopleAnswers:
    """All answers of people.

    Attributes:
        by_row: The last line of each reviewer, by row and reviewer.
        first: Their first lines, written before they saw what others answer.
        findings: About lines that cannot be used.
    """

    by_row: dict[str, dict[str, PersonAnswer]] = field(default_factory=lambda: defaultdict(dict))
    first: dict[str, dict[str, PersonAnswer]] = field(default_factory=lambda: defaultdict(dict))
    findings: list[Finding] = field(default_factory=list)

    def answered(self, row: str) -> list[PersonAnswer]:
        """Return the answers to a row, by reviewer's name."""
        lines = self.by_row.get(row, {})
        return [line for _, line in sorted(lines.items()) if line.decision == "answer"]

    def settled(self, spec: TaskSpec) -> list[PersonAnswer]:
        """Return an answer to each row on which all who answered agree, sorted by id. A row that anybody skipped waits."""
        rows = []
        for row in sorted(self.by_row):
            lines = self.answered(row)
            agreed = all(same_answer(lines[0].answer, line.answer, spec.output) for line in lines[1:])
            if lines and agreed and len(lines) == len(self.by_row[row]):
                rows.append(lines[0])
        return rows

    def unsettled(self, spec: TaskSpec) -> list[str]:
        """Return the ids of rows that several people decided, in different ways."""
        settled = {line.id for line in self.settled(spec)}
        return sorted(
            row for row, lines in self.by_row.items() if len(lines) > 1 and self.answered(row) and row not in settled
        )

    def skipped(self) -> list[str]:
        """Return the ids of rows that nobody answered and somebody skipped."""
        return sorted(row for row in self.by_row if not self.answered(row))

    def pairs(self) -> list[tuple[str, str]]:
        """Return the independent answers to each row that two or more people answered: those of the first two by name, before they
        settled on one."""
        several = (
            [line.answer for _, line in sorted(self.first[row].items()) if line.decision == "answer"]
            for row in sorted(self.first)
        )
        return [(answers[0], answers[1]) for answers in several if len(answers) > 1]


def person_answer(value: Mapping[str, object], spec: TaskSpec) -> tuple[PersonAnswer | None, list[str]]:
    """Validate a line. Returns it, or every problem."""
    try:
        line = msgspec.convert(value, PersonAnswer)
    except msgspec.ValidationError as error:
        return None, [str(error)]
    problems = [] if line.reviewer.strip() else ["`reviewer` is missing"]
    if line.decision == "answer":
        problems += [message for _, message in form_problems(line.answer, spec.output)]
    elif not line.comment.strip():
        problems.append("a row that cannot be answered needs the reason as its comment")
    if max(len(line.answer), len(line.comment)) > LONGEST:
        problems.append(f"`answer` or `comment` has more than {LONGEST:,} characters")
    return (None if problems else line), problems


def read_people(folder: Path, spec: TaskSpec) -> PeopleAnswers:
    """Read people/*.jsonl of a task's folder, files by name and lines in order; a bad line is a finding and affects no other."""
    people = PeopleAnswers()
    for name, path in visible_files(folder / PEOPLE):
        for number, value, wrong in json_rows(path):
            line, problems = (None, [wrong]) if wrong else person_answer(value, spec)
            place, fix = f"{PEOPLE}/{name}:{number}", "correct the line, or answer the row again; it was not counted"
            people.findings += [Finding("people.answer", "warning", place, problem, fix) for problem in problems]
            if line is not None:
                people.by_row[line.id][line.reviewer] = line
                people.first[line.id].setdefault(line.reviewer, line)
    return people


def people_examples(task: Task) -> list[Example]:
    """Return the settled rows as examples of origin human; none without a teacher, whose students these rows judge."""
    folder, spec = task.folder, task.spec
    if spec.teacher is None:
        return []
    return [
        Example(
            id=line.id,
            messages=[*line.messages, {"role": "assistant", "content": line.answer.strip()}],
            label=line.answer.strip() if spec.labels else None,
            source={"file": PEOPLE_FILE, "line": number},
            time=line.time or None,
            tags=[f"log:{line.log.id}"] if line.log else [],
        )
        for number, line in enumerate(read_people(folder, spec).settled(spec), 1)
    ]


@dataclass
class Erased:
    """What :func:`erase_people` did: the number of matching lines, and by file the numbers of lines that cannot be read."""

    lines: int = 0
    unclear: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))


def erase_people(folder: Path, matches: Callable[[LogSource], bool], count: bool = False) -> Erased:
    """Remove the lines about questions of matching log rows from people/*.jsonl of a task's folder. It may be killed and repeated:
    a file has all of them or none. count: only count them."""
    top, erased = folder / PEOPLE, Erased()
    if not top.is_dir():
        return erased
    with hold_folder(top):
        for leftover in top.rglob(f"*{_REWRITTEN}"):
            leftover.unlink()
        for _, path in visible_files(top):
            kept, lines = [], path.read_bytes().splitlines(keepends=True)
            for number, line in enumerate(lines, 1):
                try:
                    source = msgspec.json.decode(line, type=_Sourced).log if line.strip() else None
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    source = None
                    erased.unclear[str(path)].append(number)
                if source is None or not matches(source):
                    kept.append(line)
            erased.lines += len(lines) - len(kept)
            if len(kept) < len(lines) and not count:
                rewritten = path.with_name(f".{path.name}{_REWRITTEN}")
                rewritten.write_bytes(b"".join(kept))
                shutil.copymode(path, rewritten)
                with rewritten.open("rb") as handle:
                    os.fsync(handle.fileno())
                os.replace(rewritten, path)
                sync_folder(path.parent)
    return erased


def digest_examples(examples: Sequence[Example]) -> str:
    """Return the hex SHA-256 of examples as they are written."""
    return hashlib.sha256(b"".join(msgspec.json.encode(e) + b"\n" for e in examples)).hexdigest()
