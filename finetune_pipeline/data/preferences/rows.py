"""Preference rows: what people like and dislike, and the readers of their raw forms.

A row has a prompt and the answer that is liked, the one that is disliked, or both (a pair). Raw forms:

- TRL's pairs, also read by others: `prompt`, `chosen`, `rejected`, as text or turns; without `prompt`, two conversations that
  differ in their last turn;
- TRL's rows for KTO: `prompt`, `completion`, and `label` true or false;
- OpenAI's pairs: `input` of `messages`, `preferred_output`, `non_preferred_output`.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from finetune_pipeline.data.examples import Example, Message, example_id, place_of
from finetune_pipeline.data.formats.base import Turns, chosen_text, read_turns
from finetune_pipeline.data.json_lines import decode_line, digest_files, read_rows
from finetune_pipeline.data.quoting import keys_shown, quoted, row_finding
from finetune_pipeline.data.readers.any_file import read_records
from finetune_pipeline.data.readers.records import Record
from finetune_pipeline.data.validate.row_rules import (
    check_roles,
    check_row,
    check_size,
    check_system_prompt,
    check_texts,
    final_messages,
)
from finetune_pipeline.faults import visible_files
from finetune_pipeline.findings import Finding, errors
from finetune_pipeline.spec.model import TaskSpec

FOLDER = "preferences"
"""Folder of a task with files of preferences."""
FORMS = '{"prompt": …, "chosen": …, "rejected": …} or {"prompt": …, "completion": …, "label": true or false}'


class Preference(msgspec.Struct, frozen=True, omit_defaults=True):
    """What people said about answers to one prompt: at least one of `chosen` (liked) and `rejected` (disliked).

    Attributes:
        id: 16 hex digits of prompt and answers.
        prompt: The turns before the answer, with the system prompt.
        origin: human (files of preferences) or production (logs).
        log: The id of the log row that it comes from.
        versions: Of a reviewer's comparison, the models that wrote the liked and the disliked answer.
    """

    id: str
    prompt: list[Message]
    chosen: str | None = None
    rejected: str | None = None
    origin: str = "human"
    source: dict[str, Any] = msgspec.field(default_factory=dict)
    group: str | None = None
    log: str | None = None
    versions: tuple[str, str] | None = None

    @property
    def user_text(self) -> str:
        """All user turns, joined by newlines."""
        return "\n".join(m["content"] for m in self.prompt if m["role"] == "user")

    @property
    def answers(self) -> list[tuple[str, bool]]:
        """Each answer, and whether it is liked."""
        both = ((self.chosen, True), (self.rejected, False))
        return [(text, liked) for text, liked in both if text is not None]

    @property
    def is_pair(self) -> bool:
        return len(self.answers) == 2

    @property
    def place(self) -> str:
        return place_of(self.source)

    def example(self, liked: bool) -> Example:
        """The prompt with one of its answers, as an example that teaches this answer only. Its id is followed by the side."""
        answer = self.chosen if liked else self.rejected
        messages = [turn.copy() for turn in self.prompt]
        for turn in messages:
            if turn["role"] == "assistant":
                turn["weight"] = 0
        messages.append({"role": "assistant", "content": str(answer)})
        side = "chosen" if liked else "rejected"
        return Example(f"{self.id}-{side}", messages, group=self.group, origin=self.origin, source=self.source)


def preference(prompt: list[Message], chosen: str | None, rejected: str | None, **more: Any) -> Preference:
    """Return a preference row with its id."""
    answers: list[Message] = [{"role": "chosen", "content": chosen}] if chosen is not None else []
    answers += [{"role": "rejected", "content": rejected}] if rejected is not None else []
    return Preference(example_id([*prompt, *answers]), prompt, chosen, rejected, **more)


class Read(NamedTuple):
    """A raw row as read: None if its findings hold an error. is_row: False for findings about a whole file."""

    preference: Preference | None
    findings: list[Finding]
    is_row: bool = True


def preference_files(folder: Path) -> list[tuple[str, Path]]:
    """Return (name, path) of a task's files of preferences. folder: the task's."""
    return [(f"{FOLDER}/{name}", path) for name, path in visible_files(folder / FOLDER)]


def preferences_digest(folder: Path) -> str:
    """Return the hex SHA-256 over names and content of a task's files of preferences; empty without any."""
    files = preference_files(folder)
    return digest_files(files) if files else ""


def read_made(path: Path) -> list[Preference]:
    """Read the rows of a file that this pipeline wrote. Raises DamagedFile."""
    return [msgspec.convert(row, Preference) for row in read_rows(path)]


def read_preferences(path: Path, file: str, spec: TaskSpec) -> Iterator[Read]:
    """Read and check the rows of a file of any type that raw files may have. file: the name used as the rows' source."""
    for record in read_records(path, file, spec):
        yield _read_record(record, file, spec)


def _read_record(record: Record, file: str, spec: TaskSpec) -> Read:
    source: dict[str, object] = {"file": file, "line": record.line}
    if record.item is not None:
        source["item"] = record.item
    place, findings, value = place_of(source), list(record.findings), record.value
    if record.encoded:
        value, problems, _ = decode_line(record.raw, place, record.at)
        findings += problems
    if errors(findings) or record.about == "file":
        return Read(None, findings, record.about != "file")
    if not isinstance(value, dict):
        message = f"the row is {quoted(value)}, not an object"
        return Read(None, [*findings, row_finding("not_an_object", place, message, f"write {FORMS}")])
    read = read_row(value, spec, source)
    return Read(read.preference, [*findings, *read.findings])


def read_row(row: Mapping[str, object], spec: TaskSpec, source: dict[str, object]) -> Read:
    """Read and check one raw row, in whichever form it is."""
    place = place_of(source)
    sides = _sides(row)
    if isinstance(sides, str):
        return Read(None, [row_finding("not_a_preference", place, sides, f"write {FORMS}")])
    findings: list[Finding] = []
    prompts: list[list[Message]] = []
    answers: dict[bool, str] = {}
    for liked, raw in sides.items():
        turns = read_turns(raw, _any_format(spec), place)
        problems = [*turns.findings, *_check(raw, turns, spec, place, liked)]
        findings += [f for f in problems if f not in findings]  # both sides have the same prompt
        if errors(problems):
            continue
        *prompt, answer = final_messages(turns, spec)
        if answer.get("tool_calls") or turns.tools:
            message = "preferences about calls of tools are not supported"
            findings.append(row_finding("unsupported_key", place, message, "remove the row"))
        prompts.append(prompt)
        answers[liked] = answer["content"]
    if len(prompts) == 2 and prompts[0] != prompts[1]:
        message = "`chosen` and `rejected` answer different prompts"
        findings.append(row_finding("different_prompts", place, message, "pair two answers to the same prompt"))
    if errors(findings):
        return Read(None, findings)
    group = row.get("group") if isinstance(row.get("group"), str) else None
    return Read(preference(prompts[0], answers.get(True), answers.get(False), source=source, group=group), findings)


def _check(raw: dict[str, object], turns: Turns, spec: TaskSpec, place: str, liked: bool) -> list[Finding]:
    """Check a side like a supervised row; a disliked answer need not be in the declared form."""
    if liked:
        return check_row(raw, turns, spec, place)
    rules = (check_roles(turns), check_system_prompt(turns, spec), check_size(turns, spec), check_texts(turns))
    return [row_finding(rule, place, message, fix) for rule, message, fix in chain(*rules)]


def _any_format(spec: TaskSpec) -> TaskSpec:
    return spec.model_copy(update={"data": spec.data.model_copy(update={"format": "auto"})})


def _sides(row: Mapping[str, object]) -> dict[bool, dict[str, object]] | str:
    """Return the sides of a raw row (True: liked), each as a raw row of the registered formats; or what is wrong."""
    if "preferred_output" in row or "non_preferred_output" in row:
        asked = row.get("input")
        messages = asked.get("messages") if isinstance(asked, dict) else None
        outputs = {True: row.get("preferred_output"), False: row.get("non_preferred_output")}
        if messages is None or None in outputs.values():
            return "an OpenAI row needs `input.messages`, `preferred_output` and `non_preferred_output`"
        return {liked: _with_answer(messages, output) for liked, output in outputs.items()}
    if "chosen" in row or "rejected" in row:
        outputs = {True: row.get("chosen"), False: row.get("rejected")}
        if None in outputs.values():
            return "a pair needs both `chosen` and `rejected`"
        if row.get("prompt") is not None:
            return {liked: _with_answer(row["prompt"], output) for liked, output in outputs.items()}
        if all(isinstance(output, list) for output in outputs.values()):
            return {liked: {"messages": output} for liked, output in outputs.items()}
        return "the pair has no `prompt`"
    if {"prompt", "completion", "label"} <= row.keys():
        if not isinstance(row["label"], bool):
            return f"`label` must be true (liked) or false (disliked), found {quoted(row['label'])}"
        return {row["label"]: _with_answer(row["prompt"], row["completion"])}
    return f"the row is no preference (keys: {keys_shown(dict(row))})"


def _with_answer(prompt: Any, answer: Any) -> dict[str, object]:
    """Return a prompt, as text or as turns, with an answer as a raw row."""
    if isinstance(prompt, list):
        return {"messages": [*prompt, {"role": "assistant", "content": chosen_text(answer)}]}
    return {"prompt": prompt, "completion": chosen_text(answer)}
