"""Finds conversations in raw rows: lists of turns under any keys, and tables with one turn a row."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.columns import Column, as_text, leaves
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.draft.turns import are_speakers, pair_expression, roles_of, turn_keys, turn_text, turns_in
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
"""Smallest share of conversations that end with the user's turn for the answer to be read from another column."""
_BESIDES = {"system": ("system", "instructions", "systemInstruction", "system_instruction"), "tools": ("tools",)}
"""Fields whose value may be beside a list of turns, and its possible keys."""


@dataclass(frozen=True)
class Chat:
    """How to read conversations.

    Attributes:
        fields, roles: For task.yaml.
        columns: The columns they read.
        speaker, text_key: Keys of a turn, or columns of a table with one turn per row.
        thread: Column with the conversation id, in a table of turns; otherwise the first of `columns` is the list of turns.
        answer: Column of the answer, where the turns end with the user's.
        transcript: Whether the first of `columns` holds each conversation as one text.
        internal: Whether some turns are notes among colleagues, which are left out.
        whole: The fields that leave out system turns, if a format reads the rows as they are and no column holds the turns.
    """

    fields: dict[str, str]
    roles: dict[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    speaker: str = "role"
    text_key: str = "content"
    thread: str = ""
    answer: str = ""
    transcript: bool = False
    internal: bool = False
    whole: Mapping[str, str] | None = None


def _objects(rows: Sequence[RawRow]) -> tuple[list[dict[str, Any]], str | None]:
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


def chat_of(rows: Sequence[RawRow], columns: Mapping[str, Column]) -> Chat | None:
    """Detect how these rows store conversations; None if they do not."""
    objects, format_name = _objects(rows)
    lists = [c for c in columns.values() if c.kind == "list" and not c.is_rejected]
    for column in sorted(lists, key=lambda c: not c.is_top):
        turns = [turn for turns in _turns(objects[:500], column.path) for turn in turns]
        if not turns or not all(isinstance(turn, dict) for turn in turns):
            continue
        if pairs := pair_expression(turns, column.name):
            return Chat({"messages": f"{column.path}{pairs}"}, columns=(f"{column.path}{pairs}",))
        by_key, flat = [_by_expression(turn) for turn in turns], [_flattened(turn) for turn in turns]
        keys, turns = (own_keys, by_key) if (own_keys := turn_keys(by_key)) else (turn_keys(flat), flat)
        if keys is None:
            continue
        speaker, text_key = keys
        speakers = dict.fromkeys(str(turn.get(speaker)) for turn in turns)
        if len({(str(turn.get(speaker)), str(turn.get(text_key))) for turn in turns}) == len(speakers) < len(turns):
            continue  # each name always has the same text: these are labels with their meanings
        if (len(speakers) == 1 or not column.is_top or turns is flat) and not names.by_name(speakers, names.USERS):
            continue
        roles = roles_of(speakers)
        if format_name in _CHATS and column.is_top and (speaker, text_key) in (("role", "content"), ("from", "value")):
            are_known = set(roles) <= {*ROLES, "human", "gpt", "function", "function_call", "observation", "developer"}
            return Chat({}, {} if are_known else roles, (column.path,), speaker, text_key)
        path, to_messages = column.path, _messages_expression(speaker, text_key)
        objects_beside = [p for p, c in columns.items() if c.kind == "object" and c.is_top and "." in speaker]
        openings = [p for p in objects_beside if {f"{p}.{speaker}", f"{p}.{text_key}"} <= columns.keys()]
        if opening := next(iter(openings), ""):  # it holds the first turn, as Intercom's `source` does
            path = f"[[{opening}], {path}[]]"
        fields = {"messages": path + (to_messages or ("[]" if opening else ""))}
        if group := next((c for c in columns.values() if names.rank(c.name, names.GROUPS) is not None), None):
            fields["group"] = group.path
        parent_path = column.path.rpartition(".")[0]
        for name, keys_beside in _BESIDES.items():
            paths = [f"{parent_path}.{key}" if parent_path else key for key in keys_beside]
            value_paths = [f"{path}.parts" if f"{path}.parts" in columns else path for path in paths]
            if existing_paths := [path for path in value_paths if {path, f"join('', {path}[].text)"} & columns.keys()]:
                fields[name] = " || ".join(existing_paths)
        columns_read = (f"{path}[]", column.path, opening) if opening else (path,)
        return Chat(fields, {k: v for k, v in roles.items() if k != v}, columns_read, speaker, text_key)
    return _table_of_turns(columns)


def _turns(objects: Iterable[Any], path: str) -> list[list[Any]]:
    """Return the lists that an expression finds in these rows."""
    find = compile_expression(path)[0]
    return [turns for row in objects if isinstance(turns := find(row, "", None), list)]


def with_answer(chat: Chat, rows: Sequence[RawRow], columns: Mapping[str, Column]) -> Chat | None:
    """Add the answer from another column to a chat whose turns end with the user's, as in logs of requests. Other chats are
    returned as they are. Returns None if there is no answer and only the user speaks."""
    lists = _turns((row.value for row in rows), chat.columns[0]) if not chat.thread else []
    turns = [[_flattened(turn) for turn in conversation if isinstance(turn, dict)] for conversation in lists]
    speaker_lists = [[str(turn.get(chat.speaker)) for turn in conversation] for conversation in turns]
    roles = roles_of(name for speakers in speaker_lists for name in speakers)
    ending_with_user = [speakers for speakers in speaker_lists if speakers and roles[speakers[-1]] == "user"]
    texts = [c for c in columns.values() if c.kind == "text" and not any(path in c.path for path in chat.columns)]
    texts = [c for c in texts if not (c.is_rejected or c.is_guess or c.is_id)]
    is_history = names.rank(chat.columns[0], ("history",)) is not None and len(ending_with_user) < len(lists) / 2
    if is_history and (with_history := _chat_after_history(chat, texts)):
        return with_history
    answers = _answers_of(texts, columns)
    if len(ending_with_user) < _ASKING * len(lists) or not answers:
        return None if len(roles) == 1 else chat
    answer = min(answers, key=lambda c: (names.rank(c.name, (*_ANSWERS, *names.TEXTS)) is None, -c.longest))
    turn_list = chat.fields.get("messages", chat.columns[0] + _messages_expression(chat.speaker, chat.text_key))
    turn_list = turn_list if turn_list.endswith("}") else f"{turn_list}[]"  # `[]` decodes JSON text
    turn = answer.path.removesuffix(".content")  # whole turns are read as they are: they may hold calls
    turn_roles = columns[f"{turn}.role"].values.keys() if f"{turn}.role" in columns else set()
    if not turn.endswith(".message") and turn_roles != {"assistant"}:
        answer_expression = re.sub(r"join\('', ([^(]+)\.text\)", r"\1", answer.expression)
        turn = f"{{role: 'assistant', content: {answer_expression}}}"
    messages = f"[{turn_list}, [{turn}]][]"
    roles = {name: role for name, role in roles.items() if name not in ROLES}
    return replace(chat, fields={**chat.fields, "messages": messages}, roles=roles, answer=answer.path)


def _answers_of(texts: Sequence[Column], columns: Mapping[str, Column]) -> list[Column]:
    """Return the columns outside the turns that may hold the answer: those below an assistant's turn or an answer's key."""
    roles = {path: column.values.keys() for path, column in columns.items() if path.endswith(".role")}
    by_assistant = tuple(path.removesuffix("role") for path, values in roles.items() if values == {"assistant"})

    def may_answer(c: Column) -> bool:
        matches = (names.rank(key, _ANSWERS) is not None for key in re.split(r"[.\[]", c.path))
        return c.path.startswith(by_assistant) or any(matches)

    return [c for c in texts if len(c.values) > 1 and c.filled >= 0.5 * c.rows and may_answer(c)]


def _chat_after_history(chat: Chat, texts: Sequence[Column]) -> Chat | None:
    """Return the chat of rows whose list holds only the earlier turns, and whose request and answer have columns."""
    columns_by_name = {names.plain_name(c.name): c for c in texts if c.is_top}
    request = next((columns_by_name.pop(name) for name in _REQUESTS if name in columns_by_name), None)
    reply = next((columns_by_name[name] for name in (*names.WRITTEN, "text") if name in columns_by_name), None)
    if not request or not reply:
        return None
    last = f"{{role: 'user', content: {request.path}}}, {{role: 'assistant', content: {reply.path}}}"
    history = chat.fields.get("messages", chat.columns[0] + _messages_expression(chat.speaker, chat.text_key))
    fields = {**chat.fields, "messages": f"[{history} || `[]`, [{last}]][]"}
    return replace(chat, fields=fields, columns=(*chat.columns, request.path, reply.path))


def _messages_expression(speaker: str, text_key: str) -> str:
    """Return the expression suffix that turns these keys into `role` and `content`."""
    if (speaker, text_key) == ("role", "content"):
        return ""
    content = "parts[].{type: 'text', text: text || content}" if text_key == "parts" else text_key
    return f"[].{{role: {speaker}, content: {content}}}"


def _by_expression(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return a turn by the expressions of its keys."""
    return {names.key_path(key): value for key, value in turn.items()}


def _flattened(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return a turn by the expressions of its keys, and of those one level below: `author.role`."""
    inner = [(key, _by_expression(value)) for key, value in turn.items() if isinstance(value, dict)]
    return _by_expression(turn) | {f"{names.key_path(key)}.{k}": v for key, values in inner for k, v in values.items()}


def _table_of_turns(columns: Mapping[str, Column]) -> Chat | None:
    """Detect a table with one turn per row: speaker, text and conversation."""
    top_columns = {c.path: c for c in columns.values() if c.is_top}
    label_paths = [p for p, c in top_columns.items() if c.is_label and len(c.values) <= 20 and c.kind == "text"]
    speaker_paths = [p for p in label_paths if are_speakers(top_columns[p])]
    id_paths = [p for p, c in top_columns.items() if names.rank(c.name, names.TURNS) is not None]
    threads = [p for p in id_paths if 1.5 * len(top_columns[p].values) <= top_columns[p].filled]
    texts = [p for p, c in top_columns.items() if c.is_text]
    if not speaker_paths or not threads or not texts:
        return None
    text_column = names.by_name(texts, names.TEXTS) or max(texts, key=lambda p: top_columns[p].mean_words)
    columns_read = (speaker_paths[0], text_column, threads[0])
    speaker, text, thread = (top_columns[path].name for path in columns_read)
    return Chat({}, roles_of(iter(top_columns[speaker_paths[0]].values)), columns_read, speaker, text, thread=thread)


def joined_turns(rows: Iterable[RawRow], chat: Chat, left_out: Counter[str]) -> Iterator[bytes]:
    """Yield conversations in OpenAI's format, one per line. Consecutive turns of one role are joined; each conversation starts
    with the user and ends with an answer. Other turns are dropped and counted in `left_out` by reason."""
    if not chat.thread:
        for row in rows:
            chats = _turns([row.value], chat.columns[0])
            if chat.transcript:
                find = compile_expression(chat.columns[0])[0]
                chats = [turns_in(text, chat.roles)] if isinstance(text := find(row.value, "", None), str) else []
            left_out["rows without turns"] += not chats
            for conversation in chats:
                flat = [_flattened(turn) if isinstance(turn, dict) else turn for turn in conversation]
                yield from _conversation(flat, chat, None, left_out)
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
        if isinstance(turn, dict) and names.is_internal(turn):
            left_out["internal notes"] += 1
            continue
        text = turn_text(turn.get(chat.text_key)) if isinstance(turn, dict) else ""
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
    if unanswered:
        joined.pop()
        left_out["turns after the last answer"] += unanswered if joined else 0
        left_out["conversations without an answer"] += not joined
    if joined:
        yield msgspec.json.encode({"messages": joined, **({"group": thread} if thread else {})}) + b"\n"
