"""Conversations in raw rows: lists of turns under any keys, and tables with one turn a row."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.columns import Column, as_text, leaves
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.draft.turns import are_speakers, both_sides, roles_of, said_in, turn_keys, turns_in
from finetune_pipeline.data.examples import ROLES
from finetune_pipeline.data.fields import compile_expression
from finetune_pipeline.data.formats import format_of
from finetune_pipeline.data.formats.messages import SHAREGPT_ROLES
from finetune_pipeline.data.formats.tool_calls import unpacked

_CHATS = ("messages", "sharegpt")
_SINGLE = ("instruction", "prompt_completion")
_COMPARED = {"messages": "[input.messages[?role != 'system'], preferred_output][]", "tools": "input.tools"}
_WHOLE: dict[str | None, tuple[tuple[str, str], dict[str, str]]] = {
    "openai_preference": (("input", "preferred_output"), _COMPARED),
    "chatgpt": (("mapping", "current_node"), {}),
}
"""Formats whose rows are conversations without a list of turns: the keys they read, and Chat.whole."""
_ANSWERS = (*names.WRITTEN, "choices", "chosen", "result", "outputs", "candidates")
_REQUESTS = ("input", "question", "query", "message", "prompt", "instruction", "request", "utterance")
_ASKING = 0.95
"""Least share of conversations that end with the user's turn, where the answer stands beside them."""
_BESIDES = {"system": ("system", "instructions", "systemInstruction", "system_instruction"), "tools": ("tools",)}
"""Fields whose value may stand beside a list of turns, and its keys there."""


@dataclass(frozen=True)
class Chat:
    """How to read conversations.

    Attributes:
        fields, roles: For task.yaml.
        columns: The columns they read.
        speaker, text_key: Keys of a turn, or columns of a table with one turn per row.
        thread: Column with the conversation id, in a table of turns; otherwise the first of `columns` is the list of turns.
        answer: Column of the answer, where the turns end with the user's.
        transcript: Whether the first of `columns` holds each conversation in one text.
        whole: Where a format reads the rows as they are, and no column holds the turns: the fields that leave out system turns.
    """

    fields: dict[str, str]
    roles: dict[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    speaker: str = "role"
    text_key: str = "content"
    thread: str = ""
    answer: str = ""
    transcript: bool = False
    whole: Mapping[str, str] | None = None


def _objects(rows: Sequence[RawRow]) -> tuple[list[dict[str, Any]], str | None]:
    """(the rows that are objects, the format that most of them are in)."""
    objects = [row.value for row in rows if isinstance(row.value, dict)]
    return objects, Counter(map(format_of, objects)).most_common(1)[0][0] if objects else None


def whole_chat(rows: Sequence[RawRow]) -> Chat | None:
    """The chat of rows that a registered format reads as conversations, though they hold no list of turns."""
    objects, native = _objects(rows)
    values = [(key, unpacked(value)) for row in objects for key, value in row.items()]
    lists = [(key, some) for key, some in values if isinstance(some, list) and some]
    earlier = any(key == "history" for key, _ in lists) or any(row.get("system") for row in objects)
    if native in _SINGLE and earlier and not any(isinstance(some[0], dict) for _, some in lists):
        return Chat({}, columns=("history", "system"), whole={"system": "=''"})
    return Chat({}, columns=_WHOLE[native][0], whole=_WHOLE[native][1]) if native in _WHOLE else None


def chat_of(rows: Sequence[RawRow], columns: Mapping[str, Column]) -> Chat | None:
    """Detect how these rows hold conversations; None if they do not."""
    objects, native = _objects(rows)
    lists = [c for c in columns.values() if c.kind == "list" and not c.is_rejected]
    for column in sorted(lists, key=lambda c: not c.is_top):
        turns = [turn for turns in _turns(objects[:500], column.path) for turn in turns]
        if not turns or not all(isinstance(turn, dict) for turn in turns):
            continue
        if both := both_sides(turns, column.name):
            return Chat({"messages": f"{column.path}{both}"}, columns=(f"{column.path}{both}",))
        own, flat = [_own(turn) for turn in turns], [_flat(turn) for turn in turns]
        keys, turns = (found, own) if (found := turn_keys(own)) else (turn_keys(flat), flat)
        if keys is None:
            continue
        speaker, text_key = keys
        speakers = dict.fromkeys(str(turn.get(speaker)) for turn in turns)
        if len({(str(turn.get(speaker)), str(turn.get(text_key))) for turn in turns}) == len(speakers) < len(turns):
            continue  # the same name has always the same text: labels and what they mean
        if (len(speakers) == 1 or not column.is_top or turns is flat) and not names.by_name(speakers, names.USERS):
            continue
        roles = roles_of(speakers)
        if native in _CHATS and column.is_top and (speaker, text_key) in (("role", "content"), ("from", "value")):
            known = set(roles) <= {*ROLES, "human", "gpt", "function", "function_call", "observation", "developer"}
            return Chat({}, {} if known else roles, (column.path,), speaker, text_key)
        path, each = column.path, _each(speaker, text_key)
        if opening := _opening(columns, speaker, text_key):
            path = f"[[{opening}], {path}[]]"
        fields = {"messages": path + (each or ("[]" if opening else ""))}
        if group := next((c for c in columns.values() if names.rank(c.name, names.GROUPS) is not None), None):
            fields["group"] = group.path
        beside = column.path.rpartition(".")[0]
        for name, keys_beside in _BESIDES.items():
            paths = [f"{beside}.{key}" if beside else key for key in keys_beside]
            wholes = [f"{path}.parts" if f"{path}.parts" in columns else path for path in paths]
            if there := [path for path in wholes if {path, f"join('', {path}[].text)"} & columns.keys()]:
                fields[name] = " || ".join(there)
        read = (f"{path}[]", column.path, opening) if opening else (path,)
        return Chat(fields, {k: v for k, v in roles.items() if k != v}, read, speaker, text_key)
    return _table_of_turns(columns)


def _turns(objects: Iterable[Any], path: str) -> list[list[Any]]:
    """The lists that an expression finds in these rows."""
    find = compile_expression(path)[0]
    return [turns for row in objects if isinstance(turns := find(row, "", None), list)]


def with_answer(chat: Chat, rows: Sequence[RawRow], columns: Mapping[str, Column]) -> Chat | None:
    """The chat; where its turns end with the user's, as logs of requests do, with the answer that stands beside them. None
    where there is none, and only the user speaks."""
    lists = _turns((row.value for row in rows), chat.columns[0]) if not chat.thread else []
    turns = [[_flat(turn) for turn in some if isinstance(turn, dict)] for some in lists]
    spoken = [[str(turn.get(chat.speaker)) for turn in some] for some in turns]
    roles = roles_of(name for speakers in spoken for name in speakers)
    asking = [speakers for speakers in spoken if speakers and roles[speakers[-1]] == "user"]
    beside = [c for c in columns.values() if c.kind == "text" and not any(of in c.path for of in chat.columns)]
    beside = [c for c in beside if not (c.is_rejected or c.is_guess or c.is_id)]
    is_history = names.rank(chat.columns[0], ("history",)) is not None and len(asking) < len(lists) / 2
    if is_history and (behind := _behind_history(chat, beside)):
        return behind
    answers = _answers_of(beside, columns)
    if len(asking) < _ASKING * len(lists) or not answers:
        return None if len(roles) == 1 else chat
    answer = min(answers, key=lambda c: (names.rank(c.name, (*_ANSWERS, *names.TEXTS)) is None, -c.longest))
    asked = chat.fields.get("messages", chat.columns[0] + _each(chat.speaker, chat.text_key))
    asked = asked if asked.endswith("}") else f"{asked}[]"  # decodes a text in JSON
    turn = answer.path.removesuffix(".content")  # a turn, or its parts, are taken as they are: they may hold calls
    roles_there = columns[f"{turn}.role"].values.keys() if f"{turn}.role" in columns else set()
    if not turn.endswith(".message") and roles_there != {"assistant"}:
        said = re.sub(r"join\('', (.+)\.text\)", r"\1", answer.expression)
        turn = f"{{role: 'assistant', content: {said}}}"
    messages = f"[{asked}, [{turn}]][]"
    roles = {name: role for name, role in roles.items() if name not in ROLES}
    return replace(chat, fields={**chat.fields, "messages": messages}, roles=roles, answer=answer.path)


def _answers_of(beside: Sequence[Column], columns: Mapping[str, Column]) -> list[Column]:
    """The columns beside the turns that may hold the answer: those below an assistant's turn, or a key of an answer."""
    roles = {path: column.values.keys() for path, column in columns.items() if path.endswith(".role")}
    by_assistant = tuple(path.removesuffix("role") for path, values in roles.items() if values == {"assistant"})

    def may_answer(c: Column) -> bool:
        named = (names.rank(key, _ANSWERS) is not None for key in re.split(r"[.\[]", c.path))
        return c.path.startswith(by_assistant) or any(named)

    return [c for c in beside if len(c.values) > 1 and c.filled >= 0.5 * c.rows and may_answer(c)]


def _behind_history(chat: Chat, beside: Sequence[Column]) -> Chat | None:
    """The chat, where the list of turns holds what was said before a request and its answer, which stand beside it."""
    own = {names.plain_name(c.name): c for c in beside if c.is_top}
    request = next((own.pop(name) for name in _REQUESTS if name in own), None)
    reply = next((own[name] for name in (*names.WRITTEN, "text") if name in own), None)
    if not request or not reply:
        return None
    last = f"{{role: 'user', content: {request.path}}}, {{role: 'assistant', content: {reply.path}}}"
    asked = chat.fields.get("messages", chat.columns[0] + _each(chat.speaker, chat.text_key))
    fields = {**chat.fields, "messages": f"[{asked} || `[]`, [{last}]][]"}
    return replace(chat, fields=fields, columns=(*chat.columns, request.path, reply.path))


def _each(speaker: str, text_key: str) -> str:
    """What makes turns with these keys turns of `role` and `content`."""
    if (speaker, text_key) == ("role", "content"):
        return ""
    said = "parts[].{type: 'text', text: text || content}" if text_key == "parts" else text_key
    return f"[].{{role: {speaker}, content: {said}}}"


def _own(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn by the expressions of its keys."""
    return {names.key_path(key): value for key, value in turn.items()}


def _flat(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn by the expressions of its keys, and of those one level below: `author.role`."""
    inner = [(key, _own(value)) for key, value in turn.items() if isinstance(value, dict)]
    return _own(turn) | {f"{names.key_path(key)}.{k}": v for key, values in inner for k, v in values.items()}


def _opening(columns: Mapping[str, Column], speaker: str, text_key: str) -> str | None:
    """The object beside a list of turns that holds the first of them, as Intercom's `source` does."""
    objects = [p for p, c in columns.items() if c.kind == "object" and c.is_top and "." in speaker]
    return next((p for p in objects if {f"{p}.{speaker}", f"{p}.{text_key}"} <= columns.keys()), None)


def _table_of_turns(columns: Mapping[str, Column]) -> Chat | None:
    """Detect a table with one turn per row: speaker, text and conversation."""
    flat = {c.path: c for c in columns.values() if c.is_top}
    speakers = [p for p, c in flat.items() if c.is_label and len(c.values) <= 20 and c.kind == "text"]
    known = [p for p in speakers if are_speakers(flat[p])]
    named = [p for p, c in flat.items() if names.rank(c.name, names.TURNS) is not None]
    threads = [p for p in named if 1.5 * len(flat[p].values) <= flat[p].filled]
    texts = [p for p, c in flat.items() if c.is_text]
    if not known or not threads or not texts:
        return None
    text_column = names.by_name(texts, names.TEXTS) or max(texts, key=lambda p: flat[p].mean_words)
    columns_read = (known[0], text_column, threads[0])
    speaker, text, thread = (flat[path].name for path in columns_read)
    return Chat({}, roles_of(iter(flat[known[0]].values)), columns_read, speaker, text, thread=thread)


def joined_turns(rows: Iterable[RawRow], chat: Chat, left_out: Counter[str]) -> Iterator[bytes]:
    """Conversations in OpenAI's format, one per line: consecutive turns of one role are joined, and each starts with
    the user and ends with an answer. Other turns are dropped and counted in `left_out` by reason."""
    if not chat.thread:
        for row in rows:
            found = _turns([row.value], chat.columns[0])
            if chat.transcript:
                find = compile_expression(chat.columns[0])[0]
                found = [turns_in(text, chat.roles)] if isinstance(text := find(row.value, "", None), str) else []
            left_out["rows without turns"] += not found
            for some in found:
                some = [_flat(turn) if isinstance(turn, dict) else turn for turn in some]  # noqa: PLW2901
                yield from _conversation(some, chat, None, left_out)
        return
    threads: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        values = {name: value for _, name, value in leaves(row.value)}
        threads.setdefault(f"{as_text(values.get(chat.thread, ''))}", []).append(values)
    for thread, turns in threads.items():
        yield from _conversation(turns, chat, thread, left_out)


def _conversation(turns: Sequence[Any], chat: Chat, thread: str | None, left_out: Counter[str]) -> Iterator[bytes]:
    joined: list[dict[str, str]] = []
    unanswered = 0
    for turn in turns:
        text = said_in(turn.get(chat.text_key)) if isinstance(turn, dict) else ""
        role = {**SHAREGPT_ROLES, **chat.roles}.get(str(turn.get(chat.speaker))) if text else None
        if role not in ("user", "assistant"):
            left_out["turns of neither side, or without text"] += 1
            continue
        unanswered = unanswered + 1 if role == "user" else 0
        if joined and joined[-1]["role"] == role:
            joined[-1]["content"] += f"\n{text}"
        elif joined or role == "user":
            joined.append({"role": role, "content": text})
        else:
            left_out["turns before the user speaks"] += 1
    left_out["turns behind the last answer"] += unanswered
    if unanswered:
        joined.pop()
    if joined:
        yield msgspec.json.encode({"messages": joined, **({"group": thread} if thread else {})}) + b"\n"
