"""Compares candidate, champion and base model on recent production rows with a known answer.

The truth of a row comes from a person: a correction, or a confirmation (a correction equal to the answer). People correct
wrong answers far more often than they confirm right ones. So the model that gave the corrected answers loses by selection, and
the comparison can only count against a candidate (gate recent_production).
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from finetune_pipeline.data.answer_rules import form_problems
from finetune_pipeline.data.dedup.text_similarity import exact_form, near_any
from finetune_pipeline.data.examples import Example, Message, example_id, stream_examples
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.perturbations import set_name
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.predictions import answered, of_model, same_rows
from finetune_pipeline.evaluation.result import Production
from finetune_pipeline.evaluation.result_parts import ChosenRows
from finetune_pipeline.evaluation.scores import score
from finetune_pipeline.spec.model import TaskSpec


class LoggedRow(TypedDict):
    """An answer in production, and what people said of it, as production_logs writes it (log_merging.merge_lines).

    Attributes:
        user: Hashed.
        source: {file, line}.
        turns: Of a conversation; else None.
        reviewed, left_out: Whether a reviewer decided about it, and left it out.
        decided: When a reviewer decided; `reported`: when anybody first said something of it, where traffic is shared.
        probability, passed_on, answered_by, field_probabilities, fields_passed_on: See log_rows.SURE and FIELD_SHARES.
        share, shadow, preferred: See share_rows and shadow_rows.
    """

    id: str
    timestamp: str
    user: str | None
    source: dict[str, str | int]
    model_version: str
    input: str
    turns: list[Message] | None
    output: str
    flag: str | None
    score: float | None
    correction: str | None
    reviewed: bool
    left_out: bool
    decided: NotRequired[str]
    reported: NotRequired[str | None]
    probability: NotRequired[float]
    passed_on: NotRequired[bool]
    answered_by: NotRequired[str]
    field_probabilities: NotRequired[dict[str, float]]
    fields_passed_on: NotRequired[list[str]]
    share: NotRequired[dict[str, Any]]
    shadow: NotRequired[dict[str, Any]]
    preferred: NotRequired[dict[str, str]]


def read_logged_rows(path: Path) -> list[LoggedRow]:
    """Read a file of rows of a production_logs artifact, which wrote them like this. Raises DamagedFile."""
    rows: list[Any] = read_rows(path)
    return rows


MAX_ROWS, PER_USER, MIN_ROWS = 200, 5, 20
"""Maximum rows, maximum rows per user, and minimum rows for a comparison."""


@dataclass(frozen=True)
class ProductionRows:
    """Production rows chosen to judge a model.

    Attributes:
        rows: Newest first.
        left_out: Number of other rows by reason.
        looked_at: Number of all rows, chosen or left out.
    """

    rows: list[LoggedRow]
    left_out: dict[str, int]
    looked_at: int

    def facts(self) -> ChosenRows:
        """Counts for a report, and the first and last time of the rows."""
        times = [row["timestamp"] for row in self.rows]
        return ChosenRows(
            rows=len(self.rows),
            confirmed=sum(truth_of(row) == row["output"].strip() for row in self.rows),
            looked_at=self.looked_at,
            left_out=self.left_out,
            first=min(times, key=moment, default=None),
            last=max(times, key=moment, default=None),
        )


class RecentRows(Facts, frozen=True, kw_only=True):
    """The rows that the models answered: their number, the source of each by example id (:func:`sources_of`), and their ids."""

    rows: ChosenRows
    sources: dict[str, str]
    ids: list[str]


def truth_of(row: LoggedRow) -> str:
    return (row["correction"] or "").strip()


def moment(timestamp: str) -> float:
    """Seconds since 1970 of an RFC 3339 time. Raises ValueError for anything else."""
    return datetime.fromisoformat(timestamp).timestamp()


def unseen_rows(spec: TaskSpec, rows: Sequence[LoggedRow], known_files: Sequence[Path]) -> ProductionRows:
    """Production rows that can judge a model, without near-duplicates of rows of `known_files` (training, validation, test)."""
    texts = [row["input"] for row in rows]
    known_texts = (example.user_text for path in known_files for example in stream_examples(path))
    is_known = near_any(texts, known_texts, spec.data.near_duplicate_threshold)
    return rows_with_truth(spec, rows, trained=[text for text, known in zip(texts, is_known, strict=True) if known])


def rows_with_truth(spec: TaskSpec, rows: Sequence[LoggedRow], *, trained: Collection[str]) -> ProductionRows:
    """Production rows that can judge a model.

    Of equal texts the newest row counts, of one user at most PER_USER rows, and in all the newest MAX_ROWS. The choice among a
    user's rows depends on their ids only, never on the answers.

    Args:
        rows: As production_logs writes them.
        trained: User texts the candidate was trained or selected on; they are left out.
    """
    trained_forms = {exact_form(text) for text in trained}
    usable: list[LoggedRow] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        truth, text = row["correction"], exact_form(row["input"])
        if not truth or not text:
            left_out["without_truth"] += 1
        elif form_problems(truth, spec.output):
            left_out["truth_out_of_form"] += 1
        elif text in trained_forms:
            left_out["in_the_training_set"] += 1
        else:
            usable.append(row)
    usable.sort(key=lambda row: (moment(row["timestamp"]), row["id"]), reverse=True)
    newest: dict[str, LoggedRow] = {}
    for row in usable:
        newest.setdefault(exact_form(row["input"]), row)
    allowed_ids = _limited_per_user(list(newest.values()))
    within_limits = [row for row in newest.values() if row["id"] in allowed_ids]
    left_out["repeated"] = len(usable) - len(newest)
    left_out["more_of_one_user"] = len(newest) - len(within_limits)
    left_out["beyond_the_limit"] = len(within_limits[MAX_ROWS:])
    reasons = {reason: count for reason, count in left_out.items() if count}
    return ProductionRows(within_limits[:MAX_ROWS], reasons, len(rows))


def _limited_per_user(rows: Sequence[LoggedRow]) -> set[str]:
    """Ids of at most PER_USER rows of every user, by the hash of the id, and of all rows without a user."""
    rows_by_user: Counter[str | None] = Counter()
    allowed_ids = set()
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).hexdigest()):
        user = row["user"]
        rows_by_user[user] += 1
        if user is None or rows_by_user[user] <= PER_USER:
            allowed_ids.add(row["id"])
    return allowed_ids


def as_examples(spec: TaskSpec, chosen: ProductionRows) -> list[Example]:
    """The chosen rows as examples a prediction job can answer, in their order. An example's tag ``log:<id>`` names its row."""
    return [logged_example(spec, row, truth_of(row)) for row in chosen.rows]


def logged_example(spec: TaskSpec, row: Mapping[str, Any], answer: str) -> Example:
    """An example from a logged question and a person's answer to it."""
    messages = [
        {"role": "system", "content": spec.system_prompt},
        *(row["turns"] or [{"role": "user", "content": row["input"]}]),
        {"role": "assistant", "content": answer},
    ]
    label = answer if spec.labels else None
    return Example(example_id(messages), messages, label=label, origin="production", tags=[f"log:{row['id']}"])


def sources_of(chosen: ProductionRows, examples: Sequence[Example]) -> dict[str, str]:
    """The source of each example for the intervals, by example id: the user if known, else the row itself."""
    return {
        e.id: f"row:{row['id']}" if row["user"] is None else f"user:{row['user']}"
        for e, row in zip(examples, chosen.rows, strict=True)
    }


PRODUCTION_SET = "production"
"""Suffix of a model's name in the predictions table for its answers to these rows."""


def recent_rows(spec: TaskSpec, predictions: Sequence[Row], chosen: RecentRows | None) -> Production | None:
    """Compare the candidate with champion and base on the production rows that both answered, if these are at least MIN_ROWS.

    chosen: None if there are no rows to judge by.
    """
    if chosen is None:
        return None
    names = ("base", "candidate", "champion")
    rows = {name: answered(of_model(predictions, set_name(name, PRODUCTION_SET))) for name in names}
    candidate, sources = rows["candidate"], chosen.sources
    pairs = {name: same_rows(answers, candidate) for name, answers in rows.items() if name != "candidate"}
    comparisons = {
        name: compare(before, after, spec.output, spec.gates.confidence, spec.metric, sources)
        for name, (before, after) in pairs.items()
        if len(before) >= MIN_ROWS
    }
    return Production(
        n=len(candidate),
        judged=len(candidate) >= MIN_ROWS,
        rows=chosen.rows,
        comparisons=comparisons,
        metric=spec.metric,
        scores={name: score(answers, spec, sources).primary for name, answers in rows.items() if answers},
    )
