"""What later steps ask of a row, as columns: whole data sets are compared without decoding their texts again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from finetune_pipeline.data.array_files import Columns, array_file
from finetune_pipeline.data.examples import ORIGINS, Example, decode_examples
from finetune_pipeline.data.shingles import exact_form

ROW = np.dtype(
    [
        ("id", "<u8"),  # the example's id as a number
        ("prompt", "<u8"),  # what the user says, in exact form
        ("whole", "<u8"),  # all turns but the system's, in exact form
        ("answer", "<u8"),  # the last turn, in exact form
        ("group", "<u8"),  # the declared group; 0: none
        ("time", "<f8"),  # seconds since 1970; nan: none
        ("chars", "<u4"),  # characters of the user's turns
        ("line", "<u4"),  # of the raw file
        ("label", "<i4"),  # place in the spec's labels; -1: none
        ("origin", "<u1"),  # place in ORIGINS
        ("lost", "<u1"),  # why the row goes no further: see LOST
        ("start", "<u8"),  # where the row's line begins in the part's examples.jsonl, in bytes
        ("end", "<u8"),  # and ends
    ]
)
LOST = ("", "personal_data", "benchmark")


def hash_text(text: str) -> int:
    """The first 64 bits of the text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def prompt_hash(user_text: str) -> int:
    """64-bit name of what a user says (exact form): equal for rows that ask the same, whatever the answer is."""
    return hash_text(exact_form(user_text))


def group_hash(group: str | None) -> int:
    """64-bit name of a declared group; 0 for none."""
    return (hash_text(group) or 1) if group else 0


def seconds(time: str | None) -> float:
    """Seconds since 1970 of an RFC 3339 time; nan for none."""
    return datetime.fromisoformat(time).timestamp() if time else float("nan")


def columns_of(examples: Sequence[Example], lines: Sequence[bytes], labels: Sequence[str]) -> np.ndarray:
    """The columns (ROW, shape [n]) of examples and of their encoded lines."""
    rows = np.zeros(len(examples), ROW)
    ranks = {label: i for i, label in enumerate(labels)}
    origins = {name: i for i, name in enumerate(ORIGINS)}
    made = []
    at = 0
    for example, line in zip(examples, lines, strict=True):
        forms = [(m["role"], exact_form(m["content"]), m) for m in example.messages if m["role"] != "system"]
        prompt = " ".join(form for role, form, _ in forms if role == "user" and form)
        whole = "\n".join(f"{role}:{form}{_calls(m)}" for role, form, m in forms)
        users = [m["content"] for m in example.messages if m["role"] == "user"]
        made.append(
            (
                int(example.id, 16),
                hash_text(prompt),
                hash_text(whole),
                hash_text(forms[-1][1]) if forms else 0,
                group_hash(example.group),
                seconds(example.time),
                sum(map(len, users)) + max(0, len(users) - 1),
                min(int(example.source.get("line") or 0), 2**32 - 1),
                ranks.get(example.label or "", -1),
                origins[example.origin],
                0,
                at,
                at + len(line),
            )
        )
        at += len(line)
    rows[:] = made
    return rows


def _calls(message: dict[str, object]) -> str:
    return f" {message['tool_calls']}" if message.get("tool_calls") else ""


@dataclass
class Table:
    """The rows of all parts of a stage: `rows` (columns of ROW, [n]), `part` (int32, [n]): which of `folders` a row stands in."""

    folders: list[Path]
    files: list[str]
    rows: Columns
    part: np.ndarray

    @classmethod
    def load(cls, folders: Sequence[Path], files: Sequence[str]) -> Table:
        """Read ``rows.npy`` of every part; `files`: the raw file each part comes from."""
        parts = [array_file(folder / "rows.npy") for folder in folders]
        part = np.repeat(np.arange(len(parts), dtype=np.int32), [len(file) for file in parts])
        return cls(list(folders), list(files), Columns(parts, ROW), part)

    def fetch(self, which: np.ndarray) -> list[Example]:
        """The examples of these rows (int64, [m]), in the order asked for."""
        return fetch(self.folders, self.part[which], self.rows["start"][which], self.rows["end"][which])

    def place(self, row: int) -> str:
        """``file:line`` of a row."""
        return f"{self.files[self.part[row]]}:{self.rows['line'][row]}"


def fetch(folders: Sequence[Path], part: np.ndarray, start: np.ndarray, end: np.ndarray) -> list[Example]:
    """The examples at these places of the parts' ``examples.jsonl``, in the order asked for."""
    found: list[Example | None] = [None] * len(part)
    order = np.lexsort((start, part))
    for number in np.unique(part):
        chosen = order[part[order] == number]
        path = folders[number] / "examples.jsonl"
        with path.open("rb") as handle:
            pieces = []
            for i in chosen:
                handle.seek(int(start[i]))
                pieces.append(handle.read(int(end[i]) - int(start[i])))
        for i, example in zip(chosen, decode_examples(b"".join(pieces), str(path)), strict=True):
            found[i] = example
    return [e for e in found if e is not None]
