"""Finds who speaks in conversations of unknown format: which keys of a turn hold the speaker and the text, and the role of each
speaker. Also recognises rows that are single messages of a conversation, and conversations written as one text."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.columns import SAMPLE, Column
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.examples import ROLES

_DIALOGUES = ("conversation", "dialogue", "dialog", "history", "turns", "rounds", "chat")
_MOST_SPEAKERS = 200
_SPEAKER_COLUMNS = ("role", "speaker", "sender", "from", "author")
_LISTED = ("content", "parts")
"""Keys of a turn whose value may be a list of content parts."""
_SIDES = {"user": names.USERS, "assistant": names.ASSISTANTS}
"""Common speaker names by role."""
_REPLIES = ("reply_to", "in_response_to", "reference_message", "thread_ts", "parent_id", "parent_message")
"""Parts of names of columns with the id of the message that a row replies to."""
_WRITERS = ("user", "username", "user_name", "sender", "speaker", "participant", "from", "inbound", *names.SPEAKER_IDS)
_SPEAKS = "|".join(
    sorted({*names.USERS, *names.ASSISTANTS, *names.HEADINGS, "prompter", "inst", "/inst"}, key=len, reverse=True)
)
_MARK = re.compile(  # bounded: a text of blank lines or of # would otherwise take quadratic time
    r"(?:^|\n|(?=##|<\||\[/?INST\]))[ \t]{0,40}+[#*<|\[]{0,9}+(?:im_start\|>|start_header_id\|>|start_of_turn>)?"
    rf"[ \t]{{0,9}}+({_SPEAKS})\s*"
    r"(?:[*|>\]]*:|\|>|<\|end_header_id\|>|\](?!\s*<<SYS>>)|\n)",
    re.IGNORECASE,
)
"""The speaker's mark in front of a turn: `Human:`, `### Assistant:`, `<|user|>`, `<|im_start|>user` and `[INST]`."""
_CALLS = re.compile(r"(?:^|\n)[^\w\n]*(function|tool|observation)[ _]?(response|result|call)?\W*:", re.IGNORECASE)
_OFTEN = 0.1
"""Smallest share of the conversations in which a speaker takes part."""
_ENDS = re.compile(r"<\|(im_end|end|endoftext|eot_id|begin_of_text)\|>|<end_of_turn>|<bos>|</?s>")


def turn_text(value: Any) -> str:
    """Return the text of a turn, or of its content parts."""
    parts = value if isinstance(value, list) else [value]
    texts = [part.get("text", part.get("content")) if isinstance(part, dict) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str)).strip()


def turn_keys(turns: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Return the keys of the speaker and of the text; None if these are not turns."""
    if all(turn.get("role") in ROLES and not turn.keys().isdisjoint(("content", "tool_calls")) for turn in turns):
        return "role", "content"  # an assistant may call tools without any text
    texts: dict[str, list[str]] = {}
    for turn in turns:
        for key, value in turn.items():
            if isinstance(value, str) or (key in _LISTED and isinstance(value, list | type(None))):
                texts.setdefault(key, []).append(turn_text(value))
    texts = {key: values for key, values in texts.items() if len(values) >= 0.8 * len(turns)}
    counts = {key: len(set(values)) for key, values in texts.items()}
    keys = [k for k, n in counts.items() if 1 < n <= _MOST_SPEAKERS and (len(texts[k]) < 8 or n <= len(texts[k]) / 2)]
    keys += [k for k in counts if k not in keys and set(texts[k]) <= {*ROLES}]
    speaker = names.by_name(keys, names.SPEAKERS)
    bodies = {k: v for k, v in texts.items() if k != speaker and names.plain_name(k) not in names.IDS}
    if speaker is None or not bodies:
        return None
    text_key = names.by_name(bodies, (*names.TEXTS, *_LISTED)) or max(bodies, key=lambda k: sum(map(len, bodies[k])))
    return speaker, text_key


def roles_of(speakers: Iterable[str]) -> dict[str, str]:
    """Return the role of each speaker by name. If only users have known names, all others are assistants; if no name is known,
    only the second speaker is."""
    roles: dict[str, str] = {}
    for speaker in dict.fromkeys(speakers):
        sides = [role for role, side_names in _SIDES.items() if names.rank(speaker, side_names) is not None]
        role_by_name = names.HEADINGS.get(speaker, sides[0] if sides else "")
        roles[speaker] = speaker.casefold() if speaker.casefold() in ROLES else role_by_name
    known_roles = {"user", "assistant"} & {*roles.values()}
    for number, speaker in enumerate([speaker for speaker, role in roles.items() if not role]):
        is_assistant = known_roles == {"user"} or (not known_roles and number == 1)
        roles[speaker] = "assistant" if is_assistant else "user"
    if "user" in roles.values() and "assistant" not in roles.values():  # dialogue corpora call the machine "system"
        return {speaker: "assistant" if role == "system" else role for speaker, role in roles.items()}
    return roles


def names_both_sides(column: Column) -> bool:
    """Whether most rows of a column name a user or an assistant, and both occur. Two of 150 intents, `user_name` and
    `are_you_a_bot`, do not make a column of speakers."""
    sides = [[v for v in column.values if names.rank(v, side_names) is not None] for side_names in _SIDES.values()]
    return all(sides) and 2 * sum(column.values[v] for v in {*chain(*sides)}) > column.values.total()


def are_speakers(column: Column) -> bool:
    """Whether a column names the speaker: by its own name, or because its values name users and assistants."""
    named = len(column.values) > 1 and names.rank(column.name, _SPEAKER_COLUMNS) is not None
    return named or names_both_sides(column)


def pair_expression(turns: Sequence[Mapping[str, Any]], name: str) -> str | None:
    """Return the expression that makes turns of elements with a request and its answer each, as in `[{human, assistant}]`."""
    keys = [key for key in turns[0] if all(isinstance(turn.get(key), str) for turn in turns)]
    known_pairs: list[tuple[tuple[str, ...], tuple[str, ...]]] = [(names.USERS, names.ASSISTANTS)]
    known_pairs += [(("input", "question", "query"), names.WRITTEN)] if names.rank(name, _DIALOGUES) is not None else []
    by_name = {names.plain_name(key): key for key in reversed(keys)}
    for known_pair in known_pairs:
        user_key, reply_key = (next((by_name[n] for n in side if n in by_name), None) for side in known_pair)
        if user_key is None or reply_key is None or reply_key == "system":
            continue
        system = "{role: 'system', content: system}, " * any("system" in turn for turn in turns)
        pair = f"{{role: 'user', content: {names.key_path(user_key)}}}, {{role: 'assistant', content: {names.key_path(reply_key)}}}"
        return f"[].[{system}{pair}][] | [?content]"
    return None


def single_messages(columns: Mapping[str, Column], answer: Column | None) -> str | None:
    """Return why no column can be the answer if each row is one message of a conversation; else None."""
    replies = [p for p in columns if any(part in names.plain_name(p) for part in _REPLIES)]
    why = f"{replies[0]} says what it answers" if replies else ""
    if answer:
        name = names.plain_name(answer.name)
        is_answer = name in {*names.LABELS, *names.WRITTEN} - {"type"}  # the exact name: `author_type` is no label
        # `Author` beside `AuthorID`
        ids = {f"{name}_id"}.intersection(names.SPEAKER_IDS, map(names.plain_name, columns))
        is_writer = ids or name in _WRITERS or re.search(r"\b(from|author|user|sender)\.", answer.path)
        if is_writer or (not is_answer and names_both_sides(answer)):
            why = f"{answer.path} says who wrote it"
        elif is_answer:
            return None
    if not why:
        return None
    fix = "put the conversation's id into `conversation_id`, and the speaker, customer or agent, into `role`"
    return f"each row is one message of a conversation: {why}; {fix}"


def speaker_id_key(rows: Sequence[RawRow], path: str) -> str | None:
    """Return the key of the speaker's id if the elements of a list are turns of several speakers; else None."""
    lists = [row.value.get(path) for row in rows[:SAMPLE] if isinstance(row.value, dict)]
    long_lists = [elements for elements in lists if isinstance(elements, list) and len(elements) > 1]
    turns = [turn for elements in long_lists for turn in elements if isinstance(turn, dict)]
    keys = set(turns[0]).intersection(*turns) if turns else set[str]()
    has_text = any(isinstance(turns[0][key], str) for key in keys if names.plain_name(key) in names.TEXTS)
    return next((key for key in sorted(keys) if has_text and names.plain_name(key) in names.SPEAKER_IDS), None)


def numbered_turns(columns: Mapping[str, Column], text: str) -> str | None:
    """Return why a column is only part of the text if keys number the turns: `prompt.0.content`, `prompt.1.content`; else None."""
    before, number, after = [*re.split(r"\.(\d+)\.", text, maxsplit=1), "", ""][:3]
    siblings = [p for p in columns if re.fullmatch(re.escape(before) + r"\.\d+\." + re.escape(after), p) and p != text]
    if not number or not siblings:
        return None
    fix = 'write them as a list: {"messages": [{"role": "user", "content": "…"}, …]}'
    return f"the turns of a conversation are in numbered keys: {text}, {', '.join(siblings[:2])}; {fix}"


def transcript_of(columns: Mapping[str, Column]) -> tuple[Column, list[str]] | None:
    """Find the column whose texts are whole conversations, each turn marked with its speaker. Returns (column, speakers)."""
    for column in (c for c in columns.values() if c.kind == "text" and not c.is_rejected):
        texts = list(column.values)[:SAMPLE]
        by_text = [dict.fromkeys(turn["role"] for turn in turns_in(text) if turn["role"]) for text in texts]
        named = [dict.fromkeys(name for name in speakers if name not in names.HEADINGS) for speakers in by_text]
        if all(len(speakers) > 1 for speakers in named):  # `Answer:` inside a turn starts no new turn
            by_text = named
        if texts and all(len(speakers) > 1 for speakers in by_text) and not any(map(_CALLS.search, texts)):
            counts = Counter(name for speakers in by_text for name in speakers)
            return column, [name for name, n in counts.items() if n >= _OFTEN * len(texts)]
    return None


def turns_in(text: str, speakers: Container[str] | None = None) -> list[dict[str, str]]:
    """Split a text into the turns of these speakers (None: of all). Text before the first turn gets an empty role."""
    marks = [mark for mark in _MARK.finditer(text) if speakers is None or mark[1].casefold() in speakers]
    ends = [*(mark.start() for mark in marks), len(text)]
    preamble = [("", start)] if (start := _ENDS.sub("", text[: ends[0]])).strip() else []
    spoken = [(mark[1].casefold(), text[mark.end() : end]) for mark, end in zip(marks, ends[1:], strict=True)]
    return [{"role": speaker, "content": _ENDS.sub("", content).strip()} for speaker, content in [*preamble, *spoken]]
