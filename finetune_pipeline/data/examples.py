"""The canonical example: one training row, as every stage after validation sees it."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune_pipeline.data.json_lines import read_rows, write_rows

ORIGINS = ("human", "production", "synthetic")
Message = dict[str, str]


@dataclass(frozen=True)
class Example:
    """One row to learn from.

    id: 16 hex digits from the content as it came in (it survives scrubbing and relabelling); messages: chat turns, the
    last one by the assistant; label: the answer of a label task, else None; group: rows of one group share a split;
    origin: who made it; source: file and line; tags: free words.
    """

    id: str
    messages: list[Message]
    label: str | None = None
    group: str | None = None
    origin: str = "human"
    source: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)

    @property
    def user_text(self) -> str:
        """All user turns, joined by newlines."""
        return "\n".join(m["content"] for m in self.messages if m["role"] == "user")

    @property
    def answer(self) -> str:
        """What the last assistant turn says."""
        return self.messages[-1]["content"]

    @property
    def prompt_messages(self) -> list[Message]:
        """The turns before the last assistant turn."""
        return self.messages[:-1]

    @property
    def place(self) -> str:
        """``file:line`` of the source."""
        return f"{self.source.get('file', '?')}:{self.source.get('line', '?')}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def example_id(messages: Sequence[Message]) -> str:
    """First 16 hex digits of the SHA-256 of the messages' canonical JSON (NFC, outer blanks off)."""
    plain = [[m["role"], unicodedata.normalize("NFC", m["content"].strip())] for m in messages]
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write an examples file. Returns the number of rows."""
    return write_rows(path, (e.to_dict() for e in examples))


def read_examples(path: Path) -> list[Example]:
    """Rows of an examples file, in file order.

    Raises ValueError naming file and row when a row is not a canonical example (such a file was not written by us).
    """
    examples = []
    for number, row in enumerate(read_rows(path), 1):
        try:
            example = Example(**row)
            sound = bool(example.messages) and all(
                isinstance(m["role"], str) and isinstance(m["content"], str) for m in example.messages
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"{path}: row {number} is not a canonical example: {error}") from error
        if not sound:
            raise ValueError(f"{path}: row {number} is not a canonical example: its messages are empty or not text")
        examples.append(example)
    return examples
