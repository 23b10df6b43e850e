"""The predictions table: one row per (example, model), in Parquet. Every score, test and report is a function of it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict, TypeVar, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_pipeline.data.examples import Example, stream_examples
from finetune_pipeline.data.json_lines import read_rows, write_rows
from finetune_pipeline.evaluation.token_probabilities import answer_probability, field_probabilities
from finetune_pipeline.models.inference.generated import Answer


class FieldProbability(TypedDict):
    field: str
    probability: float


class PredictionRow(TypedDict):
    """A row of a predictions file.

    Attributes:
        model: base, candidate, champion (on other rows: candidate:typos …), a prompt, or simple_linear …
        text: Raw generation, as production would receive it.
        status: One of STATUSES; error: what went wrong with status `error`, else empty.
        label_scores: Log-likelihood per label, in the spec's order.
        probability: Of JSON and written text (token_probabilities).
        field_probabilities: Of JSON, token_probabilities.FORM among them.
    """

    example_id: str
    model: str
    gold: str
    text: str
    status: str
    error: str
    label_scores: list[float]
    probability: float | None
    field_probabilities: list[FieldProbability]
    new_tokens: int
    prompt_tokens: int


_FIELD = [pa.field("field", pa.string(), nullable=False), pa.field("probability", pa.float64(), nullable=False)]
_COLUMNS: dict[object, pa.DataType] = {
    **{str: pa.string(), int: pa.int64(), float | None: pa.float64(), list[float]: pa.list_(pa.float64())},
    list[FieldProbability]: pa.list_(pa.struct(_FIELD)),
}
PREDICTION_SCHEMA = pa.schema(
    pa.field(name, _COLUMNS[form], nullable=form == float | None)
    for name, form in get_type_hints(PredictionRow).items()
)
Row = TypeVar("Row", bound=Mapping[str, Any])
CANDIDATE, CHAMPION = "candidate", "champion"
STATUSES = ("ok", "truncated", "empty", "error")
NO_FIELDS: Mapping[str, float] = MappingProxyType({})
API = "api_"
"""Prefix of prompts answered by an API model."""
SIMPLE = "simple_"
"""Prefix of simple models (evaluation.simple_models)."""


def prediction_row(
    example_id: str, model: str, answer: Answer, gold: str, fields: Mapping[str, float] = NO_FIELDS
) -> PredictionRow:
    """Return the row of an answer. fields: From token_probabilities.field_probabilities."""
    return {
        "example_id": example_id,
        "model": model,
        "gold": gold,
        "text": answer.text,
        "status": answer.status,
        "error": answer.error,
        "label_scores": answer.label_scores,
        "probability": answer_probability(answer),
        "field_probabilities": [{"field": field, "probability": share} for field, share in fields.items()],
        "new_tokens": answer.new_tokens,
        "prompt_tokens": answer.prompt_tokens,
    }


def prediction_rows(
    examples: Sequence[Example], model: str, answers: Sequence[Answer], gold: Sequence[str], tokenizer: Any = None
) -> list[PredictionRow]:
    """Return the rows of one model. tokenizer: Its own, where answers are JSON and their fields have probabilities."""
    fields = [field_probabilities(answer, tokenizer) for answer in answers]
    return [
        prediction_row(e.id, model, answer, right, shares)
        for e, answer, right, shares in zip(examples, answers, gold, fields, strict=True)
    ]


def _raise_if_faulty(path: Path, rows: Sequence[PredictionRow]) -> None:
    keys = Counter((row.get("model"), row.get("example_id")) for row in rows)
    columns = set(PREDICTION_SCHEMA.names)
    problems = [f"{key} is there {n} times" for key, n in keys.items() if n > 1]
    for row in rows:
        incomplete = any(value is None for name, value in row.items() if name != "probability")
        if row.keys() != columns or incomplete or row["status"] not in STATUSES:
            problems.append(f"faulty row {dict(row)}")
    if problems:
        raise ValueError(f"{path} holds {len(problems)} faulty predictions: {'; '.join(problems[:10])}")


def write_predictions(path: Path, rows: Sequence[PredictionRow]) -> None:
    """Write rows (keys as in PREDICTION_SCHEMA) to a Parquet file, or nothing.

    Raises ValueError, showing up to ten rows, for missing or unknown columns, an unknown status, or a duplicate (model, example)
    pair.
    """
    _raise_if_faulty(path, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=PREDICTION_SCHEMA), path)


def read_predictions(path: Path) -> list[PredictionRow]:
    """Rows of a predictions file, in file order. Raises ValueError when the file is not Parquet or has other columns, and as
    :func:`write_predictions`."""
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from error
    for name, nothing in (("probability", None), ("field_probabilities", [])):  # files of earlier releases lack them
        if name not in table.column_names:
            column, field = PREDICTION_SCHEMA.get_field_index(name), PREDICTION_SCHEMA.field(name)
            table = table.add_column(column, field, pa.array([nothing] * len(table), field.type))
    if not table.schema.equals(PREDICTION_SCHEMA):
        raise ValueError(f"{path} is not a predictions file; its columns are:\n{table.schema.remove_metadata()}")
    rows: list[PredictionRow] = table.to_pylist()
    _raise_if_faulty(path, rows)
    return rows


TEST_ROWS = "test_rows.jsonl"


@dataclass(frozen=True, slots=True)
class AskedRows:
    """The rows behind a predictions artifact, by example id: the user's text, the source (Example.made_from), and the raw file,
    relative to the task folder."""

    texts: dict[str, str]
    sources: dict[str, str]
    files: dict[str, str]


def write_test_rows(examples: Path, out: Path) -> None:
    """Write text, source and file of every row of an examples file beside its predictions."""
    rows = (
        {"id": e.id, "text": e.user_text, "source": e.made_from, "file": str(e.source.get("file", ""))}
        for e in stream_examples(examples)
    )
    write_rows(out / TEST_ROWS, rows)


def read_test_rows(predictions: Path) -> AskedRows:
    rows = list(read_rows(predictions / TEST_ROWS))
    texts, sources, files = ({row["id"]: row[key] for row in rows} for key in ("text", "source", "file"))
    return AskedRows(texts, sources, files)


def count_statuses(statuses: Iterable[str]) -> dict[str, int]:
    """Number of answers per generation status, including zeros."""
    counts = Counter(statuses)
    return {status: counts[status] for status in STATUSES}


def restricted_name(model: str) -> str:
    return f"{model}_restricted"


def row_name(kind: str | None, name: str | None, mode: str | None) -> str:
    """Return the row of EvaluationResult.models with the scores of a model on the sealed test; by default the candidate's."""
    if kind == "simple":
        return f"{SIMPLE}{name}"
    if kind == "prompt":
        return restricted_name("base") if mode == "restricted" else "base"
    return CANDIDATE


def prompts_of(models: Iterable[str]) -> list[str]:
    """The prompts among a baseline's models, without simple models and restricted answers."""
    names = list(models)
    restricted = {restricted_name(name) for name in names}
    return [name for name in names if not name.startswith(SIMPLE) and name not in restricted]


def is_test_set(model: str) -> bool:
    """Whether answers under this name are to the plain test rows, not to perturbed or production rows."""
    return ":" not in model


def of_model(rows: Iterable[Row], model: str) -> list[Row]:
    return [row for row in rows if row["model"] == model]


def by_model(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The answers to the plain test rows (or to validation), by model, in order."""
    models: dict[str, list[Row]] = {}
    for row in rows:
        if is_test_set(row["model"]):
            models.setdefault(row["model"], []).append(row)
    return models


def answered(rows: Iterable[Row]) -> list[Row]:
    """The rows whose answer could be generated."""
    return [row for row in rows if row["status"] != "error"]


def in_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: str(row["example_id"]))


def same_rows(first: Sequence[Row], second: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of two models for the examples both answered, in the order of example ids."""
    first_by_id, second_by_id = ({row["example_id"]: row for row in rows} for rows in (first, second))
    shared_ids = sorted(first_by_id.keys() & second_by_id.keys())
    return [first_by_id[i] for i in shared_ids], [second_by_id[i] for i in shared_ids]


def read_by_model(path: Path) -> dict[str, list[PredictionRow]]:
    """Rows of a predictions file by model, each model's in the order of example ids."""
    return by_model(in_order(read_predictions(path)))
