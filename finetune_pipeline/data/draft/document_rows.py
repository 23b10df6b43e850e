"""Finds the rows of a JSON document that are neither at the top nor in lists of one kind."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune_pipeline.data.fields import compile_expression
from finetune_pipeline.data.formats import format_of
from finetune_pipeline.data.names import is_known_name, key_path

_DEEPEST = 4
_LEAST_KEYS = 20
"""From this number of keys on, a document may be one object of texts and their answers."""


def is_map(document: Any) -> bool:
    """Whether a document gives an answer to each of its keys."""
    plain = isinstance(document, dict) and len(document) >= _LEAST_KEYS and not any(map(is_known_name, document))
    return plain and all(isinstance(value, str) for value in document.values())


def is_columns(document: Any) -> bool:
    """Whether a document is column-oriented (pandas' default)."""
    if not isinstance(document, dict) or not any(map(is_known_name, document)):
        return False
    values = [list(v.values()) if isinstance(v, dict) else v for v in document.values()]
    if not all(isinstance(v, list) and not any(isinstance(x, dict | list) for x in v) for v in values):
        return False
    lengths = [*map(len, values)]  # the names of the classes may be beside the columns
    return max(lengths) > 1 < lengths.count(max(lengths))


def rows_path(document: Any) -> str | None:
    """Return the JMESPath of a document's rows; None if the reader finds them without it."""
    if not isinstance(document, dict) or not document or _is_row(document):
        return None
    lists = [v for v in document.values() if isinstance(v, list) and v]
    if lists and all(isinstance(v, list) for v in document.values()) and _same_kind(lists):
        return None  # lists of rows under their keys
    lists_within = sorted(_lists(document, ()), key=lambda found_list: (-found_list[0], found_list[1]))
    if lists_within and lists_within[0][0] > 1:
        first_path = lists_within[0][2]
        paths = [path for _, _, path in lists_within if _keys_at(document, path) == _keys_at(document, first_path)]
        return f"[{', '.join(paths)}][]" if len(paths) > 1 else first_path
    values = list(document.values())
    if len(values) > 1 and all(isinstance(v, dict) for v in values) and len({frozenset(v) for v in values}) <= 3:
        return "values(@)"
    return None


def _is_row(document: Mapping[str, object]) -> bool:
    """Whether a document is a single row, such as one chat, rather than a list of rows under a chat's usual key."""
    lists = [v for v in document.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
    return bool(format_of(dict(document))) and all({"role", "from"} & v[0].keys() for v in lists)


def _same_kind(lists: Sequence[Sequence[Any]]) -> bool:
    """Whether the elements of several lists are rows of one kind."""
    kinds = {type(element) for rows in lists for element in rows[:20]}
    if kinds != {dict}:
        return len(kinds) == 1
    keys = [set().union(*(element for element in rows[:20])) for rows in lists]
    return bool(set.intersection(*keys))


def _keys_at(document: Any, path: str) -> set[str] | None:
    """Return the keys of the first rows at a path; None if they are not objects."""
    first_rows = compile_expression(path)[0](document, "", None)[:20]
    return set().union(*first_rows) if all(isinstance(row, dict) for row in first_rows) else None


def _lists(value: Mapping[str, object], path: tuple[str, ...]) -> Iterator[tuple[int, int, str]]:
    """Yield (length, depth, expression) of the lists of objects or lists below a value."""
    for key, item in value.items():
        item_path = (*path, key_path(key))
        if isinstance(item, list) and item and isinstance(item[0], dict | list):
            yield len(item), len(item_path), ".".join(item_path)
        elif isinstance(item, dict) and len(item_path) < _DEEPEST:
            yield from _lists(item, item_path)
