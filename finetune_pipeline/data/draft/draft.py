"""Drafts a task from raw files: how to read them, the kind of answers, and the resulting spec."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.answers import Answers, json_schema_of
from finetune_pipeline.data.draft.choice import Choice, choose, keys_read, word_tags
from finetune_pipeline.data.draft.columns import Refusal
from finetune_pipeline.data.draft.conversations import Chat
from finetune_pipeline.data.draft.reading import RawRow, Reading, are_few, one_spelling, read_raw, spec_of
from finetune_pipeline.data.examples import Message
from finetune_pipeline.data.fields import mapping_of
from finetune_pipeline.data.formats import read_turns
from finetune_pipeline.data.quoting import key_name, quoted
from finetune_pipeline.data.readers.any_file import read_records
from finetune_pipeline.data.readers.encoding import TAGGED_WORDS
from finetune_pipeline.data.validate.validation import ValidatedRow, validate_record
from finetune_pipeline.findings import Finding, errors, listed
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.rules import STUB

_ROWS_TRIED = 400
_CONSTANT_SHARE = 0.95
_DISLIKED = ("rejected", "non_preferred_output")
"""Keys of the rejected answer in rows that `preferences/` takes."""
Files = Sequence[tuple[str, Path]]


@dataclass
class Draft:
    """The drafted task.

    Attributes:
        data, output: These sections of task.yaml.
        system_prompt: Holds STUB wherever a person has to describe something.
        schema: JSON schema of JSON answers.
        teacher: This section of task.yaml; None without one.
    """

    reading: Reading
    choice: Choice
    answers: Answers
    data: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    system_prompt: str = ""
    schema: dict[str, Any] | None = None
    teacher: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def spec(self) -> TaskSpec:
        """The spec of the draft, with every default."""
        output = {**self.output, **({"json_schema": self.schema} if self.schema is not None else {})}
        return spec_of(self.data, output, self.system_prompt)


def draft(
    files: Files,
    *,
    text: str | None = None,
    answer: str | Sequence[str] | None = None,
    encoding: str | None = None,
    sheet: str | None = None,
) -> tuple[Draft | None, list[Finding]]:
    """Draft a task from raw files, each (name, path). Columns, encoding and sheet are detected unless given.
    Several answers become one JSON object.
    Returns (the draft, or None if the files hold no recognisable task; every finding about them)."""
    reading, file_names = read_raw(files, encoding, sheet), listed([name for name, _ in files], 3)
    if errors(reading.problems):
        return None, reading.problems
    if not reading.rows:
        reading.refuse("no_rows", file_names, "no row could be read", "see the findings for each file")
        return None, reading.problems
    one_spelling(reading)
    answers = (answer,) if isinstance(answer, str) else tuple(answer or ())
    choice = choose(reading.rows, text, answers)
    if isinstance(choice, Refusal):
        rule, why, fix = "no_columns", choice.message, choice.fix
        if tags := word_tags(reading.rows):
            rule, fix = "word_tags", TAGGED_WORDS[1]
            why = f"the rows hold {TAGGED_WORDS[0]}: {' and '.join(tags)} are as long"
        reading.refuse(rule, file_names, why, fix)
        return None, reading.problems
    keys = keys_read([*choice.fields.values(), *(choice.chat.columns if choice.chat else ())])
    objects = [row.value for row in reading.rows if isinstance(row.value, dict)]
    if noted := [key for key in sorted(keys) if any(names.holds_internal(value.get(key)) for value in objects)]:
        message = f"{' and '.join(noted)} has notes among colleagues, which a model would learn to write"
        fix = "remove these elements, or name other columns with --text COLUMN --answer COLUMN"
        reading.refuse("internal_notes", file_names, message, fix)
        return None, reading.problems
    task = _with_answers(files, reading, choice)
    text_field, answer_field = ("text", "label") if "label" in choice.fields else ("prompt", "completion")
    has_label_columns = choice.fields.get(answer_field, "").startswith("join(")
    if task.answers.joined_by and text_field in choice.fields and not has_label_columns:
        label_list = f"to_string(split({choice.fields[answer_field]}, '{task.answers.joined_by}'))"
        others = {key: expression for key, expression in choice.fields.items() if key not in (text_field, answer_field)}
        mark = task.answers.joined_by
        choice = replace(choice, fields={"prompt": choice.fields[text_field], "completion": label_list, **others})
        task = _with_answers(files, reading, choice)
        task.notes.append(
            f"{choice.answer} holds several labels with `{mark}` between them: each answer is the list of them, in any order"
        )
    unread = [file for file in files if reading.counts[file[0]] and not any(_conversations([file], task))]
    documents = [file for file in unread if reading.counts[file[0]] == 1]
    if are_few(documents, files):  # the check names each
        unread = [file for file in unread if file not in documents]
        unreadable = {fault.place for fault in reading.bad_documents}
        if unlike := [name for name, _ in documents if name not in unreadable]:
            note = f"{len(unlike):,} of {len(files):,} files hold a row unlike the others, which goes into quarantine"
            task.notes.append(f"{note}: {listed(unlike, 3)}")
    if unread:  # report why, once for each rule
        rows = list(_validated(unread, task.data, prompt=task.system_prompt or "-"))
        counts = Counter(rule for row in rows for rule in {f.rule for f in errors(row.findings)})
        fault_by_rule = {f.rule: f for row in reversed(rows) for f in reversed(errors(row.findings))}
        share_of_rows = f"of {len(rows):,} rows looked at have this fault"
        faults = ((fault_by_rule[rule], f"{n:,} {share_of_rows}") for rule, n in counts.most_common())
        if len(unread) < len(files):
            message = "no row can be read like those of the other files"
            fix = "leave the file out, make a task of its own of it, or give all files the same columns"
            reading.refuse("files_differ", listed([name for name, _ in unread], 3), message, fix)
        return None, [*reading.problems, *(replace(f, message=f"{f.message}; {share}") for f, share in faults)]
    if rejected := [key for key in _DISLIKED if any(key in value for value in objects)]:
        note = f"{' and '.join(rejected)}: no example, but a copy of the file in preferences/ of the task's folder lets a second"
        task.notes.append(f"{note} stage of training learn what people dislike (`finetune docs preferences`)")
    if group := task.data.get("fields", {}).get("group"):
        note = f"rows with the same {group} stay in one split, as `group`; to switch it off, remove `group` from data.fields"
        task.notes.append(note)
    if task.answers.problem:
        reading.refuse("answers", file_names, task.answers.problem, "name another: --answer COLUMN")
        return None, reading.problems
    task.output, task.schema = _output(task.answers)
    task.system_prompt = task.system_prompt or _prompt(task)
    if missing := task.answers.missing:
        shown = ", ".join(f"{quoted(value)} × {n:,}" for value, n in missing.items())
        note = "they are drafted as values of their fields. An empty cell or null in the file makes the field null"
        if task.answers.kind == "labels":
            limit = f"at most data.max_quarantine_share, {task.spec.data.max_quarantine_share:.0%}, of the rows"
            note = "they are drafted as labels. To leave these rows out, take them from output.labels and system_prompt"
            note += f" in task.yaml: they go into quarantine then ({limit})"
        task.notes.append(f"answers that look like no answer: {shown}; {note}")
    return task, reading.problems


def _with_answers(files: Files, reading: Reading, choice: Choice) -> Draft:
    """Draft a task with the chosen columns, and read all its answers."""
    task = _with_fields(files, reading, choice)
    samples = [[m for m in messages if m["role"] != "system"] for messages in _conversations(files, task, _ROWS_TRIED)]
    # the last answer of a long conversation is no label, nor is a tool call
    is_free_text = [len(turns) > 2 or "tool_calls" in turns[-1] for turns in samples if choice.chat]
    written = sum(is_free_text) > len(samples) / 2
    task.answers = Answers((_answer_text(messages[-1]) for messages in _conversations(files, task)), written=written)
    return task


def _with_fields(files: Files, reading: Reading, choice: Choice) -> Draft:
    """Draft a task with the chosen columns, without fields that the formats detect by themselves."""
    task = Draft(reading, choice, Answers(()), notes=[*reading.notes, *choice.notes])
    if choice.chat:
        return _with_chat(files, task, choice.chat)
    declared = _merge_fields(reading.data, choice.fields)
    detected = _merge_fields(reading.data, {k: v for k, v in choice.fields.items() if k in ("each", "group")})
    csv = {k: v for k, v in detected.pop("csv", {}).items() if k != "header"}
    detected = {**({"csv": csv} if csv else {}), **detected}
    by_fields, by_format = ([row.example for row in _validated(files, data)] for data in (declared, detected))
    pairs = [(a, b) for a, b in zip(by_fields, by_format, strict=False) if a is not None]
    agree = [b and a.answer == b.answer and a.user_text in b.user_text for a, b in pairs]  # a format may read more text
    is_detected = len(by_fields) == len(by_format) and len(agree) > 0 and all(agree)
    task.data = detected if is_detected else declared
    return _with_unused(files, task) if is_detected else task


def _merge_fields(data: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    merged = {**data.get("fields", {}), **fields}
    return {**{k: v for k, v in data.items() if k != "fields"}, **({"fields": merged} if merged else {})}


def _validated(
    files: Files, data: Mapping[str, object], limit: int | None = _ROWS_TRIED, prompt: str = "-"
) -> Iterator[ValidatedRow]:
    """Validate the first rows of every file under these settings."""
    spec = spec_of({**data, "inject": True}, prompt=prompt)
    mapping = mapping_of(spec)
    for name, path in files:
        records = (r for r in read_records(path, name, spec) if r.about != "file")
        for record in islice(records, limit):
            yield from validate_record(record, name, spec, mapping)


def _with_chat(files: Files, task: Draft, chat: Chat) -> Draft:
    """Complete the draft of a conversation task: its roles and its system prompt."""
    data = _merge_fields(task.reading.data, chat.fields)
    if chat.roles:
        data["roles"] = dict(chat.roles)
    sample = task.reading.rows[:: max(1, len(task.reading.rows) // _ROWS_TRIED)]
    system_turns = Counter(_system_turns(sample, data))
    common_turn, common_rows = system_turns.most_common(1)[0] if system_turns else ("", 0)
    if system_turns and common_rows >= _CONSTANT_SHARE * len(sample):
        task.system_prompt = common_turn
        task.notes.append("the system prompt is taken from the conversations")
    elif system_turns:
        note = "not all conversations start with the same system turn"
        task.notes.append(f"{note}; the task's system prompt replaces them")
        if chat.whole is not None:
            task.data = {**_merge_fields(data, chat.whole), "inject": True}
            return _with_unused(files, task)
        objects = [row.value for row in sample if isinstance(row.value, dict)]
        tools = {"tools": "tools"} if any("tools" in value for value in objects) else {}
        messages, speaker = chat.columns[0], chat.speaker
        if "messages" in chat.fields:
            messages, speaker = f"{chat.fields['messages']} | ", "role"
        data = _merge_fields(data, {"messages": f"{messages}[?{speaker} != 'system']", **tools})
        data["fields"].pop("system", None)
    task.data = {**data, "inject": True}
    return _with_unused(files, task)


def _with_unused(files: Files, task: Draft) -> Draft:
    """Keep only the columns in `choice.unused` that validation also reports as unread."""
    ignored = {key for row in _validated(files, task.data) for key in row.ignored}
    unused = [path for path in task.choice.unused if key_name(path.strip('"')) in ignored]
    task.choice = replace(task.choice, unused=unused)
    return task


def _system_turns(rows: Sequence[RawRow], data: Mapping[str, object]) -> Iterator[str]:
    """Yield the system turns of the conversations that start with one."""
    spec = spec_of(data)
    mapping = mapping_of(spec)
    for key, value in rows:
        row = mapping.apply(value, "", key, "")[0].row if mapping else value
        turns = read_turns(row, spec, "") if isinstance(row, dict) else None
        if turns and turns.chat and turns.messages and turns.messages[0]["role"] == "system":
            yield turns.messages[0]["content"]


def _conversations(files: Files, task: Draft, limit: int | None = None) -> Iterator[list[Message]]:
    """Yield the messages of all examples, or of the first `limit` of each file."""
    unlimited = {**task.data, "max_chars": 1 << 30, "min_chars": 0}
    rows = _validated(files, unlimited, limit, task.system_prompt or "-")
    yield from (row.example.messages for row in rows if row.example is not None)


def _answer_text(message: Message) -> str:
    """Return the text of an answer, or its tool calls if it has no text."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return message["content"] or "\n".join(f"{call['name']}({call['arguments']})" for call in calls)


def _output(answers: Answers) -> tuple[dict[str, object], dict[str, object] | None]:
    """Return (section `output` of task.yaml, JSON schema of JSON answers)."""
    if answers.kind == "labels":
        return {"kind": "labels", "labels": list(answers.labels)}, None
    if answers.kind == "json":
        schema = json_schema_of(answers.values, answers.rows)
        unordered = {"unordered": [""]} if answers.are_label_sets and "enum" in schema.get("items", {}) else {}
        written = {"kind": "json", "json_schema": "schema.json", **unordered}
        return {**written, "max_new_tokens": answers.max_new_tokens}, schema
    extract = {"extract": answers.extract} if answers.extract else {}
    return {"kind": "text", "max_new_tokens": answers.max_new_tokens, **extract}, None


def _prompt(task: Draft) -> str:
    """Draft the system prompt, with STUB wherever a person has to describe something."""
    answers, schema = task.answers, task.schema or {}
    if answers.kind == "labels":
        lines = [f"{label}: {STUB}" for label in answers.labels]
        return "\n".join(["Classify the text. Answer with exactly one of these labels and nothing else.", *lines])
    if answers.kind == "json" and "items" in schema:
        labels = schema["items"].get("enum", ())
        listed = "all of these that fit" if labels else f"{STUB}: what it lists"
        first = f"Read the text. Answer with a JSON list and nothing else, {listed}."
        return "\n".join([first, *(f"{label}: {STUB}" for label in labels)])
    if answers.kind == "json":
        lines = [f"{key}: {STUB} ({_types(part)})" for key, part in schema.get("properties", {}).items()]
        return "\n".join(["Read the text. Answer with one line of JSON and nothing else, with these keys:", *lines])
    addressee = "the user" if task.choice.chat else "the request"
    return f"Answer {addressee}. {STUB}: whom you speak for, what a good answer holds, how long it is."


def _types(part: Mapping[str, Any]) -> str:
    if "enum" in part:
        return "one of " + ", ".join(json.dumps(v, ensure_ascii=False) for v in part["enum"])
    kinds = part.get("type", "any value")
    return kinds if isinstance(kinds, str) else " or ".join(kinds)
