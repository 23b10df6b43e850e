"""Finds whose a log line is: the users and ids of its records, also within lists, wrappers and texts that hold JSON.

Intake and erasure both use it, so that erasure finds every line whose user was ingested.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

_USER_FIELD = re.compile(r'("user\\*"\s*:\s*)(\\+"[^"]*"|"(?:[^"\\]|\\.)*"?|[^,}\s]+)')
"""The user as written in a text that is not JSON, which may be part of an escaped string."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True)
class Owner:
    """Whose a record is: users as text, and the record's id. A text that is not JSON may name several users."""

    users: frozenset[str]
    id: str | None = None


OwnerTest = Callable[[Owner], bool]


class _Gone(Exception):
    """Raised for a value that is removed as a whole."""


def owners_of(line: bytes) -> list[Owner]:
    """Return the owner of each record in a line, decodable or not; owners without users and id are left out."""
    owners: list[Owner] = []

    def collect(owner: Owner) -> bool:
        owners.append(owner)
        return False

    without(line, collect)
    return [owner for owner in owners if owner.users or owner.id]


def is_json(line: bytes) -> bool:
    """Whether a line can be decoded."""
    try:
        msgspec.json.decode(line)
    except _UNREADABLE:
        return False
    return True


def without(line: bytes, matches: OwnerTest) -> bytes | None:
    """Return a line without the records whose owner matches: unchanged if none does, None if nothing is left.

    A record goes with the objects and texts around it, up to the next list, whose other items stay.
    """
    try:
        try:
            value = msgspec.json.decode(line)
            rest = _without(value, matches)
        except _UNREADABLE:
            _refuse(_owner_of_text(line.decode("utf-8", "replace")), matches)
            return line
    except _Gone:
        return None
    return line if rest is value else msgspec.json.encode(rest)


def hide_users(line: bytes) -> str:
    """Return a line as text, with every user replaced by a placeholder."""
    return _USER_FIELD.sub(r'\1"[USER]"', line.decode("utf-8", "replace"))


def _refuse(owner: Owner, matches: OwnerTest) -> None:
    if matches(owner):
        raise _Gone


def _without(value: Any, matches: OwnerTest) -> Any:
    """Return a value without the matching records; the same object if there are none. Raises _Gone if it is one."""
    if isinstance(value, dict):
        row_id = value.get("id")
        _refuse(Owner(frozenset(_texts(value.get("user"))), row_id if isinstance(row_id, str) else None), matches)
        if _is_record(value):
            return value
        fields = {key: _without(item, matches) for key, item in value.items() if key != "user"}
        return value if all(fields[key] is value[key] for key in fields) else {**value, **fields}
    if isinstance(value, list):
        items = [*_remaining(value, matches)]
        if value and not items:
            raise _Gone
        return value if len(items) == len(value) and all(a is b for a, b in zip(items, value, strict=True)) else items
    if isinstance(value, str) and '"' in value:
        return _without_in_text(value, matches)
    return value


def _remaining(items: list[Any], matches: OwnerTest) -> Iterator[Any]:
    for item in items:
        try:
            yield _without(item, matches)
        except _Gone:
            continue


def _without_in_text(text: str, matches: OwnerTest) -> str:
    try:
        value = msgspec.json.decode(text)
    except _UNREADABLE:
        _refuse(_owner_of_text(text), matches)
        return text
    rest = _without(value, matches)
    return text if rest is value else msgspec.json.encode(rest).decode()


def _is_record(value: dict[str, object]) -> bool:
    """Whether an object is an answer, also a second one, or feedback; its other fields are contents without users."""
    return isinstance(value.get("id"), str) and not value.keys().isdisjoint(("output", "feedback", "shadow"))


def _texts(user: Any) -> Iterator[str]:
    """Yield the users in a field `user`: one, or those in an object or list, however deep: Python 3.12 and later decode deeper
    JSON than functions may call themselves."""
    waiting = [user]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict | list):
            waiting += item.values() if isinstance(item, dict) else item
        elif item is not None and item != "":
            yield str(item)


def _owner_of_text(text: str) -> Owner:
    """Return the users after each key `user` of a text that is not JSON."""
    return Owner(frozenset(user for match in _USER_FIELD.finditer(text) for user in _texts(_decoded(match[2]))))


def _decoded(value: str) -> Any:
    """Return a field's value as written in a text, unescaped; None if it is cut off."""
    try:
        while value.startswith("\\"):
            value = msgspec.json.decode(f'"{value}"')
        return msgspec.json.decode(value)
    except _UNREADABLE:
        return None
