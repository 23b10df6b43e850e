"""Who speaks in a conversation of unknown make: which keys of a turn hold the speaker and the text, and whose role is whose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.columns import Column
from finetune_pipeline.data.examples import ROLES

_DIALOGUES = ("conversation", "dialogue", "dialog", "history", "turns", "rounds", "chat")
_MOST_SPEAKERS = 200
_SPEAKER_COLUMNS = ("role", "speaker", "sender", "from", "author")
_LISTED = ("content", "parts")
"""Keys of a turn whose value may be a list of content parts."""
_SIDES = {"user": names.USERS, "assistant": names.ASSISTANTS}
"""Common speaker names by role."""


def said_in(value: Any) -> str:
    """The text of a turn, or of its content parts."""
    parts = value if isinstance(value, list) else [value]
    texts = [part.get("text", part.get("content")) if isinstance(part, dict) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str)).strip()


def turn_keys(turns: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """(key of the speaker, key of the text) of turns; None if they are not turns."""
    if all(turn.get("role") in ROLES and not turn.keys().isdisjoint(("content", "tool_calls")) for turn in turns):
        return "role", "content"  # an assistant may call tools, and say nothing
    texts: dict[str, list[str]] = {}
    for turn in turns:
        for key, value in turn.items():
            if isinstance(value, str) or (key in _LISTED and isinstance(value, list | type(None))):
                texts.setdefault(key, []).append(said_in(value))
    texts = {key: values for key, values in texts.items() if len(values) >= 0.8 * len(turns)}
    some = {key: len(set(values)) for key, values in texts.items()}
    few = [k for k, n in some.items() if 1 < n <= _MOST_SPEAKERS and (len(texts[k]) < 8 or n <= len(texts[k]) / 2)]
    few += [k for k in some if k not in few and set(texts[k]) <= {*ROLES}]
    speaker = names.by_name(few, names.SPEAKERS)
    rest = {k: v for k, v in texts.items() if k != speaker and names.plain_name(k) not in names.IDS}
    if speaker is None or not rest:
        return None
    text_key = names.by_name(rest, (*names.TEXTS, *_LISTED)) or max(rest, key=lambda k: sum(map(len, rest[k])))
    return speaker, text_key


def roles_of(speakers: Iterable[str]) -> dict[str, str]:
    """The role of each speaker by name; if names are unknown, the first speaker is the user."""
    roles: dict[str, str] = {}
    for speaker in dict.fromkeys(speakers):
        sides = [role for role, known in _SIDES.items() if names.rank(speaker, known) is not None]
        known = names.HEADINGS.get(speaker, sides[0] if sides else "")
        roles[speaker] = speaker.casefold() if speaker.casefold() in ROLES else known
    taken = {role for role in roles.values() if role in ("user", "assistant")}
    for speaker, role in roles.items():
        if not role:
            free = [r for r in ("user", "assistant") if r not in taken]
            roles[speaker] = free[0] if free else "user"
            taken.add(roles[speaker])
    if "user" in roles.values() and "assistant" not in roles.values() and "system" in roles:
        roles["system"] = "assistant"  # dialogue corpora call the machine so
    return roles


def are_both_sides(column: Column) -> bool:
    """Whether a column's values are names of users and of assistants in most of its rows: among 150 intents, `user_name` and
    `are_you_a_bot` name nobody who speaks."""
    sides = [[v for v in column.values if names.rank(v, known) is not None] for known in _SIDES.values()]
    return all(sides) and 2 * sum(column.values[v] for v in {*chain(*sides)}) > column.values.total()


def are_speakers(column: Column) -> bool:
    """Whether a column names the speaker: by its own name, or by speaker names of both roles in it."""
    named = len(column.values) > 1 and names.rank(column.name, _SPEAKER_COLUMNS) is not None
    return named or are_both_sides(column)


def both_sides(turns: Sequence[Mapping[str, Any]], name: str) -> str | None:
    """What makes turns of elements that hold a request and its answer each, as in `[{human, assistant}]`."""
    keys = [key for key in turns[0] if all(isinstance(turn.get(key), str) for turn in turns)]
    ways: list[tuple[tuple[str, ...], tuple[str, ...]]] = [(names.USERS, names.ASSISTANTS)]
    ways += [(("input", "question", "query"), names.WRITTEN)] if names.rank(name, _DIALOGUES) is not None else []
    for known_sides in ways:
        sides = [
            next((k for name in known for k in keys if names.plain_name(k) == name), None) for known in known_sides
        ]
        asked, said = sides
        if asked is None or said is None or said == "system":
            continue
        system = "{role: 'system', content: system}, " * any("system" in turn for turn in turns)
        both = f"{{role: 'user', content: {names.key_path(asked)}}}, {{role: 'assistant', content: {names.key_path(said)}}}"
        return f"[].[{system}{both}][] | [?content]"
    return None
