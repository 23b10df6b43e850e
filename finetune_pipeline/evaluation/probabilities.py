"""The probability of every model's answers: read from predictions, calibrated on validation, measured on the sealed test."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from finetune_pipeline.evaluation.calibration import Calibration, Unit, calibrated, calibrated_all
from finetune_pipeline.evaluation.correctness import Row, label_probability
from finetune_pipeline.evaluation.result_parts import Bin, Reliability
from finetune_pipeline.evaluation.scored_rows import ScoredRow, scored
from finetune_pipeline.evaluation.token_probabilities import FORM
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput

ON_VALIDATION = "candidate:validation"
"""The candidate's answers to validation rows, in predictions."""
AnyRow = TypeVar("AnyRow", bound=Row)
BINS = 10
_DRAWS = 500


@dataclass(frozen=True)
class Answers:
    """Answers of one model to one set of rows, or one field of each.

    Attributes:
        probabilities: Of the answers, 0 where there is none. Shape [rows].
        right: Whether they are right. Shape [rows].
        parts: The label that each answers, or the field; empty where it answers none.
    """

    probabilities: np.ndarray
    right: np.ndarray
    parts: Sequence[str] = ()

    def at_least(self, threshold: float) -> tuple[int, int]:
        """Return how many rows are answered at a threshold, and how many of them wrongly."""
        answered = self.probabilities >= threshold
        return int(answered.sum()), int((answered & ~self.right).sum())

    def calibrated(self, calibration: Calibration) -> "Answers":
        return Answers(calibrated_all(self.probabilities, calibration), self.right, self.parts)


def probability_of(row: Row, output: AnyOutput) -> float:
    """Return the probability of an answer; 0 if it has none.

    Of labels see correctness.label_probability. Of JSON and closed text see token_probabilities.
    """
    if row["status"] != "ok":
        return 0.0
    if isinstance(output, LabelsOutput):
        return label_probability(row["text"], row["label_scores"], output.labels) or 0.0
    return float(row["probability"] or 0.0)


def answers_of(
    rows: Iterable[Row],
    output: AnyOutput,
    sources: Mapping[str, str] | None = None,
    unit: Unit = "answer",
    fields: Sequence[str] = (),
) -> Answers:
    """Return the probabilities of a model's answers.

    Args:
        sources: The source of each row, by id: rows of one source are no independent evidence, so only the first by id of each
            counts.
        unit: `field`: one of `fields`, drawn by the row's id, since those of one row are no independent evidence, either. As each
            is drawn equally often, the share of wrong ones among those answered is that of all fields.
        fields: From fields_of.
    """
    first = first_of_sources(scored(rows, output), sources)
    if unit == "field" and isinstance(output, JsonOutput):
        drawn = [(row, drawn_field(str(row["example_id"]), fields)) for row in first]
        judged = [(*_of_field(row, field), field) for row, field in drawn]
    else:
        of_labels = isinstance(output, LabelsOutput)
        judged = [(probability_of(row, output), row.right, row["text"].strip() if of_labels else "") for row in first]
    p, right, parts = zip(*judged, strict=True) if judged else ((), (), ())
    return Answers(np.array(p, float), np.array(right, bool), parts)


def whole_coverage(
    rows: Iterable[Row],
    sources: Mapping[str, str] | None,
    fields: Sequence[str],
    calibration: Calibration,
    threshold: float,
) -> float:
    """Return the share of rows all of whose `fields` have at least this calibrated probability; of rows of one source the first
    counts, as in answers_of."""
    sure = [
        [(share := share_of(table, field)) > 0 and calibrated(share, calibration) >= threshold for field in fields]
        for table in map(field_table, first_of_sources(rows, sources))
    ]
    return sum(map(all, sure)) / len(sure) if sure else 0.0


def fields_of(rows: Iterable[Row], output: JsonOutput) -> list[str]:
    """Return every field that a reference or an answer of these rows has, by dotted path, sorted."""
    return sorted(
        {field for row in scored(rows, output) for field in (*row.json.gold, *field_table(row)) if field != FORM}
    )


def field_table(row: Row) -> dict[str, float]:
    """Return the probability of each field of a JSON answer, and of token_probabilities.FORM; empty without."""
    return {entry["field"]: entry["probability"] for entry in row["field_probabilities"]}


def first_of_sources(rows: Iterable[AnyRow], sources: Mapping[str, str] | None) -> list[AnyRow]:
    """Return the first row by id of each source."""
    first: dict[str, AnyRow] = {}
    for row in sorted(rows, key=lambda row: str(row["example_id"])):
        first.setdefault((sources or {}).get(row["example_id"], row["example_id"]), row)
    return list(first.values())


def drawn_field(name: str, fields: Sequence[str]) -> str:
    """Return the field of a row that counts, drawn by its id."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    return fields[number % len(fields)] if fields else FORM


def _of_field(row: ScoredRow, field: str) -> tuple[float, bool]:
    """Return the probability of a field, and whether it is right."""
    return share_of(field_table(row), field), field_is_right(row, field)


def field_is_right(row: ScoredRow, field: str) -> bool:
    """Whether a field of a JSON answer has the value of the reference, or is left out by both."""
    return row["status"] == "ok" and row.json.claimed.get(field) == row.json.gold.get(field)


def share_of(table: Mapping[str, float], field: str) -> float:
    """Return the probability of a field; of one that the answer leaves out, that of the form."""
    return table.get(field, table.get(FORM, 0.0))


def reliability(answers: Answers) -> Reliability | None:
    """Measure how far probabilities are from the share of right answers; None if no answer has one.

    The calibration error is the mean distance of both over BINS bins of equal width, weighted by their rows (Naeini et al. 2015);
    its interval is that of 95% of bootstrap samples of the rows. By chance alone it is above 0, the more the fewer rows there are.
    """
    known = answers.probabilities > 0
    p, right = answers.probabilities[known], answers.right[known].astype(float)
    if not len(p):
        return None
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    draws = np.random.default_rng(0).integers(0, len(p), (_DRAWS, len(p)))
    distances = [_distance(place[draw], p[draw], right[draw]) for draw in draws]
    low, high = np.quantile(distances, (0.025, 0.975))
    bins = [
        Bin(
            low=i / BINS, high=(i + 1) / BINS, n=int(inside.sum()),
            confidence=float(p[inside].mean()), accuracy=float(right[inside].mean()),
        )
        for i in range(BINS)
        if (inside := place == i).any()
    ]  # fmt: skip
    return Reliability(
        n=len(p),
        confidence=float(p.mean()),
        accuracy=float(right.mean()),
        ece=_distance(place, p, right),
        interval=(float(low), float(high)),
        reliability=bins,
    )


def _distance(place: np.ndarray, p: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(np.bincount(place, p - right, BINS)).sum() / len(p))


def of_part(answers: Answers, part: str) -> Answers:
    """Return the answers of one label or field."""
    chosen = np.array([each == part for each in answers.parts], bool)
    return Answers(answers.probabilities[chosen], answers.right[chosen])
