"""Checks whether answers have the declared form. JSON answers are parsed strictly, checked against the schema and compared.
The same rules apply to the reference answers in the data and to the answers of models."""

import difflib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput, TextOutput
from finetune_pipeline.spec.patterns import full_match, last_group, search

_SAME = re.compile(r"[\s_\-]+")
NOT_JSON = object()
"""Result of :func:`strict` and :func:`repaired` for a text without JSON. (null is a value.)"""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise ValueError("a key appears twice")
    return parsed


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DEEPEST = 100
"""Deepest nesting of a JSON answer. Comparing answers and checking them against a schema recurses a few calls a level."""
STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def read_strict(text: str) -> tuple[Any, str]:
    """Parse a text that is one JSON value and nothing else (RFC 8259). Returns (value, "") or (NOT_JSON, reason).
    Duplicate keys, NaN and infinities are refused, because JSON readers disagree about them."""
    try:
        value = STRICT.decode(text)
        return (NOT_JSON, "it is nested too deeply") if is_too_deep(value) else (value, "")
    except RecursionError:
        return NOT_JSON, "it is nested too deeply"
    except ValueError as error:
        return NOT_JSON, str(error)


def is_too_deep(value: Any) -> bool:
    """Whether a JSON value is nested deeper than _DEEPEST."""
    level = [value]
    for _ in range(_DEEPEST):
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [item for items in inner for item in items]
    return bool(level)


def strict(text: str) -> Any:
    """Parse a text as JSON, or return NOT_JSON."""
    return read_strict(text)[0]


def repaired(text: str) -> Any:
    """Parse broken JSON leniently (code fences, quotes, commas, a truncated end) to an object or list; else
    NOT_JSON."""
    from json_repair import repair_json

    if "{" not in text and "[" not in text:
        return NOT_JSON
    try:
        value = repair_json(text, return_objects=True)
    except (ValueError, RecursionError):
        return NOT_JSON
    return value if isinstance(value, dict | list) and value and not is_too_deep(value) else NOT_JSON


@lru_cache(maxsize=16)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator, ValidationError
    from jsonschema.validators import extend

    def pattern_in_time(validator: Any, pattern: str, value: Any, _: Any) -> Iterator[ValidationError]:
        if validator.is_type(value, "string") and not search(pattern, value):
            yield ValidationError(f"{value!r} does not match {pattern!r}")

    return extend(Draft202012Validator, {"pattern": pattern_in_time})(json.loads(schema))


def schema_problems(value: Any, schema: Mapping[str, object]) -> list[str]:
    """Return the violations of a JSON schema (draft 2020-12), each with its place; empty if the value is valid."""
    errors = _validator(json.dumps(schema, sort_keys=True)).iter_errors(value)
    problems = sorted((e.json_path, e.message) for e in errors)
    return [f"{path.removeprefix('$').removeprefix('.') or 'the answer'}: {message:.200}" for path, message in problems]


def canonical(value: Any, unordered: Collection[str] = (), path: str = "") -> str:
    """Return the canonical text of a value. It does not depend on the order of keys, or of lists at paths in `unordered`.
    1 and 1.0 are equal; true is not a number."""
    if isinstance(value, dict):
        inner = ((k, canonical(v, unordered, f"{path}.{k}" if path else k)) for k, v in sorted(value.items()))
        return "{" + ",".join(f"{json.dumps(key)}:{text}" for key, text in inner) + "}"
    if isinstance(value, list):
        items = [canonical(item, unordered, path) for item in value]
        return "[" + ",".join(sorted(items) if path in unordered else items) + "]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def claims(value: Any, unordered: Collection[str] = ()) -> dict[str, Counter[str]]:
    """Return the values of a JSON answer by field: {dotted path: counts of values}.

    Nulls, empty texts, empty lists and empty objects do not count. Each element of a list is one, with its index unless the
    path is in `unordered`. Anything but an object is one field, ``""``.
    """
    claimed: dict[str, Counter[str]] = {}

    def walk(item: Any, path: str) -> None:
        if isinstance(item, dict):
            for key, inner in item.items():
                walk(inner, f"{path}.{key}" if path else key)
        elif isinstance(item, list):
            for place, inner in enumerate(item):
                text = canonical(inner, unordered, path)
                claimed.setdefault(path, Counter())[text if path in unordered else f"{place}:{text}"] += 1
        elif item is not None and item != "":
            claimed.setdefault(path, Counter())[canonical(item)] += 1

    walk(value, "")
    return claimed


LAST_FIX = "write the answer in the declared form, or change `output` in task.yaml"


def final_answer(text: str, pattern: str) -> str | None:
    """Return the group of the last match of `pattern` in a text, stripped; None without a match."""
    group = last_group(pattern, text)
    return None if group is None else group.strip()


def form_problems(text: str, output: AnyOutput) -> list[tuple[str, str]]:
    """Return (rule, message) for every way an answer breaks the declared form. Rules: not_a_label, empty, not_json, schema,
    pattern, too_long, required, forbidden, no_final_answer. Surrounding whitespace is ignored."""
    text = text.strip()
    if isinstance(output, LabelsOutput):
        return [] if text in output.labels else [("not_a_label", f"{quoted(text)} is not one of the labels")]
    if not text:
        return [("empty", "the answer is empty")]
    problems = []
    if isinstance(output, JsonOutput):
        value, why = read_strict(text)
        violations = [] if value is NOT_JSON else schema_problems(value, schema_of(output))
        problems = [("not_json", f"the answer is not valid JSON: {why}")] if value is NOT_JSON else []
        problems += [("schema", f"the answer breaks the schema at {problem}") for problem in violations]
    elif isinstance(output, TextOutput) and output.extract and final_answer(text, output.extract) is None:
        problems.append(("no_final_answer", f"no final answer was found with output.extract ({output.extract})"))
    if output.pattern is not None and not full_match(output.pattern, text):
        problems.append(("pattern", f"the answer does not match output.pattern ({output.pattern})"))
    if output.max_chars is not None and len(text) > output.max_chars:
        problems.append(("too_long", f"the answer has {len(text)} characters, {output.max_chars} are allowed"))
    problems += [("required", f"the answer lacks {quoted(part)}") for part in output.required if part not in text]
    problems += [("forbidden", f"the answer holds {quoted(part)}") for part in output.forbidden if part in text]
    return problems


def schema_of(output: JsonOutput) -> dict[str, object]:
    """Return the JSON schema. Raises ValueError if the spec still holds a file name, which load_task replaces."""
    if isinstance(output.json_schema, str):
        raise ValueError(f"the schema file {output.json_schema!r} was not read; load the task with load_task")
    return output.json_schema


def has_form(output: AnyOutput) -> bool:
    """Whether the spec puts any constraint on a free-text answer."""
    if not isinstance(output, TextOutput):
        return isinstance(output, JsonOutput)
    return bool(output.pattern or output.max_chars or output.required or output.forbidden or output.extract)


def nearest_label(text: str, labels: list[str]) -> str:
    """Return the fix to suggest for an unknown label."""
    folded = {" ".join(_SAME.split(label.casefold().strip())): label for label in labels}
    plain = " ".join(_SAME.split(text[:200].casefold().strip()))
    if plain in folded:
        return f"write {folded[plain]!r} (it differs only in case, whitespace or invisible joiners)"
    near = difflib.get_close_matches(plain, list(folded), 1, 0.6)
    if near:
        return f"did you mean {folded[near[0]]!r}?"
    return f"use one of: {', '.join(labels[:12])}{', …' if len(labels) > 12 else ''}"
