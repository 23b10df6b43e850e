"""Finds conversations in raw rows: rows that a registered format reads as conversations, and lists of turns under any key."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.columns import Column, Refusal
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.examples import ROLES
from finetune_pipeline.data.fields import compile_expression
from finetune_pipeline.data.formats import format_of
from finetune_pipeline.data.formats.messages import SHAREGPT_ROLES
from finetune_pipeline.data.formats.tool_calls import unpacked

_CHATS = {"messages": ("messages",), "sharegpt": ("conversations", "conversation")}
"""Formats of lists of turns, and the keys that hold them."""
_SINGLE = ("instruction", "prompt_completion")
_COMPARED = {"messages": "[input.messages[?role != 'system'], preferred_output][]", "tools": "input.tools"}
_WHOLE: dict[str | None, tuple[tuple[str, str], dict[str, str]]] = {
    "openai_preference": (("input", "preferred_output"), _COMPARED),
    "chatgpt": (("mapping", "current_node"), {}),
}
"""Formats whose rows are conversations without a list of turns: the keys they read, and Chat.whole."""
_MOST_SPEAKERS = 200
_DEEPEST_TURN = 6
_SIDES = {"user": names.USERS, "assistant": names.ASSISTANTS}
"""Common speaker names by role."""
_REPLIES = ("reply_to", "in_response_to", "reference_message", "thread_ts", "parent_id", "parent_message")
"""Parts of names of columns with the id of the message that a row replies to."""
_WRITERS = ("user", "username", "user_name", "sender", "speaker", "participant", "from", "inbound", *names.SPEAKER_IDS)
_DIALOGUES = ("conversation", "dialogue", "dialog", "history", "turns", "rounds", "chat")
_ONE_ROW = 'write all turns of a conversation into one row: {"messages": [{"role": "user", "content": "…"}, …]}'


@dataclass(frozen=True)
class Chat:
    """How to read conversations.

    Attributes:
        fields, roles: For task.yaml.
        columns: The columns they read.
        speaker: Key of a turn with its speaker.
        whole: The fields that leave out system turns, if a format reads the rows as they are and no column holds the turns.
    """

    fields: dict[str, str]
    roles: dict[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    speaker: str = "role"
    whole: Mapping[str, str] | None = None


def _objects(rows: Sequence[RawRow]) -> tuple[list[dict[str, object]], str | None]:
    """Return the rows that are objects, and the format of most of them."""
    objects = [row.value for row in rows if isinstance(row.value, dict)]
    return objects, Counter(map(format_of, objects)).most_common(1)[0][0] if objects else None


def whole_chat(rows: Sequence[RawRow]) -> Chat | None:
    """Return how to read rows that a registered format reads as conversations, though they hold no list of turns."""
    objects, format_name = _objects(rows)
    values = [(key, unpacked(value)) for row in objects for key, value in row.items()]
    lists = [(key, items) for key, items in values if isinstance(items, list) and items]
    has_history = any(key == "history" for key, _ in lists) or any(row.get("system") for row in objects)
    if format_name in _SINGLE and has_history and not any(isinstance(items[0], dict) for _, items in lists):
        return Chat({}, columns=("history", "system"), whole={"system": "=''"})
    return Chat({}, columns=_WHOLE[format_name][0], whole=_WHOLE[format_name][1]) if format_name in _WHOLE else None


def chat_of(rows: Sequence[RawRow], columns: Mapping[str, Column]) -> Chat | Refusal | None:
    """Detect how these rows store conversations; None if they do not. Returns the reason if the answers are elsewhere."""
    objects, format_name = _objects(rows)
    registered = _CHATS.get(format_name or "", ())
    lists = [c for c in columns.values() if (c.kind == "list" or c.path in registered) and not c.is_rejected]
    for column in sorted(lists, key=lambda c: not c.is_top):
        chats = _turns(objects[:500], column.path)
        turns = [turn for chat in chats for turn in chat]
        if not turns or not all(isinstance(turn, dict) for turn in turns) or not (keys := turn_keys(turns)):
            continue
        speaker, text_key = keys
        speakers = dict.fromkeys(str(turn.get(speaker)) for turn in turns)
        if len({(str(turn.get(speaker)), str(turn.get(text_key))) for turn in turns}) == len(speakers) < len(turns):
            continue  # each name always has the same text: these are labels with their meanings
        if (len(speakers) == 1 or not column.is_top) and not names.by_name(speakers, names.USERS):
            continue
        roles = roles_of(speakers)
        speaker_path, text_path = names.key_path(speaker), names.key_path(text_key)
        has_own_names = keys not in (("role", "content"), ("from", "value"))
        messages = column.path + f"[].{{role: {speaker_path}, content: {text_path}}}" * (keys != ("role", "content"))
        unanswered = sum(roles[str(chat[-1].get(speaker))] == "user" for chat in chats if chat)
        has_chosen = column.path in registered and any("chosen" in row for row in objects)
        if 2 * unanswered > len(chats) and not has_chosen:
            return _unanswered(column, messages, columns, objects)
        if column.path in registered and not has_own_names:
            are_known = set(roles) <= {*SHAREGPT_ROLES}
            return Chat({}, {} if are_known else roles, (column.path,), speaker)
        fields = {"messages": messages}
        if group := next((c for c in columns.values() if names.rank(c.name, names.GROUPS) is not None), None):
            fields["group"] = group.path
        parent_path = column.path.rpartition(".")[0]
        beside = {name: f"{parent_path}.{name}" if parent_path else name for name in ("system", "tools")}
        fields |= {name: path for name, path in beside.items() if path in columns}
        return Chat(fields, {k: v for k, v in roles.items() if k != v}, (column.path,), speaker)
    return None


def _turns(objects: Iterable[Any], path: str) -> list[list[Any]]:
    """Return the lists that an expression finds in these rows."""
    find = compile_expression(path)[0]
    return [turns for row in objects if isinstance(turns := unpacked(find(row, "", None)), list)]


def _unanswered(
    column: Column, messages: str, columns: Mapping[str, Column], objects: Sequence[dict[str, object]]
) -> Refusal:
    """Say that the answers to conversations are not in the list of turns, with the place of the assistant's turn in most rows, or
    else the likeliest column that holds them."""
    places = Counter(chain.from_iterable(map(_assistant_turns, objects)))
    turn, rows_with_turn = places.most_common(1)[0] if places else ("", 0)
    texts = [
        c for c in columns.values() if c.kind == "text" and len(c.values) > 1 and not c.path.startswith(column.path)
    ]
    texts = [c for c in texts if not (c.is_rejected or c.is_guess or c.is_id)]
    # a column that few rows fill, such as corrections, answers only those
    texts.sort(key=lambda c: (2 * c.filled < c.rows, names.rank(c.name, names.WRITTEN) is None, -c.longest))
    answer = texts[0].path if texts else "ANSWER"
    answer = f"{turn}.content" if 2 * rows_with_turn > len(objects) else answer
    turn_list = messages if messages.endswith("}") else f"{messages}[]"
    expression = f"[{turn_list}, [{{role: 'assistant', content: {answer}}}]][]"
    line = names.declare({"messages": expression}, expressions=("messages",))
    return Refusal(
        f"the turns in {column.path} end with the user, and the answer is elsewhere", f"write task.yaml with {line}"
    )


def _assistant_turns(value: Any, path: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the paths of the assistant's turns that stand alone or first in a list, such as `response.choices[0].message`."""
    if isinstance(value, list):
        value, path = next(iter(value), None), f"{path}[0]"
    if not isinstance(value, dict) or depth > _DEEPEST_TURN:
        return
    if value.get("role") == "assistant" and isinstance(value.get("content"), str):
        yield path
    for key, inner in value.items():
        yield from _assistant_turns(inner, f"{path}.{names.key_path(key)}" if path else names.key_path(key), depth + 1)


def turn_keys(turns: Sequence[Mapping[str, object]]) -> tuple[str, str] | None:
    """Return the keys of the speaker and of the text; None if these are not turns."""
    if all(turn.get("role") in ROLES and not turn.keys().isdisjoint(("content", "tool_calls")) for turn in turns):
        return "role", "content"  # an assistant may call tools without any text
    texts: dict[str, list[str]] = {}
    for turn in turns:
        for key, value in turn.items():
            if isinstance(value, str) or (key == "content" and isinstance(value, list | type(None))):
                texts.setdefault(key, []).append(str(value))
    texts = {key: values for key, values in texts.items() if len(values) >= 0.8 * len(turns)}
    counts = {key: len(set(values)) for key, values in texts.items()}
    keys = [k for k, n in counts.items() if 1 < n <= _MOST_SPEAKERS and (len(texts[k]) < 8 or n <= len(texts[k]) / 2)]
    keys += [k for k in counts if k not in keys and set(texts[k]) <= {*ROLES}]
    speaker = names.by_name(keys, names.SPEAKERS)
    bodies = {k: v for k, v in texts.items() if k != speaker and names.plain_name(k) not in names.IDS}
    if speaker is None or not bodies:
        return None
    text_key = names.by_name(bodies, (*names.TEXTS, "content")) or max(bodies, key=lambda k: sum(map(len, bodies[k])))
    return speaker, text_key


def roles_of(speakers: Iterable[str]) -> dict[str, str]:
    """Return the role of each speaker by name. If only users have known names, all others are assistants; if no name is known,
    only the second speaker is."""
    roles: dict[str, str] = {}
    for speaker in dict.fromkeys(speakers):
        sides = [role for role, side_names in _SIDES.items() if names.rank(speaker, side_names) is not None]
        roles[speaker] = speaker.casefold() if speaker.casefold() in ROLES else sides[0] if sides else ""
    known_roles = {"user", "assistant"} & {*roles.values()}
    for number, speaker in enumerate([speaker for speaker, role in roles.items() if not role]):
        is_assistant = known_roles == {"user"} or (not known_roles and number == 1)
        roles[speaker] = "assistant" if is_assistant else "user"
    if "user" in roles.values() and "assistant" not in roles.values():  # dialogue corpora call the machine "system"
        return {speaker: "assistant" if role == "system" else role for speaker, role in roles.items()}
    return roles


def _names_both_sides(column: Column) -> bool:
    """Whether most rows of a column name a user or an assistant, and both occur. Two of 150 intents, `user_name` and
    `are_you_a_bot`, do not make a column of speakers."""
    sides = [[v for v in column.values if names.rank(v, side_names) is not None] for side_names in _SIDES.values()]
    return all(sides) and 2 * sum(column.values[v] for v in {*chain(*sides)}) > column.values.total()


def single_messages(columns: Mapping[str, Column], answer: Column | None) -> Refusal | None:
    """Return why no column can be the answer if each row is one message of a conversation; else None."""
    replies = [p for p in columns if any(part in names.plain_name(p) for part in _REPLIES)]
    why = f"{replies[0]} says what it answers" if replies else ""
    if answer:
        name = names.plain_name(answer.name)
        is_answer = name in {*names.LABELS, *names.WRITTEN} - {"type"}  # the exact name: `author_type` is no label
        # `Author` beside `AuthorID`
        ids = {f"{name}_id"}.intersection(names.SPEAKER_IDS, map(names.plain_name, columns))
        is_writer = ids or name in _WRITERS or re.search(r"\b(from|author|user|sender)\.", answer.path)
        if is_writer or (not is_answer and _names_both_sides(answer)):
            why = f"{answer.path} says who wrote it"
        elif is_answer:
            return None
    return Refusal(f"each row is one message of a conversation: {why}", _ONE_ROW + _joining(columns)) if why else None


def _joining(columns: Mapping[str, Column]) -> str:
    """Return how pandas joins the turns of a table; empty where its columns are not known by their names."""
    group, speaker, text = (
        names.by_name(list(columns), known) for known in (names.GROUPS, names.SPEAKERS, names.TEXTS)
    )
    if not (group and speaker and text) or len({group, speaker, text}) < 3:
        return ""
    turns = f"[{{'role': r, 'content': c}} for r, c in zip(turns[{speaker!r}], turns[{text!r}])]"
    return (
        f"; with pandas, where d is the table: d.groupby({group!r}).apply(lambda turns: {turns}).rename('messages').reset_index()"
        ".to_json('conversations.jsonl', orient='records', lines=True)"
    )


def turns_in_elements(column: Column, element_keys: Sequence[str]) -> Refusal | None:
    """Return why the elements of a list are no rows of their own if they are turns of a conversation."""
    if ids := [key for key in element_keys if names.plain_name(key) in names.SPEAKER_IDS]:
        return Refusal(f"{column.path} holds turns whose speakers are ids: {ids[0]}", _ONE_ROW)
    sides = [names.by_name(element_keys, side_names) for side_names in (names.USERS, names.ASSISTANTS)]
    if names.rank(column.name, _DIALOGUES) is None and not all(sides):
        return None
    user, assistant = (names.key_path(side or default) for side, default in zip(sides, ("USER", "ANSWER"), strict=True))
    pair = f"[{{role: 'user', content: {user}}}, {{role: 'assistant', content: {assistant}}}]"
    line = names.declare({"messages": f"{column.path}[].{pair}[]"}, expressions=("messages",))
    return Refusal(
        f"{column.path} holds the turns of a conversation in an unknown form", f"write task.yaml with {line}"
    )


def numbered_turns(columns: Mapping[str, Column], text: str) -> Refusal | None:
    """Return why a column is only part of the text if keys number the turns: `prompt.0.content`, `prompt.1.content`; else None."""
    before, number, after = [*re.split(r"\.(\d+)\.", text, maxsplit=1), "", ""][:3]
    siblings = [p for p in columns if re.fullmatch(re.escape(before) + r"\.\d+\." + re.escape(after), p) and p != text]
    if not number or not siblings:
        return None
    return Refusal(f"the turns of a conversation are in numbered keys: {text}, {', '.join(siblings[:2])}", _ONE_ROW)
