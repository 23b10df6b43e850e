"""Kinds of output: labels, JSON or free text, with their rules of form and metrics."""

import os
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Label = Annotated[str, StringConstraints(max_length=100, pattern=r"\S")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
_NUMBERS = (int, float, int | None, float | None)


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, values: Any) -> Any:
        """Refuse `retrieved: yes`, which pydantic would read as 1."""
        if not isinstance(values, dict):
            return values
        numbers = {name for name, field in cls.model_fields.items() if field.annotation in _NUMBERS}
        return {k: str(v).lower() if isinstance(v, bool) and k in numbers else v for k, v in values.items()}


class LabelsOutput(Section):
    """The answer is one of a fixed set of labels."""

    kind: Literal["labels"] = "labels"
    labels: list[Label] = Field(min_length=2, description="All allowed answers, in the order reports show them.")


class WrittenOutput(Section):
    """Requirements for the form of free-form answers."""

    max_new_tokens: int = Field(256, ge=1, le=8192, description="Longest generated answer, in tokens.")
    pattern: str | None = Field(None, description="Regular expression the whole answer must match.")
    max_chars: int | None = Field(None, ge=1, description="Longest valid answer, in characters.")
    required: list[str] = Field([], description="Strings every answer must contain.")
    forbidden: list[str] = Field([], description="Strings no answer may contain.")


class TextOutput(WrittenOutput):
    """The answer is free text."""

    kind: Literal["text"] = "text"
    extract: str | None = Field(
        None,
        description="Regular expression whose group is the final answer, such as `#### (-?[0-9.,]+)`; only "
        "the last match is compared.",
    )


class JsonOutput(WrittenOutput):
    """The answer is a JSON value: extraction."""

    kind: Literal["json"] = "json"
    json_schema: dict[str, Any] | str = Field(description="JSON schema (draft 2020-12), or a file in the task folder.")
    unordered: list[str] = Field(
        [], description='Dotted paths of lists whose order does not matter; `""` for an answer that is a list.'
    )
    accept_repaired: bool = Field(
        False, description="Accept answers that are JSON only after repair. Production must repair them, too."
    )


AnyOutput = LabelsOutput | TextOutput | JsonOutput
METRICS: dict[str, tuple[str, ...]] = {}
"""Maps each metric to the kinds of output it fits. Importing :mod:`finetune_pipeline.evaluation.metrics` fills it."""
COVERAGE = "coverage"
"""What gates.metric names to judge gains by the share of rows that a model answers by itself (evaluation/coverage.py)."""
DEFAULT_METRICS = {"labels": "accuracy", "json": "exact", "text": "rougeLsum"}


def folded_label(label: str) -> str:
    """Return a label as it is compared with others: with composed accents, in one case, with single blanks."""
    return " ".join(unicodedata.normalize("NFC", label).split()).casefold()


def _list_metrics(schema: dict[str, object]) -> None:
    schema |= {"enum": sorted(METRICS)} if METRICS else {}


def _list_deciding_metrics(schema: dict[str, object]) -> None:
    schema |= {"enum": sorted([*METRICS, COVERAGE])} if METRICS else {}


Metric = Annotated[str, Field(json_schema_extra=_list_metrics)]
DecidingMetric = Annotated[str, Field(json_schema_extra=_list_deciding_metrics)]


def default_metric(output: AnyOutput) -> str:
    """Return the default metric: correct answers if correctness is defined, else word overlap."""
    return "exact" if isinstance(output, TextOutput) and output.extract else DEFAULT_METRICS[output.kind]


def schema_at(schema: Any, path: str) -> dict[str, object] | None:
    """Return the part of a schema for the field at a dotted path of properties, the whole at `""`; None if there is none."""
    part = schema
    for name in path.split(".") if path else ():
        part = part.get("properties", {}).get(name) if isinstance(part, dict) else None
    return part if isinstance(part, dict) else None


def allowed_types(part: dict[str, Any] | None) -> set[str]:
    """Return the JSON types in the schema of one field; empty if it has none."""
    named = (part or {}).get("type", [])
    return {named} if isinstance(named, str) else set(named)


def is_outside(path: str, folder: Path | None) -> bool:
    """Whether a path or glob of the spec, or a link on it, leaves the task folder. folder None: links are not checked."""
    if Path(path).is_absolute() or ".." in Path(path).parts:
        return True
    if folder is None:
        return False
    try:
        paths = list(folder.glob(path)) if set("*?[") & set(path) else [folder / path]
        return any(not p.resolve().is_relative_to(folder.resolve()) for p in paths)
    except (OSError, RuntimeError, ValueError):  # circular links or an invalid pattern: reported where the file is read
        return False


def is_glob(pattern: str) -> bool:
    """Whether pathlib supports the pattern: it has a name, and `**` is alone between slashes."""
    try:
        next(Path(os.devnull).glob(pattern), None)
    except (ValueError, IndexError):
        return False
    return True
