"""Rows that are no examples of their own: single messages of a conversation, and whole conversations in one text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.columns import SAMPLE, Column
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.draft.speakers import are_both_sides

_REPLIES = ("reply_to", "in_response_to", "reference_message", "thread_ts", "parent_id", "parent_message")
"""Parts of the names of columns that say which message a row answers."""
_WRITERS = (
    *("user", "username", "user_name", "sender", "speaker", "participant", "from", "inbound"),
    *names.SPEAKER_IDS,
)
_SPEAKS = "|".join(
    sorted({*names.USERS, *names.ASSISTANTS, *names.HEADINGS, "prompter", "inst", "/inst"}, key=len, reverse=True)
)
_MARK = re.compile(  # bounded, so that a text of blank lines or of # costs no more than another
    r"(?:^|\n|(?=##|<\||\[/?INST\]))[ \t]{0,40}+[#*<|\[]{0,9}+(?:im_start\|>|start_header_id\|>|start_of_turn>)?"
    rf"[ \t]{{0,9}}+({_SPEAKS})\s*"
    r"(?:[*|>\]]*:|\|>|<\|end_header_id\|>|\](?!\s*<<SYS>>)|\n)",
    re.IGNORECASE,
)
"""Who speaks, in front of what they say: `Human:`, `### Assistant:`, `<|user|>`, `<|im_start|>user` and `[INST]`."""
_CALLS = re.compile(r"(?:^|\n)[^\w\n]*(function|tool|observation)[ _]?(response|result|call)?\W*:", re.IGNORECASE)
_OFTEN = 0.1
"""Least share of the conversations in which a speaker takes part."""
_ENDS = re.compile(r"<\|(im_end|end|endoftext|eot_id|begin_of_text)\|>|<end_of_turn>|<bos>|</?s>")


def single_messages(columns: Mapping[str, Column], answer: Column | None) -> str | None:
    """Why no column is the answer, if each row is one message of a conversation."""
    replies = [p for p in columns if any(part in names.plain_name(p) for part in _REPLIES)]
    said = answer and names.plain_name(answer.name)
    known = said in {*names.LABELS, *names.WRITTEN} - {"type"}  # as a whole: `author_type` is no label
    ids = {f"{said}_id"}.intersection(names.SPEAKER_IDS, map(names.plain_name, columns))  # `Author` beside `AuthorID`
    writer = answer and (ids or said in _WRITERS or re.search(r"\b(from|author|user|sender)\.", answer.path))
    both = answer and are_both_sides(answer)
    if not (writer or (both and not known) or (replies and not known)):
        return None
    why = f"{answer.path} says who wrote it" if answer and (writer or both) else f"{replies[0]} says what it answers"
    fix = "put the conversation's id into `conversation_id`, and who speaks, customer or agent, into `role`"
    return f"each row is one message of a conversation: {why}; {fix}"


def speaking_ids(rows: Sequence[RawRow], path: str) -> str | None:
    """The key of the speaker's id, if the elements of a list are what several speakers said."""
    lists = [row.value.get(path) for row in rows[:SAMPLE] if isinstance(row.value, dict)]
    turns = [
        turn for some in lists if isinstance(some, list) and len(some) > 1 for turn in some if isinstance(turn, dict)
    ]
    keys = set(turns[0]).intersection(*turns) if turns else set[str]()
    said = any(isinstance(turns[0][key], str) for key in keys if names.plain_name(key) in names.TEXTS)
    return next((key for key in sorted(keys) if said and names.plain_name(key) in names.SPEAKER_IDS), None)


def numbered_turns(columns: Mapping[str, Column], text: str) -> str | None:
    """Why a column is not all of the text, if keys count the turns of a conversation: `prompt.0.content`, `prompt.1.content`."""
    before, number, behind = [*re.split(r"\.(\d+)\.", text, maxsplit=1), "", ""][:3]
    others = [p for p in columns if re.fullmatch(re.escape(before) + r"\.\d+\." + re.escape(behind), p) and p != text]
    if not number or not others:
        return None
    fix = 'write them as a list: {"messages": [{"role": "user", "content": "…"}, …]}'
    return f"the turns of a conversation stand in numbered keys: {text}, {', '.join(others[:2])}; {fix}"


def transcript_of(columns: Mapping[str, Column]) -> tuple[Column, list[str]] | None:
    """(the column whose every text is a whole conversation, with who speaks in front of each turn; the speakers)."""
    for column in (c for c in columns.values() if c.kind == "text" and not c.is_rejected):
        texts = list(column.values)[:SAMPLE]
        speaking = [dict.fromkeys(turn["role"] for turn in turns_in(text) if turn["role"]) for text in texts]
        people = [dict.fromkeys(who for who in some if who not in names.HEADINGS) for some in speaking]
        if all(len(some) > 1 for some in people):  # `Answer:` within what somebody says is no turn
            speaking = people
        if texts and all(len(some) > 1 for some in speaking) and not any(map(_CALLS.search, texts)):
            counts = Counter(who for some in speaking for who in some)
            return column, [who for who, n in counts.items() if n >= _OFTEN * len(texts)]
    return None


def turns_in(text: str, speakers: Container[str] | None = None) -> list[dict[str, str]]:
    """The turns of a whole conversation in one text, of these speakers; what stands before the first has no role."""
    marks = [mark for mark in _MARK.finditer(text) if speakers is None or mark[1].casefold() in speakers]
    ends = [*(mark.start() for mark in marks), len(text)]
    before = [("", start)] if (start := _ENDS.sub("", text[: ends[0]])).strip() else []
    said = [(mark[1].casefold(), text[mark.end() : end]) for mark, end in zip(marks, ends[1:], strict=True)]
    return [{"role": who, "content": _ENDS.sub("", content).strip()} for who, content in [*before, *said]]
