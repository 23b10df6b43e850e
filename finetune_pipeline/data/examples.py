"""The canonical example, which every step after validation reads, and files of examples.

The test split's file is sealed: only the step that records its opening can read it. It is a marker line and the rows,
encrypted with AES-SIV (RFC 5297). AES-SIV is deterministic, so the same split gives the same bytes. The key is derived from
the store's key file. The seal protects against code that trains on the test or selects by it by mistake. It does not protect
against somebody who has access to the store and wants to read the test.
"""

import hashlib
import hmac
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from msgspec import field

from finetune_pipeline.data.json_lines import read_blocks_of_lines, write_rows
from finetune_pipeline.data.quoting import quoted

EXAMPLES = "examples.jsonl"
SPLIT_FILES = {"train": "train/examples.jsonl", "validation": "validation/examples.jsonl", "test": "test/sealed.jsonl"}
"""File of each split in a splits artifact."""
ROLES = ("system", "user", "assistant", "tool")
ORIGINS = ("human", "production", "synthetic")
SAMPLE = 20_000
"""Number of rows that costly analyses sample."""
SEALED_MARK = b"finetune: sealed test rows\n"


class CalledFunction(TypedDict):
    """The function that a call names, with its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call of a tool, in OpenAI's form."""

    id: NotRequired[str]
    type: str
    function: CalledFunction


class Tool(TypedDict):
    """A tool that the assistant may call, in OpenAI's form; function: its name, and whatever else the user wrote."""

    type: str
    function: dict[str, Any]


class Message(TypedDict):
    """One chat turn. role: one of ROLES. Unused keys are absent.

    tool_calls, weight (0: no loss): of an assistant's turn; tool_call_id, name: of a tool's turn.
    """

    role: str
    content: str
    tool_calls: NotRequired[list[ToolCall]]
    weight: NotRequired[int]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """One training row. `tools`, `time` and `generator` are written only if they are set.

    Attributes:
        id: 16 hex digits of the original content; unchanged by scrubbing and relabelling.
        label: The answer of a label task, else None.
        group: Rows of one group share a split.
        origin: One of ORIGINS.
        source: File and line.
        tools: Functions the assistant may call, in OpenAI's form.
        time: Creation time (RFC 3339).
        generator: Model or program that wrote a synthetic row.
    """

    id: str
    messages: list[Message]
    label: str | None = field(default_factory=lambda: None)  # unlike a default, this is always written
    group: str | None = field(default_factory=lambda: None)
    origin: str = field(default_factory=lambda: "human")
    source: dict[str, Any] = field(default_factory=lambda: {})
    tags: list[str] = field(default_factory=lambda: [])
    tools: list[Tool] | None = None
    time: str | None = None
    generator: str | None = None

    @property
    def user_text(self) -> str:
        """All user turns, joined by newlines."""
        return "\n".join(m["content"] for m in self.messages if m["role"] == "user")

    @property
    def answer(self) -> str:
        return self.messages[-1]["content"]

    @property
    def prompt_messages(self) -> list[Message]:
        return self.messages[:-1]

    @property
    def place(self) -> str:
        return place_of(self.source)

    @property
    def made_from(self) -> str:
        """The row's source: its group (dialogue, customer, document, seed of a synthetic row), else its line of the raw file,
        which may hold several rows."""
        if self.group is not None:
            return f"group {self.group}"
        has_place = self.source.get("file") is not None and self.source.get("line") is not None
        return self.place if has_place else f"row {self.id}"


def place_of(source: Mapping[str, object]) -> str:
    """Return ``file:line`` of a source, with the row's number in a one-line document, and the sheet if several are read."""
    within = "".join([f", {key} {quoted(source[key])}" for key in ("item", "sheet") if key in source])
    return f"{source.get('file', '?')}:{source.get('line', '?')}{within}"


def example_id(messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> str:
    """Return the first 16 hex digits of the SHA-256 of the messages' canonical JSON (NFC, stripped). Roles, contents, tool
    calls and tools count; weights and call ids do not."""
    hashed: list[Any] = [[m["role"], unicodedata.normalize("NFC", m["content"].strip())] for m in messages]
    for turn, m in zip(hashed, messages, strict=True):
        if calls := m.get("tool_calls"):
            turn.append([[c["function"]["name"], c["function"]["arguments"]] for c in calls])
    if tools:
        hashed.append(list(tools))
    try:
        # msgspec gives the same bytes faster, except for numbers (only tools hold them); it refuses lone surrogates
        canonical = _CANONICAL.encode(hashed).encode("utf-8") if tools else msgspec.json.encode(hashed)
    except UnicodeEncodeError:
        canonical = _CANONICAL.encode(hashed).encode("utf-8", "surrogatepass")
    return hashlib.sha256(canonical).hexdigest()[:16]


def hash_order(name: str, salt: str) -> int:
    """Return a number in [0, 2^64) that depends only on name and salt. So new rows do not change the order of the others."""
    return int.from_bytes(hashlib.blake2b(f"{salt}\n{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest())


def sample_examples(examples: Sequence[Example], limit: int = SAMPLE, salt: str = "quality") -> list[Example]:
    """Sample up to `limit` examples: those whose ids have the smallest hashes, in their original order."""
    if len(examples) <= limit:
        return list(examples)
    order = sorted(range(len(examples)), key=lambda i: (hash_order(examples[i].id, salt), i))
    return [examples[i] for i in sorted(order[:limit])]


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write an examples file. Returns the number of rows."""
    return write_rows(path, examples)


def decode_examples(data: bytes, place: str = "") -> list[Example]:
    """Decode complete lines of canonical JSON. Raises ValueError naming `place` and the row of a bad one."""
    try:
        examples = _DECODER.decode_lines(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        examples = []
        for number, line in enumerate(data.splitlines(), 1):
            try:
                examples += _DECODER.decode_lines(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise ValueError(f"{place}: row {number} is not a canonical example: {error}") from error
    for number, example in enumerate(examples, 1):
        if not example.messages:
            raise ValueError(f"{place}: row {number} is not a canonical example: it has no messages")
        for message in example.messages:
            if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
                raise ValueError(f"{place}: row {number} is not a canonical example: its messages are not text")
    return examples


def examples_file(path: Path) -> Path:
    """Return the examples file at `path`: itself, or the one in an artifact's folder. Raises FileNotFoundError."""
    file = path / EXAMPLES if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{path} is neither an examples file nor a folder containing {EXAMPLES}")
    return file


def examples_of(splits: Path, name: str) -> Path:
    """Return the file with the rows of a split. Raises FileNotFoundError naming what is missing."""
    file = splits / SPLIT_FILES[name]
    if not file.is_file():
        raise FileNotFoundError(f"{splits} has no rows for the split {name!r}")
    return file


class SealedError(PermissionError):
    """The sealed test was read without permission or with the wrong key."""


def seal_key(store_key: bytes) -> bytes:
    """Derive the 64-byte key of the sealed test from the store's key."""
    return hmac.new(store_key, b"finetune_pipeline sealed test", hashlib.sha512).digest()


def seal(rows: bytes, key: bytes) -> bytes:
    """Encrypt the rows of the test split. No rows give an empty file."""
    return SEALED_MARK + AESSIV(key).encrypt(rows, [SEALED_MARK]) if rows else b""


def unseal(data: bytes, key: bytes) -> bytes:
    """Decrypt the rows of a sealed file. Raises SealedError if it is not sealed, damaged, or sealed with another key."""
    if not data:
        return b""
    if not data.startswith(SEALED_MARK):
        raise SealedError("this is not a sealed test, or it was damaged")
    try:
        return AESSIV(key).decrypt(data[len(SEALED_MARK) :], [SEALED_MARK])
    except (InvalidTag, ValueError) as error:
        raise SealedError(
            "the sealed test was damaged, or sealed with another key: restore the store's key file, or make the splits again"
        ) from error


def stream_examples(path: Path) -> Iterator[Example]:
    """Read the examples of a file or of an artifact's folder, in order and block by block. Raises SealedError for the sealed
    test, and ValueError naming file and row of anything that is not a canonical example."""
    file = examples_file(path)
    for block in read_blocks_of_lines(file):
        if block.startswith(SEALED_MARK):
            raise SealedError(
                f"{file} is the sealed test. Only test_predictions opens it, on the record; nothing may be trained on it, "
                "chosen by it or shown from it. Use the train or validation split."
            )
        yield from decode_examples(block, str(file))


def read_examples(path: Path) -> list[Example]:
    """Read all examples of a file or of an artifact's folder, in order. Raises as :func:`stream_examples`."""
    return list(stream_examples(path))


_DECODER = msgspec.json.Decoder(Example)
_CANONICAL = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
