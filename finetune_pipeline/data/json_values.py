"""Answers that are JSON: read strictly, held against a schema, compared field by field."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

NOT_JSON = object()
"""What :func:`strict` and :func:`repaired` give for a text that holds no JSON. (null is a value.)"""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def read_strict(text: str) -> tuple[Any, str]:
    """(value, "") of a text that is one JSON value and nothing else (RFC 8259), or (NOT_JSON, why not).

    Equal keys in one object, NaN and infinities are refused: readers disagree about them.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant), ""
    except RecursionError:
        return NOT_JSON, "it is nested too deep"
    except ValueError as error:
        return NOT_JSON, str(error)


def strict(text: str) -> Any:
    """The JSON value a text is, or NOT_JSON."""
    return read_strict(text)[0]


def repaired(text: str) -> Any:
    """The object or list a lenient reader finds in a text that is no JSON: fences, quotes, commas, a cut end; else
    NOT_JSON."""
    from json_repair import repair_json

    if "{" not in text and "[" not in text:
        return NOT_JSON
    try:
        value = repair_json(text, return_objects=True)
    except (ValueError, RecursionError):
        return NOT_JSON
    return value if isinstance(value, dict | list) and value else NOT_JSON


@lru_cache(maxsize=16)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema))


def schema_problems(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """What a value breaks in a JSON schema (draft 2020-12), each with its place; empty when it complies."""
    errors = _validator(json.dumps(schema, sort_keys=True)).iter_errors(value)
    return [
        f"{e.json_path.removeprefix('$').removeprefix('.') or 'the answer'}: {e.message:.200}"
        for e in sorted(errors, key=lambda e: (e.json_path, e.message))
    ]


def canonical(value: Any, unordered: Collection[str] = (), path: str = "") -> str:
    """A text that is the same for equal values, whatever the order of keys and of the lists at paths in `unordered`.

    1 and 1.0 are the same number; true is no number.
    """
    if isinstance(value, dict):
        parts = (
            f"{json.dumps(key)}:{canonical(item, unordered, f'{path}.{key}' if path else key)}"
            for key, item in sorted(value.items())
        )
        return "{" + ",".join(parts) + "}"
    if isinstance(value, list):
        items = [canonical(item, unordered, path) for item in value]
        return "[" + ",".join(sorted(items) if path in unordered else items) + "]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def claims(value: Any, unordered: Collection[str] = ()) -> dict[str, Counter[str]]:
    """What a value says, field by field: {dotted path: what is claimed there, with multiplicity}.

    A null, an empty text, an empty list or object claims nothing, as if its key were absent. A list claims each of its
    elements: with its place, or without where its path is in `unordered`. Anything but an object is one field, ``""``.
    """
    found: dict[str, Counter[str]] = {}

    def walk(item: Any, path: str) -> None:
        if isinstance(item, dict):
            for key, inner in item.items():
                walk(inner, f"{path}.{key}" if path else key)
        elif isinstance(item, list):
            for place, inner in enumerate(item):
                text = canonical(inner, unordered, path)
                found.setdefault(path, Counter())[text if path in unordered else f"{place}:{text}"] += 1
        elif item is not None and item != "":
            found.setdefault(path, Counter())[canonical(item)] += 1

    walk(value, "")
    return found
