"""Where a JSON document holds its rows, if not at the top or in lists of one kind."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune_pipeline.data.fields import compile_expression
from finetune_pipeline.data.formats import format_of
from finetune_pipeline.data.names import CONTEXTS, is_known_name, key_path, plain_name

_DEEPEST = 4
_LEAST_KEYS = 20
"""Keys of a document from which on they are taken for texts, each with its answer."""


def is_map(document: Any) -> bool:
    """Whether a document gives an answer to each of its keys."""
    plain = isinstance(document, dict) and len(document) >= _LEAST_KEYS and not any(map(is_known_name, document))
    return plain and all(isinstance(value, str) for value in document.values())


def is_columns(document: Any) -> bool:
    """Whether a document is column-oriented (pandas' default)."""
    if not isinstance(document, dict) or len(document) < 2 or not any(map(is_known_name, document)):
        return False
    values = [list(v.values()) if isinstance(v, dict) else v for v in document.values()]
    plain = all(isinstance(v, list) and not any(isinstance(x, dict | list) for x in v) for v in values)
    if not plain:
        return False
    longest = max(map(len, values))  # names of classes may stand beside the columns
    columns = [key for key, v in zip(document, values, strict=True) if len(v) == longest]
    return len(columns) > 1 < longest and any(map(is_known_name, columns))


def rows_path(document: Any) -> str | None:
    """The JMESPath of a document's rows; None if the reader finds them without it."""
    if isinstance(document, list) and (below := _paragraphs(document)):
        return f"[].{below}"
    if not isinstance(document, dict) or not document or _is_row(document):
        return None
    lists = [v for v in document.values() if isinstance(v, list) and v]
    if lists and all(isinstance(v, list) for v in document.values()) and _alike(lists):
        return None  # lists of rows under their keys
    lists_within = sorted(_lists(document, ()), key=lambda of: (-of[0], of[1]))
    for _, _, path in lists_within[:1]:
        if below := _paragraphs(compile_expression(path)[0](document, "", None)):
            return f"{path}[].{below}"
    if lists_within and lists_within[0][0] > 1:
        first = lists_within[0][2]
        same = [path for _, _, path in lists_within if _keys_at(document, path) == _keys_at(document, first)]
        return f"[{', '.join(same)}][]" if len(same) > 1 else first
    values = list(document.values())
    if len(values) > 1 and all(isinstance(v, dict) for v in values) and len({frozenset(v) for v in values}) <= 3:
        return "values(@)"
    return None


def _paragraphs(articles: Sequence[Any]) -> str | None:
    """The expression of the paragraphs below articles, as SQuAD has them: each a text with a list of its questions."""
    for key, within in articles[0].items() if articles and isinstance(articles[0], dict) else ():
        first = within[0] if isinstance(within, list) and within else None
        if isinstance(first, dict) and any(plain_name(k) in CONTEXTS and isinstance(v, str) for k, v in first.items()):
            return f"{key_path(key)}[]"
    return None


def _is_row(document: Mapping[str, Any]) -> bool:
    """Whether a document is a single row, such as one chat, rather than a list of rows under a chat's usual key."""
    lists = [v for v in document.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
    return bool(format_of(dict(document))) and all({"role", "from"} & v[0].keys() for v in lists)


def _alike(lists: Sequence[Sequence[Any]]) -> bool:
    """Whether the elements of several lists are rows of one kind."""
    kinds = {type(element) for some in lists for element in some[:20]}
    if kinds != {dict}:
        return len(kinds) == 1
    keys = [set().union(*(element for element in some[:20])) for some in lists]
    return bool(set.intersection(*keys))


def _keys_at(document: Any, path: str) -> set[str] | None:
    """The keys of the first rows at a path, None where they are no objects."""
    some = compile_expression(path)[0](document, "", None)[:20]
    return set().union(*some) if all(isinstance(row, dict) for row in some) else None


def _lists(value: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[int, int, str]]:
    """(length, depth, expression) of the lists of objects or lists below a value."""
    for key, item in value.items():
        here = (*path, key_path(key))
        if isinstance(item, list) and item and isinstance(item[0], dict | list):
            yield len(item), len(here), ".".join(here)
        elif isinstance(item, dict) and len(here) < _DEEPEST:
            yield from _lists(item, here)
