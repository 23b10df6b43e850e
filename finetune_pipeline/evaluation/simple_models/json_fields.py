"""The fields of JSON answers as a table."""

from collections.abc import Sequence
from typing import Any

from finetune_pipeline.data.answer_rules import NOT_JSON, canonical, strict
from finetune_pipeline.evaluation.simple_models.fitted import MISSING, Keys
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput


def field_table(answers: Sequence[str], output: AnyOutput) -> tuple[list[Keys], list[list[str]]]:
    """The paths of all fields, in the order they first occur, and their JSON texts: one row per answer, one column per field."""
    unordered = frozenset(output.unordered) if isinstance(output, JsonOutput) else frozenset()
    rows = []
    for answer in answers:
        value = strict(answer)
        if value is NOT_JSON:
            raise ValueError(f"a training answer is not JSON: {answer[:100]!r}")
        rows.append(dict(_leaves(value, unordered)))
    paths = list(dict.fromkeys(path for row in rows for path in row))
    return paths, [[row.get(path, MISSING) for path in paths] for row in rows]


def _leaves(value: Any, unordered: frozenset[str], path: Keys = ()) -> list[tuple[Keys, str]]:
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(item, unordered, (*path, key))]
    return [(path, canonical(value, unordered, ".".join(path)))]
