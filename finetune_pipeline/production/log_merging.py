"""Merges production logs into one row per answer: joins feedback, turns corrections into examples, and counts every line."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from finetune_pipeline.data.examples import write_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import digest_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.production_rows import LoggedRow, moment
from finetune_pipeline.findings import Finding, most_first
from finetune_pipeline.production.choosing import Chosen, choose
from finetune_pipeline.production.choosing import settings as log_settings
from finetune_pipeline.production.log_files import OWN_FOLDER
from finetune_pipeline.production.log_intake import LOCK, ingest_new_lines
from finetune_pipeline.production.log_rows import RAW_SHOWN, ids_of, users_of
from finetune_pipeline.production.log_store import log_store
from finetune_pipeline.spec.model import Task, TaskSpec

T = TypeVar("T")


class LatestResult(dict[str, tuple[str, T]]):
    """An in-process cache that holds one result per name, with the key it was made for."""

    def latest(self, name: str, key: str, make: Callable[[], T]) -> T:
        """Return the cached result for the name if its key matches, else the result of `make`, which replaces it."""
        cached = self.get(name)
        if cached is None or cached[0] != key:
            self[name] = cached = (key, make())
        return cached[1]


_REVIEWED = f"{OWN_FOLDER}/reviewed-"
"""Files of the task's own folder that `finetune review` writes."""
_FEEDBACK_FIELDS = ("flag", "score", "correction")
_CHOSEN: LatestResult[Chosen] = LatestResult()
_TIMES: LatestResult[list[float]] = LatestResult()


@dataclass
class Logs:
    """All production rows of a task, one per answer, sorted by time and id. lines = rows + duplicates + feedback + shadows +
    quarantine.

    Attributes:
        duplicates: Number of lines that repeat the id and question of an earlier one. Lines with a known id and another
            question are quarantined.
        feedback: Number of lines with feedback only.
        unmatched: Number of those whose answer has not been logged yet.
        shadows: Number of lines with a second model's answer. A row's `shadow` is the first of the latest two versions:
            reviewers may have compared it already.
        digest: Of the log store's state, independent of files and order.
    """

    rows: list[LoggedRow] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    lines: int = 0
    duplicates: int = 0
    feedback: int = 0
    unmatched: int = 0
    shadows: int = 0
    digest: str = ""

    @property
    def by_rule(self) -> dict[str, int]:
        """Return the number of findings per rule, most frequent first."""
        return most_first(Counter(f["rule"] for entry in self.quarantine for f in entry["findings"]))


def merge_lines(stored_rows: Iterable[dict[str, Any]]) -> Logs:
    """Merge the rows of a log store into one per answer.

    Of several flags, scores or corrections of one answer, the latest is used; none if the latest review leaves the row out.
    """
    logs = Logs()
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in stored_rows:
        logs.lines += 1
        if row["kind"] == "bad":
            source = row["source"]
            entry = {"file": source["file"], "line": source["line"], "raw": row["raw"], "findings": row["findings"]}
            logs.quarantine.append({**entry, "users": users_of(row), "ids": ids_of(row)})
        else:
            by_id.setdefault(row["id"], []).append(row)
    for all_lines in by_id.values():
        all_lines.sort(key=_feedback_order)
        shadows = [line["shadow"] for line in all_lines if line["kind"] == "shadow"]
        lines = [line for line in all_lines if line["kind"] != "shadow"]
        logs.shadows += len(shadows)
        answers = [line for line in lines if line["kind"] == "row"]
        feedback_lines = len(lines) - len(answers)
        logs.feedback += feedback_lines
        if not answers:
            logs.unmatched += feedback_lines
            continue
        first = answers[0]
        other_questions = [answer for answer in answers if answer["input"] != first["input"] and not _is_review(answer)]
        logs.quarantine += map(_reused_id, other_questions)
        excluded = set(map(id, other_questions))  # by identity: their contents may be equal
        logs.duplicates += len(answers) - len(other_questions) - 1
        row = {key: value for key, value in first.items() if key not in ("kind", "preferred")}
        for line in lines:
            if id(line) in excluded:
                continue
            row.update({name: line[name] for name in _FEEDBACK_FIELDS if line[name] is not None})
        row["flag"] = row["flag"] or None  # False took it back
        if shadows:
            versions = (shadows[-1]["champion"], shadows[-1]["model_version"])
            row["shadow"] = next(s for s in shadows if (s["champion"], s["model_version"]) == versions)
        reviews = [line for line in lines if _is_review(line) and "preferred" not in line]
        row["reviewed"] = bool(reviews)
        if decided := next((line["decided"] for line in reviews if line.get("decided")), None):
            row["decided"] = decided
        if preferences := [line for line in lines if _is_review(line) and "preferred" in line]:
            times = (line["decided"] for line in preferences if line.get("decided"))
            row["preferred"] = {**preferences[-1]["preferred"], "decided": next(times, "")}
        if "share" in row:
            row["reported"] = _report_time(lines)
        row["left_out"] = bool(reviews) and bool(reviews[-1].get("left_out"))
        if row["left_out"]:
            row.update(dict.fromkeys(_FEEDBACK_FIELDS))
        logs.rows.append(cast("LoggedRow", row))
    logs.rows.sort(key=_sort_key)
    logs.quarantine.sort(key=lambda entry: (entry["file"], entry["line"]))
    return logs


def _reused_id(row: dict[str, Any]) -> dict[str, Any]:
    """Return the quarantine entry of an answer whose id another question has: nobody could tell whose feedback it is."""
    source = row["source"]
    message = f"another question also has the id {row['id']!r:.60}"
    fix = "log a unique id with every answer; the id of a conversation is not enough"
    finding = Finding("log.id_reused", "error", f"{source['file']}:{source['line']}", message, fix)
    raw = msgspec.json.encode({key: row[key] for key in ("id", "input", "output")}).decode()[:RAW_SHOWN]
    return {**source, "raw": raw, "findings": [finding.to_dict()], "users": users_of(row), "ids": [row["id"]]}


def _sort_key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the sort key: time, then content, so that the order of reading does not matter."""
    content = {key: value for key, value in row.items() if key != "source"}
    return row["timestamp"], row["id"], digest_json(content)


def _is_review(line: dict[str, Any]) -> bool:
    return str(line["source"]["file"]).startswith(_REVIEWED)


def _report_time(lines: Iterable[dict[str, Any]]) -> str | None:
    """Return the time of the first feedback or review; None if nobody has said anything."""
    reports = [line for line in lines if any(line[name] is not None for name in _FEEDBACK_FIELDS)]
    return min((line.get("decided") or line["timestamp"] for line in reports), default=None)


def _feedback_order(line: dict[str, Any]) -> tuple[Any, ...]:
    """Return the sort key of the lines of one answer, of which the last feedback counts.

    Reviews come last, by the time of the decision, since they have the timestamp of the answer. Those without that time come
    first among them. At equal times, the place in the file decides.
    """
    rank, time = (1, line.get("decided") or "") if _is_review(line) else (0, line["timestamp"])
    return (rank, time, line["source"]["file"], line["source"]["line"], *_sort_key(line))


def read_logs(task: Task, store: ArtifactStore) -> Logs:
    """Read new log lines into the store, and return all rows."""
    ingest_new_lines(task, store)
    stored = log_store(task, store)
    with store.lock(task.name, LOCK):
        logs = merge_lines(stored.rows())
        logs.digest = stored.digest()
    return logs


def row_times(task: Task, store: ArtifactStore) -> list[float]:
    """Read new log lines into the store, and return the sorted times of all rows. Without new lines, no row is read."""
    ingest_new_lines(task, store)
    return _TIMES.latest(
        task.name,
        log_store(task, store).digest(),
        lambda: sorted(moment(row["timestamp"]) for row in read_logs(task, store).rows),
    )


def cached_choice(spec: TaskSpec, logs: Logs) -> Chosen:
    """Sort the rows by use (production.choosing.choose). The result is cached until rows or spec change."""
    if not logs.digest:
        return choose(spec, logs.rows)
    return _CHOSEN.latest(spec.name, digest_json([logs.digest, log_settings(spec)]), lambda: choose(spec, logs.rows))


def corrections_digest(spec: TaskSpec, logs: Logs) -> str:
    """Return a digest that changes only when the examples from the logs change, not with every logged answer."""
    examples = map(msgspec.to_builtins, cached_choice(spec, logs).examples)
    return digest_json([{key: value for key, value in example.items() if key != "source"} for example in examples])


class LogFacts(Facts, frozen=True, kw_only=True):
    """Facts of production_logs: always lines == rows + duplicates + feedback + shadows + quarantined (see :class:`Logs`).

    Attributes:
        by_rule, held_by_rule: Findings, and held rows, per rule.
        corrections, judging, held: Corrected rows for training, for evaluation, and held back.
        queue: Rows for review, by reason.
        left_out, flagged: Of the rows.
    """

    lines: int
    rows: int
    duplicates: int
    feedback: int
    unmatched: int
    shadows: int
    quarantined: int
    by_rule: dict[str, int]
    corrections: int
    judging: int
    held: int
    held_by_rule: dict[str, int]
    queue: dict[str, int]
    left_out: int
    flagged: int


def write_logs(spec: TaskSpec, logs: Logs, out: Path) -> LogFacts:
    """Write rows.jsonl, quarantine.jsonl, and the corrected rows by use: examples.jsonl (for training), judging.jsonl (for
    evaluation) and held.jsonl."""
    chosen_rows = cached_choice(spec, logs)
    write_rows(out / "rows.jsonl", logs.rows)
    write_rows(out / "quarantine.jsonl", logs.quarantine)
    write_rows(out / "held.jsonl", (asdict(held_row) for held_row in chosen_rows.held))
    write_rows(out / "judging.jsonl", chosen_rows.judging)
    write_examples(out / "examples.jsonl", chosen_rows.examples)
    return LogFacts(
        lines=logs.lines,
        rows=len(logs.rows),
        duplicates=logs.duplicates,
        feedback=logs.feedback,
        unmatched=logs.unmatched,
        shadows=logs.shadows,
        quarantined=len(logs.quarantine),
        by_rule=logs.by_rule,
        corrections=len(chosen_rows.examples),
        judging=len(chosen_rows.judging),
        held=len(chosen_rows.held),
        held_by_rule=dict(sorted(Counter(held_row.rule for held_row in chosen_rows.held).items())),
        queue=chosen_rows.queued(),
        left_out=sum(bool(row["left_out"]) for row in logs.rows),
        flagged=sum(bool(row["flag"]) for row in logs.rows),
    )
