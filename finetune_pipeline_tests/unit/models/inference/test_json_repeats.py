"""Repetitions in begun JSON: equal keys and items are seen, also those that can no longer be avoided, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_pipeline.models.inference.constrained import JsonRepeats

EXTRAS = {"type": "array", "items": {"enum": ["no nuts", "no gluten", "no", "für", 1, 12, None]}, "uniqueItems": True}
NESTED = {
    "$defs": {"extra": {"anyOf": [{"const": "a"}, {"type": "boolean"}]}},
    "type": "object",
    "properties": {
        "lines": {
            "type": "array",
            "items": {"type": "object", "properties": {"extras": {"$ref": "#/properties/any"}}},
        },
        "any": {"type": "array", "items": {"$ref": "#/$defs/extra"}, "uniqueItems": True},
    },
}


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("[", False),
        ('["no nuts", "no', False),
        ('["no nuts", "no nuts"', True),
        ('["no nuts", "no n', True),  # it can only become what is there
        ('["no nuts", "no g', False),
        ('["no", "no', False),  # "no nuts" is left
        ('["no", "no"', True),
        ('["no nuts", "no gluten", "no", "', False),  # "für" is left
        ('["no nuts", "no gluten", "no", "n', True),
        ("[1, 1", False),  # 12 is left
        ("[1, 1,", True),
        ("[12, 1, 1", True),
        ("[null, n", True),
        ('["für", "f\udcc3', True),  # the first byte of ü
        ('["f\udcc3', False),
        ('["no nuts", "no gluten", "no", "für", 1, 12, null', False),
        ('["no nuts", "no gluten", "no", "für", 1, 12, null ]', False),
        ('["no nuts", "no gluten", "no", "für", 1, 12, null,', True),  # nothing is left
    ],
)
def test_an_array_of_listed_values(text: str, repeats: bool) -> None:
    assert JsonRepeats(EXTRAS).within(text) is repeats
    assert JsonRepeats({**EXTRAS, "uniqueItems": False}).within(text) is False


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ('{"lines": [{"extras": ["a", true]}, {"extras": ["a"', False),
        ('{"lines": [{"extras": ["a", true, t', True),
        ('{"any": ["a", true, "', True),
        ('{"any": ["a"], "any"', True),
        ('{"any": ["a"], "an', False),
        ('{"x": {"any": 1}, "any": []}', False),
        ('{"x": "\\"x\\": 1, \\"x\\": 2", "y": ["a", "a"]}', False),  # in a text, and in an array that may
        ("[" * 5000, True),  # nobody could read it
    ],
)
def test_nested_schemas_and_keys(text: str, repeats: bool) -> None:
    assert JsonRepeats(NESTED).within(text) is repeats


@pytest.mark.parametrize(
    ("items", "text", "repeats"),
    [
        ({"type": "string"}, '["a", "a', False),
        ({"type": "string"}, '["a", "a"', True),
        ({"type": "number"}, "[1, 1.0]", True),
        ({"type": "object"}, '[{"a": 1, "b": 2}, {"b": 2, "a": 1}', True),
        ({"enum": [{"a": 1}, {"a": 2}]}, '[{"a":1}, { "a"', False),  # blanks are free in objects
        (True, "[true, tr", False),
    ],
)
def test_values_that_are_not_listed_are_compared_when_they_are_whole(items: Any, text: str, repeats: bool) -> None:
    assert JsonRepeats({"type": "array", "items": items, "uniqueItems": True}).within(text) is repeats
