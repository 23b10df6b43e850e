"""Kinds of output: labels, JSON or free text, with the rules of form and the metrics of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Label = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelsOutput(Section):
    """The answer is one of a fixed set of labels."""

    kind: Literal["labels"] = "labels"
    labels: list[Label] = Field(min_length=2, description="All allowed answers, in the order reports show them.")


class WrittenOutput(Section):
    """What may be asked of the form of any answer that is written freely."""

    max_new_tokens: int = Field(256, ge=1, le=8192, description="Longest answer generated in evaluation, in tokens.")
    pattern: str | None = Field(None, description="Regular expression the whole answer must match.")
    max_chars: int | None = Field(None, ge=1, description="Longest answer that is in form, in characters.")
    required: list[str] = Field(default_factory=list, description="Strings every answer must hold.")
    forbidden: list[str] = Field(default_factory=list, description="Strings no answer may hold.")


class TextOutput(WrittenOutput):
    """The answer is free text."""

    kind: Literal["text"] = "text"
    extract: str | None = Field(
        None,
        description="Regular expression with one group that finds the final answer in the text, such as `#### (-?[0-9.,]+)`; "
        "the last match counts, and only it is compared.",
    )


class JsonOutput(WrittenOutput):
    """The answer is a JSON value: extraction."""

    kind: Literal["json"] = "json"
    json_schema: dict[str, Any] | str = Field(
        description="JSON schema (draft 2020-12) of an answer, or the name of a file with it in the task folder."
    )
    unordered: list[str] = Field(
        default_factory=list,
        description="List fields whose order does not matter, by dotted path; others are compared place by place.",
    )
    accept_repaired: bool = Field(
        False, description="Let an answer be right that is JSON only after repair. Production must then repair, too."
    )


AnyOutput = LabelsOutput | TextOutput | JsonOutput
Metric = Literal["accuracy", "macro_f1", "exact", "micro_f1", "rouge1", "rouge2", "rougeLsum", "chrf", "bleu", "facts"]
METRICS: dict[str, tuple[Metric, ...]] = {
    "labels": ("accuracy", "macro_f1"),
    "json": ("exact", "micro_f1"),
    "text": ("rougeLsum", "exact", "rouge1", "rouge2", "chrf", "bleu", "facts"),
}
"""Metrics a kind of output can be judged by, its default first."""


def default_metric(output: AnyOutput) -> Metric:
    """What decides where the spec does not say: right answers where right can be named, else word overlap."""
    if isinstance(output, TextOutput) and output.extract:
        return "exact"
    return METRICS[output.kind][0]


def schema_at(schema: Any, path: str) -> dict[str, Any] | None:
    """The part of a schema that describes the field at a dotted path of properties; None where it names no such field."""
    part = schema
    for name in path.split("."):
        part = part.get("properties", {}).get(name) if isinstance(part, dict) else None
    return part if isinstance(part, dict) else None


def allowed_types(part: dict[str, Any] | None) -> set[str]:
    """JSON types the schema of one field names; empty where it names none."""
    named = (part or {}).get("type", [])
    return {named} if isinstance(named, str) else set(named)
