"""Applies review decisions about single rows: keep, drop, or relabel."""

import re
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from finetune_pipeline.data.answer_rules import LAST_FIX, form_problems, has_form, nearest_label
from finetune_pipeline.data.dedup.row_table import GONE, KEPT, count_values, load_rows, save_rows
from finetune_pipeline.data.examples import EXAMPLES, ORIGINS, Example, Message, decode_examples, examples_file
from finetune_pipeline.data.json_lines import digest_files, json_rows, write_rows
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.data.scrub import finder_of, scrub_turns
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.faults import visible_files
from finetune_pipeline.findings import Finding, as_rows, count_by_rule
from finetune_pipeline.spec import TaskSpec

DECISIONS = ("keep", "drop", "relabel")
RATINGS, SECOND_STAGE, JUDGED_STAGE = "outputs", "second_stage", "second_stage_by_judge"
"""Subfolders of reviews/ with ratings of models' answers, which decide nothing about rows; the last with a judge model's."""
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Decision:
    """A reviewer's decision about a row. decision: one of DECISIONS. label: the correct answer, for ``relabel``. place: file
    and line of the decision."""

    id: str
    decision: str
    label: str | None
    reviewer: str
    comment: str
    time: datetime
    place: str


def review_files(folder: Path) -> list[tuple[str, Path]]:
    """Return (name, path) of the files in a reviews folder, sorted, without hidden files and ratings."""
    ratings = f"{RATINGS}/", f"{SECOND_STAGE}/", f"{JUDGED_STAGE}/"
    return [(name, path) for name, path in visible_files(folder) if not name.startswith(ratings)]


def reviews_digest(folder: Path) -> str:
    """Return the hex SHA-256 over names and content of the decision files."""
    return digest_files(review_files(folder))


def read_decisions(folder: Path, spec: TaskSpec) -> tuple[list[Decision], list[Finding], int]:
    """Read the decision files. Returns (valid decisions in file and line order, findings about the other lines, number of
    lines). Blank lines and those with an empty decision do not count."""
    decisions: list[Decision] = []
    findings: list[Finding] = []
    lines = 0
    for name, path in review_files(folder):
        if path.suffix != ".jsonl":
            fix = "write decisions as .jsonl"
            findings.append(_warning("review_not_read", ascii(name)[1:-1], "only files named .jsonl are read", fix))
            continue
        for number, value, problem in json_rows(path):
            if isinstance(value, dict) and value.get("decision") == "":
                continue  # a line of a review sheet that nobody has decided yet
            lines += 1
            place = f"{ascii(name)[1:-1]}:{number}"
            if problem or not isinstance(value, dict):
                fix = 'write {"id": …, "decision": …, "reviewer": …}'
                findings.append(_warning("review_unreadable", place, problem or "not an object", fix))
                continue
            decision, problems = read_decision(value, spec, place)
            findings += problems
            if decision:
                decisions.append(decision)
    return decisions, findings, lines


class Reviewed(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Facts of reviewed_examples. decisions: lines read; overruled: by later decisions; by_rule: those that could not be used."""

    rows_in: int
    kept: int
    dropped: int
    relabelled: int
    confirmed: int
    decisions: int
    overruled: int
    by_rule: dict[str, int]
    reviewers: dict[str, int]
    labels: dict[str, int]
    origins: dict[str, int]


def apply_reviews(clean: Path, reviews_folder: Path, spec: TaskSpec, out: Path) -> Reviewed:
    """Apply the decisions in ``reviews_folder/**/*.jsonl``. The last one about a row by (time, file, line) wins; one without a
    time is the oldest.

    A relabelled row keeps its id and gets the tag ``relabelled``. Unusable decisions become findings. Writes
    ``examples.jsonl``, ``decisions.jsonl`` (only the applied ones), ``findings.jsonl`` and ``rows.parquet`` (the records of the
    cleaning step's table, with the state GONE for dropped rows).
    """
    out.mkdir(parents=True, exist_ok=True)
    decisions, findings, lines = read_decisions(reviews_folder, spec)
    rows = load_rows(clean)
    kept_rows = np.flatnonzero(rows["state"] == KEPT)
    row_by_id = dict(zip(rows["id"][kept_rows].tolist(), kept_rows.tolist(), strict=True)) if decisions else {}
    last_decisions: dict[int, Decision] = {}
    matched = 0
    for decision in sorted(decisions, key=lambda d: d.time):  # stable: file and line order breaks ties
        row = row_by_id.get(int(decision.id, 16)) if re.fullmatch("[0-9a-f]{16}", decision.id) else None
        if row is not None:
            matched += 1
            last_decisions[row] = decision
            continue
        fix = "the row has since been removed or quarantined, or the id is mistyped"
        findings.append(_warning("review_unknown_id", decision.place, f"no row has the id {quoted(decision.id)}", fix))
    ranks = {label: i for i, label in enumerate(spec.labels)}
    with examples_file(clean).open("rb") as source, (out / EXAMPLES).open("wb") as written:
        for row, line in zip(kept_rows.tolist(), source, strict=True):
            last_decision = last_decisions.get(row)
            if last_decision is None or last_decision.decision == "keep":
                written.write(line)
            elif last_decision.decision == "drop":
                rows["state"][row] = GONE
            else:
                rows["label"][row] = ranks.get(last_decision.label or "", -1)
                example = _relabelled(decode_examples(line, str(clean))[0], str(last_decision.label), spec)
                written.write(msgspec.json.encode(example) + b"\n")
    save_rows(out, rows)
    applied = [last_decisions[row] for row in sorted(last_decisions)]
    applied_rows = ({**asdict(d), "time": None if d.time == _EARLIEST else d.time.isoformat()} for d in applied)
    write_rows(out / "decisions.jsonl", applied_rows)
    write_rows(out / "findings.jsonl", as_rows(findings))
    counts = Counter(d.decision for d in applied)
    remaining = rows["state"] == KEPT
    return Reviewed(
        rows_in=len(kept_rows),
        kept=int(remaining.sum()),
        dropped=counts["drop"],
        relabelled=counts["relabel"],
        confirmed=counts["keep"],
        decisions=lines,
        overruled=matched - len(last_decisions),
        by_rule=count_by_rule(findings),
        reviewers=dict(sorted(Counter(d.reviewer for d in applied).items())),
        labels=count_values(rows["label"], remaining, spec.labels),
        origins={name: n for name, n in count_values(rows["origin"], remaining, ORIGINS).items() if n},
    )


def _warning(rule: str, place: str, message: str, fix: str) -> Finding:
    return row_finding(rule, f"reviews/{place}", message, fix, "warning")


def read_decision(row: dict[str, Any], spec: TaskSpec, place: str) -> tuple[Decision | None, list[Finding]]:
    """Read a line of a decisions file. Returns (decision or None, findings)."""
    findings = []

    def warn(rule: str, message: str, fix: str) -> None:
        findings.append(_warning(f"review_{rule}", place, message, fix))

    for key, required in (("id", True), ("decision", True), ("reviewer", True), ("label", False), ("comment", False)):
        value = row.get(key)
        if (required and not value) or (value is not None and not isinstance(value, str)):
            warn("bad_field", f"`{key}` must be text, found {quoted(value)}", f"write `{key}`")
    decision, label = row.get("decision"), row.get("label")
    if isinstance(decision, str) and decision and decision not in DECISIONS:
        warn("bad_decision", f"`decision` is {quoted(decision)}", f"use one of {', '.join(DECISIONS)}")
    if decision == "relabel" and (label is None or isinstance(label, str)):
        label = (label or "").strip()
        if not label:
            warn("bad_field", "`relabel` without a `label`", "write the right answer")
        elif spec.labels and label not in spec.labels:
            warn("unknown_label", f"{quoted(label)} is not a label of the task", nearest_label(label, spec.labels))
        elif has_form(spec.output):
            for rule, message in form_problems(label, spec.output):
                warn(f"answer_{rule}", message, LAST_FIX)
    time = _EARLIEST
    if row.get("time") is not None:
        try:
            time = datetime.fromisoformat(row["time"])
            time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        except (TypeError, ValueError, OverflowError):
            message = f"`time` is {quoted(row['time'])}, not an RFC 3339 time"
            warn("bad_field", message, "for example 2025-01-31T12:00:00Z")
    if findings:
        return None, findings
    label = label if decision == "relabel" else None
    return Decision(row["id"], row["decision"], label, row["reviewer"], row.get("comment") or "", time, place), []


def _relabelled(example: Example, answer: str, spec: TaskSpec) -> Example:
    messages: list[Message] = [*example.prompt_messages, {"role": "assistant", "content": answer}]
    if not spec.labels and spec.data.scrub != "warn":  # texts of reviewers are scrubbed like all others
        messages = scrub_turns(messages, find=finder_of(spec.data, names=False)).messages
    tags = [*example.tags, *(["relabelled"] if "relabelled" not in example.tags else [])]
    return msgspec.structs.replace(example, messages=messages, label=answer if spec.labels else None, tags=tags)
