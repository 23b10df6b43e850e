"""Makes a task's preference rows from its files and logs, and counts what became of every row."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.preferences.cleaning import AGAINST, clean_preferences, prompt_key
from finetune_pipeline.data.preferences.rows import Preference, preference_files, read_preferences
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.findings import Finding, as_rows, most_first
from finetune_pipeline.spec.model import TaskSpec

PREFERENCES = "preferences.jsonl"
LEAST_ROWS, LEAST_OF_A_SIDE = 100, 20
"""Rows that a second stage needs: pairs for DPO, thumbs for KTO; and of these liked, and disliked ones. With fewer, one person's
taste would decide, and validation could hardly show what they change."""


class PreferenceFacts(Facts, frozen=True, kw_only=True):
    """Counts of preference rows. of_files + logged = kept + refused + the sum of left_out.

    Attributes:
        of_files: Rows of files; logged: rows of the logs; compared: those of them in which a reviewer compared two versions'
            answers.
        refused: Rows of files that are no valid preference.
        left_out: Rows left out, by rule.
        held: Logged rows that are held back as possible poison; unused: feedback in the logs that says nothing, by reason.
        pairs: Kept rows with a liked and a disliked answer. liked, disliked: answers of kept rows, pairs included.
        against_training: Pairs that dislike what a training row answers, of `comparable`, which like or dislike it.
        too_few: Why they are not enough for the second stage; empty if they are.
    """

    of_files: int
    logged: int
    compared: int
    refused: int
    left_out: dict[str, int]
    by_rule: dict[str, int]
    kept: int
    pairs: int
    liked: int
    disliked: int
    held: int
    unused: dict[str, int]
    against_training: int
    comparable: int
    too_few: str


def make_preferences(
    spec: TaskSpec,
    folder: Path,
    logged: Sequence[Preference],
    train: Sequence[Example],
    judging: Sequence[Example],
    boilerplate: Boilerplate,
    out: Path,
    held: int = 0,
    unused: dict[str, int] | None = None,
) -> PreferenceFacts:
    """Write preferences.jsonl, and findings.jsonl about all other rows. folder: the task's. held, unused: see PreferenceFacts.
    Other arguments: see :func:`.cleaning.clean_preferences`."""
    rows: list[Preference] = []
    findings: list[Finding] = []
    read = refused = 0
    for name, path in preference_files(folder):
        for row in read_preferences(path, name, spec):
            read += row.is_row
            refused += row.is_row and row.preference is None
            rows += [row.preference] if row.preference else []
            findings += row.findings
    cleaned = clean_preferences([*rows, *logged], spec, train, judging, boilerplate)
    findings += cleaned.findings
    write_rows(out / PREFERENCES, cleaned.kept)
    write_rows(out / "findings.jsonl", as_rows(findings))
    answers = Counter(liked for row in cleaned.kept for _, liked in row.answers)
    pairs = sum(row.is_pair for row in cleaned.kept)
    agreeing = _agreeing(cleaned.kept, train)
    against = cleaned.left_out[AGAINST]
    return PreferenceFacts(
        of_files=read,
        logged=len(logged),
        compared=sum(row.versions is not None for row in logged),
        refused=refused,
        left_out=dict(cleaned.left_out),
        by_rule=most_first(Counter(f.rule for f in findings)),
        kept=len(cleaned.kept),
        pairs=pairs,
        liked=answers[True],
        disliked=answers[False],
        held=held,
        unused=unused or {},
        against_training=against,
        comparable=against + agreeing,
        too_few=too_few(spec.training.refine.method, pairs, answers[True], answers[False]),
    )


def enough_of_files(spec: TaskSpec, folder: Path) -> list[Preference]:
    """Return the valid rows of a task's files of preferences as read, if they are enough for the second stage; else none."""
    read = (row.preference for name, path in preference_files(folder) for row in read_preferences(path, name, spec))
    rows = [row for row in read if row is not None]
    answers = Counter(liked for row in rows for _, liked in row.answers)
    pairs = sum(row.is_pair for row in rows)
    return [] if too_few(spec.training.refine.method, pairs, answers[True], answers[False]) else rows


def _agreeing(rows: Iterable[Preference], train: Iterable[Example]) -> int:
    """Count the pairs that like what a training row answers."""
    known = {(prompt_key(e.prompt_messages), e.answer) for e in train}
    return sum(row.is_pair and (prompt_key(row.prompt), row.chosen) in known for row in rows)


def too_few(method: str, pairs: int, liked: int, disliked: int) -> str:
    """Return why these rows are not enough for a method; empty if they are."""
    if method == "dpo" and pairs < LEAST_ROWS:
        return f"{pairs} pairs; a second stage with dpo needs {LEAST_ROWS}"
    if method == "kto" and (liked + disliked < LEAST_ROWS or min(liked, disliked) < LEAST_OF_A_SIDE):
        return (
            f"{liked} liked and {disliked} disliked answers; a second stage with kto needs {LEAST_ROWS} in all, and "
            f"{LEAST_OF_A_SIDE} of either kind"
        )
    return ""
