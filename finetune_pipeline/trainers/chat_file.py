"""Writes examples as a chat file for training services, and checks it against a service's rules.

Services report a bad file only after its upload, and some only after the purchase of a job.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_pipeline.data.examples import Example
from finetune_pipeline.findings import Finding

_BYTES_PER_TOKEN = 3
"""Fewer than in most texts (English has about four): estimates of tokens must not be too low."""
_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "weight")


@dataclass(frozen=True)
class FileRules:
    """A service's requirements for a file. most_tokens: limit per row, beyond which the service silently truncates; None:
    unknown. tools: whether rows may call tools."""

    service: str
    least_rows: int
    most_bytes: int
    most_tokens: int | None = None
    tools: bool = True


@dataclass(frozen=True)
class ChatFile:
    """A written file. tokens: conservative estimate for all rows."""

    path: Path
    rows: int
    tokens: int


def write_chat_file(path: Path, examples: Sequence[Example]) -> ChatFile:
    """Write one JSON object per line, {"messages": […], "tools": […]}, without ids, labels and sources."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = 0
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            tokens += _row_tokens(example)
            file.write(json.dumps(_row(example), ensure_ascii=False) + "\n")
    return ChatFile(path, len(examples), tokens)


def _row(example: Example) -> dict[str, object]:
    turns: Sequence[Mapping[str, object]] = example.messages
    messages = [{key: turn[key] for key in _MESSAGE_KEYS if turn.get(key) is not None} for turn in turns]
    return {"messages": messages, **({"tools": example.tools} if example.tools else {})}


def _row_tokens(example: Example) -> int:
    text = "".join(m["content"] for m in example.messages)
    functions = [example.tools, *(m.get("tool_calls") for m in example.messages)]
    text += "".join(json.dumps(function, ensure_ascii=False) for function in functions if function)
    return -(-len(text.encode()) // _BYTES_PER_TOKEN) + 4 * len(example.messages)


def file_findings(split: str, file: ChatFile, examples: Sequence[Example], rules: FileRules) -> list[Finding]:
    """Return a finding for everything in a file that the service would refuse or silently change, with line and source.
    examples: the rows of `file`, line by line."""
    findings = []
    least_rows = rules.least_rows if split == "train" else 1
    if file.rows < least_rows:
        message = f"{file.rows} rows; {rules.service} needs {least_rows} rows or more"
        findings.append(_finding("rows", f"the {split} split", message, "add rows, or set training.trainer: local"))
    if (size := file.path.stat().st_size) > rules.most_bytes:
        message = f"{size >> 20} MiB; {rules.service} takes files up to {rules.most_bytes >> 20} MiB"
        fix = "train on fewer rows, or set training.trainer: local"
        findings.append(_finding("size", f"the {split} split", message, fix))
    for line, example in enumerate(examples, 1):
        place = f"{split} file, line {line} (from {example.place})"
        findings += [_finding("row", place, message, fix) for message, fix in _row_problems(example, rules)]
    return findings


def _finding(rule: str, place: str, message: str, fix: str) -> Finding:
    return Finding(f"hosted.file_{rule}", "error", place, message, fix)


def _row_problems(example: Example, rules: FileRules) -> Iterator[tuple[str, str]]:
    """Yield (problem, fix) for unsupported parts of a row; validated_examples has checked turn order, weights and answers."""
    calls = example.tools or any(m["role"] == "tool" or m.get("tool_calls") for m in example.messages)
    if calls and not rules.tools:
        yield f"{rules.service} does not train this model on tool calls", "remove the row, or choose another model"
    for number, turn in enumerate(example.messages, 1):
        if turn["role"] == "tool" and not turn.get("tool_call_id"):
            yield f"message {number}: a tool message without tool_call_id", "correct or remove this row"
    if rules.most_tokens is not None and (tokens := _row_tokens(example)) > rules.most_tokens:
        message = f"about {tokens} tokens; {rules.service} truncates rows at {rules.most_tokens}"
        yield message, "shorten or remove this row"
